//! From a checked request to the engine's events.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use serde_json::{Value, json};
use sol_engine::{BLOCK_LEN, Error, Event, Finish, Interrupt, Refusal, Request};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::error::{Refused, Result};
use crate::log::Record;
use crate::models::{Held, Model};

/// Tokens of a request.
#[derive(Clone, Copy, Default)]
pub(crate) struct Usage {
    prompt: usize,
    cached: usize,
    new: usize,
}

impl Usage {
    /// OpenAI's object.
    pub(crate) fn json(self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.new,
            "total_tokens": self.prompt + self.new,
            "prompt_tokens_details": {"cached_tokens": self.cached},
        })
    }

    /// As `/v1/responses` has it.
    pub(crate) fn of_response(self) -> Value {
        json!({
            "input_tokens": self.prompt,
            "input_tokens_details": {"cached_tokens": self.cached},
            "output_tokens": self.new,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.prompt + self.new,
        })
    }
}

/// Ends what runs for a client when it is dropped: the client has its answer, or has gone.
struct Guard {
    model: Held,
    interrupt: Interrupt,
    record: Arc<Record>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.interrupt.set();
    }
}

/// Answers that are being made: choice `i` is one of `n` to prompt `i / n`.
pub(crate) struct Asked {
    guard: Guard,
    events: UnboundedReceiver<(usize, Event)>,
    n: usize,
    prompts: Vec<usize>,
    begun: Instant,
    /// When each choice had its last token.
    last: Vec<Option<Instant>>,
    /// Choices that are not done.
    left: usize,
    failed: bool,
    usage: Usage,
}

/// Hands requests to a model's engine: each of `prompts`, which came as `field`, `n` times, with a seed of its own.
pub(crate) fn ask(model: &Held, record: &Arc<Record>, prompts: Vec<Request>, n: usize, field: &str) -> Result<Asked> {
    let guard = Guard { model: model.clone(), interrupt: Interrupt::default(), record: Arc::clone(record) };
    let model = &guard.model;
    let (send, events) = unbounded_channel();
    let lengths: Vec<usize> = prompts.iter().map(|request| request.prompt.len()).collect();
    let room = model.serving.figures().blocks.load(Ordering::Relaxed) * BLOCK_LEN;
    for request in &prompts {
        check(model, request, room, field)?;
    }
    for (i, request) in prompts.into_iter().flat_map(|request| std::iter::repeat_n(request, n)).enumerate() {
        let mut request = Request { interrupt: guard.interrupt.clone(), ..request };
        request.sampling.seed = request.sampling.seed.wrapping_add((i % n) as u64);
        let send = send.clone();
        let sink = Box::new(move |event| {
            // Nobody to tell: the client has gone.
            let _ = send.send((i, event));
        });
        model.serving.submit(request, sink).map_err(|refusal| match refusal {
            Refusal::Busy => Refused::busy("as many requests wait as may; try again soon"),
            Refusal::Closed => Refused::from(Error::EngineEnded),
        })?;
    }
    let choices = lengths.len() * n;
    let usage = Usage { prompt: lengths.iter().sum(), ..Usage::default() };
    Ok(Asked {
        guard,
        events,
        n,
        prompts: lengths,
        begun: record.begun,
        last: vec![None; choices],
        left: choices,
        failed: false,
        usage,
    })
}

/// Refuses a prompt that does not fit.
pub(crate) fn check_length(tokens: usize, most: usize, field: &str) -> Result<()> {
    if tokens <= most {
        return Ok(());
    }
    let message = format!("the prompt has {tokens} tokens, but the context holds {most}; shorten it");
    Err(Refused::field(field, message).code("context_length_exceeded"))
}

/// Refuses what the engine would refuse, with a status.
fn check(model: &Model, request: &Request, room: usize, field: &str) -> Result<()> {
    let tokens = request.prompt.len();
    if tokens == 0 {
        return Err(Refused::from(sol_engine::Error::EmptyPrompt));
    }
    check_length(tokens, model.context.min(room), field)?;
    match request.prompt.iter().find(|id| **id as usize >= model.vocab) {
        Some(&id) => Err(Refused::from(sol_engine::Error::UnknownToken { id, vocab: model.vocab })),
        None => Ok(()),
    }
}

impl Asked {
    /// What happens next, and to which choice; `None` when all are done.
    pub(crate) async fn next(&mut self) -> Option<(usize, Event)> {
        if self.left == 0 || self.failed {
            return None;
        }
        let ended = || (0, Event::Failed(Arc::new(Error::EngineEnded)));
        let (choice, event) = self.events.recv().await.unwrap_or_else(ended);
        let (metrics, tokens) = (&self.guard.model.metrics, &self.guard.record.tokens);
        match &event {
            Event::Read { cached, .. } => {
                // A prompt that is answered several times is one prompt.
                if choice % self.n == 0 {
                    let prompt = self.prompts[choice / self.n];
                    self.usage.cached += cached;
                    for (counter, more) in [(&metrics.prompt_tokens, prompt), (&metrics.cached_tokens, *cached)] {
                        counter.fetch_add(more as u64, Ordering::Relaxed);
                    }
                    tokens[0].fetch_add(prompt as u64, Ordering::Relaxed);
                    tokens[1].fetch_add(*cached as u64, Ordering::Relaxed);
                }
            }
            Event::Token { .. } => {
                let now = Instant::now();
                match self.last[choice].replace(now) {
                    None => metrics.first_token.add(now - self.begun),
                    Some(last) => metrics.between_tokens.add(now - last),
                }
                self.usage.new += 1;
                metrics.new_tokens.fetch_add(1, Ordering::Relaxed);
                tokens[2].fetch_add(1, Ordering::Relaxed);
            }
            Event::Done { finish, .. } => {
                self.left -= 1;
                let _ = self.guard.record.finish.set(reason(*finish));
                if self.left == 0 {
                    metrics.done.fetch_add(1, Ordering::Relaxed);
                    metrics.whole.add(self.begun.elapsed());
                }
            }
            Event::Failed(error) => {
                self.failed = true;
                let _ = self.guard.record.finish.set("error");
                tracing::error!("a request failed: {error}");
            }
        }
        Some((choice, event))
    }

    pub(crate) fn choices(&self) -> usize {
        self.last.len()
    }

    pub(crate) fn usage(&self) -> Usage {
        self.usage
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if self.left > 0 && !self.failed {
            self.guard.model.metrics.abandoned.fetch_add(1, Ordering::Relaxed);
            let _ = self.guard.record.finish.set("abandoned");
        }
    }
}

/// `finish_reason`.
pub(crate) fn reason(finish: Finish) -> &'static str {
    match finish {
        Finish::EndOfTurn | Finish::StopString => "stop",
        Finish::MaxTokens | Finish::ContextFull | Finish::Interrupted => "length",
    }
}
