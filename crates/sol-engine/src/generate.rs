//! The loop that answers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::constraint::Constraint;
use crate::engine::Work;
use crate::load::LanguageModel;
use crate::sampling::{Sampler, Sampling};
use crate::speculate::Ask;
use crate::stop::StopStrings;
use crate::{Error, Result};

/// A flag that stops what is running; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Asks to stop.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Forgets the request; says whether there was one.
    pub fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }

    /// Whether to stop.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// How to answer.
#[derive(Clone, Debug, Default)]
pub struct Generation {
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// Most new tokens; `None`: 512, as the model card's example, and an end of the context before that is no error.
    pub max_tokens: Option<usize>,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// The form that the answer must have; where its text is complete, it ends.
    pub constraint: Option<Constraint>,
    /// Go on after end-of-turn tokens, but not behind the end that a constraint has.
    pub ignore_eos: bool,
    /// When the context is full, forget the older half of it and go on; a prompt too long for it loses its beginning.
    pub shift: bool,
    /// Stops the answer from another thread.
    pub interrupt: Interrupt,
}

/// New tokens where nobody says how many.
const DEFAULT_MAX_TOKENS: usize = 512;

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended its turn, or its text is all that a constraint allows.
    EndOfTurn,
    /// A stop string came.
    StopString,
    /// `max_tokens` were made.
    MaxTokens,
    /// The context is full.
    ContextFull,
    /// Somebody interrupted it.
    Interrupted,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Tokens made, without the one that ended the turn.
    pub ids: Vec<u32>,
    /// Their text; empty for a model without tokenizer.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of the prompt, less those that were shifted out of it.
    pub prompt_tokens: usize,
    /// How many of them were still cached from before.
    pub cached_tokens: usize,
    /// Tokens that were guessed ahead (see [`LanguageModel::speculate`]), and those of them that came true.
    pub guessed: [usize; 2],
    /// Time until the first token was known.
    pub prefill: Duration,
    /// Time for all others.
    pub decode: Duration,
}

impl LanguageModel {
    /// Answers a prompt of token ids; `show` gets the text as it comes, in whole characters. What the prompt has in common
    /// with the one before is not computed again.
    pub fn generate(&mut self, prompt: &[u32], options: &Generation, show: &mut dyn FnMut(&str)) -> Result<Answer> {
        let context = self.engine.context();
        let vocab = self.engine.model().spec().vocab;
        self.engine.model().checkpoint().unchanged()?;
        let mut sampler = Sampler::new(options.sampling.clone(), vocab, prompt)?;
        let mut constraint = options.constraint.clone();
        let max_tokens = plan(prompt.len(), context, options)?;
        let shifted;
        let prompt = if prompt.len() > context {
            shifted = shifted_prompt(prompt, context);
            &shifted
        } else {
            prompt
        };

        let start = Instant::now();
        let common = prompt.iter().zip(self.sequence.tokens()).take_while(|(a, b)| a == b).count();
        // The last token's logits are needed again.
        let cached = common.min(prompt.len() - 1);
        self.engine.truncate(&mut self.sequence, cached);
        let stop = || options.interrupt.is_set();
        let mut answer = Answer {
            ids: Vec::new(),
            text: String::new(),
            finish: Finish::MaxTokens,
            prompt_tokens: prompt.len(),
            cached_tokens: cached,
            guessed: [0, 0],
            prefill: Duration::ZERO,
            decode: Duration::ZERO,
        };
        let mut next = match self.engine.extend(&mut self.sequence, &prompt[cached..], &stop) {
            Ok(logits) => choose(&mut sampler, &mut constraint, logits)?,
            Err(Error::Interrupted) => {
                answer.finish = Finish::Interrupted;
                answer.prefill = start.elapsed();
                return Ok(answer);
            }
            Err(e) => return Err(e),
        };
        answer.prefill = start.elapsed();

        let start = Instant::now();
        let mut stream = self.text.tokenizer.as_ref().map(|t| t.stream(true));
        if constraint.is_some() {
            // It counts every byte.
            stream = stream.map(sol_text::TokenStream::continuing);
        }
        let mut stops = StopStrings::new(&options.stop);
        let mut visible = String::new();
        self.track.restart();
        // Tokens that are known already, because guesses came true.
        let mut known = VecDeque::new();
        loop {
            if self.end_of_turn.contains(&next) && (!options.ignore_eos || constraint.is_some()) {
                answer.finish = Finish::EndOfTurn;
                break;
            }
            answer.ids.push(next);
            let complete = constraint.as_mut().map(|constraint| constraint.take(next)).transpose()?;
            let text = stream.as_mut().map(|s| s.push(next)).unwrap_or_default();
            let stopped = stops.push(&text, &mut visible);
            answer.text.push_str(&visible);
            if !visible.is_empty() {
                show(&visible);
            }
            if stopped {
                answer.finish = Finish::StopString;
                break;
            }
            if complete == Some(true) {
                answer.finish = Finish::EndOfTurn;
                break;
            }
            if stop() {
                answer.finish = Finish::Interrupted;
                break;
            }
            if answer.ids.len() >= max_tokens {
                break;
            }
            if let Some(token) = known.pop_front() {
                next = token;
                continue;
            }
            if self.sequence.tokens().len() >= context {
                if !options.shift {
                    answer.finish = Finish::ContextFull;
                    break;
                }
                match self.shift(&stop) {
                    Err(Error::Interrupted) => {
                        answer.finish = Finish::Interrupted;
                        break;
                    }
                    shifted => shifted?,
                }
            }
            // Behind guesses are tokens that a constraint does not know yet.
            if constraint.is_some() {
                let logits = self.engine.extend(&mut self.sequence, &[next], &|| false)?;
                known.push_back(choose(&mut sampler, &mut constraint, logits)?);
            } else {
                known = self.confirm(next, max_tokens - answer.ids.len(), &mut sampler, &stop)?;
            }
            next = known.pop_front().unwrap_or_default();
        }
        answer.guessed = [self.track.guessed, self.track.accepted];
        if answer.finish != Finish::StopString {
            let mut rest = String::new();
            let ended = stream.as_mut().map(|s| s.finish()).unwrap_or_default();
            if stops.push(&ended, &mut rest) {
                answer.finish = Finish::StopString;
            }
            rest.push_str(&stops.finish());
            answer.text.push_str(&rest);
            if !rest.is_empty() {
                show(&rest);
            }
        }
        answer.decode = start.elapsed();
        Ok(answer)
    }

    /// Reads a token and what is guessed to follow it, and gives the tokens that follow: the guesses that came true, and one more.
    fn confirm(&mut self, next: u32, most: usize, sampler: &mut Sampler, stop: &dyn Fn() -> bool) -> Result<VecDeque<u32>> {
        let start = self.sequence.tokens().len();
        let mut piece = vec![next];
        if let Some(drafter) = &mut self.drafter {
            let tokens = [self.sequence.tokens(), &piece].concat();
            let most = most.saturating_sub(1).min(self.engine.context() - tokens.len());
            let asks = &mut [Ask { tokens: &tokens, most, track: &mut self.track }];
            piece.extend(drafter.guess(asks, usize::MAX, stop).pop().unwrap_or_default());
        }
        if piece.len() == 1 {
            return Ok([sampler.sample(self.engine.extend(&mut self.sequence, &piece, &|| false)?)].into());
        }
        let outputs: Vec<usize> = (0..piece.len()).collect();
        let work = &mut [Work { sequence: &mut self.sequence, tokens: &piece, outputs: &outputs }];
        let mut found = VecDeque::new();
        self.engine.advance(work, &|| false, |_, at, logits| {
            if found.iter().eq(&piece[1..=at]) {
                found.push_back(sampler.sample(logits));
            }
        })?;
        self.engine.truncate(&mut self.sequence, start + found.len());
        self.track.learn(piece.len() - 1, found.len() - 1);
        Ok(found)
    }

    /// Forgets the older half of the context but its first token (`<s>` anchors attention), and reads the rest again.
    fn shift(&mut self, stop: &dyn Fn() -> bool) -> Result<()> {
        let tokens = self.sequence.tokens().to_vec();
        let (first, later) = kept_by_shift(tokens.len());
        self.engine.truncate(&mut self.sequence, first);
        let later = &tokens[tokens.len() - later..];
        if later.is_empty() { Ok(()) } else { self.engine.extend(&mut self.sequence, later, stop).map(|_| ()) }
    }
}

/// The next token, one that the constraint allows.
pub(crate) fn choose(sampler: &mut Sampler, constraint: &mut Option<Constraint>, logits: &[f32]) -> Result<u32> {
    let allowed = constraint.as_mut().map(Constraint::allowed).transpose()?;
    Ok(sampler.sample_among(logits, allowed.as_ref()))
}

/// How many tokens may be made, if the prompt fits at all.
fn plan(prompt: usize, context: usize, options: &Generation) -> Result<usize> {
    let max_tokens = options.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS);
    if prompt == 0 {
        return Err(Error::EmptyPrompt);
    }
    if max_tokens == 0 {
        return Err(Error::BadOption { option: "--max-tokens", value: "0".into(), problem: "must be at least 1" });
    }
    // The last token made need not be cached. Without a wish, an answer ends where the context does.
    let least = options.max_tokens.unwrap_or(1);
    let needed = prompt.saturating_add(least);
    if options.shift || needed <= context + 1 {
        return Ok(max_tokens);
    }
    let hint = "shorten the prompt, lower --max-tokens, raise --ctx if the model allows, or use --shift to forget the beginning";
    Err(Error::ContextOverflow { needed, prompt, max_tokens: least, context, hint })
}

/// How many of the first and of the last tokens of a full context are kept: `<s>` anchors attention.
fn kept_by_shift(context: usize) -> (usize, usize) {
    let first = usize::from(context > 1);
    (first, (context - first) / 2)
}

/// What is left of a prompt that is longer than the context, as if it had been shifted while it was read.
fn shifted_prompt(prompt: &[u32], context: usize) -> Vec<u32> {
    let (first, later) = kept_by_shift(context);
    let step = context - first - later;
    let forgotten = (prompt.len() - context).div_ceil(step) * step;
    [&prompt[..first], &prompt[first + forgotten..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_prompt_is_shifted_like_a_long_answer() {
        for context in 1..12 {
            for len in context + 1..60 {
                // One token after the other, as in the loop that answers.
                let mut plain: Vec<u32> = Vec::new();
                for token in 0..len as u32 {
                    if plain.len() == context {
                        let (first, later) = kept_by_shift(context);
                        plain.drain(first..context - later);
                    }
                    plain.push(token);
                }
                let prompt: Vec<u32> = (0..len as u32).collect();
                assert_eq!(shifted_prompt(&prompt, context), plain, "{len} tokens in {context}");
            }
        }
    }

    #[test]
    fn a_plan_needs_room_for_what_was_asked_for() {
        let options = |max_tokens, shift| Generation { max_tokens, shift, ..Generation::default() };
        assert_eq!(plan(10, 16, &options(None, false)).unwrap(), DEFAULT_MAX_TOKENS);
        assert_eq!(plan(10, 16, &options(Some(7), false)).unwrap(), 7);
        assert_eq!(plan(16, 16, &options(None, false)).unwrap(), DEFAULT_MAX_TOKENS);
        assert!(plan(10, 16, &options(Some(8), false)).is_err());
        assert!(plan(17, 16, &options(None, false)).is_err());
        assert!(plan(10, 16, &options(Some(usize::MAX), false)).is_err());
        assert!(plan(10, 16, &options(Some(0), true)).is_err());
        assert_eq!(plan(99, 16, &options(Some(8), true)).unwrap(), 8);
    }
}
