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

use std::path::{Path, PathBuf};

pub mod convert;
mod error;
pub mod lineage;
pub mod quantize;
pub mod synth;
mod types;
pub mod upscale;

pub use error::Error;
pub use types::{Matrix, Mixture, Types};

/// Whether a result at `out` would take the place of one of these files, or of the directory that holds it.
fn is_over(files: &[PathBuf], out: &Path) -> bool {
    let is_out = |path: &Path| matches!((path.canonicalize(), out.canonicalize()), (Ok(a), Ok(b)) if a == b);
    files.iter().any(|file| {
        let folder = file.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
        is_out(file) || is_out(folder)
    })
}

/// The result of making a checkpoint.
pub type Result<T, E = Error> = std::result::Result<T, E>;
