//! Rows of data sets: files in every form, broken ones, the hub's, and the whole pack of `shared` where it is.

mod broken;
mod folder;
mod hub;
mod pack;
mod parquet;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sol_eval::data::{Location, Source};
use sol_eval::{Error, Result};
use sol_hub::Silent;

/// A location from the table of a task file.
pub(crate) fn location(table: &str) -> Location {
    toml::from_str(table).unwrap()
}

/// The rows of a folder's split, each as the text that it would be written as.
pub(crate) fn texts(dir: &Path, table: &str, split: &str) -> Vec<String> {
    let rows = rows(dir, table, split).unwrap_or_else(|error| panic!("{error}"));
    rows.iter().map(Value::to_string).collect()
}

pub(crate) fn rows(dir: &Path, table: &str, split: &str) -> Result<Vec<Value>> {
    let rows = Source::folder(dir).rows(&location(table), split, &Silent)?;
    Ok(rows.into_iter().map(Value::Object).collect())
}

pub(crate) fn fail(dir: &Path, table: &str, split: &str) -> Error {
    match rows(dir, table, split) {
        Ok(rows) => panic!("{} rows", rows.len()),
        Err(error) => error,
    }
}

/// Writes a file below `dir`, compressed as its name says.
pub(crate) fn write(dir: &Path, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let contents = contents.as_ref();
    let bytes = match path.extension().and_then(|extension| extension.to_str()) {
        Some("gz") => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(contents).unwrap();
            encoder.finish().unwrap()
        }
        Some("zst") => zstd::encode_all(contents, 0).unwrap(),
        _ => contents.to_vec(),
    };
    fs::write(&path, bytes).unwrap();
    path
}

/// A file that this project carries.
pub(crate) fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parquet").join(name)
}
