//! `sol tokenize` against the ids that transformers gives.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::support::{Machine, fixture};

const MODELS: [&str; 4] = ["chat-tiny", "chat-tiny.gguf", "solar-tiny", "solar-tiny.gguf"];

/// The texts of a fixture with their ids: transformers reads special tokens wherever they are.
fn texts(model: &str) -> Vec<Value> {
    let path = Path::new(&fixture(model.trim_end_matches(".gguf"))).join("chat.json");
    let value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    value["texts"].as_array().unwrap().clone()
}

/// `--lines` on JSON values.
fn lines(model: &str, values: impl Iterator<Item = Value>, args: &[&str]) -> Vec<Value> {
    let input: String = values.map(|v| v.to_string() + "\n").collect();
    let stdout = Machine::new().pipe(input.as_bytes(), &[&["tokenize", "-m", &fixture(model), "--lines"], args].concat()).ok();
    stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn ids_are_those_of_transformers_and_come_back_as_text() {
    for model in MODELS {
        let texts = texts(model);
        let column = |key: &str| texts.iter().map(|t| t[key].clone()).collect::<Vec<_>>();
        for (key, args) in [("ids", &["--parse-special"][..]), ("ids_no_special", &["--parse-special", "--no-bos"])] {
            assert_eq!(lines(model, column("text").into_iter(), args), column(key), "{model}");
            let back = lines(model, column(key).into_iter(), &[args, &["--decode"]].concat());
            assert_eq!(back, column("decoded"), "{model} {args:?}");
        }
    }
}

#[test]
fn one_text_is_taken_as_it_is() {
    let machine = Machine::new();
    for model in MODELS.map(fixture) {
        let text = "Hello, world!\n\n  two\tnaïve 🌞\n";
        let ids = machine.pipe(text.as_bytes(), &["tokenize", "-m", &model]).ok();
        assert!(serde_json::from_str::<Vec<u32>>(&ids).unwrap().len() > 5);
        assert_eq!(machine.pipe(ids.as_bytes(), &["tokenize", "-m", &model, "--decode"]).ok(), text);
        let json = machine.pipe(ids.as_bytes(), &["tokenize", "-m", &model, "--decode", "--json"]).ok();
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
        assert_eq!(machine.pipe(b"", &["tokenize", "-m", &model, "--no-bos"]).ok(), "[]\n");
    }
}

#[test]
fn special_tokens_are_text_unless_asked_for() {
    let text = json!("<|im_start|>user\nhi<|im_end|>");
    for model in MODELS {
        let plain = lines(model, std::iter::once(text.clone()), &[]);
        let special = lines(model, std::iter::once(text.clone()), &["--parse-special"]);
        assert!(special[0].as_array().unwrap().len() < plain[0].as_array().unwrap().len(), "{model}");
        for ids in [plain, special] {
            let back = lines(model, ids.into_iter(), &["--decode"]);
            assert_eq!(back[0].as_str().unwrap().replace("> user", ">user"), text.as_str().unwrap(), "{model}");
        }
    }
}

/// Another program can ask line by line: each answer comes before the next question.
#[test]
fn lines_are_answered_one_by_one() {
    let machine = Machine::new();
    let mut command = machine.sol(&["tokenize", "--lines", "--parse-special", "-m", &fixture("chat-tiny")]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut to, mut from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    for text in texts("chat-tiny") {
        writeln!(to, "{}", text["text"]).unwrap();
        let mut answer = String::new();
        from.read_line(&mut answer).unwrap();
        assert_eq!(serde_json::from_str::<Value>(&answer).unwrap(), text["ids"]);
    }
    drop(to);
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_directory_with_a_tokenizer_alone_is_enough() {
    let machine = Machine::new();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(Path::new(&fixture("solar-tiny")).join(name), machine.dir.path().join(name)).unwrap();
    }
    let ids = machine.pipe(b"Hello", &["tokenize", "-m", "."]).ok();
    assert_eq!(ids, machine.pipe(b"Hello", &["tokenize", "-m", &fixture("solar-tiny")]).ok());
}

#[test]
fn what_is_not_text_or_ids_is_refused() {
    let model = fixture("chat-tiny");
    let refused = |input: &[u8], args: &[&str], words: &[&str]| {
        let outcome = Machine::new().pipe(input, &[&["tokenize", "-m", &model], args].concat());
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        for word in words {
            assert!(outcome.stderr.contains(word), "'{word}' is not in: {}", outcome.stderr);
        }
    };
    refused(b"one\ntwo\xff", &[], &["UTF-8", "0xff", "line 2"]);
    refused(b"\"one\"\ntwo\n", &["--lines"], &["line 2", "JSON string"]);
    refused(b"\"one\"\n\n", &["--lines"], &["line 2"]);
    refused(b"\"one\"\n\"\xff\"\n", &["--lines"], &["line 2", "UTF-8"]);
    refused(b"[1, 2", &["--decode"], &["JSON array"]);
    refused(b"[1, -2]", &["--decode"], &["id -2", "number 2"]);
    refused(b"[389]", &["--decode"], &["id 389", "0 to 388"]);
    refused(b"[1]\n[1.5]\n", &["--decode", "--lines"], &["line 2"]);

    let outcome = Machine::new().pipe(b"x", &["tokenize", "-m", &fixture("models/llama")]);
    assert!(outcome.error().contains("no tokenizer"));
}
