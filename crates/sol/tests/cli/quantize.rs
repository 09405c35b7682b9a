//! `sol quantize` and `sol imatrix`.

use std::fs;

use serde_json::Value;

use crate::support::Machine;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// A machine with a model of one layer, 57 MB.
fn machine() -> Machine {
    let machine = Machine::new();
    machine.run(&["synth", "--like", "smollm2", "--layers", "1", "--type", "f16", "-o", "f16.gguf"]).ok();
    machine
}

#[test]
fn a_model_is_quantised_and_runs() {
    let machine = machine();
    let text = machine.run(&["quantize", "-m", "f16.gguf", "-o", "a.gguf", "q4_0"]).ok();
    let mut lines = text.lines();
    let columns: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(columns, ["tensor", "shape", "from", "to", "before", "after", "error"]);
    assert!(text.contains("token_embd.weight") && text.contains("F16 -> Q8_0"), "{text}");
    assert!(text.lines().last().unwrap().starts_with("a.gguf: q4_0, "), "{text}");

    let report = json(&machine.run(&["quantize", "-m", "f16.gguf", "-o", "b.gguf", "Q4_0", "--threads", "3", "--json"]).ok());
    let len = fs::metadata(machine.dir.path().join("b.gguf")).unwrap().len();
    assert_eq!((&report["bytes"], &report["type"]), (&len.into(), &"q4_0".into()));
    assert_eq!(report["tensors"].as_array().unwrap().len(), 8);
    assert!(report["tensors"][1]["relative_error"].as_f64().unwrap() > 0.01);
    let read = |name: &str| fs::read(machine.dir.path().join(name)).unwrap();
    assert!(read("a.gguf") == read("b.gguf"));

    let answer = json(&machine.run(&["run", "-m", "a.gguf", "-n", "4", "--ignore-eos", "--json", "Hi"]).ok());
    assert_eq!(answer["answer_tokens"], 4);

    let error = machine.run(&["quantize", "-m", "f16.gguf", "-o", "a.gguf", "q4_0"]).error();
    assert!(error.contains("a.gguf is there already and is not overwritten; --force replaces it"), "{error}");
    let error = machine.run(&["quantize", "-m", "a.gguf", "-o", "c.gguf", "q4_1"]).error();
    assert!(error.contains("is quantised already (Q4_0)"), "{error}");
    let outcome = machine.run(&["quantize", "-m", "f16.gguf", "-o", "c.gguf", "q4_k_n"]);
    assert!(outcome.code == Some(2) && outcome.stderr.contains("did you mean q4_k"), "{}", outcome.stderr);
    let error = machine.run(&["quantize", "-m", "f16.gguf", "-o", "c.gguf", "q4_0", "--imatrix", "a.gguf"]).error();
    assert!(error.contains("it is a model, not an importance matrix"), "{error}");
    assert!(!machine.dir.path().join("c.gguf").exists());
}

#[test]
fn an_importance_matrix_is_made_of_a_text() {
    let machine = machine();
    fs::write(machine.dir.path().join("text.txt"), "The quick brown fox jumps over the lazy dog. ".repeat(40)).unwrap();
    let args = ["imatrix", "-m", "f16.gguf", "-f", "text.txt", "-o", "i.gguf", "--ctx", "64", "--chunks", "3"];
    let report = json(&machine.run(&[&args[..], &["--json"]].concat()).ok());
    assert_eq!((&report["chunks"], &report["ctx"], &report["matrices"]), (&3.into(), &64.into(), &7.into()));
    let error = machine.run(&args).error();
    assert!(error.contains("i.gguf is there already"), "{error}");

    let quantize = ["quantize", "-m", "f16.gguf", "-o", "q.gguf", "q4_0", "--imatrix", "i.gguf", "--json"];
    let report = json(&machine.run(&quantize).ok());
    let weighed = report["tensors"].as_array().unwrap().iter().filter(|tensor| tensor["weighed"] == true).count();
    assert_eq!(weighed, 7);
}
