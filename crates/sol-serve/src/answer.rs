//! The engine's events as one JSON object or as a stream of server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::response::sse::{self, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::Value;
use sol_engine::Event;

use crate::ask::{Asked, Usage};
use crate::error::{Refused, Result};

/// How an endpoint says what the engine says.
pub(crate) trait Form: Send + 'static {
    /// Whether a stream's events have names, their `type`; the last one's name then says that it is the last, and no `[DONE]` does.
    const NAMED: bool = false;
    /// Chunks of a stream before anything happens.
    fn opening(&mut self) -> Vec<Value> {
        Vec::new()
    }
    /// Chunks of a stream; an event may be worth none or several.
    fn chunks(&mut self, choice: usize, event: Event) -> Vec<Value>;
    /// Takes an event of an answer that is given whole.
    fn collect(&mut self, choice: usize, event: Event);
    /// The answer after all events.
    fn whole(&mut self, usage: Usage) -> Value;
    /// The last chunk, where the client wants the usage.
    fn usage(&self, usage: Usage) -> Option<Value>;
    /// The last chunk of a stream that breaks off.
    fn failure(&self, refused: &Refused) -> Value {
        refused.body()
    }
}

/// A pause this long is filled with a comment, so that no proxy takes a long prompt for a dead server.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Answers whole.
pub(crate) async fn whole(mut asked: Asked, mut form: impl Form) -> Result<Response> {
    while let Some((choice, event)) = asked.next().await {
        match event {
            Event::Failed(error) => return Err(Refused::from(&*error)),
            event => form.collect(choice, event),
        }
    }
    Ok(Json(form.whole(asked.usage())).into_response())
}

struct Streaming<F> {
    asked: Asked,
    form: F,
    ready: VecDeque<sse::Event>,
    ended: bool,
}

impl<F: Form> Streaming<F> {
    /// The next event.
    async fn next(&mut self) -> Option<sse::Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            match self.asked.next().await {
                Some((_, Event::Failed(error))) => {
                    self.ready.push_back(written::<F>(&self.form.failure(&Refused::from(&*error))));
                    self.ended = true;
                }
                Some((choice, event)) => self.ready.extend(self.form.chunks(choice, event).iter().map(written::<F>)),
                None => {
                    self.ready.extend(self.form.usage(self.asked.usage()).iter().map(written::<F>));
                    if !F::NAMED {
                        self.ready.push_back(sse::Event::default().data("[DONE]"));
                    }
                    self.ended = true;
                }
            }
        }
    }
}

/// A chunk as an event.
fn written<F: Form>(chunk: &Value) -> sse::Event {
    let event = sse::Event::default().data(chunk.to_string());
    match chunk["type"].as_str() {
        Some(name) if F::NAMED => event.event(name),
        _ => event,
    }
}

/// Answers as it comes. The head waits for the first event, for a while: what fails by then gets the right status, and a gateway
/// may ask another server where nothing had come.
pub(crate) async fn streamed<F: Form>(asked: Asked, mut form: F) -> Result<Response> {
    let ready = form.opening().iter().map(written::<F>).collect();
    let mut state = Streaming { asked, form, ready, ended: false };
    match tokio::time::timeout(KEEP_ALIVE, state.asked.next()).await {
        Ok(Some((_, Event::Failed(error)))) => return Err(Refused::from(&*error)),
        Ok(Some((choice, event))) => state.ready.extend(state.form.chunks(choice, event).iter().map(written::<F>)),
        Ok(None) | Err(_) => {}
    }
    let events = stream::unfold(state, async |mut state| {
        let event = state.next().await?;
        Some((Ok::<_, Infallible>(event), state))
    });
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    // nginx would hold it back.
    response.headers_mut().insert("x-accel-buffering", axum::http::HeaderValue::from_static("no"));
    Ok(response)
}
