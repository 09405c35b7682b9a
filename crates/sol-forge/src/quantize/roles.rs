//! What a tensor of a GGUF file is for, by its name, as far as its type depends on that.

use sol_model::Role;
use sol_weights::gguf::Metadata;
use sol_weights::{Checkpoint, Tensor};

use crate::Matrix;

/// What the choice of types depends on beside a tensor's name.
pub(super) struct Model {
    layers: usize,
    heads_per_value: usize,
    experts: usize,
    /// Whether the embedding table is the head too.
    tied: bool,
    weighed: bool,
}

impl Model {
    /// What a file says; a key that is not there counts as in a model without such a thing.
    pub(super) fn of(source: &Checkpoint, metadata: &Metadata, weighed: bool) -> Self {
        let architecture = metadata.str("general.architecture").unwrap_or_default();
        let key = |name: &str| format!("{architecture}.{name}");
        // Some architectures have a number for each layer.
        let number = |name: &str| {
            let first = || metadata.u64s(&key(name)).and_then(|list| list.into_iter().max());
            metadata.u64(&key(name)).or_else(first).and_then(|n| usize::try_from(n).ok())
        };
        let heads = number("attention.head_count").unwrap_or(1);
        let values = number("attention.head_count_kv").unwrap_or(heads).max(1);
        Self {
            layers: number("block_count").unwrap_or(0),
            heads_per_value: heads / values,
            experts: number("expert_count").unwrap_or(0),
            tied: source.tensor("output.weight").is_none(),
            weighed,
        }
    }

    /// A matrix whose type is chosen; nothing for what stays as it is.
    pub(super) fn matrix(&self, tensor: &Tensor) -> Option<Matrix> {
        let name = tensor.name.strip_suffix(".weight")?;
        let dimensions = tensor.shape.iter().filter(|&&n| n != 1).count();
        // Routers, norms, tables of positions and convolutions are small and suffer most.
        let kept = ["_norm", "ffn_gate_inp", "position_embd", "token_types", "ssm_conv1d", "shortconv.conv"];
        if dimensions < 2 || tensor.elements() == 0 || kept.iter().any(|part| name.ends_with(part)) {
            return None;
        }
        let (layer, kind) = match name.strip_prefix("blk.").and_then(|name| name.split_once('.')) {
            Some((layer, kind)) => (layer.parse().ok()?, kind),
            None => (0, name),
        };
        let role = match kind {
            "output" => Role::Head,
            "token_embd" if self.tied => Role::Head,
            "token_embd" => Role::Embedding,
            "attn_q" => Role::Query,
            "attn_k" => Role::Key,
            "attn_v" => Role::Value,
            "attn_qkv" => Role::FusedQkv,
            "attn_output" => Role::AttentionOutput,
            kind if kind.starts_with("ffn_down") => Role::Down,
            _ => Role::Up,
        };
        let cols = tensor.shape.last().copied()?;
        let Self { layers, heads_per_value, experts, weighed, .. } = *self;
        Some(Matrix { role, layer, layers, cols, heads_per_value, experts, weighed })
    }
}
