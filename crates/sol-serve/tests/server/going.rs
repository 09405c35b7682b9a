//! Clients that go, queues that are full, servers that go.

use std::io::{BufRead, Read};
use std::time::{Duration, Instant};

use serde_json::json;
use sol_serve::Options;

use crate::support::{ANSWER, LONGEST, PROMPT, Running, chat_tiny, raw};

#[test]
fn a_client_that_goes_frees_its_place_at_once() {
    let server = Running::tiny(1);
    for i in 0..20 {
        // In the middle of a stream, or of a whole answer.
        let mut gone = server.endless(PROMPT);
        if i % 2 == 0 {
            let mut line = String::new();
            while !line.starts_with("data") {
                line.clear();
                gone.read_line(&mut line).unwrap();
            }
        }
        drop(gone);
        assert_eq!(server.chat(PROMPT, json!({})).ok()["choices"][0]["message"]["content"], ANSWER);
    }
    server.until("solarium_requests_running", 0.0);
    server.until("solarium_kv_blocks_running", 0.0);
    assert_eq!(server.figure("solarium_requests_waiting"), 0.0);
}

#[test]
fn a_full_queue_says_when_to_come_again() {
    let options = Options { queue: 1, ..Options::new("tiny") };
    let server = Running::start(chat_tiny(1), options);
    let start = Instant::now();
    let refused = loop {
        assert!(start.elapsed() < LONGEST);
        // Each would run to the end of the context.
        let reply = server.chat(PROMPT, json!({"n": 40, "ignore_eos": true}));
        if reply.status != 200 {
            break reply;
        }
    };
    assert_eq!((refused.error().0, refused.headers["retry-after"].to_str().unwrap()), (503, "1"));
    // Nothing of what was refused runs on.
    server.until("solarium_requests_running", 0.0);
    server.until("solarium_requests_waiting", 0.0);
    assert_eq!(server.chat(PROMPT, json!({})).ok()["choices"][0]["message"]["content"], ANSWER);
}

#[test]
fn free_places_do_not_count_as_the_queue() {
    let server = Running::start(chat_tiny(4), Options { queue: 1, ..Options::new("tiny") });
    server.chat(PROMPT, json!({"n": 5, "max_tokens": 2})).ok();
}

#[test]
fn a_server_that_goes_finishes_what_runs_and_refuses_what_comes() {
    let mut server = Running::tiny(1);
    // Several, one after the other, take long enough.
    let streams = server.endlessly(6);
    server.stop();
    let mut refused = 0;
    while let Ok(mut response) = ureq::Agent::from(ureq::Agent::config_builder().http_status_as_error(false).build())
        .get(format!("http://{}/ready", server.address))
        .call()
    {
        refused += usize::from(response.status() == 503);
        drop(response.body_mut().read_to_string());
        if refused > 0 {
            break;
        }
    }
    assert!(refused > 0, "the server went before its streams");
    assert_eq!(server.chat(PROMPT, json!({})).error().0, 503);
    for mut stream in streams {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.contains("data: [DONE]"), "{text}");
    }
    assert!(server.wait());
}

#[test]
fn a_server_whose_time_is_up_goes_all_the_same() {
    let options = Options { drain: Duration::ZERO, ..Options::new("tiny") };
    let mut server = Running::start(chat_tiny(1), options);
    let streams = server.endlessly(40);
    server.stop();
    let start = Instant::now();
    assert!(!server.wait());
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let mut cut = 0;
    for mut stream in streams {
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        cut += usize::from(!text.contains("[DONE]"));
    }
    assert!(cut > 0);
}

#[test]
fn a_connection_is_kept_after_a_stream() {
    let server = Running::tiny(1);
    let body = json!({"messages": [{"role": "user", "content": PROMPT}], "stream": true}).to_string();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json";
    let stream = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let text = raw(
        server.address,
        (stream.repeat(2) + "GET /version HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").as_bytes(),
    );
    assert_eq!((text.matches("data: [DONE]").count(), text.matches("\"version\"").count()), (2, 1), "{text}");
}

#[test]
fn who_is_too_slow_is_let_go() {
    let server = Running::start(chat_tiny(1), Options { patience: Duration::from_millis(200), ..Options::new("tiny") });
    let start = Instant::now();
    raw(server.address, b"GET /health HTTP/1.1\r\nhost");
    let slow = b"POST /tokenize HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{";
    let text = raw(server.address, slow);
    assert!(text.contains(" 408 "), "{text}");
    assert!(start.elapsed() < Duration::from_secs(20));
}
