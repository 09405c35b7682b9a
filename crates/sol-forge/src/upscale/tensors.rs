//! Which tensors the result has, and of what each is made.

use sol_model::{FeedForward, Role};
use sol_weights::{Bytes, DType, Format, Tensor, dequantize};

use super::base::{Base, is_float, rows};
use super::config::windows_differ;
use super::{Layer, Plan};
use crate::{Error, Result};

/// Bytes of the base that are in hand at once, about: few enough to be in a cache still when they are hashed.
const CHUNK: usize = 1 << 20;

/// A tensor of the result.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<usize>,
    pub(crate) content: Content,
}

/// What a tensor of the result is made of.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Content {
    /// Rows of a tensor of the base.
    Rows { source: String, pieces: Vec<Piece> },
    /// These numbers.
    Exactly(Vec<f32>),
}

/// Rows of a tensor of the base, one after the other.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Piece {
    first: usize,
    rows: usize,
    factor: f32,
    /// Added before the factor and taken away after: norms that are stored as their distance from 1.
    offset: f32,
    /// Rows of each head of this size change from halves to pairs.
    paired: Option<usize>,
}

impl Target {
    /// Bytes of storage.
    pub(crate) fn byte_len(&self) -> u64 {
        self.dtype.bytes_for(self.shape.iter().product()).unwrap_or(0) as u64
    }

    /// The same text for tensors of the same bytes.
    pub(crate) fn what(&self) -> String {
        format!("{} {:?}", self.dtype, self.content)
    }

    /// Whether its bytes are those of a tensor of the base.
    pub(crate) fn is_copy(&self, base: &Base) -> bool {
        let Content::Rows { source, pieces } = &self.content else { return false };
        let taken: usize = pieces.iter().map(|piece| piece.rows).sum();
        let source = base.checkpoint().tensor(source);
        let whole = base.is_copied() && source.is_some_and(|source| source.dtype == self.dtype && rows(source) == taken);
        whole && pieces.iter().all(|piece| piece.factor == 1.0 && piece.paired.is_none())
    }
}

/// Whether the result is a Solar, whatever the base is.
pub(crate) fn becomes_solar(plan: &Plan) -> bool {
    !plan.skips().is_empty()
}

/// All tensors of the result. `float` is what the base's weights are to be stored as; `None`: as they are.
pub(crate) fn targets(base: &Base, plan: &Plan, float: Option<DType>) -> Result<Vec<Target>> {
    check(base, plan)?;
    if let Some(tensor) = base.checkpoint().tensors().find(|tensor| float.is_some() && tensor.dtype == DType::F8E4M3) {
        return Err(scaled(base, tensor, "is stored as F8_E4M3 with scales, which --type does not decode here".into()));
    }
    let solar = becomes_solar(plan);
    let mut of_layers: Vec<Vec<&Tensor>> = vec![Vec::new(); base.layers()];
    let mut targets = Vec::new();
    let mut last = Vec::new();
    for tensor in base.checkpoint().tensors() {
        match base.layer_of(&tensor.name) {
            Some((layer, _)) if layer < of_layers.len() => of_layers[layer].push(tensor),
            // In the order in which they are used, roughly.
            _ => {
                let is_last = [Role::FinalNorm, Role::Head].iter().any(|role| tensor.name.starts_with(&base.name(*role, 0, 0)));
                let to = if is_last { &mut last } else { &mut targets };
                to.push(whole(base, tensor, tensor.name.clone(), one(tensor), stored_as(base, tensor, float))?);
            }
        }
    }
    for (at, layer) in plan.layers().iter().enumerate() {
        for tensor in &of_layers[layer.source] {
            push_layer_tensor(&mut targets, base, tensor, at, layer, float, solar)?;
        }
    }
    if solar && base.checkpoint().format() == Format::Gguf {
        let [_, t] = plan.tv();
        let content = Content::Exactly(vec![t, 1.0 - t]);
        targets.push(Target { name: "bskcn_tv.weight".into(), dtype: DType::F32, shape: vec![2], content });
    }
    targets.extend(last);
    Ok(targets)
}

/// What can not be done with this base.
fn check(base: &Base, plan: &Plan) -> Result<()> {
    let refused = |problem: String| Err(Error::Base { path: base.checkpoint().path().into(), problem });
    let spec = base.spec();
    if plan.base_layers() != base.layers() {
        return refused(format!("it has {} layers, but the plan is for {}", base.layers(), plan.base_layers()));
    }
    if spec.has_skips() {
        return refused("its layers are joined by skip connections already, which no recipe here keeps".into());
    }
    let dense = spec.layers.iter().all(|layer| matches!(layer.ffn, FeedForward::Dense { .. }));
    if becomes_solar(plan) && !(["llama", "phi3", "solar"].contains(&spec.architecture) && dense) {
        return refused(format!(
            "skip connections make a Solar, whose layers are Llama's or Phi-3's; those of {} are not. Use another recipe",
            spec.architecture
        ));
    }
    // The format does not hold the scale of scores: readers know the 27B by its number of layers.
    let is_27b = |layers: usize| spec.architecture == "gemma2" && layers == 46;
    if base.checkpoint().format() == Format::Gguf && is_27b(base.layers()) != is_27b(plan.layers().len()) {
        return refused("GGUF readers take Gemma 2's score scale from its number of layers; up-scale the HF checkpoint".into());
    }
    // Nor which layers have the window: every other one.
    let moved = |(at, layer): (usize, &Layer)| !layer.is_silent() && at % 2 != layer.source % 2;
    if base.checkpoint().format() == Format::Gguf && windows_differ(base) && plan.layers().iter().enumerate().any(moved) {
        return refused(
            "GGUF readers give every other layer the window, and layers would come to places where they lose or gain it; take an \
             even --drop, or up-scale the HF checkpoint"
                .into(),
        );
    }
    Ok(())
}

/// How a tensor of the base is stored in the result. Vectors of GGUF files are F32 for llama.cpp, and stay.
fn stored_as(base: &Base, tensor: &Tensor, float: Option<DType>) -> DType {
    let is_weight = is_float(tensor.dtype) || tensor.dtype.is_quantized();
    let stays = base.checkpoint().format() == Format::Gguf && tensor.shape.len() < 2;
    float.filter(|_| is_weight && !stays).unwrap_or(tensor.dtype)
}

fn one(tensor: &Tensor) -> Vec<Piece> {
    vec![Piece { first: 0, rows: rows(tensor), factor: 1.0, offset: 0.0, paired: None }]
}

fn scaled(base: &Base, tensor: &Tensor, problem: String) -> Error {
    Error::Scaled { path: base.source().path().into(), tensor: tensor.name.clone(), problem }
}

/// A target with all of a tensor's rows.
fn whole(base: &Base, tensor: &Tensor, name: String, pieces: Vec<Piece>, dtype: DType) -> Result<Target> {
    let changes = dtype != tensor.dtype || pieces.iter().any(|piece| piece.factor != 1.0 && piece.factor != 0.0);
    let readable = is_float(tensor.dtype) || (dtype != tensor.dtype && tensor.dtype.is_quantized());
    if changes && tensor.dtype == DType::F8E4M3 {
        return Err(scaled(base, tensor, "is stored as F8_E4M3 with scales, which is not multiplied here".into()));
    }
    if changes && !(readable && is_float(dtype)) {
        return Err(Error::Quantized { path: tensor.path().into(), tensor: tensor.name.clone(), dtype: tensor.dtype });
    }
    let content = Content::Rows { source: tensor.name.clone(), pieces };
    Ok(Target { name, dtype, shape: tensor.shape.clone(), content })
}

fn push_layer_tensor(
    targets: &mut Vec<Target>,
    base: &Base,
    tensor: &Tensor,
    at: usize,
    layer: &Layer,
    float: Option<DType>,
    solar: bool,
) -> Result<()> {
    let prefix = base.layer_prefix();
    let rest = base.layer_of(&tensor.name).map_or("", |(_, rest)| rest);
    let dtype = stored_as(base, tensor, float);
    let head_dim = base.spec().layers[layer.source].attention.core.head_dim;
    let mut first = 0;
    let mut pieces: Vec<(Role, Piece)> = Vec::new();
    for (role, rows) in base.parts(tensor, layer.source) {
        let (factor, offset) =
            base.scaled_by(role, layer.source).map_or((1.0, 0.0), |(part, offset)| (layer.scale(part), offset));
        let turns = solar && base.pairs_halves_in_gguf() && matches!(role, Role::Query | Role::Key);
        pieces.push((role, Piece { first, rows, factor, offset, paired: turns.then_some(head_dim) }));
        first += rows;
    }
    let suffix = rest.rsplit_once('.').map_or("weight", |(_, suffix)| suffix);
    let split = |role: Role| format!("{prefix}{at}.{}.{suffix}", split_name(role, base.checkpoint().format()));
    if solar && pieces.len() > 1 {
        for (role, piece) in pieces {
            let shape = [&[piece.rows], &tensor.shape[1..]].concat();
            targets.push(Target { shape, ..whole(base, tensor, split(role), vec![piece], dtype)? });
        }
        return Ok(());
    }
    if solar && let Some(shares) = shares(base, tensor, layer.source)? {
        for (role, first, shape) in shares {
            let rows = if shape.len() > 1 { shape[0] } else { 1 };
            let piece = Piece { first, rows, factor: 1.0, offset: 0.0, paired: None };
            targets.push(Target { shape, ..whole(base, tensor, split(role), vec![piece], dtype)? });
        }
        return Ok(());
    }
    let pieces = if pieces.is_empty() { one(tensor) } else { pieces.into_iter().map(|(_, piece)| piece).collect() };
    targets.push(whole(base, tensor, format!("{prefix}{at}.{rest}"), pieces, dtype)?);
    Ok(())
}

/// What a part of a fused projection gets of a tensor: its first row, and the shape.
type Share = (Role, usize, Vec<usize>);

/// Of a tensor that lies beside a fused projection without having its rows (the scale of F8 weights): what each part of the
/// projection gets of it. A single number is for all parts; blocks go where their rows go.
fn shares(base: &Base, tensor: &Tensor, layer: usize) -> Result<Option<Vec<Share>>> {
    let weight = tensor.name.rsplit_once('.').and_then(|(stem, _)| base.checkpoint().tensor(&format!("{stem}.weight")));
    let Some(weight) = weight else { return Ok(None) };
    let parts = base.parts(weight, layer);
    if parts.len() < 2 {
        return Ok(None);
    }
    let across = weight.shape.last().copied().unwrap_or(1).div_ceil(BLOCK);
    let is_blocks = tensor.shape == [rows(weight).div_ceil(BLOCK), across];
    let mut shares = Vec::new();
    let mut first = 0;
    for (role, rows) in parts {
        let share = match blocks_of(first, rows) {
            _ if tensor.elements() == 1 => Some((role, 0, tensor.shape.clone())),
            Some((block, blocks)) if is_blocks => Some((role, block, vec![blocks, across])),
            _ => None,
        };
        shares.push(share.ok_or_else(|| {
            let problem = format!("{:?} can not be taken apart as `{}` {:?} has to be", tensor.shape, weight.name, weight.shape);
            scaled(base, tensor, problem)
        })?);
        first += rows;
    }
    Ok(Some(shares))
}

/// Rows and columns of a block that has a scale.
const BLOCK: usize = 128;

/// The blocks of these rows, the first and how many, if they are blocks also when they are counted from the first row on.
fn blocks_of(first: usize, rows: usize) -> Option<(usize, usize)> {
    let within = first % BLOCK;
    (within == 0 || within + rows <= BLOCK).then(|| (first / BLOCK, rows.div_ceil(BLOCK)))
}

/// What Solar calls a projection that Phi-3 has in one tensor with others.
fn split_name(role: Role, format: Format) -> &'static str {
    let (hf, gguf) = match role {
        Role::Query => ("self_attn.q_proj", "attn_q"),
        Role::Key => ("self_attn.k_proj", "attn_k"),
        Role::Value => ("self_attn.v_proj", "attn_v"),
        Role::Gate => ("mlp.gate_proj", "ffn_gate"),
        _ => ("mlp.up_proj", "ffn_up"),
    };
    if format == Format::Gguf { gguf } else { hf }
}

/// Makes a tensor's bytes, piece by piece, and gives each to `sink`: views of the base's files where nothing changes.
pub(crate) fn produce(base: &Base, target: &Target, sink: &mut dyn FnMut(Bytes) -> Result<()>) -> Result<()> {
    let (source, pieces) = match &target.content {
        Content::Exactly(values) => {
            return sink(Bytes::from_vec(values.iter().flat_map(|value| value.to_le_bytes()).collect()));
        }
        Content::Rows { source, pieces } => (source, pieces),
    };
    // `targets` has just listed it.
    let Some(tensor) = base.checkpoint().tensor(source) else { return Ok(()) };
    let cols = if tensor.shape.len() < 2 { 1 } else { tensor.shape.last().copied().unwrap_or(1) };
    let size = |dtype: DType| {
        dtype.bytes_for(cols).ok_or_else(|| Error::Quantized {
            path: tensor.path().into(),
            tensor: tensor.name.clone(),
            dtype: tensor.dtype,
        })
    };
    let (row_bytes, target_row_bytes) = (size(tensor.dtype)?, size(target.dtype)?);
    let at_once = (CHUNK / row_bytes.max(1)).max(1);
    let stored = base.stored(tensor)?;
    for piece in pieces {
        for start in (0..piece.rows).step_by(at_once) {
            let count = at_once.min(piece.rows - start);
            if piece.factor == 0.0 && piece.offset == 0.0 {
                // Zero in every format: its scales are zero.
                sink(Bytes::from_vec(vec![0; count * target_row_bytes]))?;
                continue;
            }
            let view = match piece.paired {
                None => stored.rows(piece.first + start..piece.first + start + count, row_bytes)?,
                Some(head_dim) => {
                    // Rows stay in their heads.
                    let first = start / head_dim * head_dim;
                    let last = (start + count).next_multiple_of(head_dim).min(piece.rows);
                    let heads = stored.rows(piece.first + first..piece.first + last, row_bytes)?;
                    let row = |row: usize| {
                        let (head, within) = (row / head_dim * head_dim, row % head_dim);
                        let from = (head + within % 2 * (head_dim / 2) + within / 2 - first) * row_bytes;
                        &heads[from..from + row_bytes]
                    };
                    let mut turned = Vec::with_capacity(count * row_bytes);
                    (start..start + count).for_each(|at| turned.extend_from_slice(row(at)));
                    heads.intact()?;
                    heads.release();
                    Bytes::from_vec(turned)
                }
            };
            if piece.factor == 1.0 && tensor.dtype == target.dtype {
                sink(view)?;
                continue;
            }
            let mut values = vec![0.0; count * cols];
            dequantize(tensor.dtype, &view, &mut values)?;
            if piece.factor == 0.0 {
                values.fill(-piece.offset);
            } else if piece.factor != 1.0 {
                values.iter_mut().for_each(|value| *value = piece.factor * (*value + piece.offset) - piece.offset);
            }
            view.release();
            // Of turned rows about where they were.
            Error::check_numbers(tensor, piece.first + start, cols, &values, target.dtype)?;
            sink(Bytes::from_vec(encode(&values, target.dtype)))?;
        }
    }
    Ok(())
}

/// `targets` lets nothing but F32, F16 and BF16 through.
fn encode(values: &[f32], dtype: DType) -> Vec<u8> {
    match dtype {
        DType::F16 => values.iter().flat_map(|value| half::f16::from_f32(*value).to_le_bytes()).collect(),
        DType::BF16 => values.iter().flat_map(|value| half::bf16::from_f32(*value).to_le_bytes()).collect(),
        _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_go_with_their_rows() {
        // Phi-3-mini's queries, keys and values; parts within a block; parts that begin amid one and leave it.
        assert_eq!([0, 3072, 6144].map(|first| blocks_of(first, 3072)), [Some((0, 24)), Some((24, 24)), Some((48, 24))]);
        assert_eq!((blocks_of(0, 40), blocks_of(40, 8), blocks_of(128, 44)), (Some((0, 1)), Some((0, 1)), Some((1, 1))));
        assert_eq!((blocks_of(44, 100), blocks_of(200, 200)), (None, None));
    }
}
