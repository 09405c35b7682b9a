//! Checkpoints made and remade.
//!
//! - [`synth`] writes a checkpoint with the shapes of a published model and random weights, for measurements on machines that
//!   the weights can not be had on.
//! - [`quantize`] writes a GGUF checkpoint in fewer bits.
//! - [`Types`] says which block format each matrix of a quantised checkpoint has.
//!
//! Everything is streamed: a checkpoint may be larger than memory. This crate runs no model.

mod error;
pub mod quantize;
pub mod synth;
mod types;

pub use error::Error;
pub use types::{Matrix, Mixture, Types};

/// The result of making a checkpoint.
pub type Result<T, E = Error> = std::result::Result<T, E>;
