//! A run as one self-contained page.

use std::collections::HashSet;
use std::io::{self, Write};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use minijinja::Environment;
use minijinja::value::Serde;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::Run;
use super::sample::{Sample, head, question, tail, text};
use super::view;
use crate::{Error, Result};

const TEMPLATE: &str = include_str!("report.html");
/// Where the samples go in the template. Rendered text has no `<` of its own and so never looks like it.
const ITEMS: &str = "<!--items-->";

/// How much of the samples a page holds.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of all items together, shared out among the tasks; each keeps its first ones.
    pub bytes: usize,
    /// Characters of a prompt's end.
    pub context: usize,
    /// Characters of an answer, and of each choice.
    pub answer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 40 << 20, context: 2_000, answer: 8_000 }
    }
}

/// Writes the page of a run: what was run, the suite's table, the results, a chart of each group, and the single items. It needs
/// nothing from outside and takes nothing that a model or data set said for markup.
pub fn html(run: &Run, out: &mut impl Write) -> Result<()> {
    html_within(run, Limits::default(), out)
}

/// [`html`] with other limits.
pub fn html_within(run: &Run, limits: Limits, out: &mut impl Write) -> Result<()> {
    let tasks: Vec<Sizes> = run.tasks().map(|task| Sizes::of(run, task, limits)).collect::<Result<_>>()?;
    let budget = budget(tasks.iter().map(|t| t.sizes.iter().sum()).collect(), limits.bytes);
    let meta: Vec<Value> = tasks.iter().map(|task| task.meta(budget)).collect();
    let cut = meta.iter().any(|task| task["shown"] != task["total"]);
    let page = render(run, &meta, cut, limits).map_err(|e| Error::Report(io::Error::other(e)))?;
    let (before, after) = page.split_once(ITEMS).unwrap_or((&page, ""));
    let mut write = |text: &str| out.write_all(text.as_bytes()).map_err(Error::Report);
    write(before)?;
    for (i, task) in tasks.iter().enumerate() {
        write(&format!("<script type=\"application/json\" id=\"items-{i}\">["))?;
        let mut first = true;
        let shown = task.shown(budget);
        records(run, &task.name, limits, |doc_id, record| {
            if !shown.contains(&doc_id) {
                return Ok(());
            }
            let comma = if std::mem::take(&mut first) { "\n" } else { ",\n" };
            write(comma)?;
            write(record)
        })?;
        write("]</script>\n")?;
    }
    write(after)
}

fn render(run: &Run, meta: &[Value], cut: bool, limits: Limits) -> Result<String, minijinja::Error> {
    let mut environment = Environment::new();
    // The name's end turns escaping on.
    environment.add_template("report.html", TEMPLATE)?;
    let script =
        TEMPLATE.split_once("<script>").and_then(|(_, rest)| rest.split_once("</script>")).map_or("", |(script, _)| script);
    environment.get_template("report.html")?.render(Serde(json!({
        "model": run.model(),
        "date": view::date(run),
        "facts": view::facts(run),
        "suite": view::suite(run),
        "rows": view::rows(run),
        "charts": view::charts(run),
        "items": !meta.is_empty(),
        "tasks": meta,
        "meta": embedded(&json!({ "tasks": meta })),
        "cut": cut,
        "megabytes": limits.bytes >> 20,
        "script_hash": STANDARD.encode(Sha256::digest(script)),
    })))
}

/// JSON that can stand in a script element: nothing in it ends the element or begins a comment.
fn embedded(value: &Value) -> String {
    value.to_string().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

/// What a task's records take, document by document, and what was measured.
struct Sizes {
    name: String,
    documents: Vec<u64>,
    sizes: Vec<usize>,
    metrics: Vec<Metric>,
}

struct Metric {
    metric: Arc<str>,
    filter: Arc<str>,
    binary: bool,
}

impl Sizes {
    fn of(run: &Run, task: &str, limits: Limits) -> Result<Self> {
        let mut sizes = Self { name: task.into(), documents: Vec::new(), sizes: Vec::new(), metrics: Vec::new() };
        let mut places = std::collections::HashMap::new();
        each(run, task, limits, |sample, record| {
            let place = *places.entry(sample.doc_id).or_insert(sizes.documents.len());
            if place == sizes.documents.len() {
                sizes.documents.push(sample.doc_id);
                sizes.sizes.push(0);
            }
            sizes.sizes[place] += record.len() + 2;
            for (metric, measure) in &sample.metrics {
                let binary = measure.parts == 1 && [0.0, 1.0].contains(&measure.sum);
                match sizes.metrics.iter_mut().find(|m| m.metric == *metric && m.filter == sample.filter) {
                    Some(known) => known.binary &= binary,
                    None => sizes.metrics.push(Metric { metric: metric.clone(), filter: sample.filter.clone(), binary }),
                }
            }
            Ok(())
        })?;
        Ok(sizes)
    }

    /// The first documents that fit.
    fn shown(&self, budget: usize) -> HashSet<u64> {
        let mut left = budget;
        let fits = |size: &usize| left.checked_sub(*size).map(|rest| left = rest).is_some();
        let count = self.sizes.iter().copied().take_while(fits).count();
        self.documents[..count].iter().copied().collect()
    }

    fn meta(&self, budget: usize) -> Value {
        let metrics = self.metrics.iter().map(|m| json!({ "metric": &*m.metric, "filter": &*m.filter, "binary": m.binary }));
        json!({
            "name": self.name,
            "total": self.documents.len(),
            "shown": self.shown(budget).len(),
            "metrics": metrics.collect::<Vec<_>>(),
        })
    }
}

/// The largest share that each task can have so that all keep within a limit; what a small one leaves goes to the others.
fn budget(mut sizes: Vec<usize>, limit: usize) -> usize {
    sizes.sort_unstable();
    let (mut left, mut tasks) = (limit, sizes.len());
    for size in sizes {
        let share = left / tasks;
        if size > share {
            return share;
        }
        (left, tasks) = (left - size, tasks - 1);
    }
    usize::MAX
}

fn records(run: &Run, task: &str, limits: Limits, mut take: impl FnMut(u64, &str) -> Result<()>) -> Result<()> {
    each(run, task, limits, |sample, record| take(sample.doc_id, record))
}

/// Each sample with its record: whole for a document's first, for its further filters only what they made of it.
fn each(run: &Run, task: &str, limits: Limits, mut take: impl FnMut(&Sample, &str) -> Result<()>) -> Result<()> {
    let n_shot = run.entry("n-shot", task).and_then(Value::as_u64).unwrap_or(1) as usize;
    let mut seen = HashSet::new();
    for sample in run.samples(task)?.into_iter().flatten() {
        let sample = sample?;
        let record = record(&sample, n_shot, limits, seen.insert(sample.doc_id));
        take(&sample, &embedded(&Value::Object(record)))?;
    }
    Ok(())
}

/// `i` document, `f` filter, `x` what it made of the answer, `m` metrics (`[sum, parts]` of parts); and of the whole ones `q`
/// question, `p` the prompt before it, `n` characters of the whole prompt, `c` choices, `g` the right one, `t` target, `a` answers.
fn record(sample: &Sample, n_shot: usize, limits: Limits, whole: bool) -> Map<String, Value> {
    let cut = |text: &String| match head(text, limits.answer) {
        part if part.len() < text.len() => format!("{part}… [cut]"),
        whole => whole.to_owned(),
    };
    let metrics = sample.metrics.iter().map(|(name, m)| {
        let value = if m.parts == 1 { json!(m.sum) } else { json!([m.sum, m.parts]) };
        (name.to_string(), value)
    });
    let mut record = Map::new();
    record.insert("i".into(), sample.doc_id.into());
    record.insert("f".into(), (*sample.filter).into());
    record.insert("m".into(), Value::Object(metrics.collect()));
    if sample.filtered != sample.texts {
        record.insert("x".into(), sample.filtered.iter().map(cut).collect());
    }
    if whole {
        let shown = tail(&sample.context, limits.context);
        let hidden = sample.context.len() - shown.len();
        let start = question(&sample.context, n_shot).saturating_sub(hidden);
        record.insert("q".into(), shown[start..].into());
        record.insert("p".into(), shown[..start].into());
        record.insert("n".into(), sample.context.chars().count().into());
        record.insert("t".into(), cut(&text(&sample.target)).into());
        if !sample.choices.is_empty() {
            let choices =
                sample.choices.iter().map(|c| json!([cut(&c.text), c.log_likelihood, c.greedy, c.text.chars().count()]));
            record.insert("c".into(), choices.collect());
            record.insert("g".into(), json!(sample.gold));
        }
        record.insert("a".into(), sample.texts.iter().take(5).map(cut).collect());
    }
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_tasks_leave_their_share_to_large_ones() {
        assert_eq!(budget(vec![10, 500, 300], 1000), usize::MAX);
        assert_eq!(budget(vec![10, 500, 300], 610), 300);
        assert_eq!(budget(vec![10, 500, 300], 310), 150);
        assert_eq!(budget(Vec::new(), 10), usize::MAX);
    }

    #[test]
    fn embedded_json_can_not_leave_its_element() {
        let text = embedded(&json!({ "</script>": "<!-- & -->" }));
        assert!(!text.contains(['<', '>', '&']), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), json!({ "</script>": "<!-- & -->" }));
    }
}
