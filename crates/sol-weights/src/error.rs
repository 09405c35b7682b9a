//! What can be wrong with a checkpoint, said for the person who has to do something about it.

use std::io;
use std::path::{Path, PathBuf};

use crate::DType;

/// Why a checkpoint could not be opened, read or written.
///
/// Every message is complete by itself (the cause is part of the text, not a separate source).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("can not {action} {}: {cause}", path.display())]
    Io {
        /// What was tried, as a verb: "open", "map".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The path holds nothing that this crate reads.
    #[error("{}: not a checkpoint: {problem}", path.display())]
    NotACheckpoint {
        /// The file or directory.
        path: PathBuf,
        /// What was found and what would be accepted.
        problem: String,
    },
    /// The file is shorter than its own header says.
    #[error("{}: the file ends inside {what}: it needs {need} bytes and has {have}; download or copy it again", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The part that is cut off.
        what: String,
        /// Bytes the file would need at least.
        need: u64,
        /// Bytes the file has.
        have: u64,
    },
    /// The file is no longer what was opened; what was made of it before is not wrong.
    #[error("{}: the file changed while it was in use: {problem}; put the right file there and load the model again", path.display())]
    ChangedInUse {
        /// The file.
        path: PathBuf,
        /// What became of it.
        problem: String,
    },
    /// The header contradicts itself or the format.
    #[error("{}: {what}: {problem}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The part of the header: "metadata key `general.alignment`".
        what: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// One tensor's description is impossible.
    #[error("{}: tensor `{tensor}`: {problem}", path.display())]
    BadTensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// What is wrong and what to do.
        problem: String,
    },
    /// The parts of a checkpoint in several files do not make a whole.
    #[error("{}: {problem}", path.display())]
    Incomplete {
        /// The part or index that shows it.
        path: PathBuf,
        /// Which part is missing or does not belong.
        problem: String,
    },
    /// The tensor can be listed but its elements can not be decoded to the wanted numbers.
    #[error("{}: tensor `{tensor}` is stored as {dtype}, which can not be read as {wanted}; use a checkpoint in another format (F16, BF16, Q8_0, Q4_K ...)", path.display())]
    UnsupportedType {
        /// The file.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// Its storage format.
        dtype: DType,
        /// What was asked for: "floats".
        wanted: &'static str,
    },
    /// Something is where a file should be written.
    #[error("{} is there already and is not overwritten", path.display())]
    Exists {
        /// What is there.
        path: PathBuf,
    },
    /// The disk can not hold the file.
    #[error("{}: the file takes {}, but only {} are free there; make room or write it elsewhere", path.display(), decimal(*need), decimal(*free))]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// Bytes that it takes.
        need: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// [`crate::dequantize`] was given a format without a decoder.
    #[error("{0} has no decoder to floats")]
    NoDecoder(DType),
    /// [`crate::quantize`] was given a format without an encoder.
    #[error("{0} has no encoder from floats")]
    NoEncoder(DType),
    /// The lengths given to [`crate::dequantize`], [`crate::quantize`] or [`crate::safetensors::write`] do not agree.
    #[error("{elements} elements of {dtype} do not take {bytes} bytes")]
    Length {
        /// The storage format.
        dtype: DType,
        /// Elements given.
        elements: usize,
        /// Bytes given.
        bytes: usize,
    },
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self::Io { action, path, cause }
    }

    pub(crate) fn malformed(path: &Path, what: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::Malformed { path: path.to_owned(), what: what.into(), problem: problem.into() }
    }

    pub(crate) fn tensor(path: &Path, tensor: &str, problem: impl Into<String>) -> Self {
        Self::BadTensor { path: path.to_owned(), tensor: shown(tensor), problem: problem.into() }
    }

    pub(crate) fn incomplete(path: &Path, problem: impl Into<String>) -> Self {
        Self::Incomplete { path: path.to_owned(), problem: problem.into() }
    }
}

/// Bytes for people.
fn decimal(bytes: u64) -> String {
    match bytes as f64 {
        n if n >= 1e9 => format!("{:.2} GB", n / 1e9),
        n if n >= 1e6 => format!("{:.2} MB", n / 1e6),
        _ => format!("{bytes} bytes"),
    }
}

/// A name from a file, fit for a message: control characters escaped, cut after 100 characters.
pub(crate) fn shown(name: &str) -> String {
    let mut text: String = name.chars().take(100).flat_map(char::escape_debug).collect();
    if name.chars().nth(100).is_some() {
        text.push_str("...");
    }
    text
}
