//! Which tensors a checkpoint has, as Hugging Face's classes have them, wherever and however they are stored.

use std::collections::HashSet;

use sol_model::{DecoderSpec, Description, FeedForward, Naming, NormSpec, Role, naming};
use sol_weights::{Checkpoint, DType, Format, Tensor};

use super::ConvertError;
use super::rows::{HfTensor, Part};
use crate::Result;

/// A tensor of the model under both formats' names. Experts, which are apart in Hugging Face's files and one tensor in GGUF's,
/// are several.
#[derive(Debug)]
pub(super) struct Item {
    /// GGUF's name with its ending.
    pub(super) gguf: String,
    /// The tensors of a Hugging Face file.
    pub(super) hf: Vec<HfTensor>,
    pub(super) role: Role,
    /// Llama's and Solar's queries and keys: GGUF has each head's two halves interleaved.
    pub(super) interleaved: bool,
    /// Gemma's norms: GGUF has 1 more.
    pub(super) plus_one: bool,
}

impl Item {
    /// The shape in a GGUF file.
    pub(super) fn gguf_shape(&self) -> Vec<usize> {
        let one = &self.hf[0].shape;
        match self.role {
            Role::ExpertGate | Role::ExpertUp | Role::ExpertDown => [&[self.hf.len()], &one[..]].concat(),
            _ => one.clone(),
        }
    }
}

/// All tensors of a checkpoint in the order of the model. Refuses one that lacks any ([`ConvertError::Missing`]), that has others
/// ([`ConvertError::NoPlace`]), or some of another shape ([`ConvertError::Shape`]).
pub(super) fn items(checkpoint: &Checkpoint, description: &Description) -> Result<Vec<Item>> {
    let spec = &description.spec;
    let architecture = spec.architecture;
    let mut builder = Builder {
        checkpoint,
        spec,
        source: description.naming,
        hf: naming(architecture, Format::Safetensors),
        gguf: naming(architecture, Format::Gguf),
        used: HashSet::new(),
        items: Vec::new(),
    };
    builder.all()?;
    let Builder { used, items, .. } = builder;
    match checkpoint.tensors().find(|tensor| !used.contains(&tensor.name) && !is_spare(checkpoint, spec, tensor)) {
        None => Ok(items),
        Some(tensor) => Err(ConvertError::NoPlace {
            path: checkpoint.path().into(),
            tensor: tensor.name.clone(),
            architecture: spec.architecture,
        }
        .into()),
    }
}

/// Tensors that hold what the config of the other format says, or that nobody reads.
fn is_spare(checkpoint: &Checkpoint, spec: &DecoderSpec, tensor: &Tensor) -> bool {
    const HYPERPARAMETERS: [&str; 4] =
        ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight", "bskcn_tv.weight"];
    let name = tensor.name.as_str();
    match checkpoint.format() {
        Format::Gguf => HYPERPARAMETERS.contains(&name),
        Format::Safetensors => {
            let scaled = ["_scale_inv", "_scale"].iter().filter_map(|ending| name.strip_suffix(ending));
            name.ends_with("rotary_emb.inv_freq")
                || (spec.head.tied && name == "lm_head.weight")
                || scaled.into_iter().any(|base| checkpoint.tensor(base).is_some_and(|t| t.dtype == DType::F8E4M3))
        }
    }
}

struct Builder<'a> {
    checkpoint: &'a Checkpoint,
    spec: &'a DecoderSpec,
    source: Naming,
    hf: Naming,
    gguf: Naming,
    used: HashSet<String>,
    items: Vec<Item>,
}

impl Builder<'_> {
    fn all(&mut self) -> Result<()> {
        let spec = self.spec;
        let hidden = spec.hidden;
        self.linear(Role::Embedding, 0, [spec.vocab, hidden], false)?;
        for (i, layer) in spec.layers.iter().enumerate() {
            let core = &layer.attention.core;
            let (q, kv) = (core.heads * core.head_dim, core.kv_heads * core.head_dim);
            let bias = layer.attention.qkv_bias;
            self.norm(Role::AttentionNorm, i, &layer.attention_norm)?;
            let apart = [(Role::Query, q), (Role::Key, kv), (Role::Value, kv)];
            self.projections(Role::FusedQkv, &apart, i, bias)?;
            self.linear(Role::AttentionOutput, i, [hidden, q], layer.attention.output_bias)?;
            if let Some(norm) = &layer.post_attention_norm {
                self.norm(Role::PostAttentionNorm, i, norm)?;
            }
            self.norm(Role::FfnNorm, i, &layer.ffn_norm)?;
            match layer.ffn {
                FeedForward::Dense { ffn, bias, .. } => {
                    self.projections(Role::FusedGateUp, &[(Role::Gate, ffn), (Role::Up, ffn)], i, bias)?;
                    self.linear(Role::Down, i, [hidden, ffn], bias)?;
                }
                FeedForward::Experts { ffn, experts, .. } => {
                    self.linear(Role::Router, i, [experts, hidden], false)?;
                    self.experts(Role::ExpertGate, i, experts, [ffn, hidden])?;
                    self.experts(Role::ExpertUp, i, experts, [ffn, hidden])?;
                    self.experts(Role::ExpertDown, i, experts, [hidden, ffn])?;
                }
            }
            if let Some(norm) = &layer.post_ffn_norm {
                self.norm(Role::PostFfnNorm, i, norm)?;
            }
        }
        self.norm(Role::FinalNorm, 0, &spec.final_norm)?;
        if !spec.head.tied {
            self.linear(Role::Head, 0, [spec.vocab, hidden], spec.head.bias)?;
        }
        Ok(())
    }

    fn norm(&mut self, role: Role, layer: usize, spec: &NormSpec) -> Result<()> {
        let shape = [self.spec.hidden];
        for ending in if spec.bias { &["weight", "bias"][..] } else { &["weight"] } {
            let parts = vec![self.part(role, layer, 0, ending, &shape)?];
            self.push(role, layer, ending, &shape, parts);
        }
        Ok(())
    }

    fn linear(&mut self, role: Role, layer: usize, shape: [usize; 2], bias: bool) -> Result<()> {
        let parts = vec![self.part(role, layer, 0, "weight", &shape)?];
        self.push(role, layer, "weight", &shape, parts);
        if bias {
            let parts = vec![self.part(role, layer, 0, "bias", &shape[..1])?];
            self.push(role, layer, "bias", &shape[..1], parts);
        }
        Ok(())
    }

    /// Projections of the same rows, which Phi-3 has in one tensor and the others apart. The source may have them either way.
    fn projections(&mut self, fused: Role, apart: &[(Role, usize)], layer: usize, bias: bool) -> Result<()> {
        let all: usize = apart.iter().map(|(_, rows)| rows).sum();
        let stored_fused = self.checkpoint.tensor(&self.stored(apart[0].0, layer, 0, "weight")).is_none()
            && self.checkpoint.tensor(&self.stored(fused, layer, 0, "weight")).is_some();
        for ending in if bias { &["weight", "bias"][..] } else { &["weight"] } {
            let shape = |rows: usize| [rows, self.spec.hidden][..if *ending == "bias" { 1 } else { 2 }].to_vec();
            let whole = shape(all);
            let shapes: Vec<Vec<usize>> = apart.iter().map(|(_, rows)| shape(*rows)).collect();
            let mut parts = Vec::new();
            if stored_fused {
                let all = self.part(fused, layer, 0, ending, &whole)?;
                let mut first = 0;
                for (_, rows) in apart {
                    parts.push(Part { first, rows: *rows, ..all.clone() });
                    first += rows;
                }
            } else {
                for ((role, _), shape) in apart.iter().zip(&shapes) {
                    parts.push(self.part(*role, layer, 0, ending, shape)?);
                }
            }
            if self.spec.architecture == "phi3" {
                self.push(fused, layer, ending, &whole, parts);
            } else {
                for (((role, _), shape), part) in apart.iter().zip(&shapes).zip(parts) {
                    self.push(*role, layer, ending, shape, vec![part]);
                }
            }
        }
        Ok(())
    }

    fn experts(&mut self, role: Role, layer: usize, experts: usize, shape: [usize; 2]) -> Result<()> {
        let [rows, cols] = shape;
        let mut hf = Vec::with_capacity(experts);
        for expert in 0..experts {
            let part = if self.source.separate_experts() {
                self.part(role, layer, expert, "weight", &shape)?
            } else {
                let all = self.part(role, layer, 0, "weight", &[experts, rows, cols])?;
                Part { first: expert * rows, rows, ..all }
            };
            let name = format!("{}.weight", self.hf.name(role, layer, expert));
            hf.push(HfTensor::new(name, shape.to_vec(), vec![part]));
        }
        let gguf = format!("{}.weight", self.gguf.name(role, layer, 0));
        self.items.push(Item { gguf, hf, role, interleaved: false, plus_one: false });
        Ok(())
    }

    fn push(&mut self, role: Role, layer: usize, ending: &str, shape: &[usize], parts: Vec<Part>) {
        let spec = self.spec;
        let interleaved = matches!(role, Role::Query | Role::Key) && matches!(spec.architecture, "llama" | "solar");
        let is_norm =
            matches!(role, Role::AttentionNorm | Role::PostAttentionNorm | Role::FfnNorm | Role::PostFfnNorm | Role::FinalNorm);
        let plus_one = is_norm && spec.architecture == "gemma2" && ending == "weight";
        let mut hf = HfTensor::new(format!("{}.{ending}", self.hf.name(role, layer, 0)), shape.to_vec(), parts);
        if self.checkpoint.format() == Format::Gguf {
            hf.interleaved = interleaved.then_some(spec.rope.dim);
            hf.add = if plus_one { -1.0 } else { 0.0 };
        }
        let gguf = format!("{}.{ending}", self.gguf.name(role, layer, 0));
        self.items.push(Item { gguf, hf: vec![hf], role, interleaved, plus_one });
    }

    fn stored(&self, role: Role, layer: usize, expert: usize, ending: &str) -> String {
        format!("{}.{ending}", self.source.name(role, layer, expert))
    }

    fn part(&mut self, role: Role, layer: usize, expert: usize, ending: &str, shape: &[usize]) -> Result<Part> {
        let name = self.stored(role, layer, expert, ending);
        let path = self.checkpoint.path();
        let tensor = self.checkpoint.tensor(&name);
        let tensor = tensor.ok_or_else(|| ConvertError::Missing { path: path.into(), tensor: name.clone() })?;
        if tensor.shape != shape {
            let (got, expected) = (tensor.shape.clone(), shape.to_vec());
            return Err(ConvertError::Shape { path: path.into(), tensor: name, got, expected }.into());
        }
        self.used.insert(name);
        Ok(Part::whole(tensor))
    }
}
