//! A checkpoint as it would be in the other format, for who reads rows of tensors: nothing but headers and small files is written.

use std::fs;
use std::path::Path;
use std::thread;

use sol_weights::{Checkpoint, DType, Format, gguf, safetensors};

use super::rows::{Content, Maker, Output};
use super::{ConvertError, Order, Plan, SHARD_BYTES, Target};
use crate::Result;

/// A checkpoint seen as one of the other format.
#[derive(Debug)]
pub(crate) struct View {
    plan: Plan,
    outline: Checkpoint,
    /// Holds the outline: headers, config, tokenizer.
    _scratch: tempfile::TempDir,
}

impl View {
    /// Opens `path` as a checkpoint of `format`, which is not its own, with its matrices as `dtype`; default: as they are stored.
    /// Fails as [`Order::plan`] does.
    pub(crate) fn open(path: &Path, format: Format, dtype: Option<DType>) -> Result<Self> {
        let scratch = tempfile::tempdir().map_err(ConvertError::io("make a directory in", &std::env::temp_dir()))?;
        let file = |name: &str| scratch.path().join(name);
        let out = match format {
            Format::Gguf => file("model.gguf"),
            Format::Safetensors => file("model.safetensors"),
        };
        let plan = Order { source: path, out: &out, dtype, lora: &[], shard_bytes: SHARD_BYTES }.plan()?;
        match &plan.target {
            Target::Gguf(metadata) => {
                let infos: Vec<_> = plan.tensors().cloned().collect();
                let exactly = |output: &'_ Output| match &output.content {
                    Content::Exactly(values) => Some(values.iter().flat_map(|value| value.to_le_bytes()).collect()),
                    Content::Rows { .. } => None,
                };
                let contents: Vec<(&str, Vec<u8>)> =
                    plan.outputs.iter().filter_map(|output| Some((output.info.name.as_str(), exactly(output)?))).collect();
                gguf::write_outline(&out, metadata, &infos, &contents)?;
            }
            Target::Hf(files) => {
                let header: Vec<_> = plan.tensors().map(|info| (info.name.as_str(), info.dtype, info.shape.as_slice())).collect();
                safetensors::write_outline(&out, &header)?;
                for (name, bytes) in files {
                    fs::write(file(name), bytes).map_err(ConvertError::io("write", &file(name)))?;
                }
            }
        }
        Ok(Self { plan, outline: Checkpoint::open(&out)?, _scratch: scratch })
    }

    /// What it would be: names, types, shapes, metadata. The bytes of its tensors are no numbers of the model.
    pub(crate) fn outline(&self) -> &Checkpoint {
        &self.outline
    }

    /// What it is.
    pub(crate) fn source(&self) -> &Checkpoint {
        &self.plan.checkpoint
    }

    /// What the user should know.
    pub(crate) fn notes(&self) -> &[String] {
        &self.plan.notes
    }

    /// Makes rows of a tensor; `None` where it has no tensor of this name.
    pub(crate) fn maker(&self, tensor: &str) -> Result<Option<Maker<'_>>> {
        let output = self.plan.outputs.iter().find(|output| output.info.name == tensor);
        output.map(|output| output.maker(&self.plan.checkpoint)).transpose()
    }

    /// As many as the machine has.
    pub(crate) fn threads() -> usize {
        thread::available_parallelism().map_or(1, usize::from)
    }
}
