//! safetensors: an eight-byte length, a JSON header, the data. One file, several with an index, and a writer.
//!
//! Our own reader rather than the `safetensors` crate, so that every refusal names the file, the tensor and a way out,
//! and so that tensors of both file formats are views of the same kind. Tests compare it with that crate.

mod header;
mod index;
mod write;

pub use header::{parse, read};
pub use index::Index;
pub(crate) use index::{index_beside, open_index};
pub use write::{Writer, write, write_outline};
