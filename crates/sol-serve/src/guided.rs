//! The form that a request asks for: `response_format` and the `guided_*` extras.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use sol_engine::{Constrainer, Constraint, Grammar};

use crate::error::{Refused, Result};
use crate::models::Model;

/// Grammars that are read at a time: hostile ones take a second each, which others' streams should not notice.
pub(crate) const READERS: usize = 2;
/// Nobody waits longer for them.
const TURN: Duration = Duration::from_secs(10);

/// `response_format`.
#[derive(Deserialize)]
pub(crate) struct ResponseFormat {
    r#type: String,
    json_schema: Option<NamedSchema>,
}

#[derive(Deserialize)]
struct NamedSchema {
    name: String,
    schema: Option<Value>,
}

/// vLLM's extras: `guided_json` and so on, or one object of them.
#[derive(Default, Deserialize)]
pub(crate) struct Guided {
    json: Option<Value>,
    regex: Option<String>,
    choice: Option<Vec<String>>,
    grammar: Option<String>,
    json_object: Option<bool>,
}

impl Guided {
    pub(crate) fn new(json: Option<Value>, regex: Option<String>, choice: Option<Vec<String>>, grammar: Option<String>) -> Self {
        Self { json, regex, choice, grammar, json_object: None }
    }

    /// What is asked for, with the name of its field.
    fn grammars(self, name: impl Fn(&str) -> String) -> Vec<(String, Grammar)> {
        let json = self.json.map(|schema| match schema {
            // As a client may write it that has it as a text.
            Value::String(text) => serde_json::from_str(&text).unwrap_or(Value::String(text)),
            schema => schema,
        });
        let grammars = [
            ("json", json.map(Grammar::JsonSchema)),
            ("regex", self.regex.map(Grammar::Regex)),
            ("choice", self.choice.map(Grammar::Choice)),
            ("grammar", self.grammar.map(Grammar::Lark)),
            ("json_object", self.json_object.filter(|wanted| *wanted).map(|_| Grammar::JsonObject)),
        ];
        grammars.into_iter().filter_map(|(key, grammar)| Some((name(key), grammar?))).collect()
    }
}

/// The form of an answer and the field that asks for it.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) field: String,
    pub(crate) grammar: Grammar,
}

/// The one form that a request asks for, if any.
pub(crate) fn shape(format: Option<ResponseFormat>, guided: Guided, structured: Option<Guided>) -> Result<Option<Shape>> {
    let format = format.map(response_format).transpose()?.flatten();
    let guided = guided.grammars(|key| format!("guided_{key}"));
    let structured = structured.unwrap_or_default().grammars(|key| format!("structured_outputs.{key}"));
    let mut all = format.into_iter().chain(guided).chain(structured);
    let Some((field, grammar)) = all.next() else { return Ok(None) };
    match all.next() {
        Some((other, _)) => Err(Refused::field(other.clone(), format!("'{other}' and '{field}': give only one of them"))),
        None => Ok(Some(Shape { field, grammar })),
    }
}

fn response_format(format: ResponseFormat) -> Result<Option<(String, Grammar)>> {
    let missing = |field: &str| Refused::field(field, format!("'{field}' is missing"));
    match (format.r#type.as_str(), format.json_schema) {
        ("text", _) => Ok(None),
        ("json_object", _) => Ok(Some(("response_format".into(), Grammar::JsonObject))),
        ("json_schema", None) => Err(missing("response_format.json_schema")),
        ("json_schema", Some(NamedSchema { schema: None, .. })) => Err(missing("response_format.json_schema.schema")),
        ("json_schema", Some(NamedSchema { name, schema: Some(schema) })) => {
            check_name("response_format.json_schema.name", &name)?;
            Ok(Some(("response_format.json_schema.schema".into(), Grammar::JsonSchema(schema))))
        }
        (other, _) => {
            let message = format!("'response_format.type' is '{other}': it must be text, json_object or json_schema");
            Err(Refused::field("response_format.type", message))
        }
    }
}

/// Refuses names that OpenAI refuses.
pub(crate) fn check_name(field: &str, name: &str) -> Result<()> {
    let valid = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if (1..=64).contains(&name.len()) && name.chars().all(valid) {
        return Ok(());
    }
    Err(Refused::field(field, format!("'{field}' is '{name}': it must have from 1 to 64 letters, digits, '_' and '-'")))
}

impl Model {
    /// The constraint of a form; what can not be enforced is refused.
    pub(crate) async fn constraint(self: &Arc<Self>, shape: Option<Shape>) -> Result<Option<Constraint>> {
        let Some(Shape { field, grammar }) = shape else { return Ok(None) };
        let turn = tokio::time::timeout(TURN, Arc::clone(&self.readers).acquire_owned()).await;
        let turn = turn.map_err(|_| Refused::busy("others' forms of answers are still being read; try again soon"))?;
        let read = move |model: &Self| {
            // Held until it is read, also when the client has gone.
            let _turn = turn;
            match model.constrainer()?.constraint(&grammar) {
                Ok(constraint) => Ok(Some(constraint)),
                Err(error @ sol_engine::Error::Grammar { .. }) => {
                    Err(Refused::field(field.clone(), format!("'{field}': {error}")))
                }
                Err(error) => Err(Refused::from(error)),
            }
        };
        self.blocking(read).await
    }

    /// Made when it is first asked for: it takes some 100 ms.
    fn constrainer(&self) -> Result<&Constrainer> {
        if let Some(constrainer) = self.constrainer.get() {
            return Ok(constrainer);
        }
        let made = Constrainer::new(self.text.tokenizer()?, self.vocab, &self.ends)?;
        Ok(self.constrainer.get_or_init(|| made))
    }
}
