//! A request that has its turn.

use std::ops::Range;
use std::sync::Arc;

use sol_cpu::Cpu;
use sol_text::TokenStream;

use super::{Event, Job, Request, Sink, TokenLogprob};
use crate::Result;
use crate::engine::{Engine, Sequence};
use crate::error::Error;
use crate::generate::{Finish, choose};
use crate::sampling::Sampler;
use crate::speculate::Track;
use crate::stop::StopStrings;

pub(super) struct Slot {
    pub(super) request: Request,
    sink: Sink,
    /// The prompt and what was made of it. Those that `sequence` lacks are to be computed; after the last comes a new one.
    pub(super) tokens: Vec<u32>,
    pub(super) sequence: Sequence,
    sampler: Sampler,
    stream: TokenStream,
    stops: StopStrings,
    pub(super) track: Track,
    /// Whether tokens were computed since the slot was filled or had to begin again.
    pub(super) begun: bool,
    /// Tokens of the prompt that were cached, once it is read.
    cached: usize,
    read: bool,
    prompt_logprobs: Vec<TokenLogprob>,
    /// Sum of the hidden states of what was read, where they are asked for.
    hidden: Vec<f64>,
}

impl Slot {
    pub(super) fn new(job: Job, sampler: Sampler, stream: TokenStream) -> Self {
        let Job { request, sink } = job;
        Self {
            tokens: request.prompt.clone(),
            stops: StopStrings::new(&request.stop),
            request,
            sink,
            sequence: Sequence::default(),
            sampler,
            stream,
            track: Track::default(),
            begun: false,
            cached: 0,
            read: false,
            prompt_logprobs: Vec::new(),
            hidden: Vec::new(),
        }
    }

    /// Tokens to be computed.
    pub(super) fn unread(&self) -> &[u32] {
        &self.tokens[self.sequence.tokens.len()..]
    }

    /// Whether only the newest token is to be computed: each pass gives the next one.
    pub(super) fn decodes(&self) -> bool {
        self.read && self.unread().len() == 1
    }

    /// Tokens that it may still get.
    pub(super) fn left(&self) -> usize {
        self.request.max_tokens - (self.tokens.len() - self.request.prompt.len())
    }

    /// Begins at a beginning that is cached.
    pub(super) fn begin(&mut self, sequence: Sequence) {
        if !self.read {
            self.cached = sequence.tokens.len();
        }
        self.sequence = sequence;
        self.hidden.clear();
        self.begun = true;
    }

    /// Makes room for others: all but what was told is to be computed again. The sequence that it had.
    pub(super) fn begin_again(&mut self) -> Sequence {
        self.begun = false;
        if !self.read {
            self.prompt_logprobs.clear();
        }
        std::mem::take(&mut self.sequence)
    }

    /// Of a piece of `len` of the unread tokens, those after which logits are wanted.
    pub(super) fn outputs(&self, len: usize) -> Vec<usize> {
        if self.request.embed {
            return Vec::new();
        }
        let last = len == self.unread().len();
        let prompt = self.request.prompt.len();
        let of_prompt = self.request.prompt_logprobs.is_some() && !self.read && self.sequence.tokens.len() < prompt;
        if of_prompt { (0..len).collect() } else { (len - usize::from(last)..len).collect() }
    }

    /// Takes the logits after the token at `position`; whether the request goes on.
    pub(super) fn take(&mut self, position: usize, logits: &[f32], ends: &[u32], context: usize) -> bool {
        let prompt = self.request.prompt.len();
        if let Some(top) = self.request.prompt_logprobs.filter(|_| !self.read) {
            if self.prompt_logprobs.is_empty() {
                self.prompt_logprobs.push(TokenLogprob { id: self.tokens[0], logprob: None, top: Vec::new() });
            }
            if let Some(&next) = self.tokens.get(position + 1) {
                self.prompt_logprobs.push(logprob(logits, next, top));
            }
        }
        if position + 1 < self.tokens.len() {
            return true;
        }
        if !self.read {
            self.read = true;
            let logprobs = std::mem::take(&mut self.prompt_logprobs);
            (self.sink)(Event::Read { cached: self.cached, logprobs, hidden: Vec::new() });
        }
        if self.request.max_tokens == 0 {
            return self.done(Finish::MaxTokens);
        }
        let id = match choose(&mut self.sampler, &mut self.request.constraint, logits) {
            Ok(id) => id,
            Err(error) => return self.fail(&Arc::new(error)),
        };
        let constraint = self.request.constraint.as_mut();
        if ends.contains(&id) && (!self.request.ignore_eos || constraint.is_some()) {
            return self.done(Finish::EndOfTurn);
        }
        let complete = match constraint.map(|constraint| constraint.take(id)).transpose() {
            Ok(complete) => complete.unwrap_or(false),
            Err(error) => return self.fail(&Arc::new(error)),
        };
        let mut text = String::new();
        let piece = self.stream.push(id);
        let stopped = self.stops.push(&piece, &mut text);
        self.tokens.push(id);
        let logprob = self.request.logprobs.map(|top| logprob(logits, id, top));
        (self.sink)(Event::Token { id, text, logprob });
        if stopped {
            return self.done(Finish::StopString);
        }
        if complete {
            return self.done(Finish::EndOfTurn);
        }
        if self.tokens.len() - prompt >= self.request.max_tokens {
            return self.done(Finish::MaxTokens);
        }
        if self.tokens.len() > context {
            return self.done(Finish::ContextFull);
        }
        true
    }

    /// Whether all tokens of the prompt must go through the decoder, cached or not.
    pub(super) fn reads_all(&self) -> bool {
        self.request.embed || self.request.prompt_logprobs.is_some()
    }

    /// Takes the hidden states of a piece of the prompt, which are `rows` of the last pass; whether the request goes on.
    pub(super) fn pool(&mut self, engine: &mut Engine<Cpu>, rows: Range<usize>) -> Result<bool> {
        engine.add_hidden(rows, &mut self.hidden)?;
        if !self.unread().is_empty() {
            return Ok(true);
        }
        let tokens = self.tokens.len() as f64;
        let hidden = self.hidden.iter().map(|sum| (sum / tokens) as f32).collect();
        self.read = true;
        (self.sink)(Event::Read { cached: 0, logprobs: Vec::new(), hidden });
        Ok(self.done(Finish::MaxTokens))
    }

    /// Says that it has ended.
    pub(super) fn done(&mut self, mut finish: Finish) -> bool {
        let mut text = String::new();
        if finish != Finish::StopString {
            let rest = self.stream.finish();
            if self.stops.push(&rest, &mut text) {
                finish = Finish::StopString;
            } else {
                text += &self.stops.finish();
            }
        }
        (self.sink)(Event::Done { text, finish });
        false
    }

    /// Says that there is no result.
    pub(super) fn fail(&mut self, error: &Arc<Error>) -> bool {
        (self.sink)(Event::Failed(Arc::clone(error)));
        false
    }

    /// Tokens of the prompt, and those of them that were cached.
    pub(super) fn shared(&self) -> (usize, usize) {
        (self.request.prompt.len(), self.cached)
    }
}

/// A token's log-probability among all.
fn logprob(logits: &[f32], id: u32, top: usize) -> TokenLogprob {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - max).exp()).sum();
    let log = |logit: f32| (f64::from(logit - max) - sum.ln()) as f32;
    let mut best: Vec<u32> = Vec::new();
    if top > 0 {
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let descending = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
        let top = top.min(order.len());
        if top < order.len() {
            order.select_nth_unstable_by(top, descending);
        }
        order.truncate(top);
        order.sort_unstable_by(descending);
        best = order;
    }
    let top = best.into_iter().map(|id| (id, log(logits[id as usize]))).collect();
    TokenLogprob { id, logprob: logits.get(id as usize).map(|logit| log(*logit)), top }
}
