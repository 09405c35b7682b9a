//! Prompts, figures and means are those of lm-evaluation-harness on a slice of every benchmark, in many settings: `data/harness`.

mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde::Deserialize;
use serde_json::{Map, Value};
use sol_eval::data::Source;
use sol_eval::document::Answer;
use sol_eval::metrics::Metrics;
use sol_eval::prompt::{Chat, Prepared, Settings};
use sol_eval::python::Random;
use sol_eval::results::{Tally, groups, json};
use sol_eval::task::Registry;

#[derive(Deserialize)]
struct Run {
    run: String,
    tasks: Vec<String>,
    num_fewshot: Option<usize>,
    limit: Option<f64>,
    random_seed: u64,
    fewshot_random_seed: u64,
    system_instruction: Option<String>,
    apply_chat_template: bool,
    fewshot_as_multiturn: bool,
    /// What the harness found: `results`, `versions`, ….
    #[serde(flatten)]
    found: Map<String, Value>,
}

type Golden = HashMap<(String, u64), Value>;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/harness")
}

/// The lines of each run.
fn golden() -> BTreeMap<String, Golden> {
    let file = std::fs::File::open(folder().join("golden.jsonl.gz")).unwrap();
    let mut runs: BTreeMap<String, Golden> = BTreeMap::new();
    for line in BufReader::new(flate2::read::MultiGzDecoder::new(file)).lines() {
        let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let key = (line["task"].as_str().unwrap().to_owned(), line["doc_id"].as_u64().unwrap());
        runs.entry(line["run"].as_str().unwrap().to_owned()).or_default().insert(key, line);
    }
    runs
}

/// What was answered.
fn answer(line: &Value) -> Answer {
    match line["raw"].as_str() {
        Some(text) => Answer::Texts(vec![text.to_owned()]),
        None => {
            let scores = line["responses"].as_array().unwrap().iter();
            Answer::Choices(scores.map(|pair| (pair[0].as_f64().unwrap(), pair[1].as_bool().unwrap())).collect())
        }
    }
}

/// Does a run and tells how it differs from the harness's.
fn problems(registry: &Registry, run: &Run, golden: &Golden) -> sol_eval::Result<Vec<String>> {
    let mut problems = Vec::new();
    let settings = Settings {
        num_fewshot: run.num_fewshot,
        fewshot_seed: run.fewshot_random_seed,
        limit: run.limit,
        system_instruction: run.system_instruction.as_deref(),
        chat: run.apply_chat_template.then_some(&support::chatml as &Chat),
        fewshot_as_multiturn: run.fewshot_as_multiturn,
        ..Settings::default()
    };
    let random = Arc::new(Mutex::new(Random::new(run.random_seed)));
    let data = Source::folder(folder().join("data"));
    // All are loaded before any is asked: loading draws.
    let tasks = registry.select(&run.tasks)?;
    let prepared: Vec<Prepared> =
        tasks.iter().map(|t| Prepared::load(t, &data, &settings, &random, &sol_hub::Silent)).collect::<Result<_, _>>()?;
    let mut results = Vec::new();
    let mut seen = 0;
    for prepared in &prepared {
        let metrics = Metrics::new(prepared.task(), &random, None)?;
        let mut tally = Tally::new(prepared.task());
        prepared.documents(&settings, &mut |document| {
            let Some(expected) = golden.get(&(document.task.to_string(), document.doc_id as u64)) else {
                problems.push(format!("{}, document {}: the harness did not ask it", document.task, document.doc_id));
                return Ok(());
            };
            seen += 1;
            problems.extend(support::request_problems(&document, expected));
            let figures = metrics.score(&document, &answer(expected), Some(support::EOS))?;
            problems.extend(support::figure_problems(&document, &figures, expected));
            tally.push(&document, figures);
            Ok(())
        })?;
        results.push(tally.finish(prepared));
    }
    if seen != golden.len() {
        problems.push(format!("{seen} documents, expected {}", golden.len()));
    }
    let ours = json(&results, &groups(registry, &results));
    for task in &tasks {
        for key in ["results", "versions", "n-shot", "n-samples"] {
            differences(&format!("{key} of {}", task.name), &ours[key][&task.name], &run.found[key][&task.name], &mut problems);
        }
    }
    for (name, expected) in run.found.get("groups").and_then(Value::as_object).into_iter().flatten() {
        differences(&format!("group {name}"), &ours["groups"][name], expected, &mut problems);
    }
    Ok(problems)
}

/// Compares figures and what they are called; not the alias, which has the table's indent.
fn differences(at: &str, ours: &Value, expected: &Value, problems: &mut Vec<String>) {
    match (ours, expected) {
        (Value::Object(ours), Value::Object(expected)) => {
            let keys: BTreeSet<&String> = ours.keys().chain(expected.keys()).collect();
            for key in keys.into_iter().filter(|key| *key != "alias" && *key != " ") {
                let value = |map: &Map<String, Value>| map.get(key).cloned().unwrap_or_default();
                differences(&format!("{at}, {key}"), &value(ours), &value(expected), problems);
            }
        }
        (Value::Number(a), Value::Number(b)) if (a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-9 => {}
        (a, b) if a == b => {}
        (a, b) => problems.push(format!("{at} is {a}, expected {b}")),
    }
}

#[test]
fn a_slice_of_every_benchmark_is_as_in_the_harness() {
    let runs: Vec<Run> = serde_json::from_slice(&std::fs::read(folder().join("runs.json")).unwrap()).unwrap();
    let mut golden = golden();
    let registry = Registry::built_in().unwrap();
    let (mut skipped, mut wrong, mut compared) = (BTreeSet::new(), Vec::new(), 0);
    for run in &runs {
        let golden = golden.remove(&run.run).unwrap();
        let unknown: Vec<&String> = run.tasks.iter().filter(|task| !registry.names().contains(&task.as_str())).collect();
        if !unknown.is_empty() {
            skipped.extend(unknown);
            continue;
        }
        compared += golden.len();
        match problems(&registry, run, &golden) {
            Ok(problems) => wrong.extend(problems.into_iter().map(|problem| format!("{}: {problem}", run.run))),
            Err(error) => wrong.push(format!("{}: {error}", run.run)),
        }
    }
    if !skipped.is_empty() {
        eprintln!("skipped, for there is no such task: {skipped:?}");
    }
    assert!(golden.is_empty() && compared > 0);
    assert!(wrong.is_empty(), "{} differences in {compared} documents:\n{}", wrong.len(), wrong.join("\n"));
}
