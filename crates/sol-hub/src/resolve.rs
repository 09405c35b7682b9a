//! From a reference to a path: what is asked of the hub, what of the cache, and in which order.

use std::fs;
use std::path::PathBuf;

use crate::Hub;
use crate::cache::{self, HUB_VARIABLE, Record, RepoCache, is_full_commit};
use crate::download::{bytes_missing, fetch_blob};
use crate::error::{Error, Result};
use crate::http::{FileFacts, Place};
use crate::progress::Progress;
use crate::reference::{ModelRef, check_file_name, check_repo, check_revision};
use crate::select::{self, Selection};

pub(crate) const DEFAULT_REVISION: &str = "main";

impl Hub {
    /// Makes a model available on this machine: a file, or a directory with everything in it.
    ///
    /// A branch or tag is looked up at the hub each time, in one request; a hub that is not there is
    /// no error when the cache holds what the branch was at last.
    pub fn resolve(&self, model: &ModelRef, progress: &dyn Progress) -> Result<PathBuf> {
        match model {
            ModelRef::Path(path) if path.exists() => Ok(path.clone()),
            ModelRef::Path(path) => Err(Error::PathNotFound { path: path.clone(), hint: "" }),
            ModelRef::Default => self.resolve_default(progress),
            ModelRef::Repo { repo, revision, file } => {
                check(model)?;
                let revision = revision.as_deref().unwrap_or(DEFAULT_REVISION);
                self.resolve_repo(model, repo, revision, file.as_deref(), progress)
            }
        }
    }

    /// The path of a model that is complete on this machine. Neither the hub nor pip is asked.
    pub fn cached(&self, model: &ModelRef) -> Option<PathBuf> {
        match model {
            ModelRef::Path(path) => path.exists().then(|| path.clone()),
            ModelRef::Default => self.cached_default(),
            ModelRef::Repo { repo, revision, file } => {
                check_repo(repo).ok()?;
                let cache = RepoCache::new(&self.config.hub_cache, repo);
                cached(&cache, repo, revision.as_deref().unwrap_or(DEFAULT_REVISION), file.as_deref())
            }
        }
    }

    fn resolve_repo(
        &self,
        model: &ModelRef,
        repo: &str,
        revision: &str,
        file: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<PathBuf> {
        let cache = RepoCache::new(&self.config.hub_cache, repo);
        let cached = || cached(&cache, repo, revision, file);
        if self.config.offline {
            return cached().ok_or_else(|| Error::Offline { model: model.to_string(), cache: self.config.hub_cache.clone() });
        }
        // A commit in full can not have changed.
        if is_full_commit(revision)
            && cache.record(revision).is_some()
            && let Some(path) = cached()
        {
            return Ok(path);
        }
        let listing = match self.client().listing(Place { repo, revision }) {
            Ok(listing) => listing,
            Err(error) if error.is_unreachable() => {
                return match cached() {
                    Some(path) => {
                        progress.note(&format!("{error}; using {model} as it is in the cache"));
                        Ok(path)
                    }
                    None => Err(error),
                };
            }
            Err(error) => return Err(error),
        };
        let commit = listing.commit;
        let selection = select::choose(repo, &listing.files, file)?;
        if let Some(note) = &selection.note {
            progress.note(note);
        }
        let mut record = cache.record(&commit).unwrap_or_default();
        if let Some(path) = complete(&cache, &commit, &record, &selection) {
            // A cache that cannot be written can still be read.
            if let Err(error) = cache.set_ref(revision, &commit) {
                tracing::debug!(%error, "not noting where {revision} is");
            }
            return Ok(path);
        }

        let place = Place { repo, revision: &commit };
        let mut wanted = Vec::new();
        for name in &selection.files {
            let known = record.sizes.get(name).is_some_and(|size| cache.has(&commit, name, Some(*size)));
            if !known {
                wanted.push((name.clone(), self.client().facts(place, name)?));
            }
        }
        self.check_space(&cache, repo, &wanted)?;
        let all_here = wanted.iter().all(|(name, facts)| cache.has(&commit, name, facts.size));
        // Before the first byte: from here on a cut is noticed.
        record.listing = listing.files;
        match cache.set_record(&commit, &record) {
            // A complete cache of another program, and no right to add to it.
            Err(error) if all_here => tracing::debug!(%error, "not recording {commit}"),
            outcome => outcome?,
        }
        if !all_here {
            for (name, size) in self.fetch(&cache, place, &commit, &wanted, progress)? {
                record.sizes.insert(name, size);
            }
        } else {
            for (name, _) in &wanted {
                let size = fs::metadata(cache.snapshot(&commit).join(name)).map_or(0, |found| found.len());
                record.sizes.insert(name.clone(), size);
            }
        }
        let noted = cache.set_record(&commit, &record).and_then(|()| cache.set_ref(revision, &commit));
        match noted {
            Err(error) if all_here => tracing::debug!(%error, "not recording {commit}"),
            outcome => outcome?,
        }
        Ok(path_of(&cache, &commit, &selection))
    }

    /// Fetches and links files. Gives their sizes.
    pub(crate) fn fetch(
        &self,
        cache: &RepoCache,
        place: Place<'_>,
        commit: &str,
        files: &[(String, FileFacts)],
        progress: &dyn Progress,
    ) -> Result<Vec<(String, u64)>> {
        files
            .iter()
            .map(|(name, facts)| {
                let size = fetch_blob(self.client(), cache, place, name, facts, progress)?;
                cache.link(commit, name, &facts.etag)?;
                Ok((name.clone(), size))
            })
            .collect()
    }

    /// Whether the disk has room for what is missing, before anything is written.
    pub(crate) fn check_space(&self, cache: &RepoCache, repo: &str, files: &[(String, FileFacts)]) -> Result<()> {
        let root = cache.root();
        // The nearest directory that exists is on the disk in question.
        let disk = root.ancestors().find(|dir| dir.is_dir()).unwrap_or(&root);
        let needed: u64 = files.iter().map(|(_, facts)| bytes_missing(cache, facts)).fold(0, u64::saturating_add);
        match cache::free_space(disk) {
            Some(free) if free < needed => Err(Error::NoSpace {
                file: repo.to_owned(),
                path: root,
                needed: Some(needed),
                free: Some(free),
                variable: HUB_VARIABLE,
            }),
            _ => Ok(()),
        }
    }
}

/// Whether a reference can be one: those that parse made are, but a caller can make one by hand.
pub(crate) fn check(model: &ModelRef) -> Result<()> {
    let ModelRef::Repo { repo, revision, file } = model else { return Ok(()) };
    let bad = |reason: String| Error::BadReference { reference: model.to_string(), reason };
    check_repo(repo).map_err(bad)?;
    revision.as_deref().map_or(Ok(()), check_revision).map_err(bad)?;
    file.as_deref().map_or(Ok(()), check_file_name).map_err(bad)
}

/// The path, if every file of the selection is there as it was checked.
fn complete(cache: &RepoCache, commit: &str, record: &Record, selection: &Selection) -> Option<PathBuf> {
    let known = |name: &String| record.sizes.get(name).is_some_and(|size| cache.has(commit, name, Some(*size)));
    selection.files.iter().all(known).then(|| path_of(cache, commit, selection))
}

fn path_of(cache: &RepoCache, commit: &str, selection: &Selection) -> PathBuf {
    let snapshot = cache.snapshot(commit);
    match &selection.open {
        Some(file) => snapshot.join(file),
        None => snapshot,
    }
}

/// What the cache alone can answer.
pub(crate) fn cached(cache: &RepoCache, repo: &str, revision: &str, file: Option<&str>) -> Option<PathBuf> {
    let commit = cache.commit_of(revision)?;
    let record = cache.record(&commit).unwrap_or_default();
    if !record.listing.is_empty() {
        let selection = select::choose(repo, &record.listing, file).ok()?;
        return complete(cache, &commit, &record, &selection);
    }
    // Another program's: no list of what there should be, except what the names and the index say.
    let selection = select::choose(repo, &cache.snapshot_files(&commit), file).ok()?;
    let path = path_of(cache, &commit, &selection);
    if selection.open.is_none() {
        let config = cache.has(&commit, "config.json", None);
        let index = fs::read_to_string(path.join("model.safetensors.index.json")).ok();
        let shards = match index {
            Some(index) => select::shards_of_index(&index)?,
            None => Vec::new(),
        };
        let shards_here = shards.iter().all(|shard| check_file_name(shard).is_ok() && cache.has(&commit, shard, None));
        if !config || !shards_here {
            return None;
        }
    }
    Some(path)
}
