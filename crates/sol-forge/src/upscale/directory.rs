//! A directory that appears whole or not at all, and that a killed run can be taken up in.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use sol_weights::gguf::Existing;

use crate::place::{sync_dir, write_synced};
use crate::{Error, Result};

/// What is carried along from the base, where it is there.
const CARRIED: [&str; 13] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "LICENSE",
    "LICENSE.txt",
    "NOTICE",
];

/// The order that an unfinished directory was for.
const ORDER: &str = ".order";

/// A directory being built.
pub(super) struct Building {
    out: PathBuf,
    dir: PathBuf,
    existing: Existing,
    /// Whether it is worth keeping when this run ends early.
    has_shards: bool,
    done: bool,
}

impl Building {
    /// Begins the directory that will be at `out`, or goes on with one of the same `order`.
    pub(super) fn begin(out: &Path, existing: Existing, order: &str) -> Result<Self> {
        check_place(out, existing)?;
        if out.file_name().is_none() {
            return Err(Error::Io { path: out.into(), cause: io::Error::other("it has no name") });
        }
        let [dir, _] = beside(out);
        let failed = |cause| Error::Io { path: out.into(), cause };
        let same = fs::read_to_string(dir.join(ORDER)).is_ok_and(|old| old == order);
        if !same {
            remove(&dir).map_err(failed)?;
            fs::create_dir(&dir).map_err(failed)?;
            fs::write(dir.join(ORDER), order).map_err(failed)?;
        }
        // Shards that a killed run was writing.
        for entry in fs::read_dir(&dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with('.') && name.ends_with(".tmp") {
                fs::remove_file(&path).map_err(failed)?;
            }
        }
        Ok(Self { out: out.into(), dir, existing, has_shards: same, done: false })
    }

    /// Where it is being built.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A file in it.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The hashes of the tensors of a shard that is there already.
    pub(super) fn finished(&self, shard: &str) -> Option<Vec<(String, String)>> {
        if !self.path(shard).exists() {
            return None;
        }
        serde_json::from_slice(&fs::read(self.path(&format!(".{shard}"))).ok()?).ok()
    }

    /// Notes that a shard is whole.
    pub(super) fn finish(&mut self, shard: &str, hashes: &[(String, String)]) -> Result<()> {
        let text = serde_json::to_string(hashes).map_err(|error| self.failed(io::Error::other(error)))?;
        fs::write(self.path(&format!(".{shard}")), text).map_err(|cause| self.failed(cause))?;
        self.has_shards = true;
        Ok(())
    }

    /// Writes a small file.
    pub(super) fn put(&self, name: &str, text: &str) -> Result<()> {
        write_synced(&self.path(name), text.as_bytes()).map_err(|cause| self.failed(cause))
    }

    /// Copies the base's tokenizer, chat template, generation config and licence, and its code unless the result is `another`
    /// architecture, which that code is not for.
    pub(super) fn carry(&self, base: &Path, another: bool) -> Result<()> {
        let failed = |cause| Error::Io { path: base.into(), cause };
        for entry in fs::read_dir(base).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let is_code = name.ends_with(".py") && !another;
            if (CARRIED.contains(&name.as_str()) || is_code) && entry.path().is_file() {
                let bytes = fs::read(entry.path()).map_err(failed)?;
                write_synced(&self.path(&name), &bytes).map_err(|cause| self.failed(cause))?;
            }
        }
        Ok(())
    }

    /// Puts the directory in its place.
    pub(super) fn in_place(mut self) -> Result<()> {
        check_place(&self.out, self.existing)?;
        for entry in fs::read_dir(&self.dir).map_err(|cause| self.failed(cause))? {
            let path = entry.map_err(|cause| self.failed(cause))?.path();
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
                fs::remove_file(&path).map_err(|cause| self.failed(cause))?;
            }
        }
        sync_dir(&self.dir).map_err(|cause| self.failed(cause))?;
        let [_, old] = beside(&self.out);
        let replaces = self.out.exists();
        if replaces {
            remove(&old).and_then(|()| fs::rename(&self.out, &old)).map_err(|cause| self.failed(cause))?;
        }
        if let Err(cause) = fs::rename(&self.dir, &self.out) {
            if replaces {
                let _: io::Result<()> = fs::rename(&old, &self.out);
            }
            return Err(self.failed(cause));
        }
        self.done = true;
        sync_dir(self.out.parent().unwrap_or(Path::new(""))).map_err(|cause| self.failed(cause))?;
        // The new one is there, also after a power cut: what is left of the old one is only in the way.
        let _: io::Result<()> = remove(&old);
        Ok(())
    }

    fn failed(&self, cause: io::Error) -> Error {
        Error::Io { path: self.out.clone(), cause }
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        if !self.done && !self.has_shards {
            // Best effort: nothing in it is of use.
            let _: io::Result<()> = remove(&self.dir);
        }
    }
}

/// Where a directory at `out` is built, and where the one that it replaces is meanwhile.
pub(super) fn beside(out: &Path) -> [PathBuf; 2] {
    let name = out.file_name().unwrap_or_default().to_string_lossy();
    ["unfinished", "replaced"].map(|what| out.with_file_name(format!(".{name}.{what}")))
}

/// Only a checkpoint is replaced, and an empty directory: not somebody's home.
fn check_place(out: &Path, existing: Existing) -> Result<()> {
    let failed = |cause| Error::Io { path: out.into(), cause };
    let entries = match fs::read_dir(out) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(cause) => return Err(failed(cause)),
        Ok(entries) => entries.collect::<io::Result<Vec<_>>>().map_err(failed)?,
    };
    if entries.is_empty() {
        return Ok(());
    }
    if existing == Existing::Refuse {
        return Err(sol_weights::Error::Exists { path: out.into() }.into());
    }
    if !out.join("config.json").is_file() {
        return Err(failed(io::Error::other("it is a directory with something else than a model; remove it yourself")));
    }
    if let Some(inner) = entries.iter().find(|entry| entry.path().is_dir()) {
        let problem = format!("it holds a directory, {}; remove it yourself", inner.file_name().display());
        return Err(failed(io::Error::other(problem)));
    }
    Ok(())
}

fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
