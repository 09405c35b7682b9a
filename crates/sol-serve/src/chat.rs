//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use sol_engine::{Event, Finish, Request, TokenLogprob};
use sol_text::Tokenizer;

use crate::answer::{self, Form};
use crate::ask::{Usage, ask, reason};
use crate::body::Raw;
use crate::error::{Refused, Result};
use crate::log::Record;
pub(crate) use crate::messages::{ChatMessage, conversation};
use crate::params::{Params, TOP_LOGPROBS, new_tokens, out_of_range};
use crate::tools::{CallParser, Dialect, Piece, Tool, ToolChoice, Tools};
use crate::{App, created, new_id};

/// Fields of a chat alone.
#[derive(Deserialize)]
pub(crate) struct ChatParams {
    messages: Vec<ChatMessage>,
    max_completion_tokens: Option<i64>,
    logprobs: Option<bool>,
    top_logprobs: Option<i64>,
    tools: Option<Vec<Tool>>,
    tool_choice: Option<ToolChoice>,
    parallel_tool_calls: Option<bool>,
    functions: Option<Vec<IgnoredAny>>,
    function_call: Option<Value>,
    audio: Option<IgnoredAny>,
    modalities: Option<Vec<String>>,
}

/// Refuses what a model would silently pass over.
fn refuse_unsupported(params: &ChatParams) -> Result<()> {
    if params.functions.as_ref().is_some_and(|list| !list.is_empty()) {
        return Err(Refused::unsupported("functions", "the former way to give 'tools' is"));
    }
    if params.function_call.as_ref().is_some_and(|choice| !choice.is_null() && choice != "none" && choice != "auto") {
        return Err(Refused::unsupported("function_call", "the former way to give 'tool_choice' is"));
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
    let (mut params, chat): (Params, ChatParams) = (raw.parse()?, raw.parse()?);
    drop(raw);
    let (model, name) = app.model(params.model.as_deref()).await?;
    refuse_unsupported(&chat)?;
    let mut shape = params.shape()?;
    let tools = Tools::new(chat.tools, chat.tool_choice, chat.parallel_tool_calls)?;
    let settings = params.settings(&model.sampling, model.vocab)?;
    let older = new_tokens("max_tokens", params.max_tokens, 1)?;
    let wanted = new_tokens("max_completion_tokens", chat.max_completion_tokens, 1)?.or(older);
    let top = top_logprobs(chat.logprobs, chat.top_logprobs)?;
    let messages = conversation(chat.messages)?;
    let tokenizer = model.text.tokenizer()?.clone();
    let mut calls = None;
    if let Some(tools) = &tools {
        let dialect = Dialect::of(model.text.chat_template()?.0);
        shape = tools.shape(&dialect, &tokenizer, shape)?;
        calls = Some(Calls { parser: tools.parser(&dialect), marks: dialect.hidden_marks(&tokenizer), dialect });
    }
    let constraint = model.constraint(shape).await?;
    let prompt = model.blocking(move |model| model.chat_prompt(messages, tools.as_ref())).await?;
    let request = Request {
        prompt,
        sampling: settings.sampling,
        // The end of the context is the end where nobody asks for another.
        max_tokens: wanted.unwrap_or(usize::MAX),
        stop: settings.stop,
        constraint,
        ignore_eos: settings.ignore_eos,
        logprobs: top,
        ..Request::default()
    };
    let asked = ask(&model, &record, vec![request], settings.n, "messages")?;
    let form = ChatForm {
        id: new_id("chatcmpl"),
        created: created(),
        model: name,
        include_usage: settings.include_usage,
        tokenizer,
        logprobs: top.is_some(),
        answers: vec![Answer { calls, ..Answer::default() }; asked.choices()],
    };
    if settings.stream { answer::streamed(asked, form).await } else { answer::whole(asked, form).await }
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
#[derive(Clone, Default)]
struct Answer {
    text: String,
    logprobs: Vec<Value>,
    finish: &'static str,
    /// What finds calls in it, where tools may be called.
    calls: Option<Calls>,
    /// The calls.
    tool_calls: Vec<Value>,
}

#[derive(Clone)]
struct Calls {
    parser: CallParser,
    dialect: Dialect,
    /// Tokens that mark calls and have no text.
    marks: Vec<(u32, &'static str)>,
}

impl Answer {
    /// What a new token, if it is one, and the text that came with it are.
    fn pieces(&mut self, id: Option<u32>, text: String) -> Vec<Piece> {
        let Some(calls) = &mut self.calls else {
            return Some(text).filter(|text| !text.is_empty()).map(Piece::Text).into_iter().collect();
        };
        let mut pieces = calls.parser.push(&text);
        let mark = calls.marks.iter().find(|(mark, _)| Some(*mark) == id);
        pieces.extend(mark.into_iter().flat_map(|(_, mark)| calls.parser.push(mark)));
        pieces
    }

    /// The rest, and why it ended.
    fn end(&mut self, text: String, finish: Finish) -> (Vec<Piece>, &'static str) {
        let mut pieces = self.pieces(None, text);
        let Some(calls) = &mut self.calls else { return (pieces, reason(finish)) };
        pieces.extend(calls.parser.finish());
        match reason(finish) {
            "stop" if calls.parser.calls() > 0 => (pieces, "tool_calls"),
            reason => (pieces, reason),
        }
    }

    /// Takes a piece; what a stream says of it.
    fn take(&mut self, piece: Piece) -> Value {
        match piece {
            Piece::Text(text) => {
                self.text += &text;
                json!({"content": text})
            }
            Piece::Call { name } => {
                let id = self.calls.as_ref().map_or_else(String::new, |calls| calls.dialect.id());
                let mut call = json!({"id": id, "type": "function", "function": {"name": name, "arguments": ""}});
                self.tool_calls.push(call.clone());
                call["index"] = (self.tool_calls.len() - 1).into();
                json!({"tool_calls": [call]})
            }
            Piece::Arguments(more) => {
                let index = self.tool_calls.len().saturating_sub(1);
                if let Some(call) = self.tool_calls.last_mut() {
                    let arguments = call["function"]["arguments"].as_str().unwrap_or_default();
                    call["function"]["arguments"] = format!("{arguments}{more}").into();
                }
                json!({"tool_calls": [{"index": index, "function": {"arguments": more}}]})
            }
        }
    }

    fn message(&mut self) -> Value {
        let content = Some(std::mem::take(&mut self.text)).filter(|text| !text.is_empty() || self.tool_calls.is_empty());
        let mut message = json!({"role": "assistant", "content": content, "refusal": null});
        if !self.tool_calls.is_empty() {
            message["tool_calls"] = std::mem::take(&mut self.tool_calls).into();
        }
        message
    }
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
        let answer = &mut self.answers[choice];
        let (pieces, logprob, finish) = match event {
            Event::Read { .. } => {
                // Where calls may come, there may be no text at all.
                let content = if answer.calls.is_some() { Value::Null } else { "".into() };
                return vec![self.chunk(choice, json!({"role": "assistant", "content": content}), None, None)];
            }
            Event::Token { id, text, logprob } => (answer.pieces(Some(id), text), logprob, None),
            Event::Done { text, finish } => {
                let (pieces, reason) = answer.end(text, finish);
                (pieces, None, Some(reason))
            }
            Event::Failed(_) => return Vec::new(),
        };
        let mut deltas: Vec<Value> = pieces.into_iter().map(|piece| answer.take(piece)).collect();
        // The text of a token may come with a later one, its log-probability comes now.
        if deltas.is_empty() && logprob.is_some() {
            deltas.push(if answer.calls.is_some() { json!({}) } else { json!({"content": ""}) });
        }
        let mut logprob = logprob.as_ref();
        let mut chunks: Vec<Value> = deltas.into_iter().map(|delta| self.chunk(choice, delta, logprob.take(), None)).collect();
        chunks.extend(finish.map(|reason| self.chunk(choice, json!({}), None, Some(reason))));
        chunks
    }

    fn collect(&mut self, choice: usize, event: Event) {
        let answer = &mut self.answers[choice];
        let pieces = match event {
            Event::Token { id, text, logprob } => {
                let pieces = answer.pieces(Some(id), text);
                let entry = logprob.map(|logprob| self.logprob(&logprob));
                self.answers[choice].logprobs.extend(entry);
                pieces
            }
            Event::Done { text, finish } => {
                let (pieces, reason) = answer.end(text, finish);
                answer.finish = reason;
                pieces
            }
            Event::Read { .. } | Event::Failed(_) => Vec::new(),
        };
        for piece in pieces {
            self.answers[choice].take(piece);
        }
    }

    fn whole(&mut self, usage: Usage) -> Value {
        let with_logprobs = self.logprobs;
        let choice = |(i, mut answer): (usize, Answer)| {
            let logprobs = with_logprobs.then(|| json!({"content": answer.logprobs, "refusal": null}));
            let message = answer.message();
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
