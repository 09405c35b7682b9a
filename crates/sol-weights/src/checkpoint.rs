//! Opening whatever a path names: a file of either format, one part of several, or a directory.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::hf::HfMetadata;
use crate::{Bytes, DType, Error, Result, Tensor, gguf, safetensors};

/// A checkpoint's file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// GGUF, in one file or split.
    Gguf,
    /// safetensors, in one file or sharded.
    Safetensors,
}

/// What a checkpoint says about itself, in the form of its format.
#[derive(Clone, Debug)]
pub enum Metadata {
    /// The metadata section of a GGUF file.
    Gguf(gguf::Metadata),
    /// The JSON files beside safetensors.
    Hf(HfMetadata),
}

/// An opened checkpoint: headers read and checked, tensor data mapped and untouched.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    path: PathBuf,
    files: Vec<PathBuf>,
    /// A view of each file that has tensors.
    maps: Vec<Bytes>,
    tensors: Vec<Tensor>,
    index: HashMap<String, usize>,
    metadata: Metadata,
}

impl Checkpoint {
    /// Opens a `.gguf` (or any part of a split set), a `.safetensors` (or any shard with its index beside it), a
    /// `*.safetensors.index.json`, or a directory that holds one of these (safetensors are preferred). A file with
    /// another ending is taken for what its first bytes say.
    pub fn open(path: &Path) -> Result<Self> {
        let file = match fs::metadata(path).map_err(Error::io("open", path))?.is_dir() {
            true => main_file(path)?,
            false => path.to_owned(),
        };
        let (files, tensors, metadata) = match Kind::of(&file)? {
            Kind::Gguf => {
                let set = gguf::open(&file)?;
                (set.files, set.tensors, Metadata::Gguf(set.metadata))
            }
            Kind::Safetensors => {
                let (files, tensors) = match safetensors::index_beside(&file) {
                    Some(index) => safetensors::open_index(&index)?,
                    None => (vec![file.clone()], safetensors::read(&file)?),
                };
                (files, tensors, Metadata::Hf(HfMetadata::read(parent(&file))?))
            }
            Kind::Index => {
                let (files, tensors) = safetensors::open_index(&file)?;
                (files, tensors, Metadata::Hf(HfMetadata::read(parent(&file))?))
            }
        };
        let index = tensors.iter().enumerate().map(|(at, tensor)| (tensor.name.clone(), at)).collect();
        let mut maps: Vec<Bytes> = Vec::new();
        for tensor in &tensors {
            let bytes = tensor.bytes();
            if maps.last().is_none_or(|last| !last.same_owner(&bytes)) {
                maps.push(bytes);
            }
        }
        Ok(Self { path: path.to_owned(), files, maps, tensors, index, metadata })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files that hold its tensors.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Refuses all that was read so far if a file did not have all of it any more; see [`Bytes::intact`].
    pub fn intact(&self) -> Result<()> {
        self.maps.iter().try_for_each(Bytes::intact)
    }

    /// Refuses files that were written to since they were opened; see [`Bytes::unchanged`].
    pub fn unchanged(&self) -> Result<()> {
        self.maps.iter().try_for_each(Bytes::unchanged)
    }

    /// Maps what the system has in memory of all files, for who is to read them often: on pages of 2 MB where it can, else faster than
    /// page by page. Waits for no disk, but for pages that went meanwhile.
    pub fn fetch_cached(&self) {
        self.maps.iter().for_each(Bytes::fetch_cached);
    }

    /// Opens one of the [`files`](Self::files) once more, to be read from its start. Fails where its name stands for another file
    /// by now, and where it was written to.
    pub fn reopen(&self, path: &Path) -> Result<File> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        self.maps.iter().try_for_each(|map| map.check_reopened(path, &file))?;
        Ok(file)
    }

    /// All tensors in the order of the files.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &Tensor> {
        self.tensors.iter()
    }

    /// The tensor of a name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.index.get(name).map(|&at| &self.tensors[at])
    }

    /// The scale that a tensor of F8 weights is to be multiplied by, if the checkpoint has one: `NAME_scale_inv` (one
    /// number per square block of the matrix; despite its name it multiplies) or `NAME_scale` (one number, or one per row).
    pub fn scale_of(&self, tensor: &Tensor) -> Option<&Tensor> {
        ["_scale_inv", "_scale"].into_iter().find_map(|suffix| self.tensor(&format!("{}{suffix}", tensor.name)))
    }

    /// All elements of a tensor as floats, multiplied by its scale if it is an F8 tensor that has one.
    pub fn to_f32(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        let mut values = tensor.to_f32()?;
        if tensor.dtype == DType::F8E4M3
            && let Some(scale) = self.scale_of(tensor)
        {
            multiply_by_scale(&mut values, tensor, scale)?;
        }
        Ok(values)
    }

    /// What the checkpoint says about itself.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The file format.
    pub fn format(&self) -> Format {
        match self.metadata {
            Metadata::Gguf(_) => Format::Gguf,
            Metadata::Hf(_) => Format::Safetensors,
        }
    }
}

/// A scale has one number for the tensor, one for each row, or one for each block of 128 rows and 128 columns.
fn multiply_by_scale(values: &mut [f32], tensor: &Tensor, scale: &Tensor) -> Result<()> {
    const BLOCK: usize = 128;
    if values.is_empty() {
        return Ok(());
    }
    let columns = tensor.shape.last().copied().unwrap_or(1);
    let rows = values.len() / columns;
    let across = columns.div_ceil(BLOCK);
    let factors = scale.to_f32()?;
    let factor: Box<dyn Fn(usize, usize) -> f32> = if factors.len() == 1 {
        Box::new(|_, _| factors[0])
    } else if matches!(scale.shape[..], [n] | [n, 1] if n == rows) {
        Box::new(|row, _| factors[row])
    } else if scale.shape == [rows.div_ceil(BLOCK), across] {
        Box::new(|row, column| factors[row / BLOCK * across + column / BLOCK])
    } else {
        let problem = format!(
            "its shape {:?} is that of no scale for `{}` {:?}; use the checkpoint in BF16",
            scale.shape, tensor.name, tensor.shape
        );
        return Err(Error::tensor(scale.path(), &scale.name, problem));
    };
    for (row, values) in values.chunks_exact_mut(columns).enumerate() {
        for (column, value) in values.iter_mut().enumerate() {
            *value *= factor(row, column);
        }
    }
    Ok(())
}

/// What a file is.
enum Kind {
    Gguf,
    Safetensors,
    Index,
}

impl Kind {
    /// By its ending, else (in a cache, files may be named by their hash) by its first bytes.
    fn of(file: &Path) -> Result<Self> {
        match file.extension().and_then(|ending| ending.to_str()) {
            Some("gguf") => return Ok(Self::Gguf),
            Some("safetensors") => return Ok(Self::Safetensors),
            Some("json") => return Ok(Self::Index),
            _ => {}
        }
        match Bytes::map_and(file, |bytes| Ok(bytes.first_chunk::<9>().copied()))? {
            Some([b'G', b'G', b'U', b'F', ..]) => Ok(Self::Gguf),
            Some([.., b'{']) => Ok(Self::Safetensors),
            _ => {
                let problem =
                    "it is neither a GGUF nor a safetensors file; give one of these or a directory that holds one".into();
                Err(Error::NotACheckpoint { path: file.to_owned(), problem })
            }
        }
    }
}

fn parent(file: &Path) -> &Path {
    match file.parent() {
        Some(dir) if dir != Path::new("") => dir,
        _ => Path::new("."),
    }
}

/// The file to open in a directory.
fn main_file(dir: &Path) -> Result<PathBuf> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io("list", dir))? {
        // A name that is not UTF-8 is none of those we look for.
        names.extend(entry.map_err(Error::io("list", dir))?.file_name().into_string());
    }
    names.sort_unstable();
    let ending = |suffix: &str| -> Vec<&String> { names.iter().filter(|name| name.ends_with(suffix)).collect() };

    // In the order in which transformers looks.
    for usual in ["model.safetensors", "model.safetensors.index.json"] {
        if names.iter().any(|name| name == usual) {
            return Ok(dir.join(usual));
        }
    }
    for suffix in [".safetensors.index.json", ".safetensors"] {
        if let [only] = ending(suffix)[..] {
            return Ok(dir.join(only));
        }
    }
    let gguf: HashSet<PathBuf> = ending(".gguf").into_iter().map(|name| dir.join(name)).collect();
    if let Some(first) = gguf.iter().min() {
        let set: HashSet<PathBuf> = gguf::set_of(first).into_iter().collect();
        if gguf.is_subset(&set) {
            return Ok(first.clone());
        }
    }

    let several: Vec<&str> =
        names.iter().filter(|name| name.ends_with(".gguf") || name.ends_with(".safetensors")).map(String::as_str).collect();
    let problem = if !several.is_empty() {
        let shown = several.iter().take(4).copied().collect::<Vec<_>>().join(", ");
        format!("the directory holds several models ({shown}{}); name the file", if several.len() > 4 { ", ..." } else { "" })
    } else if names.iter().any(|name| name.ends_with(".bin") || name.ends_with(".pt") || name.ends_with(".pth")) {
        "the directory has PyTorch pickles only, which can run any code when read; convert them to safetensors".into()
    } else {
        "the directory has no .safetensors and no .gguf file".into()
    };
    Err(Error::NotACheckpoint { path: dir.to_owned(), problem })
}
