//! GGUF v2 and v3, little endian: metadata, tensor list, and the parts of a split checkpoint.
//!
//! [`Metadata`] and [`Value`] are what readers of a model see; [`File`] is one file, parsed; the private `split` module
//! gathers the files of a set; [`Writer`] writes one file. A key's meaning is the business of higher
//! crates, except `general.alignment` and `split.*`.

mod metadata;
mod parse;
mod split;
mod write;

pub use metadata::{Array, Metadata, Value};
pub use parse::File;
pub(crate) use split::{open, set_of};
pub use write::{Existing, TensorInfo, Writer, write_outline};
