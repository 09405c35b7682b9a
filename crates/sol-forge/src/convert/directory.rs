//! A Hugging Face directory that appears whole or not at all: written under a hidden name beside its place, renamed at the end.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use sol_weights::gguf::Existing;
use sol_weights::{DType, safetensors};

use super::ConvertError;
use super::rows::Output;
use crate::Result;
use crate::place::{sync_dir, write_synced};

/// A directory as it is written; dropped before [`finish`](Self::finish), nothing is left of it.
pub(super) struct Directory {
    place: PathBuf,
    unfinished: tempfile::TempDir,
    existing: Existing,
}

impl Directory {
    /// Begins the directory that will be at `place`.
    pub(super) fn create(place: &Path, existing: Existing) -> Result<Self> {
        check_place(place, existing)?;
        // `a/..` and `.` have no name of their own.
        let name = place
            .file_name()
            .ok_or_else(|| ConvertError::InTheWay { path: place.to_owned(), problem: "it has no name".into() })?;
        let parent = match place.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        let prefix = format!(".{}.", name.to_string_lossy());
        let unfinished = tempfile::Builder::new().prefix(&prefix).suffix(".tmp").tempdir_in(parent);
        let unfinished = unfinished.map_err(ConvertError::io("write", place))?;
        Ok(Self { place: place.to_owned(), unfinished, existing })
    }

    /// Where its files are until then.
    pub(super) fn path(&self) -> &Path {
        self.unfinished.path()
    }

    /// Writes one of its small files.
    pub(super) fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        write_synced(&self.path().join(name), bytes).map_err(ConvertError::io("write", &self.place.join(name)))
    }

    /// Refuses to begin what the disk can not hold.
    pub(super) fn check_space(&self, need: u64) -> Result<()> {
        match sol_weights::free_space(self.path()).filter(|free| *free < need) {
            Some(free) => Err(sol_weights::Error::NoSpace { path: self.place.clone(), need, free }.into()),
            None => Ok(()),
        }
    }

    /// Puts it in its place.
    pub(super) fn finish(self) -> Result<()> {
        let place = self.place;
        check_place(&place, self.existing)?;
        let made = self.unfinished.path().to_owned();
        let rename = || readable(&made).and_then(|()| sync_dir(&made)).and_then(|()| fs::rename(&made, &place));
        if !place.exists() {
            rename().map_err(ConvertError::io("write", &place))?;
            // Nothing is left under the old name that could be removed.
            let _: PathBuf = self.unfinished.keep();
            return Ok(());
        }
        // The old one keeps a name until the new one has its place.
        let old = made.with_extension("old");
        fs::rename(&place, &old).map_err(ConvertError::io("write", &place))?;
        if let Err(cause) = rename() {
            let _: io::Result<()> = fs::rename(&old, &place);
            return Err(ConvertError::io("write", &place)(cause));
        }
        let _: PathBuf = self.unfinished.keep();
        sync_dir(place.parent().unwrap_or(Path::new(""))).map_err(ConvertError::io("write", &place))?;
        fs::remove_dir_all(&old).map_err(ConvertError::io("remove", &old))
    }
}

/// Temporary directories are their owner's alone; a model is not.
#[cfg(unix)]
fn readable(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))
}

#[cfg(not(unix))]
fn readable(_dir: &Path) -> io::Result<()> {
    Ok(())
}

/// Only an empty directory or one that is nothing but a checkpoint is replaced.
fn check_place(place: &Path, existing: Existing) -> Result<()> {
    let in_the_way = |problem: String| ConvertError::InTheWay { path: place.to_owned(), problem };
    let found = match fs::metadata(place) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(ConvertError::io("write", place))?,
    };
    if !found.is_dir() {
        return Err(in_the_way("it is a file; a Hugging Face checkpoint is a directory".into()).into());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(place).map_err(ConvertError::io("list", place))? {
        let entry = entry.map_err(ConvertError::io("list", place))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() {
            return Err(in_the_way(format!("it holds a directory, {name}")).into());
        }
        names.push(name);
    }
    if names.is_empty() {
        return Ok(());
    }
    match existing {
        Existing::Refuse => Err(sol_weights::Error::Exists { path: place.to_owned() }.into()),
        Existing::Replace if names.iter().any(|name| name == "config.json") => Ok(()),
        Existing::Replace => Err(in_the_way("it has no config.json".into()).into()),
    }
}

/// Which tensors are in which file.
pub(super) struct Shards {
    /// Of each file: its name and its tensors.
    pub(super) files: Vec<(String, Vec<Output>)>,
    /// Bytes of all tensors.
    pub(super) bytes: u64,
}

impl Shards {
    /// Fills files of at most so many bytes (one tensor may be larger), in order.
    pub(super) fn of(outputs: Vec<Output>, most: u64) -> Self {
        let mut groups: Vec<Vec<Output>> = vec![Vec::new()];
        let (mut bytes, mut in_this) = (0, 0);
        for output in outputs {
            let len = output.info.byte_len().unwrap_or(0) as u64;
            if in_this > 0 && in_this + len > most {
                groups.push(Vec::new());
                in_this = 0;
            }
            in_this += len;
            bytes += len;
            groups.last_mut().into_iter().for_each(|group| group.push(output.clone()));
        }
        let count = groups.len();
        let name = |i: usize| match count {
            1 => "model.safetensors".to_owned(),
            _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
        };
        Self { files: groups.into_iter().enumerate().map(|(i, group)| (name(i), group)).collect(), bytes }
    }

    /// `model.safetensors.index.json`, where there is more than one file.
    pub(super) fn index(&self) -> Option<Value> {
        if self.files.len() == 1 {
            return None;
        }
        let places = self.files.iter().flat_map(|(file, outputs)| outputs.iter().map(move |o| (&o.info.name, file)));
        let map: Map<String, Value> = places.map(|(name, file)| (name.clone(), json!(file))).collect();
        Some(json!({ "metadata": { "total_size": self.bytes }, "weight_map": map }))
    }
}

/// Begins a file of the directory.
pub(super) fn shard(dir: &Directory, name: &str, outputs: &[Output]) -> Result<safetensors::Writer> {
    let header: Vec<(&str, DType, &[usize])> =
        outputs.iter().map(|o| (o.info.name.as_str(), o.info.dtype, o.info.shape.as_slice())).collect();
    Ok(safetensors::Writer::create(&dir.path().join(name), &header)?)
}
