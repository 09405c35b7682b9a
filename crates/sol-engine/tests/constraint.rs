//! Answers of a form that was asked for: on models with random weights, at temperatures that make every token likely.

mod common;

use std::sync::mpsc::channel;
use std::time::Duration;

use common::{open, open_with};
use serde_json::{Value, json};
use sol_engine::{
    Constraint, Error, Event, Finish, Generation, Grammar, LanguageModel, Options, Request, Sampling, Serving, ServingOptions,
};

const LONGEST: Duration = Duration::from_secs(120);
const PROMPT: [u32; 6] = [5, 17, 40, 3, 29, 11];

fn constraint(model: &LanguageModel, grammar: Grammar) -> Constraint {
    model.constrainer().unwrap().constraint(&grammar).unwrap()
}

fn schema() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 8},
            "kind": {"enum": ["cat", "dog", "sea \"lion\""]},
            "age": {"type": "integer", "minimum": -3, "maximum": 120},
            "tags": {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 3},
            "parent": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/point"}]},
        },
        "required": ["name", "kind", "age", "tags", "parent"],
        "additionalProperties": false,
        "$defs": {"point": {
            "type": "object",
            "properties": {"x": {"type": "number", "minimum": 0, "maximum": 1}},
            "required": ["x"],
            "additionalProperties": false,
        }},
    })
}

fn holds(text: &str) -> bool {
    let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    let keys: Vec<&String> = value.as_object().unwrap().keys().collect();
    let tags = value["tags"].as_array().unwrap();
    keys == ["name", "kind", "age", "tags", "parent"]
        && value["name"].as_str().unwrap().chars().count() <= 8
        && ["cat", "dog", "sea \"lion\""].contains(&value["kind"].as_str().unwrap())
        && (-3..=120).contains(&value["age"].as_i64().unwrap())
        && (1..=3).contains(&tags.len())
        && tags.iter().all(Value::is_boolean)
        && (value["parent"].is_null() || (0.0..=1.0).contains(&value["parent"]["x"].as_f64().unwrap()))
}

/// Digits and operators, with balanced brackets.
fn is_sum(text: &str) -> bool {
    let depth = text.chars().try_fold(0i32, |depth, c| match c {
        '(' => Some(depth + 1),
        ')' if depth > 0 => Some(depth - 1),
        '0'..='9' | '+' => Some(depth),
        _ => None,
    });
    depth == Some(0)
}

type Check = fn(&str) -> bool;

fn grammars() -> Vec<(Grammar, Check)> {
    let choices = ["yes", "no", "no, never", "später\n", "a.b*"];
    vec![
        (Grammar::JsonSchema(schema()), holds),
        (Grammar::JsonObject, |text| serde_json::from_str::<Value>(text).unwrap().is_object()),
        (Grammar::Regex(r"[a-c]{2,5}-[0-9]{3}( é|ü)?".into()), |text| {
            let (letters, rest) = text.split_once('-').unwrap();
            let rest = rest.strip_suffix(" é").or(rest.strip_suffix('ü')).unwrap_or(rest);
            (2..=5).contains(&letters.len())
                && letters.chars().all(|c| ('a'..='c').contains(&c))
                && rest.len() == 3
                && rest.bytes().all(|b| b.is_ascii_digit())
        }),
        (Grammar::Choice(choices.map(String::from).to_vec()), |text| {
            ["yes", "no", "no, never", "später\n", "a.b*"].contains(&text)
        }),
        (Grammar::Lark("start: sum\nsum: term (\"+\" term){0,3}\nterm: /[0-9]{1,3}/ | \"(\" sum \")\"\n".into()), is_sum),
        // A space in front is part of the text.
        (Grammar::Regex(" [x-z]{3}".into()), |text| text.len() == 4 && text.starts_with(' ')),
    ]
}

#[test]
fn every_kind_holds_whatever_the_model_would_like_to_say() {
    for name in ["chat-tiny", "solar-tiny.gguf"] {
        let mut model = open(name);
        for (grammar, check) in grammars() {
            let constraint = constraint(&model, grammar.clone());
            let mut complete = 0;
            for seed in 0..12 {
                let temperature = [0.0, 1.0, 2.0][seed as usize % 3];
                let sampling = Sampling { temperature, seed, repetition_penalty: 1.1, ..Sampling::default() };
                let options =
                    Generation { sampling, max_tokens: Some(300), constraint: Some(constraint.clone()), ..Generation::default() };
                let answer = common::generate(&mut model, &PROMPT, &options);
                let shown: String = format!("{grammar:?}").chars().take(60).collect();
                let at = format!("{:?} {name}, {shown}, seed {seed}", answer.text);
                match answer.finish {
                    Finish::EndOfTurn => {
                        assert!(check(&answer.text), "{at}");
                        complete += 1;
                    }
                    // Objects and sums have no longest text.
                    Finish::MaxTokens => assert_eq!(answer.ids.len(), 300, "{at}"),
                    other => panic!("{other:?}: {at}"),
                }
            }
            assert!(complete >= 2, "{name}, {grammar:?}: {complete} of 12 were complete");
        }
    }
}

#[test]
fn what_binds_nothing_changes_nothing() {
    let mut model = open("chat-tiny");
    let expected = common::expected("chat-tiny");
    let anything = constraint(&model, Grammar::Regex("(?s:.*)".into()));
    for case in &expected.cases {
        let free = common::generate(&mut model, &case.prompt_ids, &common::greedy());
        let options = Generation { constraint: Some(anything.clone()), ..common::greedy() };
        let bound = common::generate(&mut model, &case.prompt_ids, &options);
        assert_eq!((&bound.ids, bound.finish), (&free.ids, free.finish));
        assert_eq!(bound.text.trim_start(), free.text.trim_start());
    }
}

#[test]
fn neighbours_are_unchanged_and_choices_of_one_request_differ() {
    let serve = |sequences| {
        let model = open_with("chat-tiny", Options { sequences: Some(sequences), context: Some(512), ..Options::default() });
        let constrainer = model.constrainer().unwrap();
        (Serving::start(model, ServingOptions::default()).unwrap(), constrainer)
    };
    let requests = |constrainer: &sol_engine::Constrainer| -> Vec<Request> {
        let bound = constrainer.constraint(&Grammar::JsonSchema(schema())).unwrap();
        let request = |i: u64| Request {
            prompt: PROMPT.to_vec(),
            sampling: Sampling {
                temperature: 1.5,
                seed: i,
                top_k: if i.is_multiple_of(3) { 5 } else { 0 },
                top_p: 0.9,
                frequency_penalty: 0.2,
                logit_bias: vec![(20, -100.0), (21, f32::NEG_INFINITY)],
                ..Sampling::default()
            },
            max_tokens: 350,
            logprobs: Some(2),
            // Every other one is free; clones of a constraint are apart.
            constraint: i.is_multiple_of(2).then(|| bound.clone()),
            ..Request::default()
        };
        (0..8).map(request).collect()
    };
    let submit = |serving: &Serving, request: Request| {
        let (send, events) = channel();
        serving.submit(request, Box::new(move |event| drop(send.send(event)))).unwrap();
        events
    };
    let wait = |events: std::sync::mpsc::Receiver<Event>| {
        let (mut ids, mut all) = (Vec::new(), String::new());
        loop {
            match events.recv_timeout(LONGEST).unwrap() {
                Event::Token { id, text, logprob } => {
                    ids.push(id);
                    all += &text;
                    assert_eq!(logprob.unwrap().top.len(), 2);
                }
                Event::Done { text, finish } => return (ids, all + &text, finish),
                Event::Failed(error) => panic!("{error}"),
                Event::Read { .. } => {}
            }
        }
    };
    let (alone, constrainer) = serve(1);
    let expected: Vec<_> = requests(&constrainer).into_iter().map(|request| wait(submit(&alone, request))).collect();
    let (together, constrainer) = serve(8);
    let events: Vec<_> = requests(&constrainer).into_iter().map(|request| submit(&together, request)).collect();
    let found: Vec<_> = events.into_iter().map(wait).collect();
    assert_eq!(found, expected);
    for (_, text, finish) in found.iter().step_by(2) {
        assert!(*finish == Finish::MaxTokens || holds(text), "{text}");
    }
    assert!(found.iter().step_by(2).any(|(_, _, finish)| *finish == Finish::EndOfTurn));
    assert_ne!(found[0].1, found[2].1);
}

#[test]
fn stops_and_ends_of_turn_end_a_constrained_answer() {
    let mut model = open("chat-tiny");
    let letters = constraint(&model, Grammar::Regex("(abc){4}".into()));
    let generate = |model: &mut LanguageModel, options: Generation| {
        let options = Generation { constraint: Some(letters.clone()), ..options };
        let answer = common::generate(model, &PROMPT, &options);
        (answer.text, answer.finish)
    };
    let ignoring = Generation { ignore_eos: true, ..common::greedy() };
    assert_eq!(generate(&mut model, ignoring), ("abcabcabcabc".into(), Finish::EndOfTurn));
    let stopping = Generation { stop: vec!["ca".into()], ..common::greedy() };
    assert_eq!(generate(&mut model, stopping), ("ab".into(), Finish::StopString));
    let cut = Generation { max_tokens: Some(1), ..Generation::default() };
    assert_eq!(generate(&mut model, cut).1, Finish::MaxTokens);
    // A bias against all that is allowed gives way.
    let bias = (0..300).map(|id| (id, f32::NEG_INFINITY)).collect();
    let against = Generation { sampling: Sampling { logit_bias: bias, ..Sampling::default() }, ..common::greedy() };
    assert_eq!(generate(&mut model, against).0, "abcabcabcabc");
}

fn nested(depth: usize) -> Value {
    (0..depth)
        .fold(json!({"type": "integer"}), |inner, _| json!({"type": "object", "properties": {"a": inner}, "required": ["a"]}))
}

/// A schema whose definitions double again and again.
fn doubling(keyword: &str) -> Value {
    let level = |i: usize| {
        let next = json!({"$ref": format!("#/$defs/d{}", i + 1)});
        (format!("d{i}"), json!({keyword: [next.clone(), next]}))
    };
    let mut defs: serde_json::Map<String, Value> = (0..40).map(level).collect();
    defs.insert("d40".into(), json!({"type": "string"}));
    json!({"$ref": "#/$defs/d0", "$defs": defs})
}

/// As many properties as values that none of them is.
fn clash(n: usize) -> Value {
    let properties: serde_json::Map<_, _> = (0..n).map(|i| (format!("p{i}"), json!({}))).collect();
    json!({"allOf": [{"properties": properties}, {"enum": (0..n).collect::<Vec<_>>()}]})
}

#[test]
fn hostile_grammars_end_soon() {
    let schema = Grammar::JsonSchema;
    let text = |kind: fn(String) -> Grammar, text: &str| kind(text.to_owned());
    let properties: serde_json::Map<String, Value> =
        (0..3000).map(|i| (format!("p{i}"), json!({"type": "string", "pattern": format!("^[a-z]{{{}}}$", i % 90)}))).collect();
    // Each with whether it must be refused; others may be.
    let grammars = vec![
        (true, schema(json!({"type": "integer", "minimum": 3, "maximum": 2}))),
        (true, schema(json!({"allOf": [{"type": "string"}, {"type": "integer"}]}))),
        (true, schema(json!({"not": {}}))),
        (true, schema(json!(false))),
        (true, schema(json!([1, 2]))),
        (true, schema(json!({"type": "strong"}))),
        (true, schema(json!({"enum": []}))),
        (true, schema(json!({"$ref": "#/$defs/none"}))),
        (true, schema(json!({"$ref": "https://example.com/schema.json"}))),
        (true, schema(json!({"$ref": "file:///etc/passwd"}))),
        (true, schema(json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}))),
        (true, schema(json!({"allOf": [{"$ref": "#"}]}))),
        (false, schema(json!({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}))),
        (true, schema(json!({"type": "string", "minLength": 9, "maxLength": 3}))),
        (true, schema(json!({"type": "string", "pattern": "(a"}))),
        (true, schema(json!({"type": "array", "minItems": 5, "maxItems": 4}))),
        (true, schema(json!({"description": "x".repeat(1 << 20)}))),
        (false, schema(nested(100))),
        (false, schema(nested(120))),
        (false, schema(doubling("allOf"))),
        (false, schema(doubling("anyOf"))),
        (false, schema(doubling("oneOf"))),
        (false, schema(json!({"type": "string", "maxLength": 1_000_000_000}))),
        (false, schema(json!({"type": "string", "minLength": 1_000_000_000}))),
        (
            false,
            schema(json!({"type": "array", "items": {"type": "array", "maxItems": 1_000_000_000}, "maxItems": 1_000_000_000})),
        ),
        (false, schema(json!({"type": "array", "minItems": 1_000_000_000, "items": {"type": "null"}}))),
        (false, schema(json!({"type": "object", "minProperties": 1_000_000}))),
        (false, schema(json!({"type": "number", "multipleOf": 1e-300, "minimum": -1e300, "maximum": 1e300}))),
        (false, schema(json!({"type": "integer", "multipleOf": 999_999_937, "maximum": 1e18}))),
        (false, schema(json!({"type": "object", "properties": properties}))),
        (true, schema(clash(12_000))),
        (false, schema(clash(2_500))),
        (false, schema(json!({"type": "string", "pattern": "^(a?){500}(a{0,300}){300}$"}))),
        (false, schema(json!({"patternProperties": {"^(a|b)*c.{40}$": {}, "^(b|a)*d.{41}$": {}}}))),
        (true, text(Grammar::Regex, "(")),
        (true, text(Grammar::Regex, "a(?=b)")),
        (true, text(Grammar::Regex, &"(".repeat(200_000))),
        (false, text(Grammar::Regex, &format!("{}a{}", "(".repeat(2000), ")".repeat(2000)))),
        (false, text(Grammar::Regex, "((((a{0,1000}){0,1000}){0,1000}){0,1000}){0,1000}")),
        (false, text(Grammar::Regex, "(a|b|ab)*c{1000}(.*x.{1000}){20}")),
        (false, text(Grammar::Regex, &"(.*a.{20}|".repeat(50).replace('|', ")|("))),
        (false, text(Grammar::Regex, r"\p{L}{1000}\w{1000}(?i:ß{500})")),
        (true, text(Grammar::Lark, "")),
        (true, text(Grammar::Lark, "start: nothing")),
        (true, text(Grammar::Lark, "start: start")),
        (true, text(Grammar::Lark, &format!("start: {}", "(".repeat(200_000)))),
        (false, text(Grammar::Lark, "start: \"a\" start")),
        (false, text(Grammar::Lark, "start: (start start start)* | \"a\"")),
        (false, text(Grammar::Lark, "start: a{0,1000000}\na: b{0,1000000}\nb: \"x\"")),
        (false, text(Grammar::Lark, "start: gen\ngen[max_tokens=5, stop=\"\"]: /.*/")),
        (true, Grammar::Choice(Vec::new())),
        (true, Grammar::Choice(vec!["x".into(); 1_000_000])),
        (false, Grammar::Choice((0..4000).map(|i| format!("choice {}", i * 7919)).collect())),
    ];
    for name in ["chat-tiny", "solar-tiny"] {
        let mut model = open(name);
        let constrainer = model.constrainer().unwrap();
        for (refused, grammar) in &grammars {
            let (send, receive) = channel();
            let (constrainer, copy) = (constrainer.clone(), grammar.clone());
            let shown: String = format!("{grammar:?}").chars().take(120).collect();
            std::thread::spawn(move || drop(send.send(constrainer.constraint(&copy))));
            let result = receive.recv_timeout(LONGEST).unwrap_or_else(|_| panic!("{shown} takes too long"));
            match result {
                Err(error) => {
                    let error = error.to_string();
                    assert!(error.len() < 400 && !error.contains("panick") && !error.contains('<'), "{shown}: {error}");
                }
                Ok(_) if *refused => panic!("{shown} was not refused"),
                Ok(constraint) => {
                    let options = Generation { constraint: Some(constraint), ..common::endless(16) };
                    // Steps that take too much work end it; nothing else does.
                    let result = model.generate(&PROMPT, &options, &mut |_| {});
                    assert!(result.is_ok() || matches!(result, Err(Error::Grammar { .. })), "{shown}: {result:?}");
                }
            }
        }
    }
}
