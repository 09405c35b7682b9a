//! What a run found, and the harness's table of it.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::document::Scored;
use crate::metrics::{mean, weighted_mean};
use crate::task::{Registry, Task};

/// An aggregated figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Aggregate {
    /// Name of the filter; `none` where there was none.
    pub filter: String,
    /// The metric's name.
    pub metric: String,
    /// Its mean over all documents.
    pub value: f64,
    /// Its standard error; none of a single document.
    pub stderr: Option<f64>,
}

/// A leaf task's figures.
#[derive(Clone, Debug)]
pub struct TaskResult {
    /// Which.
    pub task: Arc<Task>,
    /// Examples in front of each question.
    pub n_shot: usize,
    /// Documents there are.
    pub original: usize,
    /// Documents that were asked.
    pub effective: usize,
    /// The figures, in the task's order.
    pub figures: Vec<Aggregate>,
}

/// A group's figures: its tasks' means.
#[derive(Clone, Debug)]
pub struct GroupResult {
    /// Its name.
    pub name: String,
    /// Mean weighted by the tasks' sizes, where the harness prints one.
    pub weighted: Option<Aggregate>,
    /// Plain mean of the tasks' values, which the harness does not print.
    pub macro_mean: Aggregate,
}

/// Means over a task's documents.
pub fn aggregate(scored: &[Scored]) -> Vec<Aggregate> {
    let Some(first) = scored.first() else { return Vec::new() };
    let figure = |i: usize| {
        let values: Vec<f64> = scored.iter().map(|s| s.figures[i].value).collect();
        let parts: Option<usize> = scored.iter().map(|s| s.figures[i].parts).sum();
        let (value, stderr) = match parts {
            None => mean(&values),
            Some(parts) => (values.iter().sum::<f64>() / parts as f64, None),
        };
        Aggregate { filter: first.figures[i].filter.clone(), metric: first.figures[i].metric.clone(), value, stderr }
    };
    (0..first.figures.len()).map(figure).collect()
}

/// The groups that tasks are part of, by their first figure that all have.
pub fn groups(registry: &Registry, tasks: &[TaskResult]) -> Vec<GroupResult> {
    let mut names: Vec<&String> = Vec::new();
    for name in tasks.iter().flat_map(|t| &t.task.groups) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let group = |name: &String| {
        let members: Vec<&TaskResult> = tasks.iter().filter(|t| t.task.groups.contains(name)).collect();
        let figures: Vec<&Aggregate> = members.iter().filter_map(|t| t.figures.first()).collect();
        let first = *figures.first()?;
        let values: Vec<f64> = figures.iter().map(|f| f.value).collect();
        let of = |value, stderr| Aggregate { filter: first.filter.clone(), metric: first.metric.clone(), value, stderr };
        let sized: Vec<_> = members.iter().zip(&figures).map(|(t, f)| (f.value, f.stderr, t.effective)).collect();
        let (weighted, stderr) = weighted_mean(&sized);
        let errors: Option<f64> = figures.iter().map(|f| f.stderr.map(|e| e * e)).sum();
        let count = values.len() as f64;
        Some(GroupResult {
            name: name.clone(),
            weighted: registry.group(name).is_some_and(|g| g.weighted).then(|| of(weighted, stderr)),
            macro_mean: of(values.iter().sum::<f64>() / count, errors.map(|sum| sum.sqrt() / count)),
        })
    };
    names.into_iter().filter_map(group).collect()
}

/// Names and values as in lm-evaluation-harness's `results.json`: `results`, `groups`, `versions`, `n-shot`, `n-samples`; and the
/// plain means of groups, as `macro_mean`.
pub fn to_json(tasks: &[TaskResult], groups: &[GroupResult]) -> Map<String, Value> {
    let figures = |alias: &str, figures: &[&Aggregate]| {
        let mut map = Map::new();
        map.insert("alias".into(), alias.into());
        for Aggregate { filter, metric, value, stderr } in figures {
            map.insert(format!("{metric},{filter}"), json!(value));
            map.insert(format!("{metric}_stderr,{filter}"), stderr.map_or("N/A".into(), |e| json!(e)));
        }
        Value::Object(map)
    };
    let each = |value: &dyn Fn(&TaskResult) -> Value| -> Value {
        Value::Object(tasks.iter().map(|t| (t.task.name.clone(), value(t))).collect())
    };
    let weighted = groups.iter().filter_map(|g| Some((g.name.clone(), figures(&g.name, &[g.weighted.as_ref()?]))));
    let plain = groups.iter().map(|g| (g.name.clone(), figures(&g.name, &[&g.macro_mean])));
    let mut map = Map::new();
    map.insert("results".into(), each(&|t| figures(&t.task.alias, &t.figures.iter().collect::<Vec<_>>())));
    map.insert("groups".into(), Value::Object(weighted.collect()));
    map.insert("macro_mean".into(), Value::Object(plain.collect()));
    map.insert("versions".into(), each(&|t| json!(t.task.version)));
    map.insert("n-shot".into(), each(&|t| t.n_shot.into()));
    map.insert("n-samples".into(), each(&|t| json!({ "original": t.original, "effective": t.effective })));
    map
}

/// The table that people know from the harness: a line a figure, then a line a group with its means.
pub fn table(tasks: &[TaskResult], groups: &[GroupResult]) -> String {
    let mut rows: Vec<[String; 6]> = vec![["Tasks", "Filter", "n-shot", "Metric", "Value", "Stderr"].map(str::to_owned)];
    let figure = |name: &str, shots: String, note: &str, f: &Aggregate| {
        let stderr = f.stderr.map_or("N/A".to_owned(), |e| format!("{e:.4}"));
        [name.to_owned(), f.filter.clone(), shots, format!("{}{note}", f.metric), format!("{:.4}", f.value), stderr]
    };
    for group in groups {
        rows.extend(group.weighted.iter().map(|f| figure(&group.name, String::new(), " (by size)", f)));
        rows.push(figure(&group.name, String::new(), " (macro)", &group.macro_mean));
    }
    let mut sorted: Vec<&TaskResult> = tasks.iter().collect();
    sorted.sort_by(|a, b| a.task.name.cmp(&b.task.name));
    for t in sorted {
        let partial =
            if t.effective < t.original { format!(" (first {} of {})", t.effective, t.original) } else { String::new() };
        let name = format!("{}{partial}", t.task.name);
        rows.extend(t.figures.iter().map(|f| figure(&name, t.n_shot.to_string(), "", f)));
    }
    let widths: Vec<usize> = (0..6).map(|i| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0)).collect();
    let mut table = String::new();
    for (i, row) in rows.iter().enumerate() {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(c, (cell, w))| match c {
                2 | 4 | 5 => format!("{cell:>w$}"),
                _ => format!("{cell:<w$}"),
            })
            .collect();
        table += &format!("|{}|\n", cells.join("|"));
        if i == 0 {
            table += &format!("|{}|\n", widths.iter().map(|w| "-".repeat(*w)).collect::<Vec<_>>().join("|"));
        }
    }
    table
}
