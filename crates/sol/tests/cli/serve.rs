//! `sol serve` as an operator uses it.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::support::{Machine, fixture};

/// A server that said where it is.
struct Server {
    program: Child,
    line: Value,
}

impl Server {
    fn start(machine: &Machine, args: &[&str]) -> Self {
        let model = fixture("chat-tiny");
        let all = [&["serve", "-m", &model, "--port", "0", "--json", "--threads", "1"], args].concat();
        let mut program = machine.sol(&all).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(program.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { program, line: serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}")) }
    }

    fn chat(&self, body: Value) -> Value {
        let url = format!("{}/chat/completions", self.line["url"].as_str().unwrap());
        ureq::post(&url).send_json(body).unwrap().body_mut().read_json().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.program.id()).unwrap()), signal).unwrap();
    }

    /// Its exit code, and what it wrote on stderr.
    fn end(mut self) -> (Option<i32>, String) {
        let mut stderr = String::new();
        self.program.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        (self.program.wait().unwrap().code(), stderr)
    }
}

#[test]
fn start_ask_stop() {
    let machine = Machine::new();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let server = Server::start(&machine, &["--log", "json", "--max-batch", "3"]);
        assert_eq!((&server.line["model"], &server.line["context"]), (&json!("chat-tiny"), &json!(512)));
        assert_eq!(server.line["kv_tokens"], 3 * 512);
        let page = ureq::get(server.line["page"].as_str().unwrap()).call().unwrap().body_mut().read_to_string().unwrap();
        assert!(page.starts_with("<!doctype html>"), "{page}");
        assert!(server.line["kv_bytes"].as_u64().unwrap() > 3 * 512);
        let answer = server.chat(json!({"model": "chat-tiny", "messages": [{"role": "user", "content": "Describe été."}]}));
        assert_eq!(answer["choices"][0]["message"]["content"], "an8 wat count: c wereouZone");
        server.signal(signal);
        let (code, stderr) = server.end();
        assert_eq!(code, Some(0), "{stderr}");
        let lines: Vec<Value> = stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        assert_eq!(lines.len(), 2, "one line a request: {stderr}");
        let request = [&lines[1]["path"], &lines[1]["status"], &lines[1]["prompt_tokens"], &lines[1]["finish"]];
        assert_eq!(request, [&json!("/v1/chat/completions"), &json!(200), &json!(27), &json!("stop")]);
    }
}

#[test]
fn names_keys_and_a_second_signal() {
    let machine = Machine::new();
    let mut command =
        machine.sol(&["serve", "-m", &fixture("chat-tiny.gguf"), "--port", "0", "--json", "--served-model-name", "a"]);
    let mut program = command.env("SOL_API_KEY", "secret").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(program.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let server = Server { program, line: serde_json::from_str(&line).unwrap() };
    let url = server.line["url"].as_str().unwrap();
    let asked = ureq::get(format!("{url}/models")).call();
    assert!(matches!(asked, Err(ureq::Error::StatusCode(401))), "{asked:?}");
    let mut models = ureq::get(format!("{url}/models")).header("authorization", "Bearer secret").call().unwrap();
    assert_eq!(models.body_mut().read_json::<Value>().unwrap()["data"][0]["id"], "a");
    // Somebody's long stream keeps it; nobody waits for it twice.
    let body = json!({"messages": [{"role": "user", "content": "x"}], "stream": true, "ignore_eos": true, "n": 100});
    let stream = ureq::post(format!("{url}/chat/completions")).header("authorization", "Bearer secret").send_json(body).unwrap();
    server.signal(Signal::SIGTERM);
    std::thread::sleep(Duration::from_millis(50));
    server.signal(Signal::SIGTERM);
    let (code, stderr) = server.end();
    // On a fast machine all is done by then.
    assert!(code == Some(130) || code == Some(0), "{code:?}: {stderr}");
    drop(stream);
}

#[test]
fn a_second_model_comes_when_it_is_asked_for() {
    let machine = Machine::new();
    let server = Server::start(&machine, &["-m", &fixture("chat-tiny.gguf"), "--keep", "1", "--draft", "lookup"]);
    assert_eq!(server.line["models"], json!(["chat-tiny", "chat-tiny.gguf"]));
    for model in ["chat-tiny.gguf", "chat-tiny", "chat-tiny.gguf"] {
        let answer = server.chat(json!({"model": model, "messages": [{"role": "user", "content": "Describe été."}]}));
        assert_eq!(answer["choices"][0]["message"]["content"], "an8 wat count: c wereouZone");
    }
    server.signal(Signal::SIGTERM);
    assert_eq!(server.end().0, Some(0));
}

#[test]
fn what_can_not_be_served_is_said_at_once() {
    let machine = Machine::new();
    let model = fixture("chat-tiny");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    assert!(machine.run(&["serve", "-m", &model, "--port", &port]).error().contains("can not listen on 127.0.0.1:"));
    assert!(
        machine.run(&["serve", "-m", &model, "--port", "0", "--host", "no.such.host.invalid"]).error().contains("can not listen")
    );
    assert!(machine.run(&["serve", "-m", &model, "--port", "0", "--cors", "chat.example"]).error().contains("not an origin"));
    assert!(machine.run(&["serve", "-m", &fixture("models/llama"), "--port", "0"]).error().contains("no tokenizer"));
    assert_eq!(machine.run(&["serve", "-m", &model, "--api-key", ""]).code, Some(2));
    let error = machine.run(&["serve", "-m", &model, "--port", "0", "--kv-memory", "100"]).error();
    assert!(error.contains("--kv-memory 100 B holds 0 tokens"), "{error}");
    let error = machine.run(&["serve", "-m", &model, "--port", "0", "--kv-memory", "64kB", "--ctx", "512"]).error();
    assert!(error.contains("--ctx asks for 512") && error.contains("raise it to"), "{error}");
    assert!(machine.run(&["serve", "-m", &model, "--kv-memory", "much"]).stderr.contains("is no size"));
    assert!(machine.run(&["serve", "-m", &model, "-m", &model, "--port", "0"]).error().contains("given twice"));
    let other = fixture("chat-tiny.gguf");
    let error = machine.run(&["serve", "-m", &model, "-m", &other, "--port", "0", "--served-model-name", "x"]).error();
    assert!(error.contains("--served-model-name"), "{error}");
    let error = machine.run(&["serve", "-m", &model, "--port", "0", "--draft", &fixture("solar-tiny")]).error();
    assert!(error.contains("vocabulary"), "{error}");
    assert_eq!(machine.run(&["serve", "-m", &model, "--max-batch", "0"]).code, Some(2));
}
