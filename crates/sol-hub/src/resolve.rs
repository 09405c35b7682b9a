//! From a reference to a path: what is asked of the hub, what of the cache, and in which order.

use std::fs;
use std::path::PathBuf;

use crate::Hub;
use crate::cache::{self, HUB_VARIABLE, Record, RepoCache, is_full_commit};
use crate::download::{bytes_missing, fetch_blob};
use crate::error::{Error, Result};
use crate::http::{FileFacts, Listing, Place};
use crate::progress::Progress;
use crate::reference::{Kind, ModelRef, check_file_name, check_repo, check_revision};
use crate::select::{self, Selection};

pub(crate) const DEFAULT_REVISION: &str = "main";

/// What [`Hub::ask`] found.
pub(crate) enum Asked<T> {
    /// What the cache holds is the answer.
    Cached(T),
    /// What the hub has.
    Listed(Listing),
    /// Nothing, and the hub must not be asked.
    Offline,
}

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
                let cache = RepoCache::new(&self.config.hub_cache, Kind::Model, repo);
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
        let cache = RepoCache::new(&self.config.hub_cache, Kind::Model, repo);
        let cached = || cached(&cache, repo, revision, file);
        let place = Place { kind: Kind::Model, repo, revision };
        let listing = match self.ask(&cache, place, &model.to_string(), &cached, progress)? {
            Asked::Cached(path) => return Ok(path),
            Asked::Listed(listing) => listing,
            Asked::Offline => {
                return Err(Error::Offline { model: model.to_string(), cache: self.config.hub_cache.clone() });
            }
        };
        let selection = select::choose(repo, &listing.files, file)?;
        if let Some(note) = &selection.note {
            progress.note(note);
        }
        let commit = listing.commit.clone();
        self.bring(&cache, place, listing, &selection.files, progress)?;
        Ok(path_of(&cache, &commit, &selection))
    }

    /// What there is at a revision: the cache's word where it has the last one, the hub's otherwise.
    /// `name` is what a person calls it.
    pub(crate) fn ask<T>(
        &self,
        cache: &RepoCache,
        place: Place<'_>,
        name: &str,
        cached: &dyn Fn() -> Option<T>,
        progress: &dyn Progress,
    ) -> Result<Asked<T>> {
        if self.config.offline {
            return Ok(cached().map_or(Asked::Offline, Asked::Cached));
        }
        // A commit in full can not have changed.
        if is_full_commit(place.revision)
            && cache.record(place.revision).is_some()
            && let Some(found) = cached()
        {
            return Ok(Asked::Cached(found));
        }
        match self.client().listing(place) {
            Ok(listing) => Ok(Asked::Listed(listing)),
            Err(error) if error.is_unreachable() => match cached() {
                Some(found) => {
                    progress.note(&format!("{error}; using {name} as it is in the cache"));
                    Ok(Asked::Cached(found))
                }
                None => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// Makes sure that these files of a listing are in the cache, whole, and notes it there.
    pub(crate) fn bring(
        &self,
        cache: &RepoCache,
        asked: Place<'_>,
        listing: Listing,
        files: &[String],
        progress: &dyn Progress,
    ) -> Result<()> {
        let (revision, commit) = (asked.revision, listing.commit);
        let mut record = cache.record(&commit).unwrap_or_default();
        if complete(cache, &commit, &record, files) {
            // A cache that cannot be written can still be read.
            if let Err(error) = cache.set_ref(revision, &commit) {
                tracing::debug!(%error, "not noting where {revision} is");
            }
            return Ok(());
        }

        let place = Place { revision: &commit, ..asked };
        let mut wanted = Vec::new();
        for name in files {
            let known = record.sizes.get(name).is_some_and(|size| cache.has(&commit, name, Some(*size)));
            if !known {
                wanted.push((name.clone(), self.client().facts(place, name)?));
            }
        }
        self.check_space(cache, place.repo, &wanted)?;
        let all_here = wanted.iter().all(|(name, facts)| cache.has(&commit, name, facts.size));
        // Before the first byte: from here on a cut is noticed.
        record.listing = listing.files;
        match cache.set_record(&commit, &record) {
            // A complete cache of another program, and no right to add to it.
            Err(error) if all_here => tracing::debug!(%error, "not recording {commit}"),
            outcome => outcome?,
        }
        if !all_here {
            for (name, size) in self.fetch(cache, place, &commit, &wanted, progress)? {
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
        Ok(())
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

/// Whether every one of these files is there as it was checked.
pub(crate) fn complete(cache: &RepoCache, commit: &str, record: &Record, files: &[String]) -> bool {
    files.iter().all(|name| record.sizes.get(name).is_some_and(|size| cache.has(commit, name, Some(*size))))
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
        return complete(cache, &commit, &record, &selection.files).then(|| path_of(cache, &commit, &selection));
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
