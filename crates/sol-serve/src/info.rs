//! What the server says of itself, and text to tokens and back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use sol_engine::{BLOCK_LEN, Figures};
use sol_text::Encode;

use crate::App;
use crate::body::Raw;
use crate::chat::{ChatMessage, conversation};
use crate::error::{Refused, Result};
use crate::metrics::Metrics;
use crate::models::Model;

/// A model by one of its names; how long its context is, is known once it is loaded.
fn card(app: &App, name: &str, root: &str, model: Option<&Model>) -> Value {
    json!({
        "id": name, "object": "model", "created": app.created, "owned_by": "solarium", "root": root, "parent": null,
        "max_model_len": model.map(|model| model.context), "loaded": model.is_some(),
        "system_prompt": model.map(|model| model.text.has_system_prompt()),
    })
}

/// `GET /v1/models`.
pub(crate) async fn models(State(app): State<Arc<App>>) -> Json<Value> {
    let cards: Vec<Value> = app.models.names().map(|(name, root, model)| card(&app, name, root, model.as_deref())).collect();
    Json(json!({"object": "list", "data": cards}))
}

/// `GET /v1/models/{id}`.
pub(crate) async fn model(State(app): State<Arc<App>>, id: Result<Path<String>, PathRejection>) -> Result<Json<Value>> {
    // What is no UTF-8 is nobody's name.
    let Path(id) = id.unwrap_or_else(|_| Path(char::REPLACEMENT_CHARACTER.into()));
    app.known(&id)?;
    let found = app.models.names().find(|(name, ..)| *name == id);
    Ok(Json(found.map_or(Value::Null, |(name, root, model)| card(&app, name, root, model.as_deref()))))
}

/// `GET /health`: whether it lives.
pub(crate) async fn health() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// `GET /ready`: whether it takes requests.
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Result<Json<Value>> {
    if app.draining() {
        return Err(Refused::going());
    }
    if app.models.ended() {
        return Err(Refused::from(sol_engine::Error::EngineEnded).status(StatusCode::SERVICE_UNAVAILABLE));
    }
    Ok(Json(json!({"status": "ready"})))
}

/// `GET /version`.
pub(crate) async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

/// `GET /metrics`.
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let text = app.models.metrics(app.refused.load(Ordering::Relaxed));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// `GET /model_info`, as gateways of SGLang's family ask: of the first model.
pub(crate) async fn model_info(State(app): State<Arc<App>>) -> Json<Value> {
    let model = app.models.first_ready();
    let model = model.as_ref();
    Json(json!({
        "model_path": app.models.first(),
        "served_model_name": app.models.first(),
        "is_generation": true,
        "max_context_length": model.map(|model| model.context),
        "max_model_len": model.map(|model| model.context),
        "vocab_size": model.map(|model| model.vocab),
        "architectures": model.map(|model| [model.architecture]),
        "model_type": model.map(|model| model.architecture),
    }))
}

/// `GET /server_info`: of the first model.
pub(crate) async fn server_info(State(app): State<Arc<App>>) -> Json<Value> {
    let model = app.models.first_ready();
    let model = model.as_ref();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "model_path": app.models.first(),
        "served_model_name": app.models.first(),
        "max_model_len": model.map(|model| model.context),
        "context_length": model.map(|model| model.context),
        "max_total_num_tokens": model.map(|model| model.serving.figures().blocks.load(Ordering::Relaxed) * BLOCK_LEN),
        "max_running_requests": model.map(|model| model.sequences),
        "page_size": BLOCK_LEN,
        "tp_size": 1,
        "dp_size": 1,
        "status": if app.draining() { "draining" } else { "ready" },
    }))
}

/// `GET /v1/loads`: of all models in memory together.
pub(crate) async fn loads(State(app): State<Arc<App>>) -> Json<Value> {
    let models = app.models.ready();
    let sum = |figure: &dyn Fn(&Model) -> usize| models.iter().map(|model| figure(model)).sum::<usize>();
    let size = |figure: fn(&Figures) -> &AtomicUsize| sum(&|model| figure(model.serving.figures()).load(Ordering::Relaxed));
    let count = |figure: fn(&Metrics) -> &AtomicU64| sum(&|model| figure(&model.metrics).load(Ordering::Relaxed) as usize) as f64;
    let (running, waiting) = (size(|f| &f.running), size(|f| &f.waiting));
    let (blocks, used) = (size(|f| &f.blocks), size(|f| &f.blocks_running));
    let usage = used as f64 / blocks.max(1) as f64;
    let hits = count(|m| &m.cached_tokens) / count(|m| &m.prompt_tokens).max(1.0);
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "dp_rank_count": 1,
        "loads": [{
            "dp_rank": 0,
            "num_running_reqs": running,
            "num_waiting_reqs": waiting,
            "num_total_reqs": running + waiting,
            "num_used_tokens": used * BLOCK_LEN,
            "max_total_num_tokens": blocks * BLOCK_LEN,
            "max_running_requests": sum(&|model| model.sequences),
            "token_usage": usage,
            "cache_hit_rate": hits,
        }],
        "aggregate": {
            "total_running_reqs": running, "total_waiting_reqs": waiting, "total_reqs": running + waiting, "avg_token_usage": usage,
        },
    }))
}

/// A text, or a conversation.
#[derive(Deserialize)]
pub(crate) struct TokenizeParams {
    model: Option<String>,
    prompt: Option<String>,
    messages: Option<Vec<ChatMessage>>,
    add_special_tokens: Option<bool>,
    return_token_strs: Option<bool>,
}

/// `POST /tokenize`.
pub(crate) async fn tokenize(State(app): State<Arc<App>>, raw: Raw) -> Result<Json<Value>> {
    let params: TokenizeParams = raw.parse()?;
    let (model, _) = app.model(params.model.as_deref()).await?;
    let messages = params.messages.map(conversation).transpose()?;
    let add_bos = params.add_special_tokens.unwrap_or(true);
    let named = params.return_token_strs.unwrap_or(false);
    let read = move |model: &Model| {
        let tokenizer = model.text.tokenizer()?;
        let tokens = match (params.prompt, messages) {
            (Some(text), None) => {
                model.text.check_length(&text)?;
                tokenizer.encode(&text, Encode { add_bos, parse_special: true })?
            }
            (None, Some(messages)) => model.chat_prompt(messages, None)?,
            _ => return Err(Refused::field("prompt", "give either 'prompt' or 'messages'")),
        };
        let name = |id: &u32| tokenizer.token(*id).unwrap_or_default();
        let names = named.then(|| tokens.iter().map(name).collect::<Vec<_>>());
        Ok(json!({"count": tokens.len(), "max_model_len": model.context, "tokens": tokens, "token_strs": names}))
    };
    Ok(Json(model.blocking(read).await?))
}

#[derive(Deserialize)]
pub(crate) struct DetokenizeParams {
    model: Option<String>,
    tokens: Vec<u32>,
}

/// Most tokens that are turned into text, in contexts.
const DETOKENIZED: usize = 4;

/// `POST /detokenize`.
pub(crate) async fn detokenize(State(app): State<Arc<App>>, raw: Raw) -> Result<Json<Value>> {
    let params: DetokenizeParams = raw.parse()?;
    let (model, _) = app.model(params.model.as_deref()).await?;
    let (tokens, most) = (params.tokens, DETOKENIZED * model.context);
    if tokens.len() > most {
        let message = format!("'tokens' has {} of them: at most {most} fit in one request", tokens.len());
        return Err(Refused::field("tokens", message));
    }
    if let Some(&id) = tokens.iter().find(|id| **id as usize >= model.vocab) {
        return Err(Refused::from(sol_engine::Error::UnknownToken { id, vocab: model.vocab }));
    }
    let read = move |model: &Model| Ok(json!({"prompt": model.text.tokenizer()?.decode(&tokens, false)}));
    Ok(Json(model.blocking(read).await?))
}

/// Any other path.
pub(crate) async fn nowhere(method: axum::http::Method, uri: axum::http::Uri) -> Refused {
    Refused::new(StatusCode::NOT_FOUND, format!("there is no {method} {}", uri.path())).code("unknown_url")
}

/// A path with another method.
pub(crate) async fn wrong_method(method: axum::http::Method, uri: axum::http::Uri) -> Refused {
    Refused::new(StatusCode::METHOD_NOT_ALLOWED, format!("{} does not take {method}", uri.path())).code("method_not_supported")
}
