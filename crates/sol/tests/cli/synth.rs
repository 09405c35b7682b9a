//! `sol synth`, and what other verbs make of its files.

use std::fs;

use serde_json::Value;

use crate::support::Machine;

/// The smallest file: 18 MB, nearly all of it the embedding table.
const SMALL: [&str; 8] = ["synth", "--like", "smollm2", "--layers", "1", "--type", "q2_k", "-o"];

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn files(machine: &Machine) -> Vec<String> {
    let names = fs::read_dir(machine.dir.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains("gguf")).collect()
}

#[test]
fn a_synthetic_model_is_inspected_and_runs() {
    let machine = Machine::new();
    let report = json(&machine.run(&[&SMALL[..], &["a.gguf", "--json"]].concat()).ok());
    let len = fs::metadata(machine.dir.path().join("a.gguf")).unwrap().len();
    assert_eq!((&report["bytes"], &report["layers"], &report["architecture"]), (&len.into(), &1.into(), &"llama".into()));

    let about = json(&machine.run(&["inspect", "--json", "a.gguf"]).ok());
    assert_eq!((&about["elements"], &about["error"]), (&report["parameters"], &Value::Null));

    let args = ["run", "-m", "a.gguf", "-n", "4", "--ignore-eos", "--json", "Hi"];
    let answer = json(&machine.run(&args).ok());
    assert_eq!(answer["answer_tokens"], 4);
    // <s> <|im_start|> user \n Hi <|im_end|> \n <|im_start|> assistant \n, in letters and with spaces after special tokens.
    assert!(answer["prompt_tokens"].as_u64().unwrap() > 10);

    let ids = machine.pipe("Hi é".as_bytes(), &["tokenize", "-m", "a.gguf"]).ok();
    assert_eq!(ids.trim(), "[1,259,299,332,259,198,172]");

    // Text in one line without --json, and the same bytes again.
    let line = machine.run(&[&SMALL[..], &["b.gguf"]].concat()).ok();
    assert!(line.starts_with("b.gguf: llama, 1 layer, ") && line.contains(" in q2_k; 1"), "{line}");
    let read = |name: &str| fs::read(machine.dir.path().join(name)).unwrap();
    assert!(read("a.gguf") == read("b.gguf"));
}

#[test]
fn a_file_that_is_there_is_replaced_only_by_force() {
    let machine = Machine::new();
    let path = machine.dir.path().join("a.gguf");
    fs::write(&path, "mine").unwrap();
    let error = machine.run(&[&SMALL[..], &["a.gguf"]].concat()).error();
    assert!(error.contains("a.gguf is there already and is not overwritten; --force replaces it"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    machine.run(&[&SMALL[..], &["a.gguf", "--force"]].concat()).ok();
    assert!(fs::metadata(&path).unwrap().len() > 1_000_000);
    assert_eq!(files(&machine), ["a.gguf"]);
}

#[test]
fn what_makes_no_sense_is_refused_and_leaves_nothing() {
    let machine = Machine::new();
    let error = |args: &[&str]| machine.run(&[&["synth", "-o", "a.gguf"], args].concat()).error();
    assert!(error(&["--layers", "0"]).contains("a model has 1 to 512 layers, not 0"));
    assert!(error(&["--like", "phi-3-medium", "--as", "llama"]).contains("another form (phi3)"));
    for (args, expected) in [
        (["--like", "solar-por"], "did you mean solar-pro?"),
        (["--type", "q4_k_x"], "did you mean q4_k"),
        (["--type", "nonsense"], "known are f32, f16"),
        (["--as", "phi3"], "possible values: llama"),
    ] {
        let outcome = machine.run(&[&["synth", "-o", "a.gguf"][..], &args].concat());
        assert_eq!(outcome.code, Some(2));
        assert!(outcome.stderr.contains(expected), "{}", outcome.stderr);
    }
    let error = machine.run(&[&SMALL[..], &["nowhere/a.gguf"]].concat()).error();
    assert!(error.contains("can not write nowhere/a.gguf: "), "{error}");
    let error = machine.run(&[&SMALL[..], &[".", "--force"]].concat()).error();
    assert!(error.contains("can not replace .: it is no file"), "{error}");
    assert_eq!(files(&machine), [""; 0]);
}

/// Ctrl-C ends it with 130 and leaves nothing.
#[cfg(target_os = "linux")]
#[test]
fn an_interrupt_leaves_nothing() {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    let machine = Machine::new();
    let mut command = machine.sol(&["synth", "--type", "q2_k", "--threads", "1", "-o", "a.gguf"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    while files(&machine).is_empty() && start.elapsed() < Duration::from_secs(20) {
        if child.try_wait().unwrap().is_some() {
            // No room for seven gigabytes here, which other tests are about.
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    let code = child.wait().unwrap().code();
    assert_eq!((code, files(&machine)), (Some(130), vec![]));
}
