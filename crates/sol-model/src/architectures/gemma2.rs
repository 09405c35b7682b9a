//! Gemma 2: four norms a layer, both soft-caps, a window on alternating layers, scaled and tied embeddings.

use serde_json::Value;
use sol_compute::{Activation, RopePairing};
use sol_weights::Checkpoint;

use super::scaling::{gguf_rope_scaling, hf_rope_scaling};
use super::{Architecture, Dimensions, Result, gguf_tied, gguf_window};
use crate::config::{Config, Gguf, Hf};
use crate::names::Role;
use crate::spec::{FeedForward, LayerSpec, NormSpec};
use crate::{Description, Naming};

pub(super) const ARCHITECTURE: Architecture = Architecture { name: "gemma2", class: "Gemma2ForCausalLM", from_hf, from_gguf };

/// What the published models have, for configs that do not say.
const ATTENTION_CAP: f32 = 50.0;
const FINAL_CAP: f32 = 30.0;
const WINDOW: usize = 4096;

/// Gemma's names mean what they say; Llama's "post attention" norm is Gemma's "pre feed-forward" one.
pub(super) const HF_NAMES: &[(Role, &str)] = &[(Role::FfnNorm, "model.layers.{L}.pre_feedforward_layernorm")];

fn from_hf(c: &Hf<'_>) -> Result<Description> {
    let d = Dimensions::hf(c)?;
    let activation = match c.activation("hidden_activation")? {
        Some(activation) => activation,
        None => c.activation("hidden_act")?.unwrap_or(Activation::GeluTanh),
    };
    // HF stores w of "1 + w".
    let norm = NormSpec { weight_offset: 1.0, ..NormSpec::rms(d.eps) };
    // The published class has values for keys that are absent; null switches off.
    let or_default = |key: &str, default: f32| if c.mentions(key) { c.positive(key) } else { Ok(Some(default)) };
    let mut layer =
        layer(&d, norm, activation, or_default("attn_logit_softcapping", ATTENTION_CAP)?, c.flag("attention_bias", false)?);
    layer.attention.core.scale = c.positive("query_pre_attn_scalar")?.unwrap_or(256.0).powf(-0.5);
    let tied = c.flag("tie_word_embeddings", true)?;
    let mut spec = d.decoder("gemma2", hf_rope_scaling(c, &d)?, layer, tied);
    spec.head.softcap = or_default("final_logit_softcapping", FINAL_CAP)?;
    spec.embedding_scale = (d.hidden as f32).sqrt();
    let window = if c.mentions("sliding_window") { c.optional_tokens("sliding_window")? } else { Some(WINDOW) };
    for (layer, local) in spec.layers.iter_mut().zip(local_layers(c, d.layers)?) {
        layer.attention.core.window = window.filter(|_| local);
    }
    Ok(Description { spec, naming: Naming::hf(HF_NAMES), warnings: Vec::new() })
}

/// Which layers have the window: what `layer_types` says, else every other one from the first on.
fn local_layers(c: &Hf<'_>, layers: usize) -> Result<Vec<bool>> {
    let key = "layer_types";
    let Some(types) = c.get(key) else { return Ok((0..layers).map(|i| i % 2 == 0).collect()) };
    let list = types.as_array().filter(|list| list.len() == layers);
    let list = list.ok_or_else(|| c.bad(key, types, format!("not a list of {layers}, one for each layer")))?;
    let local = |kind: &Value| match kind.as_str() {
        Some("sliding_attention") => Ok(true),
        Some("full_attention") => Ok(false),
        _ => Err(c.bad(key, kind, "neither sliding_attention nor full_attention")),
    };
    list.iter().map(local).collect()
}

fn from_gguf(c: &Gguf<'_>, checkpoint: &Checkpoint) -> Result<Description> {
    let d = Dimensions::gguf(c, checkpoint, "attention.layer_norm_rms_epsilon", RopePairing::Halves)?;
    // The first files lacked caps and window.
    let cap = c.positive("attn_logit_softcapping")?.unwrap_or(ATTENTION_CAP);
    let mut layer = layer(&d, NormSpec::rms(d.eps), Activation::GeluTanh, Some(cap), false);
    // The score scale is not stored. 27B: hidden / heads; the smaller ones: head_dim.
    if d.layers == 46 {
        layer.attention.core.scale = (d.hidden as f32 / d.heads as f32).powf(-0.5);
    }
    // Written by `sol convert` where the config has another.
    if let Some(scale) = c.positive("attention.scale")? {
        layer.attention.core.scale = scale;
    }
    let mut spec = d.decoder("gemma2", gguf_rope_scaling(c, checkpoint, &d)?, layer, gguf_tied(checkpoint));
    spec.head.softcap = Some(c.positive("final_logit_softcapping")?.unwrap_or(FINAL_CAP));
    spec.embedding_scale = (d.hidden as f32).sqrt();
    let window = if c.has("attention.sliding_window") { gguf_window(c)? } else { Some(WINDOW) };
    for layer in spec.layers.iter_mut().step_by(2) {
        layer.attention.core.window = window;
    }
    Ok(Description { spec, naming: Naming::gguf(&[]), warnings: Vec::new() })
}

fn layer(d: &Dimensions, norm: NormSpec, activation: Activation, cap: Option<f32>, bias: bool) -> LayerSpec {
    let mut attention = d.attention(None, bias);
    attention.core.softcap = cap;
    let ffn = FeedForward::Dense { ffn: d.ffn, activation, bias: false };
    LayerSpec { post_attention_norm: Some(norm), post_ffn_norm: Some(norm), ..d.layer(norm, attention, ffn) }
}
