//! What crosses every border of this crate: a document with its question, a model's answer, the figures it earns.

use std::sync::Arc;

use serde_json::{Map, Value};

/// A row of a benchmark, made into a question.
#[derive(Clone, Debug)]
pub struct Document {
    /// Name of the leaf task.
    pub task: Arc<str>,
    /// 0-based row of the evaluated split.
    pub doc_id: usize,
    /// The row, with the columns that the task derives.
    pub row: Arc<Value>,
    /// The prompt.
    pub context: String,
    /// What is asked about it.
    pub ask: Ask,
    /// What is right, as the harness logs it: a number or a text.
    pub target: Value,
}

/// What is asked about a context.
#[derive(Clone, Debug)]
pub enum Ask {
    /// The log-likelihood of each of these continuations (with their leading delimiter). `loglikelihood`.
    Choices(Vec<String>),
    /// A continuation. `generate_until`.
    Generate(GenKwargs),
}

/// How to generate, in the harness's words and their order: `until`, `max_gen_toks`, `do_sample`, `temperature`, `top_p`, ….
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenKwargs(pub Map<String, Value>);

/// A model's answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// To [`Ask::Choices`]: natural log-likelihood, and whether greedy decoding would say just that.
    Choices(Vec<(f64, bool)>),
    /// To [`Ask::Generate`]: the text up to the end of the answer.
    Text(String),
}

/// A figure that a document earned.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Name of the filter that the answer went through; `none` where there was none.
    pub filter: String,
    /// The metric's name.
    pub metric: String,
    /// How well.
    pub value: f64,
    /// Where a document has several parts that are averaged together: how many; `value` is their sum.
    pub parts: Option<usize>,
}

/// What a document earned and what was made of the answer on the way.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scored {
    /// What each filter made of the answer, by its name.
    pub filtered: Vec<(String, String)>,
    /// The figures.
    pub figures: Vec<Figure>,
}
