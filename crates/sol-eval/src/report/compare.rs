//! Two runs side by side: what changed between them, and whether by more than chance.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::Run;
use super::run::Key;
use super::sample::{Measure, Sample, head, question, tail, text};
use super::statistics::{Pair, Test, holm, summarize};
use crate::results::grid;
use crate::{Error, Result};

/// Characters of a question that a [`Change`] keeps.
const QUESTION: usize = 160;
/// Below this, a corrected p value is marked.
const SIGNIFICANT: f64 = 0.05;

/// What changed from run A to run B.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The models, and the results files.
    pub a: Side,
    /// B's.
    pub b: Side,
    /// What makes the comparison less than it seems.
    pub warnings: Vec<String>,
    /// How many documents were compared.
    pub tasks: Vec<Matched>,
    /// The figures: each task's, then each group's, then all together.
    pub differences: Vec<Difference>,
    /// The documents that earned something else.
    pub changes: Vec<Change>,
}

/// One of two runs.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    /// The model.
    pub model: String,
    /// The results file.
    pub file: String,
}

/// How many of a task's documents both runs have.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Matched {
    /// Which task.
    pub task: String,
    /// In both runs, and compared.
    pub both: usize,
    /// In A only.
    pub only_a: usize,
    /// In B only.
    pub only_b: usize,
    /// Of the same number in both, but not the same document: not compared.
    pub unlike: usize,
    /// Compared, though the prompts were not the same.
    pub other_prompt: usize,
}

/// What a figure is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// A task.
    Task,
    /// The documents of a group's tasks, pooled.
    Group,
    /// The documents of all tasks, pooled, each by its task's first metric; but of those only where that is right or wrong.
    All,
}

/// A figure of both runs over the documents that both have.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// What `name` is.
    pub scope: Scope,
    /// The task or group.
    pub name: String,
    /// Which metric.
    pub metric: String,
    /// Through which filter.
    pub filter: String,
    /// Whether more of it is better, if the results say.
    pub higher_is_better: Option<bool>,
    /// Documents.
    pub items: usize,
    /// A's mean.
    pub a: f64,
    /// B's mean.
    pub b: f64,
    /// B's less A's.
    pub difference: f64,
    /// Its standard error, by the paired differences; none of a single document.
    pub stderr: Option<f64>,
    /// Documents of which A's value is the higher.
    pub a_higher: usize,
    /// Documents of which B's value is the higher.
    pub b_higher: usize,
    /// The chance of a difference this large where there is none.
    pub p: f64,
    /// `p` with Holm's correction for the number of tasks' figures, or of groups' ones.
    pub p_holm: f64,
    /// Where `p` is from.
    pub test: Test,
    /// Whether the corrected p is below 0.05.
    pub significant: bool,
}

/// A document that earned something else.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// Which task.
    pub task: String,
    /// Which document.
    pub doc_id: u64,
    /// Which metric.
    pub metric: String,
    /// Through which filter.
    pub filter: String,
    /// What it earned in A; a share where it has parts.
    pub a: f64,
    /// And in B.
    pub b: f64,
    /// How its question begins, on one line.
    pub question: String,
}

/// What is kept of A's samples while B's are read.
struct Kept {
    doc_hash: Option<String>,
    prompt_hash: Option<String>,
    target: String,
    metrics: Vec<(Arc<str>, Measure)>,
}

/// Compares runs over the documents that both have samples of.
pub fn compare(a: &Run, b: &Run) -> Result<Comparison> {
    let side = |run: &Run| Side { model: run.model(), file: run.file().display().to_string() };
    let mut comparison = Comparison {
        a: side(a),
        b: side(b),
        warnings: Vec::new(),
        tasks: Vec::new(),
        differences: Vec::new(),
        changes: Vec::new(),
    };
    let mut pairs: Vec<(String, Key, Vec<Pair>)> = Vec::new();
    for task in a.tasks().filter(|task| b.tasks().any(|other| other == *task)) {
        let (matched, figures) = match_task(a, b, task, &mut comparison.changes)?;
        comparison.tasks.push(matched);
        pairs.extend(figures.into_iter().map(|(key, pairs)| (task.to_owned(), key, pairs)));
    }
    if comparison.tasks.is_empty() {
        let problem = format!("has samples of no task that {} has samples of; run both with --log-samples", a.file().display());
        return Err(Error::Data { file: b.file().into(), line: None, problem });
    }
    comparison.warnings = warnings(a, b, &comparison.tasks);
    comparison.differences = differences(a, b, &pairs);
    Ok(comparison)
}

type Figures = Vec<(Key, Vec<Pair>)>;

fn match_task(a: &Run, b: &Run, task: &str, changes: &mut Vec<Change>) -> Result<(Matched, Figures)> {
    let shots = |run: &Run| run.entry("n-shot", task).and_then(Value::as_u64).unwrap_or(1) as usize;
    let n_shot = shots(b);
    let mut kept: HashMap<(u64, Arc<str>), Kept> = HashMap::new();
    for sample in a.samples(task)?.into_iter().flatten() {
        let Sample { doc_id, filter, doc_hash, prompt_hash, target, metrics, .. } = sample?;
        kept.insert((doc_id, filter), Kept { doc_hash, prompt_hash, target: text(&target), metrics });
    }
    let of_a: HashSet<u64> = kept.keys().map(|(doc_id, _)| *doc_id).collect();
    let [mut of_b, mut both, mut unlike, mut other_prompt] = [const { Vec::<u64>::new() }; 4];
    let mut figures: Figures = Vec::new();
    for sample in b.samples(task)?.into_iter().flatten() {
        let sample = sample?;
        of_b.push(sample.doc_id);
        let Some(kept) = kept.get(&(sample.doc_id, sample.filter.clone())) else { continue };
        if !same_document(kept, &sample) {
            unlike.push(sample.doc_id);
            continue;
        }
        both.push(sample.doc_id);
        if kept.prompt_hash.is_some() && sample.prompt_hash.is_some() && kept.prompt_hash != sample.prompt_hash {
            other_prompt.push(sample.doc_id);
        }
        for (metric, of_b) in &sample.metrics {
            let Some((_, of_a)) = kept.metrics.iter().find(|(name, m)| name == metric && m.parts == of_b.parts) else { continue };
            let parts = of_b.parts as f64;
            let key = Key { metric: metric.clone(), filter: sample.filter.clone() };
            if of_a.sum != of_b.sum {
                changes.push(Change {
                    task: task.into(),
                    doc_id: sample.doc_id,
                    metric: metric.to_string(),
                    filter: sample.filter.to_string(),
                    a: of_a.sum / parts,
                    b: of_b.sum / parts,
                    question: short(&sample.context, n_shot),
                });
            }
            let pair = Pair { a: of_a.sum, b: of_b.sum, parts };
            match figures.iter_mut().find(|(known, _)| *known == key) {
                Some((_, pairs)) => pairs.push(pair),
                None => figures.push((key, vec![pair])),
            }
        }
    }
    let order = a.keys("results", task);
    figures.sort_by_key(|(key, _)| order.iter().position(|k| k == key).unwrap_or(usize::MAX));
    let set = |ids: Vec<u64>| ids.into_iter().collect::<HashSet<u64>>();
    let of_b = set(of_b);
    let matched = Matched {
        task: task.into(),
        both: set(both).len(),
        only_a: of_a.difference(&of_b).count(),
        only_b: of_b.difference(&of_a).count(),
        unlike: set(unlike).len(),
        other_prompt: set(other_prompt).len(),
    };
    Ok((matched, figures))
}

/// By the documents' hashes, or else by what is right.
fn same_document(kept: &Kept, sample: &Sample) -> bool {
    match (&kept.doc_hash, &sample.doc_hash) {
        (Some(a), Some(b)) => a == b,
        _ => kept.target == text(&sample.target),
    }
}

/// A question's beginning, on one line; of a prompt of which the question can not be told apart, its end.
fn short(context: &str, n_shot: usize) -> String {
    let question = &context[question(context, n_shot)..];
    let question = if question.len() == context.len() { tail(question, 4 * QUESTION) } else { question };
    let line = head(question, 8 * QUESTION).split_whitespace().collect::<Vec<_>>().join(" ");
    let cut = head(&line, QUESTION);
    if cut.len() < line.len() { format!("{cut}…") } else { line }
}

fn differences(a: &Run, b: &Run, pairs: &[(String, Key, Vec<Pair>)]) -> Vec<Difference> {
    let row = |scope, name: &str, key: &Key, higher_is_better, pairs: &[Pair]| {
        let s = summarize(pairs)?;
        Some(Difference {
            scope,
            name: name.into(),
            metric: key.metric.to_string(),
            filter: key.filter.to_string(),
            higher_is_better,
            items: s.items,
            a: s.a,
            b: s.b,
            difference: s.difference,
            stderr: s.stderr,
            a_higher: s.a_higher,
            b_higher: s.b_higher,
            p: s.p,
            p_holm: s.p,
            test: s.test,
            significant: false,
        })
    };
    let better = |task: &str, key: &Key| a.higher_is_better(task, &key.metric).or_else(|| b.higher_is_better(task, &key.metric));
    let mut tasks: Vec<Difference> =
        pairs.iter().filter_map(|(task, key, pairs)| row(Scope::Task, task, key, better(task, key), pairs)).collect();
    let mut pooled = Vec::new();
    for (group, members, _) in a.groups() {
        let of_group: Vec<_> = pairs.iter().filter(|(task, ..)| members.contains(task)).collect();
        let mut keys: Vec<&Key> = Vec::new();
        for (_, key, _) in &of_group {
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        for key in keys {
            let same: Vec<_> = of_group.iter().filter(|(_, k, _)| k == key).collect();
            let pool: Vec<Pair> = same.iter().flat_map(|(_, _, pairs)| pairs).copied().collect();
            if let [(first, ..), _, ..] = same.as_slice() {
                pooled.extend(row(Scope::Group, &group, key, better(first, key), &pool));
            }
        }
    }
    pooled.extend(all(pairs).and_then(|pool| {
        let key = Key { metric: "first metric".into(), filter: "".into() };
        row(Scope::All, "all tasks", &key, None, &pool)
    }));
    correct(&mut tasks);
    correct(&mut pooled);
    tasks.extend(pooled);
    tasks
}

/// All documents of the tasks whose first metrics are right or wrong, where there are several such tasks.
fn all(pairs: &[(String, Key, Vec<Pair>)]) -> Option<Vec<Pair>> {
    let mut tasks = HashSet::new();
    let first = pairs.iter().filter(|(task, ..)| tasks.insert(task));
    let binary = |pairs: &[Pair]| summarize(pairs).is_some_and(|s| s.test == Test::McNemar);
    let pools: Vec<&[Pair]> = first.map(|(_, _, pairs)| pairs.as_slice()).filter(|pairs| binary(pairs)).collect();
    (pools.len() > 1).then(|| pools.concat())
}

fn correct(rows: &mut [Difference]) {
    let p: Vec<f64> = rows.iter().map(|row| row.p).collect();
    for (row, p) in rows.iter_mut().zip(holm(&p)) {
        (row.p_holm, row.significant) = (p, p < SIGNIFICANT);
    }
}

/// Settings that differ, each with the tasks of which they do; documents and prompts that do.
fn warnings(a: &Run, b: &Run, tasks: &[Matched]) -> Vec<String> {
    let mut warnings = Vec::new();
    let unlike = |a: &Value, b: &Value| a != b && !(a.as_f64().is_some() && a.as_f64() == b.as_f64());
    let name = |value: &Value| if value.is_null() { "not set".to_owned() } else { head(&text(value), 40).to_owned() };
    for (section, what) in
        [("n-shot", "the number of examples"), ("versions", "the version"), ("n-samples", "the number of documents")]
    {
        let mut kinds: Vec<(String, Vec<&str>)> = Vec::new();
        for Matched { task, .. } in tasks {
            let (Some(a), Some(b)) = (a.entry(section, task), b.entry(section, task)) else { continue };
            let (a, b) = if section == "n-samples" { (&a["effective"], &b["effective"]) } else { (a, b) };
            if unlike(a, b) {
                let kind = format!("{what} is {} in A and {} in B", name(a), name(b));
                match kinds.iter_mut().find(|(known, _)| *known == kind) {
                    Some((_, tasks)) => tasks.push(task),
                    None => kinds.push((kind, vec![task])),
                }
            }
        }
        warnings.extend(kinds.into_iter().map(|(kind, tasks)| format!("{kind}, of {}", names(&tasks))));
    }
    for key in ["limit", "gen_kwargs", "random_seed", "fewshot_seed"] {
        if let (Some(a), Some(b)) = (a.entry("config", key), b.entry("config", key))
            && unlike(a, b)
        {
            warnings.push(format!("`{key}` is {} in A and {} in B", name(a), name(b)));
        }
    }
    for (key, what) in [
        ("chat_template", "the chat template"),
        ("system_instruction", "the system instruction"),
        ("fewshot_as_multiturn", "whether examples are turns of a conversation"),
    ] {
        if let (Some(a), Some(b)) = (a.results().get(key), b.results().get(key))
            && a != b
        {
            warnings.push(format!("{what} differs"));
        }
    }
    let counted = [
        ("in A only", (|t| t.only_a) as fn(&Matched) -> usize),
        ("in B only", |t| t.only_b),
        ("of the same number but unlike, and so not compared", |t| t.unlike),
        ("asked with another prompt, but compared", |t| t.other_prompt),
    ];
    for (what, count) in counted {
        let some: Vec<&str> = tasks.iter().filter(|t| count(t) > 0).map(|t| t.task.as_str()).collect();
        if !some.is_empty() {
            let documents: usize = tasks.iter().map(count).sum();
            warnings.push(format!("documents {what}: {documents}, of {}", names(&some)));
        }
    }
    for (run, other, side) in [(a, b, "A"), (b, a, "B")] {
        let only: Vec<&str> = run.tasks().filter(|task| !other.tasks().any(|t| t == *task)).collect();
        if !only.is_empty() {
            warnings.push(format!("only {side} has samples of {}", names(&only)));
        }
    }
    warnings
}

/// The first few of them.
fn names(tasks: &[&str]) -> String {
    match tasks {
        [first, second, third, _, rest @ ..] => format!("{first}, {second}, {third} and {} more", rest.len() + 1),
        few => few.join(", "),
    }
}

impl Comparison {
    /// A table for the terminal, with the warnings above it.
    pub fn table(&self) -> String {
        let mut text = format!("A: {} ({})\nB: {} ({})\n", self.a.model, self.a.file, self.b.model, self.b.file);
        for warning in &self.warnings {
            text += &format!("Warning: {warning}\n");
        }
        let head = ["Tasks", "Filter", "Metric", "", "Items", "A", "B", "B - A", "Stderr", "B>A", "A>B", "p", "p (Holm)", ""];
        let right: Vec<usize> = (4..13).collect();
        let row = |d: &Difference| {
            let p = |p: f64| if p < 5e-5 { "<0.0001".into() } else { format!("{p:.4}") };
            vec![
                d.name.clone(),
                d.filter.clone(),
                d.metric.clone(),
                d.higher_is_better.map_or("", |higher| if higher { "↑" } else { "↓" }).into(),
                d.items.to_string(),
                format!("{:.4}", d.a),
                format!("{:.4}", d.b),
                format!("{:+.4}", d.difference),
                d.stderr.map_or("N/A".into(), |e| format!("{e:.4}")),
                d.b_higher.to_string(),
                d.a_higher.to_string(),
                p(d.p),
                p(d.p_holm),
                if d.significant { "*" } else { "" }.into(),
            ]
        };
        let rows: Vec<Vec<String>> = self.differences.iter().map(row).collect();
        if rows.is_empty() {
            return text + "no figure can be compared: the runs have no documents of the same task in common\n";
        }
        text += &grid(&head.map(str::to_owned), &rows, &right);
        if self.differences.iter().any(|d| d.significant) {
            text += "* more than chance: p below 0.05 after Holm's correction\n";
        }
        text
    }

    /// All of it, for machines.
    pub fn to_json(&self) -> Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}
