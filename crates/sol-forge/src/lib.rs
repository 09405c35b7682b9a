//! Checkpoints made and remade.
//!
//! - [`synth`] writes a checkpoint with the shapes of a published model and random weights, for measurements on machines that
//!   the weights can not be had on.
//! - [`upscale`] makes a deeper model from the layers of a base; [`lineage`](mod@lineage) finds out whether one was made so.
//! - [`convert`] writes a Hugging Face directory as a GGUF file and the other way round, with LoRA adapters merged on the way.
//! - [`quantize`] writes a GGUF checkpoint in fewer bits.
//! - [`Types`] says which block format each matrix of a quantised checkpoint has.
//!
//! Everything is streamed: a checkpoint may be larger than memory. This crate runs no model.

pub mod convert;
mod error;
pub mod lineage;
mod place;
pub mod quantize;
pub mod synth;
mod types;
pub mod upscale;

pub use error::Error;
pub use place::spare;
pub use types::{Matrix, Mixture, Types};

/// The result of making a checkpoint.
pub type Result<T, E = Error> = std::result::Result<T, E>;
