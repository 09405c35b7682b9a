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
    /// Chunks of a stream; an event may be worth none or several.
    fn chunks(&mut self, choice: usize, event: Event) -> Vec<Value>;
    /// Takes an event of an answer that is given whole.
    fn collect(&mut self, choice: usize, event: Event);
    /// The answer after all events.
    fn whole(&mut self, usage: Usage) -> Value;
    /// The last chunk, where the client wants the usage.
    fn usage(&self, usage: Usage) -> Option<Value>;
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
    ready: VecDeque<String>,
    ended: bool,
}

impl<F: Form> Streaming<F> {
    /// The next event's data.
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(data) = self.ready.pop_front() {
                return Some(data);
            }
            if self.ended {
                return None;
            }
            match self.asked.next().await {
                Some((_, Event::Failed(error))) => {
                    self.ready.push_back(Refused::from(&*error).body().to_string());
                    self.ended = true;
                }
                Some((choice, event)) => self.ready.extend(self.form.chunks(choice, event).iter().map(Value::to_string)),
                None => {
                    self.ready.extend(self.form.usage(self.asked.usage()).map(|chunk| chunk.to_string()));
                    self.ready.push_back("[DONE]".into());
                    self.ended = true;
                }
            }
        }
    }
}

/// Answers as it comes.
pub(crate) fn streamed(asked: Asked, form: impl Form) -> Response {
    let state = Streaming { asked, form, ready: VecDeque::new(), ended: false };
    let events = stream::unfold(state, async |mut state| {
        let data = state.next().await?;
        Some((Ok::<_, Infallible>(sse::Event::default().data(data)), state))
    });
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    // nginx would hold it back.
    response.headers_mut().insert("x-accel-buffering", axum::http::HeaderValue::from_static("no"));
    response
}
