//! The JSON files beside the weights of a Hugging Face checkpoint, as data: their meaning is for higher crates.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Error, Result};

/// The largest JSON file read into memory; the index of a model of 400 B parameters has about 10 MB.
const JSON_LIMIT: u64 = 64 << 20;

/// What a Hugging Face checkpoint says about itself.
#[derive(Clone, Debug)]
pub struct HfMetadata {
    /// The directory of the weights, where tokenizer files are too.
    pub dir: PathBuf,
    /// `config.json`; null when there is none.
    pub config: Value,
    /// `generation_config.json`.
    pub generation_config: Option<Value>,
}

impl HfMetadata {
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        Ok(Self {
            dir: dir.to_owned(),
            config: read_json(&dir.join("config.json"))?.unwrap_or_default(),
            generation_config: read_json(&dir.join("generation_config.json"))?,
        })
    }
}

/// A JSON file; `None` when there is no such file.
fn read_json(path: &Path) -> Result<Option<Value>> {
    if !path.exists() {
        return Ok(None);
    }
    let value = serde_json::from_slice(&read_small(path)?)
        .map_err(|cause| Error::malformed(path, "the file", format!("it is not JSON ({cause}); download it again")))?;
    Ok(Some(value))
}

/// A file that must be small, in memory.
pub(crate) fn read_small(path: &Path) -> Result<Vec<u8>> {
    // Asked before opening, because opening a named pipe would wait for a writer.
    if !fs::metadata(path).map_err(Error::io("open", path))?.is_file() {
        return Err(Error::NotACheckpoint { path: path.to_owned(), problem: "it is not a regular file".into() });
    }
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(Error::io("open", path))?;
    file.take(JSON_LIMIT + 1).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
    if bytes.len() as u64 > JSON_LIMIT {
        return Err(Error::malformed(
            path,
            "the file",
            format!("it has more than {} MiB; that is no JSON of a model", JSON_LIMIT >> 20),
        ));
    }
    Ok(bytes)
}
