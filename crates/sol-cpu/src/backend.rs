//! [`Cpu`]: the [`Backend`] of this crate.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sol_compute::{
    Activation, Attention, Backend, Batch, CacheShape, ComputeError, Experts, Linear, MatrixData, Norm, RopeTable,
};
use sol_weights::Bytes;

use crate::attention::{AttentionScratch, attend};
use crate::cache::Cache;
use crate::experts::{self, ExpertScratch};
use crate::matmul::{Isa, Matrix, Part, Scratch, linear, simd_name};
use crate::ops;
use crate::pool::Pool;
use crate::tensor::Tensor;

/// Sees what matrices are multiplied with: the bytes of a matrix, which lie in its file's mapping, and the rows of its input.
pub type Observer = dyn Fn(&Bytes, &[f32]) + Send + Sync;

/// A CPU with a fixed number of threads.
pub struct Cpu {
    pool: Pool,
    products: Mutex<Scratch>,
    attention: Mutex<AttentionScratch>,
    experts: Mutex<Option<ExpertScratch>>,
    observer: Mutex<Option<Arc<Observer>>>,
}

impl Cpu {
    /// `threads` threads, the caller's among them; `None`: one for each core.
    pub fn new(threads: Option<usize>) -> Result<Self, ComputeError> {
        Isa::check()?;
        let threads = threads.unwrap_or_else(cores);
        let pool = Pool::new(threads)?;
        Ok(Self {
            products: Mutex::new(Scratch::new()),
            attention: Mutex::new(AttentionScratch::new(pool.threads())),
            experts: Mutex::new(None),
            observer: Mutex::new(None),
            pool,
        })
    }

    /// Threads that work, the caller's among them.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// From here on every product is shown to `observer` before it is computed; `None`: to nobody, as at first.
    pub fn observe(&self, observer: Option<Arc<Observer>>) {
        *lock(&self.observer) = observer;
    }

    /// What the user should know: why it is slower than it could be.
    pub fn notices(&self) -> Vec<String> {
        let (threads, cores) = (self.threads(), cores());
        let crowded = (threads > cores).then(|| {
            format!(
                "{threads} threads were asked for, but this process may use {cores} cores: more threads than cores do not help"
            )
        });
        Isa::selected().notice().into_iter().chain(crowded).collect()
    }
}

/// Cores that this process may use: what its affinity and its control group's share of time leave.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A panic while a buffer was held leaves nothing in it that the next user reads.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Backend for Cpu {
    type Tensor = Tensor;
    type Matrix = Matrix;
    type Cache = Cache;

    fn describe(&self) -> String {
        let threads = self.pool.threads();
        format!("CPU, {}, {threads} thread{}", simd_name(), if threads == 1 { "" } else { "s" })
    }

    fn matrix(&self, data: MatrixData) -> Result<Matrix, ComputeError> {
        Matrix::new(data)
    }

    fn tensor(&self, rows: usize, cols: usize) -> Tensor {
        Tensor::new(rows, cols)
    }

    fn vector(&self, values: &[f32]) -> Tensor {
        Tensor::from_row(values)
    }

    fn read(&self, x: &Tensor, row: usize, out: &mut [f32]) {
        out.copy_from_slice(x.row(row));
    }

    fn cache(&self, shape: &CacheShape) -> Result<Cache, ComputeError> {
        Cache::new(shape)
    }

    fn embed(&self, table: &Matrix, tokens: &[u32], scale: f32, out: &mut Tensor) {
        let cols = out.cols();
        ops::split(&self.pool, out.begin(tokens.len()), cols, |start, part| {
            for (row, token) in part.chunks_exact_mut(cols).zip(&tokens[start / cols..]) {
                table.row_to_f32(*token as usize, row);
                if scale != 1.0 {
                    row.iter_mut().for_each(|v| *v *= scale);
                }
            }
        });
    }

    fn norm(&self, norm: &Norm<Self>, x: &Tensor, out: &mut Tensor) {
        let cols = x.cols();
        let (weight, bias) = (norm.weight.live(), norm.bias.as_ref().map(Tensor::live));
        ops::split(&self.pool, out.begin(x.rows()), cols, |start, part| {
            for (row, x) in part.chunks_exact_mut(cols).zip(x.live()[start..].chunks_exact(cols)) {
                ops::norm_row(norm.kind, norm.eps, weight, bias, x, row);
            }
        });
    }

    fn linear(&self, x: &Tensor, parts: &mut [(&Linear<Self>, &mut Tensor)]) {
        if let Some(observer) = &*lock(&self.observer) {
            parts.iter().for_each(|(linear, _)| observer(linear.weight.bytes(), x.live()));
        }
        let (rows, mut scratch) = (x.rows(), lock(&self.products));
        let mut run = |parts: &mut [Part<'_>]| linear(&self.pool, &mut scratch, x.live(), rows, parts);
        // Products of one input run together; three (q, k and v) is the most a decoder has.
        match parts {
            [a, b, c] => run(&mut [part(a, rows), part(b, rows), part(c, rows)]),
            [a, b] => run(&mut [part(a, rows), part(b, rows)]),
            _ => parts.iter_mut().for_each(|one| run(&mut [part(one, rows)])),
        }
    }

    fn angles(&self, rope: &RopeTable, positions: &[u32], out: &mut Tensor) {
        let cols = out.cols();
        ops::split(&self.pool, out.begin(positions.len()), cols, |start, part| {
            for (row, position) in part.chunks_exact_mut(cols).zip(&positions[start / cols..]) {
                ops::angles(rope, *position, row);
            }
        });
    }

    fn rotate_and_store(
        &self,
        attention: &Attention,
        rope: &RopeTable,
        angles: &Tensor,
        batch: &Batch<'_>,
        layer: usize,
        q: &mut Tensor,
        k: &mut Tensor,
        v: &Tensor,
        cache: &mut Cache,
    ) {
        let dim = attention.head_dim;
        for heads in [&mut *q, &mut *k] {
            let cols = heads.cols();
            ops::split(&self.pool, heads.live_mut(), cols, |start, part| {
                for (i, row) in part.chunks_exact_mut(cols).enumerate() {
                    let angles = angles.row(start / cols + i);
                    row.chunks_exact_mut(dim).for_each(|head| ops::rotate(head, angles, rope.pairing));
                }
            });
        }
        cache.write(&self.pool, layer, batch, k.live(), v.live());
    }

    fn attention(&self, attention: &Attention, batch: &Batch<'_>, layer: usize, q: &Tensor, cache: &Cache, out: &mut Tensor) {
        let mut scratch = lock(&self.attention);
        attend(&self.pool, &mut scratch, attention, batch, layer, q.live(), cache, out.begin(batch.len()));
    }

    fn gated(&self, activation: Activation, gate: &mut Tensor, up: &Tensor) {
        ops::split(&self.pool, gate.live_mut(), 1, |start, part| {
            ops::gated_part(activation, part, &up.live()[start..][..part.len()]);
        });
    }

    fn experts(&self, experts: &Experts<Self>, x: &Tensor, out: &mut Tensor) {
        experts::run(self, &mut lock(&self.experts), experts, x, out);
    }

    fn add(&self, x: &mut Tensor, y: &Tensor) {
        ops::split(&self.pool, x.live_mut(), 1, |start, part| {
            part.iter_mut().zip(&y.live()[start..]).for_each(|(x, y)| *x += y);
        });
    }

    fn copy(&self, x: &Tensor, out: &mut Tensor) {
        out.begin(x.rows()).copy_from_slice(x.live());
    }

    fn blend(&self, x: &mut Tensor, saved: &Tensor, t: f32) {
        ops::split(&self.pool, x.live_mut(), 1, |start, part| {
            part.iter_mut().zip(&saved.live()[start..]).for_each(|(x, s)| *x = t * s + (1.0 - t) * *x);
        });
    }

    fn select(&self, x: &Tensor, rows: &[usize], out: &mut Tensor) {
        let cols = x.cols();
        for (to, row) in out.begin(rows.len()).chunks_exact_mut(cols).zip(rows) {
            to.copy_from_slice(x.row(*row));
        }
    }

    fn finish_logits(&self, x: &mut Tensor, scale: f32, cap: Option<f32>) {
        match cap {
            Some(cap) => ops::split(&self.pool, x.live_mut(), 1, |_, part| ops::cap_part(part, scale, cap)),
            None if scale != 1.0 => x.live_mut().iter_mut().for_each(|v| *v *= scale),
            None => {}
        }
    }
}

fn part<'a>((linear, out): &'a mut (&Linear<Cpu>, &mut Tensor), rows: usize) -> Part<'a> {
    Part { matrix: &linear.weight, bias: linear.bias.as_ref().map(Tensor::live), out: out.begin(rows) }
}
