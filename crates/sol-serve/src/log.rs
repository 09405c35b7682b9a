//! One line a request, written when the last byte of its answer is out or its client is gone.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;

/// The header with a request's id: the client's where it sends a sensible one, else a new one.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What is said of a request; the last holder's drop says it.
pub(crate) struct Record {
    id: String,
    method: String,
    path: String,
    pub(crate) begun: Instant,
    /// 0 where the client went before it got one.
    status: AtomicU16,
    /// Tokens of the prompts, those of them that were cached, and new ones.
    pub(crate) tokens: [AtomicU64; 3],
    pub(crate) finish: OnceLock<&'static str>,
    /// Why it was refused.
    refusal: OnceLock<Reason>,
}

/// Why a response is a refusal; travels with it to the log.
#[derive(Clone)]
pub(crate) struct Reason(pub(crate) String);

/// Longest path that is logged.
const PATH: usize = 200;

impl Drop for Record {
    fn drop(&mut self) {
        let [prompt, cached, new] = &self.tokens;
        tracing::info!(
            id = self.id,
            method = self.method,
            path = self.path,
            status = self.status.load(Ordering::Relaxed),
            ms = self.begun.elapsed().as_millis() as u64,
            prompt_tokens = prompt.load(Ordering::Relaxed),
            cached_tokens = cached.load(Ordering::Relaxed),
            completion_tokens = new.load(Ordering::Relaxed),
            finish = self.finish.get().copied().unwrap_or("-"),
            refusal = self.refusal.get().map(|reason| reason.0.as_str()),
            "request"
        );
    }
}

/// Gives a request its id and its line.
pub(crate) async fn record(mut request: Request, next: Next) -> Response {
    let sensible = |id: &&str| (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
    let given = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok()).filter(sensible);
    let id = given.map_or_else(|| format!("req-{:016x}", fastrand::u64(..)), str::to_owned);
    let path = request.uri().path();
    let record = Arc::new(Record {
        id: id.clone(),
        method: request.method().to_string(),
        path: path[..path.floor_char_boundary(PATH)].to_owned(),
        begun: Instant::now(),
        status: AtomicU16::new(0),
        tokens: Default::default(),
        finish: OnceLock::new(),
        refusal: OnceLock::new(),
    });
    request.extensions_mut().insert(Arc::clone(&record));
    let mut response = next.run(request).await;
    record.status.store(response.status().as_u16(), Ordering::Relaxed);
    if let Some(reason) = response.extensions_mut().remove::<Reason>() {
        let _ = record.refusal.set(reason);
    }
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}
