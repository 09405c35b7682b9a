//! What a decoder is.
//!
//! An architecture is data: a [`DecoderSpec`] says, layer by layer, its norms, attention, feed-forward and skip connections;
//! [`Model::forward`] is the one forward pass that reads it, over any [`Backend`](sol_compute::Backend). Read in this order:
//!
//! 1. [`spec`]: what there is to say about a decoder (the table of `DecoderSpec`).
//! 2. `architectures/`: one small file each, turning a checkpoint's config into a spec.
//! 3. `names`: how HF checkpoints and GGUF files call their tensors; `weights`: finding, checking and slicing them.
//! 4. [`decoder`]: the forward pass.
//! 5. [`memory`]: what it all takes.
//!
//! This crate knows no tokens' text, no sampling, no requests.

pub mod decoder;
pub mod memory;
pub mod spec;

mod architectures;
mod config;
mod error;
mod names;
mod rope;
mod weights;

pub use architectures::{SUPPORTED, describe, hf_class, naming};
pub use decoder::{BLOCK_LEN, LoadOptions, Model, Workspace, natural_kv_type};
pub use error::ModelError;
pub use names::{Naming, Role};
pub use rope::RopeFactors;
pub use spec::{AttentionSpec, DecoderSpec, FeedForward, HeadSpec, LayerSpec, NormSpec, RopeScaling, RopeSpec, Skips};

/// What a checkpoint turned out to be: the decoder, how its tensors are called, and what its user should be told.
#[derive(Clone, Debug)]
pub struct Description {
    /// The decoder.
    pub spec: DecoderSpec,
    /// Names of its tensors.
    pub naming: Naming,
    /// Sentences for the user: something is off, but not wrong enough to stop.
    pub warnings: Vec<String>,
}
