//! One tensor from one type to another, in batches of rows that bound the memory it takes.
//!
//! A batch is encoded by all threads while the one before is written. Threads take pieces whose size does not depend on their
//! number, and sums are taken piece by piece, so that neither bytes nor errors depend on it.

use std::thread;

use sol_weights::gguf::Writer;
use sol_weights::{Bytes, DType, Tensor, dequantize, quantize};

use crate::{Error, Result};

/// Numbers that a thread takes at once, about: few enough to stay in its cache.
const PIECE: usize = 1 << 16;

/// Pieces of each thread in a batch.
const PIECES: usize = 16;

/// A tensor to write.
pub(super) struct Pass<'a> {
    pub(super) tensor: &'a Tensor,
    pub(super) to: DType,
    /// A weight for each column, for each expert in turn; empty: all alike.
    pub(super) weights: &'a [f32],
    pub(super) threads: usize,
}

/// Sums over a tensor.
#[derive(Clone, Copy, Default)]
pub(super) struct Errors {
    pub(super) squared_error: f64,
    pub(super) squared: f64,
}

/// A run of rows of one matrix.
#[derive(Clone, Copy)]
struct Piece {
    first_row: usize,
    rows: usize,
}

/// What a thread works with.
#[derive(Default)]
struct Desk {
    values: Vec<f32>,
    back: Vec<f32>,
}

impl Pass<'_> {
    /// Appends the tensor to a file. `progress` counts bytes of the source.
    pub(super) fn write(&self, writer: &mut Writer, stop: &dyn Fn() -> bool, progress: &mut dyn FnMut(u64)) -> Result<Errors> {
        let source = self.tensor.bytes();
        if self.to == self.tensor.dtype {
            return self.copy(&source, writer, stop, progress);
        }
        let pieces = self.pieces();
        let row_bytes = self.to.bytes_for(self.columns()).unwrap_or(0);
        let threads = self.threads.max(1);
        let mut desks: Vec<Desk> = (0..threads).map(|_| Desk::default()).collect();
        let (mut ready, mut next) = (Vec::new(), Vec::new());
        let mut total = Errors::default();
        let mut rows_done = 0;
        for batch in pieces.chunks(threads * PIECES) {
            if stop() {
                return Err(Error::Interrupted);
            }
            let rows: usize = batch.iter().map(|piece| piece.rows).sum();
            next.resize(rows * row_bytes, 0);
            let mut sums = vec![Errors::default(); batch.len()];
            thread::scope(|scope| {
                let share = batch.len().div_ceil(threads);
                let mut out = next.as_mut_slice();
                let mut workers = Vec::new();
                for ((pieces, sums), desk) in batch.chunks(share).zip(sums.chunks_mut(share)).zip(&mut desks) {
                    let rows: usize = pieces.iter().map(|piece| piece.rows).sum();
                    let (mine, others) = out.split_at_mut(rows * row_bytes);
                    out = others;
                    let source = &source;
                    workers.push(scope.spawn(move || self.encode(source, pieces, mine, sums, desk)));
                }
                writer.write(&ready)?;
                for worker in workers {
                    worker.join().map_err(|_| Error::Thread)??;
                }
                Ok::<(), Error>(())
            })?;
            source.intact()?;
            for sum in sums {
                total.squared += sum.squared;
                total.squared_error += sum.squared_error;
            }
            std::mem::swap(&mut ready, &mut next);
            rows_done += rows;
            progress((rows_done * self.tensor.dtype.bytes_for(self.columns()).unwrap_or(0)) as u64);
        }
        writer.write(&ready)?;
        source.release();
        Ok(total)
    }

    fn copy(
        &self,
        source: &Bytes,
        writer: &mut Writer,
        stop: &dyn Fn() -> bool,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Errors> {
        let mut done = 0;
        for bytes in source.chunks(8 << 20) {
            if stop() {
                return Err(Error::Interrupted);
            }
            // Of a file that became shorter the system can not even take bytes to write: say that.
            writer.write(bytes).map_err(|error| source.unchanged().err().unwrap_or(error))?;
            source.intact()?;
            done += bytes.len() as u64;
            progress(done);
        }
        source.release();
        Ok(Errors::default())
    }

    fn columns(&self) -> usize {
        self.tensor.shape.last().copied().unwrap_or(1)
    }

    /// Rows of one expert's matrix; all rows where weights are for all.
    fn rows_alike(&self) -> usize {
        let rows = self.tensor.elements() / self.columns().max(1);
        let matrices = (self.weights.len() / self.columns().max(1)).max(1);
        rows / matrices
    }

    /// All rows in pieces, none of which crosses from one expert to another.
    fn pieces(&self) -> Vec<Piece> {
        let columns = self.columns().max(1);
        let rows = self.tensor.elements() / columns;
        let alike = self.rows_alike().max(1);
        let at_once = (PIECE / columns).max(1);
        let mut pieces = Vec::new();
        for first in (0..rows).step_by(alike) {
            let end = (first + alike).min(rows);
            let runs = (first..end).step_by(at_once);
            pieces.extend(runs.map(|first_row| Piece { first_row, rows: at_once.min(end - first_row) }));
        }
        pieces
    }

    fn encode(&self, source: &Bytes, pieces: &[Piece], mut out: &mut [u8], sums: &mut [Errors], desk: &mut Desk) -> Result<()> {
        let columns = self.columns();
        let (from, to) = (self.tensor.dtype, self.to);
        let row_from = from.bytes_for(columns).unwrap_or(0);
        let row_to = to.bytes_for(columns).unwrap_or(0);
        for (&Piece { first_row, rows }, sums) in pieces.iter().zip(sums) {
            let (bytes, rest) = out.split_at_mut(rows * row_to);
            out = rest;
            desk.values.resize(rows * columns, 0.0);
            desk.back.resize(rows * columns, 0.0);
            dequantize(from, &source[first_row * row_from..][..rows * row_from], &mut desk.values)?;
            let weights = match self.weights {
                [] => &[][..],
                weights => &weights[first_row / self.rows_alike() * columns..][..columns],
            };
            quantize(to, &desk.values, weights, bytes)?;
            dequantize(to, bytes, &mut desk.back)?;
            *sums = Errors::of(&desk.values, &desk.back);
            if !sums.squared.is_finite() || !sums.squared_error.is_finite() {
                // Floats hold numbers whose squares do not fit; no block's step reaches them.
                let all_finite = desk.back.iter().chain(&desk.values).all(|x| x.is_finite());
                if to.is_quantized() || !all_finite {
                    return Err(self.not_finite(first_row, &desk.values));
                }
                *sums = Errors::wide(&desk.values, &desk.back);
            }
        }
        Ok(())
    }

    /// The number to blame: one that is none, else the largest.
    fn not_finite(&self, first_row: usize, values: &[f32]) -> Error {
        let largest = || (0..values.len()).max_by(|&a, &b| values[a].abs().total_cmp(&values[b].abs()));
        let at = values.iter().position(|x| !x.is_finite()).or_else(largest).unwrap_or(0);
        Error::of_number(self.tensor, [first_row + at / self.columns(), at % self.columns()], values[at], self.to)
    }
}

impl Errors {
    /// Sums in 64 bits, for numbers whose squares are beyond 32.
    fn wide(values: &[f32], back: &[f32]) -> Self {
        let square = |x: f64| x * x;
        let squared = values.iter().map(|&x| square(x.into())).sum();
        let squared_error = values.iter().zip(back).map(|(&x, &y)| square(f64::from(x) - f64::from(y))).sum();
        Self { squared_error, squared }
    }

    /// Sums in 32 bits over runs, in 64 over all: the errors of a run are alike.
    fn of(values: &[f32], back: &[f32]) -> Self {
        const LANES: usize = 8;
        const RUN: usize = 4;
        let mut total = Self::default();
        let (values, back) = (values.as_chunks::<LANES>(), back.as_chunks::<LANES>());
        for (values, back) in values.0.chunks(RUN).zip(back.0.chunks(RUN)) {
            let (mut error, mut square) = ([0f32; LANES], [0f32; LANES]);
            for (x, y) in values.iter().zip(back) {
                for i in 0..LANES {
                    error[i] += (x[i] - y[i]) * (x[i] - y[i]);
                    square[i] += x[i] * x[i];
                }
            }
            total.squared_error += f64::from(error.iter().sum::<f32>());
            total.squared += f64::from(square.iter().sum::<f32>());
        }
        for (&x, &y) in values.1.iter().zip(back.1) {
            total.squared_error += f64::from((x - y) * (x - y));
            total.squared += f64::from(x * x);
        }
        total
    }
}
