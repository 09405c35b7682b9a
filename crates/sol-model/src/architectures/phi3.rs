//! Phi-3: Llama with fused projections and a sliding window in every layer; longrope in the 128k models.

use sol_compute::{Activation, RopePairing};
use sol_weights::Checkpoint;

use super::scaling::{gguf_rope_scaling, hf_rope_scaling};
use super::{Architecture, Dimensions, Result, gguf_tied, gguf_window};
use crate::config::{Config, Gguf, Hf};
use crate::names::Role;
use crate::spec::{FeedForward, NormSpec};
use crate::{Description, Naming};

pub(super) const ARCHITECTURE: Architecture = Architecture { name: "phi3", class: "Phi3ForCausalLM", from_hf, from_gguf };

/// Gate and up are one tensor, under the name of "up".
pub(super) const GGUF_NAMES: &[(Role, &str)] = &[(Role::FusedGateUp, "blk.{L}.ffn_up")];

fn from_hf(c: &Hf<'_>) -> Result<Description> {
    let d = Dimensions::hf(c)?;
    for config in [Some(c), c.object("rope_parameters")?.as_ref()].into_iter().flatten() {
        if let Some(part) = config.optional_float("partial_rotary_factor")?
            && part != 1.0
        {
            return Err(config.bad("partial_rotary_factor", part, "only whole heads can be rotated"));
        }
    }
    let activation = c.activation("hidden_act")?.unwrap_or(Activation::Silu);
    let ffn = FeedForward::Dense { ffn: d.ffn, activation, bias: false };
    let window = c.optional_tokens("sliding_window")?;
    let layer = d.layer(NormSpec::rms(d.eps), d.attention(window, c.flag("attention_bias", false)?), ffn);
    let spec = d.decoder("phi3", hf_rope_scaling(c, &d)?, layer, c.flag("tie_word_embeddings", false)?);
    Ok(Description { spec, naming: Naming::hf(&[]), warnings: Vec::new() })
}

fn from_gguf(c: &Gguf<'_>, checkpoint: &Checkpoint) -> Result<Description> {
    let d = Dimensions::gguf(c, checkpoint, "attention.layer_norm_rms_epsilon", RopePairing::Halves)?;
    let ffn = FeedForward::Dense { ffn: d.ffn, activation: Activation::Silu, bias: false };
    let layer = d.layer(NormSpec::rms(d.eps), d.attention(gguf_window(c)?, false), ffn);
    let spec = d.decoder("phi3", gguf_rope_scaling(c, checkpoint, &d)?, layer, gguf_tied(checkpoint));
    Ok(Description { spec, naming: Naming::gguf(GGUF_NAMES), warnings: Vec::new() })
}
