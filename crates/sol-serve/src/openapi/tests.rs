//! The document against the router and against what reads bodies.

use serde::de::value::Error;
use serde::de::{DeserializeOwned, Deserializer, Error as _, Visitor};
use serde_json::Map;

use super::*;
use crate::chat::ChatParams;
use crate::completions::CompletionParams;
use crate::embeddings::EmbeddingParams;
use crate::info::{DetokenizeParams, TokenizeParams};
use crate::params::Params;
use crate::responses::ResponseParams;

/// The router's paths are the document's; those of the page are not API.
#[test]
fn every_route_is_there() {
    let routes = include_str!("../server.rs").split(".route(\"").skip(1).map(|rest| rest.split('"').next().unwrap());
    let routes = routes.filter(|path| !crate::page::is_page(path));
    let mut routes: Vec<String> = routes.map(|path| path.replace("{*id}", "{model}")).collect();
    routes.sort();
    let documented: Vec<String> = document().paths.paths.keys().cloned().collect();
    assert_eq!(routes, documented);
}

#[test]
fn every_reference_leads_somewhere() {
    fn check(value: &Value, document: &Value) {
        match value {
            Value::Object(fields) => {
                if let Some(reference) = fields.get("$ref").and_then(Value::as_str) {
                    assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
                }
                fields.values().for_each(|value| check(value, document));
            }
            Value::Array(values) => values.iter().for_each(|value| check(value, document)),
            _ => {}
        }
    }
    check(&DOCUMENT, &DOCUMENT);
    assert_eq!(DOCUMENT["openapi"], "3.1.0");
}

#[test]
fn no_name_has_two_meanings() {
    let schemas = Document::all().schemas;
    for (name, schema) in &schemas {
        let same = |(other, meaning): &(String, _)| other != name || meaning == schema;
        assert!(schemas.iter().all(same), "{name}");
    }
}

/// What reads a body, or a part of its fields.
struct Reader {
    takes: fn(&Value) -> bool,
    fields: Vec<&'static str>,
}

fn reader<T: DeserializeOwned>() -> Reader {
    let mut fields = Vec::new();
    assert!(T::deserialize(Fields(&mut fields)).is_err());
    Reader { takes: |body| T::deserialize(body.clone()).is_ok(), fields }
}

/// Notes which fields a struct asks for.
struct Fields<'a>(&'a mut Vec<&'static str>);

impl<'de> Deserializer<'de> for Fields<'_> {
    type Error = Error;

    fn deserialize_struct<V: Visitor<'de>>(self, _: &str, fields: &'static [&'static str], _: V) -> Result<V::Value, Error> {
        self.0.extend(fields);
        Err(Error::custom("noted"))
    }

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("not a struct"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct
        seq tuple tuple_struct map enum identifier ignored_any
    }
}

fn resolved(schema: &Value) -> &Value {
    schema["$ref"].as_str().map_or(schema, |reference| DOCUMENT.pointer(&reference[1..]).unwrap())
}

/// The fields of an object, also of those that it is put together of.
fn properties(schema: &Value) -> Map<String, Value> {
    let schema = resolved(schema);
    let mut fields = schema["properties"].as_object().cloned().unwrap_or_default();
    fields.extend(schema["allOf"].as_array().into_iter().flatten().flat_map(properties));
    fields
}

/// Stands where any value may.
const ANY: &str = "any";

/// Values that a schema allows: together they have every field and every alternative.
fn samples(schema: &Value) -> Vec<Value> {
    let schema = resolved(schema);
    if let Some(alternatives) = schema["oneOf"].as_array() {
        return alternatives.iter().flat_map(samples).collect();
    }
    let fields: Vec<(String, Vec<Value>)> =
        properties(schema).iter().map(|(name, schema)| (name.clone(), samples(schema))).collect();
    if let Some(most) = fields.iter().map(|(_, samples)| samples.len()).max() {
        let object = |i: usize| fields.iter().map(|(name, all)| (name.clone(), all[i.min(all.len() - 1)].clone())).collect();
        return (0..most).map(object).collect();
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).filter(|kind| *kind != "null").collect(),
        kind => kind.as_str().into_iter().collect(),
    };
    match kinds[..] {
        ["array"] => vec![samples(&schema["items"]).into()],
        ["object"] => samples(&schema["additionalProperties"]).into_iter().map(|value| json!({"1": value})).collect(),
        ["string"] => schema["enum"].as_array().cloned().unwrap_or_else(|| vec!["x".into()]),
        ["integer"] => vec![1.into()],
        ["number"] => vec![1.0.into()],
        ["boolean"] => vec![true.into()],
        ["null"] => Vec::new(),
        _ => vec![ANY.into()],
    }
}

/// Where a value has fields, at any depth, but for those that may be anything.
fn places(value: &Value, at: &str, places: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields.iter().filter(|(_, value)| *value != ANY) {
                let at = format!("{at}/{name}");
                places.push(at.clone());
                self::places(value, &at, places);
            }
        }
        Value::Array(values) => values.iter().enumerate().for_each(|(i, value)| self::places(value, &format!("{at}/{i}"), places)),
        _ => {}
    }
}

/// Bodies as the document has them are read, with every field of theirs: one of a wrong type is refused, where one that is passed
/// over would not be. What is read but not in the document is there to be refused.
#[test]
fn what_is_read_is_what_is_there() {
    let chat = vec![reader::<Params>(), reader::<ChatParams>()];
    let complete = vec![reader::<Params>(), reader::<CompletionParams>()];
    let respond = vec![reader::<Params>(), reader::<ResponseParams>()];
    let chat_refused = "best_of functions function_call audio modalities";
    let respond_refused = "max_tokens n best_of stream_options response_format guided_json guided_regex guided_choice guided_grammar \
                           structured_outputs tools tool_choice reasoning truncation include background top_logprobs \
                           previous_response_id conversation prompt";
    for (name, readers, refused) in [
        ("ChatRequest", chat, chat_refused),
        ("CompletionRequest", complete, "suffix"),
        ("ResponseRequest", respond, respond_refused),
        ("EmbeddingRequest", vec![reader::<EmbeddingParams>()], "dimensions"),
        ("TokenizeRequest", vec![reader::<TokenizeParams>()], ""),
        ("DetokenizeRequest", vec![reader::<DetokenizeParams>()], ""),
    ] {
        let schema = &DOCUMENT["components"]["schemas"][name];
        let takes = |body: &Value| readers.iter().all(|reader| (reader.takes)(body));
        for body in samples(schema) {
            assert!(takes(&body), "{name}: {body}");
            let mut all = Vec::new();
            places(&body, "", &mut all);
            for place in all {
                let mut body = body.clone();
                let value = body.pointer_mut(&place).unwrap();
                *value = if value.is_boolean() { json!(5) } else { json!(true) };
                assert!(!takes(&body), "{name} is read without {place}: {body}");
            }
        }
        let documented = properties(schema);
        let mut rest: Vec<&str> = readers.iter().flat_map(|reader| reader.fields.clone()).collect();
        rest.retain(|field| !documented.contains_key(*field));
        let mut refused: Vec<&str> = refused.split_whitespace().collect();
        for fields in [&mut rest, &mut refused] {
            fields.sort_unstable();
            fields.dedup();
        }
        assert_eq!(rest, refused, "{name}");
    }
}
