//! Tokens guessed ahead, so that one pass of the decoder, which reads the weights once, can confirm several of them.
//!
//! Guesses come from the text so far (what followed the same words before) or from a smaller model. They never change an answer:
//! after every token the model itself chooses the next one, with the request's own random numbers, as it would without guesses; a
//! guess only decides whether the logits after that are there already. Leviathan et al. (2023, arXiv 2211.17192) reject guesses so
//! that the distribution stays; choosing by the model keeps the very tokens, those of a seed too.

use std::path::Path;

use sol_cpu::Cpu;
use sol_text::Tokenizer;

use crate::engine::{Engine, Sequence, Work};
use crate::load::LanguageModel;
use crate::sampling::argmax;
use crate::{Error, Result};

/// Where guesses come from.
pub enum Guesses {
    /// The prompt and the answer so far: good where an answer repeats its prompt, as in editing, and free.
    Lookup,
    /// A smaller model of the same vocabulary.
    Model(Box<LanguageModel>),
}

/// How to guess.
pub struct Speculation {
    /// From where.
    pub guesses: Guesses,
    /// Most tokens guessed ahead; fewer where guesses turned out wrong.
    pub tokens: usize,
}

/// Tokens that must be the same before what follows them is a guess, and so many that more tell nothing.
const LEAST_MATCH: usize = 2;
const MATCH: usize = 6;
/// Most passes without guesses after wrong ones.
const LONGEST_PAUSE: usize = 32;

/// What is known of one answer's guesses.
#[derive(Debug)]
pub(crate) struct Track {
    /// What the draft model has read.
    sequence: Sequence,
    /// Tokens to guess next time.
    length: usize,
    /// Passes without guesses: the next pause, and what is left of this one.
    pause: [usize; 2],
    pub(crate) guessed: usize,
    pub(crate) accepted: usize,
}

impl Default for Track {
    fn default() -> Self {
        Self { sequence: Sequence::default(), length: usize::MAX, pause: [0, 0], guessed: 0, accepted: 0 }
    }
}

impl Track {
    /// How many of the guesses came true.
    pub(crate) fn learn(&mut self, guessed: usize, accepted: usize) {
        if guessed == 0 {
            return;
        }
        self.guessed += guessed;
        self.accepted += accepted;
        self.length = if accepted == guessed { guessed.saturating_mul(2) } else { accepted + 1 };
        let next = if accepted == 0 { (2 * self.pause[0]).clamp(1, LONGEST_PAUSE) } else { 0 };
        self.pause = [next, next];
    }

    /// Another answer begins.
    pub(crate) fn restart(&mut self) {
        *self = Self { sequence: std::mem::take(&mut self.sequence), ..Self::default() };
    }
}

/// An answer to be guessed on.
pub(crate) struct Ask<'a> {
    /// Prompt and answer.
    pub(crate) tokens: &'a [u32],
    /// Most guesses.
    pub(crate) most: usize,
    pub(crate) track: &'a mut Track,
}

/// Guesses for a model.
pub(crate) struct Drafter {
    /// `None`: from the text.
    engine: Option<Engine<Cpu>>,
    most: usize,
    vocab: usize,
}

impl LanguageModel {
    /// Guesses tokens ahead from now on. Answers are the same, and come sooner where guesses come true.
    pub fn speculate(&mut self, speculation: Speculation) -> Result<()> {
        if speculation.tokens == 0 {
            return Err(Error::BadOption { option: "--draft-tokens", value: "0".into(), problem: "must be at least 1" });
        }
        let engine = match speculation.guesses {
            Guesses::Lookup => None,
            Guesses::Model(draft) => {
                same_vocabulary(self.tokenizer()?, draft.tokenizer()?, &draft.text.path)?;
                Some(draft.engine)
            }
        };
        // A pass has the logits of all that is guessed.
        self.engine.widen();
        let most = speculation.tokens.min(self.engine.pass_outputs().min(self.engine.pass_rows()) - 1);
        self.drafter = (most > 0).then(|| Drafter { engine, most, vocab: self.spec().vocab });
        Ok(())
    }
}

/// Refuses a draft, that at `path`, whose token ids mean something else than the model's.
pub fn same_vocabulary(target: &Tokenizer, draft: &Tokenizer, path: &Path) -> Result<()> {
    let sizes = [target.vocab_size(), draft.vocab_size()];
    let differs = (0..sizes[0].min(sizes[1]) as u32).find(|id| target.token(*id) != draft.token(*id));
    match differs {
        None if sizes[0] == sizes[1] => Ok(()),
        id => {
            let name = |tokenizer: &Tokenizer| id.and_then(|id| tokenizer.token(id)).unwrap_or_default().to_owned();
            Err(Error::DraftVocabulary { path: path.to_owned(), sizes, differs: id.map(|id| (id, name(target), name(draft))) })
        }
    }
}

impl Drafter {
    /// Guesses for each; none where there is no ground for any. A draft model reads at most `catch_up` tokens of each first, and
    /// does not guess before it has read all. One that fails is not asked again.
    pub(crate) fn guess(&mut self, asks: &mut [Ask<'_>], catch_up: usize, stop: &dyn Fn() -> bool) -> Vec<Vec<u32>> {
        for ask in asks.iter_mut() {
            ask.most = ask.most.min(self.most).min(ask.track.length);
            if ask.track.pause[1] > 0 {
                ask.track.pause[1] -= 1;
                ask.most = 0;
            }
        }
        let mut guesses = vec![Vec::new(); asks.len()];
        match &mut self.engine {
            None => {
                for (ask, guesses) in asks.iter().zip(&mut guesses) {
                    *guesses = looked_up(ask.tokens, ask.most);
                }
            }
            Some(engine) => {
                let vocab = self.vocab;
                match drafted(engine, asks, catch_up, stop, &mut guesses) {
                    Ok(()) => {}
                    Err(Error::Interrupted) => guesses.iter_mut().for_each(Vec::clear),
                    Err(error) => {
                        tracing::warn!("the draft model failed and is not asked again: {error}");
                        self.engine = None;
                        self.most = 0;
                        guesses.iter_mut().for_each(Vec::clear);
                    }
                }
                for guesses in &mut guesses {
                    let known = guesses.iter().take_while(|id| (**id as usize) < vocab).count();
                    guesses.truncate(known);
                }
            }
        }
        guesses
    }

    /// Forgets an answer.
    pub(crate) fn release(&mut self, track: &mut Track) {
        let sequence = std::mem::take(&mut track.sequence);
        if let Some(engine) = &mut self.engine {
            engine.release(sequence);
        }
    }
}

/// What followed where the text had the same last tokens before: where most of them were, and there the latest.
fn looked_up(tokens: &[u32], most: usize) -> Vec<u32> {
    let (mut best, mut at) = (LEAST_MATCH - 1, 0);
    for end in (1..tokens.len()).rev() {
        let same = tokens[..end].iter().rev().zip(tokens.iter().rev()).take(MATCH).take_while(|(a, b)| a == b).count();
        if same > best {
            (best, at) = (same, end);
        }
        if same == MATCH {
            break;
        }
    }
    let mut guesses: Vec<u32> = Vec::new();
    // What repeats goes on repeating.
    while best >= LEAST_MATCH && guesses.len() < most {
        let next = at + guesses.len();
        guesses.push(*tokens.get(next).unwrap_or_else(|| &guesses[next - tokens.len()]));
    }
    guesses
}

/// The likeliest tokens by the draft model.
fn drafted(
    engine: &mut Engine<Cpu>,
    asks: &mut [Ask<'_>],
    catch_up: usize,
    stop: &dyn Fn() -> bool,
    guesses: &mut [Vec<u32>],
) -> Result<()> {
    let mut left = catch_up;
    for (ask, guesses) in asks.iter_mut().zip(&mut *guesses) {
        let sequence = &mut ask.track.sequence;
        let fits = ask.tokens.len() + ask.most <= engine.context();
        if ask.most == 0 || !fits {
            continue;
        }
        // The last token's logits are needed.
        let read = ask.tokens.iter().zip(sequence.tokens()).take_while(|(a, b)| a == b).count().min(ask.tokens.len() - 1);
        // A model that is padded to more tokens than its draft has can say one that the draft can not read.
        if ask.tokens[read..].iter().any(|id| *id as usize >= engine.model().spec().vocab) {
            continue;
        }
        engine.truncate(sequence, read);
        let mut unread = &ask.tokens[sequence.tokens().len()..];
        if engine.blocks_for(sequence, unread.len() + ask.most) > engine.blocks.free() {
            // Others have the cache.
            engine.release(std::mem::take(sequence));
            continue;
        }
        while !unread.is_empty() && left > 0 {
            let len = unread.len().min(left).min(engine.pass_rows());
            let outputs: &[usize] = if len == unread.len() { &[len - 1] } else { &[] };
            let work = &mut [Work { sequence, tokens: &unread[..len], outputs }];
            engine.advance(work, stop, |_, _, logits| guesses.push(argmax(logits)))?;
            (unread, left) = (&unread[len..], left - len);
        }
    }
    loop {
        let (mut work, mut places) = (Vec::new(), Vec::new());
        let rows = engine.sequences();
        let spare = engine.blocks.free();
        for (i, (ask, guesses)) in asks.iter_mut().zip(&*guesses).enumerate() {
            // Each can need a block, if it gets one at all.
            if (1..ask.most).contains(&guesses.len()) && work.len() < rows.min(spare) {
                work.push(Work { sequence: &mut ask.track.sequence, tokens: &guesses[guesses.len() - 1..], outputs: &[0] });
                places.push(i);
            }
        }
        if work.is_empty() {
            return Ok(());
        }
        let mut new = Vec::new();
        engine.advance(&mut work, stop, |i, _, logits| new.push((places[i], argmax(logits))))?;
        drop(work);
        new.into_iter().for_each(|(i, id)| guesses[i].push(id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_followed_the_same_words_is_guessed() {
        assert_eq!(looked_up(&[1, 2, 3, 4, 5, 9, 2, 3], 3), [4, 5, 9]);
        // More of the same words count more than a later place; one word is no ground.
        assert_eq!(looked_up(&[1, 2, 3, 4, 7, 2, 3, 5, 1, 2, 3], 2), [4, 7]);
        assert_eq!(looked_up(&[1, 2, 3, 4, 7, 2, 3, 5, 2, 3], 2), [5, 2]);
        assert!(looked_up(&[1, 2, 3, 1], 3).is_empty() && looked_up(&[], 3).is_empty() && looked_up(&[7], 3).is_empty());
        assert_eq!(looked_up(&[8, 6, 6, 6], 4), [6, 6, 6, 6]);
        assert_eq!(looked_up(&[1, 2, 1, 2, 1], 4), [2, 1, 2, 1]);
    }

    #[test]
    fn a_token_that_the_draft_lacks_stops_only_the_guesses_behind_it() {
        let path: std::path::PathBuf =
            [env!("CARGO_MANIFEST_DIR"), "..", "sol-model", "tests", "data", "chat-tiny"].iter().collect();
        let options = crate::Options { sequences: Some(2), ..crate::Options::default() };
        let mut engine = LanguageModel::open(&path, options).unwrap().engine;
        let unknown = engine.model().spec().vocab as u32;
        let mut tracks = [Track::default(), Track::default()];
        let mut ask = |tokens: [&[u32]; 2]| {
            let pairs = tokens.iter().zip(&mut tracks);
            let mut asks: Vec<Ask<'_>> = pairs.map(|(tokens, track)| Ask { tokens, most: 3, track }).collect();
            let mut guesses = vec![Vec::new(); 2];
            drafted(&mut engine, &mut asks, 100, &|| false, &mut guesses).unwrap();
            guesses.iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(ask([&[3, 4, 5], &[3, unknown, 5]]), [3, 0]);
        assert_eq!(ask([&[3, 4, 5, unknown], &[3, 4]]), [0, 3]);
    }

    #[test]
    fn wrong_guesses_become_fewer_and_right_ones_more() {
        let mut track = Track::default();
        track.learn(8, 8);
        assert_eq!((track.length, track.pause), (16, [0, 0]));
        track.learn(8, 3);
        assert_eq!((track.length, track.pause), (4, [0, 0]));
        for pause in [1, 2, 4, 8, 16, 32, 32] {
            track.learn(1, 0);
            assert_eq!((track.length, track.pause), (1, [pause, pause]));
        }
        track.learn(1, 1);
        assert_eq!((track.length, track.pause), (2, [0, 0]));
        assert_eq!((track.guessed, track.accepted), (8 + 8 + 7 + 1, 8 + 3 + 1));
    }
}
