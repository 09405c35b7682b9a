//! One process of Python: which interpreter, and a job for `runner.py` from start to end.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Options, Verdict};
use crate::{Error, Result};

const RUNNER: &str = include_str!("runner.py");
/// Says who it is: its file, its version, its user.
const WHO: &str = "import json, os, sys; print(json.dumps([sys.executable, '%d.%d.%d' % sys.version_info[:3], os.geteuid()]))";
/// How often a caller is asked whether to stop.
const TICK: Duration = Duration::from_millis(20);
/// What starting Python and its end may take beyond a program's own time, on a machine that is very busy.
const GRACE: Duration = Duration::from_secs(30);
/// An answer has a message of 16 KiB, escaped.
const MAX_ANSWER: u64 = 1 << 20;

/// An interpreter that was found to work.
pub(super) struct Python {
    path: PathBuf,
    version: String,
    root: bool,
}

impl Python {
    /// Asks an interpreter, `python3` if none is given, who it is. Wrappers on the search path need an environment that programs do
    /// not get, so its own answer is what is run later.
    pub(super) fn find(given: Option<&Path>) -> Result<Self> {
        let asked = given.unwrap_or(Path::new("python3"));
        let hint = "programs that a model wrote need Python 3.8 or later: install python3, or name one";
        let failed = |why: &dyn std::fmt::Display| sandbox(format!("{} can not be run ({why}); {hint}", asked.display()));
        let output = Command::new(asked).args(["-I", "-c", WHO]).stdin(Stdio::null()).output().map_err(|e| failed(&e))?;
        let who: Value = serde_json::from_slice(&output.stdout).map_err(|_| failed(&output.status))?;
        let (Some(path), Some(version), Some(user)) = (who[0].as_str(), who[1].as_str(), who[2].as_u64()) else {
            return Err(failed(&"it does not know its own file"));
        };
        Ok(Self { path: path.into(), version: version.to_owned(), root: user == 0 })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Whether it runs as root.
    pub(super) fn root(&self) -> bool {
        self.root
    }
}

/// Where the namespaces of a program come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Namespaces {
    /// Root makes them.
    Root,
    /// A user namespace, in which anybody may.
    User,
    /// There are none.
    None,
}

/// What confines programs, beside limits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Means {
    pub(super) namespaces: Namespaces,
    /// Whether root becomes a user that no account has.
    pub(super) drop: bool,
}

impl Means {
    pub(super) fn best_first(root: bool) -> Vec<Self> {
        let all = [(Namespaces::Root, true), (Namespaces::User, false), (Namespaces::None, true), (Namespaces::None, false)];
        let all = all.into_iter().map(|(namespaces, drop)| Self { namespaces, drop });
        all.filter(|means| root || !means.drop).collect()
    }
}

fn sandbox(problem: String) -> Error {
    Error::Sandbox { problem }
}

/// Runs a program. Whatever comes of it, its processes and its directory are gone afterwards.
pub(super) fn run(python: &Python, options: &Options, means: Means, program: &str, stop: &dyn Fn() -> bool) -> Result<Verdict> {
    if stop() {
        return Err(Error::Interrupted);
    }
    let directory = tempfile::Builder::new().prefix("sol-program-").tempdir();
    let directory = directory.map_err(|source| Error::Io { path: std::env::temp_dir(), source })?;
    let answer = answer(python, options, means, program, stop, directory.path());
    let path = directory.path().to_owned();
    directory.close().map_err(|source| Error::Io { path, source })?;
    let answer = answer?;
    if let Some(problem) = answer["error"].as_str() {
        return Err(sandbox(format!("a program could not be confined: {problem}")));
    }
    Ok(match answer["verdict"].as_str() {
        Some("passed") => Verdict::Passed,
        None | Some("timed out") => Verdict::TimedOut,
        Some(failed) => Verdict::Failed(failed.strip_prefix("failed: ").unwrap_or(failed).to_owned()),
    })
}

/// What the runner says of a program.
fn answer(
    python: &Python,
    options: &Options,
    means: Means,
    program: &str,
    stop: &dyn Fn() -> bool,
    directory: &Path,
) -> Result<Value> {
    let job = json!({
        "program": program,
        "namespaces": match means.namespaces {
            Namespaces::Root => "root",
            Namespaces::User => "user",
            Namespaces::None => "none",
        },
        "drop": means.drop,
        "timeout": options.timeout.as_secs_f64(),
        "memory": options.memory,
        "processes": options.processes,
        "disk": options.disk,
        "files": options.files,
    });
    let mut command = Command::new(&python.path);
    command.args(["-I", "-c", RUNNER]).current_dir(directory);
    command.env_clear().env("LC_ALL", "C.UTF-8").env("PATH", "/usr/local/bin:/usr/bin:/bin").env("OMP_NUM_THREADS", "1");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    // Its own group, so that an interrupt at the terminal comes to us, who end it in good order.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut child = command.spawn().map_err(|source| Error::Io { path: python.path.clone(), source })?;
    let heard = converse(&mut child, &job, options.timeout + GRACE, stop);
    // Without it the runner has nothing left to do; with it gone there is nothing to kill.
    let _ = child.kill();
    let status = child.wait().map_err(|source| Error::Io { path: python.path.clone(), source })?;
    serde_json::from_slice(&heard?).map_err(|_| sandbox(format!("{} ended without an answer ({status})", python.path.display())))
}

/// Gives the runner a job and waits for its answer. The runner ends all when its standard input closes, and so also when this
/// process is killed.
fn converse(child: &mut Child, job: &Value, time: Duration, stop: &dyn Fn() -> bool) -> Result<Vec<u8>> {
    let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(sandbox("Python was started without pipes".into()));
    };
    let (sender, answer) = channel();
    let reader = thread::Builder::new().name("sol-sandbox".into()).spawn(move || {
        let mut bytes = Vec::new();
        let _ = output.take(MAX_ANSWER).read_to_end(&mut bytes);
        let _ = sender.send(bytes);
    });
    reader.map_err(|e| sandbox(format!("no thread could be started: {e}")))?;
    // If it does not listen it has ended, and the answer says so by being empty.
    let _ = input.write_all(format!("{job}\n").as_bytes());
    let until = Instant::now() + time;
    loop {
        match answer.recv_timeout(TICK) {
            Ok(bytes) => return Ok(bytes),
            Err(RecvTimeoutError::Disconnected) => return Ok(Vec::new()),
            Err(RecvTimeoutError::Timeout) => {}
        }
        let stopped = stop();
        if stopped || Instant::now() >= until {
            drop(input);
            let _ = answer.recv_timeout(Duration::from_secs(5));
            return Err(match stopped {
                true => Error::Interrupted,
                false => sandbox(format!("Python did not answer within {time:?}; with fewer workers the machine may keep up")),
            });
        }
    }
}
