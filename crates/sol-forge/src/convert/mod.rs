//! Checkpoints from one format to the other: a Hugging Face directory to GGUF, and back.
//!
//! 1. `layout`: which tensors there are, under both names. 2. `lora`: what adapters add to them. 3. `rows`: their rows, read
//!    where they lie, put in order, added to and encoded. 4. `keys` and `config`: hyper-parameters in each format's words.
//!    5. `same`: both say the same. 6. `text`: tokenizer and chat template; `about`: name, licence, tags. 7. `directory`: a
//!    directory that appears whole.
//!    8. `view`: a checkpoint seen in the other format, for who makes something else of it.
//!
//! What the formats store differently, after llama.cpp's converter: Llama's and Solar's queries and keys have the halves of each
//! head interleaved in GGUF, Gemma's norms have 1 added, experts are stacked, vectors and routers are F32. All of it is undone
//! on the way back, and vectors get the matrices' type again where that loses nothing: HF to GGUF to HF gives the same bytes.
//! (The one exception is a Gemma norm of more digits than BF16's, as adding 1 rounds; the function is the same.)

mod about;
mod config;
mod directory;
mod error;
mod keys;
mod layout;
mod lora;
mod rows;
mod same;
mod text;
mod view;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};
use sol_model::{Description, Role, describe, memory};
use sol_weights::gguf::{Existing, TensorInfo, Value, Writer};
use sol_weights::{Checkpoint, DType, Format, Metadata};

use crate::{Error, Result};
use directory::{Directory, Shards};
pub use error::ConvertError;
use layout::Item;
pub(crate) use rows::Maker;
use rows::{Content, HfTensor, Output, Part};
pub(crate) use view::View;

/// The types that a conversion writes, by the names of the command line.
pub const TYPES: [(&str, DType); 4] = [("f32", DType::F32), ("f16", DType::F16), ("bf16", DType::BF16), ("q8_0", DType::Q8_0)];

/// What transformers puts into one file.
pub const SHARD_BYTES: u64 = 5_000_000_000;

/// A conversion to be planned.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// A GGUF file or a Hugging Face directory.
    pub source: &'a Path,
    /// Where the result is to be: a GGUF file where this ends in `.gguf`, else a directory.
    pub out: &'a Path,
    /// Type of the matrices; default: what each is stored in.
    pub dtype: Option<DType>,
    /// Directories of LoRA adapters that are merged, one after the other.
    pub lora: &'a [PathBuf],
    /// Bytes of a file of the directory at most, if no tensor is larger.
    pub shard_bytes: u64,
}

/// A conversion that can be done: everything small has been read and made.
#[derive(Debug)]
pub struct Plan {
    checkpoint: Checkpoint,
    architecture: &'static str,
    out: PathBuf,
    outputs: Vec<Output>,
    target: Target,
    shard_bytes: u64,
    parameters: u64,
    merged: usize,
    adapters: Vec<Checkpoint>,
    notes: Vec<String>,
}

#[derive(Debug)]
enum Target {
    /// The keys.
    Gguf(Vec<(String, Value)>),
    /// All files but the weights.
    Hf(Vec<(String, Vec<u8>)>),
}

impl Order<'_> {
    /// Works out what will be written. Reads headers, configs, tokenizers and adapters, no weights of the model.
    ///
    /// Fails where the result would not be the model that the source is ([`ConvertError`] says which way), for sources
    /// that make no
    /// model ([`Error::Model`]) and for tokenizers that the target has no form for ([`Error::Text`]).
    pub fn plan(&self) -> Result<Plan> {
        let checkpoint = Checkpoint::open(self.source)?;
        let to =
            if self.out.extension().is_some_and(|e| e.eq_ignore_ascii_case("gguf")) { Format::Gguf } else { Format::Safetensors };
        let path = || self.source.to_owned();
        match (checkpoint.format(), to) {
            (Format::Gguf, Format::Gguf) => return Err(ConvertError::SameFormat { path: path() }.into()),
            (Format::Safetensors, Format::Safetensors) if self.dtype.is_none() && self.lora.is_empty() => {
                return Err(ConvertError::NothingToDo { path: path() }.into());
            }
            (_, Format::Safetensors) if self.dtype.is_some_and(DType::is_quantized) => {
                return Err(ConvertError::NoSuchType(self.dtype.unwrap_or(DType::F32)).into());
            }
            _ => {}
        }
        let of_adapters: Vec<PathBuf> = self.lora.iter().flat_map(|dir| lora::FILES.map(|file| dir.join(file))).collect();
        crate::spare(checkpoint.files().iter().chain(&of_adapters), self.out)?;
        let description = describe(&checkpoint)?;
        let mut items = layout::items(&checkpoint, &description)?;
        let mut merged = 0;
        let mut adapters = Vec::new();
        for adapter in self.lora {
            let (count, checkpoint) = lora::apply(adapter, &mut items, &description.spec)?;
            merged += count;
            adapters.push(checkpoint);
        }
        let mut plan = Plan {
            architecture: description.spec.architecture,
            parameters: memory::parameters(&description.spec),
            out: self.out.to_owned(),
            outputs: Vec::new(),
            target: Target::Hf(Vec::new()),
            shard_bytes: self.shard_bytes,
            merged,
            adapters,
            notes: description.warnings.clone(),
            checkpoint,
        };
        match to {
            Format::Gguf => self.plan_gguf(&mut plan, items, &description)?,
            Format::Safetensors => self.plan_hf(&mut plan, items, &description)?,
        }
        Ok(plan)
    }

    fn plan_gguf(&self, plan: &mut Plan, items: Vec<Item>, description: &Description) -> Result<()> {
        let Metadata::Hf(hf) = plan.checkpoint.metadata() else { return Ok(()) };
        let spec = &description.spec;
        let (keys, extra) = keys::hyperparameters(spec, &hf.config);
        plan.outputs = extra;
        for item in items {
            let dtype = self.gguf_type(&plan.checkpoint, &item)?;
            let info = TensorInfo { name: item.gguf.clone(), dtype, shape: item.gguf_shape() };
            let interleave = item.interleaved.then_some(spec.rope.dim);
            let add = if item.plus_one { 1.0 } else { 0.0 };
            plan.outputs.push(Output { info, content: Content::Rows { from: item.hf, interleave, add } });
        }
        let mut metadata: Vec<(String, Value)> = [
            ("general.architecture", Value::String(spec.architecture.into())),
            ("general.type", Value::String("model".into())),
            ("general.file_type", Value::U32(file_type(main_type(&plan.outputs)))),
            ("general.quantization_version", Value::U32(2)),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into();
        metadata.extend(about::keys(self.source, hf, plan.outputs.iter().map(|output| &output.info), &mut plan.notes));
        metadata.extend(keys);
        same::check_gguf(spec, &metadata, &plan.outputs)?;
        metadata.extend(text::to_gguf(hf, spec, &mut plan.notes)?);
        plan.target = Target::Gguf(metadata);
        Ok(())
    }

    /// As in llama.cpp's converter: vectors, norms and routers are F32, rows that do not fill blocks F16.
    fn gguf_type(&self, checkpoint: &Checkpoint, item: &Item) -> Result<DType> {
        let one = &item.hf[0];
        if one.shape.len() == 1 || item.role == Role::Router {
            return Ok(DType::F32);
        }
        match self.dtype {
            Some(DType::Q8_0) if !one.cols().is_multiple_of(DType::Q8_0.block_len()) => Ok(DType::F16),
            Some(dtype) => Ok(dtype),
            None => own_type(checkpoint, one),
        }
    }

    fn plan_hf(&self, plan: &mut Plan, items: Vec<Item>, description: &Description) -> Result<()> {
        let tensors = items.into_iter().flat_map(|item| item.hf);
        for tensor in tensors {
            let dtype = match self.dtype {
                Some(dtype) => dtype,
                None => own_type(&plan.checkpoint, &tensor)?,
            };
            let info = TensorInfo { name: tensor.name.clone(), dtype, shape: tensor.shape.clone() };
            plan.outputs.push(Output { info, content: Content::Rows { from: vec![tensor], interleave: None, add: 0.0 } });
        }
        let main = main_type(&plan.outputs);
        let files = match plan.checkpoint.metadata() {
            Metadata::Gguf(meta) => {
                narrow(&plan.checkpoint, &mut plan.outputs, main)?;
                let config = config::config(&description.spec, meta, main);
                let config = config.ok_or_else(|| ConvertError::Divisors { path: self.source.to_owned() })?;
                same::check_config(&description.spec, &config)?;
                let mut files = vec![("config.json".to_owned(), pretty(&config))];
                files.extend(text::to_hf(meta, description.spec.context, &mut plan.notes)?);
                files
            }
            Metadata::Hf(hf) => {
                let mut config = hf.config.clone();
                for key in ["torch_dtype", "dtype"] {
                    if config.get(key).is_some() {
                        config[key] = json!(config::torch_name(main));
                    }
                }
                // F8 weights and their scales have become numbers.
                config.as_object_mut().and_then(|config| config.shift_remove("quantization_config"));
                let mut files = other_files(&hf.dir)?;
                files.push(("config.json".to_owned(), pretty(&config)));
                files
            }
        };
        plan.target = Target::Hf(files);
        Ok(())
    }
}

impl Plan {
    /// The format of the result.
    pub fn target(&self) -> Format {
        match self.target {
            Target::Gguf(_) => Format::Gguf,
            Target::Hf(_) => Format::Safetensors,
        }
    }

    /// The architecture, as GGUF names it.
    pub fn architecture(&self) -> &'static str {
        self.architecture
    }

    /// Parameters of the model.
    pub fn parameters(&self) -> u64 {
        self.parameters
    }

    /// How many modules adapters change.
    pub fn merged(&self) -> usize {
        self.merged
    }

    /// What the user should know.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What the headers say of the tensors.
    pub fn tensors(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.outputs.iter().map(|output| &output.info)
    }

    /// The type of most bytes.
    pub fn main_type(&self) -> DType {
        main_type(&self.outputs)
    }

    /// Bytes of all tensors.
    pub fn weight_bytes(&self) -> u64 {
        self.tensors().map(|info| info.byte_len().unwrap_or(0) as u64).sum()
    }

    /// Writes it, with so many threads where numbers are converted. `progress` is called with the bytes of tensors written
    /// so far; where
    /// `stop` says so, nothing is left of the result and the error is [`Error::Interrupted`]. The bytes are the same for
    /// any number of
    /// threads. In memory are a few pieces of a tensor at a time (of an F8 source a whole one).
    pub fn write(
        &self,
        existing: Existing,
        threads: usize,
        stop: &dyn Fn() -> bool,
        progress: &mut dyn FnMut(u64),
    ) -> Result<()> {
        let mut written = 0;
        let mut tensor = |output: &Output, put: &mut dyn FnMut(&[u8]) -> sol_weights::Result<()>| -> Result<()> {
            output.each_piece(&self.checkpoint, threads, &mut |piece| {
                if stop() {
                    return Err(Error::Interrupted);
                }
                put(piece)?;
                written += piece.len() as u64;
                progress(written);
                Ok(())
            })?;
            self.adapters.iter().try_for_each(Checkpoint::unchanged)?;
            Ok(self.checkpoint.unchanged()?)
        };
        match &self.target {
            Target::Gguf(metadata) => {
                let infos: Vec<TensorInfo> = self.tensors().cloned().collect();
                let mut writer = Writer::create(&self.out, metadata, &infos, existing)?;
                self.outputs.iter().try_for_each(|output| tensor(output, &mut |piece| writer.write(piece)))?;
                Ok(writer.finish()?)
            }
            Target::Hf(files) => {
                let directory = Directory::create(&self.out, existing)?;
                let shards = Shards::of(self.outputs.clone(), self.shard_bytes);
                directory.check_space(shards.bytes)?;
                for (name, outputs) in &shards.files {
                    let mut writer = directory::shard(&directory, name, outputs)?;
                    outputs.iter().try_for_each(|output| tensor(output, &mut |piece| writer.write(piece)))?;
                    writer.finish()?;
                }
                if let Some(index) = shards.index() {
                    directory.put("model.safetensors.index.json", &pretty(&index))?;
                }
                files.iter().try_for_each(|(name, bytes)| directory.put(name, bytes))?;
                directory.finish()
            }
        }
    }
}

/// The type to write what is stored: numbers as they are, F8 with its scales as BF16; of parts of several types the first's.
fn own_type(checkpoint: &Checkpoint, tensor: &HfTensor) -> Result<DType> {
    let of = |part: &Part| match part.tensor.dtype {
        plain @ (DType::F32 | DType::F16 | DType::BF16) => Ok(plain),
        DType::F64 => Ok(DType::F32),
        DType::F8E4M3 => Ok(DType::BF16),
        dtype => {
            let (path, tensor) = (checkpoint.path().to_owned(), part.tensor.name.clone());
            Err(ConvertError::Quantised { path, tensor, dtype })
        }
    };
    let types: Vec<DType> = tensor.parts.iter().map(of).collect::<Result<_, _>>()?;
    Ok(types.first().copied().unwrap_or(DType::F32))
}

/// The type of most bytes.
fn main_type(outputs: &[Output]) -> DType {
    let bytes = |dtype: DType| -> usize {
        outputs.iter().filter(|o| o.info.dtype == dtype).map(|o| o.info.byte_len().unwrap_or(0)).sum()
    };
    TYPES.iter().map(|(_, dtype)| *dtype).max_by_key(|dtype| bytes(*dtype)).unwrap_or(DType::F32)
}

/// GGUF has vectors and routers in F32 whatever the rest is: they get the type of the rest back where all their numbers
/// are of it.
fn narrow(checkpoint: &Checkpoint, outputs: &mut [Output], main: DType) -> Result<()> {
    for output in outputs.iter_mut().filter(|o| o.info.dtype == DType::F32) {
        let small = output.info.shape.len() == 1 || output.info.name.ends_with("block_sparse_moe.gate.weight");
        if main == DType::F32 || !small {
            continue;
        }
        let mut exact = true;
        output.each_piece(checkpoint, 1, &mut |piece| {
            let wide: Vec<f32> = piece.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
            let mut bytes = Vec::new();
            rows::encode(main, &wide, &mut bytes)?;
            let mut back = vec![0.0; wide.len()];
            sol_weights::dequantize(main, &bytes, &mut back)?;
            exact &= wide == back;
            Ok(())
        })?;
        if exact {
            output.info.dtype = main;
        }
    }
    Ok(())
}

/// `general.file_type` of llama.cpp.
fn file_type(main: DType) -> u32 {
    match main {
        DType::F16 => 1,
        DType::Q8_0 => 7,
        DType::BF16 => 32,
        _ => 0,
    }
}

fn pretty(value: &Json) -> Vec<u8> {
    format!("{value:#}\n").into_bytes()
}

/// The small files of a Hugging Face directory that are no weights and no config: tokenizer, template, generation
/// defaults, code, card.
fn other_files(dir: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    const ENDINGS: [&str; 7] = ["json", "model", "jinja", "txt", "py", "md", "tiktoken"];
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(ConvertError::io("list", dir))? {
        let path = entry.map_err(ConvertError::io("list", dir))?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).map(str::to_owned) else { continue };
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
        let wanted = ENDINGS.contains(&ending) || name == "LICENSE";
        if wanted && path.is_file() && name != "config.json" && !name.ends_with(".index.json") {
            files.push((name, fs::read(&path).map_err(ConvertError::io("read", &path))?));
        }
    }
    files.sort();
    Ok(files)
}
