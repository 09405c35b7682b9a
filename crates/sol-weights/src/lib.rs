//! Checkpoint files, read where they lie: GGUF and safetensors, memory mapped, with every block format decoded exactly.
//!
//! - [`Checkpoint`] opens a file or a directory and lists its [`Tensor`]s and [`Metadata`]. Only headers are read: opening
//!   44 GB takes milliseconds and no heap in proportion to the data.
//! - [`DType`] names the element and block formats and their sizes; [`dequantize`] decodes any of them, bit for bit as the
//!   `gguf` Python package does; [`quantize`] encodes floats in any of them, with the least squared error that it finds.
//! - [`gguf`] and [`safetensors`] are the two file formats; [`safetensors::Writer`] and [`gguf::Writer`] write
//!   a file as its tensors come, whole or not at all.
//! - [`Bytes`] is a cheap view of a mapped file or of owned memory.
//!
//! Files come from strangers: whatever a header claims is checked against the file before it is believed, and every
//! refusal is an [`Error`] that names the file, the place and a way out.
//!
//! A file can change while it is mapped: [`Checkpoint::unchanged`] asks before a use, [`Checkpoint::intact`] after it.
//!
//! This crate must not know what a model is: no architecture, no tensor name, no hyper-parameter has a meaning here.

mod bytes;
mod checkpoint;
mod dequantize;
mod dtype;
mod error;
pub mod gguf;
#[cfg_attr(not(target_os = "linux"), path = "unguarded.rs")]
mod guard;
mod hf;
mod mapping;
mod quantize;
pub mod safetensors;
mod tensor;
mod unfinished;

pub use bytes::Bytes;
pub use checkpoint::{Checkpoint, Format, Metadata};
pub use dequantize::dequantize;
pub use dtype::DType;
pub use error::Error;
pub use hf::HfMetadata;
pub use quantize::quantize;
pub use tensor::Tensor;
pub use unfinished::free_space;

/// The result of reading or writing a checkpoint.
pub type Result<T, E = Error> = std::result::Result<T, E>;
