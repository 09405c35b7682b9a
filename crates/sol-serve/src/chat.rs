//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use sol_engine::{Event, Message, Request, TokenLogprob};
use sol_text::Tokenizer;

use crate::answer::{self, Form};
use crate::ask::{Usage, ask, reason};
use crate::body::Raw;
use crate::error::{Refused, Result};
use crate::log::Record;
use crate::params::{Params, TOP_LOGPROBS, new_tokens, out_of_range};
use crate::{App, created, new_id};

/// Fields of a chat alone.
#[derive(Deserialize)]
struct ChatParams {
    messages: Vec<ChatMessage>,
    max_completion_tokens: Option<i64>,
    logprobs: Option<bool>,
    top_logprobs: Option<i64>,
    tools: Option<Vec<IgnoredAny>>,
    tool_choice: Option<Value>,
    functions: Option<Vec<IgnoredAny>>,
    function_call: Option<Value>,
    audio: Option<IgnoredAny>,
    modalities: Option<Vec<String>>,
}

/// A turn as clients write it.
#[derive(Deserialize)]
pub(crate) struct ChatMessage {
    role: String,
    content: Option<Content>,
    tool_calls: Option<Vec<IgnoredAny>>,
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
    messages.into_iter().enumerate().map(|(i, message)| turn(i, message)).collect()
}

fn turn(i: usize, message: ChatMessage) -> Result<Message> {
    let role = match message.role.as_str() {
        "developer" => "system",
        role @ ("system" | "user" | "assistant") => role,
        "tool" | "function" => return Err(Refused::unsupported(&format!("messages[{i}].role"), "results of tools are")),
        other => {
            let name = format!("messages[{i}].role");
            let message = format!("'{name}' is '{other}': it must be system, developer, user or assistant");
            return Err(Refused::field(name, message));
        }
    };
    if message.tool_calls.is_some_and(|calls| !calls.is_empty()) {
        return Err(Refused::unsupported(&format!("messages[{i}].tool_calls"), "calls of tools are"));
    }
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
    Ok(Message::new(role, content))
}

/// Refuses tools: a model that was not shown them would silently answer in text.
fn refuse_tools(params: &ChatParams) -> Result<()> {
    let some = |list: &Option<Vec<IgnoredAny>>| list.as_ref().is_some_and(|list| !list.is_empty());
    if some(&params.tools) || some(&params.functions) {
        let name = if some(&params.tools) { "tools" } else { "functions" };
        return Err(Refused::unsupported(name, "calling tools is"));
    }
    for (name, choice) in [("tool_choice", &params.tool_choice), ("function_call", &params.function_call)] {
        if choice.as_ref().is_some_and(|choice| !choice.is_null() && choice != "none" && choice != "auto") {
            return Err(Refused::unsupported(name, "calling tools is"));
        }
    }
    if params.audio.is_some() || params.modalities.as_ref().is_some_and(|list| list.iter().any(|kind| kind != "text")) {
        return Err(Refused::unsupported("modalities", "anything but text is"));
    }
    Ok(())
}

/// Answers a conversation.
pub(crate) async fn completions(
    State(app): State<Arc<App>>,
    Extension(record): Extension<Arc<Record>>,
    raw: Raw,
) -> Result<Response> {
    let (params, chat): (Params, ChatParams) = (raw.parse()?, raw.parse()?);
    drop(raw);
    let (model, name) = app.model(params.model.as_deref()).await?;
    refuse_tools(&chat)?;
    let settings = params.settings(&model.sampling, model.vocab)?;
    let wanted = match chat.max_completion_tokens {
        Some(_) => new_tokens("max_completion_tokens", chat.max_completion_tokens, 1)?,
        None => new_tokens("max_tokens", params.max_tokens, 1)?,
    };
    let top = top_logprobs(chat.logprobs, chat.top_logprobs)?;
    let messages = conversation(chat.messages)?;
    let prompt = model.blocking(move |model| model.chat_prompt(&messages)).await?;
    let request = Request {
        prompt,
        sampling: settings.sampling,
        // The end of the context is the end where nobody asks for another.
        max_tokens: wanted.unwrap_or(usize::MAX),
        stop: settings.stop,
        ignore_eos: settings.ignore_eos,
        logprobs: top,
        ..Request::default()
    };
    let asked = ask(&app, &model, &record, vec![request], settings.n, "messages")?;
    let form = ChatForm {
        id: new_id("chatcmpl"),
        created: created(),
        model: name,
        include_usage: settings.include_usage,
        tokenizer: model.text.tokenizer()?.clone(),
        logprobs: top.is_some(),
        answers: (0..asked.choices()).map(|_| Answer::default()).collect(),
    };
    if settings.stream { Ok(answer::streamed(asked, form)) } else { answer::whole(asked, form).await }
}

fn top_logprobs(logprobs: Option<bool>, top: Option<i64>) -> Result<Option<usize>> {
    let valid = usize::try_from(top.unwrap_or(0)).ok().filter(|n| *n <= TOP_LOGPROBS);
    let n = valid.ok_or_else(|| out_of_range("top_logprobs", top, format!("from 0 to {TOP_LOGPROBS}")))?;
    match logprobs.unwrap_or(false) {
        true => Ok(Some(n)),
        false if n > 0 => Err(Refused::field("top_logprobs", "'top_logprobs' is only allowed with 'logprobs': true")),
        false => Ok(None),
    }
}

/// A choice as it grows.
#[derive(Default)]
struct Answer {
    text: String,
    logprobs: Vec<Value>,
    finish: &'static str,
}

struct ChatForm {
    id: String,
    created: u64,
    model: String,
    include_usage: bool,
    tokenizer: Tokenizer,
    logprobs: bool,
    answers: Vec<Answer>,
}

impl ChatForm {
    fn head(&self, object: &str) -> Value {
        json!({"id": self.id, "object": object, "created": self.created, "model": self.model})
    }

    fn chunk(&self, choice: usize, delta: Value, logprob: Option<&TokenLogprob>, finish: Option<&str>) -> Value {
        let logprobs = logprob.map(|logprob| json!({"content": [self.logprob(logprob)], "refusal": null}));
        let mut chunk = self.head("chat.completion.chunk");
        chunk["choices"] = json!([{"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": finish}]);
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    fn logprob(&self, logprob: &TokenLogprob) -> Value {
        let one = |id: u32, logprob: Option<f32>| {
            let bytes = self.tokenizer.token_bytes(id);
            json!({"token": String::from_utf8_lossy(&bytes), "logprob": finite(logprob), "bytes": bytes})
        };
        let mut entry = one(logprob.id, logprob.logprob);
        entry["top_logprobs"] = logprob.top.iter().map(|(id, logprob)| one(*id, Some(*logprob))).collect();
        entry
    }
}

/// As OpenAI writes what can not come.
const IMPOSSIBLE: f32 = -9999.0;

/// A log-probability that JSON can hold.
pub(crate) fn finite(logprob: Option<f32>) -> Option<f32> {
    logprob.map(|logprob| logprob.max(IMPOSSIBLE))
}

impl Form for ChatForm {
    fn chunks(&mut self, choice: usize, event: Event) -> Vec<Value> {
        match event {
            Event::Read { .. } => vec![self.chunk(choice, json!({"role": "assistant", "content": ""}), None, None)],
            // Its text comes with a later token.
            Event::Token { text, logprob: None, .. } if text.is_empty() => Vec::new(),
            Event::Token { text, logprob, .. } => vec![self.chunk(choice, json!({"content": text}), logprob.as_ref(), None)],
            Event::Done { text, finish } => {
                let rest = (!text.is_empty()).then(|| self.chunk(choice, json!({"content": text}), None, None));
                rest.into_iter().chain([self.chunk(choice, json!({}), None, Some(reason(finish)))]).collect()
            }
            Event::Failed(_) => Vec::new(),
        }
    }

    fn collect(&mut self, choice: usize, event: Event) {
        match event {
            Event::Token { text, logprob, .. } => {
                let entry = logprob.map(|logprob| self.logprob(&logprob));
                self.answers[choice].text += &text;
                self.answers[choice].logprobs.extend(entry);
            }
            Event::Done { text, finish } => {
                self.answers[choice].text += &text;
                self.answers[choice].finish = reason(finish);
            }
            Event::Read { .. } | Event::Failed(_) => {}
        }
    }

    fn whole(&mut self, usage: Usage) -> Value {
        let with_logprobs = self.logprobs;
        let choice = |(i, answer): (usize, Answer)| {
            let logprobs = with_logprobs.then(|| json!({"content": answer.logprobs, "refusal": null}));
            let message = json!({"role": "assistant", "content": answer.text, "refusal": null});
            json!({"index": i, "message": message, "logprobs": logprobs, "finish_reason": answer.finish})
        };
        let choices: Vec<Value> = std::mem::take(&mut self.answers).into_iter().enumerate().map(choice).collect();
        let mut whole = self.head("chat.completion");
        whole["choices"] = choices.into();
        whole["usage"] = usage.json();
        whole
    }

    fn usage(&self, usage: Usage) -> Option<Value> {
        self.include_usage.then(|| {
            let mut chunk = self.head("chat.completion.chunk");
            chunk["choices"] = json!([]);
            chunk["usage"] = usage.json();
            chunk
        })
    }
}
