//! OpenAI's HTTP API over the serving engine.
//!
//! Read in this order: [`Server`] (`server`: connections, routes, shutdown; `host`: who may ask), `body` and `params` (what comes in
//! and is refused), `chat`, `completions`, `responses` and `embeddings` (the endpoints), `messages`, `guided` (answers of a form) and
//! `tools` (calls of a client's functions), `ask` (requests to the engine), `answer` (events to JSON, whole or streamed), `error`
//! (OpenAI's error object), `info` (the small endpoints), `openapi` (what all of them take and answer), `page` (the
//! chat page at `/`), `metrics`, `log`.
//!
//! **Invariants.** No field that means something is silently ignored. A client that goes away frees its place at once. Whatever a
//! client sends, it gets an answer in OpenAI's shape, and nobody else's stream is disturbed.

mod answer;
mod ask;
mod body;
mod chat;
mod completions;
mod embeddings;
mod error;
mod guided;
mod host;
mod info;
mod log;
mod messages;
mod metrics;
mod openapi;
mod page;
mod params;
mod responses;
mod server;
mod tools;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use sol_engine::{Constrainer, LanguageModel, Message, Sampling, Serving, ServingOptions, Text};

pub use error::Error;
pub use server::Server;

use error::{Refused, Result};
use metrics::Metrics;
use tokio::sync::Semaphore;
use tools::{Tools, flattened};

/// How to serve.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names that requests may give the model; the first is its own. At least one.
    pub names: Vec<String>,
    /// What clients must send as a bearer token.
    pub api_key: Option<String>,
    /// Origins whose pages may ask, or `*`.
    pub cors: Vec<String>,
    /// Requests that wait for their turn; more are refused.
    pub queue: usize,
    /// A client that takes longer to send its headers or its body, or is silent that long between requests, is let go.
    pub patience: Duration,
    /// How long running requests may take once the server is told to go.
    pub drain: Duration,
}

/// Where nobody asks for another.
const PATIENCE: Duration = Duration::from_secs(30);

impl Options {
    /// For a model of that name.
    pub fn new(name: impl Into<String>) -> Self {
        let queue = ServingOptions::default().queue;
        Self { names: vec![name.into()], api_key: None, cors: Vec::new(), queue, patience: PATIENCE, drain: PATIENCE }
    }
}

/// What all handlers share.
struct App {
    serving: Serving,
    text: Text,
    sampling: Sampling,
    vocab: usize,
    /// Tokens that end a turn.
    ends: Vec<u32>,
    constrainer: OnceLock<Constrainer>,
    /// Taken by those who read a grammar.
    readers: Arc<Semaphore>,
    context: usize,
    sequences: usize,
    architecture: &'static str,
    names: Vec<String>,
    api_key: Option<String>,
    patience: Duration,
    /// Seconds since 1970.
    created: u64,
    metrics: Metrics,
    draining: AtomicBool,
    /// Requests with the engine.
    active: AtomicUsize,
    /// Told when there are none any more.
    idle: tokio::sync::Notify,
}

impl App {
    fn new(mut model: LanguageModel, options: &Options) -> Result<Self, Error> {
        Ok(Self {
            text: model.text().clone(),
            sampling: model.default_sampling().clone(),
            vocab: model.spec().vocab,
            ends: model.end_of_turn().to_vec(),
            constrainer: OnceLock::new(),
            readers: Arc::new(Semaphore::new(guided::READERS)),
            context: model.context(),
            sequences: model.engine().sequences(),
            architecture: model.spec().architecture,
            serving: Serving::start(model, ServingOptions { queue: options.queue })?,
            names: options.names.clone(),
            api_key: options.api_key.clone(),
            patience: options.patience,
            created: created(),
            metrics: Metrics::default(),
            draining: AtomicBool::new(false),
            active: AtomicUsize::new(0),
            idle: tokio::sync::Notify::new(),
        })
    }

    /// The model of a request; it need not say which, as there is one.
    fn named(&self, name: Option<&str>) -> Result<String> {
        let Some(name) = name else { return Ok(self.names[0].clone()) };
        if self.names.iter().any(|known| known == name) {
            return Ok(name.to_owned());
        }
        let shown: String = name.chars().take(100).collect();
        let message = format!("the model '{shown}' does not exist; this server has '{}'", self.names.join("', '"));
        Err(Refused::field("model", message).status(StatusCode::NOT_FOUND).code("model_not_found"))
    }

    /// The tokens of a conversation in which the model is shown these tools.
    fn chat_prompt(&self, mut messages: Vec<Message>, tools: Option<&Tools>) -> Result<Vec<u32>> {
        let mut extra = serde_json::Map::new();
        let (template, _) = self.text.chat_template()?;
        if !template.supports_tools() {
            messages = flattened(messages);
        }
        match tools {
            Some(tools) if template.supports_tools() => drop(extra.insert("tools".into(), tools.json())),
            Some(tools) => messages = tools.told(template, messages),
            None => {}
        }
        let more = messages.iter().flat_map(|message| message.more.values()).chain(extra.values()).map(ToString::to_string);
        let whole: Vec<String> = messages.iter().map(|message| message.content.clone()).chain(more).collect();
        self.text.check_length(&whole.join("\n"))?;
        Ok(self.text.chat_prompt_with(&messages, extra)?)
    }

    /// Work of milliseconds and more, aside, so that it holds up no stream.
    async fn blocking<T: Send + 'static>(self: &Arc<Self>, work: impl FnOnce(&Self) -> Result<T> + Send + 'static) -> Result<T> {
        let app = Arc::clone(self);
        let result = tokio::task::spawn_blocking(move || work(&app)).await;
        result.unwrap_or_else(|_| Err(Refused::new(StatusCode::INTERNAL_SERVER_ERROR, "the request could not be read")))
    }

    fn draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Counts a request in, unless the server is going.
    fn enter(&self) -> Result<()> {
        self.active.fetch_add(1, Ordering::SeqCst);
        if self.draining() {
            self.leave();
            return Err(Refused::busy("the server is shutting down"));
        }
        Ok(())
    }

    fn leave(&self) {
        if self.active.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.idle.notify_waiters();
        }
    }
}

/// Now, in seconds since 1970.
fn created() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// An id that nobody else has.
fn new_id(kind: &str) -> String {
    format!("{kind}-{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..))
}
