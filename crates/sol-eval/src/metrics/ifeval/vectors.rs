//! The checks against what the harness, NLTK and langdetect themselves said: a slice that this crate carries, and all of
//! `../shared/eval/golden` where it exists.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};

use super::{Flags, langdetect, punkt, score, words};
use crate::python::Random;

fn shared() -> Option<PathBuf> {
    let beside = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared");
    let folder = PathBuf::from(std::env::var("SOL_SHARED").unwrap_or(beside.into())).join("eval");
    if !folder.exists() {
        println!("skipped: there is no {}", folder.display());
    }
    Some(folder).filter(|folder| folder.exists())
}

fn rows(path: &Path) -> Vec<Value> {
    let file = std::fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text).unwrap();
    text.split_terminator('\n').map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn flags(of: &Value, strict: &str, loose: &str) -> Flags {
    let flags = |key: &str| serde_json::from_value(of[key].clone()).unwrap();
    Flags { strict: flags(strict), loose: flags(loose) }
}

fn check_tokens(row: &Value) {
    let text = row["text"].as_str().unwrap();
    assert_eq!(json!(punkt::sentences(text)), row["sentences"], "{text:?}");
    assert_eq!(json!(words::words(text)), row["word_tokenize"], "{text:?}");
    assert_eq!(json!(super::length::WORDS.find_iter(text).count()), row["count_words"], "{text:?}");
}

fn check_language(row: &Value) {
    let text = row["text"].as_str().unwrap();
    assert_eq!(json!(langdetect::detect(text)), row["detect"], "{text:?}");
    let mut likely: Vec<_> = langdetect::chances(text).into_iter().flatten().filter(|(_, chance)| *chance > 0.1).collect();
    likely.sort_by(|a, b| b.1.total_cmp(&a.1));
    let expected = row["probabilities"].as_array().unwrap();
    assert_eq!(likely.len(), expected.len(), "{text:?}");
    for ((language, chance), expected) in likely.into_iter().zip(expected) {
        assert_eq!(expected[0], language, "{text:?}");
        assert!((chance - expected[1].as_f64().unwrap()).abs() < 1e-9, "{text:?}: {language} {chance}");
    }
}

/// Rows that `xtools/make_ifeval_vectors.py` makes.
fn check_all(path: &Path) {
    let mut random = Random::new(0);
    for row in rows(path) {
        match row["kind"].as_str().unwrap() {
            "tokens" => check_tokens(&row),
            "language" => check_language(&row),
            kind => {
                let random = if kind == "run" { &mut random } else { &mut Random::new(0) };
                let found = score(&row, row["response"].as_str().unwrap(), random).unwrap();
                assert_eq!(found, flags(&row, "strict", "loose"), "{row}");
            }
        }
    }
}

#[test]
fn carried_vectors() {
    check_all(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/ifeval.jsonl.gz")));
}

/// Vectors that the script made anew, more of them, in the file that `SOL_IFEVAL_VECTORS` names.
#[test]
fn more_vectors() {
    match std::env::var("SOL_IFEVAL_VECTORS") {
        Ok(path) => check_all(Path::new(&path)),
        Err(_) => println!("skipped: SOL_IFEVAL_VECTORS names no file"),
    }
}

#[test]
fn golden_tokens() {
    let Some(shared) = shared() else { return };
    rows(&shared.join("golden/vectors/nltk_tokenize.jsonl.gz")).iter().for_each(check_tokens);
}

#[test]
fn golden_languages() {
    let Some(shared) = shared() else { return };
    rows(&shared.join("golden/vectors/langdetect_seed0.jsonl.gz")).iter().for_each(check_language);
}

#[test]
fn golden_checkers() {
    let Some(shared) = shared() else { return };
    let documents = rows(&shared.join("data/ifeval/train.jsonl.gz"));
    for row in rows(&shared.join("golden/vectors/ifeval_checkers.jsonl.gz")) {
        let document = &documents[row["doc_id"].as_u64().unwrap() as usize];
        let found = score(document, row["response"].as_str().unwrap(), &mut Random::new(0)).unwrap();
        assert_eq!(found, flags(&row, "strict", "loose"), "{row}");
    }
}

#[test]
fn golden_run() {
    let Some(shared) = shared() else { return };
    let documents = rows(&shared.join("data/ifeval/train.jsonl.gz"));
    let mut random = Random::new(0);
    for row in rows(&shared.join("golden/ifeval.jsonl.gz")) {
        let id = row["doc_id"].as_u64().unwrap();
        let found = score(&documents[id as usize], row["response"].as_str().unwrap(), &mut random).unwrap();
        assert_eq!(found, flags(&row["metrics"]["none"], "inst_level_strict_acc", "inst_level_loose_acc"), "document {id}");
    }
}

#[test]
fn every_document_can_be_scored() {
    let Some(shared) = shared() else { return };
    let documents = rows(&shared.join("data/ifeval/train.jsonl.gz"));
    let answer = "**The answer**\n\nIt is a matter of fact, Dr. Smith said. \"See <<this>>\", he went on!\n".repeat(30);
    let start = Instant::now();
    for document in &documents {
        score(document, &answer, &mut Random::new(0)).unwrap();
    }
    println!("{} documents in {:?}", documents.len(), start.elapsed());
}
