//! Several models: who is in memory, who is loaded when, and who waits for whom.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Duration;

use serde_json::{Value, json};
use sol_serve::{Options, Source};

use crate::support::{ANSWER, LONGEST, PROMPT, Running, open, raw};

/// A model that counts how often it is loaded.
fn source(name: &str, model: &'static str) -> (Source, Arc<AtomicUsize>) {
    let loads = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&loads);
    let load = move || {
        count.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(20));
        Ok(open(model, sol_engine::Options { sequences: Some(4), ..sol_engine::Options::default() }))
    };
    (Source::on_demand(vec![name.into()], load), loads)
}

fn broken(name: &str) -> (Source, Arc<AtomicUsize>) {
    let loads = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&loads);
    let load = move || {
        count.fetch_add(1, Ordering::SeqCst);
        Err(sol_engine::Error::BadOption { option: "--ctx", value: "0".into(), problem: "must be at least 1" })
    };
    (Source::on_demand(vec![name.into()], load), loads)
}

fn ask(server: &Running, model: &str) -> crate::support::Reply {
    let messages = json!([{"role": "user", "content": PROMPT}]);
    server.post("/v1/chat/completions", &json!({"model": model, "messages": messages, "max_tokens": 20}))
}

fn answer(server: &Running, model: &str) -> String {
    let reply = ask(server, model).ok();
    assert_eq!(reply["model"], model);
    reply["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

fn loaded(server: &Running) -> Vec<(String, bool)> {
    let list = server.get("/v1/models").ok();
    let entry = |card: &Value| (card["id"].as_str().unwrap().to_owned(), card["loaded"].as_bool().unwrap());
    list["data"].as_array().unwrap().iter().map(entry).collect()
}

#[test]
fn models_are_loaded_when_somebody_asks_for_them() {
    let ((a, a_loads), (b, b_loads)) = (source("a", "chat-tiny"), source("b", "solar-tiny"));
    let (broken, c_loads) = broken("c");
    let server = Running::start_many(vec![a, b, broken], 3, Options::new(""));
    let state = |b: bool| [("a", true), ("b", b), ("c", false)].map(|(name, loaded)| (name.to_owned(), loaded));
    assert_eq!(loaded(&server), state(false));
    assert_eq!(server.get("/v1/models/b").ok()["max_model_len"], Value::Null);
    // Without a name, the first; an unknown one is none of them.
    assert_eq!(server.chat(PROMPT, json!({"model": null})).ok()["choices"][0]["message"]["content"], ANSWER);
    let (status, code, param, message) = ask(&server, "d").error();
    assert_eq!((status, code.as_str(), param.as_str()), (404, "model_not_found", "model"));
    assert!(message.contains("'a', 'b', 'c'"), "{message}");
    // Asked for by many at once, it is loaded once.
    let answers: Vec<String> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..6).map(|_| scope.spawn(|| answer(&server, "b"))).collect();
        asking.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(answers.iter().all(|answer| *answer == answers[0] && answer != ANSWER), "{answers:?}");
    assert_eq!((loaded(&server), b_loads.load(Ordering::SeqCst)), (state(true).to_vec(), 1));
    // One that can not be loaded says why, each time, is not tried each time, and disturbs nobody.
    for _ in 0..2 {
        let (status, code, _, message) = ask(&server, "c").error();
        assert_eq!((status, code.as_str()), (500, "model_not_loaded"));
        assert!(message.contains("'c' can not be loaded: --ctx is 0"), "{message}");
    }
    assert_eq!(c_loads.load(Ordering::SeqCst), 1);
    assert_eq!((answer(&server, "a"), a_loads.load(Ordering::SeqCst)), (ANSWER.into(), 1));
    // Its figures have its name; those of engines are there as long as they are.
    let metrics = server.get("/metrics").text;
    for (part, there) in [
        ("solarium_model_loaded{model_name=\"c\"} 0", true),
        ("solarium_requests_done_total{model_name=\"a\"} 2", true),
        ("solarium_requests_done_total{model_name=\"b\"} 6", true),
        ("solarium_kv_blocks{model_name=\"c\"}", false),
    ] {
        assert_eq!(metrics.contains(part), there, "{part}: {metrics}");
    }
    assert_eq!(metrics.matches("# TYPE solarium_requests_running ").count(), 1);
}

#[test]
fn an_idle_model_makes_room_and_a_busy_one_does_not() {
    let ((a, a_loads), (b, b_loads)) = (source("a", "chat-tiny"), source("b", "solar-tiny"));
    let server = Running::start_many(vec![a, b], 1, Options::new(""));
    let other = answer(&server, "b");
    assert_eq!(loaded(&server), [("a".to_owned(), false), ("b".to_owned(), true)]);
    assert_eq!((answer(&server, "a"), answer(&server, "b")), (ANSWER.to_owned(), other.clone()));
    assert_eq!((a_loads.load(Ordering::SeqCst), b_loads.load(Ordering::SeqCst)), (2, 2));
    // Whoever runs on it finishes, then it goes.
    for _ in 0..3 {
        let mut stream = server.endless(PROMPT);
        let text = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| answer(&server, "b"));
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            assert_eq!(waiting.join().unwrap(), other);
            text
        });
        assert!(text.contains("data: [DONE]"), "{text}");
    }
    // The text service of a model loads it too.
    assert_eq!(server.post("/tokenize", &json!({"model": "a", "prompt": "x"})).ok()["max_model_len"], 512);
    assert_eq!(loaded(&server), [("a".to_owned(), true), ("b".to_owned(), false)]);
}

#[test]
fn who_waits_for_a_place_is_not_passed_by() {
    let ((a, _), (b, _)) = (source("a", "chat-tiny"), source("b", "solar-tiny"));
    let server = Running::start_many(vec![a, b], 1, Options::new(""));
    let other = answer(&server, "b");
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Always one of them runs on `a`.
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    let mut text = String::new();
                    server.endless(PROMPT).read_to_string(&mut text).unwrap();
                    assert!(text.contains("data: [DONE]"), "{text}");
                }
            });
        }
        let answers: Vec<String> = (0..3).map(|_| answer(&server, "b")).collect();
        done.store(true, Ordering::SeqCst);
        assert_eq!(answers, [other.clone(), other.clone(), other.clone()]);
    });
}

#[test]
fn who_waits_too_long_is_refused_and_nobody_loads_for_those_who_left() {
    let ((a, _), (b, b_loads), (c, c_loads)) = (source("a", "chat-tiny"), source("b", "solar-tiny"), source("c", "solar-tiny"));
    let options = Options { patience: Duration::from_secs(1), ..Options::new("") };
    let server = Running::start_many(vec![a, b, c], 1, options);
    let mut streams = server.endlessly(200);
    let refused: Vec<u16> = std::thread::scope(|scope| {
        let asking: Vec<_> = ["b", "c", "b", "c"].map(|name| scope.spawn(|| ask(&server, name).status)).into();
        asking.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    // If `a` was busy all the time.
    if server.figure("solarium_requests_running") > 0.0 {
        assert_eq!(refused, [503; 4]);
        assert_eq!((b_loads.load(Ordering::SeqCst), c_loads.load(Ordering::SeqCst)), (0, 0));
    }
    streams.clear();
    // Nobody waits for it: it stays.
    assert_eq!(answer(&server, "a"), ANSWER);
    assert!(loaded(&server)[0].1);
}

#[test]
fn a_server_that_goes_answers_who_waits_for_a_model() {
    let (b, _) = source("b", "solar-tiny");
    let (go, may_go) = channel();
    let (tell, begun) = channel();
    let gate = std::sync::Mutex::new((tell, may_go));
    let slow = Source::on_demand(vec!["slow".into()], move || {
        let gate = gate.lock().unwrap();
        gate.0.send(()).unwrap();
        gate.1.recv_timeout(LONGEST).unwrap();
        Ok(open("chat-tiny", sol_engine::Options::default()))
    });
    let mut server = Running::start_many(vec![b, slow], 2, Options::new(""));
    let body = json!({"model": "slow", "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 20}).to_string();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json";
    let request = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let address = server.address;
    let waiting = std::thread::spawn(move || raw(address, request.as_bytes()));
    begun.recv_timeout(LONGEST).unwrap();
    server.stop();
    while server.get("/ready").status == 200 {}
    go.send(()).unwrap();
    let text = waiting.join().unwrap();
    assert!(text.contains(ANSWER), "{text}");
    assert!(server.wait());
}
