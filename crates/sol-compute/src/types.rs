//! Plain data that crosses the [`Backend`](crate::Backend) border.

use sol_weights::{Bytes, DType};
use thiserror::Error;

/// What a backend can refuse.
#[derive(Debug, Error)]
pub enum ComputeError {
    /// The backend has no kernel for this block format.
    #[error("{backend} has no kernel for {dtype} matrices")]
    UnsupportedType {
        /// Which backend.
        backend: &'static str,
        /// The format it was given.
        dtype: DType,
    },
    /// Columns are no multiple of the format's block, or the bytes do not match the shape.
    #[error("a {dtype} matrix of {rows} x {cols} needs {needed}, got {got} bytes")]
    Shape {
        /// The format.
        dtype: DType,
        /// Outputs.
        rows: usize,
        /// Inputs.
        cols: usize,
        /// What the shape asks for.
        needed: String,
        /// What there was.
        got: usize,
    },
    /// The KV cache or a work buffer can not be reserved.
    #[error("can not reserve {bytes} bytes for {what}: {source}; lower --ctx or choose a smaller quantisation")]
    OutOfMemory {
        /// What the memory is for.
        what: &'static str,
        /// How much.
        bytes: u64,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A setting names instructions that this machine does not have.
    #[error("SOL_ISA is '{asked}', but this machine has: {available}; choose one of these, or leave SOL_ISA unset")]
    InstructionSet {
        /// The setting.
        asked: String,
        /// What it could be.
        available: String,
    },
    /// Threads could not be started, or the number asked for makes no sense.
    #[error("{0}")]
    Threads(String),
}

/// A weight matrix as it lies in its file: `rows` outputs by `cols` inputs, row-major blocks of `dtype`.
#[derive(Clone, Debug)]
pub struct MatrixData {
    /// Block format.
    pub dtype: DType,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub cols: usize,
    /// Mapped bytes, exactly `rows` rows of `cols / block_len` blocks.
    pub bytes: Bytes,
}

/// How a norm measures a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// `x * rsqrt(mean(x^2) + eps) * w` (Zhang & Sennrich, arXiv 1910.07467).
    Rms,
    /// `(x - mean) * rsqrt(var + eps) * w + b`, biased variance (Ba et al., arXiv 1607.06450).
    Layer,
}

/// The gate's non-linearity in a gated feed-forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x * sigmoid(x)`.
    Silu,
    /// GELU in its tanh form.
    GeluTanh,
}

/// Which two dimensions of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePairing {
    /// `(i, i + d/2)`: HF checkpoints ("rotate half").
    Halves,
    /// `(2i, 2i + 1)`: GGUF files whose q and k rows were permuted at conversion.
    Adjacent,
}

/// Rotary position embedding (Su et al., arXiv 2104.09864) after scaling has been worked out: angle `i` of position `p` is
/// `p * inv_freq[i]` in f32; cos and sin are both multiplied by `mscale`.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeTable {
    /// One frequency a pair, `head_dim / 2` of them.
    pub inv_freq: Vec<f32>,
    /// Magnitude of the rotation (longrope), else 1.
    pub mscale: f32,
    /// Which dimensions pair up.
    pub pairing: RopePairing,
}

/// One layer's attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; `heads` is a multiple.
    pub kv_heads: usize,
    /// Values a head.
    pub head_dim: usize,
    /// Factor on `q . k`.
    pub scale: f32,
    /// `cap * tanh(s / cap)` on scaled scores.
    pub softcap: Option<f32>,
    /// Query i sees key j iff `0 <= i - j < window`.
    pub window: Option<usize>,
}

/// How a router picks experts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Routing {
    /// Phi-3.5-MoE's deterministic top-2: rivals further than `2 * jitter` (relative) are dropped before each softmax, and
    /// the two weights are not normalised together.
    SparseMixer {
        /// `router_jitter_noise`.
        jitter: f32,
    },
}

/// Number format of cached keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// Exact: what a float32 reference computes.
    F32,
    /// Half the memory and traffic; the error is far below that of quantised weights.
    F16,
    /// Half of that again: 8-bit integers, each 32 of a head with an f16 scale, as GGUF's Q8_0.
    Q8_0,
}

impl KvType {
    /// Bytes that the key (or value) of one head takes.
    pub const fn bytes(self, head_dim: usize) -> u64 {
        let values = head_dim as u64;
        match self {
            Self::F32 => 4 * values,
            Self::F16 => 2 * values,
            Self::Q8_0 => values + 2 * values.div_ceil(32),
        }
    }

    /// What it is called: "f16".
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
        }
    }
}

/// Keys and values of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Key and value heads.
    pub kv_heads: usize,
    /// Values a head.
    pub head_dim: usize,
}

/// A paged KV cache: `blocks` blocks of `block_len` tokens in every layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheShape {
    /// One entry a layer.
    pub layers: Vec<KvShape>,
    /// Tokens a block.
    pub block_len: usize,
    /// Blocks a layer.
    pub blocks: usize,
    /// Number format.
    pub dtype: KvType,
}

impl CacheShape {
    /// Bytes one token takes over all layers, keys and values.
    pub fn bytes_per_token(&self) -> u64 {
        self.layers.iter().map(|l| 2 * l.kv_heads as u64 * self.dtype.bytes(l.head_dim)).sum()
    }

    /// Bytes of the whole cache when full.
    pub fn bytes(&self) -> u64 {
        self.bytes_per_token() * self.block_len as u64 * self.blocks as u64
    }
}

/// The rows of one forward pass. Row `r` is token `tokens[r]` at `positions[r]` of the sequence whose blocks are
/// `tables[sequences[r]]`; rows of a sequence come in rising position, and every earlier position of it is cached already or
/// an earlier row of this batch.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Token ids.
    pub tokens: &'a [u32],
    /// Position in the sequence, 0-based.
    pub positions: &'a [u32],
    /// Index into `tables`.
    pub sequences: &'a [u32],
    /// Block table of each sequence: position `p` lives in block `table[p / block_len]` at `p % block_len`.
    pub tables: &'a [&'a [u32]],
}

impl Batch<'_> {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }
}
