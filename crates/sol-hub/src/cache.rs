//! The hub cache on disk, in the layout that all hub clients share.
//!
//! ```text
//! models--org--name/          datasets--org--name/ for data
//!   refs/main                 the commit that a branch was at when last asked
//!   blobs/<etag>              contents; <etag>.incomplete while they arrive
//!   snapshots/<commit>/<file> relative links into blobs
//!   .solarium/<commit>.json   ours: what the commit lists, and the sizes of what was checked
//! .locks/models--org--name/<etag>.lock
//! ```
//!
//! The layout itself does not say whether a snapshot is complete. Our record does, so a download that
//! was cut between two files is noticed without asking the hub, and a complete one costs no request
//! per file. Snapshots of other programs have no record; for those the weights are looked at.
//! This module knows nothing of HTTP.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::reference::{Kind, check_file_name};

/// The cache of one repository.
#[derive(Debug, Clone)]
pub(crate) struct RepoCache {
    cache: PathBuf,
    folder: String,
}

/// What is known of one commit.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Every file that the commit has on the hub.
    pub(crate) listing: Vec<String>,
    /// Those that were fetched and checked, with their sizes.
    pub(crate) sizes: BTreeMap<String, u64>,
}

impl RepoCache {
    /// `repo` must have passed `check_repo`.
    pub(crate) fn new(cache: &Path, kind: Kind, repo: &str) -> Self {
        Self { cache: cache.to_owned(), folder: format!("{}--{}", kind.plural(), repo.replace('/', "--")) }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.cache.join(&self.folder)
    }

    pub(crate) fn locks(&self) -> PathBuf {
        self.cache.join(".locks").join(&self.folder)
    }

    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root().join("snapshots").join(commit)
    }

    pub(crate) fn blob(&self, etag: &str) -> PathBuf {
        self.root().join("blobs").join(etag)
    }

    pub(crate) fn incomplete(&self, etag: &str) -> PathBuf {
        self.root().join("blobs").join(format!("{etag}.incomplete"))
    }

    /// The commit that `revision` was at when the hub was last asked.
    pub(crate) fn commit_of(&self, revision: &str) -> Option<String> {
        if is_full_commit(revision) {
            return Some(revision.to_owned());
        }
        let commit = fs::read_to_string(self.root().join("refs").join(revision)).ok()?;
        Some(commit.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Notes where `revision` is now.
    pub(crate) fn set_ref(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit || self.commit_of(revision).as_deref() == Some(commit) {
            return Ok(());
        }
        self.write_small(&self.root().join("refs").join(revision), commit.as_bytes())
    }

    fn record_path(&self, commit: &str) -> PathBuf {
        self.root().join(".solarium").join(format!("{commit}.json"))
    }

    /// Our record of `commit`; an unreadable one is none.
    pub(crate) fn record(&self, commit: &str) -> Option<Record> {
        let record: Record = serde_json::from_slice(&fs::read(self.record_path(commit)).ok()?).ok()?;
        record.listing.iter().all(|name| check_file_name(name).is_ok()).then_some(record)
    }

    pub(crate) fn set_record(&self, commit: &str, record: &Record) -> Result<()> {
        let text = serde_json::to_vec_pretty(record).expect("a record is plain strings and numbers");
        self.write_small(&self.record_path(commit), &text)
    }

    /// Whether a file of a snapshot is there, in `size` where that is known.
    pub(crate) fn has(&self, commit: &str, file: &str, size: Option<u64>) -> bool {
        match fs::metadata(self.snapshot(commit).join(file)) {
            Ok(found) => found.is_file() && size.is_none_or(|size| size == found.len()),
            Err(_) => false,
        }
    }

    /// Names of the files that a snapshot has; links without a target are left out.
    pub(crate) fn snapshot_files(&self, commit: &str) -> Vec<String> {
        let root = self.snapshot(commit);
        let mut names: Vec<String> = files_below(&root)
            .into_iter()
            .filter(|path| path.is_file())
            .filter_map(|path| Some(path.strip_prefix(&root).ok()?.to_str()?.replace('\\', "/")))
            .collect();
        names.sort();
        names
    }

    /// Makes `file` of a snapshot lead to the blob `etag`.
    pub(crate) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<PathBuf> {
        let pointer = self.snapshot(commit).join(file);
        let parent = pointer.parent().expect("a file in a snapshot has a parent");
        create_dirs(parent, HUB_VARIABLE)?;
        let up = "../".repeat(file.matches('/').count() + 2);
        let target = PathBuf::from(format!("{up}blobs/{etag}"));
        if fs::read_link(&pointer).is_ok_and(|found| found == target) {
            return Ok(pointer);
        }
        // A link beside its place, then moved over it: nobody ever sees half of the change.
        let beside = unique_beside(&pointer);
        link_or_copy(&target, &self.blob(etag), &beside).and_then(|()| fs::rename(&beside, &pointer)).map_err(|source| {
            let _ = fs::remove_file(&beside);
            not_writable(&pointer, HUB_VARIABLE, source)
        })?;
        Ok(pointer)
    }

    /// Waits until no other process writes the blob `etag`.
    pub(crate) fn lock(&self, etag: &str, file: &str, progress: &dyn Progress) -> Result<Lock> {
        create_dirs(&self.locks(), HUB_VARIABLE)?;
        Lock::take(&self.locks().join(format!("{etag}.lock")), HUB_VARIABLE, file, progress)
    }

    fn write_small(&self, path: &Path, contents: &[u8]) -> Result<()> {
        write_whole(path, contents, HUB_VARIABLE)
    }
}

/// The variable to change when the hub cache is in a bad place.
pub(crate) const HUB_VARIABLE: &str = "HF_HUB_CACHE";

/// An exclusive lock that ends with its value, or with the process. The file stays, as in the other
/// clients: removing it would let a third process lock a different file of the same name.
pub(crate) struct Lock {
    _file: Option<File>,
}

impl Lock {
    pub(crate) fn take(path: &Path, variable: &'static str, what: &str, progress: &dyn Progress) -> Result<Self> {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .map_err(|source| not_writable(path, variable, source))?;
        match file.try_lock() {
            Ok(()) => return Ok(Self { _file: Some(file) }),
            Err(fs::TryLockError::WouldBlock) => {}
            // Some network file systems have no locks; a shared one is then used as well as it can be.
            Err(fs::TryLockError::Error(error)) => {
                tracing::debug!(path = %path.display(), %error, "this file system has no locks");
                return Ok(Self { _file: None });
            }
        }
        progress.note(&format!("waiting for another process that is fetching {what}"));
        file.lock().map_err(|source| Error::Io { action: "lock", path: path.to_owned(), source })?;
        Ok(Self { _file: Some(file) })
    }
}

/// Forty hexadecimal digits: a revision that can never mean anything else later.
pub(crate) fn is_full_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Safe as the name of a snapshot directory.
pub(crate) fn is_commit(commit: &str) -> bool {
    (1..=64).contains(&commit.len()) && commit.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Every file and link below `root`, in no order. Links are not followed.
pub(crate) fn files_below(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                Ok(_) => files.push(entry.path()),
                Err(_) => {}
            }
        }
    }
    files
}

pub(crate) fn create_dirs(dir: &Path, variable: &'static str) -> Result<()> {
    fs::create_dir_all(dir).map_err(|source| not_writable(dir, variable, source))
}

/// Writes a file that is either as it was or as it shall be.
pub(crate) fn write_whole(path: &Path, contents: &[u8], variable: &'static str) -> Result<()> {
    if let Some(parent) = path.parent() {
        create_dirs(parent, variable)?;
    }
    let beside = unique_beside(path);
    fs::write(&beside, contents).and_then(|()| fs::rename(&beside, path)).map_err(|source| {
        let _ = fs::remove_file(&beside);
        not_writable(path, variable, source)
    })
}

/// The right error for a failed write to a cache.
pub(crate) fn not_writable(path: &Path, variable: &'static str, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::NoSpace {
            file: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            path: path.parent().unwrap_or(path).to_owned(),
            needed: None,
            free: None,
            variable,
        },
        _ => Error::CacheNotWritable { path: path.to_owned(), variable, source },
    }
}

/// A name that no other process and no other thread uses.
fn unique_beside(path: &Path) -> PathBuf {
    static SERIAL: AtomicU64 = AtomicU64::new(0);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}-{}.tmp", std::process::id(), SERIAL.fetch_add(1, Ordering::Relaxed)));
    path.with_file_name(name)
}

#[cfg(unix)]
fn link_or_copy(target: &Path, blob: &Path, link: &Path) -> io::Result<()> {
    // File systems without symbolic links exist here too (exFAT, some network shares).
    std::os::unix::fs::symlink(target, link).or_else(|_| fs::hard_link(blob, link)).or_else(|_| fs::copy(blob, link).map(|_| ()))
}

#[cfg(not(unix))]
fn link_or_copy(_target: &Path, blob: &Path, link: &Path) -> io::Result<()> {
    // Symbolic links need a privilege on Windows; a hard link does not.
    fs::hard_link(blob, link).or_else(|_| fs::copy(blob, link).map(|_| ()))
}

/// Bytes that can still be written below `dir`, where the system says.
#[cfg(unix)]
pub(crate) fn free_space(dir: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

#[cfg(not(unix))]
pub(crate) fn free_space(_dir: &Path) -> Option<u64> {
    None
}
