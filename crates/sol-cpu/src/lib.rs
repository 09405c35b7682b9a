//! The CPU: kernels, and the [`Backend`](sol_compute::Backend) made of them.
//!
//! [`Cpu`] ties them together. `matmul` multiplies activations by weight matrices of every block format; `attention` reads
//! the paged `cache` (`q8`: in 8 bits) with the loops of `tile`; `ops` and `math` are the small operations between; `experts` routes; `pool` runs a function on a fixed
//! set of threads; `fetch` asks for memory ahead of its use. A kernel is chosen at run time by what the machine can do and stands beside a portable twin.
//!
//! **Invariants.** A row's result has one order of summation, whatever the batch and the number of threads. Nothing is
//! allocated per token once buffers have grown. This crate knows no architecture and no file.

mod attention;
mod backend;
mod cache;
mod experts;
mod fetch;
mod math;
pub mod matmul;
mod ops;
pub mod pool;
mod q8;
mod reading;
mod shared;
mod tensor;
mod tile;

pub use backend::{Cpu, Observer};
pub use cache::Cache;
pub use tensor::Tensor;
