//! The border between what a decoder *is* and what computes it.
//!
//! [`Backend`] is a trait of coarse operations on rows of activations: a CPU and a GPU implement the same trait, and the
//! decoder (`sol-model`), the engine and everything above do not know which one runs. Read [`types`] first (what crosses
//! the border), then [`Backend`]. This crate knows no architecture, no file format but the block formats' names, and
//! computes nothing itself.
//!
//! **Invariant (a row never depends on its neighbours).** Every operation computes a row of its output from that row of its
//! input (and from the cache of that row's own sequence) with one fixed order of summation. The same request therefore gives
//! bit-identical logits whatever else is in the batch and however its prompt was cut into pieces.

pub mod types;

mod backend;

pub use backend::{Backend, Expert, Experts, Linear, Norm};
pub use types::{
    Activation, Attention, Batch, CacheShape, ComputeError, KvShape, KvType, MatrixData, NormKind, RopePairing, RopeTable,
    Routing,
};
