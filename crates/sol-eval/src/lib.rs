//! Benchmarks, as lm-evaluation-harness (928e8bb) defines them: the same requests to the character, the same figures for the
//! same answers.
//!
//! Read in this order: [`document`] (what crosses every border of this crate: a document with its question, a model's answer, the
//! figures it earns), [`task`] (a benchmark as data: where its rows are, how a row becomes a prompt, what is measured), [`data`]
//! (rows from a folder or from the hub), [`prompt`] (rows to documents), [`model`] (who answers), [`log`] (answers on disk),
//! [`metrics`] (answers to figures), [`results`] (figures to tables), [`samples`] (every document on disk), [`run`] (a task from
//! rows to figures), [`suite`] (a published table and its settings), [`report`] (finished runs: shown, compared). [`sandbox`] runs
//! programs that a model wrote.
//!
//! This crate knows no terminal.

pub mod data;
pub mod document;
mod error;
mod hash;
pub mod log;
pub mod metrics;
pub mod model;
pub mod prompt;
pub mod python;
pub mod report;
pub mod results;
pub mod run;
pub mod samples;
pub mod sandbox;
pub mod suite;
pub mod task;

pub use error::Error;

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
