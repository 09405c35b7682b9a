//! `sol bench`: the form of its results; what they are depends on the machine.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::{Machine, fixture};

fn run(args: &[&str]) -> String {
    Machine::new().run(&[&["bench", "-m", &fixture("chat-tiny"), "--threads", "1"], args].concat()).ok()
}

#[test]
fn every_test_is_reported_with_its_samples() {
    let stdout = run(&["-p", "8,16", "-n", "4", "-d", "0,32", "--pg", "5,3", "-r", "3", "--json"]);
    let entries: Vec<Value> = serde_json::from_str(&stdout).unwrap();
    let names: Vec<_> = entries.iter().map(|e| e["test"].as_str().unwrap()).collect();
    let once = ["pp8", "pp16", "tg4", "pp5+tg3", "pp8 @ d32", "pp16 @ d32", "tg4 @ d32", "pp5+tg3 @ d32"];
    assert_eq!(names, once);
    for entry in &entries {
        let numbers = |key: &str| entry[key].as_array().unwrap().iter().map(|n| n.as_f64().unwrap()).collect::<Vec<_>>();
        let (times, speeds) = (numbers("samples_ns"), numbers("samples_ts"));
        assert_eq!((times.len(), speeds.len()), (3, 3));
        let tokens = entry["n_prompt"].as_f64().unwrap() + entry["n_gen"].as_f64().unwrap();
        for (time, speed) in times.iter().zip(&speeds) {
            assert!((tokens / (time / 1e9) / speed - 1.0).abs() < 1e-3);
        }
        let mean = speeds.iter().sum::<f64>() / 3.0;
        assert!((entry["avg_ts"].as_f64().unwrap() / mean - 1.0).abs() < 1e-9);
        assert_eq!(entry["n_threads"], 1);
        assert_eq!(entry["model_type"], "llama 70.27 K BF16");
        assert_eq!(entry["type_k"], "f32");
    }
}

#[test]
fn sequences_decoded_together_count_all_their_tokens() {
    let stdout = run(&["-p", "4", "-n", "3", "-d", "0,40", "-b", "1,5", "-r", "2", "--json"]);
    let entries: Vec<Value> = serde_json::from_str(&stdout).unwrap();
    let tests: Vec<_> = entries.iter().map(|e| (e["test"].as_str().unwrap(), e["n_parallel"].as_u64().unwrap())).collect();
    let names = ["pp4", "tg3", "tg3 x 5", "pp4 @ d40", "tg3 @ d40", "tg3 x 5 @ d40"];
    assert_eq!(tests, names.into_iter().zip([1, 1, 5, 1, 1, 5]).collect::<Vec<_>>());
    for entry in &entries[1..3] {
        let tokens = 3.0 * entry["n_parallel"].as_f64().unwrap();
        let (time, speed) = (entry["samples_ns"][1].as_f64().unwrap(), entry["samples_ts"][1].as_f64().unwrap());
        assert_eq!(entry["n_gen"], 3);
        assert!((tokens / (time / 1e9) / speed - 1.0).abs() < 1e-3);
    }
    let outcome = Machine::new().run(&["bench", "-b", "0"]);
    assert_eq!(outcome.code, Some(2));
    assert!(Machine::new().run(&["bench", "-m", &fixture("chat-tiny"), "-b", "513"]).error().contains("from 1 to 512"));
}

#[test]
fn the_table_is_markdown() {
    let stdout = run(&["-p", "8", "-n", "2", "-r", "1"]);
    let lines: Vec<_> = stdout.lines().collect();
    assert_eq!(lines.len(), 4);
    assert!(lines[0].starts_with("| model ") && lines[0].ends_with(" t/s |"), "{stdout}");
    assert!(lines[1].chars().all(|c| "|-: ".contains(c)), "{stdout}");
    assert!(lines[2].contains(" pp8 ") && lines[3].contains(" tg2 ") && lines[3].contains(" ± 0.00 |"), "{stdout}");
    let widths: Vec<_> = lines.iter().map(|l| l.chars().count()).collect();
    assert!(widths.windows(2).all(|w| w[0] == w[1]), "{stdout}");
}

#[test]
fn zero_skips_a_test_and_too_much_is_refused() {
    let stdout = run(&["-p", "0", "-n", "2", "-r", "1", "--json"]);
    assert_eq!(serde_json::from_str::<Vec<Value>>(&stdout).unwrap().len(), 1);
    let error = |args: &[&str]| Machine::new().run(&[&["bench", "-m", &fixture("chat-tiny")], args].concat()).error();
    assert!(error(&["-p", "0", "-n", "0"]).contains("nothing to measure"));
    assert!(error(&["-p", "500", "-d", "20"]).contains("520 tokens"));
    assert!(error(&["-p", "100", "--ctx", "64"]).contains("--ctx is 64"));
    assert!(error(&["-p", &usize::MAX.to_string(), "-d", "5"]).contains("512"));
    let outcome = Machine::new().run(&["bench", "--pg", "5"]);
    assert_eq!(outcome.code, Some(2));
}

/// Ctrl-C while a test runs: what was measured by then is reported.
#[cfg(unix)]
#[test]
fn an_interrupt_keeps_what_is_done() {
    let machine = Machine::new();
    let mut command = machine.sol(&["bench", "-m", &fixture("chat-tiny"), "-p", "8", "-r", "100000000", "--threads", "1"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().starts_with("| model"));
    std::thread::sleep(Duration::from_millis(300));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    assert!(lines.any(|line| line.contains(" pp8 ")));
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
