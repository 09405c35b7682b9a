//! Perplexity as `llama-perplexity` defines it: the text is cut into chunks of the context, each read on its own with `<s>` in
//! place of its first token, and the second half of each is scored.

use sol_compute::Backend;

use crate::engine::Engine;
use crate::scoring::Distribution;
use crate::{Error, Result};

/// A text's perplexity.
#[derive(Clone, Copy, Debug)]
pub struct Perplexity {
    /// `exp` of the mean negative log-likelihood.
    pub value: f64,
    /// Standard error of `value`.
    pub error: f64,
    /// Tokens that were scored.
    pub tokens: usize,
    /// Chunks done.
    pub chunk: usize,
    /// Chunks in all.
    pub chunks: usize,
}

/// The shortest chunk whose second half has a token to be scored.
const LEAST: usize = 3;

/// Scores `tokens` in chunks of `chunk`; `each` sees the figure after every chunk.
pub fn perplexity<B: Backend>(
    engine: &mut Engine<B>,
    tokens: &[u32],
    bos: Option<u32>,
    chunk: usize,
    stop: &dyn Fn() -> bool,
    each: &mut dyn FnMut(&Perplexity),
) -> Result<Perplexity> {
    if chunk < LEAST {
        return Err(Error::BadOption { option: "--ctx", value: chunk.to_string(), problem: "a chunk needs at least 3 tokens" });
    }
    if tokens.len() < chunk {
        return Err(Error::TextTooShort { tokens: tokens.len(), chunk });
    }
    let chunks = tokens.len() / chunk;
    let (mut sum, mut squares, mut count) = (0.0f64, 0.0f64, 0usize);
    let mut result = None;
    for (i, piece) in tokens.chunks_exact(chunk).enumerate() {
        let mut piece = piece.to_vec();
        piece[0] = bos.unwrap_or(piece[0]);
        let mut sequence = Default::default();
        let next = &piece[1..];
        let scored = engine.score(&mut sequence, &piece[..chunk - 1], chunk / 2, stop, |at, logits| {
            let loss = -Distribution::new(logits).log_probability(next[at]);
            sum += loss;
            squares += loss * loss;
            count += 1;
        });
        engine.release(sequence);
        scored?;
        let mean = sum / count as f64;
        let variance = (squares / count as f64 - mean * mean).max(0.0);
        let error = if count > 1 { (variance / (count - 1) as f64).sqrt() * mean.exp() } else { 0.0 };
        let so_far = Perplexity { value: mean.exp(), error, tokens: count, chunk: i + 1, chunks };
        each(&so_far);
        result = Some(so_far);
    }
    Ok(result.expect("at least one chunk"))
}
