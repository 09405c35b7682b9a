//! Getting one file whole: resumed where a former try stopped, checked, and only then given its name.
//!
//! Bytes go to `<etag>.incomplete` under the blob's lock. The name is that of a content, so what an
//! earlier process left there is a beginning of the same file; the hash at the end has the last word.
//! A killed process leaves a beginning that the next one continues.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::cache::{self, HUB_VARIABLE, RepoCache};
use crate::error::{Error, Result};
use crate::http::{Client, FileFacts, Place};
use crate::progress::Progress;

/// Failures in a row, without a byte between them, after which a download gives up.
const FRUITLESS_TRIES: u32 = 4;
const CHUNK: usize = 256 << 10;
/// Hashing what is already here is worth a word from this size on.
const LONG_CHECK: u64 = 1 << 30;

/// Makes sure that the blob of `file` is in the cache, whole. Gives its size.
pub(crate) fn fetch_blob(
    client: &Client,
    cache: &RepoCache,
    place: Place<'_>,
    file: &str,
    facts: &FileFacts,
    progress: &dyn Progress,
) -> Result<u64> {
    if let Some(size) = whole_blob(cache, facts) {
        return Ok(size);
    }
    let _lock = cache.lock(&facts.etag, file, progress)?;
    // Another process may have fetched it while this one waited.
    if let Some(size) = whole_blob(cache, facts) {
        return Ok(size);
    }
    let blob = cache.blob(&facts.etag);
    cache::create_dirs(blob.parent().expect("a blob has a parent"), HUB_VARIABLE)?;
    if blob.exists() {
        progress.note(&format!("{file} in the cache is damaged (its size is wrong): fetching it again"));
    }
    let incomplete = cache.incomplete(&facts.etag);
    let mut partial = Partial::open(&incomplete, file, facts, progress)?;
    progress.start(file, facts.size, partial.len);
    partial.fill(client, place, progress)?;
    partial.file.sync_all().map_err(|source| write_error(file, &incomplete, source))?;
    let size = partial.len;
    drop(partial);
    fs::rename(&incomplete, &blob).map_err(|source| cache::not_writable(&blob, HUB_VARIABLE, source))?;
    progress.finish(file);
    Ok(size)
}

fn whole_blob(cache: &RepoCache, facts: &FileFacts) -> Option<u64> {
    let found = fs::metadata(cache.blob(&facts.etag)).ok().filter(fs::Metadata::is_file)?.len();
    facts.size.is_none_or(|size| size == found).then_some(found)
}

/// Bytes of `file` that are still to come, for the check of the disk before anything begins.
pub(crate) fn bytes_missing(cache: &RepoCache, facts: &FileFacts) -> u64 {
    if whole_blob(cache, facts).is_some() {
        return 0;
    }
    let here = fs::metadata(cache.incomplete(&facts.etag)).map_or(0, |found| found.len());
    facts.size.unwrap_or(0).saturating_sub(here)
}

/// A file that is not yet all there.
struct Partial<'a> {
    name: &'a str,
    path: &'a Path,
    facts: &'a FileFacts,
    file: File,
    len: u64,
    hash: Sha256,
    /// Whether bytes of an earlier request or process are in it.
    resumed: bool,
}

impl<'a> Partial<'a> {
    fn open(path: &'a Path, name: &'a str, facts: &'a FileFacts, progress: &dyn Progress) -> Result<Self> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(|source| cache::not_writable(path, HUB_VARIABLE, source))?;
        let mut partial = Self { name, path, facts, file, len: 0, hash: Sha256::new(), resumed: false };
        let here = partial.file.metadata().map_or(0, |found| found.len());
        if here == 0 {
            return Ok(partial);
        }
        // More than the whole, or of unknown size: not a beginning of this file.
        if facts.size.is_none_or(|size| here > size) {
            partial.restart()?;
            return Ok(partial);
        }
        if here >= LONG_CHECK {
            progress.note(&format!("checking the {here} bytes of {name} that are already here"));
        }
        let read_error = |source| Error::Io { action: "read", path: path.to_owned(), source };
        let mut buffer = vec![0; CHUNK];
        loop {
            match partial.file.read(&mut buffer).map_err(read_error)? {
                0 => break,
                count => {
                    partial.hash.update(&buffer[..count]);
                    partial.len += count as u64;
                }
            }
        }
        partial.resumed = true;
        Ok(partial)
    }

    fn restart(&mut self) -> Result<()> {
        let path = self.path;
        self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0))).map_err(|source| Error::Io {
            action: "write",
            path: path.to_owned(),
            source,
        })?;
        self.hash = Sha256::new();
        self.len = 0;
        self.resumed = false;
        Ok(())
    }

    /// Fetches what is missing, through as many broken connections as bring something, and checks it.
    fn fill(&mut self, client: &Client, place: Place<'_>, progress: &dyn Progress) -> Result<()> {
        let mut fruitless = 0;
        let mut begun_again = false;
        loop {
            if self.facts.size != Some(self.len) {
                let before = self.len;
                if let Err(error) = self.request(client, place, progress) {
                    fruitless = if self.len > before { 0 } else { fruitless + 1 };
                    let pause = match &error {
                        // A host that was there a moment ago may be there again in the next.
                        Error::Unreachable { .. } if before > 0 => client.pause(&interrupted(&error), fruitless),
                        error => client.pause(error, fruitless),
                    };
                    match pause {
                        Some(pause) if fruitless < FRUITLESS_TRIES => {
                            tracing::debug!(file = self.name, at = self.len, %error, "continuing");
                            std::thread::sleep(pause);
                            self.resumed = self.len > 0;
                            continue;
                        }
                        _ => return Err(error),
                    }
                }
            }
            match self.check() {
                Ok(()) => return Ok(()),
                // The bytes of another time may be to blame: once more, from nothing.
                Err(_) if self.resumed && !begun_again => {
                    begun_again = true;
                    progress.note(&format!("what was kept of {} is damaged: beginning again", self.name));
                    self.restart()?;
                    progress.start(self.name, self.facts.size, 0);
                }
                Err(error) => {
                    let _ = fs::remove_file(self.path);
                    return Err(error);
                }
            }
        }
    }

    /// One request, from where the file ends to the end of what comes.
    fn request(&mut self, client: &Client, place: Place<'_>, progress: &dyn Progress) -> Result<()> {
        // Without a size nobody can say whether a part is a beginning.
        if self.facts.size.is_none() && self.len > 0 {
            self.restart()?;
        }
        let content = match client.content(place, self.name, self.len) {
            Err(Error::Status { status: 416, .. }) if self.len > 0 => {
                self.restart()?;
                progress.start(self.name, self.facts.size, 0);
                client.content(place, self.name, 0)?
            }
            content => content?,
        };
        if content.offset != self.len {
            // The server sends the whole file whatever it is asked.
            self.restart()?;
            progress.start(self.name, self.facts.size, 0);
        }
        let mut reader = content.reader;
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.broke(Some(error))),
            };
            if self.facts.size.is_some_and(|size| self.len + count as u64 > size) {
                self.restart()?;
                let _ = fs::remove_file(self.path);
                return Err(self.damaged("more bytes came than the file has".to_owned()));
            }
            self.file.write_all(&buffer[..count]).map_err(|source| write_error(self.name, self.path, source))?;
            self.hash.update(&buffer[..count]);
            self.len += count as u64;
            progress.advance(count as u64);
        }
        match self.facts.size {
            Some(size) if self.len < size => Err(self.broke(None)),
            _ => Ok(()),
        }
    }

    fn check(&self) -> Result<()> {
        let Some(expected) = self.facts.sha256() else { return Ok(()) };
        let found = hex(&self.hash.clone().finalize());
        if found.eq_ignore_ascii_case(expected) {
            Ok(())
        } else {
            Err(self.damaged(format!("its SHA-256 is {found}, not {expected}")))
        }
    }

    fn broke(&self, error: Option<io::Error>) -> Error {
        let of = self.facts.size.map(|size| format!(" of {size}")).unwrap_or_default();
        let why = error.map(|error| format!(" ({error})")).unwrap_or_default();
        Error::Interrupted { url: self.name.to_owned(), reason: format!("it ended after {}{of} bytes{why}", self.len) }
    }

    fn damaged(&self, reason: String) -> Error {
        Error::Damaged { file: self.name.to_owned(), reason }
    }
}

fn interrupted(error: &Error) -> Error {
    Error::Interrupted { url: String::new(), reason: error.to_string() }
}

fn write_error(file: &str, path: &Path, source: io::Error) -> Error {
    match cache::not_writable(path, HUB_VARIABLE, source) {
        Error::NoSpace { path, variable, .. } => {
            Error::NoSpace { file: file.to_owned(), path, needed: None, free: None, variable }
        }
        other => other,
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_says_so() {
        let full = io::Error::from(io::ErrorKind::StorageFull);
        let error = write_error("m.gguf", Path::new("/c/blobs/x.incomplete"), full).to_string();
        assert!(error.contains("no space for m.gguf in /c/blobs; free some"), "{error}");
    }
}
