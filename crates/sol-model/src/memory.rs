//! What a model takes, from headers alone.

use sol_compute::KvType;
use sol_weights::{Checkpoint, DType};

use crate::decoder::{BLOCK_LEN, cache_shape, workspace_shape};
use crate::spec::{DecoderSpec, FeedForward};

/// Most rows of one forward pass while a prompt is read.
pub const PREFILL_ROWS: usize = 512;

/// Most rows of a pass whose logits are all wanted: 64 x 256,000 x 4 bytes = 64 MB for the largest vocabulary.
pub const SCORED_ROWS: usize = 64;

/// Rows of a prompt's pass. Of large models, whose activations take memory, no more than share one unpacking of the weights.
pub fn prefill_rows(spec: &DecoderSpec) -> usize {
    if parameters(spec) < 4_000_000_000 { PREFILL_ROWS } else { PREFILL_ROWS / 2 }
}

/// Most rows of one forward pass where `sequences` sequences of `context` tokens are run: one of each, or a piece of a prompt.
pub fn pass_rows(spec: &DecoderSpec, context: usize, sequences: usize) -> usize {
    prefill_rows(spec).min(context.max(1)).max(sequences)
}

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
    /// Weights.
    pub weights: u64,
    /// KV cache of all sequences.
    pub kv: u64,
    /// Activations.
    pub work: u64,
    /// The program and the tokenizer, estimated.
    pub program: u64,
}

/// The program itself, and an entry of the vocabulary in the tables of a tokenizer (its text, its merge, both indices), as
/// measured with the vocabularies that llama.cpp ships: 530 to 830 bytes.
const PROGRAM_BYTES: u64 = 8 << 20;
const TOKEN_BYTES: u64 = 700;

impl Memory {
    /// All of it.
    pub fn total(&self) -> u64 {
        [self.kv, self.work, self.program].into_iter().fold(self.weights, u64::saturating_add)
    }
}

/// Bytes of all tensors as they lie in the files.
pub fn weight_bytes(checkpoint: &Checkpoint) -> u64 {
    checkpoint.tensors().map(|t| t.byte_len() as u64).sum()
}

/// Bytes of all tensors once they are loaded: F8 weights are multiplied by their scales into 16 bits.
pub fn loaded_bytes(checkpoint: &Checkpoint) -> u64 {
    let bytes = |t: &sol_weights::Tensor| t.byte_len() as u64 * if t.dtype == DType::F8E4M3 { 2 } else { 1 };
    checkpoint.tensors().map(bytes).sum()
}

/// Bytes of those among them that loading makes: all other tensors stay in their files.
pub fn copied_bytes(checkpoint: &Checkpoint) -> u64 {
    checkpoint.tensors().filter(|t| t.dtype == DType::F8E4M3).map(|t| 2 * t.byte_len() as u64).sum()
}

/// All tensors of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeShare {
    /// The type.
    pub dtype: DType,
    /// How many tensors have it.
    pub tensors: usize,
    /// Their elements.
    pub elements: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What types the weights are in, most bytes first.
pub fn weights_by_type(checkpoint: &Checkpoint) -> Vec<TypeShare> {
    let mut shares: Vec<TypeShare> = Vec::new();
    for tensor in checkpoint.tensors() {
        let (elements, bytes) = (tensor.elements() as u64, tensor.byte_len() as u64);
        match shares.iter_mut().find(|s| s.dtype == tensor.dtype) {
            Some(share) => {
                share.tensors += 1;
                share.elements += elements;
                share.bytes += bytes;
            }
            None => shares.push(TypeShare { dtype: tensor.dtype, tensors: 1, elements, bytes }),
        }
    }
    shares.sort_by_key(|s| std::cmp::Reverse(s.bytes));
    shares
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

/// Number of weights that one token is multiplied by: of experts, only those it uses count.
pub fn active_parameters(spec: &DecoderSpec) -> u64 {
    let idle = spec.layers.iter().map(|layer| match layer.ffn {
        FeedForward::Dense { .. } => 0,
        FeedForward::Experts { ffn, experts, used, .. } => {
            3 * experts.saturating_sub(used) as u64 * ffn as u64 * spec.hidden as u64
        }
    });
    parameters(spec) - idle.sum::<u64>()
}

/// Bytes a token takes in the KV cache.
pub fn kv_bytes_per_token(spec: &DecoderSpec, dtype: KvType) -> u64 {
    cache_shape(spec, 0, dtype).bytes_per_token()
}

/// What running takes: `sequences` sequences of `context` tokens.
pub fn needed(spec: &DecoderSpec, weights: u64, context: usize, sequences: usize, dtype: KvType) -> Memory {
    let blocks = (context.div_ceil(BLOCK_LEN) as u64).saturating_mul(sequences as u64);
    let kv = kv_bytes_per_token(spec, dtype).saturating_mul(BLOCK_LEN as u64).saturating_mul(blocks);
    let rows = pass_rows(spec, context, sequences);
    let program = PROGRAM_BYTES + TOKEN_BYTES * spec.vocab as u64;
    Memory { weights, kv, work: work_bytes(spec, rows, sequences), program }
}

/// Bytes of activations for passes of `rows` rows of which `outputs` give logits: the buffers of the decoder and those that a
/// backend keeps of its own, which are the experts' rows and quantised activations.
pub fn work_bytes(spec: &DecoderSpec, rows: usize, outputs: usize) -> u64 {
    let buffers: u64 = workspace_shape(spec, rows, outputs).iter().map(|&(rows, cols)| 4 * rows as u64 * cols as u64).sum();
    let hidden = spec.hidden as u64;
    let layers = spec.layers.iter().map(|layer| {
        let core = layer.attention.core;
        let (ffn, experts) = match layer.ffn {
            FeedForward::Dense { ffn, .. } => (ffn as u64, 0),
            FeedForward::Experts { ffn, experts, .. } => (ffn as u64, 4 * (2 * ffn as u64 + 4 * hidden + experts as u64)),
        };
        // An 8-bit number each, and scale and sums of every 32.
        let widest_input = hidden.max(ffn).max((core.heads * core.head_dim) as u64);
        experts + widest_input * 11 / 8
    });
    buffers + rows as u64 * layers.max().unwrap_or(0)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::describe;
    use serde_json::{Value, json};

    /// A decoder from a published shape: hidden, layers, heads, kv heads, ffn, vocabulary, context.
    fn spec(class: &str, [hidden, layers, heads, kv_heads, ffn, vocab, context]: [usize; 7], more: Value) -> DecoderSpec {
        let mut config = json!({
            "architectures": [class], "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": kv_heads, "intermediate_size": ffn, "vocab_size": vocab, "max_position_embeddings": context,
            "rms_norm_eps": 1e-5,
        });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        sol_weights::safetensors::write(&dir.path().join("model.safetensors"), &[]).unwrap();
        describe(&Checkpoint::open(dir.path()).unwrap()).unwrap().spec
    }

    fn solar() -> DecoderSpec {
        let skips = json!({ "bskcn_1": [12, 20, 32, 44], "bskcn_2": [20, 32], "bskcn_3": [16, 24, 36, 48], "bskcn_4": [28, 40],
            "bskcn_tv": [0.9, 0.8] });
        spec("SolarForCausalLM", [5120, 64, 40, 10, 17920, 32128, 4096], skips)
    }

    fn phimoe() -> DecoderSpec {
        let factors = vec![1.0; 64];
        let more = json!({ "num_local_experts": 16, "num_experts_per_tok": 2, "attention_bias": true, "lm_head_bias": true,
            "original_max_position_embeddings": 4096,
            "rope_scaling": { "type": "longrope", "short_factor": factors, "long_factor": factors } });
        spec("PhiMoEForCausalLM", [4096, 32, 32, 8, 6400, 32064, 131_072], more)
    }

    fn llama(layers: usize, hidden: usize, heads: usize, ffn: usize) -> DecoderSpec {
        spec("LlamaForCausalLM", [hidden, layers, heads, 8, ffn, 128_256, 131_072], json!({}))
    }

    fn smollm() -> DecoderSpec {
        spec("LlamaForCausalLM", [576, 30, 9, 3, 1536, 49_152, 8192], json!({ "tie_word_embeddings": true }))
    }

    /// The published numbers of parameters (a MoE's router and every bias among them), and 2 bytes for each cached value.
    #[test]
    fn parameters_and_cache_of_the_published_models() {
        let phi3 = spec("Phi3ForCausalLM", [5120, 40, 40, 10, 17920, 32064, 4096], json!({}));
        let gemma = json!({ "head_dim": 128, "query_pre_attn_scalar": 144, "sliding_window": 4096, "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0, "hidden_activation": "gelu_pytorch_tanh" });
        let gemma = spec("Gemma2ForCausalLM", [4608, 46, 32, 16, 36864, 256_000, 8192], gemma);
        for (name, spec, expected, kv) in [
            ("solar", solar(), 22_140_032_000, 327_680),
            ("phi-3-medium", phi3, 13_960_238_080, 204_800),
            ("phi-3.5-moe", phimoe(), 41_873_153_344, 131_072),
            ("gemma-2-27b", gemma, 27_227_128_320, 376_832),
            ("llama-3.1-8b", llama(32, 4096, 32, 14336), 8_030_261_248, 131_072),
            ("llama-3.1-70b", llama(80, 8192, 64, 28672), 70_553_706_496, 327_680),
            ("smollm2", smollm(), 134_515_008, 23_040),
        ] {
            assert_eq!((parameters(&spec), kv_bytes_per_token(&spec, KvType::F16)), (expected, kv), "{name}");
            assert_eq!(kv_bytes_per_token(&spec, KvType::Q8_0), kv / 2 / 32 * 34, "{name}");
            let active = if name == "phi-3.5-moe" { 6_640_999_744 } else { expected };
            assert_eq!(active_parameters(&spec), active, "{name}");
        }
    }

    #[test]
    fn the_skips_of_solar_are_six_links() {
        let expected = [(12, 16, 0), (20, 24, 0), (20, 28, 1), (32, 36, 0), (32, 40, 1), (44, 48, 0)];
        assert_eq!(solar().skip_links(), expected);
    }

    #[test]
    fn solar_in_bf16_needs_an_80_gb_gpu_and_in_four_bits_a_24_gb_one() {
        let fit = |budget| -> Vec<&str> { fits(&solar(), budget, 4096, 1).iter().filter(|f| f.2).map(|f| f.0).collect() };
        assert_eq!(fit(80_000_000_000)[0], "BF16");
        assert_eq!(fit(24_000_000_000)[0], "Q6_K");
        assert_eq!(fit(16_000_000_000)[0], "Q4_K_M");
        assert!(fit(4_000_000_000).is_empty());
    }

    #[test]
    fn work_grows_with_rows_and_never_overflows() {
        let (small, large) = (smollm(), phimoe());
        assert!(work_bytes(&small, 512, 1) > work_bytes(&small, 64, 1));
        // 512 rows: stream, normed, branch, q, attended (576 each), k, v (192), two of 1536, angles (64), 1536 quantised; logits.
        let expected = 512 * (4 * (5 * 576 + 2 * 192 + 2 * 1536 + 64) + 1536 * 11 / 8) + 4 * (576 + 49_152);
        assert_eq!(work_bytes(&small, 512, 1), expected);
        let most = needed(&large, u64::MAX, usize::MAX, 1 << 20, KvType::F32);
        assert_eq!(most.total(), u64::MAX);
    }

    #[test]
    fn passes_of_large_models_have_fewer_rows() {
        assert_eq!((prefill_rows(&smollm()), prefill_rows(&solar())), (512, 256));
    }
}
