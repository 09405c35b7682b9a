//! [`Model`]: a decoder with its weights on a backend, and the one forward pass.

use std::sync::Arc;

use sol_compute::{Backend, Batch, CacheShape, KvShape, KvType, RopeTable};
use sol_weights::{Checkpoint, DType};

use crate::architectures::describe;
use crate::error::ModelError;
use crate::rope::RopeFactors;
use crate::spec::{DecoderSpec, FeedForward, Skips};
use crate::weights::{FfnWeights, LayerWeights, Weights, load};

/// Tokens in a block of the KV cache.
pub const BLOCK_LEN: usize = 32;

/// Choices a user has where engines disagree.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadOptions {
    /// Let every layer see the whole sequence, as llama.cpp runs Phi-3 and ollama ran Solar.
    pub no_window: bool,
    /// Longest sequence that will be run; default: the model's context.
    pub context: Option<usize>,
    /// Longrope's set of factors; default: long iff the context exceeds the original one.
    pub rope_factors: Option<RopeFactors>,
}

/// A decoder, ready to run.
pub struct Model<B: Backend> {
    spec: DecoderSpec,
    backend: Arc<B>,
    weights: Weights<B>,
    rope: RopeTable,
    context: usize,
    warnings: Vec<String>,
    checkpoint: Arc<Checkpoint>,
}

/// Buffers of a forward pass of up to `rows` rows, allocated once.
pub struct Workspace<B: Backend> {
    rows: usize,
    outputs: usize,
    stream: B::Tensor,
    slots: [B::Tensor; 2],
    normed: B::Tensor,
    branch: B::Tensor,
    angles: B::Tensor,
    query: B::Tensor,
    key: B::Tensor,
    value: B::Tensor,
    attended: B::Tensor,
    gate: B::Tensor,
    up: B::Tensor,
    selected: B::Tensor,
    /// Logits of the rows asked for, in their order.
    pub logits: B::Tensor,
}

impl<B: Backend> Workspace<B> {
    /// Most rows a pass can have.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Most rows a pass can give logits for.
    pub fn outputs(&self) -> usize {
        self.outputs
    }
}

impl<B: Backend> Model<B> {
    /// Loads a checkpoint: every tensor is found and checked, none is read.
    pub fn load(backend: Arc<B>, checkpoint: Arc<Checkpoint>, options: LoadOptions) -> Result<Self, ModelError> {
        let description = describe(&checkpoint)?;
        let mut spec = description.spec;
        if options.no_window {
            spec.disable_windows();
        }
        let context = options.context.unwrap_or(spec.context);
        let factors = options.rope_factors.unwrap_or_else(|| spec.rope.factors_for(context));
        Ok(Self {
            weights: load(&*backend, &checkpoint, &description.naming, &spec)?,
            rope: spec.rope.table(factors),
            spec,
            backend,
            context,
            warnings: description.warnings,
            checkpoint,
        })
    }

    /// What the decoder is.
    pub fn spec(&self) -> &DecoderSpec {
        &self.spec
    }

    /// Where it came from.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// What runs it.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// Longest sequence, in tokens.
    pub fn context(&self) -> usize {
        self.context
    }

    /// What the user should know about this checkpoint.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// See [`natural_kv_type`].
    pub fn natural_kv_type(&self) -> KvType {
        natural_kv_type(&self.checkpoint)
    }

    /// The first tensor that holds a value that is no finite number; reads all of them, so only once a result has gone wrong.
    pub fn first_non_finite(&self) -> Option<&str> {
        let broken = |t: &&sol_weights::Tensor| t.to_f32().is_ok_and(|values| values.iter().any(|v| !v.is_finite()));
        self.checkpoint.tensors().find(broken).map(|t| t.name.as_str())
    }

    /// A KV cache of `blocks` blocks.
    pub fn cache(&self, blocks: usize, dtype: KvType) -> Result<B::Cache, ModelError> {
        Ok(self.backend.cache(&cache_shape(&self.spec, blocks, dtype))?)
    }

    /// Buffers for passes of up to `rows` rows of which up to `outputs` give logits.
    pub fn workspace(&self, rows: usize, outputs: usize) -> Workspace<B> {
        let buffers = workspace_shape(&self.spec, rows, outputs).map(|(rows, cols)| self.backend.tensor(rows, cols));
        let [stream, slot_a, slot_b, normed, branch, angles, query, key, value, attended, gate, up, selected, logits] = buffers;
        let slots = [slot_a, slot_b];
        Workspace {
            rows,
            outputs,
            stream,
            slots,
            normed,
            branch,
            angles,
            query,
            key,
            value,
            attended,
            gate,
            up,
            selected,
            logits,
        }
    }

    /// One pass: writes the rows' keys and values to the cache and leaves logits of the rows `outputs` in `w.logits`.
    pub fn forward(&self, batch: &Batch<'_>, outputs: &[usize], w: &mut Workspace<B>, cache: &mut B::Cache) {
        self.forward_unless(&|| false, batch, outputs, w, cache);
    }

    /// [`Model::forward`], asking before each layer whether to give up; whether it came to its end. The rows of a pass that was
    /// given up may be computed again.
    pub fn forward_unless(
        &self,
        stop: &dyn Fn() -> bool,
        batch: &Batch<'_>,
        outputs: &[usize],
        w: &mut Workspace<B>,
        cache: &mut B::Cache,
    ) -> bool {
        debug_assert!(batch.len() <= w.rows && outputs.len() <= w.outputs);
        let b = &*self.backend;
        b.embed(&self.weights.embedding.weight, batch.tokens, self.spec.embedding_scale, &mut w.stream);
        b.angles(&self.rope, batch.positions, &mut w.angles);
        for (i, (spec, weights)) in self.spec.layers.iter().zip(&self.weights.layers).enumerate() {
            if stop() {
                return false;
            }
            self.skip(spec.skips, w);

            b.norm(&weights.attention_norm, &w.stream, &mut w.normed);
            self.attend(i, weights, batch, w, cache);
            self.add_branch(weights.post_attention_norm.as_ref(), w);

            b.norm(&weights.ffn_norm, &w.stream, &mut w.normed);
            match (&weights.ffn, spec.ffn) {
                (FfnWeights::Dense { gate, up, down }, FeedForward::Dense { activation, .. }) => {
                    b.linear(&w.normed, &mut [(gate, &mut w.gate), (up, &mut w.up)]);
                    b.gated(activation, &mut w.gate, &w.up);
                    b.linear(&w.gate, &mut [(down, &mut w.branch)]);
                }
                (FfnWeights::Experts(experts), _) => b.experts(experts, &w.normed, &mut w.branch),
                _ => unreachable!("weights were loaded from this spec"),
            }
            self.add_branch(weights.post_ffn_norm.as_ref(), w);
        }
        if outputs.is_empty() {
            return true;
        }
        b.select(&w.stream, outputs, &mut w.selected);
        b.norm(&self.weights.final_norm, &w.selected, &mut w.normed);
        let head = self.weights.head.as_ref().unwrap_or(&self.weights.embedding);
        b.linear(&w.normed, &mut [(head, &mut w.logits)]);
        b.finish_logits(&mut w.logits, self.spec.head.scale, self.spec.head.softcap);
        true
    }

    /// Hidden states of all rows of the pass that `w` was last used for: `[rows, hidden]`, after the final norm, as the head would
    /// see them.
    pub fn hidden<'w>(&self, w: &'w mut Workspace<B>) -> &'w B::Tensor {
        self.backend.norm(&self.weights.final_norm, &w.stream, &mut w.normed);
        &w.normed
    }

    /// Block skip connections: save first, then blend from A, then from B.
    fn skip(&self, skips: Skips, w: &mut Workspace<B>) {
        for (slot, _) in w.slots.iter_mut().zip(skips.save).filter(|(_, save)| *save) {
            self.backend.copy(&w.stream, slot);
        }
        for (slot, _) in w.slots.iter().zip(skips.blend).filter(|(_, blend)| *blend) {
            self.backend.blend(&mut w.stream, slot, self.spec.skip_blend);
        }
    }

    /// `branch = output(attention(normed))`.
    fn attend(&self, i: usize, weights: &LayerWeights<B>, batch: &Batch<'_>, w: &mut Workspace<B>, cache: &mut B::Cache) {
        let (b, core) = (&*self.backend, &self.spec.layers[i].attention.core);
        let LayerWeights { query, key, value, output, .. } = weights;
        b.linear(&w.normed, &mut [(query, &mut w.query), (key, &mut w.key), (value, &mut w.value)]);
        b.rotate_and_store(core, &self.rope, &w.angles, batch, i, &mut w.query, &mut w.key, &w.value, cache);
        b.attention(core, batch, i, &w.query, cache, &mut w.attended);
        b.linear(&w.attended, &mut [(output, &mut w.branch)]);
    }

    /// `stream += post_norm(branch)`.
    fn add_branch(&self, post_norm: Option<&sol_compute::Norm<B>>, w: &mut Workspace<B>) {
        match post_norm {
            None => self.backend.add(&mut w.stream, &w.branch),
            Some(norm) => {
                self.backend.norm(norm, &w.branch, &mut w.normed);
                self.backend.add(&mut w.stream, &w.normed);
            }
        }
    }
}

/// Rows and columns of a [`Workspace`]'s buffers, in its order.
pub(crate) fn workspace_shape(spec: &DecoderSpec, rows: usize, outputs: usize) -> [(usize, usize); 14] {
    let core = spec.layers.iter().map(|l| l.attention.core);
    let heads = core.clone().map(|c| c.heads * c.head_dim).max().unwrap_or(0);
    let kv = core.map(|c| c.kv_heads * c.head_dim).max().unwrap_or(0);
    let ffn = spec.layers.iter().map(|l| match l.ffn {
        FeedForward::Dense { ffn, .. } => ffn,
        FeedForward::Experts { .. } => 0,
    });
    let ffn = ffn.max().unwrap_or(0);
    let slot_rows = if spec.has_skips() { rows } else { 0 };
    let hidden = spec.hidden;
    let (stream, slot, attended, one_kv, one_ffn) = ((rows, hidden), (slot_rows, hidden), (rows, heads), (rows, kv), (rows, ffn));
    [
        stream,
        slot,
        slot,
        stream,
        stream,
        (rows, spec.rope.dim),
        attended,
        one_kv,
        one_kv,
        attended,
        one_ffn,
        one_ffn,
        (outputs, hidden),
        (outputs, spec.vocab),
    ]
}

/// Keys and values in f32 where the weights are exact (so that results equal a float32 reference), else in f16.
pub fn natural_kv_type(checkpoint: &Checkpoint) -> KvType {
    let exact = checkpoint.tensors().all(|t| matches!(t.dtype, DType::F32 | DType::F16 | DType::BF16));
    if exact { KvType::F32 } else { KvType::F16 }
}

/// The cache a decoder needs.
pub(crate) fn cache_shape(spec: &DecoderSpec, blocks: usize, dtype: KvType) -> CacheShape {
    let layer = |l: &crate::spec::LayerSpec| KvShape { kv_heads: l.attention.core.kv_heads, head_dim: l.attention.core.head_dim };
    CacheShape { layers: spec.layers.iter().map(layer).collect(), block_len: BLOCK_LEN, blocks, dtype }
}
