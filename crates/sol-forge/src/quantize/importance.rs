//! Importance matrices: how strongly each column of each matrix is driven, in llama.cpp's GGUF format
//! (its older one is read too).
//!
//! The error of a matrix product is the sum over columns of the weights' errors times the inputs, so a column whose inputs are
//! large on a typical text deserves the smaller errors. For each matrix `NAME` the file has the sums of its inputs' squares
//! (`NAME.in_sum2`, a row for each expert) over so many tokens (`NAME.counts`).

mod dat;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use sol_weights::gguf::{Array, Existing, TensorInfo, Value, Writer};
use sol_weights::{Checkpoint, DType, Metadata, Tensor};

use crate::{Error, Result};

/// What the inputs of one matrix (or of all experts' matrices) came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InputSums {
    /// For each expert in turn, the sum of squares of each column's inputs.
    pub squares: Vec<f32>,
    /// For each expert, how many inputs that were.
    pub counts: Vec<f32>,
}

/// What was seen of the inputs of a model's matrices.
#[derive(Clone, Debug, PartialEq)]
pub struct Importance {
    /// The texts.
    pub datasets: Vec<String>,
    /// Tokens of a chunk.
    pub chunk_size: u32,
    /// Chunks.
    pub chunk_count: u32,
    /// By the tensor's name.
    pub inputs: BTreeMap<String, InputSums>,
    /// The file that it was read from.
    path: PathBuf,
}

const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";

/// The least weight of a column in proportion to the mean: one that was never driven may be by another text.
const FLOOR: f32 = 1e-4;

impl Importance {
    /// What was seen of these matrices.
    pub fn new(datasets: Vec<String>, chunk_size: u32, chunk_count: u32, inputs: BTreeMap<String, InputSums>) -> Self {
        Self { datasets, chunk_size, chunk_count, inputs, path: PathBuf::new() }
    }

    /// Reads a file of llama-imatrix, also of the older kind (`.dat`), or of [`write`](Self::write). Fails for other files, for
    /// sums that are negative or not finite, and for sums without counts.
    pub fn read(path: &Path) -> Result<Self> {
        let refused = |problem: String| Error::Importance { path: path.to_owned(), problem };
        let importance = if is_gguf(path) {
            Self::read_gguf(path)?
        } else {
            let found = dat::read(path).map_err(|error| refused(format!("can not be read: {error}")))?;
            found.ok_or_else(|| {
                refused("it is neither a GGUF file nor a whole `.dat` of llama-imatrix; make one with `sol imatrix`".into())
            })?
        };
        for (name, InputSums { squares, counts }) in &importance.inputs {
            let sane = |x: &f32| x.is_finite() && *x >= 0.0;
            if !squares.iter().chain(counts).all(sane) {
                return Err(refused(format!("`{name}` has numbers that no sum of squares is")));
            }
        }
        Ok(importance)
    }

    fn read_gguf(path: &Path) -> Result<Self> {
        let refused = |problem: String| Error::Importance { path: path.to_owned(), problem };
        let checkpoint = Checkpoint::open(path)?;
        let Metadata::Gguf(metadata) = checkpoint.metadata() else {
            return Err(refused("it is not a GGUF file; make one with `sol imatrix` or llama-imatrix".into()));
        };
        if metadata.str("general.type") != Some("imatrix") {
            return Err(refused("it is a model, not an importance matrix; make one with `sol imatrix` or llama-imatrix".into()));
        }
        let number = |key: &str| metadata.u64(key).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        let mut inputs = BTreeMap::new();
        for tensor in checkpoint.tensors() {
            let Some(name) = tensor.name.strip_suffix(SUMS) else { continue };
            let counts = checkpoint.tensor(&format!("{name}{COUNTS}"));
            let counts = counts.ok_or_else(|| refused(format!("`{}` has no counts beside it", tensor.name)))?.to_f32()?;
            let squares = tensor.to_f32()?;
            if counts.is_empty() || !squares.len().is_multiple_of(counts.len()) {
                return Err(refused(format!("`{}` has {} sums for {} counts", tensor.name, squares.len(), counts.len())));
            }
            inputs.insert(name.to_owned(), InputSums { squares, counts });
        }
        if inputs.is_empty() {
            return Err(refused("it has no sums of squares".into()));
        }
        let datasets = metadata.strings("imatrix.datasets").unwrap_or_default().to_vec();
        let (chunk_size, chunk_count) = (number("imatrix.chunk_size"), number("imatrix.chunk_count"));
        Ok(Self { datasets, chunk_size, chunk_count, inputs, path: path.to_owned() })
    }

    /// Writes it as llama-imatrix does.
    pub fn write(&self, path: &Path, existing: Existing) -> Result<()> {
        let metadata = [
            ("general.type", Value::String("imatrix".into())),
            ("imatrix.datasets", Value::Array(Array::String(self.datasets.clone()))),
            ("imatrix.chunk_count", Value::U32(self.chunk_count)),
            ("imatrix.chunk_size", Value::U32(self.chunk_size)),
        ]
        .map(|(key, value)| (key.to_owned(), value));
        let mut tensors = Vec::with_capacity(2 * self.inputs.len());
        let mut bytes = Vec::new();
        for (name, InputSums { squares, counts }) in &self.inputs {
            let experts = counts.len().max(1);
            let info = |suffix: &str, shape: Vec<usize>| TensorInfo { name: format!("{name}{suffix}"), dtype: DType::F32, shape };
            tensors.push(info(SUMS, vec![experts, squares.len() / experts]));
            tensors.push(info(COUNTS, vec![experts, 1]));
            bytes.push(squares.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
            bytes.push(counts.iter().flat_map(|x| x.to_le_bytes()).collect());
        }
        let mut writer = Writer::create(path, &metadata, &tensors, existing)?;
        for bytes in bytes {
            writer.write(&bytes)?;
        }
        Ok(writer.finish()?)
    }

    /// The file that it was read from.
    pub(super) fn file(&self) -> Option<&PathBuf> {
        Some(&self.path).filter(|path| !path.as_os_str().is_empty())
    }

    /// Refuses sums that can not be those of a matrix of this shape.
    pub(super) fn check(&self, tensor: &Tensor) -> Result<()> {
        let Some(InputSums { squares, .. }) = self.inputs.get(&tensor.name) else { return Ok(()) };
        let (columns, experts) = extents(tensor);
        if squares.len() == columns || squares.len() == columns * experts {
            return Ok(());
        }
        let of = if experts > 1 { format!("{experts} experts of ") } else { String::new() };
        let problem = format!(
            "it has {} sums for the {of}{columns} columns of `{}`: it is the importance matrix of another model",
            squares.len(),
            tensor.name,
        );
        Err(Error::Importance { path: self.path.clone(), problem })
    }

    /// Weights of a tensor's columns, 1 on average for every expert; nothing where nothing was seen of it.
    pub(super) fn of(&self, tensor: &Tensor) -> Option<Vec<f32>> {
        let InputSums { squares, .. } = self.inputs.get(&tensor.name)?;
        let (columns, _) = extents(tensor);
        let mut weights = Vec::with_capacity(squares.len());
        for squares in squares.chunks(columns.max(1)) {
            let mean = squares.iter().map(|&x| f64::from(x)).sum::<f64>() / squares.len() as f64;
            // An expert that was never chosen: all columns alike.
            let weight = |x: f32| if mean > 0.0 { ((f64::from(x) / mean) as f32).max(FLOOR) } else { 1.0 };
            weights.extend(squares.iter().map(|&x| weight(x)));
        }
        Some(weights)
    }

    /// What llama-quantize notes of it in the file that it helped to make.
    pub(super) fn keys(&self) -> Vec<(String, Value)> {
        let mut keys = vec![
            ("quantize.imatrix.file".to_owned(), Value::String(self.path.display().to_string())),
            ("quantize.imatrix.entries_count".to_owned(), Value::U32(u32::try_from(self.inputs.len()).unwrap_or(u32::MAX))),
            ("quantize.imatrix.chunks_count".to_owned(), Value::U32(self.chunk_count)),
        ];
        if let Some(first) = self.datasets.first() {
            keys.push(("quantize.imatrix.dataset".to_owned(), Value::String(first.clone())));
        }
        keys
    }
}

/// Whether a file begins as GGUF files do. (One that can not be read is said to be one, for the error of who reads those.)
fn is_gguf(path: &Path) -> bool {
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_err() || &magic == b"GGUF"
}

/// Columns, and how many matrices there are.
fn extents(tensor: &Tensor) -> (usize, usize) {
    let columns = tensor.shape.last().copied().unwrap_or(1);
    let matrices = tensor.shape.len().saturating_sub(2);
    (columns, tensor.shape[..matrices].iter().product())
}
