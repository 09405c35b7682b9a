//! Rope scaling as configs write it: `rope_scaling` (or transformers 5's `rope_parameters`), and GGUF's keys and tensors.

use sol_weights::Checkpoint;

use super::{Dimensions, Result};
use crate::config::{Config, Gguf, Hf};
use crate::error::ModelError;
use crate::rope::longrope_mscale;
use crate::spec::RopeScaling;

const SUPPORTED: &str = "this rope scaling is not supported (linear, llama3, longrope)";

/// `rope_scaling` of a `config.json`.
pub(super) fn hf_rope_scaling(c: &Hf<'_>, d: &Dimensions) -> Result<RopeScaling> {
    let (r, kind) = match (c.object("rope_scaling")?, c.object("rope_parameters")?) {
        (Some(r), _) => {
            let kind = match r.text("rope_type")? {
                Some(kind) => kind,
                None => r.text("type")?.ok_or_else(|| r.missing("rope_type"))?,
            };
            (r, kind)
        }
        (None, Some(r)) => {
            let kind = r.text("rope_type")?.unwrap_or("default");
            (r, kind)
        }
        (None, None) => return Ok(RopeScaling::None),
    };
    match kind {
        "default" => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor: r.required_positive("factor")? }),
        "llama3" => {
            let (low, high) = (r.required_positive("low_freq_factor")?, r.required_positive("high_freq_factor")?);
            if high <= low {
                return Err(r.bad("high_freq_factor", high, format!("must be above low_freq_factor, {low}")));
            }
            let original = r.required_positive("original_max_position_embeddings")?;
            Ok(RopeScaling::Llama3 { factor: r.required_positive("factor")?, low, high, original })
        }
        "longrope" | "su" => {
            let key = "original_max_position_embeddings";
            let original = match c.optional_tokens(key)? {
                Some(n) => n,
                None => r.tokens(key)?,
            };
            let computed = match r.positive("attention_factor")? {
                Some(m) => m,
                None => magnitude(c, key, d.context, original)?,
            };
            Ok(RopeScaling::LongRope {
                short: hf_divisors(&r, "short_factor", d)?,
                long: hf_divisors(&r, "long_factor", d)?,
                short_mscale: r.positive("short_mscale")?.unwrap_or(computed),
                long_mscale: r.positive("long_mscale")?.unwrap_or(computed),
                original,
            })
        }
        other => Err(r.bad("rope_type", other, SUPPORTED)),
    }
}

/// Rope scaling of a GGUF file: divisors as tensors, or a linear factor.
pub(super) fn gguf_rope_scaling(c: &Gguf<'_>, checkpoint: &Checkpoint, d: &Dimensions) -> Result<RopeScaling> {
    const SHORT: &str = "rope_factors_short.weight";
    const LONG: &str = "rope_factors_long.weight";
    if checkpoint.tensor("rope_freqs.weight").is_some() {
        return gguf_divisors(c, checkpoint, "rope_freqs.weight", d).map(RopeScaling::Divisors);
    }
    // As in llama.cpp, a factor without a type is linear.
    let kind = c.text("rope.scaling.type")?;
    if kind == Some("longrope") || [SHORT, LONG].iter().any(|name| checkpoint.tensor(name).is_some()) {
        let key = "rope.scaling.original_context_length";
        let original = c.tokens(key)?;
        let mscale = match c.positive("rope.scaling.attn_factor")? {
            Some(m) => m,
            None => magnitude(c, key, d.context, original)?,
        };
        let (short, long) = (gguf_divisors(c, checkpoint, SHORT, d)?, gguf_divisors(c, checkpoint, LONG, d)?);
        // Written by `sol convert` where the config has its own.
        let [short_mscale, long_mscale] =
            [c.positive("rope.scaling.short_mscale")?, c.positive("rope.scaling.long_mscale")?].map(|m| m.unwrap_or(mscale));
        return Ok(RopeScaling::LongRope { short, long, short_mscale, long_mscale, original });
    }
    match kind {
        Some("none") => Ok(RopeScaling::None),
        None | Some("linear") => {
            // The second is the key's old name.
            let factor = match c.positive("rope.scaling.factor")? {
                Some(factor) => Some(factor),
                None => c.positive("rope.scale_linear")?,
            };
            match (factor, kind) {
                (Some(factor), _) => Ok(RopeScaling::Linear { factor }),
                (None, None) => Ok(RopeScaling::None),
                (None, Some(_)) => Err(c.missing("rope.scaling.factor")),
            }
        }
        Some(other) => Err(c.bad("rope.scaling.type", other, SUPPORTED)),
    }
}

/// Longrope's magnitude where none is given.
fn magnitude(c: &impl Config, key: &str, context: usize, original: usize) -> Result<f32> {
    if original < 2 {
        return Err(c.bad(key, original, "longrope needs at least 2"));
    }
    Ok(longrope_mscale(context, original))
}

fn hf_divisors(r: &Hf<'_>, key: &str, d: &Dimensions) -> Result<Vec<f32>> {
    let list = r.floats(key)?.ok_or_else(|| r.missing(key))?;
    check_divisors(&list, d).map_err(|problem| r.bad(key, "a list", problem))?;
    Ok(list)
}

fn gguf_divisors(c: &Gguf<'_>, checkpoint: &Checkpoint, name: &str, d: &Dimensions) -> Result<Vec<f32>> {
    let tensor = checkpoint.tensor(name).ok_or_else(|| ModelError::MissingTensor {
        path: c.path.into(),
        tensor: name.into(),
        role: "factors of the rotary embedding".into(),
    })?;
    let list = tensor.to_f32()?;
    let refused = |problem| ModelError::BadTensor { path: c.path.into(), tensor: name.into(), problem };
    check_divisors(&list, d).map_err(refused)?;
    Ok(list)
}

fn check_divisors(list: &[f32], d: &Dimensions) -> std::result::Result<(), String> {
    if list.len() != d.head_dim / 2 {
        return Err(format!("it has {} numbers, but a head of {} needs {}", list.len(), d.head_dim, d.head_dim / 2));
    }
    match list.iter().find(|x| !(x.is_finite() && **x > 0.0)) {
        Some(x) => Err(format!("it holds {x}; every factor must be above 0")),
        None => Ok(()),
    }
}
