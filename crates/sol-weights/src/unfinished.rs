//! A file that appears whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Result};

/// A file that is written beside its place under another name and renamed when it is whole; dropped before that, nothing is
/// left of it.
#[derive(Debug)]
pub(crate) struct Unfinished {
    out: BufWriter<File>,
    path: PathBuf,
    unfinished: PathBuf,
}

impl Unfinished {
    /// Begins the file that will be at `path`.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        static WRITTEN: AtomicU64 = AtomicU64::new(0);
        let serial = WRITTEN.fetch_add(1, Ordering::Relaxed);
        let file_name = path.file_name().unwrap_or_default().to_string_lossy();
        // Its ending keeps it from passing for a checkpoint where a killed program left it.
        let unfinished = path.with_file_name(format!(".{file_name}.{}-{serial}.tmp", process::id()));
        let out = BufWriter::new(File::create_new(&unfinished).map_err(Error::io("write", path))?);
        Ok(Self { out, path: path.to_owned(), unfinished })
    }

    /// Where the file will be.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends bytes.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(Error::io("write", &self.path))
    }

    /// Puts the file in its place, over a file that is there.
    pub(crate) fn finish(mut self) -> Result<()> {
        let done = self.out.flush().and_then(|()| self.out.get_ref().sync_all());
        done.and_then(|()| fs::rename(&self.unfinished, &self.path)).map_err(Error::io("write", &self.path))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Best effort, and nothing is there once the file is in its place.
        let _: io::Result<()> = fs::remove_file(&self.unfinished);
    }
}

/// Makes a file of so many bytes and writes only these, each from an offset on.
pub(crate) fn outline(path: &Path, written: &[(u64, &[u8])], len: u64) -> Result<()> {
    let write = || {
        let mut file = File::create_new(path)?;
        for (at, bytes) in written {
            file.seek(SeekFrom::Start(*at))?;
            file.write_all(bytes)?;
        }
        file.set_len(len)
    };
    write().map_err(Error::io("write", path))
}

/// Bytes that may be written where `path` will be; `None` where the system does not say.
#[cfg(unix)]
pub fn free_space(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(directory_of(path)).ok()?;
    // File systems that do not count their blocks say that there are none.
    (stat.f_blocks > 0).then(|| stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Bytes that may be written where `path` will be: unknown here, the system is not asked.
#[cfg(not(unix))]
pub fn free_space(_path: &Path) -> Option<u64> {
    None
}

/// The directory that holds a file.
#[cfg(unix)]
fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}
