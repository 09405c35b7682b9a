//! A GGUF checkpoint in fewer bits.
//!
//! [`Order::plan`] says what each tensor becomes; [`Plan::write`] streams them through the encoders of `sol-weights`, a batch of
//! rows at a time on all threads, and measures what each one lost. Vectors, norms and routers stay as they are.
//!
//! 1. `roles`: what a tensor is for, by its name. 2. `pass`: one tensor. 3. [`Importance`]: which columns matter.

mod importance;
mod pass;
mod roles;

use std::path::Path;

use sol_weights::gguf::{Existing, TensorInfo, Value, Writer};
use sol_weights::{Checkpoint, DType, Metadata, Tensor};

use crate::{Error, Result, Types};
pub use importance::{Importance, InputSums};
use pass::Pass;
use roles::Model;

/// What to write.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// A GGUF file with F32, F16, BF16 or Q8_0 matrices.
    pub source: &'a Checkpoint,
    /// Types of the matrices; [`Types::mostly`] has those that `llama-quantize` means.
    pub types: Types,
    /// Which columns of which matrix matter.
    pub importance: Option<&'a Importance>,
}

/// A checkpoint that can be written.
#[derive(Clone, Debug)]
pub struct Plan<'a> {
    source: &'a Checkpoint,
    importance: Option<&'a Importance>,
    metadata: Vec<(String, Value)>,
    tensors: Vec<(&'a Tensor, TensorInfo)>,
}

/// What became of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Its name.
    pub name: String,
    /// Its dimensions, outermost first.
    pub shape: Vec<usize>,
    /// Its type in the source.
    pub from: DType,
    /// Its type now.
    pub to: DType,
    /// Its bytes in the source.
    pub bytes_before: u64,
    /// Its bytes now.
    pub bytes_after: u64,
    /// The sum of the squared errors: 0 where it was copied.
    pub squared_error: f64,
    /// The sum of its squares: 0 where it was copied.
    pub squared: f64,
    /// Whether the importance matrix had something to say of it.
    pub weighed: bool,
}

impl Outcome {
    /// The root mean square of the error in proportion to that of the numbers.
    pub fn relative_error(&self) -> f64 {
        if self.squared > 0.0 { (self.squared_error / self.squared).sqrt() } else { 0.0 }
    }

    /// The mean squared error of an element.
    pub fn mean_squared_error(&self) -> f64 {
        self.squared_error / self.shape.iter().product::<usize>().max(1) as f64
    }
}

/// What became of a checkpoint.
#[derive(Clone, Debug)]
pub struct Report {
    /// Of every tensor, in the order of the file.
    pub tensors: Vec<Outcome>,
    /// Bytes of the file.
    pub file_bytes: u64,
}

/// Keys of split files, which the result is not.
const OF_SPLITS: &str = "split.";

impl<'a> Order<'a> {
    /// Works out what each tensor becomes.
    ///
    /// Fails for directories of safetensors ([`Error::NotGguf`]), for matrices that are quantised already
    /// ([`Error::Quantised`]), and for an importance matrix of another model ([`Error::Importance`]).
    pub fn plan(&self) -> Result<Plan<'a>> {
        let Self { source, types, importance } = *self;
        let Metadata::Gguf(found) = source.metadata() else {
            return Err(Error::NotGguf { path: source.path().to_owned() });
        };
        let model = Model::of(source, found, importance.is_some());
        let mut tensors = Vec::with_capacity(source.tensors().len());
        for tensor in source.tensors() {
            let dtype = match model.matrix(tensor) {
                Some(matrix) => types.of(matrix),
                None => tensor.dtype,
            };
            let readable = matches!(tensor.dtype, DType::F32 | DType::F16 | DType::BF16 | DType::Q8_0);
            if dtype != tensor.dtype && !readable {
                let (path, tensor, dtype) = (tensor.path().to_owned(), tensor.name.clone(), tensor.dtype);
                return Err(Error::Quantised { path, tensor, dtype });
            }
            if let Some(importance) = importance {
                importance.check(tensor)?;
            }
            tensors.push((tensor, TensorInfo { name: tensor.name.clone(), dtype, shape: tensor.shape.clone() }));
        }
        let mut metadata: Vec<(String, Value)> = Vec::new();
        let set = ["general.file_type", "general.quantization_version"];
        let kept = found
            .iter()
            .filter(|(key, _)| !key.starts_with(OF_SPLITS) && !key.starts_with("quantize.imatrix.") && !set.contains(key));
        metadata.extend(kept.map(|(key, value)| (key.to_owned(), value.clone())));
        metadata.push((set[0].to_owned(), Value::U32(types.file_type())));
        metadata.push((set[1].to_owned(), Value::U32(2)));
        if let Some(importance) = importance {
            metadata.extend(importance.keys());
        }
        Ok(Plan { source, importance, metadata, tensors })
    }
}

impl Plan<'_> {
    /// What the header will say of the tensors.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.tensors.iter().map(|(_, info)| info)
    }

    /// Bytes of all tensors of the source: what `progress` of [`write`](Self::write) counts to.
    pub fn source_bytes(&self) -> u64 {
        self.tensors.iter().map(|(tensor, _)| tensor.byte_len() as u64).sum()
    }

    /// Writes the file, with so many threads. `progress` is called with the bytes of the source that are done, many times a
    /// second; where `stop` says so, nothing is left of the file and the error is [`Error::Interrupted`]. The bytes are the
    /// same for any number of threads.
    ///
    /// Fails, leaving nothing, for numbers that are not finite ([`Error::NotFinite`]) or too large for their type
    /// ([`Error::TooLarge`]), for a source that was changed meanwhile, and where `path` is a file that it is made of
    /// ([`Error::OverBase`]).
    pub fn write(
        &self,
        path: &Path,
        existing: Existing,
        threads: usize,
        stop: &dyn Fn() -> bool,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Report> {
        crate::spare(self.source.files().iter().chain(self.importance.and_then(Importance::file)), path)?;
        let infos: Vec<TensorInfo> = self.tensors().cloned().collect();
        let mut writer = Writer::create(path, &self.metadata, &infos, existing)?;
        let mut done = 0;
        let mut outcomes = Vec::with_capacity(infos.len());
        for (tensor, info) in &self.tensors {
            let weights = self.importance.and_then(|importance| importance.of(tensor));
            let pass = Pass { tensor, to: info.dtype, weights: weights.as_deref().unwrap_or_default(), threads };
            let errors = pass.write(&mut writer, stop, &mut |bytes| progress(done + bytes))?;
            done += tensor.byte_len() as u64;
            progress(done);
            outcomes.push(Outcome {
                name: info.name.clone(),
                shape: info.shape.clone(),
                from: tensor.dtype,
                to: info.dtype,
                bytes_before: tensor.byte_len() as u64,
                bytes_after: info.byte_len().unwrap_or(0) as u64,
                squared_error: errors.squared_error,
                squared: errors.squared,
                weighed: weights.is_some() && tensor.dtype != info.dtype,
            });
        }
        self.source.unchanged()?;
        let file_bytes = writer.file_len();
        writer.finish()?;
        Ok(Report { tensors: outcomes, file_bytes })
    }
}
