//! What Python does, where results depend on it.

pub mod json;
mod literal;
mod random;
pub mod text;

pub use literal::literal_eval;
pub use random::Random;
