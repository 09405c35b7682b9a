//! OpenAI's HTTP API over the serving engine.
//!
//! Read in this order: [`Server`] (`server`: connections, routes, shutdown), `body` and `params` (what comes in and is refused),
//! `chat` and `completions` (the endpoints), `ask` (requests to the engine), `answer` (events to JSON, whole or streamed), `error`
//! (OpenAI's error object), `info` (the small endpoints), `page` (the chat page at `/`), `metrics`, `log`.
//!
//! **Invariants.** No field that means something is silently ignored. A client that goes away frees its place at once. Whatever a
//! client sends, it gets an answer in OpenAI's shape, and nobody else's stream is disturbed.

mod answer;
mod ask;
mod body;
mod chat;
mod completions;
mod error;
mod info;
mod log;
mod metrics;
mod page;
mod params;
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use sol_engine::{LanguageModel, Message, Sampling, Serving, ServingOptions, Text};

pub use error::Error;
pub use server::Server;

use error::{Refused, Result};
use metrics::Metrics;

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

    fn chat_prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let whole: Vec<&str> = messages.iter().map(|message| message.content.as_str()).collect();
        self.text.check_length(&whole.join("\n"))?;
        Ok(self.text.chat_prompt(messages)?)
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
