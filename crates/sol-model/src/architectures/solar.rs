//! Solar Pro Preview: Llama's layers joined by block skip connections, as vLLM runs them: the blended stream feeds the
//! attention norm and is the residual. GGUF keys are those of ollama's files.

use sol_weights::Checkpoint;

use super::llama::{gguf_llama_like, hf_llama_like};
use super::{Architecture, Result, gguf_window};
use crate::Description;
use crate::config::{Config, Gguf, Hf};
use crate::error::ModelError;
use crate::spec::Skips;

pub(super) const ARCHITECTURE: Architecture = Architecture { name: "solar", class: "SolarForCausalLM", from_hf, from_gguf };

/// `bskcn_1` and `_2` save to slots A and B, `bskcn_3` and `_4` blend from them.
fn mark(skips: &mut Skips, list: usize) {
    match list {
        0 => skips.save[0] = true,
        1 => skips.save[1] = true,
        2 => skips.blend[0] = true,
        _ => skips.blend[1] = true,
    }
}

const NOWHERE: &str = "nothing is saved at or before the layer that it could be blended with";

fn from_hf(c: &Hf<'_>) -> Result<Description> {
    let mut description = hf_llama_like(c, "solar")?;
    let spec = &mut description.spec;
    spec.head.scale = c.positive("logit_scale")?.unwrap_or(1.0);
    let count = spec.layers.len();
    for (list, key) in ["bskcn_1", "bskcn_2", "bskcn_3", "bskcn_4"].iter().enumerate() {
        for i in c.layer_list(key, count)?.ok_or_else(|| c.missing(key))? {
            mark(&mut spec.layers[i].skips, list);
        }
    }
    if let Some((layer, slot)) = spec.blend_from_nowhere() {
        return Err(c.bad(["bskcn_3", "bskcn_4"][slot], layer, NOWHERE));
    }
    // Index 0 held while training, 1 holds for inference.
    let tv = c.floats("bskcn_tv")?.ok_or_else(|| c.missing("bskcn_tv"))?;
    spec.skip_blend = *tv.get(1).ok_or_else(|| c.bad("bskcn_tv", format!("{tv:?}"), "needs two numbers"))?;
    // The published class's default; null switches it off.
    let window = if c.mentions("sliding_window") { c.optional_tokens("sliding_window")? } else { Some(2047) };
    for layer in &mut spec.layers {
        layer.attention.core.window = window;
    }
    Ok(description)
}

fn from_gguf(c: &Gguf<'_>, checkpoint: &Checkpoint) -> Result<Description> {
    let mut description = gguf_llama_like(c, checkpoint, "solar")?;
    let spec = &mut description.spec;
    spec.head.scale = c.positive("logit_scale")?.unwrap_or(1.0);
    for list in 0..4 {
        let key = format!("attention.block_skip_connection.{list}");
        let Some(value) = c.meta.get(&c.full_key(&key)) else { continue };
        let bad = || c.bad(&key, value, format!("not one number for each of {} layers", spec.layers.len()));
        // One number for all layers, or one for each.
        let flags = match c.meta.i32s(&c.full_key(&key)) {
            Some(flags) => flags.to_vec(),
            None => vec![i32::try_from(c.meta.i64(&c.full_key(&key)).ok_or_else(bad)?).map_err(|_| bad())?; spec.layers.len()],
        };
        if flags.len() != spec.layers.len() {
            return Err(bad());
        }
        for (layer, _) in spec.layers.iter_mut().zip(&flags).filter(|(_, flag)| **flag != 0) {
            mark(&mut layer.skips, list);
        }
    }
    if let Some((layer, slot)) = spec.blend_from_nowhere() {
        return Err(c.bad(&format!("attention.block_skip_connection.{}", slot + 2), format!("set for layer {layer}"), NOWHERE));
    }
    if spec.has_skips() {
        let name = "bskcn_tv.weight";
        let tensor = checkpoint.tensor(name).ok_or_else(|| ModelError::MissingTensor {
            path: c.path.into(),
            tensor: name.into(),
            role: "the share of block skip connections".into(),
        })?;
        if tensor.elements() != 2 {
            let (got, expected) = (tensor.shape.clone(), vec![2]);
            return Err(ModelError::WrongShape { path: c.path.into(), tensor: name.into(), got, expected });
        }
        spec.skip_blend = tensor.to_f32()?[0];
    } else {
        description.warnings.push(
            "this file says 'solar' but lists no block skip connections: its answers will be those of a plain Llama".into(),
        );
    }
    // Ollama's converter never wrote the window; a file that has it means it.
    let window = gguf_window(c)?;
    for layer in &mut description.spec.layers {
        layer.attention.core.window = window;
    }
    Ok(description)
}
