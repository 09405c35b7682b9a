//! `--data DIR`: a folder for each data set, or one data set's folder itself.

use std::fs;
use std::path::{Path, PathBuf};

use sol_hub::Progress;

use super::layout::{self, Configs};
use super::{Found, Location};
use crate::{Error, Result};

/// `<config>/<split>/0000.parquet` is as deep as layouts go.
const DEPTH: usize = 3;
/// Somebody's home directory is no data set.
const MAX_FILES: usize = 100_000;

/// Looks for a split in `DIR/<folder>`, then in `DIR`.
pub(super) fn find(dir: &Path, location: &Location, split: &str, progress: &dyn Progress) -> Result<Found> {
    let stems = location.stems(split);
    let folders = location.folders();
    let names_in = |folder: &Path| {
        let names = files_below(folder);
        layout::choose(&names, &stems, location.config.as_deref(), Configs::FoldersOrRows)
    };
    for folder in folders.iter().map(|folder| dir.join(folder)) {
        if let Some(names) = names_in(&folder) {
            return Ok(Found { dir: folder, names, hub: None });
        }
    }
    // An empty DIR is the working directory, which nobody named.
    if !dir.as_os_str().is_empty()
        && let Some(names) = names_in(dir)
    {
        if !dir.file_name().is_some_and(|name| folders.iter().any(|folder| name == *folder)) {
            progress.note(&format!("{}: taken for the data of {}", dir.join(&names[0]).display(), location.name()));
        }
        return Ok(Found { dir: dir.to_owned(), names, hub: None });
    }
    Err(Error::NoData { task: location.name(), problem: missing(dir, &folders, &stems) })
}

/// What was looked for, and what is there instead.
fn missing(dir: &Path, folders: &[&str], stems: &[String]) -> String {
    let stems: Vec<&String> = stems.iter().filter(|stem| !stem.ends_with(".partial")).collect();
    let wanted: Vec<String> = stems.iter().map(|stem| format!("{stem}.jsonl")).collect();
    let wanted = format!("{} (or .jsonl.gz, .jsonl.zst, .json, .parquet)", wanted.join(" or "));
    let shown = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    if !shown.is_dir() {
        return format!("{} is no directory", shown.display());
    }
    match folders.iter().map(|folder| dir.join(folder)).find(|folder| folder.is_dir()) {
        Some(folder) => {
            let mut names = files_below(&folder);
            names.truncate(12);
            let there = if names.is_empty() { "no files".to_owned() } else { names.join(", ") };
            format!("{} has no {wanted}; there are {there}", folder.display())
        }
        None => format!("{} has no {wanted}, nor a folder {} with it", shown.display(), folders.join(" or ")),
    }
}

/// Names of the files below `root`, relative, sorted.
fn files_below(root: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut open = vec![(root.to_owned(), String::new(), 1)];
    while let Some((dir, above, depth)) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let path: PathBuf = entry.path();
            if path.is_dir() {
                if depth < DEPTH && !name.starts_with('.') {
                    open.push((path, format!("{above}{name}/"), depth + 1));
                }
            } else if path.is_file() && names.len() < MAX_FILES {
                names.push(format!("{above}{name}"));
            }
        }
        if names.len() >= MAX_FILES {
            break;
        }
    }
    names.sort();
    names
}
