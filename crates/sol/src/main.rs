//! The `sol` binary.
fn main() {}
