//! Conversations as clients write them.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Value, json};
use sol_engine::Message;

use crate::error::{Refused, Result};

/// A turn as clients write it.
#[derive(Deserialize)]
pub(crate) struct ChatMessage {
    role: String,
    content: Option<Content>,
    tool_calls: Option<Vec<ToolCall>>,
    tool_call_id: Option<String>,
}

/// A call that the model asked for before.
#[derive(Deserialize)]
struct ToolCall {
    id: String,
    r#type: Option<String>,
    function: Option<Called>,
}

#[derive(Deserialize)]
struct Called {
    name: String,
    /// JSON.
    arguments: String,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of parts such as {\"type\": \"text\", \"text\": ..}")]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    r#type: String,
    text: Option<String>,
}

/// The turns as templates know them.
pub(crate) fn conversation(messages: Vec<ChatMessage>) -> Result<Vec<Message>> {
    if messages.is_empty() {
        return Err(Refused::field("messages", "'messages' is empty: give at least one"));
    }
    let mut called = HashMap::new();
    messages.into_iter().enumerate().map(|(i, message)| turn(i, message, &mut called)).collect()
}

/// `called` has the functions that were called so far, by the calls' ids.
fn turn(i: usize, message: ChatMessage, called: &mut HashMap<String, String>) -> Result<Message> {
    let role = match message.role.as_str() {
        "developer" => "system",
        role @ ("system" | "user" | "assistant" | "tool") => role,
        other => {
            let name = format!("messages[{i}].role");
            let message = format!("'{name}' is '{other}': it must be system, developer, user, assistant or tool");
            return Err(Refused::field(name, message));
        }
    };
    let content = match message.content {
        Some(Content::Text(text)) => text,
        Some(Content::Parts(parts)) => {
            let mut text = String::new();
            for (j, part) in parts.into_iter().enumerate() {
                let name = format!("messages[{i}].content[{j}]");
                match part {
                    Part { r#type, text: Some(part) } if r#type == "text" => text += &part,
                    Part { r#type, .. } if r#type == "text" => {
                        return Err(Refused::field(name.clone(), format!("'{name}' has no text")));
                    }
                    Part { r#type, .. } => return Err(Refused::unsupported(&name, &format!("parts of type '{type}' are"))),
                }
            }
            text
        }
        None if role == "assistant" => String::new(),
        None => {
            let name = format!("messages[{i}].content");
            return Err(Refused::field(name.clone(), format!("'{name}' is missing")));
        }
    };
    let turn = Message::new(role, content);
    match (role, message.tool_calls, message.tool_call_id) {
        ("assistant", Some(calls), _) if !calls.is_empty() => {
            let calls: Result<Vec<Value>> =
                calls.into_iter().enumerate().map(|(j, call)| tool_call(i, j, call, called)).collect();
            Ok(turn.with("tool_calls", calls?))
        }
        ("tool", _, Some(id)) => {
            let turn = match called.get(&id) {
                Some(name) => turn.with("name", name.as_str()),
                None => turn,
            };
            Ok(turn.with("tool_call_id", id))
        }
        ("tool", _, None) => {
            let name = format!("messages[{i}].tool_call_id");
            Err(Refused::field(name.clone(), format!("'{name}' is missing")))
        }
        _ => Ok(turn),
    }
}

/// A call as templates know it: with its arguments as what they are, not as text.
fn tool_call(i: usize, j: usize, call: ToolCall, called: &mut HashMap<String, String>) -> Result<Value> {
    let function = call.function.filter(|_| call.r#type.as_ref().is_none_or(|kind| kind == "function"));
    let Some(Called { name, arguments }) = function else {
        return Err(Refused::unsupported(&format!("messages[{i}].tool_calls[{j}]"), "calls of anything but functions are"));
    };
    let arguments: Value = match arguments.trim() {
        "" => json!({}),
        text => serde_json::from_str(text).map_err(|error| {
            let field = format!("messages[{i}].tool_calls[{j}].function.arguments");
            Refused::field(field.clone(), format!("'{field}' is not JSON: {error}"))
        })?,
    };
    called.insert(call.id.clone(), name.clone());
    Ok(json!({"id": call.id, "type": "function", "function": {"name": name, "arguments": arguments}}))
}
