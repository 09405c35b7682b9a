//! What the server says of itself, and text to tokens and back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};
use sol_engine::BLOCK_LEN;
use sol_text::Encode;

use crate::App;
use crate::body::Raw;
use crate::chat::{ChatMessage, conversation};
use crate::error::{Refused, Result};

fn card(app: &App, name: &str) -> Value {
    json!({
        "id": name, "object": "model", "created": app.created, "owned_by": "solarium", "root": app.names[0], "parent": null,
        "max_model_len": app.context, "system_prompt": app.text.has_system_prompt(),
    })
}

/// `GET /v1/models`.
pub(crate) async fn models(State(app): State<Arc<App>>) -> Json<Value> {
    let cards: Vec<Value> = app.names.iter().map(|name| card(&app, name)).collect();
    Json(json!({"object": "list", "data": cards}))
}

/// `GET /v1/models/{id}`.
pub(crate) async fn model(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Value>> {
    let name = app.named(Some(&id))?;
    Ok(Json(card(&app, &name)))
}

/// `GET /health`: whether it lives.
pub(crate) async fn health() -> Json<Value> {
    Json(json!({"status": "ok"}))
}

/// `GET /ready`: whether it takes requests.
pub(crate) async fn ready(State(app): State<Arc<App>>) -> Result<Json<Value>> {
    if app.draining() {
        return Err(Refused::busy("the server is shutting down"));
    }
    Ok(Json(json!({"status": "ready"})))
}

/// `GET /version`.
pub(crate) async fn version() -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION")}))
}

/// `GET /metrics`.
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let text = app.metrics.text(app.serving.figures(), &app.names[0]);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// `GET /model_info`, as gateways of SGLang's family ask.
pub(crate) async fn model_info(State(app): State<Arc<App>>) -> Json<Value> {
    Json(json!({
        "model_path": app.names[0],
        "served_model_name": app.names[0],
        "is_generation": true,
        "max_context_length": app.context,
        "max_model_len": app.context,
        "vocab_size": app.vocab,
        "architectures": [app.architecture],
        "model_type": app.architecture,
    }))
}

/// `GET /server_info`.
pub(crate) async fn server_info(State(app): State<Arc<App>>) -> Json<Value> {
    let figures = app.serving.figures();
    Json(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "model_path": app.names[0],
        "served_model_name": app.names[0],
        "max_model_len": app.context,
        "context_length": app.context,
        "max_total_num_tokens": figures.blocks.load(Ordering::Relaxed) * BLOCK_LEN,
        "max_running_requests": app.sequences,
        "page_size": BLOCK_LEN,
        "tp_size": 1,
        "dp_size": 1,
        "status": if app.draining() { "draining" } else { "ready" },
    }))
}

/// `GET /v1/loads`.
pub(crate) async fn loads(State(app): State<Arc<App>>) -> Json<Value> {
    let figures = app.serving.figures();
    let get = |figure: &std::sync::atomic::AtomicUsize| figure.load(Ordering::Relaxed);
    let (running, waiting) = (get(&figures.running), get(&figures.waiting));
    let (blocks, used) = (get(&figures.blocks), get(&figures.blocks_running));
    let usage = used as f64 / blocks.max(1) as f64;
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed) as f64;
    let hits = count(&app.metrics.cached_tokens) / count(&app.metrics.prompt_tokens).max(1.0);
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
            "max_running_requests": app.sequences,
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
struct TokenizeParams {
    model: Option<String>,
    prompt: Option<String>,
    messages: Option<Vec<ChatMessage>>,
    add_special_tokens: Option<bool>,
    return_token_strs: Option<bool>,
}

/// `POST /tokenize`.
pub(crate) async fn tokenize(State(app): State<Arc<App>>, raw: Raw) -> Result<Json<Value>> {
    let params: TokenizeParams = raw.parse()?;
    app.named(params.model.as_deref())?;
    let messages = params.messages.map(conversation).transpose()?;
    let tokens = match (params.prompt, messages) {
        (Some(text), None) => {
            let add_bos = params.add_special_tokens.unwrap_or(true);
            let encode = move |app: &App| Ok(app.text.tokenizer()?.encode(&text, Encode { add_bos, parse_special: true })?);
            app.blocking(encode).await?
        }
        (None, Some(messages)) => app.blocking(move |app| app.chat_prompt(messages, None)).await?,
        _ => return Err(Refused::field("prompt", "give either 'prompt' or 'messages'")),
    };
    let tokenizer = app.text.tokenizer()?;
    let names = params.return_token_strs.unwrap_or(false).then(|| {
        let name = |id: &u32| tokenizer.token(*id).unwrap_or_default().to_owned();
        tokens.iter().map(name).collect::<Vec<_>>()
    });
    Ok(Json(json!({"count": tokens.len(), "max_model_len": app.context, "tokens": tokens, "token_strs": names})))
}

#[derive(Deserialize)]
struct DetokenizeParams {
    model: Option<String>,
    tokens: Vec<u32>,
}

/// `POST /detokenize`.
pub(crate) async fn detokenize(State(app): State<Arc<App>>, raw: Raw) -> Result<Json<Value>> {
    let params: DetokenizeParams = raw.parse()?;
    app.named(params.model.as_deref())?;
    if let Some(&id) = params.tokens.iter().find(|id| **id as usize >= app.vocab) {
        return Err(Refused::from(sol_engine::Error::UnknownToken { id, vocab: app.vocab }));
    }
    Ok(Json(json!({"prompt": app.text.tokenizer()?.decode(&params.tokens, false)})))
}

/// Any other path.
pub(crate) async fn nowhere(method: axum::http::Method, uri: axum::http::Uri) -> Refused {
    Refused::new(StatusCode::NOT_FOUND, format!("there is no {method} {}", uri.path())).code("unknown_url")
}

/// A path with another method.
pub(crate) async fn wrong_method(method: axum::http::Method, uri: axum::http::Uri) -> Refused {
    Refused::new(StatusCode::METHOD_NOT_ALLOWED, format!("{} does not take {method}", uri.path())).code("method_not_supported")
}
