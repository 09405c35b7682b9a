//! `sol eval` on a task of the user's own and a tiny model.

use std::fs;

use serde_json::Value;

use crate::support::{Machine, fixture};

const TASK: &str = r#"
name = "colours"
version = 1.0
kind = "multiple_choice"
metrics = ["acc", "acc_norm"]
description = "Colours.\n\n"
text = "Q: {{question}}\nA:"
choices = "options"
target = "{{answer}}"
fewshot = { n = 2, sampler = "random" }

[data]
folder = "colours"
rows = ["test"]
examples = ["train"]
"#;

const ESSAY: &str = r#"
name = "essay"
version = 1.0
kind = "generate_until"
text = "{{question}}"
target = "{{answer}}"
fewshot = { n = 0, sampler = "first_n" }
generate = { until = ["\n"], max_gen_toks = 8 }

[data]
folder = "colours"
rows = ["test"]
"#;

fn machine() -> Machine {
    let machine = Machine::new();
    let dir = machine.dir.path();
    fs::create_dir_all(dir.join("data/colours")).unwrap();
    let row = |i: usize| {
        format!("{{\"question\": \"What is {i}?\", \"options\": [\"red\", \"dark blue\", \"é\"], \"answer\": {}}}\n", i % 3)
    };
    fs::write(dir.join("data/colours/test.jsonl"), (0..12).map(row).collect::<String>()).unwrap();
    fs::write(dir.join("data/colours/train.jsonl"), (20..40).map(row).collect::<String>()).unwrap();
    fs::write(dir.join("task.toml"), TASK).unwrap();
    fs::write(dir.join("essay.toml"), ESSAY).unwrap();
    machine
}

fn arguments<'a>(model: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let common = ["eval", "-m", model, "--data", "data", "--include", "task.toml", "--include", "essay.toml", "--ctx", "256"];
    [&common[..], more].concat()
}

#[test]
fn a_run_goes_on_where_it_was_and_its_answers_can_be_scored_again() {
    let (machine, model) = (machine(), fixture("chat-tiny"));
    let run = |more: &[&str]| machine.run(&arguments(&model, more));
    let json = |more: &[&str]| -> Value { serde_json::from_str(&run(&[&["--json", "-q"][..], more].concat()).ok()).unwrap() };
    let first = json(&["--tasks", "colours,essay", "--output", "out", "--limit", "5"]);
    assert_eq!(first["n-samples"]["colours"]["effective"], 5);
    assert_eq!(first["n-shot"]["colours"], 2);
    assert!(
        first["results"]["colours"]["acc_norm_stderr,none"].is_f64() && first["results"]["essay"]["exact_match,none"].is_f64()
    );
    assert!(first["cost"]["computed_tokens"].as_u64() < first["cost"]["naive_tokens"].as_u64());
    // The five answers of each are known; what is left is computed.
    let all = json(&["--tasks", "colours,essay", "--output", "out"]);
    assert_eq!((&all["cost"]["resumed"], &all["n-samples"]["colours"]["effective"]), (&10.into(), &12.into()));
    let again = json(&["--tasks", "colours,essay", "--output", "out"]);
    assert_eq!((&again["cost"]["resumed"], &again["cost"]["computed_tokens"]), (&24.into(), &0.into()));
    assert_eq!(again["results"], all["results"]);
    // Another prompt gets no stale answer.
    let other = json(&["--tasks", "colours", "--output", "out", "--num-fewshot", "1"]);
    assert_eq!(other["cost"]["resumed"], 0);
    // Alone, and from the file of answers, the figures are the same.
    assert_eq!(json(&["--tasks", "colours,essay", "--batch-size", "1"])["results"], all["results"]);
    let log = fs::read_to_string(machine.dir.path().join("out/answers.jsonl")).unwrap();
    let answers: String = log.lines().skip(1).take(24).map(|line| format!("{line}\n")).collect();
    fs::write(machine.dir.path().join("answers.jsonl"), answers).unwrap();
    assert_eq!(json(&["--tasks", "colours,essay", "--answers", "answers.jsonl"])["results"], all["results"]);
    let missing = run(&["--tasks", "essay", "--answers", "out/answers.jsonl"]);
    assert!(missing.stderr.contains("line 1"), "{missing:?}");
    // Answers of another model are not taken for this one's.
    let solar = fixture("solar-tiny");
    let wrong = machine.run(&arguments(&solar, &["--tasks", "colours", "--output", "out"]));
    assert!(wrong.code == Some(1) && wrong.stderr.contains("another model"), "{wrong:?}");
    // Nor are those of other weights in a file of the same name and size.
    let file = machine.dir.path().join("same.gguf");
    let mut weights = fs::read(fixture("chat-tiny.gguf")).unwrap();
    let same = |weights: &[u8]| {
        fs::write(&file, weights).unwrap();
        machine.run(&arguments("same.gguf", &["--tasks", "colours", "--output", "weights"]))
    };
    same(&weights).ok();
    same(&weights).ok();
    *weights.last_mut().unwrap() ^= 1;
    let wrong = same(&weights);
    assert!(wrong.code == Some(1) && wrong.stderr.contains("another model"), "{wrong:?}");
    let shown = run(&["--tasks", "colours", "--output", "out", "--limit", "3"]);
    assert!(shown.stdout.contains("colours (first 3 of 12)"), "{}", shown.stdout);
}

#[test]
fn requests_are_written_without_a_model_and_with_a_conversation() {
    let machine = machine();
    let request = |more: &[&str]| -> Value {
        machine.run(&arguments("no-such-model", &[&["--tasks", "colours", "--requests", "r.jsonl"][..], more].concat())).ok();
        let text = fs::read_to_string(machine.dir.path().join("r.jsonl")).unwrap();
        assert_eq!(text.lines().count(), 12);
        serde_json::from_str(text.lines().next().unwrap()).unwrap()
    };
    let plain = request(&["--num-fewshot", "0"]);
    assert_eq!(plain["context"], "Colours.\n\nQ: What is 0?\nA:");
    assert_eq!((&plain["continuations"][1], &plain["target"]), (&" dark blue".into(), &0.into()));
    let chat = request(&["--num-fewshot", "1", "--apply-chat-template=chatml", "--fewshot-as-multiturn"]);
    let chat = chat["context"].as_str().unwrap();
    assert!(chat.starts_with("<|im_start|>system\nColours.\n\n<|im_end|>\n<|im_start|>user\nQ: What is "), "{chat}");
    assert!(chat.ends_with("<|im_end|>\n<|im_start|>user\nQ: What is 0?\nA:<|im_end|>\n<|im_start|>assistant\n"), "{chat}");
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let (machine, model) = (machine(), fixture("chat-tiny"));
    let fails = |more: &[&str], words: &[&str]| {
        let outcome = machine.run(&arguments(&model, more));
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(words.iter().all(|word| outcome.stderr.contains(word)), "{more:?}: {}", outcome.stderr);
    };
    fails(&["--tasks", "colors"], &["no task", "did you mean colours"]);
    fails(&["--tasks", "gsm8k_cot"], &["gsm8k_cot", "no test.jsonl"]);
    fails(&["--tasks", "colours", "--num-fewshot", "21"], &["21 examples", "20"]);
    fails(&["--tasks", "essay", "--apply-chat-template=chatml", "--fewshot-as-multiturn"], &["--num-fewshot"]);
    let data = machine.dir.path().join("data/colours/test.jsonl");
    fs::write(&data, "{\"question\": \"a\", \"options\": [\"x\"], \"answer\": 0}\n{\"question\": \n").unwrap();
    fails(&["--tasks", "colours"], &["test.jsonl, line 2"]);
    fs::write(&data, "{\"question\": \"a\", \"answer\": 0}\n").unwrap();
    fails(&["--tasks", "colours"], &["document 0", "column", "missing"]);
    assert_eq!(machine.run(&["eval"]).code, Some(2));
    assert!(machine.run(&["eval", "--list"]).ok().contains("mmlu_world_religions"));
}
