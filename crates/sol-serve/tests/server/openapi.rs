//! Answers and streams have the fields that the document names, all of those that it says are there, and no others.

use serde_json::{Map, Value, json};
use sol_serve::{Options, Source};

use crate::support::{PROMPT, Running, chat_tiny};

/// A schema's fields and those that must be there, also of the schemas that it is put together of.
fn fields(schema: &Value, document: &Value) -> (Map<String, Value>, Vec<Value>) {
    let schema = resolved(schema, document);
    let mut all = schema["properties"].as_object().cloned().unwrap_or_default();
    let mut required = schema["required"].as_array().cloned().unwrap_or_default();
    for part in schema["allOf"].as_array().into_iter().flatten() {
        let part = fields(part, document);
        all.extend(part.0);
        required.extend(part.1);
    }
    (all, required)
}

fn resolved<'a>(schema: &'a Value, document: &'a Value) -> &'a Value {
    schema["$ref"].as_str().map_or(schema, |reference| document.pointer(&reference[1..]).unwrap())
}

/// Why a value does not fit a schema.
fn misfit(value: &Value, schema: &Value, document: &Value) -> Option<String> {
    let schema = resolved(schema, document);
    if let Some(alternatives) = schema["oneOf"].as_array() {
        let misfits: Vec<_> = alternatives.iter().map(|schema| misfit(value, schema, document)).collect();
        return misfits.into_iter().collect::<Option<Vec<String>>>().map(|all| all.join("; "));
    }
    if let Some(allowed) = schema["enum"].as_array().filter(|allowed| !allowed.contains(value)) {
        return Some(format!("{value} is none of {allowed:?}"));
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let is = |wanted: &Value| wanted == kind || (wanted == "number" && kind == "integer");
    let (all, required) = fields(schema, document);
    let right = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().any(is),
        Value::Null => all.is_empty() || kind == "object",
        wanted => is(wanted),
    };
    if !right {
        return Some(format!("{value} is not {}", schema["type"]));
    }
    match value {
        Value::Array(values) => values.iter().find_map(|value| misfit(value, &schema["items"], document)),
        Value::Object(given) => {
            let more = &schema["additionalProperties"];
            let one = |(name, value): (&String, &Value)| match all.get(name) {
                Some(schema) => misfit(value, schema, document).map(|why| format!("{name}: {why}")),
                None if more.is_object() => misfit(value, more, document),
                None => Some(format!("{name} is not in the document")),
            };
            let missing = required.iter().find(|name| !given.contains_key(name.as_str().unwrap()));
            missing.map(|name| format!("{name} is missing")).or_else(|| given.iter().find_map(one))
        }
        _ => None,
    }
}

#[test]
fn answers_are_as_the_document_says() {
    let absent = || Err(sol_engine::Error::Interrupted);
    let sources = vec![Source::ready(vec!["tiny".into()], chat_tiny(4)), Source::on_demand(vec!["other".into()], absent)];
    let server = Running::start_many(sources, 2, Options::new(""));
    let document = server.get("/openapi.json").ok();
    let check = |value: &Value, schema: &Value, what: &str| {
        assert!(schema.is_object(), "{what}");
        let why = misfit(value, schema, &document);
        assert!(why.is_none(), "{what}: {}\n{value}", why.unwrap_or_default());
    };
    let gets = "/v1/models /health /ready /version /model_info /server_info /v1/loads".split(' ').map(|path| (path, path));
    for (path, known) in gets.chain([("/v1/models/{model}", "/v1/models/other"), ("/v1/models/{model}", "/v1/models/none")]) {
        let reply = server.get(known);
        let responses = &document["paths"][path]["get"]["responses"];
        check(&reply.json(), &responses[reply.status.to_string()]["content"]["application/json"]["schema"], known);
    }
    let messages = json!([{"role": "user", "content": PROMPT}]);
    let tools = json!([{"type": "function", "function": {"name": "now"}}]);
    for (path, chunk, body) in [
        ("/v1/chat/completions", "ChatChunk", json!({"messages": messages, "logprobs": true, "top_logprobs": 2, "n": 2})),
        ("/v1/chat/completions", "ChatChunk", json!({"messages": messages, "tools": tools, "tool_choice": "required"})),
        ("/v1/completions", "Completion", json!({"prompt": [PROMPT, "x"], "echo": true, "logprobs": 2, "max_tokens": 3})),
        ("/v1/responses", "ResponseChunk", json!({"input": messages, "metadata": {"a": "b"}, "user": "me"})),
        ("/v1/responses", "ResponseChunk", json!({"input": messages, "max_output_tokens": 2})),
        ("/v1/embeddings", "", json!({"input": "x"})),
        ("/v1/embeddings", "", json!({"input": "x", "encoding_format": "base64"})),
        ("/tokenize", "", json!({"prompt": "x", "return_token_strs": true})),
        ("/detokenize", "", json!({"tokens": [5]})),
        ("/v1/chat/completions", "", json!({"messages": messages, "n": 0})),
    ] {
        let reply = server.post(path, &body);
        let responses = &document["paths"][path]["post"]["responses"];
        let what = format!("{path} {body}");
        check(&reply.json(), &responses[reply.status.to_string()]["content"]["application/json"]["schema"], &what);
        assert_eq!(reply.status == 200, body["n"] != 0, "{what}: {}", reply.text);
        if chunk.is_empty() {
            continue;
        }
        let mut body = body;
        body["stream"] = true.into();
        if chunk != "ResponseChunk" {
            body["stream_options"] = json!({"include_usage": true});
        }
        let stream = server.post(path, &body).text;
        let data = stream.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
        let chunks: Vec<Value> = data.map(|data| serde_json::from_str(data).unwrap()).collect();
        assert!(chunks.len() > 2, "{stream}");
        for value in chunks {
            check(&value, &document["components"]["schemas"][chunk], &format!("stream of {what}"));
        }
    }
}
