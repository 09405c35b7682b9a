//! One turn of a conversation.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, or whatever the template knows.
    pub role: String,
    /// What they say.
    pub content: String,
    /// What else templates know of a turn, as `tool_calls`, `tool_call_id` and `name`.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

impl Message {
    /// A message of any role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), more: Map::new() }
    }

    /// The same turn with a further field.
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.more.insert(field.to_owned(), value.into());
        self
    }

    /// What the user says.
    pub fn user(content: impl Into<String>) -> Self {
        Self::new("user", content)
    }

    /// What the model says.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self::new("assistant", content)
    }

    /// Instructions that stand above the conversation.
    pub fn system(content: impl Into<String>) -> Self {
        Self::new("system", content)
    }
}

/// The conversation without system messages: each is put, with an empty line between, in front of the
/// user message that follows it, or becomes a user message of its own where none does.
pub fn fold_system_into_user(messages: &[Message]) -> Vec<Message> {
    let mut folded: Vec<Message> = Vec::with_capacity(messages.len());
    let mut pending = String::new();
    for message in messages {
        match message.role.as_str() {
            "system" if !message.content.is_empty() => {
                if !pending.is_empty() {
                    pending.push_str("\n\n");
                }
                pending.push_str(&message.content);
            }
            "system" => {}
            "user" if !pending.is_empty() => {
                let mut content = std::mem::take(&mut pending);
                if !message.content.is_empty() {
                    content.push_str("\n\n");
                    content.push_str(&message.content);
                }
                folded.push(Message::user(content));
            }
            _ => folded.push(message.clone()),
        }
    }
    if !pending.is_empty() {
        folded.push(Message::user(pending));
    }
    folded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_goes_in_front_of_the_next_user_message() {
        let folded = fold_system_into_user(&[
            Message::system("Be brief."),
            Message::user("Hi"),
            Message::assistant("Yes?"),
            Message::system("Now in French."),
            Message::system(""),
            Message::user("Why?"),
        ]);
        assert_eq!(
            folded,
            [Message::user("Be brief.\n\nHi"), Message::assistant("Yes?"), Message::user("Now in French.\n\nWhy?"),]
        );
    }

    #[test]
    fn system_alone_becomes_a_user_message() {
        assert_eq!(fold_system_into_user(&[Message::system("a"), Message::system("b")]), [Message::user("a\n\nb")]);
        assert_eq!(fold_system_into_user(&[Message::system("")]), []);
    }
}
