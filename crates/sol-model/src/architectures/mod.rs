//! The architectures: one small file each, turning a config into a [`DecoderSpec`](crate::DecoderSpec).
//! To add one, write its file, list it in [`ALL`], and give it a fixture (`xtools/make_model_fixtures.py`).

mod gemma2;
mod llama;
mod phi3;
mod phimoe;
mod scaling;
mod solar;

use sol_compute::{Attention, RopePairing};
use sol_weights::{Checkpoint, Format, Metadata};

use crate::config::{Config, Gguf, Hf, MAX_VOCAB, shorten};
use crate::error::ModelError;
use crate::names::Role;
use crate::spec::{AttentionSpec, DecoderSpec, HeadSpec, LayerSpec, NormSpec, RopeScaling, RopeSpec};
use crate::{Description, Naming};

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

/// HF's class of an architecture, by the name that GGUF has for it; `None` for one that is not supported.
pub fn hf_class(architecture: &str) -> Option<&'static str> {
    ALL.iter().find(|a| a.name == architecture).map(|a| a.class)
}

/// How an architecture's tensors are called in files of a format.
pub fn naming(architecture: &str, format: Format) -> Naming {
    match (format, architecture) {
        (Format::Safetensors, "gemma2") => Naming::hf(gemma2::HF_NAMES),
        (Format::Safetensors, _) => Naming::hf(&[]),
        (Format::Gguf, "phi3") => Naming::gguf(phi3::GGUF_NAMES),
        (Format::Gguf, _) => Naming::gguf(&[]),
    }
}

/// Reads a checkpoint's config. Of GGUF files also which tensors there are, the embedding table's shape, and the small
/// tensors that hold hyper-parameters; no weights.
pub fn describe(checkpoint: &Checkpoint) -> Result<Description> {
    let path = checkpoint.path();
    let unknown =
        |name: &str| ModelError::UnknownArchitecture { path: path.into(), name: shorten(name), supported: SUPPORTED.join(", ") };
    match checkpoint.metadata() {
        Metadata::Gguf(meta) => {
            let missing = || ModelError::MissingKey { path: path.into(), key: "general.architecture".into() };
            let name = meta.str("general.architecture").ok_or_else(missing)?;
            let found = ALL.iter().find(|a| a.name == name).ok_or_else(|| unknown(name))?;
            (found.from_gguf)(&Gguf { path, meta, architecture: found.name }, checkpoint)
        }
        Metadata::Hf(hf) => {
            if hf.config.is_null() {
                return Err(ModelError::NoConfig { dir: hf.dir.clone() });
            }
            let config = Hf::new(path, &hf.config);
            let class = config.get("architectures").and_then(|a| a.get(0)).and_then(|a| a.as_str());
            let name = match class {
                Some(class) => class,
                None => config.text("model_type")?.ok_or_else(|| config.missing("architectures"))?,
            };
            let found = ALL.iter().find(|a| a.class == name || a.name == name).ok_or_else(|| unknown(name))?;
            refuse_packed_weights(&config)?;
            (found.from_hf)(&config)
        }
    }
}

/// Of the quantisations that safetensors files come in, only those that store F8 numbers beside their scales are read.
fn refuse_packed_weights(c: &Hf<'_>) -> Result<()> {
    let Some(quantisation) = c.object("quantization_config")? else { return Ok(()) };
    match quantisation.text("quant_method")? {
        None | Some("fp8" | "fbgemm_fp8" | "compressed-tensors") => Ok(()),
        Some(other) => {
            Err(quantisation.bad("quant_method", other, "this is not supported; use a GGUF file or the unquantised checkpoint"))
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
        let hidden = c.width("hidden_size")?;
        let (heads, kv_heads, head_dim) = c.heads(["num_attention_heads", "num_key_value_heads", "head_dim"], hidden)?;
        // transformers 5 moved theta into `rope_parameters`.
        let theta = match c.object("rope_parameters")?.map(|r| r.positive("rope_theta")).transpose()?.flatten() {
            Some(theta) => Some(theta),
            None => c.positive("rope_theta")?,
        };
        Ok(Self {
            vocab: c.vocab("vocab_size")?,
            hidden,
            layers: c.layers("num_hidden_layers")?,
            context: c.tokens("max_position_embeddings")?,
            heads,
            kv_heads,
            head_dim,
            ffn: c.width("intermediate_size")?,
            eps: c.required_positive("rms_norm_eps")?,
            theta: theta.unwrap_or(10_000.0),
            pairing: RopePairing::Halves,
        })
    }

    fn gguf(c: &Gguf<'_>, checkpoint: &Checkpoint, eps_key: &str, pairing: RopePairing) -> Result<Self> {
        let hidden = c.width("embedding_length")?;
        let keys = ["attention.head_count", "attention.head_count_kv", "attention.key_length"];
        let (heads, kv_heads, head_dim) = c.heads(keys, hidden)?;
        if let Some(rotated) = c.optional_tokens("rope.dimension_count")?
            && rotated != head_dim
        {
            return Err(c.bad("rope.dimension_count", rotated, format!("only whole heads ({head_dim}) can be rotated")));
        }
        Ok(Self {
            vocab: gguf_vocab(c, checkpoint)?,
            hidden,
            layers: c.layers("block_count")?,
            context: c.tokens("context_length")?,
            heads,
            kv_heads,
            head_dim,
            ffn: c.width("feed_forward_length")?,
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

/// The rows of the embedding table: `vocab_size` is optional in GGUF and may count tokens that the table lacks.
fn gguf_vocab(c: &Gguf<'_>, checkpoint: &Checkpoint) -> Result<usize> {
    let name = "token_embd.weight";
    let missing =
        || ModelError::MissingTensor { path: c.path.into(), tensor: name.into(), role: Role::Embedding.describe().into() };
    let table = checkpoint.tensor(name).ok_or_else(missing)?;
    match table.shape[..] {
        [rows, _] if (1..=MAX_VOCAB).contains(&(rows as u64)) => Ok(rows),
        _ => Err(ModelError::BadTensor {
            path: c.path.into(),
            tensor: name.into(),
            problem: format!("its shape {:?} is not that of an embedding table", table.shape),
        }),
    }
}

/// GGUF files have no head of their own where it is tied.
fn gguf_tied(checkpoint: &Checkpoint) -> bool {
    checkpoint.tensor("output.weight").is_none()
}

/// GGUF writes 0 for "none".
fn gguf_window(c: &Gguf<'_>) -> Result<Option<usize>> {
    match c.integer("attention.sliding_window") {
        Some(Ok(0)) => Ok(None),
        _ => c.optional_tokens("attention.sliding_window"),
    }
}

/// Whether any layer has a bias of this name: one that was lost is then missed.
fn gguf_biased(checkpoint: &Checkpoint, projection: &str) -> bool {
    let ending = format!(".{projection}.bias");
    checkpoint.tensors().any(|t| t.name.starts_with("blk.") && t.name.ends_with(&ending))
}

fn gguf_qkv_biased(checkpoint: &Checkpoint) -> bool {
    ["attn_q", "attn_k", "attn_v", "attn_qkv"].iter().any(|name| gguf_biased(checkpoint, name))
}
