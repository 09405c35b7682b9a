//! LoRA adapters as PEFT saves them: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! A matrix W of `[out, in]` becomes `V = W + scale * (B @ A)`, computed in f32; scale is alpha / r, or alpha / sqrt(r) where the
//! config has `use_rslora`. Where it has `use_dora`, each row of V is given the length that `lora_magnitude_vector` has for it. Tensors that an adapter brings whole (`modules_to_save`) take the place of the model's.
//! `fan_in_fan_out` speaks of weights stored the other way round, which none of these models has; PEFT ignores it then too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use sol_model::DecoderSpec;
use sol_weights::{Checkpoint, Tensor};

use super::ConvertError;
use super::layout::Item;
use super::rows::{HfTensor, Part};
use crate::Result;

/// The files of an adapter's directory.
pub(super) const FILES: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];

/// What an adapter adds to some rows of a matrix.
#[derive(Clone, Debug)]
pub(super) struct Delta {
    /// `[rank, in]`
    a: Arc<Vec<f32>>,
    /// `[out, rank]`
    b: Arc<Vec<f32>>,
    rank: usize,
    scale: f32,
    /// DoRA's `[out]`: the lengths of rows.
    lengths: Option<Arc<Vec<f32>>>,
    /// The first of the matrix's rows that it changes, its own row for that, and how many.
    first: usize,
    own_first: usize,
    rows: usize,
}

impl Delta {
    /// Adds to row `row` of the matrix.
    pub(super) fn add_to(&self, row: usize, values: &mut [f32]) {
        let Some(own) = row.checked_sub(self.first).filter(|at| *at < self.rows).map(|at| at + self.own_first) else { return };
        let mut sum = vec![0.0; values.len()];
        let factors = &self.b[own * self.rank..(own + 1) * self.rank];
        for (factor, a) in factors.iter().zip(self.a.chunks_exact(values.len())) {
            sum.iter_mut().zip(a).for_each(|(sum, a)| *sum += factor * a);
        }
        values.iter_mut().zip(sum).for_each(|(value, sum)| *value += self.scale * sum);
        if let Some(lengths) = &self.lengths {
            let length = values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt() as f32;
            // A row of zeros has no direction.
            let factor = if length == 0.0 { 0.0 } else { lengths[own] / length };
            values.iter_mut().for_each(|value| *value *= factor);
        }
    }
}

/// The tensors of one module as they come.
#[derive(Default)]
struct Pair<'a> {
    a: Option<&'a Tensor>,
    b: Option<&'a Tensor>,
    lengths: Option<&'a Tensor>,
    embedding: bool,
}

/// Adds an adapter to the tensors it is for. Refuses one that is not LoRA, has targets that the model lacks, or shapes that
/// do not fit ([`ConvertError::Lora`]). Returns how many modules it changes, and its tensors, some of which may now be the model's.
pub(super) fn apply(dir: &Path, items: &mut [Item], spec: &DecoderSpec) -> Result<(usize, Checkpoint)> {
    let refused = |problem: String| ConvertError::Lora { path: dir.to_owned(), problem };
    let config = Config::read(dir)?;
    let checkpoint = Checkpoint::open(&dir.join(FILES[1])).map_err(|_| {
        refused("it has no adapter_model.safetensors that can be read; save it with PEFT's save_pretrained".into())
    })?;
    let mut pairs: BTreeMap<String, Pair<'_>> = BTreeMap::new();
    let mut whole = Vec::new();
    for tensor in checkpoint.tensors() {
        let name = tensor.name.strip_prefix("base_model.model.").unwrap_or(&tensor.name).replace(".default", "");
        let ending = [".lora_A.weight", ".lora_B.weight", ".lora_embedding_A", ".lora_embedding_B", ".lora_magnitude_vector"]
            .iter()
            .position(|ending| name.ends_with(ending));
        match ending {
            Some(at) if at < 4 || config.dora => {
                let module = name.split(".lora_").next().unwrap_or_default().to_owned();
                let pair = pairs.entry(module).or_default();
                let place = match at {
                    0 | 2 => &mut pair.a,
                    1 | 3 => &mut pair.b,
                    _ => &mut pair.lengths,
                };
                *place = Some(tensor);
                pair.embedding |= [2, 3].contains(&at);
            }
            _ if name.contains(".lora_") => {
                return Err(refused(format!("`{name}` is of a kind of LoRA that is not supported")).into());
            }
            // The weight that a delta is for comes along where it may have changed, as an embedding table's.
            _ => whole.push((name.replace(".modules_to_save", "").replace(".base_layer", ""), tensor)),
        }
    }
    if pairs.is_empty() && whole.is_empty() {
        return Err(refused("it has no tensors".into()).into());
    }
    let count = pairs.len() + whole.len();
    for (name, tensor) in whole {
        let target = tensors(items).find(|t| t.name == name);
        let target = target.ok_or_else(|| refused(format!("the model has no tensor `{name}`")))?;
        if target.shape != tensor.shape {
            let problem = format!("`{name}` has the shape {:?}, the model's has {:?}", tensor.shape, target.shape);
            return Err(refused(problem).into());
        }
        *target = HfTensor::new(name, tensor.shape.clone(), vec![Part::whole(tensor)]);
    }
    for (module, pair) in pairs {
        let (Some(a), Some(b)) = (pair.a, pair.b) else {
            return Err(refused(format!("`{module}` has only one of lora_A and lora_B")).into());
        };
        let scale = |rank| config.scale(&module, rank);
        let matrix = |t: &Tensor| -> Result<(usize, usize, Vec<f32>)> {
            match t.shape[..] {
                [rows, cols] if rows > 0 && cols > 0 => Ok((rows, cols, t.to_f32()?)),
                _ => Err(refused(format!("`{}` has the shape {:?}; a matrix is needed", t.name, t.shape)).into()),
            }
        };
        let ((a_rows, a_cols, a), (b_rows, b_cols, b)) = (matrix(a)?, matrix(b)?);
        if a_rows != b_cols {
            return Err(refused(format!("`{module}`: A has rank {a_rows}, B has rank {b_cols}")).into());
        }
        // An embedding's table is the transpose of a matrix's weight.
        let (a, b, rows, cols) = match pair.embedding {
            true => (transposed(&b, b_rows, b_cols), transposed(&a, a_rows, a_cols), a_cols, b_rows),
            false => (a, b, b_rows, a_cols),
        };
        let lengths = match (config.dora, pair.lengths) {
            (false, _) => None,
            // There they are the lengths of columns, which no row knows of.
            (true, _) if pair.embedding => {
                let problem = format!(
                    "it is DoRA (use_dora) on the embedding table `{module}`, which is not supported; merge it with PEFT"
                );
                return Err(refused(problem).into());
            }
            (true, Some(lengths)) if lengths.shape == [rows] => Some(Arc::new(lengths.to_f32()?)),
            (true, Some(other)) => {
                return Err(
                    refused(format!("`{}` has the shape {:?}; {rows} lengths are needed", other.name, other.shape)).into()
                );
            }
            (true, None) => {
                return Err(refused(format!("`{module}` has no lora_magnitude_vector, which use_dora asks for")).into());
            }
        };
        let (a, b, scale) = (Arc::new(a), Arc::new(b), scale(a_rows));
        let delta = Delta { a, b, rank: a_rows, scale, lengths, first: 0, own_first: 0, rows };
        place(&module, delta, [rows, cols], items, spec).map_err(refused)?;
    }
    config.check_patterns(dir)?;
    checkpoint.intact()?;
    Ok((count, checkpoint))
}

fn tensors(items: &mut [Item]) -> impl Iterator<Item = &mut HfTensor> {
    items.iter_mut().flat_map(|item| item.hf.iter_mut())
}

/// Gives a delta to the tensors that hold the module's rows.
fn place(
    module: &str,
    delta: Delta,
    [rows, cols]: [usize; 2],
    items: &mut [Item],
    spec: &DecoderSpec,
) -> std::result::Result<(), String> {
    let mut found = false;
    let mut covered = 0;
    for (tensor, first, own_first, len) in homes(module, spec, rows) {
        let Some(target) = tensors(items).find(|t| t.name == tensor) else { continue };
        found = true;
        let fits = target.cols() == cols && first + len <= target.rows() && own_first + len <= rows;
        if !fits || (target.name == format!("{module}.weight") && target.rows() != rows) {
            return Err(format!(
                "`{module}` changes a matrix of {rows} x {cols}, but the model's `{}` has {} x {}: it is of another model",
                target.name,
                target.rows(),
                target.cols()
            ));
        }
        covered += len;
        target.deltas.push(Delta { first, own_first, rows: len, ..delta.clone() });
    }
    match found {
        true if covered == rows => Ok(()),
        true => Err(format!("`{module}` changes {rows} rows, but the model has {covered} of them: it is of another model")),
        false if spec.head.tied && module == "lm_head" => {
            Err("it changes `lm_head`, which this model shares with its embedding table; that would change the table too".into())
        }
        false => Err(format!("it is for a module `{module}`, which the model does not have: it is of another model")),
    }
}

/// Where a module's rows may be: tensor, first row there, first row in the module, and how many. Fused and separate
/// projections are the same rows.
fn homes(module: &str, spec: &DecoderSpec, rows: usize) -> Vec<(String, usize, usize, usize)> {
    let mut homes = vec![(format!("{module}.weight"), 0, 0, rows)];
    let layer = module.split('.').find_map(|part| part.parse::<usize>().ok()).and_then(|i| spec.layers.get(i));
    let (Some(layer), Some((stem, last))) = (layer, module.rsplit_once('.')) else { return homes };
    let core = &layer.attention.core;
    let (q, kv) = (core.heads * core.head_dim, core.kv_heads * core.head_dim);
    let ffn = match layer.ffn {
        sol_model::FeedForward::Dense { ffn, .. } => ffn,
        sol_model::FeedForward::Experts { .. } => 0,
    };
    let groups = [
        ("qkv_proj", vec![("q_proj", q), ("k_proj", kv), ("v_proj", kv)]),
        ("gate_up_proj", vec![("gate_proj", ffn), ("up_proj", ffn)]),
    ];
    for (fused, apart) in groups {
        let mut first = 0;
        for (one, len) in apart {
            if last == one {
                homes.push((format!("{stem}.{fused}.weight"), first, 0, len));
            } else if last == fused {
                homes.push((format!("{stem}.{one}.weight"), 0, first, len));
            }
            first += len;
        }
    }
    homes
}

fn transposed(values: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..rows * cols).map(|at| values[at % rows * cols + at / rows]).collect()
}

/// What adapter_config.json says of the scale.
struct Config {
    alpha: f32,
    root: bool,
    dora: bool,
    /// Alphas of single modules, by the end of their names; which have been used is seen after all.
    alphas: Vec<(String, f32, std::cell::Cell<bool>)>,
}

impl Config {
    fn read(dir: &Path) -> Result<Self> {
        let path: PathBuf = dir.join(FILES[0]);
        let refused = |problem: String| ConvertError::Lora { path: path.clone(), problem };
        let bytes = std::fs::read(&path).map_err(|cause| refused(format!("can not be read: {cause}")))?;
        let json: Value = serde_json::from_slice(&bytes).map_err(|cause| refused(format!("it is not JSON: {cause}")))?;
        match json["peft_type"].as_str() {
            Some("LORA") => {}
            Some(other) => return Err(refused(format!("its peft_type is {other}; only LORA can be merged")).into()),
            None => return Err(refused("it has no peft_type; it is no PEFT adapter".into()).into()),
        }
        let alpha = json["lora_alpha"].as_f64().ok_or_else(|| refused("it has no lora_alpha".into()))? as f32;
        let patterns = json["alpha_pattern"].as_object().into_iter().flatten();
        let alphas = patterns
            .map(|(key, value)| {
                let alpha = value.as_f64().ok_or_else(|| refused(format!("alpha_pattern {key} is not a number")))?;
                Ok((key.clone(), alpha as f32, std::cell::Cell::new(false)))
            })
            .collect::<Result<_>>()?;
        Ok(Self { alpha, root: json["use_rslora"] == true, dora: json["use_dora"] == true, alphas })
    }

    fn scale(&self, module: &str, rank: usize) -> f32 {
        let own = self
            .alphas
            .iter()
            .find(|(key, ..)| module.strip_suffix(key.as_str()).is_some_and(|before| before.is_empty() || before.ends_with('.')));
        let alpha = own.map_or(self.alpha, |(_, alpha, used)| {
            used.set(true);
            *alpha
        });
        if self.root { alpha / (rank as f32).sqrt() } else { alpha / rank as f32 }
    }

    /// A pattern that is more than the end of a name would silently be without effect.
    fn check_patterns(&self, dir: &Path) -> Result<()> {
        match self.alphas.iter().find(|(.., used)| !used.get()) {
            None => Ok(()),
            Some((key, ..)) => {
                let problem = format!("alpha_pattern `{key}` is the end of no module's name; other patterns are not supported");
                Err(ConvertError::Lora { path: dir.to_owned(), problem }.into())
            }
        }
    }
}
