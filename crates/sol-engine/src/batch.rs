//! Many prompts answered together: they join and leave between passes, prompts are read in the passes that decode the others,
//! and what a prompt shares with one that was read before it is not computed again.

use sol_model::BLOCK_LEN;
use sol_text::TokenStream;

use crate::engine::{Sequence, Work};
use crate::generate::Finish;
use crate::load::LanguageModel;
use crate::sampling::{Sampler, Sampling};
use crate::stop::StopStrings;
use crate::{Error, Result};

/// A prompt of many.
#[derive(Clone, Debug, Default)]
pub struct Prompt {
    /// Its token ids; at least one.
    pub tokens: Vec<u32>,
    /// How the answer's tokens are chosen.
    pub sampling: Sampling,
    /// Most new tokens; an end of the context before that is no error.
    pub max_tokens: usize,
    /// Texts that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// Whether special tokens (but the one that ends the turn) are part of the text.
    pub keep_special: bool,
}

/// An answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// Tokens made, without the one that ended the turn.
    pub ids: Vec<u32>,
    /// Their text.
    pub text: String,
    /// Why it ended.
    pub finish: Finish,
}

/// What answering took, in tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// That went through the decoder, of prompts and of answers.
    pub computed: u64,
    /// That would have if no prompt had shared anything.
    pub naive: u64,
    /// Made.
    pub generated: u64,
}

/// A prompt that is being read or answered.
struct Slot<'a> {
    index: usize,
    prompt: &'a Prompt,
    sequence: Sequence,
    sampler: Sampler,
    stream: TokenStream,
    stops: StopStrings,
    reply: Reply,
    /// The token to be read next, once the prompt is read.
    next: Option<u32>,
}

impl Slot<'_> {
    /// Tokens of the prompt that are still to be read.
    fn unread(&self) -> &[u32] {
        &self.prompt.tokens[self.sequence.tokens().len().min(self.prompt.tokens.len())..]
    }

    /// Takes a token; whether the answer goes on.
    fn push(&mut self, token: u32, ends: &[u32], context: usize) -> bool {
        if ends.contains(&token) {
            self.reply.finish = Finish::EndOfTurn;
            return false;
        }
        self.reply.ids.push(token);
        let text = self.stream.push(token);
        self.show(&text);
        self.next = Some(token);
        if self.reply.finish == Finish::StopString || self.reply.ids.len() >= self.prompt.max_tokens {
            return false;
        }
        if self.sequence.tokens().len() >= context {
            self.reply.finish = Finish::ContextFull;
            return false;
        }
        true
    }

    fn show(&mut self, text: &str) {
        let mut visible = String::new();
        if self.stops.push(text, &mut visible) {
            self.reply.finish = Finish::StopString;
        }
        self.reply.text.push_str(&visible);
    }

    /// The answer, with what was held back, and the sequence.
    fn finish(mut self) -> (usize, Reply, Sequence) {
        if self.reply.finish != Finish::StopString {
            let rest = self.stream.finish();
            self.show(&rest);
        }
        if self.reply.finish != Finish::StopString {
            self.reply.text.push_str(&self.stops.finish());
        }
        (self.index, self.reply, self.sequence)
    }
}

/// How many tokens of `prompt`, in whole blocks and without its last, `read` begins with.
fn shared(prompt: &[u32], read: &[u32]) -> usize {
    let common = prompt.iter().zip(read).take_while(|(a, b)| a == b).count();
    common.min(prompt.len().saturating_sub(1)) / BLOCK_LEN * BLOCK_LEN
}

impl LanguageModel {
    /// Answers prompts, as many together as the engine has sequences; `each(index, reply)` is called as soon as one is known,
    /// not in their order. An answer is the same alone and among others. Prompts are begun in the order given: put those that
    /// share a beginning one after another. When `stop` turns true, the answers that are known have been given, and the error
    /// is [`Error::Interrupted`].
    pub fn generate_many(
        &mut self,
        prompts: &[Prompt],
        stop: &dyn Fn() -> bool,
        each: &mut dyn FnMut(usize, Reply),
    ) -> Result<Tally> {
        self.engine().model().checkpoint().unchanged()?;
        let mut tally = Tally::default();
        // The whole blocks of the prompt that was read last.
        let mut donor = Sequence::default();
        let mut slots = Vec::new();
        let result = self.answer_all(prompts, stop, each, &mut slots, &mut donor, &mut tally);
        slots.into_iter().for_each(|slot: Slot<'_>| self.engine.release(slot.sequence));
        self.engine.release(donor);
        result.map(|()| tally)
    }

    fn answer_all<'a>(
        &mut self,
        prompts: &'a [Prompt],
        stop: &dyn Fn() -> bool,
        each: &mut dyn FnMut(usize, Reply),
        slots: &mut Vec<Slot<'a>>,
        donor: &mut Sequence,
        tally: &mut Tally,
    ) -> Result<()> {
        let mut waiting = prompts.iter().enumerate().peekable();
        loop {
            while slots.len() < self.engine.sequences()
                && let Some((index, prompt)) = waiting.peek().copied()
            {
                // What somebody is reading just now is not read twice.
                let best = shared(&prompt.tokens, donor.tokens());
                let reading = slots.iter().filter(|slot| slot.next.is_none());
                if reading.map(|slot| shared(&prompt.tokens, &slot.prompt.tokens)).any(|len| len > best) {
                    break;
                }
                waiting.next();
                if prompt.max_tokens == 0 {
                    each(index, Reply { ids: Vec::new(), text: String::new(), finish: Finish::MaxTokens });
                    continue;
                }
                slots.push(self.begin(index, prompt, donor, best)?);
                tally.naive += prompt.tokens.len() as u64;
            }
            if slots.is_empty() {
                return Ok(());
            }
            if stop() {
                return Err(Error::Interrupted);
            }
            let tokens = self.pass(slots, donor, stop)?;
            tally.computed += tokens.read;
            let context = self.engine.context();
            for (i, token) in tokens.new.into_iter().rev() {
                tally.generated += 1;
                let decoding = slots[i].next.is_some();
                tally.naive += u64::from(decoding);
                if !decoding {
                    let read = self.engine.fork(&slots[i].sequence, slots[i].prompt.tokens.len());
                    self.engine.release(std::mem::replace(donor, read));
                }
                if !slots[i].push(token, &self.end_of_turn, context) {
                    let (index, reply, sequence) = slots.remove(i).finish();
                    self.engine.release(sequence);
                    each(index, reply);
                }
            }
        }
    }

    fn begin<'a>(&mut self, index: usize, prompt: &'a Prompt, donor: &Sequence, shared: usize) -> Result<Slot<'a>> {
        if prompt.tokens.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        self.engine.check(&Sequence::default(), &prompt.tokens)?;
        let sampler = Sampler::new(prompt.sampling.clone(), self.spec().vocab, &prompt.tokens)?;
        Ok(Slot {
            index,
            prompt,
            sampler,
            stream: self.tokenizer()?.stream(!prompt.keep_special),
            stops: StopStrings::new(&prompt.stop),
            reply: Reply { ids: Vec::new(), text: String::new(), finish: Finish::MaxTokens },
            next: None,
            sequence: self.engine.fork(donor, shared),
        })
    }

    /// One pass: a token of each that is being answered, and as much of the prompts as fits beside them.
    fn pass(&mut self, slots: &mut [Slot<'_>], donor: &mut Sequence, stop: &dyn Fn() -> bool) -> Result<Passed> {
        let mut room = self.engine.pass_rows() - slots.iter().filter(|slot| slot.next.is_some()).count();
        let mut pieces: Vec<(usize, Vec<u32>, Vec<usize>)> = Vec::with_capacity(slots.len());
        for (i, slot) in slots.iter().enumerate() {
            if let Some(token) = slot.next {
                pieces.push((i, vec![token], vec![0]));
                continue;
            }
            let unread = slot.unread();
            let piece = &unread[..unread.len().min(room)];
            room -= piece.len();
            if !piece.is_empty() {
                let outputs = if piece.len() == unread.len() { vec![piece.len() - 1] } else { Vec::new() };
                pieces.push((i, piece.to_vec(), outputs));
            }
        }
        let read = pieces.iter().map(|(_, tokens, _)| tokens.len() as u64).sum();
        let more = |(i, tokens, _): &(usize, Vec<u32>, Vec<usize>)| self.engine.blocks_for(&slots[*i].sequence, tokens.len());
        if pieces.iter().map(more).sum::<usize>() > self.engine.blocks.free() {
            self.engine.release(std::mem::take(donor));
        }
        let mut samplers = Vec::with_capacity(pieces.len());
        let mut work = Vec::with_capacity(pieces.len());
        let mut places = Vec::with_capacity(pieces.len());
        let mut rest = &mut *slots;
        let mut first = 0;
        for (i, tokens, outputs) in &pieces {
            let (slot, after) = rest[i - first..].split_first_mut().expect("pieces are of slots, in their order");
            work.push(Work { sequence: &mut slot.sequence, tokens, outputs });
            samplers.push(&mut slot.sampler);
            places.push(*i);
            (rest, first) = (after, i + 1);
        }
        let mut new = Vec::new();
        self.engine.advance(&mut work, stop, |i, _, logits| new.push((places[i], samplers[i].sample(logits))))?;
        Ok(Passed { read, new })
    }
}

/// What a pass gave.
struct Passed {
    /// Tokens that were read.
    read: u64,
    /// New tokens and their slots, by slot.
    new: Vec<(usize, u32)>,
}
