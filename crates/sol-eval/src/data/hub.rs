//! Data sets of the hub: the repository's own files where they can be read, else the Parquet files that the hub converts every
//! data set to, script-based ones and CSV too.

use sol_hub::{DatasetFiles, Error as HubError, Hub, Progress};

use super::layout::{self, Configs};
use super::{Found, Location};
use crate::{Error, Result};

/// The branch that the hub keeps its conversions in.
const CONVERTED: &str = "refs/convert/parquet";

/// Fetches the files of a split, where they are not in the cache.
pub(super) fn find(hub: &Hub, location: &Location, split: &str, progress: &dyn Progress) -> Result<Found> {
    let repo = location.hub.as_deref().unwrap_or_default();
    let stems = location.stems(split);
    let choose =
        |names: &[String]| layout::choose(names, &stems, location.config.as_deref(), Configs::Folders).unwrap_or_default();
    let found = |files: DatasetFiles| Found { dir: files.dir, names: files.files, hub: Some(format!("{repo}@{}", files.commit)) };
    let revisions = match location.revision.as_deref() {
        Some(pinned) => vec![Some(pinned)],
        None => vec![None, Some(CONVERTED)],
    };
    let cached = || revisions.iter().find_map(|revision| hub.cached_dataset(repo, *revision, &choose));
    if location.gated && hub.config().token.is_none() {
        return match cached() {
            Some(files) => Ok(found(files)),
            None => Err(gated(hub, location, "no token is set")),
        };
    }
    for &revision in &revisions {
        match hub.dataset(repo, revision, &choose, progress) {
            Ok(files) if files.files.is_empty() => {}
            Ok(files) => return Ok(found(files)),
            // The hub has not converted it.
            Err(HubError::RevisionNotFound { .. }) if revision == Some(CONVERTED) => {}
            Err(error @ (HubError::Unreachable { .. } | HubError::OfflineDataset { .. })) => {
                // What is here may be of the other branch.
                return match cached() {
                    Some(files) => {
                        if !hub.config().offline {
                            progress.note(&format!("{error}; using {repo} as it is in the cache"));
                        }
                        Ok(found(files))
                    }
                    None => Err(no_data(location, format!("{error}; or give the rows with --data DIR"))),
                };
            }
            Err(error @ (HubError::Gated { .. } | HubError::NoAccess { .. })) => {
                return Err(gated(hub, location, &error.to_string()));
            }
            Err(error @ (HubError::RepoNotFound { .. } | HubError::RevisionNotFound { .. } | HubError::BadDataset { .. })) => {
                return Err(no_data(location, error.to_string()));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let config = location.config.as_ref().map(|config| format!(" of config '{config}'")).unwrap_or_default();
    let revision = location.revision.as_deref().unwrap_or("main");
    let other = if revisions.len() > 1 { format!(", nor of {CONVERTED}") } else { String::new() };
    let names: Vec<&String> = stems.iter().filter(|stem| !stem.ends_with(".partial")).collect();
    let names: Vec<String> = names.iter().map(|name| format!("'{name}'")).collect();
    let problem = format!(
        "{repo} has no Parquet or JSON Lines files of {revision}{other} for split {}{config}; give the rows with --data DIR",
        names.join(" or ")
    );
    Err(no_data(location, problem))
}

fn no_data(location: &Location, problem: String) -> Error {
    Error::NoData { task: location.name(), problem }
}

fn gated(hub: &Hub, location: &Location, reason: &str) -> Error {
    let repo = location.hub.as_deref().unwrap_or_default();
    let page = format!("{}/datasets/{repo}", hub.config().endpoint);
    let problem = format!(
        "{repo} is gated: accept its conditions at {page} and set HF_TOKEN to a token of that account, or give the rows with \
         --data DIR ({reason})"
    );
    no_data(location, problem)
}
