//! A file that appears whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use crate::{Error, Result};

/// A file that is written beside its place under another name and renamed when it is whole; dropped before that, nothing is
/// left of it.
#[derive(Debug)]
pub(crate) struct Unfinished {
    out: BufWriter<File>,
    path: PathBuf,
    unfinished: PathBuf,
    /// Bytes that have come since the flusher was told.
    since: u64,
    flusher: Option<Flusher>,
}

/// Bytes after which those that have come are sent to the disk, while more come.
const AHEAD: u64 = 128 << 20;

/// Bytes in one call. For larger ones Linux takes larger blocks of memory; in a virtual machine these often had to come from the
/// host first: 4.75 GB took 5 to 9 s with 512 KB or more, 1.5 s with up to 256 KB.
const AT_ONCE: usize = 128 << 10;

/// A thread that sends a file to the disk as often as it is told, so that the end of a large file need not wait for all of it.
#[derive(Debug)]
struct Flusher {
    more: SyncSender<()>,
    thread: JoinHandle<io::Result<()>>,
}

impl Flusher {
    fn start(file: &File) -> io::Result<Self> {
        let file = file.try_clone()?;
        let (more, told) = sync_channel(1);
        let thread = thread::Builder::new().spawn(move || {
            while told.recv().is_ok() {
                file.sync_data()?;
            }
            Ok(())
        })?;
        Ok(Self { more, thread })
    }

    /// Waits for its last work. An error of the disk is told once: if not to this thread, then to nobody.
    fn end(self) -> io::Result<()> {
        drop(self.more);
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that writes ahead ended")))
    }
}

impl Unfinished {
    /// Begins the file that will be at `path`.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        static WRITTEN: AtomicU64 = AtomicU64::new(0);
        let file_name = path.file_name().unwrap_or_default().to_string_lossy();
        loop {
            let serial = WRITTEN.fetch_add(1, Ordering::Relaxed);
            // Its ending keeps it from passing for a checkpoint where a killed program left it.
            let unfinished = path.with_file_name(format!(".{file_name}.{}-{serial}.tmp", process::id()));
            match File::create_new(&unfinished) {
                // A killed program's, which had the same number: in a container every first one has.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                file => {
                    let out = BufWriter::new(file.map_err(Error::io("write", path))?);
                    return Ok(Self { out, path: path.to_owned(), unfinished, since: 0, flusher: None });
                }
            }
        }
    }

    /// Where the file will be.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Appends bytes.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let written = bytes.chunks(AT_ONCE).try_for_each(|piece| self.out.write_all(piece));
        written.and_then(|()| self.ahead(bytes.len())).map_err(Error::io("write", &self.path))
    }

    /// Sees that what has come is on its way to the disk.
    fn ahead(&mut self, bytes: usize) -> io::Result<()> {
        self.since += bytes as u64;
        if self.since >= AHEAD {
            self.since = 0;
            let flusher = match self.flusher.take() {
                Some(flusher) => flusher,
                None => Flusher::start(self.out.get_ref())?,
            };
            // One that is still at work, or has failed, need not be told.
            let _ = flusher.more.try_send(());
            self.flusher = Some(flusher);
        }
        Ok(())
    }

    /// Puts the file in its place, over a file that is there.
    pub(crate) fn finish(mut self) -> Result<()> {
        let ahead = self.flusher.take().map_or(Ok(()), Flusher::end);
        let done = ahead.and_then(|()| self.out.flush()).and_then(|()| self.out.get_ref().sync_all());
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

#[cfg(test)]
mod tests {
    use super::*;

    /// In a container the program that was killed had the number of this one.
    #[test]
    fn what_a_killed_program_left_is_not_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        for serial in 0..100 {
            fs::write(dir.path().join(format!(".file.{}-{serial}.tmp", process::id())), "left").unwrap();
        }
        let mut file = Unfinished::create(&dir.path().join("file")).unwrap();
        file.put(b"whole").unwrap();
        file.finish().unwrap();
        assert_eq!(fs::read(dir.path().join("file")).unwrap(), b"whole");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 101);
    }
}
