//! `POST /v1/responses`: text in, text out. Nothing is kept, so nothing can be referred to: clients send the conversation.

mod form;
mod input;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use sol_engine::{Message, Request};

use self::form::{Given, ResponseForm};
use self::input::Input;
use crate::App;
use crate::answer;
use crate::ask::ask;
use crate::body::Raw;
use crate::error::{Refused, Result};
use crate::log::Record;
use crate::params::{Params, new_tokens};

/// Fields beside those that all endpoints share.
#[derive(Deserialize)]
pub(crate) struct ResponseParams {
    input: Input,
    instructions: Option<String>,
    max_output_tokens: Option<i64>,
    metadata: Option<BTreeMap<String, String>>,
    text: Option<TextParams>,
    tools: Option<Vec<IgnoredAny>>,
    tool_choice: Option<Value>,
    reasoning: Option<Reasoning>,
    truncation: Option<String>,
    include: Option<Vec<String>>,
    background: Option<bool>,
    top_logprobs: Option<i64>,
    previous_response_id: Option<IgnoredAny>,
    conversation: Option<IgnoredAny>,
    prompt: Option<IgnoredAny>,
    response_format: Option<IgnoredAny>,
    guided_json: Option<IgnoredAny>,
    guided_regex: Option<IgnoredAny>,
    guided_choice: Option<IgnoredAny>,
    guided_grammar: Option<IgnoredAny>,
    structured_outputs: Option<IgnoredAny>,
    #[serde(rename = "store")]
    _store: Option<bool>,
    user: Option<String>,
}

#[derive(Deserialize)]
struct TextParams {
    format: Option<Format>,
}

#[derive(Deserialize)]
struct Format {
    r#type: String,
}

#[derive(Deserialize)]
struct Reasoning {
    effort: Option<String>,
}

/// What would show a caller that it was not done only by a wrong answer.
fn refuse_unsupported(params: &Params, own: &ResponseParams) -> Result<()> {
    let refuse = |name: &str, what: &str| Err(Refused::unsupported(name, what));
    if own.previous_response_id.is_some() {
        return refuse("previous_response_id", "answers are not kept: send the whole conversation as 'input'; this field is");
    }
    for (name, given) in [("conversation", &own.conversation), ("prompt", &own.prompt)] {
        if given.is_some() {
            return refuse(name, "nothing is kept that it could refer to: it is");
        }
    }
    if params.max_tokens.is_some() {
        return Err(Refused::field("max_tokens", "'max_tokens': this endpoint calls it 'max_output_tokens'"));
    }
    let constraints = [
        ("response_format", &own.response_format),
        ("guided_json", &own.guided_json),
        ("guided_regex", &own.guided_regex),
        ("guided_choice", &own.guided_choice),
        ("guided_grammar", &own.guided_grammar),
        ("structured_outputs", &own.structured_outputs),
    ];
    if let Some((name, _)) = constraints.iter().find(|(_, given)| given.is_some()) {
        return refuse(name, "constrained answers are, at this endpoint,");
    }
    if let Some(format) = own.text.as_ref().and_then(|text| text.format.as_ref()).filter(|format| format.r#type != "text") {
        return refuse("text.format", &format!("answers of type '{}' are, at this endpoint,", format.r#type));
    }
    if own.tools.as_ref().is_some_and(|tools| !tools.is_empty()) {
        return refuse("tools", "calling tools is, at this endpoint,");
    }
    if own.tool_choice.as_ref().is_some_and(|choice| !choice.is_null() && choice != "none" && choice != "auto") {
        return refuse("tool_choice", "calling tools is, at this endpoint,");
    }
    if own.reasoning.as_ref().and_then(|reasoning| reasoning.effort.as_ref()).is_some_and(|effort| effort != "none") {
        return refuse("reasoning.effort", "reasoning apart from the answer is");
    }
    if own.truncation.as_ref().is_some_and(|truncation| truncation != "disabled") {
        return refuse("truncation", "dropping a part of the input is");
    }
    if own.background == Some(true) {
        return refuse("background", "answering later is");
    }
    if own.top_logprobs.is_some_and(|n| n != 0) {
        return refuse("top_logprobs", "log-probabilities are, at this endpoint,");
    }
    if own.include.iter().flatten().any(|what| what.contains("logprobs")) {
        return refuse("include", "log-probabilities are, at this endpoint,");
    }
    Ok(())
}

/// Answers a text or a conversation.
pub(crate) async fn responses(
    State(app): State<Arc<App>>,
    Extension(record): Extension<Arc<Record>>,
    raw: Raw,
) -> Result<Response> {
    let (params, own): (Params, ResponseParams) = (raw.parse()?, raw.parse()?);
    drop(raw);
    let (model, name) = app.model(params.model.as_deref()).await?;
    refuse_unsupported(&params, &own)?;
    let settings = params.settings(&model.sampling, model.vocab)?;
    if settings.n != 1 {
        return Err(Refused::unsupported("n", "more than one answer is, at this endpoint,"));
    }
    let wanted = new_tokens("max_output_tokens", own.max_output_tokens, 1)?;
    let mut messages = own.input.conversation()?;
    if let Some(instructions) = &own.instructions {
        messages.insert(0, Message::new("system", instructions.clone()));
    }
    let prompt = model.blocking(move |model| model.chat_prompt(messages, None)).await?;
    let given = Given {
        instructions: own.instructions,
        max_output_tokens: own.max_output_tokens,
        metadata: own.metadata.unwrap_or_default(),
        user: own.user,
        temperature: settings.sampling.temperature,
        top_p: settings.sampling.top_p,
    };
    let request = Request {
        prompt,
        sampling: settings.sampling,
        max_tokens: wanted.unwrap_or(usize::MAX),
        stop: settings.stop,
        ignore_eos: settings.ignore_eos,
        ..Request::default()
    };
    let asked = ask(&model, &record, vec![request], 1, "input")?;
    let form = ResponseForm::new(name, given);
    if settings.stream { answer::streamed(asked, form).await } else { answer::whole(asked, form).await }
}
