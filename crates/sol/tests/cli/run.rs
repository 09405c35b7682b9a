//! `sol run` as people and programs use it, on tiny models whose answers transformers gave (`chat.json`).

use std::io::{BufReader, Read};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Machine, fixture, outcome};
use serde_json::Value;

/// Each model as a directory and as one GGUF file.
const MODELS: [(&str, &str); 4] = [
    ("chat-tiny", "chat-tiny"),
    ("chat-tiny", "chat-tiny.gguf"),
    ("solar-tiny", "solar-tiny"),
    ("solar-tiny", "solar-tiny.gguf"),
];

/// A prompt of chat-tiny and its answer, which the model ends by itself.
const PROMPT: &str = "Describe été.";
const ANSWER: &str = "an8 wat count: c wereouZone";

/// Never ends by itself.
const ENDLESS: [&str; 4] = ["--ignore-eos", "--shift", "-n", "1000000000"];

fn cases(name: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(fixture(&format!("{name}/chat.json"))).unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["cases"].as_array().unwrap().clone()
}

fn list(ids: &Value) -> String {
    ids.as_array().unwrap().iter().map(Value::to_string).collect::<Vec<_>>().join(",")
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn answers_are_those_of_transformers() {
    let machine = Machine::new();
    for (name, file) in MODELS {
        for case in cases(name) {
            let [message] = case["messages"].as_array().unwrap().as_slice() else { continue };
            let prompt = message["content"].as_str().unwrap();
            let expected = case["answer"].as_str().unwrap();
            let model = fixture(file);
            let answer = machine.run(&["run", "-m", &model, "-n", "32", prompt]).ok();
            assert_eq!(answer, format!("{expected}\n"), "{file}: {}", case["name"]);

            let report = json(&machine.run(&["run", "-m", &model, "-n", "32", prompt, "--json"]).ok());
            assert_eq!(report["text"], *expected);
            assert_eq!(report["finish"], if case["stops"] == true { "end_of_turn" } else { "max_tokens" });
            assert_eq!(report["prompt_tokens"], case["prompt_ids"].as_array().unwrap().len());
            assert_eq!(report["answer_tokens"], case["answer_tokens"]);
        }
    }
}

#[test]
fn ids_in_and_ids_out() {
    let machine = Machine::new();
    for (name, file) in MODELS {
        for case in cases(name) {
            let (prompt, expected) = (list(&case["prompt_ids"]), list(&case["greedy_ids"]));
            let args = ["run", "-m", &fixture(file), "--ids", &prompt, "-n", "32", "--ignore-eos"];
            assert_eq!(machine.run(&args).ok(), format!("{expected}\n"), "{file}: {}", case["name"]);
            let report = json(&machine.run(&[args.as_slice(), &["--json"]].concat()).ok());
            assert_eq!(list(&report["ids"]), expected);
        }
    }
    // A checkpoint without a tokenizer has ids only.
    let report = json(&machine.run(&["run", "-m", &fixture("models/llama"), "--ids", "[1, 2, 3]", "-n", "4", "--json"]).ok());
    assert_eq!(report["ids"].as_array().unwrap().len(), 4);
    assert!(report.get("text").is_none());
}

#[test]
fn a_piped_prompt_is_answered_once() {
    let machine = Machine::new();
    let model = fixture("chat-tiny");
    let answer = format!("{ANSWER}\n");
    assert_eq!(machine.pipe(PROMPT.as_bytes(), &["run", "-m", &model]).ok(), answer);
    assert_eq!(machine.pipe(format!("{PROMPT}\n").as_bytes(), &["run", "-m", &model]).ok(), answer);
    assert_eq!(machine.pipe(b"", &["run", "-m", &model, PROMPT]).ok(), answer, "an empty pipe adds nothing");

    let both = machine.pipe(b"world\n", &["run", "-m", &model, "Hello", "-n", "9"]).ok();
    assert_eq!(both, machine.run(&["run", "-m", &model, "Hello\n\nworld", "-n", "9"]).ok());
}

#[test]
fn stdout_has_the_answer_and_stderr_the_rest() {
    let machine = Machine::new();
    let model = fixture("chat-tiny");
    let run = machine.run(&["run", "-m", &model, PROMPT, "-v"]);
    assert_eq!(run.stdout, format!("{ANSWER}\n"));
    assert!(run.stderr.contains("27 tokens") && run.stderr.contains("tokens/s"), "{}", run.stderr);

    let cut = machine.run(&["run", "-m", &model, PROMPT, "-n", "4"]);
    assert!(cut.stderr.contains("cut after 4 tokens"), "{}", cut.stderr);
    let quiet = machine.run(&["run", "-m", &model, PROMPT, "-n", "4", "-q"]);
    assert_eq!((quiet.stdout, quiet.stderr.as_str()), (cut.stdout, ""));
}

#[test]
fn stop_strings_end_the_answer_and_are_not_part_of_it() {
    let machine = Machine::new();
    let model = fixture("chat-tiny");
    for (stops, expected) in [(["count:", "nt: c"], "an8 wat "), ([" c w", "nothing like it"], "an8 wat count:")] {
        let run = machine.run(&["run", "-m", &model, PROMPT, "--stop", stops[0], "--stop", stops[1]]);
        assert_eq!(run.ok(), format!("{expected}\n"));
    }
}

#[test]
fn a_seed_gives_the_same_text_on_any_number_of_threads() {
    let machine = Machine::new();
    let model = fixture("chat-tiny");
    let run =
        |extra: &[&str]| machine.run(&[&["run", "-m", &model, PROMPT, "--temperature", "1.5", "-n", "40"], extra].concat()).ok();
    let first = run(&["--seed", "7", "--threads", "1"]);
    assert_eq!(first, run(&["--seed", "7", "--threads", "2"]));
    assert_eq!(first, run(&["--seed", "7", "--threads", "3"]));
    assert_ne!(first, run(&["--seed", "8"]));
    assert_ne!(run(&[]), run(&[]), "without a seed, each run has another");

    let report = json(&run(&["--json"]));
    let seed = report["seed"].to_string();
    assert_eq!(json(&run(&["--json", "--seed", &seed]))["text"], report["text"], "the seed of a run can be used again");
}

#[test]
fn sampling_flags_do_what_they_say() {
    let machine = Machine::new();
    let model = fixture("chat-tiny");
    let run = |extra: &[&str]| machine.run(&[&["run", "-m", &model, PROMPT, "-n", "30"], extra].concat());
    let greedy = run(&[]).ok();
    // Sampling from one token is greedy, whatever says that only one is left.
    for one in [["--top-k", "1"], ["--top-p", "0.0001"], ["--min-p", "1"]] {
        let sampled = run(&one);
        assert!(sampled.stderr.contains("asks for sampling"), "{}", sampled.stderr);
        assert_eq!(sampled.stdout, greedy);
    }
    // 278 is the greedy answer's first token, "an".
    assert!(!run(&["--logit-bias", "278=-inf"]).ok().starts_with("an"));
    assert_ne!(run(&["--repetition-penalty", "2"]).ok(), greedy);
    let endless = run(&["--ignore-eos"]).ok();
    for penalty in ["--frequency-penalty", "--presence-penalty"] {
        assert_ne!(run(&["--ignore-eos", penalty, "9"]).ok(), endless, "it repeats itself otherwise");
    }
    let note = run(&["--seed", "1"]).stderr;
    assert!(note.contains("no effect"), "{note}");
}

#[test]
fn raw_text_is_continued_without_a_template() {
    let machine = Machine::new();
    let model = fixture("chat-tiny");
    let report = json(&machine.run(&["run", "-m", &model, "--raw", "Hello, world!", "-n", "5", "--json"]).ok());
    assert_eq!(report["prompt_tokens"], 8, "as chat.json has it, and no <s>");
    let ids = machine.run(&["run", "-m", &model, "--ids", "42,283,339,14,264,301,336,3", "-n", "5"]).ok();
    assert_eq!(format!("{}\n", list(&report["ids"])), ids);
}

#[test]
fn solar_has_no_system_prompt() {
    let machine = Machine::new();
    for file in ["solar-tiny", "solar-tiny.gguf"] {
        let model = fixture(file);
        let refused = machine.run(&["run", "-m", &model, "--system", "Be brief.", "Hello!"]).error();
        assert!(refused.contains("--system-as-user"), "{refused}");
        let folded = machine.run(&["run", "-m", &model, "-n", "9", "--system", "Be brief.", "--system-as-user", "Hello!"]).ok();
        assert_eq!(folded, machine.run(&["run", "-m", &model, "-n", "9", "Be brief.\n\nHello!"]).ok());
    }
    let model = fixture("chat-tiny");
    let with = machine.run(&["run", "-m", &model, "--system", "Be brief.", PROMPT, "-n", "9"]).ok();
    assert_ne!(with, machine.run(&["run", "-m", &model, PROMPT, "-n", "9"]).ok());
}

#[test]
fn a_full_context_is_an_error_unless_it_shifts() {
    let machine = Machine::new();
    let model = fixture("chat-tiny");
    let base = ["run", "-m", &model, PROMPT, "--ctx", "40", "--ignore-eos"];
    let run = |extra: &[&str]| machine.run(&[base.as_slice(), extra].concat());
    let error = run(&["-n", "20"]).error();
    for part in ["47 tokens are needed", "27 of the prompt", "holds 40", "--shift"] {
        assert!(error.contains(part), "{error}");
    }
    assert_eq!(json(&run(&["-n", "60", "--shift", "--json"]).ok())["answer_tokens"], 60);
    // Without a wish, the answer ends where the context does.
    assert_eq!(json(&run(&["--json"]).ok())["finish"], "context_full");
    let note = run(&[]).stderr;
    assert!(note.contains("context of 40 tokens is full"), "{note}");

    let long = "word ".repeat(100);
    let error = machine.run(&["run", "-m", &model, &long, "--ctx", "40"]).error();
    assert!(error.contains("holds 40"), "{error}");
    let shifted = machine.run(&["run", "-m", &model, &long, "--ctx", "40", "--shift", "-n", "3", "--json"]).ok();
    assert_eq!(json(&shifted)["answer_tokens"], 3);
    // The smallest contexts shift too.
    for ctx in ["1", "2", "3"] {
        machine.run(&["run", "-m", &model, "--ids", "5,6,7,8", "--ctx", ctx, "--shift", "-n", "9", "--ignore-eos"]).ok();
    }
}

#[test]
fn what_makes_no_sense_is_refused_in_a_sentence() {
    let machine = Machine::new();
    let model = fixture("chat-tiny");
    let gguf = fixture("gguf/llama/model.gguf");
    let m = ["run", "-m", &model];
    for (args, words) in [
        (&[m.as_slice(), &[""]].concat()[..], "prompt is empty"),
        (&[m.as_slice(), &[" \n "]].concat(), "prompt is empty"),
        (&m, "prompt is empty"),
        (&[m.as_slice(), &["--ids", ""]].concat(), "prompt is empty"),
        (&[m.as_slice(), &["--ids", "1,999"]].concat(), "999 is not in the vocabulary of 389"),
        (&[m.as_slice(), &["x", "--threads", "0"]].concat(), "--threads 0"),
        (&[m.as_slice(), &["x", "--ctx", "0"]].concat(), "--ctx"),
        (&[m.as_slice(), &["x", "--ctx", "9999999999999"]].concat(), "the model's is 512"),
        (&[m.as_slice(), &["x", "-n", "0"]].concat(), "--max-tokens"),
        (&[m.as_slice(), &["x", "-n", "18446744073709551615"]].concat(), "holds 512"),
        (&[m.as_slice(), &["x", "--temperature", "-1"]].concat(), "--temperature"),
        (&[m.as_slice(), &["x", "--temperature", "nan"]].concat(), "--temperature"),
        (&[m.as_slice(), &["x", "--top-p", "7"]].concat(), "--top-p"),
        (&[m.as_slice(), &["x", "--logit-bias", "99999=1"]].concat(), "99999"),
        (&["run", "-m", "solr-pro", "x"], "solar-pro"),
        (&["run", "-m", "nothing.gguf", "x"], "nothing.gguf"),
        (&["run", "-m", "org/name", "x"], "HF_HUB_OFFLINE"),
        (&["run", "-m", &gguf, "x"], "--ids"),
        (&["run", "-m", &gguf, "--raw", "x"], "--ids"),
    ] {
        let error = machine.run(args).error();
        assert!(error.contains(words), "{args:?}: {error}");
    }
    // Flags that clap refuses.
    for flags in [["--top-k", "x"], ["--logit-bias", "1"], ["--ids", "a"], ["--seed", "-1"], ["--device", "tpu"]] {
        let run = machine.run(&[m.as_slice(), &flags].concat());
        assert_eq!((run.code, run.stdout.as_str()), (Some(2), ""), "{flags:?}: {}", run.stderr);
    }
}

#[test]
fn ten_megabytes_and_bytes_that_are_no_text() {
    let machine = Machine::new();
    let model = fixture("chat-tiny");
    for piece in ["Hello, world! ", "a", "\u{1f31e}"] {
        let start = Instant::now();
        let text = piece.repeat(10_000_000 / piece.len());
        for raw in [&[][..], &["--raw"]] {
            let error = machine.pipe(text.as_bytes(), &[&["run", "-m", &model], raw].concat()).error();
            assert!(error.contains("much too long") && error.contains("holds 512"), "{error}");
        }
        assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    }

    let error = machine.pipe(b"caf\xe9", &["run", "-m", &model]).error();
    assert!(error.contains("not UTF-8") && error.contains("0xe9"), "{error}");
}

#[cfg(unix)]
#[test]
fn an_argument_that_is_no_text() {
    use std::os::unix::ffi::OsStrExt;
    let machine = Machine::new();
    let mut command = machine.sol(&["run", "-m", &fixture("chat-tiny")]);
    let error = outcome(command.arg(std::ffi::OsStr::from_bytes(b"caf\xe9")).output().unwrap()).error();
    assert!(error.contains("not UTF-8"), "{error}");
}

#[test]
fn weights_that_are_no_numbers_are_named() {
    let machine = Machine::new();
    let copy = machine.dir.path().join("broken");
    std::fs::create_dir(&copy).unwrap();
    for entry in std::fs::read_dir(fixture("chat-tiny")).unwrap().flatten() {
        std::fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    let name = "model.layers.1.mlp.up_proj.weight";
    let path = copy.join("model.safetensors");
    let mut file = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let offsets = json(std::str::from_utf8(&file[8..8 + header]).unwrap())[name]["data_offsets"].clone();
    let at = 8 + header + offsets[0].as_u64().unwrap() as usize;
    file[at..at + 2].copy_from_slice(&0x7fc0u16.to_le_bytes());
    std::fs::write(&path, file).unwrap();
    let error = machine.run(&["run", "-m", copy.to_str().unwrap(), "x"]).error();
    assert!(error.contains(name), "{error}");
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let machine = Machine::new();
    let mut command = machine.sol(&["run", "-m", &fixture("chat-tiny"), PROMPT]);
    let mut child = command.args(ENDLESS).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut few = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut few).unwrap();
    let run = outcome(child.wait_with_output().unwrap());
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_an_error() {
    let machine = Machine::new();
    let mut command = machine.sol(&["run", "-m", &fixture("chat-tiny"), PROMPT]);
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let error = outcome(command.stdout(full).stderr(Stdio::piped()).output().unwrap()).error();
    assert!(error.contains("stdout"), "{error}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_with_130_and_keeps_what_was_shown() {
    let machine = Machine::new();
    let mut command = machine.sol(&["run", "-m", &fixture("chat-tiny"), PROMPT]);
    let mut child = command.args(ENDLESS).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut few = [0; 10];
    stdout.read_exact(&mut few).unwrap();
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    let run = outcome(child.wait_with_output().unwrap());
    assert_eq!(run.code, Some(130), "{}", run.stderr);
    assert!(rest.ends_with(b"\n") && run.stderr.contains("interrupted"), "{}", run.stderr);
}

#[test]
fn a_pipe_that_stays_silent_is_no_trap() {
    let machine = Machine::new();
    let model = fixture("chat-tiny");
    let mut command = machine.sol(&["run", "-m", &model, PROMPT]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let held_open = child.stdin.take();
    let run = outcome(child.wait_with_output().unwrap());
    drop(held_open);
    assert!(run.stderr.contains("nothing came on stdin"), "{}", run.stderr);
    assert_eq!(run.ok(), format!("{ANSWER}\n"));
}

#[test]
fn an_answer_has_the_form_that_a_file_describes() {
    let machine = Machine::new();
    let model = fixture("chat-tiny");
    let write = |name: &str, text: &str| std::fs::write(machine.dir.path().join(name), text).unwrap();
    write(
        "schema.json",
        r#"{"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": false}"#,
    );
    write("sum.lark", "start: /[0-9]{2}/ \"+\" /[0-9]{2}/\n");
    write("never.json", r#"{"type": "integer", "minimum": 2, "maximum": 1}"#);
    write("text.txt", "no JSON");
    let run = |args: &[&str]| machine.run(&[&["run", "-m", &model, "--temperature", "2", PROMPT], args].concat());
    for seed in ["1", "2", "3"] {
        assert!(json(&run(&["--json-schema", "schema.json", "--seed", seed]).ok())["ok"].is_boolean());
        let sum = run(&["--grammar", "sum.lark", "--seed", seed]).ok();
        assert!(sum.len() == 6 && sum.as_bytes()[2] == b'+', "{sum}");
    }
    for (args, part) in [
        (["--json-schema", "nothing.json"], "nothing.json can not be read"),
        (["--json-schema", "text.txt"], "text.txt is not JSON"),
        (["--json-schema", "never.json"], "minimum (2) is greater"),
        (["--grammar", "text.txt"], "text.txt"),
    ] {
        let error = run(&args).error();
        assert!(error.contains(part), "{error}");
    }
}
