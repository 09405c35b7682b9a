//! OpenAI's HTTP API over the serving engine.
//!
//! Read in this order: [`Server`] (`server`: connections, routes, shutdown; `host`: who may ask; `patient`: who takes no answer),
//! `body` and `params` (what comes in and is refused), `chat`, `completions`, `responses` and `embeddings` (the endpoints),
//! `messages`, `guided` (answers of a form) and `tools` (calls of a client's functions), `models` (which are in memory), `ask`
//! (requests to the engine), `answer` (events to JSON, whole or streamed), `error` (OpenAI's error object), `info` (the small
//! endpoints), `openapi` (what all of them take and answer), `page` (the chat page at `/`), `metrics`, `log`.
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
mod models;
mod openapi;
mod page;
mod params;
mod patient;
mod responses;
mod server;
mod tools;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sol_engine::ServingOptions;

pub use error::Error;
pub use models::Source;
pub use server::{Room, Server};

use error::{Refused, Result};
use models::Models;

/// How to serve.
#[derive(Clone, Debug)]
pub struct Options {
    /// Names that requests may give the one model of [`Server::bind`]; the first is its own. At least one.
    pub names: Vec<String>,
    /// What clients must send as a bearer token.
    pub api_key: Option<String>,
    /// Origins whose pages may ask, or `*`.
    pub cors: Vec<String>,
    /// Requests that wait for their turn with each model; more are refused.
    pub queue: usize,
    /// A client that takes longer to send its headers or its body, is silent that long between requests, or takes nothing of its
    /// answer for that long, is let go; so is a request for which no model makes room.
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
    models: Models,
    api_key: Option<String>,
    patience: Duration,
    /// Seconds since 1970.
    created: u64,
    /// Requests that were refused.
    refused: AtomicU64,
    draining: AtomicBool,
    /// Requests that have a model, or wait for one.
    active: AtomicUsize,
    /// Told when there are none any more.
    idle: tokio::sync::Notify,
}

impl App {
    fn new(models: Models, options: &Options) -> Self {
        Self {
            models,
            api_key: options.api_key.clone(),
            patience: options.patience,
            created: created(),
            refused: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            active: AtomicUsize::new(0),
            idle: tokio::sync::Notify::new(),
        }
    }

    fn draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// Counts a request in, unless the server is going.
    fn enter(self: &Arc<Self>) -> Result<Entered> {
        self.active.fetch_add(1, Ordering::SeqCst);
        let entered = Entered(Arc::clone(self));
        if self.draining() { Err(Refused::going()) } else { Ok(entered) }
    }
}

/// A request for which a server that is going waits.
struct Entered(Arc<App>);

impl Drop for Entered {
    fn drop(&mut self) {
        if self.0.active.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.idle.notify_waiters();
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
