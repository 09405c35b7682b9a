//! The architectures: one small file each, turning a config into a [`DecoderSpec`](crate::DecoderSpec).
//! To add one, write its file, list it in [`ALL`], and give it a fixture (`xtools/make_model_fixtures.py`).

mod gemma2;
mod llama;
mod phi3;
mod phimoe;
mod solar;

use sol_compute::{Attention, RopePairing};
use sol_weights::{Checkpoint, Metadata};

use crate::Description;
use crate::config::{Config, Gguf, Hf};
use crate::error::ModelError;
use crate::rope::longrope_mscale;
use crate::spec::{AttentionSpec, DecoderSpec, HeadSpec, LayerSpec, NormSpec, RopeScaling, RopeSpec};

type Result<T> = std::result::Result<T, ModelError>;

/// One architecture: what configs call it and how to read them.
struct Architecture {
    /// GGUF's `general.architecture` and HF's `model_type`.
    name: &'static str,
    /// HF's class.
    class: &'static str,
    from_hf: fn(&Hf<'_>) -> Result<Description>,
    from_gguf: fn(&Gguf<'_>, &Checkpoint) -> Result<Description>,
}

const ALL: [&Architecture; 5] =
    [&solar::ARCHITECTURE, &llama::ARCHITECTURE, &phi3::ARCHITECTURE, &phimoe::ARCHITECTURE, &gemma2::ARCHITECTURE];

/// Names of the supported architectures, as GGUF writes them.
pub const SUPPORTED: [&str; 5] = ["solar", "llama", "phi3", "phimoe", "gemma2"];

/// Reads a checkpoint's config; tensors are not looked at, but for the small ones that GGUF keeps hyper-parameters in.
pub fn describe(checkpoint: &Checkpoint) -> Result<Description> {
    let path = checkpoint.path();
    let unknown = |name: &str| ModelError::UnknownArchitecture {
        path: path.into(),
        name: name.to_owned(),
        supported: SUPPORTED.join(", "),
    };
    match checkpoint.metadata() {
        Metadata::Gguf(meta) => {
            let missing = || ModelError::MissingKey { path: path.into(), key: "general.architecture".into() };
            let name = meta.str("general.architecture").ok_or_else(missing)?;
            let found = ALL.iter().find(|a| a.name == name).ok_or_else(|| unknown(name))?;
            (found.from_gguf)(&Gguf { path, meta, architecture: found.name }, checkpoint)
        }
        Metadata::Hf(hf) => {
            let config = Hf { path, json: &hf.config };
            let class = config.get("architectures").and_then(|a| a.get(0)).and_then(|a| a.as_str());
            let name = class.or(config.text("model_type")).ok_or_else(|| config.missing("architectures"))?;
            let found = ALL.iter().find(|a| a.class == name || a.name == name).ok_or_else(|| unknown(name))?;
            (found.from_hf)(&config)
        }
    }
}

/// What all configs say in the same words.
struct Dimensions {
    vocab: usize,
    hidden: usize,
    layers: usize,
    context: usize,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    ffn: usize,
    eps: f32,
    theta: f32,
    pairing: RopePairing,
}

impl Dimensions {
    fn hf(c: &Hf<'_>) -> Result<Self> {
        let hidden = c.size("hidden_size")?;
        let (heads, kv_heads, head_dim) = c.heads(["num_attention_heads", "num_key_value_heads", "head_dim"], hidden)?;
        // transformers 5 moved theta into `rope_parameters`.
        let theta = match c.object("rope_parameters").map(|r| r.positive("rope_theta")).transpose()?.flatten() {
            Some(theta) => Some(theta),
            None => c.positive("rope_theta")?,
        };
        Ok(Self {
            vocab: c.size("vocab_size")?,
            hidden,
            layers: c.layers("num_hidden_layers")?,
            context: c.size("max_position_embeddings")?,
            heads,
            kv_heads,
            head_dim,
            ffn: c.size("intermediate_size")?,
            eps: c.required_positive("rms_norm_eps")?,
            theta: theta.unwrap_or(10_000.0),
            pairing: RopePairing::Halves,
        })
    }

    fn gguf(c: &Gguf<'_>, checkpoint: &Checkpoint, eps_key: &str, pairing: RopePairing) -> Result<Self> {
        let hidden = c.size("embedding_length")?;
        let keys = ["attention.head_count", "attention.head_count_kv", "attention.key_length"];
        let (heads, kv_heads, head_dim) = c.heads(keys, hidden)?;
        if let Some(rotated) = c.optional_size("rope.dimension_count")?
            && rotated != head_dim
        {
            return Err(c.bad("rope.dimension_count", rotated, format!("only whole heads ({head_dim}) can be rotated")));
        }
        let rows = checkpoint.tensor("token_embd.weight").and_then(|t| t.shape.first().copied());
        Ok(Self {
            vocab: match rows {
                Some(rows) => rows,
                None => c.size("vocab_size")?,
            },
            hidden,
            layers: c.layers("block_count")?,
            context: c.size("context_length")?,
            heads,
            kv_heads,
            head_dim,
            ffn: c.size("feed_forward_length")?,
            eps: c.required_positive(eps_key)?,
            theta: c.positive("rope.freq_base")?.unwrap_or(10_000.0),
            pairing,
        })
    }

    fn attention(&self, window: Option<usize>, bias: bool) -> AttentionSpec {
        let core = Attention {
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            scale: (self.head_dim as f32).powf(-0.5),
            softcap: None,
            window,
        };
        AttentionSpec { core, qkv_bias: bias, output_bias: bias }
    }

    fn rope(&self, scaling: RopeScaling) -> RopeSpec {
        RopeSpec { dim: self.head_dim, theta: self.theta, pairing: self.pairing, scaling }
    }

    /// A decoder whose layers are all `layer`, with a plain head.
    fn decoder(&self, architecture: &'static str, rope: RopeScaling, layer: LayerSpec, tied: bool) -> DecoderSpec {
        DecoderSpec {
            architecture,
            vocab: self.vocab,
            hidden: self.hidden,
            context: self.context,
            embedding_scale: 1.0,
            rope: self.rope(rope),
            final_norm: layer.ffn_norm,
            layers: vec![layer; self.layers],
            skip_blend: 0.0,
            head: HeadSpec { tied, bias: false, scale: 1.0, softcap: None },
        }
    }

    /// A pre-norm layer with one norm before each half.
    fn layer(&self, norm: NormSpec, attention: AttentionSpec, ffn: crate::spec::FeedForward) -> LayerSpec {
        LayerSpec {
            skips: Default::default(),
            attention_norm: norm,
            attention,
            post_attention_norm: None,
            ffn_norm: norm,
            ffn,
            post_ffn_norm: None,
        }
    }
}

/// GGUF files have no head of their own where it is tied.
fn gguf_tied(checkpoint: &Checkpoint) -> bool {
    checkpoint.tensor("output.weight").is_none()
}

/// `rope_scaling` of a `config.json` (or transformers 5's `rope_parameters`).
fn hf_rope_scaling(c: &Hf<'_>, d: &Dimensions) -> Result<RopeScaling> {
    let Some((key, r)) = ["rope_scaling", "rope_parameters"].iter().find_map(|k| c.object(k).map(|o| (*k, o))) else {
        return Ok(RopeScaling::None);
    };
    match r.text("rope_type").or(r.text("type")) {
        None | Some("default") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear { factor: r.required_positive("factor")? }),
        Some("llama3") => {
            let (low, high) = (r.required_positive("low_freq_factor")?, r.required_positive("high_freq_factor")?);
            if high <= low {
                return Err(r.bad("high_freq_factor", high, format!("must be above low_freq_factor, {low}")));
            }
            let original = r.required_positive("original_max_position_embeddings")?;
            Ok(RopeScaling::Llama3 { factor: r.required_positive("factor")?, low, high, original })
        }
        Some("longrope" | "su") => {
            let factors = |key: &str| -> Result<Vec<f32>> {
                let list = r.floats(key)?.ok_or_else(|| r.missing(key))?;
                divisors(list).map_err(|problem| r.bad(key, "a list", problem)).and_then(|list| {
                    expect_pairs(d, list, |n, want| {
                        r.bad(key, format!("{n} numbers"), format!("a head of {} needs {want}", d.head_dim))
                    })
                })
            };
            let original = match c.optional_size("original_max_position_embeddings")? {
                Some(n) => n,
                None => r.size("original_max_position_embeddings")?,
            };
            let computed = longrope_mscale(d.context, original);
            Ok(RopeScaling::LongRope {
                short: factors("short_factor")?,
                long: factors("long_factor")?,
                short_mscale: r.positive("short_mscale")?.unwrap_or(computed),
                long_mscale: r.positive("long_mscale")?.unwrap_or(computed),
                original,
            })
        }
        Some(other) => Err(c.bad(key, other, "this rope scaling is not supported (linear, llama3, longrope)")),
    }
}

/// Rope scaling of a GGUF file: divisors as tensors, or a linear factor.
fn gguf_rope_scaling(c: &Gguf<'_>, checkpoint: &Checkpoint, d: &Dimensions) -> Result<RopeScaling> {
    let tensor = |name: &str| -> Result<Option<Vec<f32>>> {
        let Some(tensor) = checkpoint.tensor(name) else { return Ok(None) };
        let wrong = |got: Vec<usize>| ModelError::WrongShape {
            path: c.path.into(),
            tensor: name.to_owned(),
            got,
            expected: vec![d.head_dim / 2],
        };
        if tensor.elements() != d.head_dim / 2 {
            return Err(wrong(tensor.shape.clone()));
        }
        let list = divisors(tensor.to_f32()?).map_err(|problem| c.bad(name, "a tensor", problem))?;
        Ok(Some(list))
    };
    if let Some(list) = tensor("rope_freqs.weight")? {
        return Ok(RopeScaling::Divisors(list));
    }
    if let (Some(short), Some(long)) = (tensor("rope_factors_short.weight")?, tensor("rope_factors_long.weight")?) {
        let original = c.size("rope.scaling.original_context_length")?;
        let mscale = match c.positive("rope.scaling.attn_factor")? {
            Some(m) => m,
            None => longrope_mscale(d.context, original),
        };
        return Ok(RopeScaling::LongRope { short, long, short_mscale: mscale, long_mscale: mscale, original });
    }
    let kind = c.meta.str(&c.full_key("rope.scaling.type"));
    match kind {
        None | Some("none") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear { factor: c.required_positive("rope.scaling.factor")? }),
        Some("longrope") => Err(c.missing("rope_factors_long.weight")),
        Some(other) => Err(c.bad("rope.scaling.type", other, "this rope scaling is not supported (linear, llama3, longrope)")),
    }
}

fn divisors(list: Vec<f32>) -> std::result::Result<Vec<f32>, &'static str> {
    if list.iter().all(|d| d.is_finite() && *d > 0.0) { Ok(list) } else { Err("every factor must be above 0") }
}

fn expect_pairs(d: &Dimensions, list: Vec<f32>, error: impl Fn(usize, usize) -> ModelError) -> Result<Vec<f32>> {
    if list.len() == d.head_dim / 2 { Ok(list) } else { Err(error(list.len(), d.head_dim / 2)) }
}
