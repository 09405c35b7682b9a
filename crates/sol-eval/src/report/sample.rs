//! What a model said to one document and what that earned, read from a file of samples a line at a time.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::run::parse;
use crate::{Error, Result};

/// One document's line in a file of samples.
#[derive(Clone, Debug)]
pub struct Sample {
    /// 0-based.
    pub doc_id: u64,
    /// Hash of the document.
    pub doc_hash: Option<String>,
    /// Hash of the prompt.
    pub prompt_hash: Option<String>,
    /// The filter that this line is about; `none` where the task has none.
    pub filter: Arc<str>,
    /// What is right.
    pub target: Value,
    /// The prompt.
    pub context: String,
    /// The choices, where there were any.
    pub choices: Vec<Choice>,
    /// The place of the right one among them.
    pub gold: Option<usize>,
    /// The generated texts, where there were any.
    pub texts: Vec<String>,
    /// What the filter made of them.
    pub filtered: Vec<String>,
    /// What was measured, by the metric's name.
    pub metrics: Vec<(Arc<str>, Measure)>,
}

/// A choice and what the model thinks of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The continuation, without its delimiter.
    pub text: String,
    /// Natural log-likelihood; `None` of something that is no number.
    pub log_likelihood: Option<f64>,
    /// Whether greedy decoding would say just that.
    pub greedy: bool,
}

/// A value that a document earned, maybe of several parts that are averaged together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measure {
    /// The sum over the parts.
    pub sum: f64,
    /// How many; 1 where there are none.
    pub parts: usize,
}

/// The samples of a task, in their file's order. A document is there once for each filter.
pub struct Samples {
    path: PathBuf,
    reader: BufReader<File>,
    bytes: Vec<u8>,
    line: usize,
    filters: Vec<Arc<str>>,
    metrics: Vec<Arc<str>>,
    seen: HashMap<u64, usize>,
    named: HashSet<(u64, Arc<str>)>,
}

#[derive(Deserialize)]
struct Line {
    doc_id: u64,
    // Named so that it is skipped and not taken for a metric.
    #[serde(rename = "doc")]
    _doc: Option<IgnoredAny>,
    #[serde(rename = "target_hash")]
    _target_hash: Option<IgnoredAny>,
    #[serde(default)]
    target: Value,
    #[serde(default)]
    arguments: Value,
    #[serde(default)]
    resps: Value,
    #[serde(default)]
    filtered_resps: Value,
    doc_hash: Option<String>,
    prompt_hash: Option<String>,
    filter: Option<String>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Samples {
    pub(super) fn open(path: &Path, filters: Vec<Arc<str>>, metrics: Vec<Arc<str>>) -> Result<Self> {
        let file = File::open(path).map_err(|source| Error::Io { path: path.into(), source })?;
        let (seen, named) = Default::default();
        Ok(Self { path: path.into(), reader: BufReader::new(file), bytes: Vec::new(), line: 0, filters, metrics, seen, named })
    }

    fn broken(&self, problem: String) -> Error {
        Error::Data { file: self.path.clone(), line: Some(self.line), problem }
    }

    fn read(&mut self) -> Result<Option<Sample>> {
        loop {
            self.bytes.clear();
            let read = self.reader.read_until(b'\n', &mut self.bytes);
            self.line += 1;
            match read.map_err(|source| Error::Io { path: self.path.clone(), source })? {
                0 => return Ok(None),
                _ if self.bytes.trim_ascii().is_empty() => continue,
                _ => return self.sample().map(Some),
            }
        }
    }

    fn sample(&mut self) -> Result<Sample> {
        let text = std::str::from_utf8(&self.bytes).map_err(|_| self.broken("is no UTF-8".into()))?;
        let line: Line = parse(text).map_err(|e| self.broken(format!("is no sample: {e}")))?;
        let filter = self.filter(&line)?;
        let metrics = self.measures(&line.rest);
        let arguments = arguments(&line.arguments);
        let context = arguments.first().map(|(context, _)| context.clone()).unwrap_or_default();
        let mut choices = choices(&arguments, &line.resps);
        let texts = if choices.is_empty() { flat(&line.resps) } else { Vec::new() };
        let filtered = if choices.is_empty() { flat(&line.filtered_resps) } else { Vec::new() };
        let gold = gold(&choices, &line.target, &metrics);
        for choice in &mut choices {
            if let Some(text) = choice.text.strip_prefix(' ') {
                choice.text = text.to_owned();
            }
        }
        let Line { doc_id, doc_hash, prompt_hash, target, .. } = line;
        Ok(Sample { doc_id, doc_hash, prompt_hash, filter, target, context, choices, gold, texts, filtered, metrics })
    }

    /// The line's filter. Older harnesses do not name it: a document's first line is then about the task's first filter, and so on.
    fn filter(&mut self, line: &Line) -> Result<Arc<str>> {
        let times = self.seen.entry(line.doc_id).or_default();
        let unnamed = || self.filters.get(*times).cloned().or_else(|| (*times == 0).then(|| "none".into()));
        let filter = line.filter.as_deref().map(Arc::from).or_else(unnamed);
        *times += 1;
        let once = filter.filter(|filter: &Arc<str>| self.named.insert((line.doc_id, filter.clone())));
        once.ok_or_else(|| {
            let problem = format!("document {} is here again; does the file hold more than one run?", line.doc_id);
            self.broken(problem)
        })
    }

    /// The metrics of the results, or else all that looks like one.
    fn measures(&self, rest: &Map<String, Value>) -> Vec<(Arc<str>, Measure)> {
        let names: Vec<Arc<str>> = match self.metrics.as_slice() {
            [] => rest.keys().map(|name| name.as_str().into()).collect(),
            names => names.to_vec(),
        };
        let named = |name: Arc<str>| {
            let value = rest.get(&*name)?;
            // Perplexities are logged as a log-likelihood and its words or bytes.
            let units = value.as_array().is_some_and(|parts| parts.len() == 2 && parts.iter().all(Value::is_number));
            let shown = if units { format!("log-likelihood of {name}").into() } else { name };
            Some((shown, measure(value)?))
        };
        names.into_iter().filter_map(named).collect()
    }
}

impl Iterator for Samples {
    type Item = Result<Sample>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

fn measure(value: &Value) -> Option<Measure> {
    let number = |value: &Value| value.as_f64().or_else(|| value.as_bool().map(|b| f64::from(u8::from(b))));
    match value {
        Value::Array(parts) if parts.iter().all(Value::is_boolean) && !parts.is_empty() => {
            Some(Measure { sum: parts.iter().filter_map(number).sum(), parts: parts.len() })
        }
        Value::Array(parts) if parts.len() == 2 && parts.iter().all(Value::is_number) => {
            let (sum, units) = (parts[0].as_f64()?, parts[1].as_u64().or_else(|| Some(parts[1].as_f64()? as u64))?);
            (units > 0).then_some(Measure { sum, parts: units as usize })
        }
        value => number(value).filter(|v| v.is_finite()).map(|sum| Measure { sum, parts: 1 }),
    }
}

/// The requests' two arguments: lists, or the harness's objects `{"gen_args_0": {"arg_0": …, "arg_1": …}}`. The second is a
/// continuation or the settings of a generation.
fn arguments(value: &Value) -> Vec<(String, Value)> {
    let items = |value: &Value| -> Vec<Value> {
        match value {
            Value::Array(items) => items.clone(),
            Value::Object(items) => items.values().cloned().collect(),
            Value::Null => Vec::new(),
            single => vec![single.clone()],
        }
    };
    let pair = |request: Value| {
        let mut parts = items(&request).into_iter();
        (text(&parts.next().unwrap_or_default()), parts.next().unwrap_or_default())
    };
    items(value).into_iter().map(pair).collect()
}

fn choices(arguments: &[(String, Value)], resps: &Value) -> Vec<Choice> {
    let Some(resps) = resps.as_array().filter(|resps| resps.len() == arguments.len()) else { return Vec::new() };
    // Tasks like WinoGrande vary what comes before, not the continuation.
    let same = arguments.len() > 1 && arguments.iter().all(|(_, continuation)| *continuation == arguments[0].1);
    let choice = |((context, continuation), resp): (&(String, Value), &Value)| {
        let continuation = continuation.as_str()?;
        let pair = resp.get(0)?.as_array().or_else(|| resp.as_array())?;
        let [log_likelihood, greedy] = pair.as_slice() else { return None };
        let greedy = greedy.as_bool().or_else(|| Some(greedy.as_str()? == "True"))?;
        let log_likelihood = log_likelihood.as_f64().or_else(|| log_likelihood.as_str()?.parse().ok());
        let text = if same { format!("{}{continuation}", tail(context, 80)) } else { continuation.to_owned() };
        Some(Choice { text, log_likelihood, greedy })
    };
    arguments.iter().zip(resps).map(choice).collect::<Option<_>>().unwrap_or_default()
}

/// A target is the place of a choice or its text. A number in quotes can be either: then the accuracy tells.
fn gold(choices: &[Choice], target: &Value, metrics: &[(Arc<str>, Measure)]) -> Option<usize> {
    let place = |index: u64| usize::try_from(index).ok().filter(|index| *index < choices.len());
    let Some(target) = target.as_str() else { return target.as_u64().and_then(place) };
    let by_text = choices.iter().position(|c| c.text == target || c.text.strip_prefix(' ') == Some(target));
    let by_place = target.parse().ok().and_then(place);
    if let (Some(text), Some(place)) = (by_text, by_place)
        && text != place
        && let Some((_, acc)) = metrics.iter().find(|(name, _)| &**name == "acc")
    {
        let right = best(choices.iter().map(|c| c.log_likelihood)) == Some(text);
        return Some(if right == (acc.sum == 1.0) { text } else { place });
    }
    by_text.or(by_place)
}

/// The place of the first largest.
pub(super) fn best(values: impl Iterator<Item = Option<f64>>) -> Option<usize> {
    let values = values.enumerate().filter_map(|(i, v)| Some((i, v?)));
    values
        .fold(None, |best: Option<(usize, f64)>, (i, v)| if best.is_some_and(|b| b.1 >= v) { best } else { Some((i, v)) })
        .map(|b| b.0)
}

/// The texts in nested lists.
fn flat(value: &Value) -> Vec<String> {
    match value {
        Value::Array(items) => items.iter().flat_map(flat).collect(),
        Value::Null => Vec::new(),
        single => vec![text(single)],
    }
}

/// A text as it is, anything else as JSON.
pub(super) fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The last characters of a text.
pub(super) fn tail(text: &str, characters: usize) -> &str {
    text.char_indices().rev().nth(characters.saturating_sub(1)).map_or(text, |(at, _)| &text[at..])
}

/// The first characters of a text.
pub(super) fn head(text: &str, characters: usize) -> &str {
    text.char_indices().nth(characters).map_or(text, |(at, _)| &text[..at])
}

/// Where the question begins that a prompt ends with: after the blank line that sets it off from the examples before it.
pub(super) fn question(context: &str, n_shot: usize) -> usize {
    const SHORT: usize = 30;
    if n_shot == 0 {
        return 0;
    }
    let breaks = context.rmatch_indices("\n\n").map(|(at, _)| at + 2);
    breaks.into_iter().find(|at| context[*at..].trim().len() >= SHORT).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn choices_of(texts: &[&str], scores: &[f64]) -> Vec<Choice> {
        texts.iter().zip(scores).map(|(t, s)| Choice { text: (*t).into(), log_likelihood: Some(*s), greedy: false }).collect()
    }

    #[test]
    fn a_target_is_a_place_or_a_text() {
        let letters = choices_of(&[" A", " B"], &[-1.0, -2.0]);
        assert_eq!(gold(&letters, &json!(1), &[]), Some(1));
        assert_eq!(gold(&letters, &json!("1"), &[]), Some(1));
        assert_eq!(gold(&letters, &json!("B"), &[]), Some(1));
        assert_eq!(gold(&letters, &json!(2), &[]), None);
        // "1" is the text of the first and the place of the second; the first is likelier.
        let numbers = choices_of(&[" 1", " 2"], &[-1.0, -2.0]);
        let acc = |sum| [(Arc::from("acc"), Measure { sum, parts: 1 })];
        assert_eq!(gold(&numbers, &json!("1"), &acc(1.0)), Some(0));
        assert_eq!(gold(&numbers, &json!("1"), &acc(0.0)), Some(1));
    }

    #[test]
    fn requests_of_the_harness_and_plain_ones() {
        let plain = json!([["q", " A"], ["q", " B"]]);
        let theirs = json!({"gen_args_0": {"arg_0": "q", "arg_1": " A"}, "gen_args_1": {"arg_0": "q", "arg_1": " B"}});
        assert_eq!(arguments(&plain), arguments(&theirs));
        let numbers = choices(&arguments(&plain), &json!([[[-1.5, true]], [[-2.0, false]]]));
        let texts = choices(&arguments(&plain), &json!([[["-1.5", "True"]], [["-2.0", "False"]]]));
        let filtered = choices(&arguments(&plain), &json!([[-1.5, true], [-2.0, false]]));
        assert!(numbers.len() == 2 && numbers == texts && numbers == filtered, "{numbers:?} {texts:?}");
        let settings = json!([["q", {"until": ["\n"]}]]);
        assert!(choices(&arguments(&settings), &json!([["an answer"]])).is_empty());
        assert_eq!(flat(&json!([["an answer"]])), ["an answer"]);
    }

    #[test]
    fn the_question_is_what_follows_the_examples() {
        let context = "Q: one plus one is what?\nA: 2\n\nQ: a long question with two lines\n\nA:";
        assert_eq!(&context[question(context, 1)..], "Q: a long question with two lines\n\nA:");
        assert_eq!(question(context, 0), 0);
        assert_eq!((tail("añb", 2), tail("ab", 9), tail("ab", 1), head("añb", 2)), ("ñb", "ab", "b", "añ"));
    }
}
