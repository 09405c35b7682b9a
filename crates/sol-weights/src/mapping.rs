//! A mapped file that knows whether it is still the file that was opened.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

#[cfg(target_os = "linux")]
use memmap2::Advice;
#[cfg(unix)]
use memmap2::UncheckedAdvice;
use memmap2::{Mmap, MmapOptions};

use crate::guard::Guard;
use crate::{Error, Result};

/// A file, mapped for reading. The open file is kept, so that it can be asked for whatever its name stands for by then.
pub(crate) struct Mapping {
    /// Above the mapping, because it has to go first.
    guard: Guard,
    map: Mmap,
    file: File,
    path: PathBuf,
    opened: Stamp,
}

/// What a write to a file changes.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    len: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self { len: metadata.len(), modified: metadata.modified().ok() })
    }
}

impl Mapping {
    /// `None` for a file without bytes, which can not be mapped.
    pub(crate) fn new(path: &Path) -> Result<Option<Self>> {
        // Asked before opening, because opening a named pipe would wait for a writer.
        let kind = fs::metadata(path).map_err(Error::io("open", path))?;
        if !kind.is_file() {
            let problem = if kind.is_dir() { "it is a directory" } else { "it is not a regular file" };
            return Err(Error::NotACheckpoint { path: path.to_owned(), problem: problem.into() });
        }
        let file = File::open(path).map_err(Error::io("open", path))?;
        let opened = Stamp::of(&file).map_err(Error::io("open", path))?;
        if opened.len == 0 {
            return Ok(None);
        }
        let len = usize::try_from(opened.len).map_err(|e| Error::io("map", path)(io::Error::other(e)))?;
        // SAFETY: the mapping is private to this process and only ever read. If another process writes to the file, the bytes
        // change under us: all readers treat them as untrusted numbers, copy what they check (headers) before they rely on
        // it, and take lengths from the mapping, so no invariant of Rust code rests on the contents. Pages that the file
        // loses are the guard's concern.
        let map = unsafe { MmapOptions::new().len(len).map(&file) }.map_err(|e| Error::io("map", path)(explained(e, len)))?;
        // A wish: of a file that is not in memory yet, systems that can then read and map 2 MB at a time, which is faster now
        // (fewer, larger reads) and later (fewer pages to look up).
        #[cfg(target_os = "linux")]
        drop(map.advise(Advice::HugePage));
        let guard = Guard::new(&map).map_err(Error::io("map", path))?;
        Ok(Some(Self { guard, map, file, path: path.to_owned(), opened }))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// Has the pages of a range brought in and mapped in one go.
    #[cfg(target_os = "linux")]
    pub(crate) fn fetch(&self, range: Range<usize>) {
        // A wish: elsewhere they come one fault at a time, and what can not be read shows where it is used.
        drop(self.map.advise_range(Advice::PopulateRead, range.start, range.len()));
    }

    /// Elsewhere pages come as they are touched.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn fetch(&self, _range: Range<usize>) {}

    /// Maps what the system has in memory of the file, in one go: faster than a fault for each few pages, and in pages of 2 MB where it
    /// is in memory in such blocks. What is not is left to be read as it is touched.
    #[cfg(target_os = "linux")]
    pub(crate) fn fetch_cached(&self) {
        const BLOCK: usize = 2 << 20;
        for start in (0..self.map.len()).step_by(BLOCK) {
            let mut resident = 0u8;
            let page = self.map[start..].as_ptr().cast_mut().cast();
            // SAFETY: a page of the mapping, and a byte for it. Its first page speaks for a block.
            let told = unsafe { libc::mincore(page, 1, &raw mut resident) };
            if told == 0 && resident & 1 == 1 {
                self.fetch(start..self.map.len().min(start + BLOCK));
            }
        }
    }

    /// Elsewhere pages come as they are touched.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn fetch_cached(&self) {}

    /// Gives the whole pages of a range back to the system.
    #[cfg(unix)]
    pub(crate) fn release(&self, range: Range<usize>) {
        let page = rustix::param::page_size();
        let (start, end) = (range.start.next_multiple_of(page), range.end / page * page);
        if start < end {
            // SAFETY: nothing was ever written to these private pages, so they come back from the file as they were (or, where
            // the guard has put zeros, as zeros): what a reader sees is what it would see without this.
            let done = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) };
            // A wish: where the system does not grant it, the pages stay.
            drop(done);
        }
    }

    /// Elsewhere pages stay until the system wants them.
    #[cfg(not(unix))]
    pub(crate) fn release(&self, _range: Range<usize>) {}

    /// Whether all that was read was in the file; asks no one.
    pub(crate) fn intact(&self) -> Result<()> {
        if !self.guard.is_damaged() {
            return Ok(());
        }
        // The file may be whole again; what was read is not.
        self.unchanged()?;
        Err(self.changed("a part of it could not be read: the disk or the network failed, or it was shorter for a while".into()))
    }

    /// Whether it is still the file that was opened; asks the system.
    pub(crate) fn unchanged(&self) -> Result<()> {
        let now = Stamp::of(&self.file).map_err(Error::io("examine", &self.path))?;
        if now.len < self.opened.len {
            let problem = format!("it became shorter, {} of {} bytes are left", now.len, self.opened.len);
            return Err(self.changed(problem));
        }
        if now != self.opened {
            return Err(self.changed("it was written to".into()));
        }
        Ok(())
    }

    /// Whether a file opened at `path` is this one, if that is where this one was opened.
    pub(crate) fn check_reopened(&self, path: &Path, file: &File) -> Result<()> {
        if path != self.path {
            return Ok(());
        }
        let id = |file| identity(file).map_err(Error::io("examine", path));
        if id(file)? == id(&self.file)? { self.unchanged() } else { Err(self.changed("another file has its name now".into())) }
    }

    fn changed(&self, problem: String) -> Error {
        Error::ChangedInUse { path: self.path.clone(), problem }
    }
}

/// What no other file has.
#[cfg(unix)]
fn identity(file: &File) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    file.metadata().map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn identity(_file: &File) -> io::Result<()> {
    Ok(())
}

/// "Cannot allocate memory" alone sends people looking in the wrong place: a mapping takes none.
fn explained(cause: io::Error, len: usize) -> io::Error {
    if cause.kind() != io::ErrorKind::OutOfMemory {
        return cause;
    }
    let text = format!("its {len} bytes are more than this process has addresses for ({cause}); raise the limit (ulimit -v)");
    io::Error::new(cause.kind(), text)
}
