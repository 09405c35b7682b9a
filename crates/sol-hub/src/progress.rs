//! How a download tells its caller what it is doing.
//!
//! The library draws nothing: a terminal program implements [`Progress`] with bars, a server with log
//! lines, a test with a recorder.

/// Receives what happens while a model is being obtained. Methods may be called from another thread.
pub trait Progress: Sync {
    /// A file begins. `total` is its size where known, `already` the bytes kept from an earlier try.
    /// A file that has to begin again (its kept part was bad) is started again with another `already`.
    fn start(&self, file: &str, total: Option<u64>, already: u64);
    /// `bytes` more of the file started last have arrived.
    fn advance(&self, bytes: u64);
    /// The file is complete and checked.
    fn finish(&self, file: &str);
    /// Something worth a line: which file was chosen, what is being waited for, what is tried next.
    fn note(&self, message: &str);
}

/// A [`Progress`] that says nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn start(&self, _file: &str, _total: Option<u64>, _already: u64) {}
    fn advance(&self, _bytes: u64) {}
    fn finish(&self, _file: &str) {}
    fn note(&self, _message: &str) {}
}
