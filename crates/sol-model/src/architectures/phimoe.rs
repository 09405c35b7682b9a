//! Phi-3.5-MoE: LayerNorm with bias, biased projections, longrope with magnitudes of its own, 16 experts by sparsemixer.

use sol_compute::{Activation, RopePairing, Routing};
use sol_weights::Checkpoint;

use super::scaling::{gguf_rope_scaling, hf_rope_scaling};
use super::{Architecture, Dimensions, Result, gguf_biased, gguf_qkv_biased, gguf_tied, gguf_window};
use crate::config::{Config, Gguf, Hf};
use crate::spec::{DecoderSpec, FeedForward, NormSpec, RopeScaling};
use crate::{Description, Naming};

pub(super) const ARCHITECTURE: Architecture = Architecture { name: "phimoe", class: "PhiMoEForCausalLM", from_hf, from_gguf };

/// `short_mscale` and `long_mscale` of the published config, which GGUF files do not carry.
const PUBLISHED_MSCALE: f32 = 1.243_163_1;
/// `router_jitter_noise` of the published config, likewise.
const PUBLISHED_JITTER: f32 = 0.01;

fn from_hf(c: &Hf<'_>) -> Result<Description> {
    let d = Dimensions::hf(c)?;
    let ffn = FeedForward::Experts {
        ffn: d.ffn,
        experts: experts(c, "num_local_experts")?,
        used: used(c, "num_experts_per_tok")?,
        activation: c.activation("hidden_act")?.unwrap_or(Activation::Silu),
        routing: Routing::SparseMixer { jitter: jitter(c)? },
    };
    let window = c.optional_tokens("sliding_window")?;
    let attention = d.attention(window, c.flag("attention_bias", false)?);
    let layer = d.layer(NormSpec::layer(d.eps), attention, ffn);
    let tied = c.flag("tie_word_embeddings", false)?;
    let mut spec = d.decoder("phimoe", hf_rope_scaling(c, &d)?, layer, tied);
    spec.head.bias = c.flag("lm_head_bias", false)?;
    Ok(Description { spec, naming: Naming::hf(&[]), warnings: Vec::new() })
}

fn from_gguf(c: &Gguf<'_>, checkpoint: &Checkpoint) -> Result<Description> {
    // llama.cpp runs this architecture with an RMS norm, so its converter writes the eps under that name.
    let key =
        if c.has("attention.layer_norm_epsilon") { "attention.layer_norm_epsilon" } else { "attention.layer_norm_rms_epsilon" };
    let d = Dimensions::gguf(c, checkpoint, key, RopePairing::Halves)?;
    let ffn = FeedForward::Experts {
        ffn: d.ffn,
        experts: experts(c, "expert_count")?,
        used: used(c, "expert_used_count")?,
        activation: Activation::Silu,
        // The key is written by `sol convert` where the config has another than the published one.
        routing: Routing::SparseMixer { jitter: jitter(c)? },
    };
    let mut attention = d.attention(gguf_window(c)?, gguf_qkv_biased(checkpoint));
    attention.output_bias = gguf_biased(checkpoint, "attn_output");
    let layer = d.layer(NormSpec::layer(d.eps), attention, ffn);
    let mut spec = d.decoder("phimoe", gguf_rope_scaling(c, checkpoint, &d)?, layer, gguf_tied(checkpoint));
    spec.head.bias = checkpoint.tensor("output.bias").is_some();
    if !c.has("rope.scaling.short_mscale") {
        restore_mscale(&mut spec);
    }
    Ok(Description { spec, naming: Naming::gguf(&[]), warnings: Vec::new() })
}

/// The file holds a factor computed from its lengths (1.19); the published config's own is 1.243.
fn restore_mscale(spec: &mut DecoderSpec) {
    if let RopeScaling::LongRope { short_mscale, long_mscale, original: 4096, .. } = &mut spec.rope.scaling
        && spec.context == 131_072
    {
        (*short_mscale, *long_mscale) = (PUBLISHED_MSCALE, PUBLISHED_MSCALE);
    }
}

fn jitter(c: &impl Config) -> Result<f32> {
    let key = "router_jitter_noise";
    match c.optional_float(key)? {
        Some(noise) if noise < 0.0 => Err(c.bad(key, noise, "must be 0 or above")),
        noise => Ok(noise.unwrap_or(PUBLISHED_JITTER)),
    }
}

fn experts(c: &impl Config, key: &str) -> Result<usize> {
    match c.experts(key)? {
        1 => Err(c.bad(key, 1, "sparsemixer routing chooses 2 of them")),
        n => Ok(n),
    }
}

/// Sparsemixer picks exactly two.
fn used(c: &impl Config, key: &str) -> Result<usize> {
    match c.experts(key)? {
        2 => Ok(2),
        n => Err(c.bad(key, n, "sparsemixer routing uses exactly 2 experts")),
    }
}
