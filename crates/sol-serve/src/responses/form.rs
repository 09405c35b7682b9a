//! How a response says what the engine says.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sol_engine::Event;

use crate::answer::Form;
use crate::ask::{Usage, reason};
use crate::error::Refused;
use crate::{created, new_id};

/// What the request said, which its response repeats.
pub(super) struct Given {
    pub(super) instructions: Option<String>,
    pub(super) max_output_tokens: Option<i64>,
    pub(super) metadata: BTreeMap<String, String>,
    pub(super) user: Option<String>,
    pub(super) temperature: f32,
    pub(super) top_p: f32,
}

/// A response as it grows.
pub(super) struct ResponseForm {
    id: String,
    item: String,
    created: u64,
    model: String,
    given: Given,
    /// Events so far.
    sequence: u64,
    text: String,
    /// Whether the answer was cut; `None` until it ends.
    cut: Option<bool>,
}

impl ResponseForm {
    pub(super) fn new(model: String, given: Given) -> Self {
        let id = |kind: &str| new_id(kind).replacen('-', "_", 1);
        let (id, item) = (id("resp"), id("msg"));
        Self { id, item, created: created(), model, given, sequence: 0, text: String::new(), cut: None }
    }

    fn status(&self) -> &'static str {
        match self.cut {
            None => "in_progress",
            Some(false) => "completed",
            Some(true) => "incomplete",
        }
    }

    fn part(&self) -> Value {
        json!({"type": "output_text", "text": self.text, "annotations": [], "logprobs": []})
    }

    fn item(&self, content: Vec<Value>) -> Value {
        json!({"id": self.item, "type": "message", "status": self.status(), "role": "assistant", "content": content})
    }

    fn response(&self, usage: Option<Usage>) -> Value {
        let output: Vec<Value> = usage.iter().map(|_| self.item(vec![self.part()])).collect();
        let given = &self.given;
        json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": self.status(),
            "background": false,
            "error": null,
            "incomplete_details": (self.cut == Some(true)).then(|| json!({"reason": "max_output_tokens"})),
            "instructions": given.instructions,
            "max_output_tokens": given.max_output_tokens,
            "model": self.model,
            "output": output,
            "parallel_tool_calls": false,
            "previous_response_id": null,
            "reasoning": {"effort": null, "summary": null},
            "store": false,
            "temperature": given.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "none",
            "tools": [],
            "top_p": given.top_p,
            "truncation": "disabled",
            "usage": usage.map(Usage::of_response),
            "user": given.user,
            "metadata": given.metadata,
        })
    }

    /// An event with its place in the stream.
    fn event(&mut self, kind: &str, fields: Value) -> Value {
        let mut event = json!({"type": kind, "sequence_number": self.sequence});
        self.sequence += 1;
        if let (Value::Object(event), Value::Object(fields)) = (&mut event, fields) {
            event.extend(fields);
        }
        event
    }

    /// One about the text.
    fn of_text(&mut self, kind: &str, key: &str, value: Value) -> Value {
        let mut fields = json!({"item_id": self.item, "output_index": 0, "content_index": 0});
        fields[key] = value;
        if key != "part" {
            fields["logprobs"] = json!([]);
        }
        self.event(kind, fields)
    }

    fn delta(&mut self, text: String) -> Option<Value> {
        if text.is_empty() {
            return None;
        }
        self.text += &text;
        Some(self.of_text("response.output_text.delta", "delta", text.into()))
    }
}

impl Form for ResponseForm {
    const NAMED: bool = true;

    fn opening(&mut self) -> Vec<Value> {
        let response = self.response(None);
        ["response.created", "response.in_progress"].map(|kind| self.event(kind, json!({"response": response}))).into()
    }

    fn chunks(&mut self, _: usize, event: Event) -> Vec<Value> {
        match event {
            Event::Read { .. } => {
                let (item, part) = (self.item(Vec::new()), self.part());
                vec![
                    self.event("response.output_item.added", json!({"output_index": 0, "item": item})),
                    self.of_text("response.content_part.added", "part", part),
                ]
            }
            Event::Token { text, .. } => self.delta(text).into_iter().collect(),
            Event::Done { text, finish } => {
                let rest = self.delta(text);
                self.cut = Some(reason(finish) == "length");
                let (text, part) = (self.text.clone(), self.part());
                let item = self.item(vec![part.clone()]);
                let ends = [
                    self.of_text("response.output_text.done", "text", text.into()),
                    self.of_text("response.content_part.done", "part", part),
                    self.event("response.output_item.done", json!({"output_index": 0, "item": item})),
                ];
                rest.into_iter().chain(ends).collect()
            }
            Event::Failed(_) => Vec::new(),
        }
    }

    fn collect(&mut self, _: usize, event: Event) {
        match event {
            Event::Token { text, .. } => self.text += &text,
            Event::Done { text, finish } => {
                self.text += &text;
                self.cut = Some(reason(finish) == "length");
            }
            Event::Read { .. } | Event::Failed(_) => {}
        }
    }

    fn whole(&mut self, usage: Usage) -> Value {
        self.response(Some(usage))
    }

    fn usage(&self, usage: Usage) -> Option<Value> {
        let kind = if self.cut == Some(true) { "response.incomplete" } else { "response.completed" };
        let response = self.response(Some(usage));
        Some(json!({"type": kind, "sequence_number": self.sequence, "response": response}))
    }

    fn failure(&self, refused: &Refused) -> Value {
        let error = &refused.body()["error"];
        json!({
            "type": "error", "sequence_number": self.sequence, "code": error["code"], "message": error["message"],
            "param": error["param"],
        })
    }
}
