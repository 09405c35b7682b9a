//! Model-written code, run apart.
