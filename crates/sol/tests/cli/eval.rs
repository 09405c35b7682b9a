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

const NEWS: &str = r#"
name = "news"
version = 1.0
kind = "loglikelihood_rolling"
text = "{{question}}"

[data]
folder = "colours"
rows = ["test"]
"#;

const CODE: &str = r#"
name = "code"
version = 1.0
kind = "generate_until"
judge = "programs"
text = "{{prompt}}"
target = "{{tests}}"

[data]
folder = "code"
rows = ["test"]

[generate]
max_length = 64
do_sample = true
n_samples = 2
"#;

#[test]
fn samples_are_scored_again_shown_and_compared() {
    let (machine, model) = (machine(), fixture("chat-tiny"));
    let run = |more: &[&str]| machine.run(&arguments(&model, more));
    let json = |more: &[&str]| -> Value { serde_json::from_str(&run(&[&["--json", "-q"][..], more].concat()).ok()).unwrap() };
    let tasks = ["--tasks", "colours,essay"];
    let first = json(&[&tasks[..], &["--output", "a", "--report", "a.html"]].concat());
    let again = json(&[&tasks[..], &["--answers", "a/samples_colours.jsonl", "--answers", "a/samples_essay.jsonl"]].concat());
    assert_eq!((&again["results"], &again["task_hashes"]), (&first["results"], &first["task_hashes"]));
    let line = fs::read_to_string(machine.dir.path().join("a/samples_colours.jsonl")).unwrap();
    let line: Value = serde_json::from_str(line.lines().nth(3).unwrap()).unwrap();
    assert_eq!((&line["doc_id"], &line["arguments"][1][1], &line["target"]), (&3.into(), &" dark blue".into(), &"0".into()));
    assert!(line["acc"].is_f64() && line["resps"][2][0][0].is_f64());
    let page = fs::read_to_string(machine.dir.path().join("a.html")).unwrap();
    assert!(page.contains("colours") && page.contains("What is 3?"));

    // Other examples change what is said; how an answer ends, how it is generated.
    json(&[&tasks[..], &["--output", "b", "--log-samples", "--num-fewshot", "0", "--gen-kwargs", "max_gen_toks=2"]].concat());
    let compared = machine.run(&["eval", "compare", "a", "b"]);
    assert!(compared.stdout.contains("|colours") && compared.stdout.contains("number of examples is 2"), "{compared:?}");
    assert!(machine.run(&["eval", "compare", "a", "a"]).ok().contains("+0.0000"));
    let missing = machine.run(&["eval", "compare", "a", "nowhere"]);
    assert!(missing.code == Some(1) && missing.stderr.contains("nowhere"), "{missing:?}");
    machine.run(&["eval", "report", "b", "b.html"]).ok();
    assert!(machine.dir.path().join("b.html").is_file());
}

#[test]
fn texts_have_a_perplexity_and_sharing_changes_no_figure() {
    let (machine, model) = (machine(), fixture("chat-tiny"));
    fs::write(machine.dir.path().join("news.toml"), NEWS).unwrap();
    let json = |more: &[&str]| -> Value {
        let more = [&["--include", "news.toml", "--json", "-q", "--tasks", "news,colours"][..], more].concat();
        serde_json::from_str(&machine.run(&arguments(&model, &more)).ok()).unwrap()
    };
    let shared = json(&[]);
    let words = shared["results"]["news"]["word_perplexity,none"].as_f64().unwrap();
    let bytes = shared["results"]["news"]["byte_perplexity,none"].as_f64().unwrap();
    let bits = shared["results"]["news"]["bits_per_byte,none"].as_f64().unwrap();
    assert!((bytes.log2() - bits).abs() < 1e-9 && words > bytes && bits > 0.0);
    assert_eq!(shared["results"]["news"]["word_perplexity_stderr,none"], "N/A");
    // "What is 3?" has 3 words and 10 bytes; two of the twelve numbers have two digits.
    assert!((words.ln() * 36.0 - bytes.ln() * 122.0).abs() < 1e-6);
    let alone = json(&["--no-prefix-sharing"]);
    assert_eq!(alone["results"], shared["results"]);
    assert_eq!(alone["cost"]["computed_tokens"], alone["cost"]["naive_tokens"]);
    assert!(shared["cost"]["computed_tokens"].as_u64() < alone["cost"]["computed_tokens"].as_u64());
}

#[test]
fn programs_run_only_where_the_user_lets_them() {
    let machine = machine();
    let dir = machine.dir.path();
    fs::write(dir.join("code.toml"), CODE).unwrap();
    fs::create_dir_all(dir.join("data/code")).unwrap();
    fs::write(dir.join("data/code/test.jsonl"), "{\"prompt\": \"x = 1\\n\", \"tests\": \"assert x == y\"}\n").unwrap();
    fs::write(dir.join("answers.jsonl"), "{\"task\": \"code\", \"doc_id\": 0, \"raw\": [\"y = 1\", \"y = 2\"]}\n").unwrap();
    let run = |more: &[&str]| {
        let common = ["eval", "--data", "data", "--include", "code.toml", "--tasks", "code", "--answers", "answers.jsonl"];
        machine.run(&[&common[..], more].concat())
    };
    let refused = run(&[]);
    assert!(refused.code == Some(1) && refused.stderr.contains("--allow-code-execution"), "{refused:?}");
    if std::process::Command::new("python3").arg("--version").output().is_err() {
        eprintln!("skipped: there is no python3");
        return;
    }
    let allowed = run(&["--allow-code-execution", "--output", "out", "--log-samples"]);
    assert!(allowed.stdout.contains("|pass@1|") && allowed.stdout.contains("|0.5000|"), "{allowed:?}");
    assert!(allowed.stderr.contains("sandbox"), "{allowed:?}");
    let line: Value = serde_json::from_str(&fs::read_to_string(dir.join("out/samples_code.jsonl")).unwrap()).unwrap();
    assert_eq!(line["verdicts"], serde_json::json!(["passed", "failed: "]));
}

#[test]
fn the_card_is_a_suite_and_rows_without_data_are_left_out() {
    let machine = machine();
    let dir = machine.dir.path().join("data/eq_bench");
    fs::create_dir_all(&dir).unwrap();
    let reference: String = (1..5).map(|i| format!("'emotion{i}': 'E{i}', 'emotion{i}_score': {i}, ")).collect();
    let row = serde_json::json!({ "prompt": "How?", "reference_answer_fullscale": format!("{{{reference}}}") });
    fs::write(dir.join("validation.jsonl"), format!("{row}\n{row}\n")).unwrap();
    let raw = "E1: 1\\nE2: 2\\nE3: 3\\nE4: 4";
    let answers = format!(
        "{{\"task\": \"eq_bench\", \"doc_id\": 0, \"raw\": \"{raw}\"}}\n{{\"task\": \"eq_bench\", \"doc_id\": 1, \"raw\": \"no\"}}\n"
    );
    fs::write(machine.dir.path().join("answers.jsonl"), answers).unwrap();
    let arguments = ["eval", "--data", "data", "--suite", "solar-pro-preview", "--answers", "answers.jsonl"];
    let chat = ["--apply-chat-template=chatml"];
    let shown = machine.run(&[&arguments[..], &chat].concat());
    let line = shown.stdout.lines().find(|line| line.starts_with("|EQ-Bench")).unwrap_or_else(|| panic!("{shown:?}"));
    assert!(line.contains("50.00 ±50.00") && line.contains(" 77.91 "), "{line}");
    assert!(shown.stderr.contains("ARC-C is left out") && shown.stdout.contains("left out"), "{shown:?}");
    let unknown = machine.run(&["eval", "--suite", "solar"]);
    assert!(unknown.stderr.contains("there is solar-pro-preview"), "{unknown:?}");
}

/// Every file that docs/tasks.md shows, as it stands there.
#[test]
fn the_tasks_of_the_guide_run() {
    let machine = Machine::new();
    let guide = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/tasks.md")).unwrap();
    let mut tasks = Vec::new();
    for block in guide.split("\n```").filter(|block| block.starts_with("toml ") || block.starts_with("json ")) {
        let (head, text) = block.split_once('\n').unwrap();
        let name = head.split_once(' ').unwrap().1;
        let file = machine.dir.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text.to_owned() + "\n").unwrap();
        tasks.extend(name.strip_suffix(".toml"));
    }
    assert_eq!(tasks, ["colours", "sums", "news"]);
    for task in tasks {
        let (model, file) = (fixture("chat-tiny"), format!("{task}.toml"));
        let shown = machine.run(&["eval", "-m", &model, "--include", &file, "--tasks", task, "--data", ".", "--ctx", "512"]);
        assert!(shown.ok().contains(&format!("|{task}")), "{task}");
    }
}

#[test]
fn senseless_settings_are_refused_before_anything_is_asked() {
    let (machine, model) = (machine(), fixture("chat-tiny"));
    for (setting, word) in [
        ("n_samples=1e18", "from 1 to 1000"),
        ("max_gen_toks=-1", "from 1"),
        ("max_gen_tokens=5", "max_gen_toks"),
        ("do_sample=1", "true or false"),
        ("temperature=nan", "a number"),
        ("n_samples=2", "judge"),
        ("max_gen_toks", "KEY=VALUE"),
        ("max_gen_toks=300", "--ctx"),
    ] {
        let outcome = machine.run(&arguments(&model, &["--tasks", "essay", "--gen-kwargs", setting]));
        assert!(outcome.code != Some(0) && outcome.stderr.contains(word), "{setting}: {outcome:?}");
    }
    for (name, word) in [("a/b", "no name"), ("", "no name")] {
        fs::write(machine.dir.path().join("odd.toml"), ESSAY.replace("essay", name)).unwrap();
        let outcome = machine.run(&["eval", "--include", "odd.toml", "--list"]);
        assert!(outcome.code == Some(1) && outcome.stderr.contains(word), "{outcome:?}");
    }
}
