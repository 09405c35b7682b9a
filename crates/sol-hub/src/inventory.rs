//! What the caches hold, and taking things out of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;

use crate::Hub;
use crate::cache::{RepoCache, files_below, is_commit};
use crate::default_model::marker;
use crate::error::{Error, Result};
use crate::reference::{DEFAULT_ALIAS, Kind, ModelRef, check_repo};
use crate::select;

/// One model on this machine: a snapshot of a repository, or the default model.
#[derive(Debug, Clone, Serialize)]
pub struct CachedModel {
    /// What to write to use it: `org/repo`, or an alias.
    pub name: String,
    /// Commit of the repository; `None` for a file of our own cache and for unfinished downloads.
    pub commit: Option<String>,
    /// Branches and tags that are at this commit.
    pub revisions: Vec<String>,
    /// Its files, by name.
    pub files: Vec<CachedFile>,
    /// Bytes of all files. Snapshots of a repository can share some of them.
    pub size: u64,
    /// Bytes of unfinished downloads: they continue when the model is asked for again.
    pub unfinished: u64,
    /// The snapshot directory, the file, or the directory of the repository.
    pub path: PathBuf,
    /// When the newest of its files arrived, in seconds since 1970.
    pub modified: Option<u64>,
}

/// A file of a [`CachedModel`].
#[derive(Debug, Clone, Serialize)]
pub struct CachedFile {
    /// Name in the repository.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Where it is.
    pub path: PathBuf,
}

/// What [`Hub::remove`] did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// Files that are gone.
    pub files: Vec<PathBuf>,
    /// Bytes that the disk has back.
    pub freed: u64,
}

impl Hub {
    /// Every model in the hub cache and in our own, by name. A cache that does not exist is empty.
    pub fn list(&self) -> Result<Vec<CachedModel>> {
        let mut models = Vec::new();
        let own = self.own_default();
        if let Some(file) = cached_file(&own, &self.config.default_model.file) {
            models.push(CachedModel {
                name: DEFAULT_ALIAS.to_owned(),
                commit: None,
                revisions: Vec::new(),
                size: file.size,
                unfinished: 0,
                modified: modified(&own),
                files: vec![file],
                path: own,
            });
        }
        let cache = &self.config.hub_cache;
        let entries = match fs::read_dir(cache) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(models),
            Err(source) => return Err(Error::Io { action: "read", path: cache.clone(), source }),
        };
        for entry in entries.flatten() {
            let folder = entry.file_name().to_string_lossy().into_owned();
            let Some(repo) = folder.strip_prefix("models--").map(|name| name.replacen("--", "/", 1)) else {
                continue;
            };
            if check_repo(&repo).is_ok() {
                models.extend(models_of(&RepoCache::new(cache, Kind::Model, &repo), &repo));
            }
        }
        models.sort_by(|a, b| a.name.cmp(&b.name).then(b.modified.cmp(&a.modified)));
        Ok(models)
    }

    /// Takes a model out of the cache: a whole repository, one revision of it, or one file.
    /// Contents that another snapshot uses stay.
    pub fn remove(&self, model: &ModelRef) -> Result<Removed> {
        let mut removed = Removed::default();
        match model {
            ModelRef::Path(path) => return Err(Error::NotOurs { path: path.clone() }),
            ModelRef::Default => {
                let own = self.own_default();
                if own.exists() {
                    removed.take(&own)?;
                }
                if marker(&own).exists() {
                    removed.take(&marker(&own))?;
                }
                let pinned = &self.config.default_model;
                let cache = RepoCache::new(&self.config.hub_cache, Kind::Model, &pinned.repo);
                if cache.snapshot(&pinned.revision).exists() {
                    remove_snapshot(&cache, &pinned.revision, None, &mut removed)?;
                }
            }
            ModelRef::Repo { repo, revision, file } => {
                check_repo(repo).map_err(|reason| Error::BadReference { reference: model.to_string(), reason })?;
                let cache = RepoCache::new(&self.config.hub_cache, Kind::Model, repo);
                match (revision, file) {
                    (None, None) => remove_repo(&cache, &mut removed)?,
                    (Some(revision), file) => {
                        if let Some(commit) = commit_named(&cache, revision) {
                            remove_snapshot(&cache, &commit, file.as_deref(), &mut removed)?;
                        }
                    }
                    (None, file) => {
                        for commit in commits(&cache) {
                            remove_snapshot(&cache, &commit, file.as_deref(), &mut removed)?;
                        }
                    }
                }
            }
        }
        if removed.files.is_empty() {
            return Err(Error::NotCached { model: model.to_string() });
        }
        Ok(removed)
    }
}

impl Removed {
    fn take(&mut self, path: &Path) -> Result<()> {
        let found = fs::symlink_metadata(path);
        fs::remove_file(path).map_err(|source| Error::Io { action: "remove", path: path.to_owned(), source })?;
        // A link takes no space worth counting; a file with another name still takes all of its.
        if let Ok(found) = found
            && found.is_file()
            && is_only_name(&found)
        {
            self.freed += found.len();
        }
        self.files.push(path.to_owned());
        Ok(())
    }
}

#[cfg(unix)]
fn is_only_name(found: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    found.nlink() <= 1
}

#[cfg(not(unix))]
fn is_only_name(_found: &fs::Metadata) -> bool {
    true
}

fn models_of(cache: &RepoCache, repo: &str) -> Vec<CachedModel> {
    let refs = refs(cache);
    let mut models: Vec<CachedModel> = commits(cache)
        .into_iter()
        .map(|commit| {
            let path = cache.snapshot(&commit);
            let files: Vec<CachedFile> =
                cache.snapshot_files(&commit).into_iter().filter_map(|name| cached_file(&path.join(&name), &name)).collect();
            CachedModel {
                name: repo.to_owned(),
                revisions: refs.iter().filter(|(_, at)| *at == commit).map(|(name, _)| name.clone()).collect(),
                commit: Some(commit),
                size: files.iter().map(|file| file.size).sum(),
                unfinished: 0,
                modified: files.iter().filter_map(|file| modified(&file.path)).max(),
                files,
                path,
            }
        })
        .collect();
    let unfinished: u64 = files_below(&cache.root().join("blobs"))
        .iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "incomplete"))
        .filter_map(|file| Some(fs::metadata(file).ok()?.len()))
        .sum();
    if unfinished > 0 {
        models.push(CachedModel {
            name: repo.to_owned(),
            commit: None,
            revisions: Vec::new(),
            files: Vec::new(),
            size: 0,
            unfinished,
            path: cache.root(),
            modified: modified(&cache.root().join("blobs")),
        });
    }
    models
}

fn cached_file(path: &Path, name: &str) -> Option<CachedFile> {
    let found = fs::metadata(path).ok()?;
    Some(CachedFile { name: name.to_owned(), size: found.len(), path: path.to_owned() })
}

fn modified(path: &Path) -> Option<u64> {
    let time = fs::metadata(path).ok()?.modified().ok()?;
    Some(time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs())
}

/// Commits that have a snapshot.
fn commits(cache: &RepoCache) -> Vec<String> {
    let mut commits: Vec<String> = fs::read_dir(cache.root().join("snapshots"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| is_commit(name))
        .collect();
    commits.sort();
    commits
}

/// Branches and tags with the commits that they are at.
fn refs(cache: &RepoCache) -> Vec<(String, String)> {
    let root = cache.root().join("refs");
    let mut refs: Vec<(String, String)> = files_below(&root)
        .into_iter()
        .filter_map(|path| {
            let name = path.strip_prefix(&root).ok()?.to_str()?.replace('\\', "/");
            let commit = fs::read_to_string(&path).ok()?.trim().to_owned();
            Some((name, commit))
        })
        .collect();
    refs.sort();
    refs
}

/// The snapshot that a branch, a tag, a commit or the beginning of a commit means.
fn commit_named(cache: &RepoCache, revision: &str) -> Option<String> {
    let commits = commits(cache);
    let at = cache.commit_of(revision).filter(|commit| commits.contains(commit));
    at.or_else(|| {
        let mut alike = commits.iter().filter(|commit| revision.len() >= 7 && commit.starts_with(revision));
        match (alike.next(), alike.next()) {
            (Some(only), None) => Some(only.clone()),
            _ => None,
        }
    })
}

fn remove_repo(cache: &RepoCache, removed: &mut Removed) -> Result<()> {
    let root = cache.root();
    for file in files_below(&root) {
        removed.take(&file)?;
    }
    for dir in [root, cache.locks()] {
        match fs::remove_dir_all(&dir) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::Io { action: "remove", path: dir, source });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Removes a snapshot, or a file of it with all its parts, and the blobs that nothing uses any more.
fn remove_snapshot(cache: &RepoCache, commit: &str, file: Option<&str>, removed: &mut Removed) -> Result<()> {
    let snapshot = cache.snapshot(commit);
    let names = match file {
        // The name may be that of a quantisation; it means the same here as when fetching.
        Some(file) => match select::choose("", &cache.snapshot_files(commit), Some(file)) {
            Ok(selection) if selection.open.is_some() => {
                selection.files.into_iter().filter(|name| !name.ends_with(".json") || name == file).collect()
            }
            _ if snapshot.join(file).symlink_metadata().is_ok() => vec![file.to_owned()],
            _ => return Ok(()),
        },
        None => Vec::new(),
    };
    let links: Vec<PathBuf> = match file {
        Some(_) => names.iter().map(|name| snapshot.join(name)).collect(),
        None => files_below(&snapshot),
    };
    let blobs = cache.root().join("blobs");
    let blob_of = |link: &Path| fs::canonicalize(link).ok();
    let candidates: BTreeSet<PathBuf> = links.iter().filter_map(|link| blob_of(link)).collect();
    for link in &links {
        removed.take(link)?;
    }
    let used: BTreeSet<PathBuf> =
        commits(cache).iter().flat_map(|commit| files_below(&cache.snapshot(commit))).filter_map(|link| blob_of(&link)).collect();
    let blobs = fs::canonicalize(&blobs).unwrap_or(blobs);
    for blob in candidates.difference(&used).filter(|blob| blob.parent() == Some(&blobs)) {
        removed.take(blob)?;
    }
    if files_below(&snapshot).is_empty() {
        let _ = fs::remove_dir_all(&snapshot);
        for (name, at) in refs(cache) {
            if at == commit {
                let _ = fs::remove_file(cache.root().join("refs").join(name));
            }
        }
        let _ = fs::remove_file(cache.root().join(".solarium").join(format!("{commit}.json")));
        if commits(cache).is_empty() && files_below(&blobs).is_empty() {
            remove_repo(cache, removed)?;
        }
    }
    Ok(())
}
