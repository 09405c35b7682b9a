//! Log-likelihoods of many continuations, each token computed once however many requests begin with it.
//!
//! Requests are sorted by their tokens, so those that share a beginning are neighbours, and become the leaves of a tree whose
//! inner tokens are computed with the first leaf that has them. A leaf shares its neighbour's whole blocks and computes the rest,
//! the end of a shared block again. Leaves are packed into passes as full as the engine's buffers allow.

use sol_compute::Backend;
use sol_model::BLOCK_LEN;

use crate::engine::{Engine, Piece, Sequence};
use crate::{Error, Result};

/// What is to be scored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scoring {
    /// A context of at least one token, and a continuation.
    pub tokens: Vec<u32>,
    /// Length of the continuation.
    pub continuation: usize,
}

/// A continuation's score.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    /// Sum of the natural logarithms of its tokens' probabilities.
    pub log_likelihood: f64,
    /// Whether each of its tokens is the likeliest.
    pub greedy: bool,
}

/// Scores requests, call after call: what the first requests of a call share with the last of the one before is still cached.
#[derive(Debug, Default)]
pub struct Scorer {
    alone: bool,
    previous: Sequence,
    computed: u64,
    naive: u64,
}

impl Scorer {
    /// One that computes every input from its first token, to measure what sharing saves. (Continuations of one token that follow the
    /// same input still take one pass.)
    pub fn without_sharing() -> Self {
        Self { alone: true, ..Self::default() }
    }

    /// Tokens that went through the decoder, and those that would have if no two different inputs had shared
    /// anything.
    pub fn tokens(&self) -> (u64, u64) {
        (self.computed, self.naive)
    }

    /// Forgets what it has cached.
    pub fn clear<B: Backend>(&mut self, engine: &mut Engine<B>) {
        engine.release(std::mem::take(&mut self.previous));
    }

    /// Scores requests; `each(index, score)` is called as soon as one is known, not in their order. A score has the same bits
    /// whatever else is scored. When `stop` turns true, scores that are known have been given, and the error is
    /// [`Error::Interrupted`].
    pub fn score<B: Backend>(
        &mut self,
        engine: &mut Engine<B>,
        requests: &[Scoring],
        stop: &dyn Fn() -> bool,
        each: &mut dyn FnMut(usize, Score),
    ) -> Result<()> {
        for request in requests {
            if request.tokens.len() <= request.continuation {
                return Err(Error::EmptyPrompt);
            }
            engine.check(&Sequence::default(), input(request))?;
            engine.check(&Sequence::default(), &request.tokens[request.tokens.len() - 1..])?;
        }
        engine.model().checkpoint().unchanged()?;
        engine.widen();
        let leaves = plan(requests, self.previous.tokens(), self.alone);
        let mut inputs: Vec<&[u32]> = requests.iter().filter(|r| r.continuation > 0).map(input).collect();
        inputs.sort_unstable();
        inputs.dedup();
        let naive = inputs.iter().map(|tokens| tokens.len() as u64).sum::<u64>();
        let mut run = Run {
            engine,
            requests,
            stop,
            scores: requests.iter().map(|r| (Score { log_likelihood: 0.0, greedy: true }, r.continuation)).collect(),
            each,
            pieces: Vec::new(),
            done: Vec::new(),
            rows: 0,
            outputs: 0,
            computed: 0,
        };
        for (i, _) in requests.iter().enumerate().filter(|(_, r)| r.continuation == 0) {
            (run.each)(i, run.scores[i].0);
        }
        let previous = std::mem::take(&mut self.previous);
        let result = run.leaves(&leaves, previous);
        self.computed += run.computed;
        self.naive += naive;
        self.previous = result?;
        Ok(())
    }
}

/// All but the last token: nothing is foretold after that.
fn input(request: &Scoring) -> &[u32] {
    &request.tokens[..request.tokens.len() - 1]
}

/// A logit that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Want {
    position: usize,
    request: usize,
}

/// A request whose input begins no other's.
#[derive(Debug)]
struct Leaf {
    request: usize,
    /// First position that is computed for it: a multiple of [`BLOCK_LEN`]. What is before that is the leaf before's.
    fresh: usize,
    /// By position.
    wants: Vec<Want>,
}

fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

fn whole_blocks(len: usize) -> usize {
    len - len % BLOCK_LEN
}

/// The leaves in the order of their tokens.
fn plan(requests: &[Scoring], previous: &[u32], alone: bool) -> Vec<Leaf> {
    let mut order: Vec<usize> = (0..requests.len()).filter(|i| requests[*i].continuation > 0).collect();
    order.sort_by(|a, b| input(&requests[*a]).cmp(input(&requests[*b])).then(a.cmp(b)));
    let mut leaves: Vec<Leaf> = Vec::new();
    let mut absorbed = 0;
    for (k, &request) in order.iter().enumerate() {
        let tokens = input(&requests[request]);
        let absorbs = |next: &[u32]| if alone { next == tokens } else { next.starts_with(tokens) };
        if order.get(k + 1).is_some_and(|next| absorbs(input(&requests[*next]))) {
            continue;
        }
        let before = leaves.last().map_or(previous, |leaf| input(&requests[leaf.request]));
        leaves.push(Leaf { request, fresh: if alone { 0 } else { whole_blocks(common(before, tokens)) }, wants: Vec::new() });
        for &asked in &order[absorbed..=k] {
            let first = input(&requests[asked]).len() - requests[asked].continuation;
            for position in first..input(&requests[asked]).len() {
                let mut leaf = leaves.len() - 1;
                while leaf > 0 && position < leaves[leaf].fresh {
                    leaf -= 1;
                }
                leaves[leaf].wants.push(Want { position, request: asked });
            }
        }
        absorbed = k + 1;
    }
    leaves.iter_mut().for_each(|leaf| leaf.wants.sort_by_key(|want| want.position));
    // Logits are not cached: what is wanted of the part shared with `previous` is computed again.
    if let Some(Leaf { fresh, wants, .. }) = leaves.first_mut()
        && let Some(first) = wants.first()
    {
        *fresh = whole_blocks(first.position).min(*fresh);
    }
    leaves
}

/// Rows of a pass to come.
struct Planned {
    table: Vec<u32>,
    request: usize,
    start: usize,
    end: usize,
    wants: Vec<Want>,
}

/// A call of [`Scorer::score`].
struct Run<'a, B: Backend> {
    engine: &'a mut Engine<B>,
    requests: &'a [Scoring],
    stop: &'a dyn Fn() -> bool,
    /// The score so far and how many tokens are missing.
    scores: Vec<(Score, usize)>,
    each: &'a mut dyn FnMut(usize, Score),
    pieces: Vec<Planned>,
    /// Sequences whose blocks the pass to come needs, but nothing after it.
    done: Vec<Sequence>,
    rows: usize,
    outputs: usize,
    computed: u64,
}

impl<B: Backend> Run<'_, B> {
    /// Computes the leaves; what is cached of the last.
    fn leaves(&mut self, leaves: &[Leaf], mut previous: Sequence) -> Result<Sequence> {
        for leaf in leaves {
            let mut sequence = self.engine.fork(&previous, leaf.fresh);
            self.done.push(previous);
            if let Err(e) = self.leaf(leaf, &mut sequence) {
                self.done.push(sequence);
                self.release();
                return Err(e);
            }
            previous = sequence;
        }
        match self.flush() {
            Ok(()) => Ok(previous),
            Err(e) => {
                self.engine.release(previous);
                Err(e)
            }
        }
    }

    /// Adds a leaf's rows to the pass to come, and runs it whenever it is full.
    fn leaf(&mut self, leaf: &Leaf, sequence: &mut Sequence) -> Result<()> {
        let tokens = input(&self.requests[leaf.request]);
        let mut wants = &leaf.wants[..];
        while sequence.tokens.len() < tokens.len() {
            let start = sequence.tokens.len();
            let mut end = tokens.len().min(start + self.engine.pass_rows() - self.rows);
            // Requests may want the same logits.
            let mut outputs = 0;
            let mut taken = 0;
            while let Some(want) = wants.get(taken).filter(|want| want.position < end) {
                if taken == 0 || wants[taken - 1].position != want.position {
                    if self.outputs + outputs == self.engine.pass_outputs() {
                        end = want.position;
                        break;
                    }
                    outputs += 1;
                }
                taken += 1;
            }
            if end == start {
                self.flush()?;
                continue;
            }
            if let Err(e) = self.engine.make_room(sequence, end - start) {
                if self.pieces.is_empty() && self.done.is_empty() {
                    return Err(e);
                }
                self.flush()?;
                continue;
            }
            sequence.tokens.extend_from_slice(&tokens[start..end]);
            let (now, later) = wants.split_at(taken);
            wants = later;
            let table = sequence.blocks.clone();
            self.pieces.push(Planned { table, request: leaf.request, start, end, wants: now.to_vec() });
            self.rows += end - start;
            self.outputs += outputs;
        }
        Ok(())
    }

    /// Runs the pass.
    fn flush(&mut self) -> Result<()> {
        let result = if self.pieces.is_empty() { Ok(()) } else { self.pass() };
        self.release();
        result
    }

    fn release(&mut self) {
        self.pieces.clear();
        (self.rows, self.outputs) = (0, 0);
        self.done.drain(..).for_each(|sequence| self.engine.release(sequence));
    }

    fn pass(&mut self) -> Result<()> {
        let positions = |piece: &Planned| {
            let mut outputs: Vec<usize> = piece.wants.iter().map(|want| want.position - piece.start).collect();
            outputs.dedup();
            outputs
        };
        let outputs: Vec<Vec<usize>> = self.pieces.iter().map(positions).collect();
        let pieces = self.pieces.iter().zip(&outputs).map(|(Planned { table, request, start, end, .. }, outputs)| {
            let tokens = &input(&self.requests[*request])[*start..*end];
            Piece { table, start: *start, tokens, outputs }
        });
        let pieces: Vec<Piece<'_>> = pieces.collect();
        self.engine.forward(&pieces, self.stop)?;
        self.computed += self.rows as u64;
        let mut output = 0;
        for piece in &self.pieces {
            let mut distribution: Option<(usize, Distribution<'_>)> = None;
            for want in &piece.wants {
                // Logits are read once for all who want them.
                let known = distribution.take().filter(|(position, _)| *position == want.position);
                let (_, known) = match known {
                    Some(known) => known,
                    None => {
                        output += 1;
                        (want.position, Distribution::new(self.engine.read_logits(output - 1)?))
                    }
                };
                let token = self.requests[want.request].tokens[want.position + 1];
                let (score, missing) = &mut self.scores[want.request];
                score.log_likelihood += known.log_probability(token);
                score.greedy &= known.likeliest == token;
                *missing -= 1;
                if *missing == 0 {
                    (self.each)(want.request, *score);
                }
                distribution = Some((want.position, known));
            }
        }
        Ok(())
    }
}

/// `softmax(logits)`, in double precision.
pub(crate) struct Distribution<'a> {
    logits: &'a [f32],
    max: f32,
    log_sum: f64,
    /// The first of the likeliest tokens.
    pub(crate) likeliest: u32,
}

impl<'a> Distribution<'a> {
    pub(crate) fn new(logits: &'a [f32]) -> Self {
        let best = |best: (usize, f32), (i, v): (usize, &f32)| if *v > best.1 { (i, *v) } else { best };
        let (likeliest, max) = logits.iter().enumerate().fold((0, f32::NEG_INFINITY), best);
        let sum: f64 = logits.iter().map(|l| f64::from(l - max).exp()).sum();
        Self { logits, max, log_sum: sum.ln(), likeliest: likeliest as u32 }
    }

    /// Natural logarithm of a token's probability.
    pub(crate) fn log_probability(&self, id: u32) -> f64 {
        f64::from(self.logits[id as usize] - self.max) - self.log_sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(tokens: &[u32], continuation: usize) -> Scoring {
        Scoring { tokens: tokens.to_vec(), continuation }
    }

    #[test]
    fn four_letters_after_one_question_are_one_leaf() {
        let question: Vec<u32> = (0..70).collect();
        let requests: Vec<Scoring> = (0..4).map(|c| request(&[&question[..], &[100 + c]].concat(), 1)).collect();
        let leaves = plan(&requests, &[], false);
        assert_eq!((leaves.len(), leaves[0].fresh, leaves[0].wants.len()), (1, 0, 4));
        // The next question begins like this one.
        let next = request(&[&question[..50], &[7, 8, 9]].concat(), 1);
        assert_eq!(plan(&[next], &question, false)[0].fresh, 32);
        // The same question again: its logits are not cached.
        assert_eq!(plan(&requests, &question, false)[0].fresh, 64);
    }

    proptest! {
        /// Every logit wanted is computed once, by a leaf whose tokens are the request's up to there; nothing is left out.
        #[test]
        fn a_plan_is_whole(
            requests in prop::collection::vec((prop::collection::vec(0u32..2, 2..80), 1usize..5), 1..12),
            previous in prop::collection::vec(0u32..2, 0..80),
        ) {
            let requests: Vec<Scoring> =
                requests.into_iter().map(|(tokens, n)| { let n = n.min(tokens.len() - 1); request(&tokens, n) }).collect();
            let leaves = plan(&requests, &previous, false);
            let mut wanted: Vec<(usize, usize)> = Vec::new();
            let mut before: &[u32] = &previous;
            for leaf in &leaves {
                let tokens = input(&requests[leaf.request]);
                prop_assert!(leaf.fresh < tokens.len() && leaf.fresh.is_multiple_of(BLOCK_LEN));
                prop_assert_eq!(&before[..leaf.fresh], &tokens[..leaf.fresh]);
                before = tokens;
                for want in &leaf.wants {
                    prop_assert!(want.position >= leaf.fresh);
                    prop_assert_eq!(&tokens[..=want.position], &requests[want.request].tokens[..=want.position]);
                    wanted.push((want.request, want.position));
                }
            }
            wanted.sort_unstable();
            let expected: Vec<(usize, usize)> = requests.iter().enumerate()
                .flat_map(|(i, r)| (r.tokens.len() - 1 - r.continuation..r.tokens.len() - 1).map(move |p| (i, p)))
                .collect();
            prop_assert_eq!(wanted, expected);
        }
    }
}
