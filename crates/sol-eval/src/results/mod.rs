//! What a run found: figures of documents to figures of tasks and groups, in the harness's [`table`] and its [`json`].

mod json;
mod table;

use std::sync::Arc;

use sha2::{Digest, Sha256};

pub use self::json::json;
pub use self::table::{grid, table};
use crate::document::{Document, Scored, Share};
use crate::hash::digits;
use crate::metrics::{mean, weighted_mean};
use crate::prompt::Prepared;
use crate::samples::hashes;
use crate::task::{Registry, Task};

/// An aggregated figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Aggregate {
    /// Name of the filter; `none` where there was none.
    pub filter: String,
    /// The metric's name.
    pub metric: String,
    /// Over all documents: the mean, or what the metric says.
    pub value: f64,
    /// Its standard error where the harness gives one; none of a single document.
    pub stderr: Option<f64>,
}

/// Every document's value of a figure.
#[derive(Clone, Debug)]
pub struct Column {
    /// Name of the filter.
    pub filter: String,
    /// The metric's name.
    pub metric: String,
    /// A document's value and what it counts for: the number of its flags or units, otherwise 1.
    pub values: Vec<(f64, f64)>,
    /// Whether values are sums of flags.
    pub flags: bool,
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
    /// What the figures were made of.
    pub columns: Vec<Column>,
    /// The figures of the documents that share a value of the task's column `by`, by that value.
    pub by: Vec<(String, usize, Vec<Aggregate>)>,
    /// SHA-256 over the hashes of all documents, prompts and targets, as the harness has it.
    pub hash: String,
}

/// A group's figures: its tasks' means.
#[derive(Clone, Debug)]
pub struct GroupResult {
    /// Its name.
    pub name: String,
    /// Its tasks.
    pub tasks: Vec<String>,
    /// Mean weighted by the tasks' sizes.
    pub by_size: Aggregate,
    /// Whether the harness prints that.
    pub weighted: bool,
    /// Plain mean of the tasks' values, which the harness does not print.
    pub macro_mean: Aggregate,
    /// Version of its definition.
    pub version: f64,
}

/// Collects a task's figures, document after document.
pub struct Tally {
    task: Arc<Task>,
    columns: Vec<Column>,
    by: Vec<String>,
    hash: Sha256,
    documents: usize,
}

impl Tally {
    /// Of no documents.
    pub fn new(task: &Arc<Task>) -> Self {
        Self { task: Arc::clone(task), columns: Vec::new(), by: Vec::new(), hash: Sha256::new(), documents: 0 }
    }

    /// Adds a document.
    pub fn push(&mut self, document: &Document, scored: Scored) {
        for figure in scored.figures {
            let (flags, units) = match figure.share {
                Share::Document => (false, 1.0),
                Share::Flags(flags) => (true, flags.len() as f64),
                Share::Units(units) => (false, units),
            };
            let known = self.columns.iter().position(|c| c.filter == figure.filter && c.metric == figure.metric);
            let at = known.unwrap_or_else(|| {
                self.columns.push(Column { filter: figure.filter, metric: figure.metric, values: Vec::new(), flags });
                self.columns.len() - 1
            });
            self.columns[at].values.push((figure.value, units));
        }
        if let Some(by) = &self.task.by {
            let value = document.row.get(by);
            self.by.push(value.map_or_else(String::new, |v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)));
        }
        self.documents += 1;
        let (doc, prompt, target) = hashes(document);
        self.hash.update(doc + &prompt + &target);
    }

    /// The figures.
    pub fn finish(mut self, prepared: &Prepared) -> TaskResult {
        // pass@10 where some problems have fewer programs is none.
        self.columns.retain(|column| column.values.len() == self.documents);
        let mut names: Vec<&String> = self.by.iter().collect();
        names.sort_unstable();
        names.dedup();
        let of = |name: &&String| {
            let part = |column: &Column| {
                let values = column.values.iter().zip(&self.by).filter(|(_, by)| by == name).map(|(value, _)| *value);
                Column { values: values.collect(), ..column.clone() }
            };
            let count = self.by.iter().filter(|by| by == name).count();
            ((*name).clone(), count, self.columns.iter().map(|column| part(column).aggregate()).collect())
        };
        TaskResult {
            n_shot: prepared.n_shot(),
            original: prepared.len(),
            effective: self.documents,
            figures: self.columns.iter().map(Column::aggregate).collect(),
            by: names.iter().map(of).collect(),
            hash: digits(self.hash),
            task: self.task,
            columns: self.columns,
        }
    }
}

impl Column {
    /// The task's figure.
    pub fn aggregate(&self) -> Aggregate {
        let sum: f64 = self.values.iter().map(|(value, _)| value).sum();
        let units: f64 = self.values.iter().map(|(_, units)| units).sum();
        let (value, stderr) = match self.metric.as_str() {
            "word_perplexity" | "byte_perplexity" => ((-sum / units).exp(), None),
            "bits_per_byte" => (-sum / units / std::f64::consts::LN_2, None),
            _ if self.flags => (sum / units, None),
            _ => mean(&self.values.iter().map(|(value, _)| *value).collect::<Vec<_>>()),
        };
        Aggregate { filter: self.filter.clone(), metric: self.metric.clone(), value, stderr }
    }

    /// What a document adds to the figure's deviation: its value less the figure, in documents. The standard error of a ratio (of flags
    /// to all flags) is that of the mean of these (Cochran, Sampling Techniques, section 2.11).
    pub fn deviations(&self) -> Vec<f64> {
        let figure = self.values.iter().map(|(v, _)| v).sum::<f64>() / self.values.iter().map(|(_, u)| u).sum::<f64>();
        let mean_units = self.values.iter().map(|(_, u)| u).sum::<f64>() / self.values.len() as f64;
        self.values.iter().map(|(value, units)| (value - figure * units) / mean_units).collect()
    }
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
        let of = |(value, stderr)| Aggregate { filter: first.filter.clone(), metric: first.metric.clone(), value, stderr };
        let sized: Vec<_> = members.iter().zip(&figures).map(|(t, f)| (f.value, f.stderr, t.effective)).collect();
        let known = registry.group(name);
        Some(GroupResult {
            name: name.clone(),
            tasks: members.iter().map(|t| t.task.name.clone()).collect(),
            by_size: of(weighted_mean(&sized)),
            weighted: known.is_some_and(|g| g.weighted),
            macro_mean: of(plain_mean(figures.iter().map(|f| (f.value, f.stderr)))),
            version: known.map_or(0.0, |g| g.version),
        })
    };
    names.into_iter().filter_map(group).collect()
}

/// Mean of independent figures, with its standard error where all have one.
pub fn plain_mean(figures: impl Iterator<Item = (f64, Option<f64>)> + Clone) -> (f64, Option<f64>) {
    let count = figures.clone().count() as f64;
    let squares: Option<f64> = figures.clone().map(|(_, stderr)| stderr.map(|e| e * e)).sum();
    (figures.map(|(value, _)| value).sum::<f64>() / count, squares.map(|sum| sum.sqrt() / count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(metric: &str, values: &[(f64, f64)], flags: bool) -> Column {
        Column { filter: "none".into(), metric: metric.into(), values: values.to_vec(), flags }
    }

    #[test]
    fn means_of_flags_and_perplexities() {
        let flags = column("inst_level_strict_acc", &[(1.0, 1.0), (1.0, 3.0)], true);
        assert_eq!((flags.aggregate().value, flags.aggregate().stderr), (0.5, None));
        let words = column("word_perplexity", &[(-2.0, 1.0), (-4.0, 2.0)], false).aggregate();
        assert!((words.value - 2f64.exp()).abs() < 1e-12 && words.stderr.is_none());
        let bits = column("bits_per_byte", &[(-std::f64::consts::LN_2, 1.0)], false).aggregate();
        assert!((bits.value - 1.0).abs() < 1e-12);
    }

    /// Of a plain mean they are what the harness's standard error is made of.
    #[test]
    fn deviations_give_the_standard_error() {
        let plain = column("acc", &[(1.0, 1.0), (0.0, 1.0), (0.0, 1.0), (1.0, 1.0), (1.0, 1.0)], false);
        assert!((mean(&plain.deviations()).1.unwrap() - plain.aggregate().stderr.unwrap()).abs() < 1e-15);
    }
}
