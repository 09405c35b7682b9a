//! Bad input: the right status in OpenAI's shape, and nobody else is disturbed.

use serde_json::{Value, json};
use sol_engine::Options as Loading;
use sol_serve::Options;

use crate::support::{ANSWER, PROMPT, Running, chat_tiny, open, raw};

const CHAT: &str = "/v1/chat/completions";
const JSON: (&str, &str) = ("content-type", "application/json");

#[test]
fn wrong_values_are_refused_by_name() {
    let server = Running::tiny(2);
    let chat = |more: Value| server.chat(PROMPT, more).error();
    // The field, and what the message says beside it.
    let cases: [(Value, &str, &str); 34] = [
        (json!({"max_tokens": 0}), "max_tokens", "at least 1"),
        (json!({"max_tokens": -1}), "max_tokens", "is -1"),
        (json!({"max_completion_tokens": 0}), "max_completion_tokens", "at least 1"),
        (json!({"max_tokens": "ten"}), "max_tokens", "a whole number, not the string"),
        (json!({"max_tokens": 1.5}), "max_tokens", "a whole number, not 1.5"),
        (json!({"n": 0}), "n", "from 1 to 128"),
        (json!({"n": 1000}), "n", "is 1000"),
        (json!({"temperature": -0.1}), "temperature", "from 0 to 2"),
        (json!({"temperature": 2.5}), "temperature", "is 2.5"),
        (json!({"temperature": "hot"}), "temperature", "must be a number"),
        (json!({"top_p": 1.5}), "top_p", "from 0 to 1"),
        (json!({"min_p": -1}), "min_p", "from 0 to 1"),
        (json!({"top_k": -2}), "top_k", "at least 1"),
        (json!({"repetition_penalty": 0}), "repetition_penalty", "from 0.01"),
        (json!({"presence_penalty": 3}), "presence_penalty", "from -2 to 2"),
        (json!({"frequency_penalty": -3}), "frequency_penalty", "from -2 to 2"),
        (json!({"stop": vec!["x"; 10_000]}), "stop", "10000 strings"),
        (json!({"stop": [""]}), "stop", "from 1 to"),
        (json!({"stop": 7}), "stop", "a string or a list of strings"),
        (json!({"logit_bias": {"5": 101}}), "logit_bias.5", "from -100 to 100"),
        (json!({"logit_bias": {"99999": 1}}), "logit_bias.99999", "not a token id"),
        (json!({"logit_bias": {"x": 1}}), "logit_bias.x", "not a token id"),
        (json!({"logit_bias": [1]}), "logit_bias", "must be an object, not a list"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs", "from 0 to 20"),
        (json!({"top_logprobs": 2}), "top_logprobs", "only allowed with"),
        (json!({"stream": "yes"}), "stream", "true or false"),
        (json!({"stream_options": {"include_usage": true}}), "stream_options", "only allowed with"),
        (json!({"seed": "x"}), "seed", "a whole number"),
        (json!({"messages": []}), "messages", "empty"),
        (json!({"messages": "hello"}), "messages", "must be a list"),
        (json!({"messages": [{"role": "user"}]}), "messages[0].content", "missing"),
        (json!({"messages": [{"role": "user", "content": 5}]}), "messages[0].content", "a string or a list of parts"),
        (json!({"messages": [{"role": "robot", "content": "x"}]}), "messages[0].role", "robot"),
        (json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}), "messages[0].content[0]", "image_url"),
    ];
    for (more, field, part) in cases {
        let (status, _, param, message) = chat(more.clone());
        assert_eq!((status, param.as_str()), (400, field), "{more}: {message}");
        assert!(message.contains(part), "{more}: {message}");
    }
    let complete = |more: Value| server.complete("x", more).error();
    for (more, field) in [
        (json!({"suffix": "end"}), "suffix"),
        (json!({"best_of": 3}), "best_of"),
        (json!({"logprobs": 100}), "logprobs"),
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"prompt": []}), "prompt"),
        (json!({"prompt": [1, "a"]}), "prompt"),
        (json!({"prompt": vec!["x"; 129]}), "prompt"),
    ] {
        let (status, _, param, message) = complete(more.clone());
        assert!((status, param.split('[').next()) == (400, Some(field)), "{more}: {param}: {message}");
    }
    let (status, _, param, _) = server.post(CHAT, &json!({"model": "tiny"})).error();
    assert_eq!((status, param.as_str()), (400, "messages"));
    for prompt in [json!([100_000]), json!([[5], []])] {
        assert_eq!(server.complete(prompt, json!({})).status, 400);
    }
    // Nothing that means nothing is refused.
    let harmless = json!({"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "suffix": null, "stop": null,
        "logit_bias": null, "temperature": null, "stream": false, "n": 1, "top_k": -1, "store": true, "metadata": {"a": "b"}});
    assert_eq!(server.chat(PROMPT, harmless).ok()["choices"][0]["message"]["content"], ANSWER);
}

#[test]
fn bodies_that_are_none() {
    let server = Running::tiny(2);
    let send = |body: &[u8]| server.send("POST", CHAT, &[JSON], body).error();
    for body in [&b"{"[..], b"nonsense", b"{} {}", b"{\"temperature\": NaN}", b"{\"model\": \"\xff\"}", &[b'['; 100_000]] {
        let (status, _, _, message) = send(body);
        assert_eq!(status, 400, "{message}");
    }
    assert!(send(b"{\"messages\": [}").3.contains("line 1 column 15"));
    for body in [&b"[]"[..], b"[\"tiny\"]", b" \"x\"", b"7", b"null"] {
        let (status, _, _, message) = send(body);
        assert!(status == 400 && message.contains("must be an object"), "{message}");
    }
    // What a client sent is quoted, but not all of it.
    let long =
        send(json!({"messages": [], "max_tokens": "x".repeat(1 << 20), "model": "y".repeat(1 << 20)}).to_string().as_bytes());
    assert!(long.0 == 400 && long.3.len() < 1100, "{long:?}");
    assert_eq!(send(&vec![b' '; 9 << 20]).0, 413);
    // The same without a length.
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{}: {}\r\ntransfer-encoding: chunked\r\n\r\n",
        JSON.0, JSON.1
    );
    let piece = format!("100000\r\n{}\r\n", " ".repeat(1 << 20));
    assert!(raw(server.address, (head + &piece.repeat(9) + "0\r\n\r\n").as_bytes()).contains(" 413 "));
    let (status, ..) = server.send("POST", CHAT, &[("content-type", "text/plain")], b"{}").error();
    assert_eq!(status, 415);
    // Header bombs and nonsense end their own connection.
    let bomb = format!("GET /health HTTP/1.1\r\nhost: localhost\r\n{}\r\n", "x-bomb: 1\r\n".repeat(20_000));
    assert!(raw(server.address, bomb.as_bytes()).contains(" 431 "));
    assert!(raw(server.address, b"\x16\x03\x01 nonsense\r\n\r\n").contains(" 400 "));
    assert_eq!(server.chat(PROMPT, json!({})).ok()["choices"][0]["message"]["content"], ANSWER);
}

#[test]
fn models_and_paths_that_are_not_there() {
    let server = Running::tiny(2);
    let (status, code, param, message) = server.chat(PROMPT, json!({"model": "gpt-9"})).error();
    assert_eq!((status, code.as_str(), param.as_str()), (404, "model_not_found", "model"));
    assert!(message.contains("gpt-9") && message.contains("'tiny'"), "{message}");
    assert_eq!(server.get("/v1/models/%FF").error().1, "model_not_found");
    assert_eq!(server.get("/v1/nothing").error().0, 404);
    assert_eq!(server.get("/../../etc/passwd").error().0, 404);
    let wrong = server.get(CHAT);
    assert_eq!((wrong.error().0, wrong.headers["allow"].to_str().unwrap()), (405, "POST"));
    let id = server.send("GET", "/health", &[("x-request-id", "mine-7")], b"").headers["x-request-id"].clone();
    assert_eq!(id, "mine-7");
    assert!(server.get("/health").headers["x-request-id"].to_str().unwrap().starts_with("req-"));
}

#[test]
fn prompts_that_do_not_fit() {
    let server = Running::tiny(2);
    let (status, code, _, message) = server.complete(vec![5; 513], json!({})).error();
    assert_eq!((status, code.as_str()), (400, "context_length_exceeded"));
    assert!(message.contains("513 tokens") && message.contains("512"), "{message}");
    let (status, code, _, message) = server.chat(&"été ".repeat(500_000), json!({})).error();
    assert_eq!((status, code.as_str()), (400, "context_length_exceeded"), "{message}");
    // Nor are lists read that are much longer, into text or from it.
    let (status, _, param, _) = server.post("/detokenize", &json!({"tokens": vec![5; 5000]})).error();
    assert_eq!((status, param.as_str()), (400, "tokens"));
    let (status, code, ..) = server.post("/tokenize", &json!({"prompt": "été ".repeat(500_000)})).error();
    assert_eq!((status, code.as_str()), (400, "context_length_exceeded"));
    // What fits exactly leaves room for one token.
    let last = server.complete(vec![5; 512], json!({"ignore_eos": true})).ok();
    assert_eq!((&last["usage"]["completion_tokens"], &last["choices"][0]["finish_reason"]), (&json!(1), &json!("length")));
    // A cache with less room than the context.
    let (tokens, bytes) = open("chat-tiny", Loading::default()).kv_room();
    let loading = Loading { sequences: Some(2), kv_memory: Some(bytes / tokens as u64 * 64), ..Loading::default() };
    let small = Running::start(open("chat-tiny", loading), Options::new("tiny"));
    assert_eq!(small.complete(vec![5; 100], json!({})).error().1, "context_length_exceeded");
    assert_eq!(small.chat(PROMPT, json!({})).ok()["choices"][0]["message"]["content"], ANSWER);
    // A model without system prompts says so.
    let solar = Running::start(open("solar-tiny", Loading::default()), Options::new("tiny"));
    let (status, _, _, message) = solar.post(CHAT, &json!({"messages": [{"role": "system", "content": "x"}]})).error();
    assert!(status == 400 && message.contains("system"), "{message}");
}

#[test]
fn keys_and_origins() {
    let options = Options { api_key: Some("secret".into()), cors: vec!["https://chat.example".into()], ..Options::new("tiny") };
    let server = Running::start(chat_tiny(2), options);
    for wrong in ["Bearer wrong!", "Bearer secre", "Bearer secrets", "Basic secret", "secret", ""] {
        let reply = server.send("GET", "/v1/models", &[("authorization", wrong)], b"");
        assert_eq!((reply.error().0, reply.error().1.as_str()), (401, "invalid_api_key"), "{wrong}");
    }
    assert_eq!(server.get("/metrics").status, 401);
    assert_eq!(server.get("/nothing").status, 401);
    assert_eq!(server.send("GET", "/v1/models", &[("authorization", "bearer secret")], b"").status, 200);
    assert_eq!(server.get("/health").status, 200);
    let preflight = |server: &Running, origin: &str| {
        let headers =
            [("origin", origin), ("access-control-request-method", "POST"), ("access-control-request-headers", "content-type")];
        let reply = server.send("OPTIONS", CHAT, &headers, b"");
        reply.headers.get("access-control-allow-origin").map(|origin| origin.to_str().unwrap().to_owned())
    };
    assert_eq!(preflight(&server, "https://chat.example").as_deref(), Some("https://chat.example"));
    assert_eq!(preflight(&server, "https://evil.example"), None);
    let closed = Running::tiny(1);
    assert_eq!(preflight(&closed, "https://chat.example"), None);
    assert_eq!(closed.send("GET", "/v1/models", &[("origin", "null")], b"").headers.get("access-control-allow-origin"), None);
}

#[test]
fn a_page_whose_name_leads_here_is_refused() {
    let at = |server: &Running, host: &str| {
        server.send("GET", "/v1/models", &[("host", host), ("authorization", "Bearer secret")], b"")
    };
    let server = Running::tiny(1);
    for host in ["localhost", "127.0.0.1:8000", "[::1]:8000"] {
        assert_eq!(at(&server, host).status, 200, "{host}");
    }
    let (status, code, _, message) = at(&server, "evil.example:8000").error();
    assert_eq!((status, code.as_str()), (403, "host_not_allowed"));
    assert!(message.contains("evil.example:8000") && message.contains("Host: localhost"), "{message}");
    // No browser leaves it out.
    assert!(raw(server.address, b"GET /version HTTP/1.0\r\n\r\n").contains(" 200 "));
    // Who has the key is no page.
    let keyed = Running::start(chat_tiny(1), Options { api_key: Some("secret".into()), ..Options::new("tiny") });
    assert_eq!(at(&keyed, "chat.example").status, 200);
}
