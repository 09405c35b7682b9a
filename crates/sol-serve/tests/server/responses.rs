//! `/v1/responses` and `/v1/embeddings`.

use serde_json::{Value, json};

use crate::support::{ANSWER, PROMPT, Running};

const RESPONSES: &str = "/v1/responses";

#[test]
fn a_response_has_openais_shape_and_the_models_answer() {
    let server = Running::tiny(2);
    let ask = |input: Value| server.post(RESPONSES, &json!({"model": "tiny", "input": input, "metadata": {"a": "b"}})).ok();
    let answer = ask(json!(PROMPT));
    assert!(answer["id"].as_str().unwrap().starts_with("resp_"));
    let about = ["object", "status", "model", "error", "incomplete_details", "metadata"].map(|key| answer[key].clone());
    assert_eq!(about, [json!("response"), json!("completed"), json!("tiny"), Value::Null, Value::Null, json!({"a": "b"})]);
    let item = &answer["output"][0];
    assert_eq!((&item["type"], &item["role"], &item["status"]), (&json!("message"), &json!("assistant"), &json!("completed")));
    assert_eq!(item["content"], json!([{"type": "output_text", "text": ANSWER, "annotations": [], "logprobs": []}]));
    let chat = server.chat(PROMPT, json!({})).ok();
    let usage = ["input_tokens", "output_tokens", "total_tokens"].map(|key| answer["usage"][key].clone());
    assert_eq!(usage, ["prompt_tokens", "completion_tokens", "total_tokens"].map(|key| chat["usage"][key].clone()));
    assert_eq!(answer["usage"]["input_tokens_details"]["cached_tokens"], 0);

    // The same in items, and with instructions as a system message.
    for content in [json!(PROMPT), json!([{"type": "input_text", "text": "Describe "}, {"type": "input_text", "text": "été."}])]
    {
        assert_eq!(ask(json!([{"role": "user", "content": content}]))["output"][0]["content"][0]["text"], ANSWER);
    }
    let turns = json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "x"}, {"role": "assistant", "content": "y"},
        {"role": "user", "content": PROMPT}]);
    let whole = server.post("/v1/chat/completions", &json!({"messages": turns, "max_tokens": 9})).ok();
    let items = json!([{"role": "user", "content": "x"}, {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "y"}]},
        {"role": "user", "content": PROMPT}]);
    let given = json!({"instructions": "Be brief.", "input": items, "max_output_tokens": 9});
    let answer = server.post(RESPONSES, &given).ok();
    assert_eq!(answer["output"][0]["content"][0]["text"], whole["choices"][0]["message"]["content"]);
    assert_eq!((&answer["status"], &answer["incomplete_details"]["reason"]), (&json!("incomplete"), &json!("max_output_tokens")));
    assert_eq!((&answer["instructions"], &answer["max_output_tokens"]), (&json!("Be brief."), &json!(9)));
}

#[test]
fn events_have_names_numbers_and_an_order() {
    let server = Running::tiny(2);
    for (more, status) in [(json!({}), "completed"), (json!({"max_output_tokens": 3}), "incomplete")] {
        let mut body = json!({"input": PROMPT, "stream": true});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let reply = server.post(RESPONSES, &body);
        assert_eq!((reply.status, reply.headers["content-type"].to_str().unwrap()), (200, "text/event-stream"));
        let names: Vec<&str> = reply.text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
        let events: Vec<Value> = reply
            .text
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .map(|data| serde_json::from_str(data).unwrap())
            .collect();
        assert_eq!(events.iter().map(|event| event["type"].as_str().unwrap()).collect::<Vec<_>>(), names);
        assert!(events.iter().enumerate().all(|(i, event)| event["sequence_number"] == i));
        let mut order = names.clone();
        order.dedup();
        let last = format!("response.{status}");
        let expected = [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            &last,
        ];
        assert_eq!(order, expected);
        let text: String = events.iter().filter_map(|event| event["delta"].as_str()).collect();
        let done = events.iter().find(|event| event["type"] == "response.output_text.done").unwrap();
        let response = &events.last().unwrap()["response"];
        assert_eq!((&done["text"], &response["output"][0]["content"][0]["text"]), (&json!(text), &json!(text)));
        assert!(if status == "completed" { text == ANSWER } else { ANSWER.starts_with(&text) });
        assert_eq!((&response["status"], &events[0]["response"]["status"]), (&json!(status), &json!("in_progress")));
        assert!(response["usage"]["output_tokens"].as_u64() > Some(2) && events[0]["response"]["usage"].is_null());
    }
}

#[test]
fn what_a_response_does_not_do_is_refused_by_name() {
    let server = Running::tiny(1);
    for (more, field) in [
        (json!({"previous_response_id": "resp_1"}), "previous_response_id"),
        (json!({"conversation": "conv_1"}), "conversation"),
        (json!({"text": {"format": {"type": "json_object"}}}), "text.format"),
        (json!({"tools": [{"type": "web_search"}]}), "tools"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"reasoning": {"effort": "high"}}), "reasoning.effort"),
        (json!({"truncation": "auto"}), "truncation"),
        (json!({"background": true}), "background"),
        (json!({"max_tokens": 5}), "max_tokens"),
        (json!({"max_output_tokens": 0}), "max_output_tokens"),
        (json!({"n": 2}), "n"),
        (json!({"top_logprobs": 2}), "top_logprobs"),
        (json!({"include": ["message.output_text.logprobs"]}), "include"),
        (json!({"guided_regex": "a*"}), "guided_regex"),
        (json!({"input": []}), "input"),
        (json!({"input": 7}), "input"),
        (json!({"input": [{"type": "function_call_output", "output": "x"}]}), "input[0]"),
        (json!({"input": [{"role": "robot", "content": "x"}]}), "input[0].role"),
        (json!({"input": [{"role": "user"}]}), "input[0].content"),
        (json!({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}), "input[0].content[0]"),
    ] {
        let mut body = json!({"input": PROMPT});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, _, param, message) = server.post(RESPONSES, &body).error();
        assert_eq!((status, param.as_str()), (400, field), "{more}: {message}");
    }
    let harmless = json!({"input": PROMPT, "store": true, "text": {"format": {"type": "text"}}, "tools": [], "tool_choice": "auto",
        "truncation": "disabled", "include": ["reasoning.encrypted_content"], "reasoning": {"effort": null}, "previous_response_id": null});
    assert_eq!(server.post(RESPONSES, &harmless).ok()["output"][0]["content"][0]["text"], ANSWER);
}

#[test]
fn embeddings_are_unit_means_in_their_order() {
    let server = Running::tiny(2);
    let embed = |more: Value| {
        let mut body = json!({"model": "tiny"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server.post("/v1/embeddings", &body)
    };
    let vectors = |answer: &Value| {
        let numbers = |entry: &Value| serde_json::from_value::<Vec<f64>>(entry["embedding"].clone()).unwrap();
        answer["data"].as_array().unwrap().iter().map(numbers).collect::<Vec<_>>()
    };
    let texts = ["The river.", "The bridge.", "The river.", PROMPT, "x"];
    let all = embed(json!({"input": texts})).ok();
    let found = vectors(&all);
    assert!(found.iter().all(|v| (v.iter().map(|x| x * x).sum::<f64>() - 1.0).abs() < 1e-6));
    assert!(found[0] == found[2] && found[0] != found[1]);
    assert!(
        all["data"]
            .as_array()
            .unwrap()
            .iter()
            .enumerate()
            .all(|(i, entry)| entry["index"] == i && entry["object"] == "embedding")
    );
    // PyTorch's mean, scaled.
    let cases: Value = serde_json::from_str(include_str!("../../../sol-engine/tests/data/embeddings.json")).unwrap();
    for case in cases.as_array().unwrap().iter().filter(|case| case["model"] == "chat-tiny") {
        let one = embed(json!({"input": case["tokens"]})).ok();
        let mean: Vec<f64> = serde_json::from_value(case["mean"].clone()).unwrap();
        let length = mean.iter().map(|x| x * x).sum::<f64>().sqrt();
        assert!(vectors(&one)[0].iter().zip(&mean).all(|(a, b)| (a - b / length).abs() < 1e-4));
        let tokens = case["tokens"].as_array().unwrap().len();
        assert_eq!(one["usage"], json!({"prompt_tokens": tokens, "total_tokens": tokens}));
    }
    let tokens = server.post("/tokenize", &json!({"prompt": "The river."})).ok()["tokens"].clone();
    assert_eq!(vectors(&embed(json!({"input": [tokens, [5]]})).ok())[0], found[0]);
    // 4 characters for 3 bytes: a float is 4 bytes.
    let packed = embed(json!({"input": "The river.", "encoding_format": "base64"})).ok();
    assert_eq!(packed["data"][0]["embedding"].as_str().unwrap().len(), (found[0].len() * 4).div_ceil(3) * 4);

    let many = embed(json!({"input": vec!["a"; 300]})).ok();
    assert_eq!(many["data"].as_array().unwrap().len(), 300);
    for (more, field) in [
        (json!({"input": "x", "dimensions": 8}), "dimensions"),
        (json!({"input": "x", "encoding_format": "hex"}), "encoding_format"),
        (json!({"input": ""}), "input"),
        (json!({"input": ["x", ""]}), "input[1]"),
        (json!({"input": []}), "input"),
        (json!({"input": vec!["x"; 2049]}), "input"),
        (json!({"input": vec![5; 513]}), "input"),
        (json!({}), "input"),
    ] {
        let (status, _, param, message) = embed(more).error();
        assert_eq!((status, param.as_str()), (400, field), "{message}");
    }
    server.until("solarium_kv_blocks_running", 0.0);
    // Answers are those of before.
    assert_eq!(server.chat(PROMPT, json!({})).ok()["choices"][0]["message"]["content"], ANSWER);
}
