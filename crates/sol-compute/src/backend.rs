//! The [`Backend`] trait.

use crate::types::{Activation, Attention, Batch, CacheShape, ComputeError, MatrixData, NormKind, RopeTable, Routing};

/// A matrix with its optional bias: `y = W x + b`.
pub struct Linear<B: Backend> {
    /// `[out, in]`.
    pub weight: B::Matrix,
    /// `[1, out]`.
    pub bias: Option<B::Tensor>,
}

/// A norm with its parameters.
pub struct Norm<B: Backend> {
    /// Root mean square or mean and variance.
    pub kind: NormKind,
    /// `[1, hidden]`; a "1 + w" has the one added already.
    pub weight: B::Tensor,
    /// `[1, hidden]`.
    pub bias: Option<B::Tensor>,
    /// Added to the mean square.
    pub eps: f32,
}

/// One expert: `down(act(gate(x)) * up(x))`.
pub struct Expert<B: Backend> {
    /// `[ffn, hidden]`.
    pub gate: Linear<B>,
    /// `[ffn, hidden]`.
    pub up: Linear<B>,
    /// `[hidden, ffn]`.
    pub down: Linear<B>,
}

/// A mixture of experts.
pub struct Experts<B: Backend> {
    /// `[experts, hidden]`.
    pub router: Linear<B>,
    /// All experts.
    pub experts: Vec<Expert<B>>,
    /// How experts are picked and weighted.
    pub routing: Routing,
    /// The gate's non-linearity.
    pub activation: Activation,
}

/// A device that can run a decoder. Activations are f32 rows `[rows, cols]`; an operation works on all live rows of its
/// input and sets the live rows of its output. Shapes are the caller's duty: `sol-model` checks them once when it loads, so
/// operations do not return errors (they may panic on a shape the decoder could never produce).
pub trait Backend: Send + Sync + Sized + 'static {
    /// Rows of f32 activations, or a vector (one row).
    type Tensor: Send + Sync;
    /// A weight matrix in whatever format it was given.
    type Matrix: Send + Sync;
    /// A paged KV cache.
    type Cache: Send;

    /// What runs, for people: "CPU, AVX2, 2 threads".
    fn describe(&self) -> String;

    /// Takes over a matrix. Weights are mapped, not copied, where the device can read the mapping.
    fn matrix(&self, data: MatrixData) -> Result<Self::Matrix, ComputeError>;

    /// A work buffer for up to `rows` rows of `cols` values, with no live rows.
    fn tensor(&self, rows: usize, cols: usize) -> Self::Tensor;

    /// A vector of parameters: one live row.
    fn vector(&self, values: &[f32]) -> Self::Tensor;

    /// Copies live row `row` to the host.
    fn read(&self, x: &Self::Tensor, row: usize, out: &mut [f32]);

    /// Reserves a KV cache; memory is taken as blocks are first written.
    fn cache(&self, shape: &CacheShape) -> Result<Self::Cache, ComputeError>;

    /// `out[r] = scale * table[tokens[r]]`.
    fn embed(&self, table: &Self::Matrix, tokens: &[u32], scale: f32, out: &mut Self::Tensor);

    /// `out[r] = norm(x[r])`.
    fn norm(&self, norm: &Norm<Self>, x: &Self::Tensor, out: &mut Self::Tensor);

    /// Several products of the same input: `out = x W^T + b` for each part.
    fn linear(&self, x: &Self::Tensor, parts: &mut [(&Linear<Self>, &mut Self::Tensor)]);

    /// cos and sin of every row's position, once a pass: `out[r] = [cos.., sin..]`, `inv_freq.len()` each.
    fn angles(&self, rope: &RopeTable, positions: &[u32], out: &mut Self::Tensor);

    /// Rotates q (in place) and k, and writes the rotated k and v to the cache.
    #[allow(clippy::too_many_arguments)]
    fn rotate_and_store(
        &self,
        attention: &Attention,
        rope: &RopeTable,
        angles: &Self::Tensor,
        batch: &Batch<'_>,
        layer: usize,
        q: &mut Self::Tensor,
        k: &mut Self::Tensor,
        v: &Self::Tensor,
        cache: &mut Self::Cache,
    );

    /// Causal attention of every row over its sequence's cache: `out[r]` is `[heads * head_dim]`.
    fn attention(
        &self,
        attention: &Attention,
        batch: &Batch<'_>,
        layer: usize,
        q: &Self::Tensor,
        cache: &Self::Cache,
        out: &mut Self::Tensor,
    );

    /// `gate = act(gate) * up`.
    fn gated(&self, activation: Activation, gate: &mut Self::Tensor, up: &Self::Tensor);

    /// Routed feed-forward: `out[r] = sum_e w_e(r) expert_e(x[r])`, summed in the order of choice.
    fn experts(&self, experts: &Experts<Self>, x: &Self::Tensor, out: &mut Self::Tensor);

    /// `x += y`.
    fn add(&self, x: &mut Self::Tensor, y: &Self::Tensor);

    /// `out = x` (a block skip connection saves the stream).
    fn copy(&self, x: &Self::Tensor, out: &mut Self::Tensor);

    /// `x = t * saved + (1 - t) * x` (a block skip connection blends it back).
    fn blend(&self, x: &mut Self::Tensor, saved: &Self::Tensor, t: f32);

    /// `out[i] = x[rows[i]]`.
    fn select(&self, x: &Self::Tensor, rows: &[usize], out: &mut Self::Tensor);

    /// `x = cap * tanh(scale * x / cap)`, or `scale * x` without a cap.
    fn finish_logits(&self, x: &mut Self::Tensor, scale: f32, cap: Option<f32>);
}
