//! A benchmark as data.
