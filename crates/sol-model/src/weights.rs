//! From a checkpoint's tensors to a decoder's weights: found by name, checked against the spec, sliced where fused.
//! Matrices stay mapped; norms and biases are converted, and so are F8 matrices, whose scales no kernel knows.

use half::bf16;
use sol_compute::{Backend, Expert, Experts, Linear, MatrixData, Norm};
use sol_weights::{Bytes, Checkpoint, DType, Tensor};

use crate::error::ModelError;
use crate::names::{Naming, Role};
use crate::spec::{DecoderSpec, FeedForward, LayerSpec, NormSpec};

type Result<T> = std::result::Result<T, ModelError>;

/// All weights of a decoder.
pub(crate) struct Weights<B: Backend> {
    pub(crate) embedding: Linear<B>,
    pub(crate) layers: Vec<LayerWeights<B>>,
    pub(crate) final_norm: Norm<B>,
    /// `None`: the embedding is the head.
    pub(crate) head: Option<Linear<B>>,
}

/// Weights of one layer.
pub(crate) struct LayerWeights<B: Backend> {
    pub(crate) attention_norm: Norm<B>,
    pub(crate) query: Linear<B>,
    pub(crate) key: Linear<B>,
    pub(crate) value: Linear<B>,
    pub(crate) output: Linear<B>,
    pub(crate) post_attention_norm: Option<Norm<B>>,
    pub(crate) ffn_norm: Norm<B>,
    pub(crate) ffn: FfnWeights<B>,
    pub(crate) post_ffn_norm: Option<Norm<B>>,
}

/// Weights of a feed-forward.
pub(crate) enum FfnWeights<B: Backend> {
    Dense { gate: Linear<B>, up: Linear<B>, down: Linear<B> },
    Experts(Experts<B>),
}

/// Rows `start..start + rows` of a tensor with `of` rows in all, or one expert's slice of a three-dimensional one.
#[derive(Clone, Copy)]
struct Slice {
    start: usize,
    rows: usize,
    of: usize,
    cols: usize,
    /// `(expert, experts)` of a three-dimensional tensor.
    expert: Option<(usize, usize)>,
}

impl Slice {
    fn whole(rows: usize, cols: usize) -> Self {
        Self { start: 0, rows, of: rows, cols, expert: None }
    }

    fn shape(&self) -> Vec<usize> {
        match self.expert {
            None => vec![self.of, self.cols],
            Some((_, experts)) => vec![experts, self.of, self.cols],
        }
    }
}

struct Loader<'a, B: Backend> {
    checkpoint: &'a Checkpoint,
    naming: &'a Naming,
    backend: &'a B,
    hidden: usize,
}

/// Loads all weights that `spec` asks for.
pub(crate) fn load<B: Backend>(backend: &B, checkpoint: &Checkpoint, naming: &Naming, spec: &DecoderSpec) -> Result<Weights<B>> {
    let loader = Loader { checkpoint, naming, backend, hidden: spec.hidden };
    loader.refuse_layers_beyond(spec.layers.len())?;
    let head = if spec.head.tied {
        None
    } else {
        Some(loader.linear(Role::Head, 0, Slice::whole(spec.vocab, spec.hidden), spec.head.bias)?)
    };
    Ok(Weights {
        embedding: loader.linear(Role::Embedding, 0, Slice::whole(spec.vocab, spec.hidden), false)?,
        layers: spec.layers.iter().enumerate().map(|(i, layer)| loader.layer(i, layer)).collect::<Result<_>>()?,
        final_norm: loader.norm(Role::FinalNorm, 0, &spec.final_norm)?,
        head,
    })
}

impl<B: Backend> Loader<'_, B> {
    fn layer(&self, i: usize, spec: &LayerSpec) -> Result<LayerWeights<B>> {
        let core = spec.attention.core;
        let (q, kv) = (core.heads * core.head_dim, core.kv_heads * core.head_dim);
        let bias = spec.attention.qkv_bias;
        let [query, key, value] = if self.is_fused(Role::Query, Role::FusedQkv, i)? {
            let part = |start, rows| Slice { start, rows, of: q + 2 * kv, cols: self.hidden, expert: None };
            [
                self.linear(Role::FusedQkv, i, part(0, q), bias)?,
                self.linear(Role::FusedQkv, i, part(q, kv), bias)?,
                self.linear(Role::FusedQkv, i, part(q + kv, kv), bias)?,
            ]
        } else {
            [
                self.linear(Role::Query, i, Slice::whole(q, self.hidden), bias)?,
                self.linear(Role::Key, i, Slice::whole(kv, self.hidden), bias)?,
                self.linear(Role::Value, i, Slice::whole(kv, self.hidden), bias)?,
            ]
        };
        let optional = |role, norm: &Option<NormSpec>| norm.as_ref().map(|n| self.norm(role, i, n)).transpose();
        Ok(LayerWeights {
            attention_norm: self.norm(Role::AttentionNorm, i, &spec.attention_norm)?,
            query,
            key,
            value,
            output: self.linear(Role::AttentionOutput, i, Slice::whole(self.hidden, q), spec.attention.output_bias)?,
            post_attention_norm: optional(Role::PostAttentionNorm, &spec.post_attention_norm)?,
            ffn_norm: self.norm(Role::FfnNorm, i, &spec.ffn_norm)?,
            ffn: self.ffn(i, &spec.ffn)?,
            post_ffn_norm: optional(Role::PostFfnNorm, &spec.post_ffn_norm)?,
        })
    }

    fn ffn(&self, i: usize, spec: &FeedForward) -> Result<FfnWeights<B>> {
        match *spec {
            FeedForward::Dense { ffn, bias, .. } => {
                let [gate, up] = if self.is_fused(Role::Gate, Role::FusedGateUp, i)? {
                    let half = |start| Slice { start, rows: ffn, of: 2 * ffn, cols: self.hidden, expert: None };
                    [self.linear(Role::FusedGateUp, i, half(0), bias)?, self.linear(Role::FusedGateUp, i, half(ffn), bias)?]
                } else {
                    [
                        self.linear(Role::Gate, i, Slice::whole(ffn, self.hidden), bias)?,
                        self.linear(Role::Up, i, Slice::whole(ffn, self.hidden), bias)?,
                    ]
                };
                Ok(FfnWeights::Dense { gate, up, down: self.linear(Role::Down, i, Slice::whole(self.hidden, ffn), bias)? })
            }
            FeedForward::Experts { ffn, experts, activation, routing, .. } => {
                let expert = |e| -> Result<Expert<B>> {
                    let one = |role, rows, cols| self.expert(role, i, e, experts, Slice::whole(rows, cols));
                    Ok(Expert {
                        gate: one(Role::ExpertGate, ffn, self.hidden)?,
                        up: one(Role::ExpertUp, ffn, self.hidden)?,
                        down: one(Role::ExpertDown, self.hidden, ffn)?,
                    })
                };
                Ok(FfnWeights::Experts(Experts {
                    router: self.linear(Role::Router, i, Slice::whole(experts, self.hidden), false)?,
                    experts: (0..experts).map(expert).collect::<Result<_>>()?,
                    routing,
                    activation,
                }))
            }
        }
    }

    /// Whether a layer has projections in one tensor and not apart.
    fn is_fused(&self, apart: Role, fused: Role, layer: usize) -> Result<bool> {
        let [apart_name, fused_name] = [apart, fused].map(|role| self.weight_name(role, layer));
        if self.checkpoint.tensor(&apart_name).is_some() {
            return Ok(false);
        }
        if self.checkpoint.tensor(&fused_name).is_some() {
            return Ok(true);
        }
        Err(self.missing(format!("{apart_name} or {fused_name}"), apart))
    }

    /// Layers that the config does not have would silently be left out.
    fn refuse_layers_beyond(&self, layers: usize) -> Result<()> {
        let tensor = self.weight_name(Role::AttentionNorm, layers);
        match self.checkpoint.tensor(&tensor) {
            None => Ok(()),
            Some(_) => Err(ModelError::ExtraLayer { path: self.checkpoint.path().into(), tensor, layers }),
        }
    }

    fn weight_name(&self, role: Role, layer: usize) -> String {
        format!("{}.weight", self.naming.name(role, layer, 0))
    }

    fn tensor(&self, name: String, role: Role) -> Result<&Tensor> {
        self.checkpoint.tensor(&name).ok_or_else(|| self.missing(name, role))
    }

    fn missing(&self, tensor: String, role: Role) -> ModelError {
        ModelError::MissingTensor { path: self.checkpoint.path().into(), tensor, role: role.describe().to_owned() }
    }

    fn check(&self, tensor: &Tensor, expected: &[usize]) -> Result<()> {
        if tensor.shape == expected {
            return Ok(());
        }
        let (got, expected) = (tensor.shape.clone(), expected.to_vec());
        Err(ModelError::WrongShape { path: self.checkpoint.path().into(), tensor: tensor.name.clone(), got, expected })
    }

    fn vector(&self, tensor: &Tensor, expected: usize) -> Result<Vec<f32>> {
        self.check(tensor, &[expected])?;
        Ok(tensor.to_f32()?)
    }

    fn norm(&self, role: Role, layer: usize, spec: &NormSpec) -> Result<Norm<B>> {
        let name = self.naming.name(role, layer, 0);
        let mut weight = self.vector(self.tensor(format!("{name}.weight"), role)?, self.hidden)?;
        weight.iter_mut().for_each(|w| *w += spec.weight_offset);
        let bias = if spec.bias { Some(self.vector(self.tensor(format!("{name}.bias"), role)?, self.hidden)?) } else { None };
        Ok(Norm {
            kind: spec.kind,
            weight: self.backend.vector(&weight),
            bias: bias.map(|b| self.backend.vector(&b)),
            eps: spec.eps,
        })
    }

    fn expert(&self, role: Role, layer: usize, expert: usize, experts: usize, slice: Slice) -> Result<Linear<B>> {
        let one_tensor = !self.naming.separate_experts();
        let slice = Slice { expert: one_tensor.then_some((expert, experts)), ..slice };
        let name = self.naming.name(role, layer, expert);
        Ok(Linear { weight: self.matrix(self.tensor(format!("{name}.weight"), role)?, slice)?, bias: None })
    }

    fn linear(&self, role: Role, layer: usize, slice: Slice, bias: bool) -> Result<Linear<B>> {
        let name = self.naming.name(role, layer, 0);
        let weight = self.matrix(self.tensor(format!("{name}.weight"), role)?, slice)?;
        let bias = if bias {
            let all = self.vector(self.tensor(format!("{name}.bias"), role)?, slice.of)?;
            Some(self.backend.vector(&all[slice.start..slice.start + slice.rows]))
        } else {
            None
        };
        Ok(Linear { weight, bias })
    }

    fn matrix(&self, tensor: &Tensor, slice: Slice) -> Result<B::Matrix> {
        self.check(tensor, &slice.shape())?;
        let Slice { start, rows, of, cols, expert } = slice;
        let refused = |source| ModelError::Tensor { tensor: tensor.name.clone(), source };
        let first_row = expert.map_or(0, |(e, _)| e * of) + start;
        let data = if tensor.dtype == DType::F8E4M3 {
            MatrixData { dtype: DType::BF16, rows, cols, bytes: self.scaled_bf16(tensor, first_row * cols, rows * cols)? }
        } else {
            let bytes = tensor.bytes();
            // `check` has compared the shape with the spec and `Checkpoint` the bytes with the shape, so this divides evenly
            // unless rows are no whole number of blocks, which the backend refuses.
            let row_bytes = tensor.dtype.bytes_for(cols).unwrap_or(0);
            let first = first_row * row_bytes;
            let range = first..(first + rows * row_bytes).min(bytes.len());
            MatrixData { dtype: tensor.dtype, rows, cols, bytes: bytes.slice(range) }
        };
        self.backend.matrix(data).map_err(refused)
    }

    /// Elements of an F8 tensor times their scales, in the 16 bits that such checkpoints are made from.
    fn scaled_bf16(&self, tensor: &Tensor, first: usize, count: usize) -> Result<Bytes> {
        let values = self.checkpoint.to_f32(tensor)?;
        let bf16 = values[first..first + count].iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes());
        Ok(Bytes::from_vec(bf16.collect()))
    }
}
