//! What clients get: shapes, streams, log-probabilities, and the same answer whoever else asks.

use std::collections::HashMap;

use crate::support::{ANSWER, PROMPT, Running, chat_tiny};
use serde_json::{Value, json};

const BLOCK_LEN: u64 = sol_engine::BLOCK_LEN as u64;

/// The text of each choice of a stream, and why it ended.
fn joined(chunks: &[Value], text: &dyn Fn(&Value) -> Value) -> HashMap<u64, (String, String)> {
    let mut joined: HashMap<u64, (String, String)> = HashMap::new();
    for choice in chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap()) {
        let entry = joined.entry(choice["index"].as_u64().unwrap()).or_default();
        assert_eq!(entry.1, "", "nothing comes after the end");
        entry.0 += text(choice).as_str().unwrap_or_default();
        entry.1 += choice["finish_reason"].as_str().unwrap_or_default();
    }
    joined
}

fn delta(choice: &Value) -> Value {
    choice["delta"]["content"].clone()
}

#[test]
fn a_chat_has_openais_shape_and_the_models_answer() {
    let server = Running::tiny(4);
    let reply = server.chat(PROMPT, json!({"max_completion_tokens": 32, "user": "me", "whatever": {"is": "ignored"}}));
    let answer = reply.ok();
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!((&answer["object"], &answer["model"]), (&json!("chat.completion"), &json!("tiny")));
    let message = json!({"role": "assistant", "content": ANSWER, "refusal": null});
    assert_eq!(answer["choices"], json!([{"index": 0, "message": message, "logprobs": null, "finish_reason": "stop"}]));
    let (prompt, new) =
        (answer["usage"]["prompt_tokens"].as_u64().unwrap(), answer["usage"]["completion_tokens"].as_u64().unwrap());
    assert_eq!((prompt, &answer["usage"]["total_tokens"]), (27, &json!(prompt + new)));
    assert_eq!(answer["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    // Again: all whole blocks before the last token are known.
    let long = PROMPT.repeat(8);
    let [first, again] = [(); 2].map(|()| server.chat(&long, json!({})).ok());
    assert_eq!(first["choices"], again["choices"]);
    let prompt = again["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(again["usage"]["prompt_tokens_details"]["cached_tokens"], (prompt - 1) / BLOCK_LEN * BLOCK_LEN);
    assert!(prompt > BLOCK_LEN);

    let parts = json!([{"role": "user", "content": [{"type": "text", "text": "Describe "}, {"type": "text", "text": "été."}]}]);
    assert_eq!(server.post("/v1/chat/completions", &json!({"messages": parts})).ok()["choices"][0]["message"]["content"], ANSWER);
    let cut = server.chat(PROMPT, json!({"max_tokens": 3})).ok();
    assert_eq!((&cut["choices"][0]["finish_reason"], &cut["usage"]["completion_tokens"]), (&json!("length"), &json!(3)));
    for stop in [json!("count"), json!(["nothing like it", "t count"])] {
        let stopped = server.chat(PROMPT, json!({"stop": stop})).ok();
        let text = stopped["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
        assert!(text.starts_with("an8 wa") && !text.contains("count"), "{text}");
        assert_eq!(stopped["choices"][0]["finish_reason"], "stop");
    }
    let banned = server.chat(PROMPT, json!({"logit_bias": {"278": -100}, "max_tokens": 5})).ok();
    assert!(!banned["choices"][0]["message"]["content"].as_str().unwrap().starts_with("an"));
}

#[test]
fn a_stream_is_the_whole_in_pieces() {
    let server = Running::tiny(4);
    let sampled = json!({"temperature": 1.3, "seed": 5, "n": 3, "max_tokens": 40, "logprobs": true, "top_logprobs": 2});
    let whole = server.chat(PROMPT, sampled.clone()).ok();
    let mut streamed = sampled.clone();
    streamed["stream"] = true.into();
    streamed["stream_options"] = json!({"include_usage": true});
    let chunks = server.chat(PROMPT, streamed).chunks();
    let (last, chunks) = chunks.split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], whole["usage"]["completion_tokens"]);
    assert!(chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk" && chunk["usage"].is_null()));
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
    let found = joined(chunks, &delta);
    assert_eq!(found.len(), 3);
    for choice in whole["choices"].as_array().unwrap() {
        let index = choice["index"].as_u64().unwrap();
        let expected = (choice["message"]["content"].as_str().unwrap(), choice["finish_reason"].as_str().unwrap());
        assert_eq!((found[&index].0.as_str(), found[&index].1.as_str()), expected);
        let logprobs = chunks.iter().map(|chunk| &chunk["choices"][0]).filter(|piece| piece["index"] == index);
        let logprobs: Vec<&Value> = logprobs.filter_map(|piece| piece["logprobs"]["content"].as_array()).flatten().collect();
        assert_eq!(choice["logprobs"]["content"].as_array().unwrap().iter().collect::<Vec<_>>(), logprobs);
        assert!(logprobs.iter().all(|token| token["top_logprobs"].as_array().unwrap().len() == 2));
    }
    let texts: Vec<&Value> = whole["choices"].as_array().unwrap().iter().map(|choice| &choice["message"]["content"]).collect();
    assert!(texts[0] != texts[1] && texts[1] != texts[2], "each choice has a seed of its own");
    // The first of several is the one alone.
    let alone = server.chat(PROMPT, json!({"temperature": 1.3, "seed": 5, "max_tokens": 40})).ok();
    assert_eq!(&alone["choices"][0]["message"]["content"], texts[0]);
    // No usage where nobody asks for it.
    let plain = server.chat(PROMPT, json!({"stream": true})).chunks();
    assert_eq!(joined(&plain, &delta)[&0], (ANSWER.to_owned(), "stop".to_owned()));
    assert!(plain.iter().all(|chunk| chunk.get("usage").is_none() && chunk["choices"].as_array().unwrap().len() == 1));
}

#[test]
fn neighbours_change_nothing() {
    let alone = Running::tiny(1);
    let many = Running::tiny(8);
    let question = |i: u64| {
        let more = json!({"temperature": 0.9, "seed": i, "max_tokens": 20 + i, "stream": i.is_multiple_of(2), "ignore_eos": i.is_multiple_of(3)});
        (["The river.", PROMPT, "One, two, three and on and on", "x"][i as usize % 4].repeat(1 + i as usize % 3), more)
    };
    let text = |server: &Running, i: u64| {
        let (content, more) = question(i);
        let reply = server.chat(&content, more.clone());
        match more["stream"].as_bool() {
            Some(true) => joined(&reply.chunks(), &delta)[&0].0.clone(),
            _ => reply.ok()["choices"][0]["message"]["content"].as_str().unwrap().to_owned(),
        }
    };
    let expected: Vec<String> = (0..16).map(|i| text(&alone, i)).collect();
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..16)
            .map(|i| {
                (
                    i,
                    scope.spawn({
                        let (text, many) = (&text, &many);
                        move || text(many, i)
                    }),
                )
            })
            .collect();
        for (i, found) in asked {
            assert_eq!(found.join().unwrap(), expected[i as usize], "request {i}");
        }
    });
}

#[test]
fn prompts_in_four_ways_and_their_answers_in_order() {
    let server = Running::tiny(4);
    let tokens = server.post("/tokenize", &json!({"model": "tiny", "prompt": "The river"})).ok()["tokens"].clone();
    let one = server.complete("The river", json!({})).ok();
    assert_eq!((&one["object"], &one["usage"]["completion_tokens"]), (&json!("text_completion"), &json!(16)));
    let text = &one["choices"][0]["text"];
    assert_eq!(&server.complete(tokens.clone(), json!({})).ok()["choices"][0]["text"], text);
    let two = server.complete(json!([[5, 6, 7], tokens]), json!({"n": 2, "temperature": 0})).ok();
    let texts: Vec<&Value> = two["choices"].as_array().unwrap().iter().map(|choice| &choice["text"]).collect();
    assert_eq!((texts.len(), texts[0], texts[2], texts[3]), (4, texts[1], text, text));
    assert_eq!(two["usage"]["prompt_tokens"], 3 + tokens.as_array().unwrap().len());
    let both = server.complete(json!(["The river", "x"]), json!({"stream": true})).chunks();
    assert_eq!(joined(&both, &|choice| choice["text"].clone())[&0].0, *text);
}

#[test]
fn echoed_log_probabilities_are_those_of_scoring() {
    use sol_engine::{Score, Scorer, Scoring};
    let server = Running::tiny(2);
    let prompt = "The river counts: été.";
    let answer = server.complete(prompt, json!({"echo": true, "logprobs": 2, "max_tokens": 4, "ignore_eos": true})).ok();
    let choice = &answer["choices"][0];
    let list = |key: &str| choice["logprobs"][key].as_array().unwrap().clone();
    let (own, top, offsets) = (list("token_logprobs"), list("top_logprobs"), list("text_offset"));
    let ids: Vec<u32> =
        serde_json::from_value(server.post("/tokenize", &json!({"prompt": prompt})).ok()["tokens"].clone()).unwrap();
    assert_eq!(
        (own.len(), top.len(), offsets.len(), list("tokens").len()),
        (ids.len() + 4, ids.len() + 4, ids.len() + 4, ids.len() + 4)
    );
    assert!(own[0].is_null() && top[0].is_null() && own[1..].iter().all(Value::is_number));
    assert!(top[1..].iter().all(|top| (2..=3).contains(&top.as_object().unwrap().len())));
    let text = choice["text"].as_str().unwrap();
    assert!(text.starts_with(prompt));
    assert_eq!(offsets[ids.len()], prompt.chars().count());
    assert!(offsets.windows(2).all(|pair| pair[0].as_u64() <= pair[1].as_u64()));

    let mut model = chat_tiny(1);
    let mut scores = [Score { log_likelihood: 0.0, greedy: false }];
    let request = [Scoring { tokens: ids.clone(), continuation: ids.len() - 1 }];
    Scorer::default().score(model.engine(), &request, &|| false, &mut |i, score| scores[i] = score).unwrap();
    let sum: f64 = own[1..ids.len()].iter().map(|logprob| logprob.as_f64().unwrap()).sum();
    assert!((sum - scores[0].log_likelihood).abs() < 1e-3, "{sum} and {}", scores[0].log_likelihood);
    // The prompt alone, and the same as a stream.
    let alone = server.complete(prompt, json!({"echo": true, "logprobs": 2, "max_tokens": 0})).ok();
    assert_eq!((&alone["choices"][0]["text"], &alone["choices"][0]["finish_reason"]), (&json!(prompt), &json!("length")));
    assert_eq!(alone["choices"][0]["logprobs"]["token_logprobs"].as_array().unwrap()[..], own[..ids.len()]);
    let streamed =
        server.complete(prompt, json!({"echo": true, "logprobs": 2, "max_tokens": 4, "ignore_eos": true, "stream": true}));
    let chunks = streamed.chunks();
    assert_eq!(joined(&chunks, &|choice| choice["text"].clone())[&0].0, text);
    let logprobs = chunks.iter().filter_map(|chunk| chunk["choices"][0]["logprobs"]["token_logprobs"].as_array());
    assert_eq!(logprobs.flatten().cloned().collect::<Vec<_>>(), own);
}

#[test]
fn what_the_server_says_of_itself() {
    let server = Running::tiny(4);
    let models = server.get("/v1/models").ok();
    assert_eq!(
        (&models["object"], &models["data"][0]["id"], &models["data"][0]["object"]),
        (&json!("list"), &json!("tiny"), &json!("model"))
    );
    assert_eq!(server.get("/v1/models/tiny").ok()["max_model_len"], 512);
    assert_eq!(server.get("/v1/models/org/other").status, 404);
    for path in ["/health", "/ready", "/version", "/server_info", "/model_info"] {
        assert!(server.get(path).ok().is_object(), "{path}");
    }
    let long = PROMPT.repeat(8);
    let [_, again] = [(); 2].map(|()| server.chat(&long, json!({})).ok());
    let load = &server.get("/v1/loads").ok()["loads"][0];
    assert_eq!((&load["num_waiting_reqs"], &load["max_total_num_tokens"]), (&json!(0), &json!(4 * 512)));
    for names in [
        ["solarium_prompt_tokens_total", "vllm:prompt_tokens_total"],
        ["solarium_requests_done_total", "vllm:request_success_total"],
    ] {
        assert_eq!(server.figure(names[0]), server.figure(names[1]));
    }
    let usage = |answer: &Value, key: &str| answer["usage"][key].as_f64().unwrap();
    assert_eq!(server.figure("solarium_prompt_tokens_total"), 2.0 * usage(&again, "prompt_tokens"));
    assert_eq!(server.figure("solarium_time_to_first_token_seconds_count"), 2.0);
    let hits = again["usage"]["prompt_tokens_details"]["cached_tokens"].as_f64().unwrap();
    assert!(server.figure("solarium_prefix_hit_tokens_total") == hits && hits > 0.0);
    assert_eq!(server.figure("solarium_kv_blocks_running"), 0.0);

    let tokens = server.post("/tokenize", &json!({"prompt": "<|im_end|> été", "return_token_strs": true})).ok();
    assert_eq!((&tokens["tokens"][0], &tokens["token_strs"][0]), (&json!(2), &json!("<|im_end|>")));
    assert_eq!(server.post("/detokenize", &json!({"tokens": tokens["tokens"]})).ok()["prompt"], "<|im_end|> été");
    let chat = server.post("/tokenize", &json!({"messages": [{"role": "user", "content": PROMPT}]})).ok();
    assert_eq!(chat["count"], 27);
}
