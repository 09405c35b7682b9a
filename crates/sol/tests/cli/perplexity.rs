//! `sol perplexity` against float32 PyTorch (`xtools/make_perplexity_fixtures.py`).

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::{Machine, fixture};

/// A machine with the text, and what is known about it.
fn machine() -> (Machine, Value) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sol-engine/tests/data/perplexity.json");
    let known: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let machine = Machine::new();
    fs::write(machine.dir.path().join("text.txt"), known["text"].as_str().unwrap()).unwrap();
    (machine, known)
}

#[test]
fn perplexity_is_that_of_pytorch() {
    let (machine, known) = machine();
    for case in known["cases"].as_array().unwrap() {
        let model = fixture(case["model"].as_str().unwrap());
        let chunk = case["chunk"].to_string();
        let stdout = machine.run(&["perplexity", "--json", "-m", &model, "-f", "text.txt", "--ctx", &chunk]).ok();
        let got: Value = serde_json::from_str(&stdout).unwrap();
        for (key, expected) in [("perplexity", &case["value"]), ("error", &case["error"])] {
            let ratio = got[key].as_f64().unwrap() / expected.as_f64().unwrap();
            assert!((ratio - 1.0).abs() < 1e-4, "{case}: {got}");
        }
        assert_eq!((&got["tokens"], &got["ctx"]), (&case["tokens"], &case["chunk"]));
    }
}

#[test]
fn the_result_is_one_line() {
    let (machine, _) = machine();
    let model = fixture("chat-tiny");
    let run = |chunks: &str| machine.run(&["perplexity", "-m", &model, "-f", "text.txt", "--ctx", "64", "--chunks", chunks]).ok();
    let stdout = run("2");
    let (value, error) = stdout.strip_prefix("PPL = ").unwrap().split_once(" +/- ").unwrap();
    assert!(value.parse::<f64>().unwrap() > 1.0 && error.trim_end().parse::<f64>().unwrap() > 0.0);
    assert_ne!(stdout, run("1"));
}

#[test]
fn what_can_not_be_scored_is_refused() {
    let (machine, _) = machine();
    let write = |name: &str, bytes: &[u8]| fs::write(machine.dir.path().join(name), bytes).unwrap();
    write("short.txt", b"too short");
    write("empty.txt", b"");
    write("binary.txt", b"abc\xff");
    let model = fixture("chat-tiny");
    let error = |file: &str, args: &[&str]| machine.run(&[&["perplexity", "-m", &model, "-f", file], args].concat()).error();
    assert!(error("none.txt", &[]).contains("none.txt"));
    assert!(error("short.txt", &[]).contains("needs at least 512"));
    assert!(error("empty.txt", &[]).contains("0 tokens"));
    assert!(error("binary.txt", &[]).contains("UTF-8"));
    assert!(error("text.txt", &["--ctx", "2"]).contains("at least 3"));
    assert!(error("text.txt", &["--ctx", "513"]).contains("512"));
}
