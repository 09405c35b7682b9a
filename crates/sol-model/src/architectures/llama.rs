//! Llama 2 and 3.x, and the many that share its form (SmolLM2 among them).

use sol_compute::{Activation, RopePairing};
use sol_weights::Checkpoint;

use super::scaling::{gguf_rope_scaling, hf_rope_scaling};
use super::{Architecture, Dimensions, Result, gguf_biased, gguf_qkv_biased, gguf_tied};
use crate::config::{Config, Gguf, Hf};
use crate::spec::{FeedForward, NormSpec};
use crate::{Description, Naming};

pub(super) const ARCHITECTURE: Architecture = Architecture { name: "llama", class: "LlamaForCausalLM", from_hf, from_gguf };

fn from_hf(c: &Hf<'_>) -> Result<Description> {
    let mut description = hf_llama_like(c, "llama")?;
    if c.has("bskcn_1") {
        description.warnings.push(
            "the config has Solar's block skip connections (bskcn_1) but says LlamaForCausalLM: they are not applied. \
             Set architectures to [\"SolarForCausalLM\"] to apply them"
                .into(),
        );
    }
    Ok(description)
}

/// Llama's config, which Solar's extends.
pub(super) fn hf_llama_like(c: &Hf<'_>, architecture: &'static str) -> Result<Description> {
    let d = Dimensions::hf(c)?;
    let activation = c.activation("hidden_act")?.unwrap_or(Activation::Silu);
    let ffn = FeedForward::Dense { ffn: d.ffn, activation, bias: c.flag("mlp_bias", false)? };
    let layer = d.layer(NormSpec::rms(d.eps), d.attention(None, c.flag("attention_bias", false)?), ffn);
    let tied = c.flag("tie_word_embeddings", false)?;
    let spec = d.decoder(architecture, hf_rope_scaling(c, &d)?, layer, tied);
    Ok(Description { spec, naming: Naming::hf(&[]), warnings: Vec::new() })
}

fn from_gguf(c: &Gguf<'_>, checkpoint: &Checkpoint) -> Result<Description> {
    let mut description = gguf_llama_like(c, checkpoint, "llama")?;
    let spec = &description.spec;
    if spec.layers.len() == 64 && spec.hidden == 5120 {
        description.warnings.push(
            "this file says 'llama' but has Solar Pro's shape (64 layers of 5120): if it was converted from Solar Pro, its \
             block skip connections were lost and its answers will be wrong"
                .into(),
        );
    }
    Ok(description)
}

/// Llama's keys, which Solar's extend.
pub(super) fn gguf_llama_like(c: &Gguf<'_>, checkpoint: &Checkpoint, architecture: &'static str) -> Result<Description> {
    if let Some(Ok(experts @ 1..)) = c.integer("expert_count") {
        return Err(c.bad("expert_count", experts, "Mixtral-style experts are not supported"));
    }
    let d = Dimensions::gguf(c, checkpoint, "attention.layer_norm_rms_epsilon", RopePairing::Adjacent)?;
    let mut attention = d.attention(None, gguf_qkv_biased(checkpoint));
    attention.output_bias = gguf_biased(checkpoint, "attn_output");
    let bias = ["ffn_gate", "ffn_up", "ffn_down"].iter().any(|name| gguf_biased(checkpoint, name));
    let ffn = FeedForward::Dense { ffn: d.ffn, activation: Activation::Silu, bias };
    let layer = d.layer(NormSpec::rms(d.eps), attention, ffn);
    let spec = d.decoder(architecture, gguf_rope_scaling(c, checkpoint, &d)?, layer, gguf_tied(checkpoint));
    Ok(Description { spec, naming: Naming::gguf(&[]), warnings: Vec::new() })
}
