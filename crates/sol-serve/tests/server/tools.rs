//! Tools: calls that must come, calls that may, and what came of them.

use std::path::Path;

use crate::support::{Running, fixture};
use serde_json::{Value, json};
use sol_engine::LanguageModel;
use sol_serve::Options;

/// Templates that know tools, in the manner of those of Qwen, Mistral and Llama.
const MARKED: &str = "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}<tool_call> {\"name\": ..}\
    <|im_end|>\n{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% for call in m.tool_calls or [] %}\
    <tool_call>\n{\"name\": \"{{ call.function.name }}\", \"arguments\": {{ call.function.arguments | tojson }}}\n</tool_call>\
    {% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";
const LISTED: &str = "{% if tools %}[AVAILABLE_TOOLS] {{ tools | tojson }}{% endif %}{% for m in messages %}{% if m.tool_calls %}\
    [TOOL_CALLS] {{ m.tool_calls | tojson }}{% elif m.role == 'tool' %}{% if m.tool_call_id | length != 9 %}\
    {{ raise_exception('ids have 9 characters') }}{% endif %}[TOOL_RESULTS] {{ m.content }}{% else %}[INST] {{ m.content }}[/INST]\
    {% endif %}{% endfor %}";
const BARE: &str = "{% if tools %}Respond with {\"name\": .., \"parameters\": ..}: {{ tools | tojson }}{% endif %}\
    {% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls[0].function | tojson }}\
    {% endif %}<|im_end|>\n{% endfor %}<|im_start|>assistant\n";

/// chat-tiny with another template and a longer context; Mistral's mark is a special token.
fn server(template: Option<&str>) -> Running {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(fixture("chat-tiny")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    let change = |name: &str, change: &dyn Fn(String) -> String| {
        let path = dir.path().join(name);
        std::fs::write(&path, change(std::fs::read_to_string(&path).unwrap())).unwrap();
    };
    change("config.json", &|text| text.replace("\"max_position_embeddings\": 512", "\"max_position_embeddings\": 4096"));
    // The token of the mark ended turns.
    change("generation_config.json", &|_| json!({"eos_token_id": 2}).to_string());
    for name in ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"] {
        change(name, &|text| text.replace("<|endoftext|>", "[TOOL_CALLS]"));
    }
    if let Some(template) = template {
        std::fs::write(dir.path().join("chat_template.jinja"), template).unwrap();
    }
    let open = |path: &Path| {
        LanguageModel::open(path, sol_engine::Options { sequences: Some(4), threads: Some(2), ..Default::default() }).unwrap()
    };
    Running::start(open(dir.path()), Options::new("tiny"))
}

fn tools() -> Value {
    let weather = json!({
        "type": "object",
        "properties": {"city": {"$ref": "#/$defs/name"}, "unit": {"enum": ["c", "f"]}},
        "required": ["city", "unit"],
        "additionalProperties": false,
        "$defs": {"name": {"type": "string", "maxLength": 5}},
    });
    json!([
        {"type": "function", "function": {"name": "weather", "description": "Tells it.", "parameters": weather, "strict": true}},
        {"type": "function", "function": {"name": "now"}},
    ])
}

/// Name and arguments of each call; they are what the tools take.
fn calls(choice: &Value) -> Vec<(String, String)> {
    let calls = choice["message"]["tool_calls"].as_array().unwrap_or_else(|| panic!("{choice}"));
    let call = |call: &Value| {
        assert_eq!(call["type"], "function");
        assert!(call["id"].as_str().unwrap().len() >= 9);
        let name = call["function"]["name"].as_str().unwrap().to_owned();
        let arguments = call["function"]["arguments"].as_str().unwrap().to_owned();
        let value: Value = serde_json::from_str(&arguments).unwrap_or_else(|e| panic!("{e}: {arguments}"));
        let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
        match name.as_str() {
            "weather" => {
                assert_eq!(keys, ["city", "unit"]);
                assert!(value["city"].as_str().unwrap().chars().count() <= 5);
                assert!(value["unit"] == "c" || value["unit"] == "f");
            }
            "now" => assert!(keys.is_empty()),
            other => panic!("{other}"),
        }
        (name, arguments)
    };
    calls.iter().map(call).collect()
}

/// The same of a stream, of its first choice, with why it ended.
fn streamed(chunks: &[Value]) -> (Vec<(String, String)>, String, String) {
    let (mut calls, mut text, mut finish) = (Vec::<(String, String)>::new(), String::new(), String::new());
    for choice in chunks.iter().map(|chunk| &chunk["choices"][0]).filter(|choice| choice["index"] == 0) {
        assert_eq!(finish, "", "nothing comes after the end");
        text += choice["delta"]["content"].as_str().unwrap_or_default();
        for call in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            let index = call["index"].as_u64().unwrap() as usize;
            if let Some(name) = call["function"]["name"].as_str() {
                assert_eq!((index, &call["type"], call["id"].is_string()), (calls.len(), &json!("function"), true));
                calls.push((name.to_owned(), String::new()));
            }
            calls[index].1 += call["function"]["arguments"].as_str().unwrap();
        }
        finish += choice["finish_reason"].as_str().unwrap_or_default();
    }
    (calls, text, finish)
}

#[test]
fn calls_that_must_come_do_in_every_manner() {
    for (template, several) in [(None, false), (Some(MARKED), true), (Some(LISTED), true), (Some(BARE), false)] {
        let server = server(template);
        let mut most = 0;
        for seed in 0..6 {
            let mut asked =
                json!({"tools": tools(), "tool_choice": "required", "temperature": 2, "seed": seed, "max_tokens": 400});
            let answer = server.chat("Hi", asked.clone()).ok();
            let choice = &answer["choices"][0];
            // Several may go on and on.
            let reason = choice["finish_reason"].as_str().unwrap();
            if reason == "length" && several {
                continue;
            }
            assert_eq!((reason, &choice["message"]["content"]), ("tool_calls", &Value::Null), "{choice}");
            let whole = calls(choice);
            most = most.max(whole.len());
            asked["stream"] = true.into();
            let chunks = server.chat("Hi", asked.clone()).chunks();
            assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role": "assistant", "content": null}));
            assert_eq!(streamed(&chunks), (whole, String::new(), "tool_calls".into()));
            // Exactly one.
            asked["parallel_tool_calls"] = false.into();
            assert_eq!(streamed(&server.chat("Hi", asked.clone()).chunks()).0.len(), 1);
            asked["tool_choice"] = json!({"type": "function", "function": {"name": "now"}});
            asked["parallel_tool_calls"] = true.into();
            asked["stream"] = false.into();
            let named = server.chat("Hi", asked).ok();
            assert!(matches!(&calls(&named["choices"][0])[..], [(name, _)] if name == "now"));
        }
        assert!(most > 0, "{template:?}");
    }
}

#[test]
fn who_may_call_may_answer() {
    for template in [None, Some(MARKED)] {
        let server = server(template);
        let auto = server.chat("Hi", json!({"tools": tools(), "max_tokens": 20})).ok();
        let choice = &auto["choices"][0];
        assert!(choice["message"]["content"].is_string() && choice["message"].get("tool_calls").is_none(), "{choice}");
        assert_ne!(choice["finish_reason"], "tool_calls");
        let chunks = server.chat("Hi", json!({"tools": tools(), "max_tokens": 20, "stream": true})).chunks();
        assert_eq!(streamed(&chunks).1, choice["message"]["content"].as_str().unwrap());
        // Tools that may not be called are not shown.
        let none = server.chat("Hi", json!({"tools": tools(), "tool_choice": "none", "max_tokens": 20})).ok();
        let without = server.chat("Hi", json!({"max_tokens": 20})).ok();
        assert_eq!(none["choices"], without["choices"]);
        assert!(auto["usage"]["prompt_tokens"].as_u64() > none["usage"]["prompt_tokens"].as_u64());
        // An answer of a form, or a call.
        let format = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": ["y", "z"]}}});
        for seed in 0..4 {
            let asked = json!({"tools": tools(), "response_format": format, "temperature": 2, "seed": seed, "max_tokens": 400});
            let choice = &server.chat("Hi", asked).ok()["choices"][0];
            match choice["finish_reason"].as_str().unwrap() {
                "stop" => assert!(choice["message"]["content"] == "\"y\"" || choice["message"]["content"] == "\"z\"", "{choice}"),
                "tool_calls" => assert!(!calls(choice).is_empty()),
                other => assert_eq!(other, "length"),
            }
        }
    }
}

#[test]
fn calls_and_results_go_back_to_the_model() {
    let conversation = json!([
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "abcdefghi", "type": "function", "function": {"name": "weather", "arguments": "{\"city\": \"Bonn<|im_end|>\"}"}},
        ]},
        {"role": "tool", "tool_call_id": "abcdefghi", "content": [{"type": "text", "text": "wet"}]},
    ]);
    for (template, expected) in [
        (
            None,
            "\n{\"name\": \"weather\", \"arguments\": {\"city\":\"Bonn<|im_end|>\"}}<|im_end|>\n<|im_start|>user\nResult of weather:\nwet<",
        ),
        (
            Some(MARKED),
            "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Bonn<|im_end|>\"}}\n</tool_call><|im_end|>\n",
        ),
        (Some(LISTED), "[TOOL_RESULTS] wet"),
        (Some(BARE), "{\"name\": \"weather\", \"arguments\": {\"city\": \"Bonn<|im_end|>\"}}<|im_end|>\n<|im_start|>tool\nwet<"),
    ] {
        let server = server(template);
        let tokens = server.post("/tokenize", &json!({"messages": conversation})).ok()["tokens"].clone();
        let text = server.post("/detokenize", &json!({"tokens": tokens})).ok()["prompt"].as_str().unwrap().to_owned();
        assert!(text.contains(expected), "{text}");
        // What a client writes is no end of a turn.
        let ends = tokens.as_array().unwrap().iter().filter(|id| **id == 2).count();
        assert_eq!(ends, if template == Some(LISTED) { 0 } else { 3 }, "{text}");
        let answer =
            server.post("/v1/chat/completions", &json!({"messages": conversation, "tools": tools(), "max_tokens": 5})).ok();
        assert_eq!(answer["usage"]["completion_tokens"], 5);
    }
}

#[test]
fn tools_that_make_no_sense_are_refused() {
    let server = server(None);
    let function =
        |name: &str, parameters: Value| json!([{"type": "function", "function": {"name": name, "parameters": parameters}}]);
    let calls = |call: Value| json!({"messages": [{"role": "assistant", "tool_calls": [call]}]});
    let many: Vec<Value> = (0..129).map(|i| function(&format!("f{i}"), json!({}))[0].clone()).collect();
    for (asked, field) in [
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"tools": tools(), "tool_choice": "always"}), "tool_choice"),
        (json!({"tools": tools(), "tool_choice": {"type": "function", "function": {"name": "none"}}}), "tool_choice"),
        (json!({"tools": tools(), "tool_choice": {"type": "function"}}), "tool_choice.function"),
        (json!({"tools": tools(), "tool_choice": {"type": "allowed_tools"}}), "tool_choice"),
        (json!({"tools": tools(), "tool_choice": 5}), "tool_choice"),
        (json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
        (json!({"tools": [{"type": "function"}]}), "tools[0].function"),
        (json!({"tools": [{"type": "function", "function": {}}]}), "tools[0].function.name"),
        (json!({"tools": function("a b", json!({}))}), "tools[0].function.name"),
        (json!({"tools": [tools()[0], tools()[0]]}), "tools[1].function"),
        (json!({"tools": many}), "tools"),
        (json!({"tools": tools(), "guided_regex": "a"}), "guided_regex"),
        (
            json!({"tools": function("f", json!({"type": "integer", "minimum": 2, "maximum": 1})), "tool_choice": "required"}),
            "tools",
        ),
        (json!({"functions": [{"name": "f"}]}), "functions"),
        (json!({"messages": [{"role": "tool", "content": "x"}]}), "messages[0].tool_call_id"),
        (calls(json!({"id": "a", "type": "custom"})), "messages[0].tool_calls[0]"),
        (calls(json!({"id": "a", "type": "custom", "function": {"name": "f", "arguments": "{}"}})), "messages[0].tool_calls[0]"),
        (calls(json!({"id": "a", "function": {"name": "f", "arguments": "{"}})), "messages[0].tool_calls[0].function.arguments"),
    ] {
        let reply = server.chat("Hi", asked.clone());
        let shown: String = asked.to_string().chars().take(200).collect();
        assert_eq!(reply.status, 400, "{shown}: {}", reply.text);
        let (_, _, param, message) = reply.error();
        assert_eq!(param, field, "{shown}: {message}");
    }
}
