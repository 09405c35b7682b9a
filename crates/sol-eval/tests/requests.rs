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
use sol_eval::document::{Answer, Ask, Document};
use sol_eval::log::Recorded;
use sol_eval::metrics::Metrics;
use sol_eval::prompt::{Chat, Prepared, Settings};
use sol_eval::python::Random;
use sol_eval::results::{Aggregate, Tally, groups};
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
const RUNS: [(&str, &str, Option<usize>); 10] = [
    ("mmlu", "mmlu", Some(5)),
    ("mmlu_pro", "leaderboard_mmlu_pro", Some(5)),
    ("arc_challenge", "arc_challenge", Some(25)),
    ("gpqa", "leaderboard_gpqa", None),
    ("hellaswag", "hellaswag", Some(10)),
    ("bbh", "leaderboard_bbh", Some(3)),
    ("musr", "leaderboard_musr", None),
    ("gsm8k", "gsm8k_cot", Some(8)),
    ("ifeval", "leaderboard_ifeval", None),
    ("eq_bench", "eq_bench", None),
];

fn load(dir: &Path, run: &str, name: &str, num_fewshot: Option<usize>) -> (Settings<'static>, Vec<Prepared>) {
    let chat = ["ifeval", "eq_bench"].contains(&run).then_some(&support::chatml as &Chat);
    let settings = Settings { num_fewshot, chat, ..Settings::default() };
    let random = Arc::new(Mutex::new(Random::new(0)));
    let data = Source::folder(if run == "gpqa" { dir.join("data/gpqa_synthetic") } else { dir.join("data") });
    let tasks = Registry::built_in().unwrap().select(&[name.to_owned()]).unwrap();
    (settings, tasks.iter().map(|task| Prepared::load(task, &data, &settings, &random, &sol_hub::Silent).unwrap()).collect())
}

fn each_document(prepared: &Prepared, settings: &Settings<'_>, each: &mut dyn FnMut(Document)) {
    let found = prepared.documents(settings, &mut |document| {
        each(document);
        Ok(())
    });
    found.unwrap();
}

fn lines(file: &Path) -> Vec<Value> {
    let lines = BufReader::new(flate2::read::MultiGzDecoder::new(std::fs::File::open(file).unwrap())).lines();
    lines.map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect()
}

fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn whole_test_sets_have_the_digests_of_the_harness() {
    let Some(dir) = shared() else { return };
    let digests: Value = serde_json::from_slice(&std::fs::read(dir.join("golden/full_digests.json")).unwrap()).unwrap();
    let registry = Registry::built_in().unwrap();
    for (run, name, shots) in RUNS {
        let (settings, prepared) = load(&dir, run, name, shots);
        let expected = digests[run]["requests_sha256"].as_object().unwrap();
        assert_eq!(prepared.len(), expected.len(), "{run}");
        let mut results = Vec::new();
        for prepared in &prepared {
            let (mut requests, mut digest) = (0, Sha256::new());
            let metrics = Metrics::new(prepared.task(), prepared.random(), None).unwrap();
            let mut tally = Tally::new(prepared.task());
            each_document(prepared, &settings, &mut |document| {
                let asked = match &document.ask {
                    Ask::Choices(choices) => choices.clone(),
                    // Keys are sorted; this is Python's spelling of what a task file can say.
                    Ask::Generate(kwargs) => {
                        let pair = |(k, v): (&String, &Value)| format!("\"{k}\": {}", v.to_string().replace("\",\"", "\", \""));
                        let mut pairs: Vec<String> = kwargs.0.iter().map(pair).collect();
                        pairs.sort();
                        vec![format!("{{{}}}", pairs.join(", "))]
                    }
                    Ask::Rolling => panic!("none of these"),
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
                    tally.push(&document, metrics.score(&document, &answer, None).unwrap());
                }
                for asked in asked {
                    requests += 1;
                    digest.update(document.context.as_bytes());
                    digest.update([0x1f]);
                    digest.update(asked.as_bytes());
                    digest.update([0x1e]);
                }
            });
            let task = &prepared.task().name;
            assert_eq!(requests, digests[run]["requests"][task].as_u64().unwrap(), "{task}");
            let digest: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(digest, expected[task].as_str().unwrap(), "{task}");
            results.push(tally.finish(prepared));
        }
        let same = |name: &str, figure: &Aggregate| {
            let expected = &digests[run]["results"][name];
            let Aggregate { metric, filter, .. } = figure;
            let value = expected[format!("{metric},{filter}")].as_f64().unwrap();
            let stderr = expected[format!("{metric}_stderr,{filter}")].as_f64().unwrap();
            assert!((value - figure.value).abs() < 1e-9 && (stderr - figure.stderr.unwrap()).abs() < 1e-9, "{name}");
        };
        results.iter().for_each(|t| t.figures.iter().for_each(|figure| same(&t.task.name, figure)));
        groups(&registry, &results).iter().filter(|g| g.weighted).for_each(|g| same(&g.name, &g.by_size));
    }
}

#[test]
fn requests_and_figures_are_those_of_the_harness() {
    let Some(dir) = shared() else { return };
    for (run, name, shots) in RUNS.into_iter().chain([("mmlu_pro_generative", "mmlu_pro", None)]) {
        let file = dir.join(format!("golden/{run}.jsonl.gz"));
        let key = |line: &Value| (line["task"].as_str().unwrap().to_owned(), line["doc_id"].as_u64().unwrap());
        let golden: HashMap<(String, u64), Value> = lines(&file).into_iter().map(|line| (key(&line), line)).collect();
        let recorded = Recorded::open(&[file]).unwrap();
        let (settings, prepared) = load(&dir, run, name, shots);
        let mut seen = 0;
        for prepared in &prepared {
            let metrics = Metrics::new(prepared.task(), prepared.random(), None).unwrap();
            each_document(prepared, &settings, &mut |document| {
                let Some(expected) = golden.get(&(document.task.to_string(), document.doc_id as u64)) else { return };
                seen += 1;
                let mut problems = support::request_problems(&document, expected);
                // And the figures for the answers that were recorded.
                let answer = recorded.answer(&document).unwrap().unwrap();
                let scored = metrics.score(&document, &answer, Some(support::EOS)).unwrap();
                problems.extend(support::figure_problems(&document, &scored, expected));
                assert!(problems.is_empty(), "{run}: {}", problems.join("\n"));
            });
        }
        assert_eq!(seen, golden.len(), "{run}");
    }
}

#[test]
fn emotions_score_as_in_the_harness() {
    let Some(dir) = shared() else { return };
    let (settings, prepared) = load(&dir, "eq_bench", "eq_bench", None);
    let mut documents = Vec::new();
    each_document(&prepared[0], &settings, &mut |document| documents.push(document));
    let metrics = Metrics::new(prepared[0].task(), prepared[0].random(), None).unwrap();
    let vectors = lines(&dir.join("golden/vectors/eq_bench_scores.jsonl.gz"));
    for vector in &vectors {
        let document = &documents[vector["doc_id"].as_u64().unwrap() as usize];
        let text = vector["response"].as_str().unwrap();
        // The vectors are of the scorer alone: what is said after an empty line counts.
        let mut document = document.clone();
        let Ask::Generate(kwargs) = &mut document.ask else { panic!("a generation") };
        kwargs.0.insert("until".into(), Value::Array(Vec::new()));
        let scored = metrics.score(&document, &Answer::Texts(vec![text.to_owned()]), None).unwrap();
        for figure in scored.figures {
            let expected = vector[&figure.metric].as_f64().unwrap();
            assert!(
                (figure.value - expected).abs() < 1e-9,
                "{text:?}: {} is {}, expected {expected}",
                figure.metric,
                figure.value
            );
        }
    }
    assert!(vectors.len() > 100);
}

/// Prompts and tests of all problems, and programs and pass@1 of recorded answers; verdicts are those that were recorded.
#[test]
fn programs_are_those_of_the_harness() {
    let Some(dir) = shared() else { return };
    let (settings, prepared) = load(&dir, "mbpp", "mbpp", None);
    let mut documents = Vec::new();
    each_document(&prepared[0], &settings, &mut |document| documents.push(document));
    let digests = lines(&dir.join("golden/mbpp_prompts_all.jsonl.gz"));
    assert_eq!(documents.len(), digests.len());
    for (document, digest) in documents.iter().zip(&digests) {
        assert_eq!(digest["prompt_sha256"], sha256(&document.context), "{}", document.doc_id);
        assert_eq!(digest["reference_sha256"], sha256(document.target.as_str().unwrap()), "{}", document.doc_id);
    }
    let golden = lines(&dir.join("golden/mbpp.jsonl.gz"));
    let recorded = Recorded::open(&[dir.join("golden/mbpp.jsonl.gz")]).unwrap();
    let mut tally = Tally::new(prepared[0].task());
    for line in &golden {
        let document = &documents[line["doc_id"].as_u64().unwrap() as usize];
        let texts = |key: &str| line[key].as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned());
        let reference = line["reference"].as_str().unwrap();
        let expected: Vec<String> = texts("postprocessed").map(|program| format!("{program}\n{reference}")).collect();
        let execute = |programs: &[String]| {
            assert_eq!(programs, expected, "{}", document.doc_id);
            Ok(texts("results").collect())
        };
        let metrics = Metrics::new(prepared[0].task(), prepared[0].random(), Some(&execute)).unwrap();
        let answer = recorded.answer(document).unwrap().unwrap();
        tally.push(document, metrics.score(document, &answer, Some(support::EOS)).unwrap());
    }
    let summary: Value = serde_json::from_slice(&std::fs::read(dir.join("golden/summary_mbpp.json")).unwrap()).unwrap();
    let result = tally.finish(&prepared[0]);
    assert_eq!((result.figures[0].metric.as_str(), result.figures.len()), ("pass@1", 1));
    assert!((result.figures[0].value - summary["mbpp"]["pass@1"].as_f64().unwrap()).abs() < 1e-12);
}
