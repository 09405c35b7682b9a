//! `POST /v1/completions`: texts to continue, with log-probabilities of what was given too.

mod form;
mod prompt;

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use sol_engine::Request;
use sol_text::Encode;

use self::form::{CompletionForm, Echo};
pub(crate) use self::prompt::{One, Prompts};
use crate::App;
use crate::answer;
use crate::ask::{ask, check_length};
use crate::body::Raw;
use crate::error::{Refused, Result};
use crate::log::Record;
use crate::models::Model;
use crate::params::{CHOICES, Params, TOP_LOGPROBS, new_tokens, out_of_range};

/// New tokens where nobody says how many: OpenAI's.
const MAX_TOKENS: usize = 16;

/// Fields of plain completions alone.
#[derive(Deserialize)]
pub(crate) struct CompletionParams {
    prompt: Prompts,
    echo: Option<bool>,
    logprobs: Option<i64>,
    suffix: Option<String>,
    /// Whether a text gets the tokens that the model's configuration puts in front, as vLLM has it.
    add_special_tokens: Option<bool>,
}

/// Continues texts.
pub(crate) async fn completions(
    State(app): State<Arc<App>>,
    Extension(record): Extension<Arc<Record>>,
    raw: Raw,
) -> Result<Response> {
    let (mut params, own): (Params, CompletionParams) = (raw.parse()?, raw.parse()?);
    drop(raw);
    let (model, name) = app.model(params.model.as_deref()).await?;
    if own.suffix.is_some_and(|suffix| !suffix.is_empty()) {
        return Err(Refused::unsupported("suffix", "filling in the middle is"));
    }
    let settings = params.settings(&model.sampling, model.vocab)?;
    let shape = params.shape()?;
    let echo = own.echo.unwrap_or(false);
    // Nothing new is an answer where the prompt is: its log-probabilities.
    let wanted = new_tokens("max_tokens", params.max_tokens, usize::from(!echo))?.unwrap_or(MAX_TOKENS);
    let valid = |n: i64| usize::try_from(n).ok().filter(|n| *n <= TOP_LOGPROBS);
    let refuse = || out_of_range("logprobs", own.logprobs, format!("from 0 to {TOP_LOGPROBS}"));
    let logprobs = own.logprobs.map(|n| valid(n).ok_or_else(refuse)).transpose()?;
    let prompts = own.prompt.0;
    if prompts.len() * settings.n > CHOICES {
        let message =
            format!("{} prompts with {} answers each: at most {CHOICES} answers fit in one request", prompts.len(), settings.n);
        return Err(Refused::field("prompt", message));
    }
    let add_bos = own.add_special_tokens.unwrap_or(true);
    let read = model.blocking(move |model| {
        prompts.into_iter().map(|prompt| encode(model, prompt, add_bos, echo, "prompt")).collect::<Result<Vec<_>>>()
    });
    let constraint = model.constraint(shape).await?;
    let (prompts, echoes): (Vec<Vec<u32>>, Vec<Echo>) = read.await?.into_iter().unzip();
    let request = |prompt| Request {
        prompt,
        sampling: settings.sampling.clone(),
        max_tokens: wanted,
        stop: settings.stop.clone(),
        constraint: constraint.clone(),
        ignore_eos: settings.ignore_eos,
        continues: true,
        logprobs,
        prompt_logprobs: logprobs.filter(|_| echo),
        ..Request::default()
    };
    let asked = ask(&model, &record, prompts.into_iter().map(request).collect(), settings.n, "prompt")?;
    let tokenizer = model.text.tokenizer()?.clone();
    let form = CompletionForm::new(name, &settings, tokenizer, logprobs.is_some(), echo.then_some(echoes), asked.choices());
    if settings.stream { answer::streamed(asked, form).await } else { answer::whole(asked, form).await }
}

/// The tokens of a prompt, and how it is echoed. Names of special tokens in it are such tokens: whoever uses this endpoint writes
/// the whole prompt. Tokens get a text only for an `echo`.
pub(crate) fn encode(model: &Model, prompt: One, add_bos: bool, echo: bool, field: &str) -> Result<(Vec<u32>, Echo)> {
    let tokenizer = model.text.tokenizer()?;
    match prompt {
        One::Tokens(tokens) => {
            check_length(tokens.len(), model.context, field)?;
            let text = if echo { tokenizer.decode(&tokens, false) } else { String::new() };
            Ok((tokens, Echo { text, added: 0 }))
        }
        One::Text(text) => {
            model.text.check_length(&text)?;
            let tokens = tokenizer.encode(&text, Encode { add_bos, parse_special: true })?;
            let added = usize::from(add_bos && tokenizer.adds_bos());
            Ok((tokens, Echo { text, added }))
        }
    }
}
