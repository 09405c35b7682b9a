//! Rows, from a folder or from the hub.
//!
//! A task says in its `[data]` table where its rows are ([`Location`]); a [`Source`] finds the files, under `--data DIR`
//! (`folder`) or at the hub (`hub`), by the same rules for their names (`layout`), and reads them (`jsonl`, `parquet`) in the
//! data set's order, columns in theirs. What was read is told for the run's record ([`Origin`]).

mod folder;
mod footer;
mod hub;
mod jsonl;
mod layout;
mod location;
mod parquet;

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use sol_hub::{Hub, Progress};

pub use self::location::{Columns, Location, OneOrMore};
use crate::hash::digits;
use crate::{Error, Result};

/// A file that unpacks to more rows than any benchmark has is hostile.
const MAX_ROWS: usize = 20_000_000;
/// Texts of files with a `config` column that are kept for the next config, bytes.
const MAX_KEPT: usize = 256 << 20;

/// A row: its columns in their order.
pub type Row = Map<String, Value>;

/// Where rows come from.
pub struct Source {
    place: Place,
    known: Mutex<Known>,
}

enum Place {
    Folder(PathBuf),
    Hub(Box<Hub>),
}

/// What was found out so far: 57 subjects of one benchmark lie in the same files.
#[derive(Default)]
struct Known {
    found: HashMap<(Location, String), Found>,
    sha256: HashMap<PathBuf, String>,
    shelves: HashMap<PathBuf, Arc<jsonl::Shelf>>,
}

/// Files that hold a split.
#[derive(Clone, Debug, PartialEq)]
struct Found {
    dir: PathBuf,
    /// Below `dir`, in the order they are read in.
    names: Vec<String>,
    /// `org/name@commit` where they are the hub's.
    hub: Option<String>,
}

/// What rows were read from, for the run's record.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Origin {
    /// `org/name@commit` where the hub has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hub: Option<String>,
    /// The files, in the order they were read in.
    pub files: Vec<OriginFile>,
}

/// A file of an [`Origin`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OriginFile {
    /// Its path; of a hub's file the name in its repository.
    pub path: String,
    /// Of its bytes as they are on disk (compressed ones too), in hexadecimal digits.
    pub sha256: String,
}

impl Source {
    /// Rows of the files below a directory (`--data DIR`), which has a folder for each data set, or is one itself.
    pub fn folder(dir: impl Into<PathBuf>) -> Self {
        Self { place: Place::Folder(dir.into()), known: Mutex::default() }
    }

    /// Rows of the hub's data sets. A [`Location`] without one is a folder, below the working directory where it is relative.
    pub fn hub(hub: Hub) -> Self {
        Self { place: Place::Hub(Box::new(hub)), known: Mutex::default() }
    }

    /// The rows of a split (`test`, `train`, … as the task calls it), in their order.
    ///
    /// Where a file has a first column `config` and the location names a config, only its rows are given, without that column.
    /// Fails with [`Error::NoData`], whose `task` is then the data set's name, where there is no such split; with
    /// [`Error::Data`] where a file is broken or a column missing; with [`Error::Hub`] where a download fails.
    pub fn rows(&self, location: &Location, split: &str, progress: &dyn Progress) -> Result<Vec<Row>> {
        let found = self.find(location, split, progress)?;
        let mut rows = Rows::new(location.config.as_deref(), location.columns_of(split));
        for name in &found.names {
            self.read(&found.dir.join(name), &mut rows)?;
        }
        rows.finish(&found.dir.join(&found.names[0]))
    }

    /// What [`rows`](Self::rows) of the same split reads.
    pub fn describe(&self, location: &Location, split: &str, progress: &dyn Progress) -> Result<Origin> {
        let found = self.find(location, split, progress)?;
        let mut files = Vec::new();
        for name in &found.names {
            let path = found.dir.join(name);
            let sha256 = self.sha256(&path)?;
            let path = if found.hub.is_some() { name.clone() } else { path.display().to_string() };
            files.push(OriginFile { path, sha256 });
        }
        Ok(Origin { hub: found.hub, files })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Files that hold a split; never none.
    fn find(&self, location: &Location, split: &str, progress: &dyn Progress) -> Result<Found> {
        let key = (location.clone(), split.to_owned());
        if let Some(found) = self.known().found.get(&key) {
            return Ok(found.clone());
        }
        let found = match &self.place {
            Place::Folder(dir) => folder::find(dir, location, split, progress)?,
            Place::Hub(_) if location.hub.is_none() => folder::find(Path::new(""), location, split, progress)?,
            Place::Hub(hub) => hub::find(hub, location, split, progress)?,
        };
        self.known().found.insert(key, found.clone());
        Ok(found)
    }

    fn read(&self, file: &Path, rows: &mut Rows<'_>) -> Result<()> {
        if layout::is_parquet(file) {
            return parquet::rows(file, &mut |row, columns| rows.take(file, row, columns));
        }
        if let Some(config) = rows.config {
            let shelf = self.known().shelves.get(file).cloned();
            let shelf = match shelf {
                Some(shelf) => Some(shelf),
                None => jsonl::Shelf::read(file)?.map(Arc::new),
            };
            if let Some(shelf) = shelf {
                let mut known = self.known();
                if known.shelves.values().map(|shelf| shelf.bytes()).sum::<usize>() > MAX_KEPT {
                    known.shelves.clear();
                }
                known.shelves.insert(file.to_owned(), Arc::clone(&shelf));
                drop(known);
                rows.configs.extend(shelf.configs().map(str::to_owned));
                return shelf.rows(file, config, &mut |line, columns| rows.take(file, line, columns));
            }
        }
        jsonl::rows(file, &mut |line, columns| rows.take(file, line, columns))
    }

    fn sha256(&self, file: &Path) -> Result<String> {
        if let Some(known) = self.known().sha256.get(file) {
            return Ok(known.clone());
        }
        let mut hash = Sha256::new();
        let mut opened = File::open(file).map_err(|error| unreadable(file, error))?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            match opened.read(&mut buffer).map_err(|error| unreadable(file, error))? {
                0 => break,
                count => hash.update(&buffer[..count]),
            }
        }
        let digits = digits(hash);
        self.known().sha256.insert(file.to_owned(), digits.clone());
        Ok(digits)
    }
}

/// Rows on their way out: chosen by their config, checked for their columns.
struct Rows<'a> {
    config: Option<&'a str>,
    columns: &'a [String],
    rows: Vec<Row>,
    /// Configs that there are, for the message that the one asked for is not.
    configs: BTreeSet<String>,
}

/// Name of the column that tells the configs of a file apart, where it is the first.
const CONFIG: &str = "config";

impl<'a> Rows<'a> {
    fn new(config: Option<&'a str>, columns: &'a [String]) -> Self {
        Self { config, columns, rows: Vec::new(), configs: BTreeSet::new() }
    }

    /// Takes a row; `number` is its 1-based line or row.
    fn take(&mut self, file: &Path, number: usize, mut row: Row) -> Result<()> {
        let broken = |problem| Err(Error::Data { file: file.to_owned(), line: Some(number), problem });
        if let Some(config) = self.config
            && row.keys().next().is_some_and(|first| first == CONFIG)
            && let Some(Value::String(of_row)) = row.get(CONFIG)
        {
            if of_row != config {
                if !self.configs.contains(of_row) {
                    self.configs.insert(of_row.clone());
                }
                return Ok(());
            }
            row.shift_remove(CONFIG);
        }
        if let Some(column) = self.columns.iter().find(|column| !row.contains_key(column.as_str())) {
            let there: Vec<&str> = row.keys().map(String::as_str).collect();
            return broken(format!("there is no column '{column}'; the columns are {}", there.join(", ")));
        }
        if self.rows.len() >= MAX_ROWS {
            return broken(format!("there are more than {MAX_ROWS} rows"));
        }
        self.rows.push(row);
        Ok(())
    }

    fn finish(self, file: &Path) -> Result<Vec<Row>> {
        if !self.rows.is_empty() {
            return Ok(self.rows);
        }
        let problem = match (self.config, self.configs.is_empty()) {
            (Some(config), false) => {
                let there: Vec<&str> = self.configs.iter().map(String::as_str).collect();
                format!("no row has the config '{config}'; there are {}", there.join(", "))
            }
            _ => "there are no rows in it".to_owned(),
        };
        Err(Error::Data { file: file.to_owned(), line: None, problem })
    }
}

fn unreadable(file: &Path, source: std::io::Error) -> Error {
    Error::Io { path: file.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(text: &str) -> Row {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_config_selects_and_its_column_goes() {
        let columns = ["a".to_owned()];
        let mut rows = Rows::new(Some("x"), &columns);
        let file = Path::new("f");
        rows.take(file, 1, row(r#"{"config": "x", "b": 1, "a": 2}"#)).unwrap();
        rows.take(file, 2, row(r#"{"config": "y", "a": 3}"#)).unwrap();
        // Not the first column: one of the data set's own.
        rows.take(file, 3, row(r#"{"a": 4, "config": "y"}"#)).unwrap();
        let texts: Vec<String> = rows.finish(file).unwrap().into_iter().map(|row| Value::Object(row).to_string()).collect();
        assert_eq!(texts, [r#"{"b":1,"a":2}"#, r#"{"a":4,"config":"y"}"#]);
    }

    #[test]
    fn without_a_config_all_rows_and_columns_stay() {
        let mut rows = Rows::new(None, &[]);
        rows.take(Path::new("f"), 1, row(r#"{"config": "x", "a": 2}"#)).unwrap();
        assert_eq!(rows.finish(Path::new("f")).unwrap(), [row(r#"{"config":"x","a":2}"#)]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let columns = ["question".to_owned()];
        let mut rows = Rows::new(Some("x"), &columns);
        let error = rows.take(Path::new("d/f.jsonl"), 7, row(r#"{"q": 1, "a": 2}"#)).unwrap_err().to_string();
        assert_eq!(error, "d/f.jsonl, line 7: there is no column 'question'; the columns are q, a");
        rows.take(Path::new("f"), 8, row(r#"{"config": "y"}"#)).unwrap();
        rows.take(Path::new("f"), 9, row(r#"{"config": "z"}"#)).unwrap();
        let error = rows.finish(Path::new("f")).unwrap_err().to_string();
        assert_eq!(error, "f: no row has the config 'x'; there are y, z");
    }
}
