//! `model.safetensors.index.json`: which file of a sharded checkpoint holds which tensor.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::error::shown;
use crate::hf::read_small;
use crate::{Error, Result, Tensor};

/// An index, checked: every file it names is a plain file name.
#[derive(Debug)]
pub struct Index {
    /// Tensor name to file name.
    pub weight_map: BTreeMap<String, String>,
}

impl Index {
    /// Reads an index given as bytes; `path` is used in messages.
    pub fn parse(path: &Path, json: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Raw {
            weight_map: BTreeMap<String, String>,
        }
        let Raw { weight_map } = serde_json::from_slice(json).map_err(|cause| {
            let problem = format!("it is not an index of a safetensors checkpoint ({cause}); download it again");
            Error::malformed(path, "the index", problem)
        })?;
        for (tensor, file) in &weight_map {
            let mut parts = Path::new(file).components();
            // A backslash separates on Windows only, but no honest index has one.
            let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None));
            if !plain || file.contains(['\\', '/', '\0']) {
                let problem = format!(
                    "the index places it in `{}`, which is not a plain file name; do not trust this checkpoint",
                    shown(file)
                );
                return Err(Error::tensor(path, tensor, problem));
            }
        }
        if weight_map.is_empty() {
            return Err(Error::malformed(path, "the index", "it lists no tensors; download it again"));
        }
        Ok(Self { weight_map })
    }

    /// The files it names, each once, in order.
    pub fn files(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }
}

/// Opens all files of an index: their paths in order and their tensors. Where two files have a tensor of the same name the
/// index decides.
pub(crate) fn open_index(path: &Path) -> Result<(Vec<PathBuf>, Vec<Tensor>)> {
    let index = Index::parse(path, &read_small(path)?)?;
    let files = index.files();
    if let Some(missing) = files.iter().find(|file| !path.with_file_name(file).exists()) {
        let problem = format!("the index names `{}`, which is missing; download it too", shown(missing));
        return Err(Error::incomplete(path, problem));
    }
    let mut paths = Vec::new();
    let mut tensors: Vec<Tensor> = Vec::new();
    let mut names = HashSet::new();
    for file in files {
        let shard = path.with_file_name(file);
        for tensor in super::read(&shard)? {
            match index.weight_map.get(&tensor.name) {
                Some(home) if home != file => continue,
                _ if !names.insert(tensor.name.clone()) => {
                    return Err(Error::tensor(&shard, &tensor.name, "another file has it too and the index does not list it"));
                }
                _ => tensors.push(tensor),
            }
        }
        paths.push(shard);
    }
    match index.weight_map.iter().find(|(name, _)| !names.contains(*name)) {
        Some((name, file)) => {
            let problem = format!("the index places it in `{}`, which does not have it; download both again", shown(file));
            Err(Error::tensor(path, name, problem))
        }
        None => Ok((paths, tensors)),
    }
}

/// The index of the sharded checkpoint that a file named `PREFIX-00001-of-00003.safetensors` belongs to, if it is there.
pub(crate) fn index_beside(path: &Path) -> Option<PathBuf> {
    let stem = path.file_name()?.to_str()?.strip_suffix(".safetensors")?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (prefix, number) = rest.rsplit_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let index = path.with_file_name(format!("{prefix}.safetensors.index.json"));
    (digits(count) && digits(number) && index.exists()).then_some(index)
}
