//! Bytes that are shared, not copied: a view into a mapped file or into owned memory.

use std::fmt;
use std::fs::{self, File};
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use crate::{Error, Result};

/// A view of a mapped file or of owned memory. Cloning and slicing are cheap and keep the owner alive.
///
/// There is no promise of alignment: read numbers with `from_le_bytes` or unaligned loads.
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<Owner>,
    start: usize,
    len: usize,
}

enum Owner {
    File(Mmap),
    Memory(Vec<u8>),
}

impl Bytes {
    /// Takes over memory without copying it.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        Self { start: 0, len: bytes.len(), owner: Arc::new(Owner::Memory(bytes)) }
    }

    /// Maps a file for reading. Nothing is read yet: pages come as they are touched.
    ///
    /// The file must not shrink while it is mapped, as with every memory mapping: the system would end the process.
    pub fn map(path: &Path) -> Result<Self> {
        // Asked before opening, because opening a named pipe would wait for a writer.
        let kind = fs::metadata(path).map_err(Error::io("open", path))?;
        if !kind.is_file() {
            let problem = if kind.is_dir() { "it is a directory" } else { "it is not a regular file" };
            return Err(Error::NotACheckpoint { path: path.to_owned(), problem: problem.into() });
        }
        let file = File::open(path).map_err(Error::io("open", path))?;
        if file.metadata().map_err(Error::io("open", path))?.len() == 0 {
            return Ok(Self::from_vec(Vec::new()));
        }
        // SAFETY: the mapping is private to this process and only ever read. If another process writes to the file,
        // the bytes change under us: all readers treat them as untrusted numbers, copy what they check (headers) before
        // they rely on it, and take lengths from the mapping, so no invariant of Rust code rests on the contents.
        // Shrinking the file raises SIGBUS, which the documentation above states.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?;
        Ok(Self { start: 0, len: map.len(), owner: Arc::new(Owner::File(map)) })
    }

    /// A view of a part of this view.
    ///
    /// # Panics
    /// When the range is out of bounds, as slicing does.
    pub fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len, "{range:?} is out of {} bytes", self.len);
        Self { owner: self.owner.clone(), start: self.start + range.start, len: range.len() }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let all: &[u8] = match &*self.owner {
            Owner::File(map) => map,
            Owner::Memory(bytes) => bytes,
        };
        &all[self.start..self.start + self.len]
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self::from_vec(bytes)
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({})", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_of_slices_keep_the_file_mapped() {
        fn shareable<T: Send + Sync + 'static>(_: &T) {}
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), b"0123456789").unwrap();
        let part = {
            let all = Bytes::map(file.path()).unwrap();
            all.slice(2..8).slice(1..4)
        };
        shareable(&part);
        assert_eq!(&*part, b"345");
        assert_eq!(part.slice(3..3).len(), 0);
    }

    #[test]
    fn an_empty_file_has_no_bytes_and_a_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("empty");
        fs::write(&path, b"").unwrap();
        assert!(Bytes::map(&path).unwrap().is_empty());
        assert!(Bytes::map(dir.path()).unwrap_err().to_string().contains("directory"));
        assert!(matches!(Bytes::map(&dir.path().join("absent")), Err(Error::Io { .. })));
    }

    #[test]
    #[should_panic(expected = "out of 3 bytes")]
    fn a_slice_can_not_leave_its_view() {
        Bytes::from_vec(vec![0; 10]).slice(0..3).slice(0..4);
    }
}
