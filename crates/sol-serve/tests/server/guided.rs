//! Answers of a form that was asked for.

use crate::support::{PROMPT, Running};
use serde_json::{Value, json};

/// A schema without an endless text.
fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 6},
            "size": {"enum": ["small", "large"]},
            "rank": {"type": "integer", "minimum": 1, "maximum": 99},
        },
        "required": ["city", "size", "rank"],
        "additionalProperties": false,
    })
}

fn holds(text: &str) {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert_eq!(value.as_object().unwrap().keys().collect::<Vec<_>>(), ["city", "size", "rank"]);
    assert!(value["city"].as_str().unwrap().chars().count() <= 6, "{text}");
    assert!(["small", "large"].contains(&value["size"].as_str().unwrap()), "{text}");
    assert!((1..=99).contains(&value["rank"].as_i64().unwrap()), "{text}");
}

/// Whether a text has the form.
type Check = fn(&str) -> bool;

fn strict(schema: Value) -> Value {
    json!({"type": "json_schema", "json_schema": {"name": "place", "strict": true, "schema": schema}})
}

#[test]
fn answers_have_the_form_whole_and_streamed_in_chat_and_completions() {
    let server = Running::tiny(4);
    let hot = |more: Value| {
        let mut hot = json!({"temperature": 2, "n": 3, "max_tokens": 300});
        hot.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        hot
    };
    for seed in 0..4 {
        let asked = hot(json!({"seed": seed, "response_format": strict(schema()), "logprobs": true, "top_logprobs": 1}));
        let answer = server.chat(PROMPT, asked.clone()).ok();
        let mut streamed = asked;
        streamed["stream"] = true.into();
        let chunks = server.chat(PROMPT, streamed).chunks();
        for (i, choice) in answer["choices"].as_array().unwrap().iter().enumerate() {
            let text = choice["message"]["content"].as_str().unwrap();
            assert_eq!(choice["finish_reason"], "stop", "{text}");
            holds(text);
            let deltas = chunks.iter().map(|chunk| &chunk["choices"][0]).filter(|choice| choice["index"] == i);
            assert_eq!(deltas.filter_map(|choice| choice["delta"]["content"].as_str()).collect::<String>(), text);
        }
    }
    let forms: Vec<(Value, Check)> = vec![
        (json!({"guided_regex": "[0-9]{4}-[0-9]{2}"}), |text| text.len() == 7 && text.as_bytes()[4] == b'-'),
        (json!({"guided_choice": ["positive", "negative"]}), |text| ["positive", "negative"].contains(&text)),
        (json!({"guided_grammar": "start: \"ab\" | \"cd\" start"}), |text| text.ends_with("ab")),
        (json!({"guided_json": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}}), |text| {
            serde_json::from_str::<Vec<bool>>(text).unwrap().len() <= 3
        }),
        (json!({"guided_json": "{\"const\": 12}"}), |text| text == "12"),
        (json!({"structured_outputs": {"choice": ["x y"]}}), |text| text == "x y"),
    ];
    for (form, check) in forms {
        let chat = server.chat(PROMPT, hot(form.clone())).ok();
        let plain = server.complete(PROMPT, hot(form.clone())).ok();
        let texts = chat["choices"].as_array().unwrap().iter().map(|choice| (&choice["message"]["content"], choice));
        let plain = plain["choices"].as_array().unwrap().iter().map(|choice| (&choice["text"], choice));
        for (text, choice) in texts.chain(plain) {
            let text = text.as_str().unwrap();
            assert_eq!(choice["finish_reason"], "stop", "{form}: {text:?}");
            assert!(check(text), "{form}: {text:?}");
        }
    }
    // An object may go on for ever; it begins as one all the same.
    let object = server.chat(PROMPT, hot(json!({"response_format": {"type": "json_object"}}))).ok();
    for choice in object["choices"].as_array().unwrap() {
        let text = choice["message"]["content"].as_str().unwrap();
        assert!(text.starts_with('{'), "{text}");
        // Its numbers may be greater than any float.
        assert!(choice["finish_reason"] == "length" || text.ends_with('}'), "{text}");
    }
    let cut = server.chat(PROMPT, json!({"max_tokens": 3, "response_format": strict(schema())})).ok();
    assert_eq!(cut["choices"][0]["finish_reason"], "length");
    let free = server.chat(PROMPT, json!({"response_format": {"type": "text"}})).ok();
    assert_eq!(free["choices"], server.chat(PROMPT, json!({})).ok()["choices"]);
}

#[test]
fn forms_that_can_not_be_are_refused_and_disturb_nobody() {
    let server = Running::tiny(2);
    let nested = (0..100).fold(json!({"type": "object"}), |inner, _| json!({"type": "array", "items": inner}));
    let refused = [
        (json!({"response_format": {"type": "xml"}}), "response_format.type"),
        (json!({"response_format": {"type": "json_schema"}}), "response_format.json_schema"),
        (json!({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}), "response_format.json_schema.schema"),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}}),
            "response_format.json_schema.name",
        ),
        (json!({"response_format": strict(json!({"type": "integer", "minimum": 2, "maximum": 1}))}), ""),
        (json!({"response_format": strict(json!({"$ref": "#/$defs/nothing"}))}), ""),
        (json!({"response_format": strict(json!({"not": {"type": "string"}}))}), ""),
        (json!({"guided_regex": "("}), "guided_regex"),
        (json!({"guided_regex": 5}), "guided_regex"),
        (json!({"guided_choice": []}), "guided_choice"),
        (json!({"guided_choice": [1]}), "guided_choice[0]"),
        (json!({"guided_grammar": "no grammar"}), "guided_grammar"),
        (json!({"guided_json": 7}), "guided_json"),
        (json!({"structured_outputs": {"regex": "["}}), "structured_outputs.regex"),
        (json!({"guided_regex": "a", "guided_choice": ["b"]}), "guided_choice"),
        (json!({"guided_regex": "a", "response_format": {"type": "json_object"}}), "guided_regex"),
        (json!({"guided_json": {"description": "x".repeat(1 << 20)}}), "guided_json"),
    ];
    for (form, field) in refused {
        for reply in [server.chat(PROMPT, form.clone()), server.complete(PROMPT, form.clone())] {
            let (status, code, param, message) = reply.error();
            let field = if field.is_empty() { "response_format.json_schema.schema" } else { field };
            let shown: String = form.to_string().chars().take(100).collect();
            assert_eq!((status, code.as_str(), param.as_str()), (400, "invalid_value", field), "{shown}: {message}");
            assert!(message.contains(field) && !message.contains("panick"), "{message}");
        }
    }
    assert!([200, 400].contains(&server.chat(PROMPT, json!({"max_tokens": 4, "guided_json": nested})).status));
    assert_eq!(server.chat(PROMPT, json!({})).status, 200);
}
