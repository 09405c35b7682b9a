//! What a run found, as data: reports are made of it, and `sol eval compare` reads it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// An aggregated figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Aggregate {
    /// Name of the filter; `none` where there was none.
    pub filter: String,
    /// The metric's name.
    pub metric: String,
    /// Its value over all documents.
    pub value: f64,
    /// Its standard error; `None` is the harness's "N/A".
    pub stderr: Option<f64>,
    /// Whether more is better.
    pub higher_is_better: bool,
}

/// A leaf task's figures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskResult {
    /// The harness's name.
    pub task: String,
    /// How tables show it.
    pub alias: String,
    /// Version of the task's definition.
    pub version: f64,
    /// Examples in front of each question.
    pub n_shot: usize,
    /// Documents there are.
    pub original: usize,
    /// Documents that were asked.
    pub effective: usize,
    /// Prompts that did not fit the model's context and lost their beginning.
    pub truncated: usize,
    /// The figures, in the task's order.
    pub figures: Vec<Aggregate>,
    /// The task's definition, as it was run.
    pub config: Map<String, Value>,
    /// sha256 over the samples' hashes, as the harness logs it.
    pub hash: Option<String>,
}

/// A group's figures, and whose they are made of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GroupResult {
    /// The harness's name.
    pub group: String,
    /// How tables show it.
    pub alias: String,
    /// Version of the group's definition.
    pub version: Option<f64>,
    /// Names of its groups and tasks.
    pub members: Vec<String>,
    /// Size-weighted means; empty where the harness aggregates nothing.
    pub figures: Vec<Aggregate>,
    /// Plain means over all leaf tasks, which the harness does not print.
    pub macro_means: Vec<Aggregate>,
}

/// What was computed and what it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Tokens that went through the decoder.
    pub computed_tokens: u64,
    /// Tokens that would have gone through it if no request shared anything.
    pub naive_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Requests, in the harness's count: one a continuation.
    pub requests: u64,
    /// Requests that an earlier run had answered.
    pub resumed: u64,
    /// Wall time, seconds.
    pub seconds: f64,
}

/// A run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunResult {
    /// Leaf tasks in the harness's order.
    pub tasks: Vec<TaskResult>,
    /// Groups, outermost first, in the harness's order.
    pub groups: Vec<GroupResult>,
    /// What it took.
    pub cost: Cost,
    /// Settings: model, its fingerprint, limits, seeds, template, versions of this program; in the order they are written.
    pub settings: Map<String, Value>,
}
