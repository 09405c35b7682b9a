//! What the matrices of a model are multiplied with: sums of squares over a text, for importance matrices.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use sol_cpu::Cpu;
use sol_weights::{Bytes, Checkpoint};

use crate::engine::{Engine, Sequence};
use crate::{Error, Result};

/// What the inputs of one matrix (or of all experts' matrices) came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InputSums {
    /// For each expert in turn, the sum of squares of each column's inputs.
    pub squares: Vec<f64>,
    /// For each expert, how many inputs that were.
    pub counts: Vec<u64>,
}

/// Reads `tokens` in chunks of `chunk`, each on its own with `bos` in place of its first token, and sums up the inputs of every
/// matrix whose bytes are used as they lie in the checkpoint. The head is left out: its inputs are those of a few tokens only.
/// `each` sees the number of chunks done.
pub fn input_sums(
    engine: &mut Engine<Cpu>,
    tokens: &[u32],
    bos: Option<u32>,
    chunk: usize,
    stop: &dyn Fn() -> bool,
    each: &mut dyn FnMut(usize),
) -> Result<BTreeMap<String, InputSums>> {
    if chunk == 0 || tokens.len() < chunk {
        return Err(Error::TextTooShort { tokens: tokens.len(), chunk });
    }
    let sums = Arc::new(Mutex::new(Collector::new(engine.model().checkpoint())));
    let collector = Arc::clone(&sums);
    let lock = move |bytes: &Bytes, x: &[f32]| collector.lock().unwrap_or_else(PoisonError::into_inner).add(bytes, x);
    engine.model().backend().observe(Some(Arc::new(lock)));
    let result = run(engine, tokens, bos, chunk, stop, each);
    engine.model().backend().observe(None);
    result?;
    let mut sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut sums.matrices).into_iter().filter(|m| m.sums.counts.iter().any(|n| *n > 0)).map(Seen::named).collect())
}

fn run(
    engine: &mut Engine<Cpu>,
    tokens: &[u32],
    bos: Option<u32>,
    chunk: usize,
    stop: &dyn Fn() -> bool,
    each: &mut dyn FnMut(usize),
) -> Result<()> {
    for (i, piece) in tokens.chunks_exact(chunk).enumerate() {
        let mut piece = piece.to_vec();
        piece[0] = bos.unwrap_or(piece[0]);
        let mut sequence = Sequence::default();
        let read = engine.extend(&mut sequence, &piece, stop).map(drop);
        engine.release(sequence);
        read?;
        each(i + 1);
    }
    Ok(())
}

/// Sums of all matrices, sorted by where they lie in memory.
struct Collector {
    matrices: Vec<Seen>,
}

/// A matrix, or the matrices of all experts.
struct Seen {
    name: String,
    start: usize,
    len: usize,
    /// Bytes of one expert's matrix.
    stride: usize,
    columns: usize,
    sums: InputSums,
}

impl Seen {
    fn named(self) -> (String, InputSums) {
        (self.name, self.sums)
    }
}

impl Collector {
    fn new(checkpoint: &Checkpoint) -> Self {
        let head = if checkpoint.tensor("output.weight").is_some() { "output.weight" } else { "token_embd.weight" };
        let mut matrices = Vec::new();
        for tensor in checkpoint.tensors().filter(|tensor| tensor.name != head) {
            let [experts, columns] = match tensor.shape[..] {
                [_, columns] => [1, columns],
                [experts, _, columns] => [experts, columns],
                _ => continue,
            };
            if tensor.byte_len() == 0 {
                continue;
            }
            let sums = InputSums { squares: vec![0.0; experts * columns], counts: vec![0; experts] };
            let (start, len) = (tensor.bytes().as_ptr().addr(), tensor.byte_len());
            matrices.push(Seen { name: tensor.name.clone(), start, len, stride: len / experts, columns, sums });
        }
        matrices.sort_by_key(|matrix| matrix.start);
        Self { matrices }
    }

    fn add(&mut self, bytes: &Bytes, x: &[f32]) {
        let at = bytes.as_ptr().addr();
        let after = self.matrices.partition_point(|matrix| matrix.start <= at);
        let Some(matrix) = after.checked_sub(1).map(|before| &mut self.matrices[before]) else { return };
        let offset = at - matrix.start;
        // Of a fused matrix the first part counts: all have the same input.
        if offset >= matrix.len || !offset.is_multiple_of(matrix.stride) {
            return;
        }
        let expert = offset / matrix.stride;
        let squares = &mut matrix.sums.squares[expert * matrix.columns..][..matrix.columns];
        for row in x.chunks_exact(matrix.columns) {
            squares.iter_mut().zip(row).for_each(|(sum, x)| *sum += f64::from(*x) * f64::from(*x));
            matrix.sums.counts[expert] += 1;
        }
    }
}
