//! Files of a data set: the same listing, downloads and cache as a model's, under the hub's other prefix.
//!
//! Which files those are is the caller's to say, who sees all names at once: the hub's data sets lie in several layouts.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use crate::Hub;
use crate::cache::RepoCache;
use crate::error::{Error, Result};
use crate::http::{Listing, Place};
use crate::progress::Progress;
use crate::reference::{Kind, check_repo, check_revision};
use crate::resolve::{Asked, DEFAULT_REVISION, complete};

/// Files of a data set on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetFiles {
    /// The commit that the revision is at.
    pub commit: String,
    /// Directory that the names are relative to.
    pub dir: PathBuf,
    /// The chosen files, in the order they were chosen in.
    pub files: Vec<String>,
}

/// What the hub was asked for data sets, by repository and revision. Benchmarks of many configs ask for one after the other.
pub(crate) type Listings = Mutex<HashMap<(String, String), Listing>>;

impl Hub {
    /// Makes files of a data set available on this machine. `choose` is given the names of all files of the revision (a
    /// branch, a tag, a commit; `main` where `None`) and gives those wanted; it may be asked twice. Choosing none is no error.
    ///
    /// A hub that is not there is no error when the cache holds what the branch was at last. Where a branch
    /// is at is asked once in the life of this value, so that all files of a run are of one commit.
    pub fn dataset(
        &self,
        repo: &str,
        revision: Option<&str>,
        choose: &dyn Fn(&[String]) -> Vec<String>,
        progress: &dyn Progress,
    ) -> Result<DatasetFiles> {
        let revision = check(repo, revision)?;
        let cache = RepoCache::new(&self.config.hub_cache, Kind::Dataset, repo);
        let place = Place { kind: Kind::Dataset, repo, revision };
        let key = (repo.to_owned(), revision.to_owned());
        let listings = || self.datasets.lock().unwrap_or_else(PoisonError::into_inner);
        let known = listings().get(&key).cloned();
        let asked = match known {
            Some(listing) => Asked::Listed(listing),
            None => self.ask(&cache, place, repo, &|| cached(&cache, revision, choose), progress)?,
        };
        match asked {
            Asked::Cached(found) => Ok(found),
            Asked::Offline => Err(Error::OfflineDataset { repo: repo.to_owned(), cache: self.config.hub_cache.clone() }),
            Asked::Listed(listing) => {
                listings().insert(key, listing.clone());
                let commit = listing.commit.clone();
                let files = choose(&listing.files);
                // A repository in which there is nothing leaves nothing behind.
                if !files.is_empty() {
                    self.bring(&cache, place, listing, &files, progress)?;
                }
                Ok(DatasetFiles { dir: cache.snapshot(&commit), commit, files })
            }
        }
    }

    /// The same from the cache alone: `None` where it does not have all that is chosen, or nothing is.
    pub fn cached_dataset(
        &self,
        repo: &str,
        revision: Option<&str>,
        choose: &dyn Fn(&[String]) -> Vec<String>,
    ) -> Option<DatasetFiles> {
        let revision = check(repo, revision).ok()?;
        cached(&RepoCache::new(&self.config.hub_cache, Kind::Dataset, repo), revision, choose)
    }
}

fn check<'a>(repo: &str, revision: Option<&'a str>) -> Result<&'a str> {
    let bad = |reason: String| Error::BadDataset { repo: repo.to_owned(), reason };
    check_repo(repo).map_err(bad)?;
    let revision = revision.unwrap_or(DEFAULT_REVISION);
    check_revision(revision).map_err(|reason| bad(format!("the revision {reason}")))?;
    Ok(revision)
}

fn cached(cache: &RepoCache, revision: &str, choose: &dyn Fn(&[String]) -> Vec<String>) -> Option<DatasetFiles> {
    let commit = cache.commit_of(revision)?;
    let record = cache.record(&commit).unwrap_or_default();
    let files = if record.listing.is_empty() {
        // Another program's: what is there is all that is known.
        choose(&cache.snapshot_files(&commit))
    } else {
        let files = choose(&record.listing);
        if !complete(cache, &commit, &record, &files) {
            return None;
        }
        files
    };
    (!files.is_empty()).then(|| DatasetFiles { dir: cache.snapshot(&commit), commit, files })
}
