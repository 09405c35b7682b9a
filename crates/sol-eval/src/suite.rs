//! A published table as data: which tasks with which settings make a row, which mean is printed, and what others scored.

use serde::Deserialize;
use serde_json::{Value, json};

use crate::metrics::mean;
use crate::results::{Aggregate, Column, TaskResult, grid, plain_mean};
use crate::{Error, Result};

/// A table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Suite {
    /// What to call it.
    pub name: String,
    /// What it is.
    pub title: String,
    /// Models that others measured.
    pub columns: Vec<String>,
    /// Its rows.
    #[serde(rename = "row")]
    pub rows: Vec<Row>,
}

/// A row of a table.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// How it is measured, in words.
    pub setting: String,
    /// What is printed, in words.
    pub metric: String,
    /// Tasks and groups.
    pub tasks: Vec<String>,
    /// Examples in front of each question.
    pub num_fewshot: Option<usize>,
    /// Whether prompts are conversations.
    #[serde(default)]
    pub chat: bool,
    /// Metrics whose mean is printed.
    pub figures: Vec<String>,
    /// Filter of these; the only one where it is missing.
    pub filter: Option<String>,
    /// How the tasks' figures become one.
    #[serde(default)]
    pub mean: Mean,
    /// What a figure is multiplied with to be printed.
    #[serde(default = "percent")]
    pub scale: f64,
    /// What is printed of the models of `columns`; NaN where nothing is.
    pub card: Vec<f64>,
    /// Figures that are shown beside it.
    #[serde(default)]
    pub also: Vec<Also>,
}

fn percent() -> f64 {
    100.0
}

/// Another figure of a row's tasks.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Also {
    /// What it is.
    pub name: String,
    /// Metrics whose mean it is.
    pub figures: Vec<String>,
    /// Filter of these.
    pub filter: Option<String>,
    /// How the tasks' figures become one.
    #[serde(default)]
    pub mean: Mean,
}

/// How tasks' figures become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mean {
    /// The plain mean of the tasks.
    #[default]
    Macro,
    /// Weighted by the tasks' sizes.
    Size,
    /// The plain mean of the parts that a task's column `by` makes.
    Parts,
    /// None: one line for each task, or part of the one task.
    Each,
}

/// What a model earned in a row.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The figure, as it is printed.
    pub value: f64,
    /// Its standard error.
    pub stderr: Option<f64>,
    /// Documents that were asked, and that there are.
    pub documents: (usize, usize),
    /// For each column whether it differs from the figure significantly; `None` where nothing can be said.
    pub differs: Vec<Option<bool>>,
    /// Other figures and their standard errors.
    pub also: Vec<(String, f64, Option<f64>)>,
}

/// Two-sided, 5 %.
const SIGNIFICANT: f64 = 1.96;

/// Of fewer documents than this nothing is said: standard errors are none yet.
const FEW: usize = 30;

const BUILT_IN: [&str; 1] = [include_str!("../suites/solar_pro_preview.toml")];

impl Suite {
    /// The built-in table of this name.
    pub fn built_in(name: &str) -> Result<Self> {
        let parse =
            |text: &&str| toml::from_str(text).map_err(|e| Error::TaskFile { file: "suite".into(), problem: e.to_string() });
        let suites: Vec<Self> = BUILT_IN.iter().map(parse).collect::<Result<_>>()?;
        let names: Vec<String> = suites.iter().map(|suite| suite.name.clone()).collect();
        suites.into_iter().find(|suite| suite.name == name).ok_or_else(|| Error::UnknownSuite { name: name.into(), names })
    }

    /// The table with one column in front of the others, and beneath it what else was found. `None` is a row that was left out.
    pub fn table(&self, model: &str, entries: &[Option<Entry>]) -> String {
        let head: Vec<String> =
            ["", "Setting", "Metric", model].into_iter().map(str::to_owned).chain(self.columns.clone()).collect();
        let row = |(row, entry): (&Row, &Option<Entry>)| {
            let mut cells = vec![row.name.clone(), row.setting.clone(), row.metric.clone()];
            cells.push(entry.as_ref().map_or("left out".into(), |e| shown(e.value, e.stderr)));
            for (i, value) in row.card.iter().enumerate() {
                let differs = entry.as_ref().and_then(|e| e.differs[i]) == Some(true);
                let mark = if differs { "*" } else { " " };
                cells.push(if value.is_nan() { "n/a ".into() } else { format!("{value:.2}{mark}") });
            }
            cells
        };
        let rows: Vec<Vec<String>> = self.rows.iter().zip(entries).map(row).collect();
        let right: Vec<usize> = (3..head.len()).collect();
        let mut text = grid(&head, &rows, &right);
        text += "* differs significantly (two-sided, 5 %; the published figures' errors are taken as binomial; not of fewer than 30 documents)\n";
        let partial: Vec<String> = self
            .rows
            .iter()
            .zip(entries)
            .filter_map(|(row, entry)| Some((row, entry.as_ref()?)))
            .filter(|(_, entry)| entry.documents.0 < entry.documents.1)
            .map(|(row, entry)| format!("{} {} of {}", row.name, entry.documents.0, entry.documents.1))
            .collect();
        if !partial.is_empty() {
            text += &format!("only the first documents: {}\n", partial.join(", "));
        }
        let also = self.rows.iter().zip(entries).filter_map(|(row, entry)| Some((row, entry.as_ref()?)));
        let also: Vec<Vec<String>> = also
            .flat_map(|(row, entry)| entry.also.iter().map(|(name, v, e)| vec![row.name.clone(), name.clone(), shown(*v, *e)]))
            .collect();
        if !also.is_empty() {
            text += "\n";
            text += &grid(&["", "Beside it", model].map(str::to_owned), &also, &[2]);
        }
        text
    }

    /// The same for programs; `value` times `scale` is what is printed.
    pub fn json(&self, entries: &[Option<Entry>]) -> Value {
        let number = |value: f64| if value.is_nan() { Value::Null } else { json!(value) };
        let row = |(row, entry): (&Row, &Option<Entry>)| {
            let unscaled = |value: f64| json!(value / row.scale);
            let also = |e: &Entry| -> Value {
                let line = |(name, value, stderr): &(String, f64, Option<f64>)| json!({ "name": name, "value": unscaled(*value), "stderr": stderr.map(unscaled) });
                e.also.iter().map(line).collect()
            };
            json!({
                "row": row.name, "setting": row.setting, "metric": row.metric, "scale": row.scale,
                "tasks": row.tasks,
                "value": entry.as_ref().map(|e| unscaled(e.value)),
                "stderr": entry.as_ref().and_then(|e| e.stderr).map(unscaled),
                "documents": entry.as_ref().map(|e| json!({ "effective": e.documents.0, "original": e.documents.1 })),
                "card": row.card.iter().map(|v| number(*v)).collect::<Value>(),
                "differs": entry.as_ref().map(|e| json!(e.differs)),
                "alternatives": entry.as_ref().map(also),
            })
        };
        let rows: Value = self.rows.iter().zip(entries).map(row).collect();
        json!({ "name": self.name, "title": self.title, "columns": self.columns, "rows": rows })
    }
}

fn shown(value: f64, stderr: Option<f64>) -> String {
    stderr.map_or_else(|| format!("{value:.2}"), |e| format!("{value:.2} ±{e:.2}"))
}

impl Row {
    /// What the row's tasks found; `None` where its figure is not among it.
    pub fn entry(&self, results: &[TaskResult]) -> Option<Entry> {
        let (value, stderr) = combined(results, &self.figures, self.filter.as_deref(), self.mean)?;
        let mut also = Vec::new();
        for other in &self.also {
            let filter = other.filter.as_deref();
            let mut add = |name: String, found: Option<(f64, Option<f64>)>| {
                also.extend(found.map(|(value, stderr)| (name, value * self.scale, stderr.map(|e| e * self.scale))));
            };
            match (other.mean, results) {
                (Mean::Each, [task]) => {
                    for (part, count, figures) in &task.by {
                        let figure = figures.iter().find(|f| other.figures.contains(&f.metric));
                        add(format!("{} {part} ({count})", other.name), figure.map(|f| (f.value, f.stderr)));
                    }
                }
                (Mean::Each, tasks) => {
                    for task in tasks {
                        let found = combined(std::slice::from_ref(task), &other.figures, filter, Mean::Macro);
                        add(format!("{} {} ({})", other.name, task.task.alias, task.effective), found);
                    }
                }
                (mean, tasks) => add(other.name.clone(), combined(tasks, &other.figures, filter, mean)),
            }
        }
        let documents = results.iter().fold((0, 0), |(a, b), t| (a + t.effective, b + t.original));
        Some(Entry {
            value: value * self.scale,
            stderr: stderr.map(|e| e * self.scale),
            documents,
            differs: self.card.iter().map(|card| self.differs(value, stderr?, *card / self.scale, results)).collect(),
            also,
        })
    }

    /// Whether a published figure is another one. Its standard error is that of so many coins; where figures are no shares, that of
    /// this model's documents.
    fn differs(&self, value: f64, stderr: f64, card: f64, results: &[TaskResult]) -> Option<bool> {
        if card.is_nan() || results.iter().map(|t| t.effective).sum::<usize>() < FEW {
            return None;
        }
        let tasks = results.len() as f64;
        let variance = if self.scale == 100.0 {
            results.iter().map(|t| card * (1.0 - card) / t.original as f64).sum::<f64>() / (tasks * tasks)
        } else {
            let share: f64 = results.iter().map(|t| t.effective as f64 / t.original as f64).sum::<f64>() / tasks;
            stderr * stderr * share
        };
        Some((value - card).abs() > SIGNIFICANT * (stderr * stderr + variance).sqrt())
    }
}

/// The mean of metrics over tasks with its standard error.
fn combined(results: &[TaskResult], figures: &[String], filter: Option<&str>, how: Mean) -> Option<(f64, Option<f64>)> {
    let of = |task: &TaskResult| -> Option<(f64, Option<f64>)> {
        let columns: Option<Vec<&Column>> = figures.iter().map(|name| column(task, name, filter)).collect();
        let columns = columns?;
        let value = columns.iter().map(|c| c.aggregate().value).sum::<f64>() / columns.len() as f64;
        // Metrics of the same documents are not independent: their deviations are added first.
        let mut deviations = vec![0.0; task.effective];
        for column in &columns {
            deviations.iter_mut().zip(column.deviations()).for_each(|(sum, d)| *sum += d / columns.len() as f64);
        }
        Some((value, mean(&deviations).1))
    };
    let parts = |task: &TaskResult| -> Vec<(f64, Option<f64>)> {
        let figure = |f: &&Aggregate| figures.contains(&f.metric) && filter.is_none_or(|filter| filter == f.filter);
        task.by.iter().filter_map(|(_, _, all)| all.iter().find(figure)).map(|f| (f.value, f.stderr)).collect()
    };
    let found: Vec<(f64, Option<f64>)> = match how {
        Mean::Parts => results.iter().flat_map(parts).collect(),
        _ => results.iter().map(of).collect::<Option<_>>()?,
    };
    if found.is_empty() {
        return None;
    }
    Some(match how {
        Mean::Size => {
            let sized: Vec<_> = found.iter().zip(results).map(|((v, e), t)| (*v, *e, t.effective)).collect();
            crate::metrics::weighted_mean(&sized)
        }
        _ => plain_mean(found.into_iter()),
    })
}

fn column<'a>(task: &'a TaskResult, metric: &str, filter: Option<&str>) -> Option<&'a Column> {
    task.columns.iter().find(|c| c.metric == metric && filter.is_none_or(|filter| filter == c.filter))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Registry;

    fn card() -> Suite {
        Suite::built_in("solar-pro-preview").unwrap()
    }

    fn result(name: &str, metrics: &[(&str, &[(f64, f64)])], original: usize) -> TaskResult {
        let task = Registry::built_in().unwrap().select(&[name.to_owned()]).unwrap().remove(0);
        let columns: Vec<Column> = metrics
            .iter()
            .map(|(metric, values)| {
                let flags = values.iter().any(|(_, units)| *units != 1.0);
                Column { filter: "none".into(), metric: (*metric).into(), values: values.to_vec(), flags }
            })
            .collect();
        TaskResult {
            task,
            n_shot: 0,
            original,
            effective: columns[0].values.len(),
            figures: columns.iter().map(Column::aggregate).collect(),
            columns,
            by: Vec::new(),
            hash: String::new(),
        }
    }

    #[test]
    fn the_card_is_whole_and_its_tasks_are_known() {
        let (card, registry) = (card(), Registry::built_in().unwrap());
        assert_eq!((card.rows.len(), card.columns.len()), (11, 6));
        for row in &card.rows {
            assert_eq!(row.card.len(), 6, "{}", row.name);
            assert!(!registry.select(&row.tasks).unwrap().is_empty());
        }
        let miss = Suite::built_in("solar").unwrap_err().to_string();
        assert!(miss.contains("solar-pro-preview"), "{miss}");
    }

    #[test]
    fn ifeval_is_the_mean_of_two_levels() {
        let row = card().rows.into_iter().find(|row| row.name == "IFEval").unwrap();
        let prompts: &[(f64, f64)] = &[(1.0, 1.0), (0.0, 1.0), (0.0, 1.0), (1.0, 1.0)];
        let instructions: &[(f64, f64)] = &[(2.0, 2.0), (1.0, 3.0), (0.0, 1.0), (2.0, 2.0)];
        let result =
            result("leaderboard_ifeval", &[("prompt_level_strict_acc", prompts), ("inst_level_strict_acc", instructions)], 541);
        let entry = row.entry(&[result]).unwrap();
        assert!((entry.value - 100.0 * (0.5 + 5.0 / 8.0) / 2.0).abs() < 1e-12);
        assert_eq!((entry.differs[0], entry.documents), (None, (4, 541)));
        let (low, high) = (entry.also[1].2.unwrap(), entry.also[0].2.unwrap());
        assert!(low < entry.stderr.unwrap() && entry.stderr.unwrap() < high);
    }

    #[test]
    fn what_differs_is_marked() {
        let card = card();
        let row = card.rows.iter().position(|row| row.name == "ARC-C").unwrap();
        let values: Vec<(f64, f64)> = (0..1172).map(|i| (f64::from(u8::from(i % 100 < 67)), 1.0)).collect();
        let entry = card.rows[row].entry(&[result("arc_challenge", &[("acc_norm", &values)], 1172)]).unwrap();
        let differs: Vec<bool> = entry.differs.iter().flatten().copied().collect();
        assert_eq!(differs, [false, false, false, true, true, false]);
        let mut entries: Vec<Option<Entry>> = vec![None; 11];
        entries[row] = Some(entry);
        let table = card.table("mine", &entries);
        let line = table.lines().find(|line| line.starts_with("|ARC-C")).unwrap();
        assert!(line.contains("74.06*") && line.contains("68.86 ") && line.contains(" ±1.36"), "{line}");
        assert!(table.contains("left out"), "{table}");
        assert_eq!(card.json(&entries)["rows"][row]["differs"][3], true);
    }
}
