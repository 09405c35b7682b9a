//! What a response answers: a text, or items with roles.

use serde::Deserialize;
use sol_engine::Message;

use crate::error::{Refused, Result};

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of items such as {\"role\": \"user\", \"content\": ..}")]
pub(super) enum Input {
    Text(String),
    Items(Vec<Item>),
}

#[derive(Deserialize)]
pub(super) struct Item {
    r#type: Option<String>,
    role: Option<String>,
    content: Option<Content>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a string or a list of parts such as {\"type\": \"input_text\", \"text\": ..}")]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Deserialize)]
struct Part {
    r#type: String,
    text: Option<String>,
}

impl Input {
    /// The turns as templates know them.
    pub(super) fn conversation(self) -> Result<Vec<Message>> {
        match self {
            Self::Text(text) => Ok(vec![Message::user(text)]),
            Self::Items(items) if items.is_empty() => Err(Refused::field("input", "'input' is empty: give at least one item")),
            Self::Items(items) => items.into_iter().enumerate().map(|(i, item)| item.message(i)).collect(),
        }
    }
}

impl Item {
    fn message(self, i: usize) -> Result<Message> {
        if let Some(kind) = self.r#type.filter(|kind| kind != "message") {
            return Err(Refused::unsupported(&format!("input[{i}]"), &format!("items of type '{kind}' are")));
        }
        let role = match self.role.as_deref() {
            Some("developer") => "system",
            Some(role @ ("system" | "user" | "assistant")) => role,
            other => {
                let (name, given) = (format!("input[{i}].role"), other.unwrap_or("missing"));
                let message = format!("'{name}' is {given}: it must be system, developer, user or assistant");
                return Err(Refused::field(name, message));
            }
        };
        let text = match self.content {
            Some(Content::Text(text)) => text,
            Some(Content::Parts(parts)) => parts
                .into_iter()
                .enumerate()
                .map(|(j, part)| part.text(&format!("input[{i}].content[{j}]")))
                .collect::<Result<_>>()?,
            None => {
                let name = format!("input[{i}].content");
                return Err(Refused::field(name.clone(), format!("'{name}' is missing")));
            }
        };
        Ok(Message::new(role, text))
    }
}

impl Part {
    fn text(self, name: &str) -> Result<String> {
        match (self.r#type.as_str(), self.text) {
            ("input_text" | "output_text" | "text", Some(text)) => Ok(text),
            ("input_text" | "output_text" | "text", None) => Err(Refused::field(name, format!("'{name}' has no text"))),
            (kind, _) => Err(Refused::unsupported(name, &format!("parts of type '{kind}' are"))),
        }
    }
}
