//! Phi-3: Llama with fused projections and a sliding window in every layer; longrope in the 128k models.

use sol_compute::{Activation, RopePairing};
use sol_weights::Checkpoint;

use super::{Architecture, Dimensions, Result, gguf_rope_scaling, gguf_tied, hf_rope_scaling};
use crate::config::{Config, Gguf, Hf};
use crate::spec::{FeedForward, NormSpec};
use crate::{Description, Naming};

pub(super) const ARCHITECTURE: Architecture = Architecture { name: "phi3", class: "Phi3ForCausalLM", from_hf, from_gguf };

fn from_hf(c: &Hf<'_>) -> Result<Description> {
    let d = Dimensions::hf(c)?;
    if let Some(part) = c.optional_float("partial_rotary_factor")?
        && part != 1.0
    {
        return Err(c.bad("partial_rotary_factor", part, "only whole heads can be rotated"));
    }
    let activation = c.activation("hidden_act")?.unwrap_or(Activation::Silu);
    let ffn = FeedForward::Dense { ffn: d.ffn, activation, bias: false };
    let window = c.optional_size("sliding_window")?;
    let layer = d.layer(NormSpec::rms(d.eps), d.attention(window, c.flag("attention_bias", false)?), ffn);
    let spec = d.decoder("phi3", hf_rope_scaling(c, &d)?, layer, c.flag("tie_word_embeddings", false)?);
    Ok(Description { spec, naming: Naming::hf(&[]), warnings: Vec::new() })
}

fn from_gguf(c: &Gguf<'_>, checkpoint: &Checkpoint) -> Result<Description> {
    let d = Dimensions::gguf(c, checkpoint, "attention.layer_norm_rms_epsilon", RopePairing::Halves)?;
    let ffn = FeedForward::Dense { ffn: d.ffn, activation: Activation::Silu, bias: false };
    let layer = d.layer(NormSpec::rms(d.eps), d.attention(gguf_window(c)?, false), ffn);
    let spec = d.decoder("phi3", gguf_rope_scaling(c, checkpoint, &d)?, layer, gguf_tied(checkpoint));
    Ok(Description { spec, naming: Naming::gguf(&[]), warnings: Vec::new() })
}

/// GGUF writes 0 for "none".
pub(super) fn gguf_window(c: &Gguf<'_>) -> Result<Option<usize>> {
    match c.integer("attention.sliding_window") {
        Some(Ok(0)) => Ok(None),
        _ => c.optional_size("attention.sliding_window"),
    }
}
