//! `config.json` and `generation_config.json` of what a GGUF file holds, as the published classes read them.

use serde_json::{Map, Value, json};
use sol_compute::{Activation, Routing};
use sol_model::{DecoderSpec, FeedForward, RopeFactors, RopeScaling, RopeSpec, hf_class};
use sol_weights::{DType, gguf};

use super::keys::attn_factor;

/// Solar's blend while training, which GGUF files do not have: the published value.
const TRAINING_BLEND: f64 = 0.9;

/// `config.json`; `None` where the rotary divisors are those of no published scaling.
pub(super) fn config(spec: &DecoderSpec, meta: &gguf::Metadata, dtype: DType) -> Option<Value> {
    let layer = &spec.layers[0];
    let core = &layer.attention.core;
    let mut config = Map::new();
    let mut set = |key: &str, value: Value| {
        config.insert(key.to_owned(), value);
    };
    set("architectures", json!([hf_class(spec.architecture)?]));
    set("model_type", json!(spec.architecture));
    set("vocab_size", json!(spec.vocab));
    set("hidden_size", json!(spec.hidden));
    let (ffn, activation) = match layer.ffn {
        FeedForward::Dense { ffn, activation, .. } | FeedForward::Experts { ffn, activation, .. } => (ffn, activation),
    };
    set("intermediate_size", json!(ffn));
    set("num_hidden_layers", json!(spec.layers.len()));
    set("num_attention_heads", json!(core.heads));
    set("num_key_value_heads", json!(core.kv_heads));
    if core.heads * core.head_dim != spec.hidden || spec.architecture == "gemma2" {
        set("head_dim", json!(core.head_dim));
    }
    let activation = match activation {
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu_pytorch_tanh",
    };
    set("hidden_act", json!(activation));
    set("max_position_embeddings", json!(spec.context));
    set("rms_norm_eps", number(spec.final_norm.eps));
    set("rope_theta", number(spec.rope.theta));
    set("tie_word_embeddings", json!(spec.head.tied));
    set("attention_bias", json!(layer.attention.qkv_bias));
    set("attention_dropout", json!(0.0));
    set("initializer_range", json!(0.02));
    set("use_cache", json!(true));
    let mut scaling = rope_scaling(&spec.rope, spec.context, spec.architecture == "phimoe")?;
    if spec.architecture == "solar" {
        // Its class refuses more than type and factor.
        scaling.as_object_mut().and_then(|scaling| scaling.shift_remove("rope_type"));
    }
    match spec.architecture {
        "gemma2" => {
            set("hidden_activation", json!(activation));
            // Known as a power of it: 144, 224, 256 are what the published models have.
            set("query_pre_attn_scalar", whole_or(f64::from(core.scale).powi(-2)));
            set("attn_logit_softcapping", core.softcap.map_or(Value::Null, number));
            set("final_logit_softcapping", spec.head.softcap.map_or(Value::Null, number));
            set("sliding_window", json!(spec.window()));
        }
        "llama" => {
            set("mlp_bias", json!(matches!(layer.ffn, FeedForward::Dense { bias: true, .. })));
            set("rope_scaling", scaling);
        }
        "solar" => {
            set("mlp_bias", json!(matches!(layer.ffn, FeedForward::Dense { bias: true, .. })));
            set("rope_scaling", scaling);
            set("sliding_window", json!(spec.window()));
            let layers = |of: &dyn Fn(&sol_model::Skips) -> bool| -> Value {
                json!((0..spec.layers.len()).filter(|i| of(&spec.layers[*i].skips)).collect::<Vec<_>>())
            };
            set("bskcn_1", layers(&|skips| skips.save[0]));
            set("bskcn_2", layers(&|skips| skips.save[1]));
            set("bskcn_3", layers(&|skips| skips.blend[0]));
            set("bskcn_4", layers(&|skips| skips.blend[1]));
            set("bskcn_tv", json!([TRAINING_BLEND, number(spec.skip_blend)]));
            if spec.head.scale != 1.0 {
                set("logit_scale", number(spec.head.scale));
            }
        }
        _ => {
            let key = format!("{}.rope.scaling.original_context_length", spec.architecture);
            set("original_max_position_embeddings", json!(meta.u64(&key).unwrap_or(spec.context as u64)));
            set("rope_scaling", scaling);
            set("sliding_window", json!(spec.window()));
            set("resid_pdrop", json!(0.0));
            set("embd_pdrop", json!(0.0));
        }
    }
    if let FeedForward::Experts { experts, used, routing: Routing::SparseMixer { jitter }, .. } = layer.ffn {
        set("lm_head_bias", json!(spec.head.bias));
        set("num_local_experts", json!(experts));
        set("num_experts_per_tok", json!(used));
        set("router_jitter_noise", number(jitter));
        set("input_jitter_noise", number(jitter));
        set("output_router_logits", json!(false));
        set("router_aux_loss_coef", json!(0.0));
    }
    // Where the file names none, a class's default would be taken: null says that there is none.
    for (key, ggml) in [("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")] {
        set(key, json!(meta.u64(&format!("tokenizer.ggml.{ggml}_token_id"))));
    }
    set("torch_dtype", json!(torch_name(dtype)));
    Some(Value::Object(config))
}

/// `generation_config.json`: the tokens at both ends of an answer. `None` where the file names no end.
pub(super) fn generation_config(meta: &gguf::Metadata, ends: &[u32]) -> Option<Value> {
    let eos = match ends {
        [] => return None,
        [one] => json!(one),
        several => json!(several),
    };
    let id = |name: &str| meta.u64(&format!("tokenizer.ggml.{name}_token_id"));
    Some(json!({
        "_from_model_config": true,
        "bos_token_id": id("bos"),
        "eos_token_id": eos,
        "pad_token_id": id("padding").or_else(|| id("eos")),
    }))
}

pub(super) fn torch_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "float16",
        DType::BF16 => "bfloat16",
        _ => "float32",
    }
}

/// `rope_scaling`: `None` for divisors of no published scaling.
fn rope_scaling(rope: &RopeSpec, context: usize, moe: bool) -> Option<Value> {
    let divisors = |list: &[f32]| list.iter().map(|x| number(*x)).collect::<Value>();
    Some(match &rope.scaling {
        RopeScaling::None => Value::Null,
        RopeScaling::Linear { factor } => json!({ "type": "linear", "rope_type": "linear", "factor": number(*factor) }),
        RopeScaling::Llama3 { factor, low, high, original } => llama3(*factor, *low, *high, *original),
        RopeScaling::Divisors(list) => llama3_of(rope, list)?,
        RopeScaling::LongRope { short, long, short_mscale, long_mscale, original } => {
            // transformers' Phi-3 refuses more than these three keys; PhiMoE needs all six.
            let mut scaling = json!({ "type": "longrope", "short_factor": divisors(short), "long_factor": divisors(long) });
            let computed = attn_factor(context, *original);
            if moe || [*short_mscale, *long_mscale] != [computed; 2] {
                scaling["short_mscale"] = number(*short_mscale);
                scaling["long_mscale"] = number(*long_mscale);
                scaling["original_max_position_embeddings"] = json!(original);
                scaling["rope_type"] = json!("longrope");
            }
            scaling
        }
    })
}

fn llama3(factor: f32, low: f32, high: f32, original: f32) -> Value {
    json!({
        "rope_type": "llama3",
        "factor": number(factor),
        "low_freq_factor": number(low),
        "high_freq_factor": number(high),
        "original_max_position_embeddings": whole_or(f64::from(original)),
    })
}

/// Llama 3's scaling that leads to these divisors. Only `original / low` and `original / high` can be told from them: `low`
/// is 1, as in all published models.
fn llama3_of(rope: &RopeSpec, divisors: &[f32]) -> Option<Value> {
    let plain = RopeSpec { scaling: RopeScaling::None, ..rope.clone() }.table(RopeFactors::Short).inv_freq;
    let factor = f64::from(*divisors.last()?);
    if divisors.iter().all(|d| *d == 1.0) {
        return Some(Value::Null);
    }
    // On the ramp, u = (original / wavelength - 1) / (high - 1) is a line over the frequency.
    let ramp: Vec<(f64, f64)> = plain
        .iter()
        .zip(divisors)
        .map(|(freq, divisor)| (f64::from(*freq), f64::from(*divisor)))
        .filter(|(_, divisor)| *divisor > 1.000_01 && *divisor < factor * 0.999_99)
        .map(|(freq, divisor)| (freq / std::f64::consts::TAU, (1.0 / divisor - 1.0 / factor) / (1.0 - 1.0 / factor)))
        .collect();
    let mut guesses: Vec<(f64, f64)> = [8192.0, 4096.0, 16_384.0, 32_768.0, 2048.0].map(|original| (original, 4.0)).into();
    // One point on the ramp, or none between the kept and the divided, tells as much once `high` is 4.
    guesses.extend(ramp.first().map(|(x, u)| (near_whole((u * 3.0 + 1.0) / x), 4.0)));
    let edge = divisors.iter().take_while(|d| **d == 1.0).count();
    if let [.., kept, divided] = plain[..plain.len().min(edge + 1)] {
        guesses.push((std::f64::consts::TAU * (4.0 / f64::from(kept) / f64::from(divided)).sqrt(), 4.0));
    }
    if let [(x0, u0), .., (x1, u1)] = ramp[..] {
        let slope = (u1 - u0) / (x1 - x0);
        let high = 1.0 - 1.0 / (u0 - slope * x0);
        guesses.insert(0, (near_whole(slope * (high - 1.0)), near_whole(high)));
    }
    guesses.into_iter().find_map(|(original, high)| {
        let (factor, high, original) = (factor as f32, high as f32, original as f32);
        if !(original > 0.0 && high > 1.0) {
            return None;
        }
        let scaling = RopeScaling::Llama3 { factor, low: 1.0, high, original };
        let scaled = RopeSpec { scaling, ..rope.clone() }.table(RopeFactors::Short).inv_freq;
        let same = plain.iter().zip(divisors).zip(scaled).all(|((f, d), s)| (f / d - s).abs() <= 2e-6 * s.abs());
        same.then(|| llama3(factor, 1.0, high, original))
    })
}

/// The integer that a fitted number is meant to be, if it is near one.
fn near_whole(x: f64) -> f64 {
    if (x - x.round()).abs() < 2e-4 * x.abs() { x.round() } else { x }
}

/// A number as short as it can be written without loss of the f32.
fn number(x: f32) -> Value {
    let shortest: f64 = x.to_string().parse().unwrap_or(f64::from(x));
    json!(shortest)
}

/// A whole number where it is one within what an f32 tells.
fn whole_or(x: f64) -> Value {
    if (x - x.round()).abs() < 1e-4 * x.abs() && x.abs() < 1e15 { json!(x.round() as i64) } else { json!(x) }
}

#[cfg(test)]
mod tests {
    use sol_compute::RopePairing;

    use super::*;

    /// Published scalings are found again in the divisors that they lead to.
    #[test]
    fn llama_3_scaling_is_read_off_its_divisors() {
        for (factor, high, original, theta, dim) in [
            (8.0, 4.0, 8192.0, 500_000.0, 128),
            (32.0, 4.0, 8192.0, 500_000.0, 64),
            (6.0, 4.0, 20.0, 500.0, 12),
            (8.0, 4.0, 24.0, 500_000.0, 16),
        ] {
            let scaling = RopeScaling::Llama3 { factor, low: 1.0, high, original };
            let rope = RopeSpec { dim, theta, pairing: RopePairing::Adjacent, scaling };
            let found = llama3_of(&rope, &super::super::keys::divisors(&rope)).unwrap();
            assert_eq!(found, llama3(factor, 1.0, high, original));
        }
    }

    #[test]
    fn numbers_are_written_short() {
        assert_eq!(number(1e-5), json!(0.00001));
        assert_eq!(number(0.8).to_string(), "0.8");
        assert_eq!(whole_or(f64::from(144f32.powf(-0.5)).powi(-2)), json!(144));
    }
}
