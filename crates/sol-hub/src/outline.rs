//! A model's outline: its small files as they are, and of its weights the headers alone, so that one can look at a model
//! before anyone fetches it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::Hub;
use crate::error::{Error, Result};
use crate::http::Place;
use crate::progress::Progress;
use crate::reference::{Kind, ModelRef};
use crate::resolve::{DEFAULT_REVISION, check};
use crate::select;

/// The format allows headers of 100 MB; one of a model with a hundred thousand tensors has 15.
const MAX_HEADER: u64 = 100_000_000;

/// Larger files that are no weights are left out; the largest tokenizers have 35 MB.
const MAX_SMALL: u64 = 64 << 20;

impl Hub {
    /// Writes the outline of a repository's model to an empty directory. Each safetensors file has its header and its size,
    /// and is a hole otherwise: tensors have names, types and shapes, and all values are zero. Gives the path to open.
    pub fn outline(&self, model: &ModelRef, dir: &Path, progress: &dyn Progress) -> Result<PathBuf> {
        let ModelRef::Repo { repo, revision, file } = model else {
            return Err(Error::NoOutline { model: model.to_string(), reason: "it is no repository of the hub" });
        };
        check(model)?;
        if self.config.offline {
            return Err(Error::Offline { model: model.to_string(), cache: self.config.hub_cache.clone() });
        }
        let revision = revision.as_deref().unwrap_or(DEFAULT_REVISION);
        let listing = self.client().listing(Place { kind: Kind::Model, repo, revision })?;
        let selection = select::choose(repo, &listing.files, file.as_deref())?;
        let weights = |name: &str| name.ends_with(".safetensors");
        if !selection.files.iter().any(|name| weights(name)) {
            let reason = "only safetensors keep all that is to be known of a model in their headers";
            return Err(Error::NoOutline { model: model.to_string(), reason });
        }
        let place = Place { kind: Kind::Model, repo, revision: &listing.commit };
        for name in &selection.files {
            let path = dir.join(name);
            let io = |source| Error::Io { action: "write", path: path.clone(), source };
            fs::create_dir_all(path.parent().unwrap_or(dir)).map_err(io)?;
            progress.start(name, None, 0);
            let size = if weights(name) { self.client().facts(place, name)?.size } else { None };
            let Some(begin) = self.beginning(place, name, weights(name))? else { continue };
            progress.advance(begin.len() as u64);
            let mut out = File::create(&path).map_err(io)?;
            out.write_all(&begin).map_err(io)?;
            if let Some(size) = size {
                out.set_len(size).map_err(io)?;
            }
            progress.finish(name);
        }
        Ok(match &selection.open {
            Some(file) => dir.join(file),
            None => dir.to_owned(),
        })
    }

    /// A small file (`None` if it is not small), or the header of safetensors with the eight bytes before it.
    fn beginning(&self, place: Place<'_>, name: &str, header: bool) -> Result<Option<Vec<u8>>> {
        self.client().retrying(|| {
            let broken = |source: std::io::Error| Error::Interrupted { url: name.to_owned(), reason: source.to_string() };
            let mut reader = self.client().content(place, name, 0)?.reader;
            let mut bytes = Vec::new();
            if !header {
                reader.take(MAX_SMALL + 1).read_to_end(&mut bytes).map_err(broken)?;
                return Ok(Some(bytes).filter(|bytes| bytes.len() as u64 <= MAX_SMALL));
            }
            let damaged = |reason: &str| Error::Damaged { file: name.to_owned(), reason: reason.to_owned() };
            let mut length = [0; 8];
            reader.read_exact(&mut length).map_err(broken)?;
            let n = u64::from_le_bytes(length);
            if n > MAX_HEADER {
                return Err(damaged("its header is longer than the format allows"));
            }
            bytes.extend(length);
            reader.take(n).read_to_end(&mut bytes).map_err(broken)?;
            if (bytes.len() as u64) < 8 + n { Err(broken(std::io::ErrorKind::UnexpectedEof.into())) } else { Ok(Some(bytes)) }
        })
    }
}
