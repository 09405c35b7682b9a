//! Requests of many, answered together: they join and leave between passes of the decoder.
//!
//! [`Serving::start`] gives a [`LanguageModel`] a thread of its own, which sleeps while there is nothing to do. Requests come in by
//! [`Serving::submit`]; what is made of each goes to its sink as [`Event`]s. Read `scheduler` for what a pass consists of, `prefix`
//! for what is kept of finished requests.
//!
//! **Invariant.** A request's tokens are those it would get alone, whatever else runs, however its prompt was cut, whatever of it
//! was cached, and however often it had to make room and begin again.

mod pace;
mod prefix;
mod scheduler;
mod slot;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use crate::constraint::Constraint;
use crate::generate::{Finish, Interrupt};
use crate::load::LanguageModel;
use crate::sampling::Sampling;
use crate::{Error, Result};

/// Something to continue.
#[derive(Clone, Debug, Default)]
pub struct Request {
    /// Its token ids; at least one.
    pub prompt: Vec<u32>,
    /// How the answer's tokens are chosen.
    pub sampling: Sampling,
    /// Most new tokens; an end of the context before that is no error.
    pub max_tokens: usize,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// The answer goes on in the middle of the prompt's text: a space that it begins with is kept, which decoding drops elsewhere.
    pub continues: bool,
    /// The form that the answer must have; where its text is complete, it ends.
    pub constraint: Option<Constraint>,
    /// Go on after tokens that end a turn, but not behind the end that a constraint has.
    pub ignore_eos: bool,
    /// With each new token its log-probability and those of so many likeliest.
    pub logprobs: Option<usize>,
    /// The same of the prompt's tokens, of which then nothing is taken from the cache.
    pub prompt_logprobs: Option<usize>,
    /// The mean of the hidden states of the prompt's tokens instead of an answer; nothing of the prompt is taken from the cache.
    pub embed: bool,
    /// Ends the request from another thread.
    pub interrupt: Interrupt,
}

/// A token with the natural logarithms of probabilities, which are those of the model, before temperature and penalties.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub id: u32,
    /// Its own; none of a prompt's first token, which nothing foretells.
    pub logprob: Option<f32>,
    /// The likeliest tokens and theirs, best first.
    pub top: Vec<(u32, f32)>,
}

/// What happens to a request.
#[derive(Clone, Debug)]
pub enum Event {
    /// The prompt is read; so many of its tokens were cached. With log-probabilities where they were asked for.
    Read {
        /// Tokens of the prompt that were not computed.
        cached: usize,
        /// Of each token of the prompt.
        logprobs: Vec<TokenLogprob>,
        /// The mean of the last layer's hidden states, after the final norm, where [`Request::embed`] asks for it.
        hidden: Vec<f32>,
    },
    /// A new token.
    Token {
        /// The token.
        id: u32,
        /// Text that is certain by now: none where a character or a stop string may still be incomplete, then that of several tokens.
        text: String,
        /// Where it was asked for.
        logprob: Option<TokenLogprob>,
    },
    /// The end.
    Done {
        /// Text that was held back.
        text: String,
        /// Why.
        finish: Finish,
    },
    /// The end, without a result.
    Failed(Arc<Error>),
}

/// Takes a request's events; called by the engine's thread, so it must not wait.
pub type Sink = Box<dyn FnMut(Event) + Send>;

/// How to serve.
#[derive(Clone, Copy, Debug)]
pub struct ServingOptions {
    /// Requests that wait, beside those that run; more are refused.
    pub queue: usize,
}

impl Default for ServingOptions {
    fn default() -> Self {
        Self { queue: 256 }
    }
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// As many wait as may.
    Busy,
    /// The engine has ended.
    Closed,
}

/// Figures of a serving engine; all count from its start.
#[derive(Debug, Default)]
pub struct Figures {
    /// Requests that wait for their turn.
    pub waiting: AtomicUsize,
    /// Requests whose prompts are read or that are answered.
    pub running: AtomicUsize,
    /// Blocks of the cache.
    pub blocks: AtomicUsize,
    /// Blocks that running requests hold.
    pub blocks_running: AtomicUsize,
    /// Blocks that hold the beginnings of former prompts only, and are given away when others need them.
    pub blocks_kept: AtomicUsize,
    /// Tokens of prompts.
    pub prompt_tokens: AtomicU64,
    /// Of these, tokens that were cached.
    pub cached_tokens: AtomicU64,
    /// New tokens.
    pub new_tokens: AtomicU64,
    /// Tokens that were guessed ahead.
    pub guessed_tokens: AtomicU64,
    /// Of these, guesses that came true.
    pub accepted_tokens: AtomicU64,
    /// Passes of the decoder.
    pub passes: AtomicU64,
    /// Times that a request made room for others and began again.
    pub preemptions: AtomicU64,
}

/// A request on its way to the engine.
struct Job {
    request: Request,
    sink: Sink,
}

/// A model that answers requests; dropping it lets those that run finish.
pub struct Serving {
    jobs: Option<SyncSender<Job>>,
    figures: Arc<Figures>,
    /// Most requests that wait or run.
    most: usize,
    thread: Option<JoinHandle<()>>,
}

impl Serving {
    /// Starts the thread.
    pub fn start(mut model: LanguageModel, options: ServingOptions) -> Result<Self> {
        let most = options.queue.saturating_add(model.engine().sequences());
        let (jobs, inbox): (SyncSender<Job>, Receiver<Job>) = sync_channel(most);
        let figures = Arc::new(Figures::default());
        let scheduler = scheduler::Scheduler::new(model, inbox, Arc::clone(&figures));
        let thread = std::thread::Builder::new().name("sol-engine".into()).spawn(move || scheduler.run());
        let thread = thread.map_err(|source| Error::Thread { source })?;
        Ok(Self { jobs: Some(jobs), figures, most, thread: Some(thread) })
    }

    /// Hands a request over; its sink hears of it until [`Event::Done`] or [`Event::Failed`].
    pub fn submit(&self, request: Request, sink: Sink) -> Result<(), Refusal> {
        if self.ended() {
            return Err(Refusal::Closed);
        }
        let waiting = self.figures.waiting.fetch_add(1, Ordering::Relaxed);
        if waiting + self.figures.running.load(Ordering::Relaxed) >= self.most {
            self.figures.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(Refusal::Busy);
        }
        let jobs = self.jobs.as_ref().ok_or(Refusal::Closed)?;
        jobs.try_send(Job { request, sink }).map_err(|error| {
            self.figures.waiting.fetch_sub(1, Ordering::Relaxed);
            match error {
                TrySendError::Full(_) => Refusal::Busy,
                TrySendError::Disconnected(_) => Refusal::Closed,
            }
        })
    }

    /// Whether its thread is gone, which only a panic ends: it answers nothing any more.
    pub fn ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// What is going on.
    pub fn figures(&self) -> &Figures {
        &self.figures
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // A panic there was reported by its own hook.
            let _ = thread.join();
        }
    }
}
