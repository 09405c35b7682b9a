//! What a model takes, from headers alone.

use sol_compute::KvType;
use sol_weights::Checkpoint;

use crate::decoder::{BLOCK_LEN, cache_shape};
use crate::spec::{DecoderSpec, FeedForward};

/// Rows of one forward pass while a prompt is read.
pub const PREFILL_ROWS: usize = 512;

/// A quantisation by its usual name and mean bits a weight, scales included (llama.cpp's mixtures).
pub const QUANTISATIONS: [(&str, f64); 8] = [
    ("BF16", 16.0),
    ("Q8_0", 8.5),
    ("Q6_K", 6.5625),
    ("Q5_K_M", 5.69),
    ("Q4_K_M", 4.85),
    ("Q4_0", 4.55),
    ("Q3_K_M", 3.91),
    ("Q2_K", 3.0),
];

/// Memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Weights as they lie in the file.
    pub weights: u64,
    /// KV cache of all sequences.
    pub kv: u64,
    /// Activations.
    pub work: u64,
}

impl Memory {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights + self.kv + self.work
    }
}

/// Bytes of all tensors.
pub fn weight_bytes(checkpoint: &Checkpoint) -> u64 {
    checkpoint.tensors().map(|t| t.bytes().len() as u64).sum()
}

/// Number of weights the decoder has (a tied head counts once).
pub fn parameters(spec: &DecoderSpec) -> u64 {
    let hidden = spec.hidden as u64;
    let norm = |bias: bool| hidden * if bias { 2 } else { 1 };
    let table = spec.vocab as u64 * hidden;
    let head = if spec.head.tied { 0 } else { table } + if spec.head.bias { spec.vocab as u64 } else { 0 };
    let mut total = table + head + norm(spec.final_norm.bias);
    for layer in &spec.layers {
        let core = layer.attention.core;
        let (q, kv) = ((core.heads * core.head_dim) as u64, (core.kv_heads * core.head_dim) as u64);
        total += hidden * (2 * q + 2 * kv);
        total += if layer.attention.qkv_bias { q + 2 * kv } else { 0 } + if layer.attention.output_bias { hidden } else { 0 };
        total += match layer.ffn {
            FeedForward::Dense { ffn, bias, .. } => 3 * hidden * ffn as u64 + if bias { 2 * ffn as u64 + hidden } else { 0 },
            FeedForward::Experts { ffn, experts, .. } => experts as u64 * (3 * hidden * ffn as u64 + hidden),
        };
        total += norm(layer.attention_norm.bias) + norm(layer.ffn_norm.bias);
        total += [layer.post_attention_norm, layer.post_ffn_norm].iter().flatten().map(|n| norm(n.bias)).sum::<u64>();
    }
    total
}

/// Bytes a token takes in the KV cache.
pub fn kv_bytes_per_token(spec: &DecoderSpec, dtype: KvType) -> u64 {
    cache_shape(spec, 0, dtype).bytes_per_token()
}

/// What running takes: `sequences` sequences of `context` tokens.
pub fn needed(spec: &DecoderSpec, weights: u64, context: usize, sequences: usize, dtype: KvType) -> Memory {
    let blocks = context.div_ceil(BLOCK_LEN) as u64 * sequences as u64;
    let kv = kv_bytes_per_token(spec, dtype).saturating_mul(BLOCK_LEN as u64).saturating_mul(blocks);
    Memory { weights, kv, work: work_bytes(spec, PREFILL_ROWS.min(context.max(1))) }
}

/// Bytes of activations for `rows` rows (see `Model::workspace`).
fn work_bytes(spec: &DecoderSpec, rows: usize) -> u64 {
    let widest = spec.layers.iter().map(|l| {
        let core = l.attention.core;
        let ffn = match l.ffn {
            FeedForward::Dense { ffn, .. } => 2 * ffn,
            FeedForward::Experts { ffn, .. } => 2 * ffn + 2 * spec.hidden,
        };
        2 * core.heads * core.head_dim + 2 * core.kv_heads * core.head_dim + core.head_dim + ffn
    });
    let slots = if spec.has_skips() { 2 } else { 0 };
    let row = (3 + slots) * spec.hidden + widest.max().unwrap_or(0);
    4 * (rows as u64 * row as u64 + spec.vocab as u64 + spec.hidden as u64)
}

/// Whether a budget holds the model in each of [`QUANTISATIONS`]: name and memory, best first.
pub fn fits(spec: &DecoderSpec, budget: u64, context: usize, sequences: usize) -> Vec<(&'static str, Memory, bool)> {
    let parameters = parameters(spec) as f64;
    QUANTISATIONS
        .iter()
        .map(|&(name, bits)| {
            let memory = needed(spec, (parameters * bits / 8.0) as u64, context, sequences, KvType::F16);
            (name, memory, memory.total() <= budget)
        })
        .collect()
}
