//! A finished run's results and where its samples are.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::sample::Samples;
use crate::{Error, Result};

/// A finished run.
#[derive(Clone, Debug)]
pub struct Run {
    file: PathBuf,
    results: Map<String, Value>,
    samples: Vec<(String, PathBuf)>,
}

/// A metric of a task, through one of its filters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) metric: Arc<str>,
    pub(super) filter: Arc<str>,
}

impl Run {
    /// Opens a folder that a run was written to (its newest results, if it has several), or a results file with the samples beside
    /// it.
    pub fn open(path: &Path) -> Result<Self> {
        let file = if path.is_dir() { newest(path)? } else { path.to_owned() };
        let bytes = fs::read(&file).map_err(|source| Error::Io { path: file.clone(), source })?;
        let broken = |line, problem: String| Error::Data { file: file.clone(), line, problem };
        let text = String::from_utf8(bytes).map_err(|_| broken(None, "is no UTF-8".into()))?;
        let results: Value = match parse(&text) {
            Ok(results) => results,
            Err(e) => return Err(broken(Some(e.line()), format!("is no JSON: {e}; is the file whole?"))),
        };
        let Value::Object(results) = results else { return Err(broken(None, "is no results file: not an object".into())) };
        if !results.get("results").is_some_and(Value::is_object) {
            return Err(broken(None, "is no results file: it has no object `results`".into()));
        }
        let samples = samples(&file, &results)?;
        Ok(Self { file, results, samples })
    }

    /// The results file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// All that the results file says.
    pub fn results(&self) -> &Map<String, Value> {
        &self.results
    }

    /// Name of the model, or else of the folder.
    pub fn model(&self) -> String {
        let named = ["model_name", "model", "model_source"]
            .iter()
            .filter_map(|key| self.results.get(*key)?.as_str())
            .find(|name| !name.is_empty());
        let folder = || self.file.parent().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
        named.map(str::to_owned).or_else(folder).unwrap_or_else(|| "a model".into())
    }

    /// The tasks that have samples, in the results' order.
    pub fn tasks(&self) -> impl Iterator<Item = &str> {
        self.samples.iter().map(|(task, _)| task.as_str())
    }

    /// The samples of a task, from its file; `None` where there is none.
    pub fn samples(&self, task: &str) -> Result<Option<Samples>> {
        let Some((_, path)) = self.samples.iter().find(|(name, _)| name == task) else { return Ok(None) };
        let filters = self.results.get("configs").and_then(|c| c[task]["filter_list"].as_array());
        let filters = filters.into_iter().flatten().filter_map(|f| f["name"].as_str().map(Arc::from)).collect();
        let mut metrics: Vec<Arc<str>> = Vec::new();
        for key in self.keys("results", task) {
            if !metrics.contains(&key.metric) {
                metrics.push(key.metric);
            }
        }
        Samples::open(path, filters, metrics).map(Some)
    }

    /// `section[name]` of the results file.
    pub(super) fn entry(&self, section: &str, name: &str) -> Option<&Value> {
        self.results.get(section)?.get(name)
    }

    /// The metrics of a task or group, in the results' order.
    pub(super) fn keys(&self, section: &str, name: &str) -> Vec<Key> {
        let figures = self.entry(section, name).and_then(Value::as_object);
        let keys = figures.into_iter().flatten().filter(|(_, value)| value.is_number()).filter_map(|(key, _)| {
            let (metric, filter) = key.split_once(',')?;
            (!metric.ends_with("_stderr")).then(|| Key { metric: metric.into(), filter: filter.into() })
        });
        keys.collect()
    }

    /// A figure of a task or group, with its standard error.
    pub(super) fn figure(&self, section: &str, name: &str, key: &Key) -> (Option<f64>, Option<f64>) {
        let of = |metric: String| self.entry(section, name)?.get(metric)?.as_f64();
        (of(format!("{},{}", key.metric, key.filter)), of(format!("{}_stderr,{}", key.metric, key.filter)))
    }

    /// Whether more of a metric is better, as far as the results say.
    pub(super) fn higher_is_better(&self, task: &str, metric: &str) -> Option<bool> {
        self.entry("higher_is_better", task)?.get(metric)?.as_bool()
    }

    /// The groups, with the leaf tasks below each; and whether a group is in no other.
    pub(super) fn groups(&self) -> Vec<(String, Vec<String>, bool)> {
        let Some(groups) = self.results.get("group_subtasks").and_then(Value::as_object) else { return Vec::new() };
        let children = |name: &str| -> Vec<&str> {
            groups.get(name).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
        };
        let mut all = Vec::new();
        for name in groups.keys() {
            let (mut leaves, mut seen) = (Vec::new(), vec![name.as_str()]);
            let mut queue: Vec<&str> = children(name);
            while !queue.is_empty() {
                let child = queue.remove(0);
                if seen.contains(&child) {
                    continue;
                }
                seen.push(child);
                match children(child) {
                    below if below.is_empty() => leaves.push(child.to_owned()),
                    below => queue.extend(below),
                }
            }
            let outermost = !groups.keys().any(|other| other != name && children(other).contains(&name.as_str()));
            if !leaves.is_empty() {
                all.push((name.clone(), leaves, outermost));
            }
        }
        all
    }
}

/// Parses JSON, also with the `NaN` and `Infinity` that Python writes: they become `null`.
pub(super) fn parse<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, serde_json::Error> {
    serde_json::from_str(text).or_else(|e| match without_nan(text) {
        Cow::Borrowed(_) => Err(e),
        Cow::Owned(text) => serde_json::from_str(&text),
    })
}

fn without_nan(text: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let (mut rest, mut quoted) = (text, false);
    while let Some(at) = rest.find(['"', '\\', 'N', 'I', '-']) {
        let (before, token) = rest.split_at(at);
        out.push_str(before);
        let number = ["NaN", "-Infinity", "Infinity"].iter().find(|n| !quoted && token.starts_with(**n));
        let (length, written) = match (number, token.as_bytes()[0]) {
            (Some(number), _) => (number.len(), "null"),
            (None, b'\\') => {
                let length = 1 + token.chars().nth(1).map_or(0, char::len_utf8);
                (length, &token[..length])
            }
            (None, byte) => {
                quoted ^= byte == b'"';
                (1, &token[..1])
            }
        };
        out.push_str(written);
        rest = &token[length..];
    }
    out.push_str(rest);
    if out == text { Cow::Borrowed(text) } else { Cow::Owned(out) }
}

/// The results file of a folder: `results.json`, or else the newest `results_<time>.json`, in the folder or the only one below it
/// that has any.
fn newest(folder: &Path) -> Result<PathBuf> {
    if let Some(file) = newest_in(folder)? {
        return Ok(file);
    }
    let mut below = Vec::new();
    for path in entries(folder)? {
        if path.is_dir() {
            below.extend(newest_in(&path)?);
        }
    }
    let problem = match below.as_slice() {
        [] => "holds no results.json and no results_<time>.json; was the run finished, with an output folder?".to_owned(),
        [_] => return Ok(below.remove(0)),
        many => format!("holds the results of {} models; name one of its folders", many.len()),
    };
    Err(Error::Data { file: folder.into(), line: None, problem })
}

fn newest_in(folder: &Path) -> Result<Option<PathBuf>> {
    let plain = folder.join("results.json");
    if plain.is_file() {
        return Ok(Some(plain));
    }
    let timed = |path: &PathBuf| name(path).is_some_and(|n| n.starts_with("results_") && n.ends_with(".json"));
    Ok(entries(folder)?.into_iter().filter(timed).max())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let io = |source| Error::Io { path: folder.into(), source };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        paths.push(entry.map_err(io)?.path());
    }
    paths.sort();
    Ok(paths)
}

fn name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// The files of samples that were written with a results file: `samples_<task>` and the same end as its name.
fn samples(file: &Path, results: &Map<String, Value>) -> Result<Vec<(String, PathBuf)>> {
    let time = name(file).and_then(|n| n.strip_prefix("results")?.strip_suffix(".json")).unwrap_or_default();
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let end = format!("{time}.jsonl");
    let mut found: Vec<(String, PathBuf)> = Vec::new();
    for path in entries(folder)? {
        let task = name(&path).and_then(|n| n.strip_prefix("samples_")?.strip_suffix(&end)).map(str::to_owned);
        // Without a time, files of other runs, with theirs, would look like tasks.
        let known = |task: &String| ["results", "configs"].iter().any(|s| results.get(*s).is_some_and(|s| s.get(task).is_some()));
        if let Some(task) = task.filter(known) {
            found.push((task, path));
        }
    }
    let place = |task: &str| results.get("results").and_then(|r| r.as_object()?.keys().position(|name| name == task));
    found.sort_by_cached_key(|(task, _)| (place(task).unwrap_or(usize::MAX), task.clone()));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_json_does_not_have() {
        let value: Value = parse(r#"{"a": NaN, "b": [-Infinity, Infinity, -1], "NaN \" Infinity": "\\NaN"}"#).unwrap();
        assert_eq!(value.to_string(), r#"{"a":null,"b":[null,null,-1],"NaN \" Infinity":"\\NaN"}"#);
        assert!(parse::<Value>("{\"a\": nan}").is_err());
    }
}
