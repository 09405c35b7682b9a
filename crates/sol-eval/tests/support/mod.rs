//! What the tests against lm-evaluation-harness share: its lines beside our documents and figures.

use serde_json::Value;
use sol_eval::document::{Document, Scored};
use sol_eval::prompt::request_line;
use sol_text::{ChatTemplate, Message, RenderOptions};

/// The template of the goldens.
pub(crate) fn chatml(messages: &[Message]) -> sol_eval::Result<String> {
    Ok(ChatTemplate::chatml().render(messages, &RenderOptions { add_generation_prompt: true, ..RenderOptions::default() })?)
}

/// What ends an answer in the goldens.
pub(crate) const EOS: &str = "<|im_end|>";

/// How a request differs from the harness's.
pub(crate) fn request_problems(document: &Document, expected: &Value) -> Vec<String> {
    let ours: Value = serde_json::from_str(&request_line(document)).unwrap();
    let ours = ours.as_object().unwrap();
    let keys = ["task", "doc_id", "request_type", "context", "continuations", "gen_kwargs", "target", "prompt_hash"];
    let different = |key: &&str| ours.get(*key) != expected.get(*key);
    let problem = |key: &str| {
        let (ours, expected) = (ours.get(key).unwrap_or(&Value::Null), &expected[key]);
        format!("{}, document {}: {key}\n  ours     {ours}\n  expected {expected}", document.task, document.doc_id)
    };
    keys.into_iter().filter(different).map(problem).collect()
}

/// How figures and filtered texts differ from the harness's.
pub(crate) fn figure_problems(document: &Document, scored: &Scored, expected: &Value) -> Vec<String> {
    let at = format!("{}, document {}", document.task, document.doc_id);
    let mut problems = Vec::new();
    let metrics = expected["metrics"].as_object().unwrap();
    let count: usize = metrics.values().map(|filter| filter.as_object().unwrap().len()).sum();
    if count != scored.figures.len() {
        problems.push(format!("{at}: {} figures, expected {count}", scored.figures.len()));
    }
    for figure in &scored.figures {
        let value = match &metrics[&figure.filter][&figure.metric] {
            Value::Array(flags) => Some(flags.iter().filter(|flag| **flag == true).count() as f64),
            Value::Bool(flag) => Some(f64::from(u8::from(*flag))),
            value => value.as_f64(),
        };
        if !value.is_some_and(|value| (value - figure.value).abs() < 1e-9) {
            problems.push(format!("{at}: {} of {} is {}, expected {value:?}", figure.metric, figure.filter, figure.value));
        }
    }
    for (filter, text) in &scored.filtered {
        let expected = expected["filtered"].get(filter);
        if expected.is_some_and(|expected| expected != text.as_str()) {
            problems.push(format!("{at}: {filter} gives {text:?}, expected {expected:?}"));
        }
    }
    problems
}
