//! Bytes that are shared, not copied: a view into a mapped file or into owned memory.

use std::fmt;
use std::fs::File;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

use crate::Result;
use crate::mapping::Mapping;

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
    File(Mapping),
    Memory(Vec<u8>),
}

impl Bytes {
    /// Takes over memory without copying it.
    pub fn from_vec(bytes: Vec<u8>) -> Self {
        Self { start: 0, len: bytes.len(), owner: Arc::new(Owner::Memory(bytes)) }
    }

    /// Maps a file for reading. Nothing is read yet: pages come as they are touched.
    ///
    /// The file should stay as it is. On Linux, one that becomes shorter reads as zeros from there on, and who has used such
    /// bytes learns it from [`Bytes::intact`]; elsewhere the system may end the process.
    pub fn map(path: &Path) -> Result<Self> {
        let Some(mapping) = Mapping::new(path)? else { return Ok(Self::from_vec(Vec::new())) };
        Ok(Self { start: 0, len: mapping.bytes().len(), owner: Arc::new(Owner::File(mapping)) })
    }

    /// Maps a file and reads it with `read`. What was read of a file that lost bytes meanwhile is forgotten, an error too.
    pub(crate) fn map_and<T>(path: &Path, read: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let bytes = Self::map(path)?;
        let result = read(&bytes);
        bytes.intact()?;
        result
    }

    /// Refuses what was read from the mapping so far if the file did not have all of it any more. Costs next to nothing: ask
    /// after every use.
    pub fn intact(&self) -> Result<()> {
        match &*self.owner {
            Owner::File(mapping) => mapping.intact(),
            Owner::Memory(_) => Ok(()),
        }
    }

    /// Refuses a mapped file that was written to since it was opened. Asks the file system. A file that was deleted, or whose
    /// name was given to another, is still itself.
    pub fn unchanged(&self) -> Result<()> {
        match &*self.owner {
            Owner::File(mapping) => mapping.unchanged(),
            Owner::Memory(_) => Ok(()),
        }
    }

    /// Refuses a file opened at `path` that is not the one which was mapped from there.
    pub(crate) fn check_reopened(&self, path: &Path, file: &File) -> Result<()> {
        match &*self.owner {
            Owner::File(mapping) => mapping.check_reopened(path, file),
            Owner::Memory(_) => Ok(()),
        }
    }

    /// Brings the pages of this view into memory, for who hands them to the system to write: ext4 clears what it could not copy
    /// at once because a page was missing, and tries again. Of no effect on owned memory.
    pub fn fetch(&self) {
        if let Owner::File(mapping) = &*self.owner {
            mapping.fetch(self.start..self.start + self.len);
        }
    }

    /// See [`Checkpoint::fetch_cached`](crate::Checkpoint::fetch_cached).
    pub(crate) fn fetch_cached(&self) {
        if let Owner::File(mapping) = &*self.owner {
            mapping.fetch_cached();
        }
    }

    /// Lets the pages of this view go from the memory of this process, for who walks through more than memory holds. They come
    /// back from the file when they are touched. Of no effect on owned memory, and where the system has no such call.
    pub fn release(&self) {
        if let Owner::File(mapping) = &*self.owner {
            mapping.release(self.start..self.start + self.len);
        }
    }

    /// Whether both are views of one mapping.
    pub(crate) fn same_owner(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.owner, &other.owner)
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
            Owner::File(mapping) => mapping.bytes(),
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
    use std::fs;

    use super::*;
    use crate::Error;

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

    #[cfg(target_os = "linux")]
    #[test]
    fn what_was_read_of_a_file_that_lost_it_is_no_result() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for result in [Ok(()), Err(Error::incomplete(file.path(), "as zeros look"))] {
            fs::write(file.path(), vec![1; 1 << 16]).unwrap();
            let read = Bytes::map_and(file.path(), |bytes| {
                file.as_file().set_len(1).unwrap();
                assert_eq!(bytes[60_000], 0);
                result
            });
            let error = read.unwrap_err();
            assert!(matches!(error, Error::ChangedInUse { .. }), "{error}");
        }
        let kept = Bytes::map_and(file.path(), |bytes| Ok(bytes.len()));
        assert_eq!(kept.unwrap(), 1);
    }

    #[test]
    #[should_panic(expected = "out of 3 bytes")]
    fn a_slice_can_not_leave_its_view() {
        Bytes::from_vec(vec![0; 10]).slice(0..3).slice(0..4);
    }
}
