//! What each pass of the decoder consists of.
//!
//! A pass takes one token of every request that is being answered and, in what room is left, pieces of prompts in the order they
//! came. Guesses of what comes next (`speculate`) are read with a request's newest token. While somebody is being answered that room
//! is small (`pace`), so that no stream stalls for others' prompts. A request whose beginning another one is just reading waits
//! for that, and shares it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Instant;

use sol_cpu::Cpu;
use sol_model::BLOCK_LEN;

use super::pace::Pace;
use super::prefix::Prefixes;
use super::slot::Slot;
use super::{Event, Figures, Job};
use crate::engine::{Engine, Sequence, Work};
use crate::error::Error;
use crate::generate::Finish;
use crate::load::LanguageModel;
use crate::sampling::Sampler;
use crate::speculate::Ask;

/// Of the room for prompts, what the first of them may take while others wait behind it, in quarters.
const FIRST_QUARTERS: usize = 3;
/// Guesses of one pass, for all requests together: with more rows the weights are no longer what a pass waits for.
const GUESSED_ROWS: usize = 16;
/// Tokens that a draft model reads before a pass, to be where the answers are.
const CATCH_UP: usize = 128;

pub(super) struct Scheduler {
    model: LanguageModel,
    inbox: Receiver<Job>,
    open: bool,
    waiting: VecDeque<Job>,
    /// In the order in which they came.
    slots: Vec<Slot>,
    prefixes: Prefixes,
    pace: Pace,
    figures: Arc<Figures>,
}

impl Scheduler {
    pub(super) fn new(mut model: LanguageModel, inbox: Receiver<Job>, figures: Arc<Figures>) -> Self {
        model.engine().widen();
        figures.blocks.store(model.engine().blocks.len(), Ordering::Relaxed);
        Self {
            model,
            inbox,
            open: true,
            waiting: VecDeque::new(),
            slots: Vec::new(),
            prefixes: Prefixes::default(),
            pace: Pace::default(),
            figures,
        }
    }

    /// Answers until nobody can ask any more.
    pub(super) fn run(mut self) {
        while self.receive() {
            self.drop_interrupted();
            self.admit();
            if let Err(error) = self.pass() {
                let error = Arc::new(error);
                for mut slot in std::mem::take(&mut self.slots) {
                    slot.fail(&error);
                    self.release(slot);
                }
            }
            self.tell();
        }
    }

    /// Takes what has come; waits where there is nothing to do. Whether there is, or may be, something.
    fn receive(&mut self) -> bool {
        if self.slots.is_empty() && self.waiting.is_empty() {
            if !self.open {
                return false;
            }
            match self.inbox.recv() {
                Ok(job) => self.waiting.push_back(job),
                Err(_) => return false,
            }
        }
        while self.open {
            match self.inbox.try_recv() {
                Ok(job) => self.waiting.push_back(job),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => self.open = false,
            }
        }
        true
    }

    fn drop_interrupted(&mut self) {
        let waiting = &self.figures.waiting;
        self.waiting.retain_mut(|job| {
            let gone = job.request.interrupt.is_set();
            if gone {
                waiting.fetch_sub(1, Ordering::Relaxed);
                (job.sink)(Event::Done { text: String::new(), finish: Finish::Interrupted });
            }
            !gone
        });
        for at in (0..self.slots.len()).rev() {
            if self.slots[at].request.interrupt.is_set() {
                self.slots[at].done(Finish::Interrupted);
                self.end(at);
            }
        }
    }

    /// Gives free places to those who wait.
    fn admit(&mut self) {
        while self.slots.len() < self.model.engine.sequences()
            && let Some(mut job) = self.waiting.pop_front()
        {
            self.figures.waiting.fetch_sub(1, Ordering::Relaxed);
            match self.slot_of(&job) {
                Ok((sampler, stream)) => self.slots.push(Slot::new(job, sampler, stream)),
                Err(error) => (job.sink)(Event::Failed(Arc::new(error))),
            }
            self.figures.running.store(self.slots.len(), Ordering::Relaxed);
        }
    }

    fn slot_of(&self, job: &Job) -> Result<(Sampler, sol_text::TokenStream), Error> {
        let request = &job.request;
        if request.prompt.is_empty() {
            return Err(Error::EmptyPrompt);
        }
        self.model.engine.check(&Sequence::default(), &request.prompt)?;
        let most = self.model.engine.blocks.len() * BLOCK_LEN;
        if request.prompt.len() > most {
            return Err(Error::CacheFull { blocks: most / BLOCK_LEN, tokens: most });
        }
        self.model.engine.model().checkpoint().unchanged()?;
        let sampler = Sampler::new(request.sampling.clone(), self.model.spec().vocab, &request.prompt)?;
        let stream = self.model.tokenizer()?.stream(true);
        // A constraint counts every byte.
        let whole = request.continues || request.constraint.is_some();
        Ok((sampler, if whole { stream.continuing() } else { stream }))
    }

    /// How many tokens each slot has in the next pass.
    fn plan(&mut self) -> Vec<(usize, usize)> {
        let engine = &mut self.model.engine;
        let decoding = self.slots.iter().filter(|slot| slot.decodes()).count();
        let mut room = engine.pass_rows() - decoding;
        let mut outputs = engine.pass_outputs() - decoding;
        if decoding > 0 {
            room = room.min(self.pace.piece(decoding));
        }
        let mut plan: Vec<(usize, usize)> = Vec::new();
        let prompts = self.slots.iter().filter(|slot| !slot.decodes()).count();
        let mut first = prompts > 1;
        for at in 0..self.slots.len() {
            if self.slots[at].decodes() {
                plan.push((at, 1));
                continue;
            }
            if room == 0 || outputs == 0 {
                continue;
            }
            if !self.slots[at].begun {
                let tokens = &self.slots[at].tokens;
                let found = self.prefixes.find(tokens).len() * BLOCK_LEN;
                let reading = self.slots[..at].iter().filter(|other| other.begun);
                let best = reading.map(|other| shared(tokens, &other.tokens)).max().unwrap_or(0);
                let anew = self.slots[at].reads_all();
                if best > found && !anew {
                    continue;
                }
                let sequence = if anew { Sequence::default() } else { cached(&mut self.prefixes, engine, tokens) };
                self.slots[at].begin(sequence);
            }
            let slot = &self.slots[at];
            let mut len = slot.unread().len().min(room);
            if first {
                len = len.min((room * FIRST_QUARTERS).div_ceil(4));
                first = false;
            }
            // Where every token's logits are wanted, fewer fit.
            if slot.outputs(len).len() > outputs {
                len = len.min(outputs);
            }
            outputs -= slot.outputs(len).len().min(outputs);
            room -= len;
            plan.push((at, len));
        }
        plan
    }

    /// One pass.
    fn pass(&mut self) -> Result<(), Error> {
        let mut plan = self.plan();
        self.make_room(&mut plan);
        if plan.is_empty() {
            return Ok(());
        }
        let interrupts: Vec<_> = plan.iter().map(|(at, _)| self.slots[*at].request.interrupt.clone()).collect();
        let all_gone = || interrupts.iter().all(crate::generate::Interrupt::is_set);
        let begun = Instant::now();
        let pieces = self.pieces(&plan, &all_gone);
        let context = self.context();
        let (engine, ends, slots) = (&mut self.model.engine, &self.model.end_of_turn, &mut self.slots);
        let mut taken: Vec<Sequence> = pieces.iter().map(|piece| std::mem::take(&mut slots[piece.at].sequence)).collect();
        let work = pieces.iter().zip(&mut taken);
        let work = work.map(|(piece, sequence)| Work { sequence, tokens: &piece.tokens, outputs: &piece.outputs });
        let (mut goes_on, mut missed) = (vec![true; pieces.len()], vec![false; pieces.len()]);
        let result = engine.advance(&mut work.collect::<Vec<_>>(), &all_gone, |i, token, logits| {
            let piece = &pieces[i];
            if goes_on[i] && !missed[i] {
                let (slot, position) = (&mut slots[piece.at], piece.start + token);
                goes_on[i] = slot.take(position, logits, ends, context);
                // Behind a wrong guess are logits of another text.
                missed[i] = piece.tokens.get(token + 1).is_some_and(|next| slot.tokens.get(position + 1) != Some(next));
            }
        });
        for (piece, sequence) in pieces.iter().zip(taken) {
            slots[piece.at].sequence = sequence;
        }
        match result {
            Err(Error::Interrupted) => return Ok(()),
            result => result?,
        }
        let mut row = 0;
        for (piece, goes_on) in pieces.iter().zip(&mut goes_on) {
            if slots[piece.at].request.embed {
                *goes_on = slots[piece.at].pool(engine, row..row + piece.tokens.len())?;
            }
            row += piece.tokens.len();
        }
        let prompts: usize = pieces.iter().filter(|piece| !piece.decodes).map(|piece| piece.tokens.len()).sum();
        let decoding = pieces.iter().filter(|piece| piece.decodes).count();
        self.pace.learn(begun.elapsed().as_secs_f64(), decoding, prompts);
        self.figures.passes.fetch_add(1, Ordering::Relaxed);
        pieces.iter().for_each(|piece| self.settle(piece));
        for (piece, _) in pieces.iter().zip(&goes_on).rev().filter(|(_, goes_on)| !**goes_on) {
            self.end(piece.at);
        }
        Ok(())
    }

    /// What the slots read in the next pass.
    fn pieces(&mut self, plan: &[(usize, usize)], stop: &dyn Fn() -> bool) -> Vec<Piece> {
        let piece = |(at, len): &(usize, usize)| {
            let slot = &self.slots[*at];
            let start = slot.sequence.tokens.len();
            let tokens = slot.tokens[start..start + len].to_vec();
            Piece { at: *at, start, guessed: 0, decodes: slot.decodes(), tokens, outputs: slot.outputs(*len) }
        };
        let mut pieces: Vec<Piece> = plan.iter().map(piece).collect();
        self.guess(&mut pieces, stop);
        pieces
    }

    /// Puts guesses behind the newest tokens, where there is room for them.
    fn guess(&mut self, pieces: &mut [Piece], stop: &dyn Fn() -> bool) {
        let context = self.context();
        let Some(drafter) = &mut self.model.drafter else { return };
        let engine = &mut self.model.engine;
        let decoding: Vec<usize> = pieces.iter().filter(|piece| piece.decodes).map(|piece| piece.at).collect();
        let rows: usize = pieces.iter().map(|piece| piece.tokens.len()).sum();
        let outputs: usize = pieces.iter().map(|piece| piece.outputs.len()).sum();
        let room = GUESSED_ROWS.min(engine.pass_rows() - rows).min(engine.pass_outputs() - outputs) / decoding.len().max(1);
        if room == 0 {
            return;
        }
        let slots = self.slots.iter_mut().enumerate().filter(|(at, _)| decoding.binary_search(at).is_ok());
        let ask = slots.map(|(_, slot)| {
            let most = room.min(slot.left().saturating_sub(1)).min(context.saturating_sub(slot.tokens.len()));
            Ask { tokens: &slot.tokens, most, track: &mut slot.track }
        });
        let mut asks: Vec<Ask<'_>> = ask.collect();
        let guesses = drafter.guess(&mut asks, CATCH_UP, stop);
        let with =
            |piece: &Piece, guesses: usize| engine.blocks_for(&self.slots[piece.at].sequence, piece.tokens.len() + guesses);
        let answers =
            pieces.iter().filter(|piece| piece.decodes).zip(&guesses).map(|(piece, guesses)| with(piece, guesses.len()));
        let prompts = pieces.iter().filter(|piece| !piece.decodes).map(|piece| with(piece, 0));
        let needed: usize = answers.chain(prompts).sum();
        self.prefixes.give_up(needed, &mut engine.blocks);
        // Nobody gives way for guesses.
        if needed > engine.blocks.free() {
            return;
        }
        for (piece, guesses) in pieces.iter_mut().filter(|piece| piece.decodes).zip(guesses) {
            piece.guessed = guesses.len();
            piece.outputs.extend(1..=guesses.len());
            piece.tokens.extend(guesses);
        }
    }

    /// After a pass: forgets wrong guesses, and keeps whole blocks for those who begin alike.
    fn settle(&mut self, piece: &Piece) {
        let (slot, engine) = (&mut self.slots[piece.at], &mut self.model.engine);
        let (known, read) = (piece.tokens.len() - piece.guessed, &slot.tokens[piece.start..]);
        let new = read.len().saturating_sub(known);
        self.figures.new_tokens.fetch_add(if piece.outputs.is_empty() { 0 } else { new as u64 }, Ordering::Relaxed);
        if piece.guessed > 0 {
            let accepted = read[known..].iter().zip(&piece.tokens[known..]).take_while(|(token, guess)| token == guess).count();
            slot.track.learn(piece.guessed, accepted);
            self.figures.guessed_tokens.fetch_add(piece.guessed as u64, Ordering::Relaxed);
            self.figures.accepted_tokens.fetch_add(accepted as u64, Ordering::Relaxed);
            engine.truncate(&mut slot.sequence, slot.tokens.len() - 1);
        }
        let Sequence { tokens, blocks } = &slot.sequence;
        if tokens.len() / BLOCK_LEN > piece.start / BLOCK_LEN {
            self.prefixes.keep(tokens, blocks, &mut engine.blocks);
        }
    }

    /// Longest sequence.
    fn context(&self) -> usize {
        let engine = &self.model.engine;
        engine.context().min(engine.blocks.len() * BLOCK_LEN)
    }

    /// Finds blocks for what is planned: those of former prompts first, then those of the request that came last, which waits, or
    /// begins again when there is room. The first always goes on: it fits alone.
    fn make_room(&mut self, plan: &mut Vec<(usize, usize)>) {
        loop {
            let engine = &self.model.engine;
            let needed: usize = plan.iter().map(|(at, len)| engine.blocks_for(&self.slots[*at].sequence, *len)).sum();
            self.prefixes.give_up(needed, &mut self.model.engine.blocks);
            if needed <= self.model.engine.blocks.free() {
                return;
            }
            let planned = |at: &usize| plan.iter().any(|(other, _)| other == at);
            let holds = |at: &usize| !self.slots[*at].sequence.blocks.is_empty();
            let Some(last) = (0..self.slots.len()).rev().find(|at| planned(at) || holds(at)) else { return };
            if holds(&last) {
                self.figures.preemptions.fetch_add(1, Ordering::Relaxed);
            }
            plan.retain(|(at, _)| *at != last);
            let sequence = self.slots[last].begin_again();
            self.model.engine.release(sequence);
        }
    }

    /// Gives back what a slot that has ended holds.
    fn release(&mut self, mut slot: Slot) {
        self.model.engine.release(std::mem::take(&mut slot.sequence));
        if let Some(drafter) = &mut self.model.drafter {
            drafter.release(&mut slot.track);
        }
    }

    /// Takes a slot away; the blocks of what it read stay as long as nobody needs them.
    fn end(&mut self, at: usize) {
        let slot = self.slots.remove(at);
        let (prompt, cached) = slot.shared();
        self.figures.prompt_tokens.fetch_add(prompt as u64, Ordering::Relaxed);
        self.figures.cached_tokens.fetch_add(cached as u64, Ordering::Relaxed);
        self.release(slot);
    }

    fn tell(&self) {
        let pool = &self.model.engine.blocks;
        let held = pool.len() - pool.free();
        let running = self.slots.iter().flat_map(|slot| &slot.sequence.blocks).collect::<std::collections::HashSet<_>>().len();
        self.figures.running.store(self.slots.len(), Ordering::Relaxed);
        self.figures.blocks_running.store(running, Ordering::Relaxed);
        self.figures.blocks_kept.store(held.saturating_sub(running), Ordering::Relaxed);
    }
}

/// What a slot reads in a pass.
struct Piece {
    at: usize,
    /// Position of the first token.
    start: usize,
    tokens: Vec<u32>,
    /// How many of the tokens, the last ones, are guesses.
    guessed: usize,
    /// Indices of those after which logits are wanted.
    outputs: Vec<usize>,
    decodes: bool,
}

/// Tokens that two prompts begin with, in whole blocks and without the last of the first: its logits are needed.
fn shared(tokens: &[u32], other: &[u32]) -> usize {
    let common = tokens.iter().zip(other).take_while(|(a, b)| a == b).count();
    common.min(tokens.len() - 1) / BLOCK_LEN * BLOCK_LEN
}

/// A sequence that begins as `tokens` with what is cached of them, without the last.
fn cached(prefixes: &mut Prefixes, engine: &mut Engine<Cpu>, tokens: &[u32]) -> Sequence {
    let blocks = prefixes.find(&tokens[..tokens.len() - 1]);
    engine.blocks.share(&blocks);
    Sequence { tokens: tokens[..blocks.len() * BLOCK_LEN].to_vec(), blocks }
}
