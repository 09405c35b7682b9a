//! The model that layers are taken from.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use sol_compute::RopePairing;
use sol_model::{DecoderSpec, Description, FeedForward, Role, describe};
use sol_weights::{Bytes, Checkpoint, DType, Format, Tensor};

use super::Part;
use crate::Result;
use crate::convert::{Maker, View};

/// An opened base.
#[derive(Clone, Debug)]
pub struct Base {
    checkpoint: Checkpoint,
    description: Description,
    /// Where the files are of the other format, `checkpoint` is the outline of this.
    view: Option<Arc<View>>,
}

impl Base {
    /// Opens a checkpoint of any supported architecture. Only headers are read.
    pub fn open(path: &Path) -> Result<Self> {
        let checkpoint = Checkpoint::open(path)?;
        let description = describe(&checkpoint)?;
        Ok(Self { checkpoint, description, view: None })
    }

    /// Opens a checkpoint for a result at `out`: where that is of the other format, the base is seen as one of that format, with
    /// its weights as `float` (F32, F16 or BF16; default: as they are), and converted as it is read.
    ///
    /// Fails also as [`convert::Order::plan`](crate::convert::Order::plan) does: blocks are decoded only with a `float`.
    pub fn open_for(path: &Path, out: &Path, float: Option<DType>) -> Result<Self> {
        let base = Self::open(path)?;
        let format = format_of(out);
        if base.checkpoint.format() == format {
            return Ok(base);
        }
        let view = View::open(path, format, float)?;
        let mut description = describe(view.outline())?;
        description.warnings = [base.description.warnings, view.notes().to_vec()].concat();
        description.warnings.dedup();
        Ok(Self { checkpoint: view.outline().clone(), description, view: Some(Arc::new(view)) })
    }

    /// Its tensors as the result is made of them. Their bytes are the base's only where both are of one format.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Its files as they are.
    pub fn source(&self) -> &Checkpoint {
        self.view.as_ref().map_or(&self.checkpoint, |view| view.source())
    }

    /// Whether tensors of the result can have the bytes of one of the base's.
    pub(crate) fn is_copied(&self) -> bool {
        self.view.is_none()
    }

    /// The rows of a tensor.
    pub(crate) fn stored(&self, tensor: &Tensor) -> Result<Stored<'_>> {
        let maker = self.view.as_ref().map(|view| view.maker(&tensor.name)).transpose()?.flatten();
        Ok(maker.map_or_else(|| Stored::Mapped(tensor.bytes()), Stored::Made))
    }

    /// What decoder it is.
    pub fn spec(&self) -> &DecoderSpec {
        &self.description.spec
    }

    /// Its layers.
    pub fn layers(&self) -> usize {
        self.spec().layers.len()
    }

    /// What is off about it.
    pub fn warnings(&self) -> &[String] {
        &self.description.warnings
    }

    /// What its architecture calls a layer's part.
    pub(crate) fn name(&self, role: Role, layer: usize, expert: usize) -> String {
        self.description.naming.name(role, layer, expert)
    }

    /// The layer that a tensor belongs to, and its name there.
    pub(crate) fn layer_of<'a>(&self, name: &'a str) -> Option<(usize, &'a str)> {
        let (layer, rest) = name.strip_prefix(self.layer_prefix())?.split_once('.')?;
        Some((layer.parse().ok()?, rest))
    }

    /// What the names of layers' tensors begin with.
    pub(crate) fn layer_prefix(&self) -> &'static str {
        match self.checkpoint.format() {
            Format::Safetensors => "model.layers.",
            Format::Gguf => "blk.",
        }
    }

    /// Whether the rows of queries and keys are in the order of HF's rotary embedding although a Solar or Llama in this format
    /// has them in pairs: Phi-3's in GGUF.
    pub(crate) fn pairs_halves_in_gguf(&self) -> bool {
        self.checkpoint.format() == Format::Gguf && self.spec().rope.pairing == RopePairing::Halves
    }

    /// The parts that a layer's tensor has, with their rows, in order: one for most, more for fused projections, none for what
    /// has no part in a layer's function (or is unknown).
    pub(crate) fn parts(&self, tensor: &Tensor, layer: usize) -> Vec<(Role, usize)> {
        let stem = tensor.name.rsplit_once('.').map_or(tensor.name.as_str(), |(stem, _)| stem);
        let rows = rows(tensor);
        let spec = self.spec();
        let Some(layer_spec) = spec.layers.get(layer) else { return Vec::new() };
        let core = &layer_spec.attention.core;
        let (q, kv) = (core.heads * core.head_dim, core.kv_heads * core.head_dim);
        let is = |role: Role, expert: usize| self.name(role, layer, expert) == stem;
        let (ffn, experts) = match layer_spec.ffn {
            FeedForward::Dense { ffn, .. } => (ffn, 0),
            FeedForward::Experts { ffn, experts, .. } => (ffn, experts),
        };
        if is(Role::FusedQkv, 0) && rows == q + 2 * kv {
            return vec![(Role::Query, q), (Role::Key, kv), (Role::Value, kv)];
        }
        if is(Role::FusedGateUp, 0) && rows == 2 * ffn {
            return vec![(Role::Gate, ffn), (Role::Up, ffn)];
        }
        let post_norms = [Role::PostAttentionNorm, Role::PostFfnNorm].into_iter();
        let plain = [
            Role::AttentionNorm,
            Role::Query,
            Role::Key,
            Role::Value,
            Role::AttentionOutput,
            Role::FfnNorm,
            Role::Gate,
            Role::Up,
            Role::Down,
        ];
        let has_post_norms = layer_spec.post_attention_norm.is_some();
        let found = post_norms.filter(|_| has_post_norms).chain(plain).find(|role| is(*role, 0));
        let expert = || {
            let roles = [(Role::ExpertGate, Role::Gate), (Role::ExpertUp, Role::Up), (Role::ExpertDown, Role::Down)];
            roles.into_iter().find(|(role, _)| (0..experts).any(|expert| is(*role, expert))).map(|(_, role)| role)
        };
        found.or_else(expert).map(|role| (role, rows)).into_iter().collect()
    }

    /// The matrices of a layer's part: the tensor of each, its first row there and its number of rows. More than one for experts.
    pub(crate) fn matrices(&self, layer: usize, part: Part) -> Vec<(&Tensor, usize, usize)> {
        let mut matrices = Vec::new();
        let of_layer = |tensor: &&Tensor| self.layer_of(&tensor.name).is_some_and(|(of, _)| of == layer);
        for tensor in self.checkpoint.tensors().filter(of_layer).filter(|tensor| tensor.shape.len() > 1) {
            let mut first = 0;
            for (role, rows) in self.parts(tensor, layer) {
                matrices.extend((role == part.0).then_some((tensor, first, rows)));
                first += rows;
            }
        }
        matrices
    }

    /// Which part's factor a role's tensors take, and what has to be added to their numbers before. Where a norm follows a
    /// projection, a factor on the projection would be undone by it: it is the norm's.
    pub(crate) fn scaled_by(&self, role: Role, layer: usize) -> Option<(Part, f32)> {
        let spec = self.spec().layers.get(layer)?;
        match (role, spec.post_attention_norm, spec.post_ffn_norm) {
            (Role::PostAttentionNorm, Some(norm), _) => Some((Part::O_PROJ, norm.weight_offset)),
            (Role::PostFfnNorm, _, Some(norm)) => Some((Part::DOWN_PROJ, norm.weight_offset)),
            (Role::AttentionOutput, Some(_), _) | (Role::Down, _, Some(_)) => None,
            (Role::AttentionNorm, ..) => Some((Part(role), spec.attention_norm.weight_offset)),
            (Role::FfnNorm, ..) => Some((Part(role), spec.ffn_norm.weight_offset)),
            _ => Part::all().find(|part| part.0 == role).map(|part| (part, 0.0)),
        }
    }
}

/// Rows of a tensor of the base.
pub(crate) enum Stored<'a> {
    /// As they lie.
    Mapped(Bytes),
    /// Converted when they are asked for.
    Made(Maker<'a>),
}

impl Stored<'_> {
    /// Some rows of so many bytes each.
    pub(crate) fn rows(&self, rows: Range<usize>, row_bytes: usize) -> Result<Bytes> {
        match self {
            Self::Mapped(bytes) => Ok(bytes.slice(rows.start * row_bytes..rows.end * row_bytes)),
            Self::Made(maker) => Ok(Bytes::from_vec(maker.make(rows, View::threads())?)),
        }
    }
}

/// What a result at `out` is.
pub(crate) fn format_of(out: &Path) -> Format {
    let is_file = out.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"));
    if is_file { Format::Gguf } else { Format::Safetensors }
}

/// Rows of a tensor: of all the matrices that it holds. A vector is a column.
pub(crate) fn rows(tensor: &Tensor) -> usize {
    match tensor.shape[..] {
        [] => 1,
        [n] => n,
        [.., cols] => tensor.elements().checked_div(cols).unwrap_or(0),
    }
}

/// Whether its numbers can be taken one by one.
pub(crate) fn is_float(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
}
