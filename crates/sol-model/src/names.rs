//! How checkpoints call their tensors: two tables, HF's Llama names and GGUF's, and what single architectures change.

/// What a tensor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Role {
    Embedding,
    FinalNorm,
    Head,
    AttentionNorm,
    Query,
    Key,
    Value,
    /// q, k and v in one, in that order.
    FusedQkv,
    AttentionOutput,
    PostAttentionNorm,
    FfnNorm,
    Gate,
    Up,
    /// Gate and up in one, gate first.
    FusedGateUp,
    Down,
    PostFfnNorm,
    Router,
    ExpertGate,
    ExpertUp,
    ExpertDown,
}

impl Role {
    /// For error messages.
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Self::Embedding => "the embedding table",
            Self::FinalNorm => "the final norm",
            Self::Head => "the output head",
            Self::AttentionNorm => "the norm before attention",
            Self::Query => "the query projection",
            Self::Key => "the key projection",
            Self::Value => "the value projection",
            Self::FusedQkv => "the query, key and value projection",
            Self::AttentionOutput => "the attention's output projection",
            Self::PostAttentionNorm => "the norm after attention",
            Self::FfnNorm => "the norm before the feed-forward",
            Self::Gate => "the feed-forward's gate",
            Self::Up => "the feed-forward's up projection",
            Self::FusedGateUp => "the feed-forward's gate and up projection",
            Self::Down => "the feed-forward's down projection",
            Self::PostFfnNorm => "the norm after the feed-forward",
            Self::Router => "the router",
            Self::ExpertGate => "an expert's gate",
            Self::ExpertUp => "an expert's up projection",
            Self::ExpertDown => "an expert's down projection",
        }
    }
}

/// A table of names; `{L}` is the layer, `{E}` the expert (absent where all experts are one three-dimensional tensor).
#[derive(Clone, Copy, Debug)]
pub struct Naming {
    base: fn(Role) -> &'static str,
    changes: &'static [(Role, &'static str)],
}

impl Naming {
    /// HF's Llama names, with changes.
    pub(crate) const fn hf(changes: &'static [(Role, &'static str)]) -> Self {
        Self { base: hf_name, changes }
    }

    /// GGUF's names, with changes.
    pub(crate) const fn gguf(changes: &'static [(Role, &'static str)]) -> Self {
        Self { base: gguf_name, changes }
    }

    fn pattern(&self, role: Role) -> &'static str {
        let changed = self.changes.iter().find(|(r, _)| *r == role);
        changed.map_or_else(|| (self.base)(role), |(_, name)| name)
    }

    /// Name without `.weight` or `.bias`.
    pub fn name(&self, role: Role, layer: usize, expert: usize) -> String {
        self.pattern(role).replace("{L}", &layer.to_string()).replace("{E}", &expert.to_string())
    }

    /// Whether each expert is a tensor of its own.
    pub fn separate_experts(&self) -> bool {
        self.pattern(Role::ExpertGate).contains("{E}")
    }
}

fn hf_name(role: Role) -> &'static str {
    match role {
        Role::Embedding => "model.embed_tokens",
        Role::FinalNorm => "model.norm",
        Role::Head => "lm_head",
        Role::AttentionNorm => "model.layers.{L}.input_layernorm",
        Role::Query => "model.layers.{L}.self_attn.q_proj",
        Role::Key => "model.layers.{L}.self_attn.k_proj",
        Role::Value => "model.layers.{L}.self_attn.v_proj",
        Role::FusedQkv => "model.layers.{L}.self_attn.qkv_proj",
        Role::AttentionOutput => "model.layers.{L}.self_attn.o_proj",
        // Llama's name for the norm before the feed-forward; Gemma 2 means it literally and overrides three of these.
        Role::FfnNorm => "model.layers.{L}.post_attention_layernorm",
        Role::PostAttentionNorm => "model.layers.{L}.post_attention_layernorm",
        Role::PostFfnNorm => "model.layers.{L}.post_feedforward_layernorm",
        Role::Gate => "model.layers.{L}.mlp.gate_proj",
        Role::Up => "model.layers.{L}.mlp.up_proj",
        Role::FusedGateUp => "model.layers.{L}.mlp.gate_up_proj",
        Role::Down => "model.layers.{L}.mlp.down_proj",
        Role::Router => "model.layers.{L}.block_sparse_moe.gate",
        Role::ExpertGate => "model.layers.{L}.block_sparse_moe.experts.{E}.w1",
        Role::ExpertUp => "model.layers.{L}.block_sparse_moe.experts.{E}.w3",
        Role::ExpertDown => "model.layers.{L}.block_sparse_moe.experts.{E}.w2",
    }
}

fn gguf_name(role: Role) -> &'static str {
    match role {
        Role::Embedding => "token_embd",
        Role::FinalNorm => "output_norm",
        Role::Head => "output",
        Role::AttentionNorm => "blk.{L}.attn_norm",
        Role::Query => "blk.{L}.attn_q",
        Role::Key => "blk.{L}.attn_k",
        Role::Value => "blk.{L}.attn_v",
        Role::FusedQkv => "blk.{L}.attn_qkv",
        Role::AttentionOutput => "blk.{L}.attn_output",
        Role::PostAttentionNorm => "blk.{L}.post_attention_norm",
        Role::FfnNorm => "blk.{L}.ffn_norm",
        Role::Gate => "blk.{L}.ffn_gate",
        Role::Up => "blk.{L}.ffn_up",
        Role::FusedGateUp => "blk.{L}.ffn_gate_up",
        Role::Down => "blk.{L}.ffn_down",
        Role::PostFfnNorm => "blk.{L}.post_ffw_norm",
        Role::Router => "blk.{L}.ffn_gate_inp",
        Role::ExpertGate => "blk.{L}.ffn_gate_exps",
        Role::ExpertUp => "blk.{L}.ffn_up_exps",
        Role::ExpertDown => "blk.{L}.ffn_down_exps",
    }
}
