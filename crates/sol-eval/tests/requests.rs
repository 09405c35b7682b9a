//! Requests are those of lm-evaluation-harness to the character: whole test sets by their digests, and single ones by their text.
//! Data and goldens are too large to be committed; they lie in `../shared/eval` where there is one.

mod support;

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use sha2::{Digest, Sha256};
use sol_eval::data::Source;
use sol_eval::document::{Answer, Ask, Document, Scored};
use sol_eval::log::Recorded;
use sol_eval::metrics::Metrics;
use sol_eval::prompt::{Chat, Prepared, Settings};
use sol_eval::python::Random;
use sol_eval::results::{Aggregate, TaskResult, aggregate, groups};
use sol_eval::task::Registry;

fn shared() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/eval");
    if !dir.is_dir() {
        eprintln!("skipped: there is no ../shared/eval beside the project");
        return None;
    }
    Some(dir)
}

/// Run of the goldens, what to ask for, examples.
const RUNS: [(&str, &str, Option<usize>); 9] = [
    ("mmlu", "mmlu", Some(5)),
    ("mmlu_pro", "leaderboard_mmlu_pro", Some(5)),
    ("arc_challenge", "arc_challenge", Some(25)),
    ("gpqa", "leaderboard_gpqa", None),
    ("hellaswag", "hellaswag", Some(10)),
    ("bbh", "leaderboard_bbh", Some(3)),
    ("musr", "leaderboard_musr", None),
    ("gsm8k", "gsm8k_cot", Some(8)),
    ("ifeval", "leaderboard_ifeval", None),
];

fn each_document(dir: &Path, run: &str, name: &str, num_fewshot: Option<usize>, each: &mut dyn FnMut(Document)) {
    let chat = (run == "ifeval").then_some(&support::chatml as &Chat);
    let settings = Settings { num_fewshot, chat, ..Settings::default() };
    let random = Arc::new(Mutex::new(Random::new(0)));
    let data = Source::folder(if run == "gpqa" { dir.join("data/gpqa_synthetic") } else { dir.join("data") });
    for task in Registry::built_in().unwrap().select(&[name.to_owned()]).unwrap() {
        let prepared = Prepared::load(&task, &data, &settings, &random, &sol_hub::Silent).unwrap();
        prepared
            .documents(&settings, &mut |document| {
                each(document);
                Ok(())
            })
            .unwrap();
    }
}

#[test]
fn whole_test_sets_have_the_digests_of_the_harness() {
    let Some(dir) = shared() else { return };
    let digests: Value = serde_json::from_slice(&std::fs::read(dir.join("golden/full_digests.json")).unwrap()).unwrap();
    for (run, name, shots) in RUNS {
        let mut found: HashMap<String, (usize, Sha256)> = HashMap::new();
        let random = Arc::new(Mutex::new(Random::new(0)));
        let registry = Registry::built_in().unwrap();
        let tasks = registry.select(&[name.to_owned()]).unwrap();
        let mut scored: Vec<Vec<Scored>> = vec![Vec::new(); tasks.len()];
        each_document(&dir, run, name, shots, &mut |document| {
            let (requests, digest) = found.entry(document.task.to_string()).or_insert((0, Sha256::new()));
            let asked = match &document.ask {
                Ask::Choices(choices) => choices.clone(),
                // Keys are sorted; this is Python's spelling of what a task file can say.
                Ask::Generate(kwargs) => {
                    let mut pairs: Vec<String> =
                        kwargs.0.iter().map(|(k, v)| format!("\"{k}\": {}", v.to_string().replace("\",\"", "\", \""))).collect();
                    pairs.sort();
                    vec![format!("{{{}}}", pairs.join(", "))]
                }
            };
            // What the goldens' dummy model says of a request is a function of its text.
            if let Ask::Choices(choices) = &document.ask {
                let say = |choice: &String| {
                    let mut crc = flate2::Crc::new();
                    crc.update(document.context.as_bytes());
                    crc.update(choice.as_bytes());
                    (-f64::from(crc.sum() % 10000) / 100.0, crc.sum() >> 16 & 1 == 1)
                };
                let answer = Answer::Choices(choices.iter().map(say).collect());
                let i = tasks.iter().position(|task| *task.name == *document.task).unwrap();
                scored[i].push(Metrics::new(&tasks[i], &random).unwrap().score(&document, &answer, None).unwrap());
            }
            for asked in asked {
                *requests += 1;
                digest.update(document.context.as_bytes());
                digest.update([0x1f]);
                digest.update(asked.as_bytes());
                digest.update([0x1e]);
            }
        });
        let expected = digests[run]["requests_sha256"].as_object().unwrap();
        assert_eq!(found.len(), expected.len(), "{run}");
        let results = tasks.iter().zip(&scored).filter(|(_, scored)| !scored.is_empty()).map(|(task, scored)| TaskResult {
            task: task.clone(),
            n_shot: 0,
            original: scored.len(),
            effective: scored.len(),
            figures: aggregate(scored),
        });
        let results: Vec<TaskResult> = results.collect();
        let same = |name: &str, figure: &Aggregate| {
            let expected = &digests[run]["results"][name];
            let Aggregate { metric, filter, .. } = figure;
            let value = expected[format!("{metric},{filter}")].as_f64().unwrap();
            let stderr = expected[format!("{metric}_stderr,{filter}")].as_f64().unwrap();
            assert!((value - figure.value).abs() < 1e-9 && (stderr - figure.stderr.unwrap()).abs() < 1e-9, "{name}");
        };
        results.iter().for_each(|t| t.figures.iter().for_each(|figure| same(&t.task.name, figure)));
        groups(&registry, &results).iter().for_each(|g| g.weighted.iter().for_each(|figure| same(&g.name, figure)));
        for (task, (requests, digest)) in found {
            assert_eq!(requests as u64, digests[run]["requests"][&task].as_u64().unwrap(), "{task}");
            let digest: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(digest, expected[&task].as_str().unwrap(), "{task}");
        }
    }
}

#[test]
fn requests_and_figures_are_those_of_the_harness() {
    let Some(dir) = shared() else { return };
    for (run, name, shots) in RUNS {
        let file = std::fs::File::open(dir.join(format!("golden/{run}.jsonl.gz"))).unwrap();
        let lines = BufReader::new(flate2::read::MultiGzDecoder::new(file)).lines();
        let mut golden: HashMap<(String, u64), Value> = HashMap::new();
        for line in lines {
            let line: Value = serde_json::from_str(&line.unwrap()).unwrap();
            golden.insert((line["task"].as_str().unwrap().to_owned(), line["doc_id"].as_u64().unwrap()), line);
        }
        let random = Arc::new(Mutex::new(Random::new(0)));
        let recorded = Recorded::open(&dir.join(format!("golden/{run}.jsonl.gz"))).unwrap();
        let tasks = Registry::built_in().unwrap().select(&[name.to_owned()]).unwrap();
        let (count, mut seen) = (golden.len(), 0);
        each_document(&dir, run, name, shots, &mut |document| {
            let Some(expected) = golden.get(&(document.task.to_string(), document.doc_id as u64)) else { return };
            seen += 1;
            let mut problems = support::request_problems(&document, expected);
            // And the figures for the answers that were recorded.
            let task = tasks.iter().find(|task| *task.name == *document.task).unwrap();
            let answer = recorded.answer(&document).unwrap().unwrap();
            let scored = Metrics::new(task, &random).unwrap().score(&document, &answer, Some(support::EOS)).unwrap();
            problems.extend(support::figure_problems(&document, &scored, expected));
            assert!(problems.is_empty(), "{}", problems.join("\n"));
        });
        assert_eq!(seen, count, "{run}");
    }
}
