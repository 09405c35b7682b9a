//! Runs Python that a model wrote, and says of each program what bigcode-evaluation-harness (0f3e95f) would.
//!
//! A program is `exec`ed in a fresh process, as the harness does it: an alarm of 3 s inside, an end by force after 4 s, no input
//! and no output, a list of functions taken away, passed if nothing is raised. The harness calls that no sandbox, and rightly;
//! so here the process also has namespaces of its own (mount: it sees the system's and Python's libraries, read-only, and one small
//! empty directory; network: none; processes: its own, which end with it), a user without rights, no environment, and limits.
//! What a machine can not enforce [`Sandbox::missing`] names, and nothing runs before that was asked of the machine.
//!
//! What stays open: memory is bounded for each process, not for a program's processes together; a program that walks the stack
//! of the Python it runs in can find the token that marks a verdict (in the harness it finds the list of results).
//!
//! `runner.py` is the half that is Python; `process.rs` speaks to it.

mod process;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use self::process::{Means, Namespaces, Python};
use crate::{Error, Result};

/// How programs are run. The defaults are the harness's where it has any; its programs have no limits.
#[derive(Clone, Debug)]
pub struct Options {
    /// The interpreter; `python3` of the search path otherwise.
    pub python: Option<PathBuf>,
    /// Programs that run at the same time.
    pub workers: usize,
    /// When the alarm rings inside a program. A second later it is ended by force.
    pub timeout: Duration,
    /// Bytes of address space of each process of a program.
    pub memory: u64,
    /// Processes and threads of a program.
    pub processes: u64,
    /// Bytes in a program's directory, and in each file.
    pub disk: u64,
    /// Files that a process has open.
    pub files: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            python: None,
            workers: 4,
            timeout: Duration::from_secs(3),
            memory: 4 << 30,
            processes: 64,
            disk: 64 << 20,
            files: 256,
        }
    }
}

/// What became of a program. Displayed, it is the harness's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It ran to its end.
    Passed,
    /// It ran too long, or its process ended without a word.
    TimedOut,
    /// It raised something: the message of that, cut at 16 KiB.
    Failed(String),
}

impl Verdict {
    /// Whether the program ran to its end.
    pub fn passed(&self) -> bool {
        *self == Self::Passed
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Passed => f.write_str("passed"),
            Self::TimedOut => f.write_str("timed out"),
            Self::Failed(message) => write!(f, "failed: {message}"),
        }
    }
}

/// A Python, and what keeps its programs from the rest of the machine.
pub struct Sandbox {
    options: Options,
    python: Python,
    means: Means,
    missing: Vec<String>,
}

/// Works only if the standard library can be read and the directory written to.
const TRIAL: &str = "import colorsys, statistics\nwith open('trial', 'w') as file: file.write('x')";

impl Sandbox {
    /// Finds Python, and the best means of isolation that work here: each is tried with a small program.
    pub fn new(options: Options) -> Result<Self> {
        if !cfg!(target_os = "linux") {
            let problem = "programs that a model wrote are run on Linux only: elsewhere nothing here can confine them".into();
            return Err(Error::Sandbox { problem });
        }
        let python = Python::find(options.python.as_deref())?;
        let mut refused = Vec::new();
        for means in Means::best_first(python.root()) {
            let problem = match process::run(&python, &options, means, TRIAL, &|| false) {
                Ok(Verdict::Passed) => {
                    let missing = missing(means, &python, refused.first().map(String::as_str).unwrap_or_default());
                    return Ok(Self { options, python, means, missing });
                }
                Ok(verdict) => format!("a trial program {verdict}"),
                Err(Error::Sandbox { problem }) => problem,
                Err(other) => return Err(other),
            };
            refused.push(problem);
        }
        let problem = format!("{} can run no program: {}", python.path().display(), refused.join("; "));
        Err(Error::Sandbox { problem })
    }

    /// What can not be enforced on this machine, a sentence each.
    pub fn missing(&self) -> Vec<String> {
        self.missing.clone()
    }

    /// Such as `3.11.7`. Messages of Python, and so verdicts, differ between versions; whether a program passes seldom does.
    pub fn python_version(&self) -> &str {
        self.python.version()
    }

    /// Runs programs, several at a time; verdicts are in their order. When `stop` says so, what runs is ended.
    pub fn run(&self, programs: &[String], stop: &(dyn Fn() -> bool + Sync)) -> Result<Vec<Verdict>> {
        let next = AtomicUsize::new(0);
        let failed = AtomicBool::new(false);
        let verdicts: Mutex<Vec<Option<Verdict>>> = Mutex::new(vec![None; programs.len()]);
        let stop = || failed.load(Ordering::Relaxed) || stop();
        let work = || -> Result<()> {
            while let Some((i, program)) = {
                let i = next.fetch_add(1, Ordering::Relaxed);
                programs.get(i).map(|program| (i, program))
            } {
                let verdict = process::run(&self.python, &self.options, self.means, program, &stop)
                    .inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
                verdicts.lock().unwrap_or_else(|poisoned| poisoned.into_inner())[i] = Some(verdict);
            }
            Ok(())
        };
        let mut errors = std::thread::scope(|scope| {
            let workers = self.options.workers.clamp(1, programs.len().max(1));
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            let ended = threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            ended.filter_map(Result::err).collect::<Vec<_>>()
        });
        // One that failed makes the others end as interrupted.
        if let Some(at) = errors.iter().position(|error| !matches!(error, Error::Interrupted)) {
            return Err(errors.swap_remove(at));
        }
        let verdicts = verdicts.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        verdicts.into_iter().collect::<Option<_>>().ok_or(Error::Interrupted)
    }
}

/// Sentences on what some means do not give; `refused` is why there are no better.
fn missing(means: Means, python: &Python, refused: &str) -> Vec<String> {
    if means.namespaces != Namespaces::None {
        return Vec::new();
    }
    let mut missing = vec![
        format!("no network namespace ({refused}): programs can reach the network"),
        "no mount namespace: programs can read every file that their user can, and write wherever it can".into(),
        "no process namespace: programs see other processes; one that detaches itself is looked for and ended, without guarantee"
            .into(),
        "no bounded directory: programs can write more, in many files, than the limit of one".into(),
    ];
    if python.root() && !means.drop {
        missing.push("no user without rights (it could not use this Python): programs run as root".into());
    } else if !python.root() {
        missing.push("no user of their own: programs can send signals to the processes of yours".into());
    }
    missing
}
