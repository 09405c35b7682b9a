//! Tools: functions that a client offers and the model may ask to be called.
//!
//! `messages` tells the model of them, by its own template where that knows tools, else in words; `dialect` knows how models write
//! calls, and makes the grammar of calls that must be; `parse` finds calls in what the model says.

mod dialect;
mod messages;
mod parse;

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use sol_engine::{Grammar, Message};
use sol_text::{ChatTemplate, Tokenizer};

pub(crate) use self::dialect::Dialect;
pub(crate) use self::messages::flattened;
pub(crate) use self::parse::{CallParser, Piece};
use crate::error::{Refused, Result};
use crate::guided::{Shape, check_name};

/// Most tools of a request: OpenAI's.
const TOOLS: usize = 128;

/// A tool as clients write it.
#[derive(Deserialize)]
pub(crate) struct Tool {
    r#type: String,
    function: Option<Function>,
}

/// What can be called.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Function {
    pub(crate) name: String,
    description: Option<String>,
    parameters: Option<Map<String, Value>>,
}

impl Function {
    /// The schema of its arguments; without one it takes none.
    fn parameters(&self) -> Value {
        let Some(mut schema) = self.parameters.clone() else {
            return json!({"type": "object", "properties": {}, "additionalProperties": false});
        };
        if !["type", "$ref", "anyOf", "allOf", "oneOf"].iter().any(|key| schema.contains_key(*key)) {
            schema.insert("type".into(), "object".into());
        }
        schema.into()
    }

    /// As templates know it.
    fn json(&self) -> Value {
        let mut function = json!({"name": self.name});
        if let Some(description) = &self.description {
            function["description"] = description.as_str().into();
        }
        function["parameters"] = self.parameters();
        json!({"type": "function", "function": function})
    }
}

/// `tool_choice` as clients write it.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected none, auto, required or {\"type\": \"function\", \"function\": {\"name\": ..}}")]
pub(crate) enum ToolChoice {
    Mode(String),
    Named { r#type: String, function: Option<Named> },
}

#[derive(Deserialize)]
pub(crate) struct Named {
    name: String,
}

/// The tools of a request.
#[derive(Clone, Debug)]
pub(crate) struct Tools {
    functions: Vec<Function>,
    /// Indices of those that may be called, if one must be.
    must: Option<Vec<usize>>,
    /// Whether several may be called at once.
    parallel: bool,
}

impl Tools {
    /// The tools that the model is shown; none where it may not call any.
    pub(crate) fn new(tools: Option<Vec<Tool>>, choice: Option<ToolChoice>, parallel: Option<bool>) -> Result<Option<Self>> {
        let functions = functions(tools.unwrap_or_default())?;
        let must = match choice {
            None => None,
            Some(ToolChoice::Mode(mode)) => match mode.as_str() {
                "none" => return Ok(None),
                "auto" => None,
                "required" => Some((0..functions.len()).collect()),
                other => {
                    let message = format!("'tool_choice' is '{other}': it must be none, auto, required or a function");
                    return Err(Refused::field("tool_choice", message));
                }
            },
            Some(ToolChoice::Named { r#type, function: Some(Named { name }) }) if r#type == "function" => {
                let at = functions.iter().position(|function| function.name == name);
                let unknown = || Refused::field("tool_choice", format!("'tool_choice': there is no '{name}' among the tools"));
                Some(vec![at.ok_or_else(unknown)?])
            }
            Some(ToolChoice::Named { r#type, .. }) if r#type == "function" => {
                return Err(Refused::field("tool_choice.function", "'tool_choice.function' is missing"));
            }
            Some(ToolChoice::Named { r#type, .. }) => {
                return Err(Refused::unsupported("tool_choice", &format!("choices of type '{type}' are")));
            }
        };
        if functions.is_empty() {
            return match must {
                Some(_) => Err(Refused::field("tool_choice", "'tool_choice' is only allowed with 'tools'")),
                None => Ok(None),
            };
        }
        Ok(Some(Self { functions, must, parallel: parallel.unwrap_or(true) }))
    }

    /// The list as templates know it.
    pub(crate) fn json(&self) -> Value {
        self.functions.iter().map(Function::json).collect()
    }

    /// What keeps the answer to calls where one must come, else to `shape` or calls.
    pub(crate) fn shape(&self, dialect: &Dialect, tokenizer: &Tokenizer, shape: Option<Shape>) -> Result<Option<Shape>> {
        let all = || (0..self.functions.len()).collect();
        let answer = match (&self.must, shape) {
            (None, None) => return Ok(None),
            (None, Some(Shape { field, grammar })) => match grammar {
                Grammar::JsonObject => Some((field, json!({"type": "object"}))),
                Grammar::JsonSchema(schema) => Some((field, schema)),
                _ => return Err(Refused::field(field.clone(), format!("'{field}' is not allowed with 'tools'"))),
            },
            // It would describe the answer that is not to come.
            (Some(_), _) => None,
        };
        let callable: Vec<usize> = self.must.clone().unwrap_or_else(all);
        let functions: Vec<&Function> = callable.iter().map(|&i| &self.functions[i]).collect();
        let several = self.parallel && self.must.as_ref().is_none_or(|must| must.len() > 1 || self.functions.len() == 1);
        let (field, answer) = answer.map_or(("tools".into(), None), |(field, schema)| (field, Some(schema)));
        let grammar = dialect.grammar(tokenizer, &functions, several, answer.as_ref());
        Ok(Some(Shape { field, grammar: Grammar::Lark(grammar) }))
    }

    /// What finds calls in an answer.
    pub(crate) fn parser(&self, dialect: &Dialect) -> CallParser {
        let names = self.functions.iter().map(|function| function.name.clone()).collect();
        CallParser::new(dialect.clone(), names, self.parallel)
    }

    /// The conversation with the tools put into words, for a template that does not know any.
    pub(crate) fn told(&self, template: &ChatTemplate, messages: Vec<Message>) -> Vec<Message> {
        messages::told(self, template.supports_system(), messages)
    }
}

fn functions(tools: Vec<Tool>) -> Result<Vec<Function>> {
    if tools.len() > TOOLS {
        return Err(Refused::field("tools", format!("'tools' has {} entries; at most {TOOLS} are allowed", tools.len())));
    }
    let mut names = HashSet::new();
    let function = |(i, tool): (usize, Tool)| {
        if tool.r#type != "function" {
            return Err(Refused::unsupported(&format!("tools[{i}].type"), &format!("tools of type '{}' are", tool.r#type)));
        }
        let field = format!("tools[{i}].function");
        let function = tool.function.ok_or_else(|| Refused::field(field.clone(), format!("'{field}' is missing")))?;
        check_name(&format!("{field}.name"), &function.name)?;
        if !names.insert(function.name.clone()) {
            return Err(Refused::field(field.clone(), format!("'{field}': '{}' is there twice", function.name)));
        }
        Ok(function)
    };
    tools.into_iter().enumerate().map(function).collect()
}
