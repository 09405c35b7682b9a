//! The hub client against a hub of its own on this machine: what arrives, what is asked, what is
//! refused, and what is left on disk.

mod cached;
mod dataset;
mod default_model;
mod download;
mod outline;
mod refusals;
mod server;

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use sol_hub::{Hub, HubConfig, ModelRef, PinnedModel, Progress, Result, Silent, Timeouts};

/// A machine with empty caches, and time limits for tests.
pub(crate) struct Machine {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) config: HubConfig,
}

impl Machine {
    pub(crate) fn new(endpoint: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = HubConfig {
            endpoint: endpoint.to_owned(),
            token: None,
            offline: false,
            hub_cache: dir.path().join("hub"),
            models_dir: dir.path().join("own/models"),
            pip: Vec::new(),
            use_proxy: false,
            timeouts: Timeouts {
                connect: Duration::from_millis(500),
                response: Duration::from_millis(300),
                stall: Duration::from_millis(300),
                backoff: Duration::from_millis(5),
                longest_pause: Duration::from_secs(1),
            },
            default_model: PinnedModel::default(),
        };
        Self { dir, config }
    }

    pub(crate) fn hub(&self) -> Hub {
        Hub::new(self.config.clone())
    }

    pub(crate) fn resolve(&self, model: &str) -> Result<PathBuf> {
        self.hub().resolve(&ModelRef::parse(model)?, &Silent)
    }

    /// The message of a failure.
    pub(crate) fn fail(&self, model: &str) -> String {
        match self.resolve(model) {
            Ok(path) => panic!("{model} gave {}", path.display()),
            Err(error) => error.to_string(),
        }
    }

    pub(crate) fn repo_dir(&self, repo: &str) -> PathBuf {
        self.config.hub_cache.join(format!("models--{}", repo.replace('/', "--")))
    }

    /// Names in a directory of the repository's cache.
    pub(crate) fn names(&self, repo: &str, dir: &str) -> Vec<String> {
        names(&self.repo_dir(repo).join(dir))
    }
}

pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Writes down what it is told.
#[derive(Default)]
pub(crate) struct Recorder(Mutex<Vec<String>>);

impl Recorder {
    pub(crate) fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// Bytes that were reported as newly arrived.
    pub(crate) fn advanced(&self) -> u64 {
        let number = |line: &String| line.strip_prefix("advance ")?.parse::<u64>().ok();
        self.lines().iter().filter_map(number).sum()
    }
}

impl Progress for Recorder {
    fn start(&self, file: &str, total: Option<u64>, already: u64) {
        self.0.lock().unwrap().push(format!("start {file} {total:?} {already}"));
    }
    fn advance(&self, bytes: u64) {
        self.0.lock().unwrap().push(format!("advance {bytes}"));
    }
    fn finish(&self, file: &str) {
        self.0.lock().unwrap().push(format!("finish {file}"));
    }
    fn note(&self, message: &str) {
        self.0.lock().unwrap().push(format!("note {message}"));
    }
}
