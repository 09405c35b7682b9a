//! lm-evaluation-harness's `results.json`.

use serde_json::{Map, Value, json};

use super::{Aggregate, GroupResult, TaskResult};
use crate::task::Task;

/// Figures as the harness lays them out: `results`, `groups`, `group_subtasks`, `configs`, `versions`, `n-shot`, `higher_is_better`,
/// `n-samples`, `task_hashes`. Beside these, which it does not have: `macro_mean`, the plain means of groups, and `by`, the figures
/// of parts of a task. A run's settings are for the caller to add.
pub fn json(tasks: &[TaskResult], groups: &[GroupResult]) -> Map<String, Value> {
    let each = |value: &dyn Fn(&TaskResult) -> Value| -> Map<String, Value> {
        tasks.iter().map(|t| (t.task.name.clone(), value(t))).collect()
    };
    let weighted: Map<String, Value> = groups
        .iter()
        .filter(|g| g.weighted)
        .map(|g| (g.name.clone(), figures(&g.name, std::slice::from_ref(&g.by_size))))
        .collect();
    let plain = groups.iter().map(|g| (g.name.clone(), figures(&g.name, std::slice::from_ref(&g.macro_mean)))).collect();
    let mut results = weighted.clone();
    results.extend(each(&|t| figures(&t.task.alias, &t.figures)));
    let mut versions = each(&|t| json!(t.task.version));
    versions.extend(groups.iter().map(|g| (g.name.clone(), json!(g.version))));
    let better = |figures: &[Aggregate]| -> Value {
        Value::Object(figures.iter().map(|f| (f.metric.clone(), higher_is_better(&f.metric).into())).collect())
    };
    let by = |t: &TaskResult| -> Value {
        let part = |(name, count, aggregates): &(String, usize, Vec<Aggregate>)| {
            let mut value = figures(name, aggregates);
            value["n-samples"] = (*count).into();
            (name.clone(), value)
        };
        Value::Object(t.by.iter().map(part).collect())
    };
    let by = tasks.iter().filter(|t| !t.by.is_empty()).map(|t| (t.task.name.clone(), by(t))).collect();
    let mut map = Map::new();
    map.insert("results".into(), Value::Object(results));
    map.insert("groups".into(), Value::Object(weighted));
    map.insert("macro_mean".into(), Value::Object(plain));
    map.insert("by".into(), Value::Object(by));
    map.insert("group_subtasks".into(), groups.iter().map(|g| (g.name.clone(), json!(g.tasks))).collect::<Map<_, _>>().into());
    map.insert("configs".into(), each(&|t| config(&t.task, t.n_shot)).into());
    map.insert("versions".into(), versions.into());
    map.insert("n-shot".into(), each(&|t| t.n_shot.into()).into());
    map.insert("higher_is_better".into(), each(&|t| better(&t.figures)).into());
    map.insert("n-samples".into(), each(&|t| json!({ "original": t.original, "effective": t.effective })).into());
    map.insert("task_hashes".into(), each(&|t| t.hash.clone().into()).into());
    map
}

fn figures(alias: &str, figures: &[Aggregate]) -> Value {
    let mut map = Map::new();
    map.insert("alias".into(), alias.into());
    for Aggregate { filter, metric, value, stderr } in figures {
        map.insert(format!("{metric},{filter}"), json!(value));
        map.insert(format!("{metric}_stderr,{filter}"), stderr.map_or("N/A".into(), |e| json!(e)));
    }
    Value::Object(map)
}

/// Whether a larger value of a metric is a better one.
pub(super) fn higher_is_better(metric: &str) -> bool {
    !matches!(metric, "word_perplexity" | "byte_perplexity" | "bits_per_byte")
}

/// A task's definition in the harness's words, and templates as they are here.
fn config(task: &Task, n_shot: usize) -> Value {
    let output = match task.kind {
        crate::task::Kind::MultipleChoice => "multiple_choice",
        crate::task::Kind::GenerateUntil => "generate_until",
        crate::task::Kind::LoglikelihoodRolling => "loglikelihood_rolling",
    };
    let mut config = json!({
        "task": task.name,
        "task_alias": task.alias,
        "dataset_path": task.data.hub,
        "dataset_name": task.config,
        "output_type": output,
        "description": task.description,
        "doc_to_text": task.text,
        "doc_to_target": task.target,
        "doc_to_choice": task.choices,
        "num_fewshot": n_shot,
        "target_delimiter": " ",
        "fewshot_delimiter": "\n\n",
        "metadata": { "version": task.version },
    });
    if !task.generate.is_empty() {
        config["generation_kwargs"] = Value::Object(task.generate.clone());
    }
    config
}
