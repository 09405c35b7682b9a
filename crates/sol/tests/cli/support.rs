//! The real program on a machine of its own: empty caches, no network, no terminal.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A path below the tiny checkpoints that `xtools/make_model_fixtures.py` made.
pub(crate) fn fixture(name: &str) -> String {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "sol-model", "tests", "data", name].iter().collect();
    path.into_os_string().into_string().unwrap()
}

/// What a run left behind.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A home directory that lasts as long as a test.
pub(crate) struct Machine {
    pub(crate) dir: tempfile::TempDir,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    /// `sol` with these arguments, in a directory where nothing is.
    pub(crate) fn sol(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sol"));
        let home = self.dir.path();
        command.args(args).current_dir(home).stdin(Stdio::null()).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HF_HUB_OFFLINE", "1");
        command.env("HOME", home).env("HF_HOME", home.join("hf")).env("SOLARIUM_HOME", home.join("own"));
        command.env("XDG_CACHE_HOME", home.join("cache")).env("XDG_STATE_HOME", home.join("state"));
        command
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Outcome {
        outcome(self.sol(args).output().unwrap())
    }

    /// Runs it with something on stdin.
    pub(crate) fn pipe(&self, input: &[u8], args: &[&str]) -> Outcome {
        let mut command = self.sol(args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        // A program that does not want its input closes the pipe.
        let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        outcome(output)
    }
}

/// All but the remark that a machine without AVX2 gets.
pub(crate) fn outcome(output: std::process::Output) -> Outcome {
    let stderr = String::from_utf8(output.stderr).unwrap();
    Outcome {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: stderr.split_inclusive('\n').filter(|line| !line.contains("portable kernels are used")).collect(),
    }
}

impl Outcome {
    /// The output of a run that went well.
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        self.stdout
    }

    /// The message of a run that did not: on stderr, one line, no panic.
    pub(crate) fn error(self) -> String {
        assert_eq!(self.code, Some(1), "{self:?}");
        assert_eq!(self.stdout, "");
        assert!(self.stderr.starts_with("sol: ") && self.stderr.trim_end().lines().count() == 1, "{}", self.stderr);
        self.stderr
    }
}
