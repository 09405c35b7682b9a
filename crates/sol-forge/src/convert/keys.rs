//! Hyper-parameters as a GGUF file has them: the keys that llama.cpp's converter writes, and ollama's for Solar.
//!
//! Where a model differs from what readers of those keys take for granted, four keys of our own say so; other programs do
//! not read them: `gemma2.attention.scale`, `phimoe.router_jitter_noise`, and `ARCH.rope.scaling.short_mscale` and
//! `.long_mscale`.

use serde_json::Value as Json;
use sol_compute::Routing;
use sol_model::{DecoderSpec, FeedForward, RopeFactors, RopeScaling, RopeSpec};
use sol_weights::DType;
use sol_weights::gguf::{Array, TensorInfo, Value};

use super::rows::{Content, Output};

/// The keys under the architecture's prefix, and the tensors that hold hyper-parameters. `config` is the source's config.json.
pub(super) fn hyperparameters(spec: &DecoderSpec, config: &Json) -> (Vec<(String, Value)>, Vec<Output>) {
    let architecture = spec.architecture;
    let core = &spec.layers[0].attention.core;
    let (heads, kv_heads, head_dim) = (core.heads, core.kv_heads, core.head_dim);
    let eps = spec.final_norm.eps;
    let ffn = match spec.layers[0].ffn {
        FeedForward::Dense { ffn, .. } | FeedForward::Experts { ffn, .. } => ffn,
    };
    let mut keys = vec![
        ("block_count", count(spec.layers.len())),
        ("context_length", count(spec.context)),
        ("embedding_length", count(spec.hidden)),
        ("feed_forward_length", count(ffn)),
        ("attention.head_count", count(heads)),
        ("attention.head_count_kv", count(kv_heads)),
        ("attention.layer_norm_rms_epsilon", Value::F32(eps)),
    ];
    let explicit_heads = !config["head_dim"].is_null() || heads * head_dim != spec.hidden;
    if explicit_heads || matches!(architecture, "gemma2" | "llama") {
        keys.extend([("attention.key_length", count(head_dim)), ("attention.value_length", count(head_dim))]);
    }
    if architecture != "gemma2" {
        keys.extend([("rope.freq_base", Value::F32(spec.rope.theta)), ("rope.dimension_count", count(head_dim))]);
    } else if spec.rope.theta != 10_000.0 {
        keys.push(("rope.freq_base", Value::F32(spec.rope.theta)));
    }
    if matches!(architecture, "llama" | "solar") {
        keys.push(("vocab_size", count(spec.vocab)));
    }
    if let RopeScaling::Linear { factor } = spec.rope.scaling {
        keys.extend([("rope.scaling.type", text("linear")), ("rope.scaling.factor", Value::F32(factor))]);
    }
    match architecture {
        "solar" => solar(spec, &mut keys),
        "phi3" | "phimoe" => phi(spec, config, &mut keys),
        "gemma2" => gemma(spec, head_dim, &mut keys),
        _ => {}
    }
    if let FeedForward::Experts { experts, used, routing, .. } = spec.layers[0].ffn {
        keys.extend([("expert_count", count(experts)), ("expert_used_count", count(used))]);
        match routing {
            Routing::SparseMixer { jitter } if jitter != 0.01 => keys.push(("router_jitter_noise", Value::F32(jitter))),
            Routing::SparseMixer { .. } => {}
        }
    }
    let keys = keys.into_iter().map(|(key, value)| (format!("{architecture}.{key}"), value)).collect();
    (keys, extra_tensors(spec))
}

fn solar(spec: &DecoderSpec, keys: &mut Vec<(&'static str, Value)>) {
    const LISTS: [&str; 4] = [
        "attention.block_skip_connection.0",
        "attention.block_skip_connection.1",
        "attention.block_skip_connection.2",
        "attention.block_skip_connection.3",
    ];
    for (list, key) in LISTS.into_iter().enumerate() {
        let flag = |skips: &sol_model::Skips| if list < 2 { skips.save[list] } else { skips.blend[list - 2] };
        keys.push((key, Value::Array(Array::I32(spec.layers.iter().map(|layer| i32::from(flag(&layer.skips))).collect()))));
    }
    // ollama's converter writes none; ours reads one.
    if let Some(window) = spec.window() {
        keys.push(("attention.sliding_window", count(window)));
    }
    if spec.head.scale != 1.0 {
        keys.push(("logit_scale", Value::F32(spec.head.scale)));
    }
}

fn phi(spec: &DecoderSpec, config: &Json, keys: &mut Vec<(&'static str, Value)>) {
    keys.push(("attention.sliding_window", count(spec.window().unwrap_or(0))));
    let original = match spec.rope.scaling {
        RopeScaling::LongRope { original, .. } => original,
        _ => config["original_max_position_embeddings"].as_u64().map_or(spec.context, |n| n as usize),
    };
    keys.push(("rope.scaling.original_context_length", count(original)));
    if let RopeScaling::LongRope { short_mscale, long_mscale, .. } = spec.rope.scaling {
        let computed = attn_factor(spec.context, original);
        keys.push(("rope.scaling.attn_factor", Value::F32(computed)));
        // What readers take for phimoe of these lengths.
        let published = spec.architecture == "phimoe" && (spec.context, original) == (131_072, 4096);
        let assumed = if published { 1.243_163_1 } else { computed };
        if [short_mscale, long_mscale] != [assumed; 2] {
            keys.push(("rope.scaling.short_mscale", Value::F32(short_mscale)));
            keys.push(("rope.scaling.long_mscale", Value::F32(long_mscale)));
        }
    }
}

/// Longrope's magnitude as the lengths lead to it: `sqrt(1 + ln(context / original) / ln(original))`.
pub(super) fn attn_factor(context: usize, original: usize) -> f32 {
    let (context, original) = (context as f64, original as f64);
    let scale = context / original;
    if scale > 1.0 { (1.0 + scale.ln() / original.ln()).sqrt() as f32 } else { 1.0 }
}

fn gemma(spec: &DecoderSpec, head_dim: usize, keys: &mut Vec<(&'static str, Value)>) {
    let core = &spec.layers[0].attention.core;
    keys.extend(core.softcap.map(|cap| ("attn_logit_softcapping", Value::F32(cap))));
    keys.extend(spec.head.softcap.map(|cap| ("final_logit_softcapping", Value::F32(cap))));
    keys.push(("attention.sliding_window", count(spec.window().unwrap_or(0))));
    let per_head = if spec.layers.len() == 46 { spec.hidden as f32 / core.heads as f32 } else { head_dim as f32 };
    if core.scale != per_head.powf(-0.5) {
        keys.push(("attention.scale", Value::F32(core.scale)));
    }
}

/// Hyper-parameters that are tensors in GGUF files.
fn extra_tensors(spec: &DecoderSpec) -> Vec<Output> {
    let exactly = |name: &str, values: Vec<f32>| Output {
        info: TensorInfo { name: name.into(), dtype: DType::F32, shape: vec![values.len()] },
        content: Content::Exactly(values),
    };
    let mut extra = match &spec.rope.scaling {
        RopeScaling::Llama3 { .. } => vec![exactly("rope_freqs.weight", divisors(&spec.rope))],
        RopeScaling::LongRope { short, long, .. } => {
            vec![exactly("rope_factors_long.weight", long.clone()), exactly("rope_factors_short.weight", short.clone())]
        }
        _ => Vec::new(),
    };
    if spec.architecture == "solar" {
        extra.push(exactly("bskcn_tv.weight", vec![spec.skip_blend, 1.0 - spec.skip_blend]));
    }
    extra
}

/// Llama 3's scaling as divisors of the frequencies: of the neighbours of each quotient the one that gives the very frequency.
pub(super) fn divisors(rope: &RopeSpec) -> Vec<f32> {
    let plain = RopeSpec { scaling: RopeScaling::None, ..rope.clone() }.table(RopeFactors::Short).inv_freq;
    let scaled = rope.table(RopeFactors::Short).inv_freq;
    let exact = |plain: f32, scaled: f32| {
        let near = (plain / scaled).to_bits();
        let candidates = [0i32, 1, -1, 2, -2].map(|step| f32::from_bits(near.wrapping_add_signed(step)));
        candidates.into_iter().find(|divisor| plain / divisor == scaled).unwrap_or(plain / scaled)
    };
    plain.iter().zip(scaled).map(|(plain, scaled)| exact(*plain, scaled)).collect()
}

/// Dimensions of a spec are bounded far below what a u32 counts.
fn count(n: usize) -> Value {
    Value::U32(n as u32)
}

fn text(text: &str) -> Value {
    Value::String(text.into())
}
