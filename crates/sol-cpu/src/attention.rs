//! Causal attention over the paged cache.
//!
//! The keys of a row are cut into spans of [`SPAN`] at fixed positions. A span is a plain softmax (scores, maximum, weights,
//! weighted values); spans are merged from first to last as in online softmax (Milakov & Gimelshein, arXiv 1805.02867). The
//! result of a row is thus defined by its own position alone: whether its spans were computed one after another (a prompt:
//! there are rows enough for all threads) or side by side (one row over a long cache), the bits are the same.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use sol_compute::{Attention, Batch};

use crate::cache::{BlockHead, Cache, TILE, padded};
use crate::ops::soft_weights;
use crate::pool::Pool;
use crate::shared::SharedMut;
use crate::tile::{TOGETHER, accumulate, convert};

/// Keys in a span: whole blocks.
const SPAN: usize = 256;

/// Rows that share every load of keys and values.
const ROWS: usize = 8;

/// Buffers of one thread.
#[derive(Default)]
pub(crate) struct ThreadScratch {
    scores: Vec<f32>,
    tile: Vec<f32>,
    span: Vec<f32>,
    total: Vec<f32>,
}

/// Buffers that live as long as the backend.
pub(crate) struct AttentionScratch {
    threads: Vec<Mutex<ThreadScratch>>,
    partial: Vec<f32>,
    tiles: Vec<RowTile>,
}

impl AttentionScratch {
    pub(crate) fn new(threads: usize) -> Self {
        let threads = (0..threads).map(|_| Mutex::default()).collect();
        Self { threads, partial: Vec::new(), tiles: Vec::new() }
    }
}

/// Consecutive rows of one sequence.
#[derive(Clone, Copy)]
struct RowTile {
    first: usize,
    rows: usize,
}

/// What an item of work needs to know.
struct Job<'a> {
    attention: &'a Attention,
    batch: &'a Batch<'a>,
    layer: usize,
    query: &'a [f32],
    cache: &'a Cache,
}

/// `out[r] = softmax(cap(scale q_r . K)) V` for every row and head.
#[allow(clippy::too_many_arguments)]
pub(crate) fn attend(
    pool: &Pool,
    scratch: &mut AttentionScratch,
    attention: &Attention,
    batch: &Batch<'_>,
    layer: usize,
    query: &[f32],
    cache: &Cache,
    out: &mut [f32],
) {
    let job = Job { attention, batch, layer, query, cache };
    let AttentionScratch { threads, partial, tiles } = scratch;
    cut_into_tiles(batch, tiles);
    let width = attention.heads * attention.head_dim;
    let group = attention.heads / attention.kv_heads;
    let items = tiles.len() * attention.kv_heads;
    let next = AtomicUsize::new(0);
    let out = SharedMut::new(out);

    if items >= 4 * pool.threads() || pool.threads() == 1 {
        pool.run(|thread| {
            let mut scratch = threads[thread].lock().unwrap_or_else(PoisonError::into_inner);
            loop {
                let item = next.fetch_add(1, Ordering::Relaxed);
                if item >= items {
                    break;
                }
                let (tile, head) = (tiles[item / attention.kv_heads], item % attention.kv_heads);
                job.all_spans(tile, head, &mut scratch);
                for (i, total) in scratch.total.chunks_exact(job.state_len()).enumerate() {
                    let at = (tile.first + i / group) * width + (head * group + i % group) * attention.head_dim;
                    // SAFETY: every item writes the heads of its own kv head in its own rows.
                    finish(total, unsafe { out.slice(at..at + attention.head_dim) });
                }
            }
        });
        return;
    }

    // Few rows: spans of one row are computed side by side, then merged in order.
    let spans = |tile: &RowTile| job.spans(tile).len();
    let most = tiles.iter().map(spans).max().unwrap_or(0);
    let state = job.state_len() * ROWS.min(batch.len()) * group;
    partial.resize(items * most * state, 0.0);
    let slots = SharedMut::new(partial.as_mut_slice());
    pool.run(|thread| {
        let mut scratch = threads[thread].lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let slot = next.fetch_add(1, Ordering::Relaxed);
            if slot >= items * most {
                break;
            }
            let (item, span) = (slot / most, slot % most);
            let (tile, head) = (tiles[item / attention.kv_heads], item % attention.kv_heads);
            if let Some(span) = job.spans(&tile).nth(span) {
                job.one_span(tile, head, span, &mut scratch);
                // SAFETY: every slot is taken by one thread.
                let part = unsafe { slots.slice(slot * state..slot * state + scratch.span.len()) };
                part.copy_from_slice(&scratch.span);
            }
        }
    });
    let mut scratch = threads[0].lock().unwrap_or_else(PoisonError::into_inner);
    for item in 0..items {
        let (tile, head) = (tiles[item / attention.kv_heads], item % attention.kv_heads);
        job.reset(tile, &mut scratch.total);
        for span in 0..spans(&tile) {
            let n = scratch.total.len();
            merge(&mut scratch.total, &partial[(item * most + span) * state..][..n], job.state_len());
        }
        for (i, total) in scratch.total.chunks_exact(job.state_len()).enumerate() {
            let at = (tile.first + i / group) * width + (head * group + i % group) * attention.head_dim;
            // SAFETY: only this thread is left.
            finish(total, unsafe { out.slice(at..at + attention.head_dim) });
        }
    }
}

fn cut_into_tiles(batch: &Batch<'_>, tiles: &mut Vec<RowTile>) {
    tiles.clear();
    for row in 0..batch.len() {
        match tiles.last_mut() {
            Some(tile) if tile.rows < ROWS && batch.sequences[tile.first] == batch.sequences[row] => tile.rows += 1,
            _ => tiles.push(RowTile { first: row, rows: 1 }),
        }
    }
}

impl Job<'_> {
    /// State of one query over some keys: the maximum score, the sum of weights, the weighted sum of values.
    fn state_len(&self) -> usize {
        2 + padded(self.attention.head_dim)
    }

    /// First key a row sees.
    fn first_key(&self, row: usize) -> usize {
        let position = self.batch.positions[row] as usize;
        self.attention.window.map_or(0, |w| (position + 1).saturating_sub(w))
    }

    /// Spans that any row of the tile sees.
    fn spans(&self, tile: &RowTile) -> Range<usize> {
        let last = self.batch.positions[tile.first + tile.rows - 1] as usize;
        self.first_key(tile.first) / SPAN..last / SPAN + 1
    }

    fn reset(&self, tile: RowTile, total: &mut Vec<f32>) {
        let group = self.attention.heads / self.attention.kv_heads;
        total.clear();
        total.resize(tile.rows * group * self.state_len(), 0.0);
        total.chunks_exact_mut(self.state_len()).for_each(|state| state[0] = f32::NEG_INFINITY);
    }

    fn all_spans(&self, tile: RowTile, head: usize, scratch: &mut ThreadScratch) {
        let mut total = std::mem::take(&mut scratch.total);
        self.reset(tile, &mut total);
        for span in self.spans(&tile) {
            self.one_span(tile, head, span, scratch);
            merge(&mut total, &scratch.span, self.state_len());
        }
        scratch.total = total;
    }

    /// Leaves the state of every query of the tile over one span in `scratch.span`.
    fn one_span(&self, tile: RowTile, head: usize, span: usize, scratch: &mut ThreadScratch) {
        let Attention { heads, kv_heads, head_dim, scale, softcap, .. } = *self.attention;
        let (group, width, state_len) = (heads / kv_heads, heads * head_dim, self.state_len());
        let queries = tile.rows * group;
        let query =
            |i: usize| &self.query[(tile.first + i / group) * width + (head * group + i % group) * head_dim..][..head_dim];
        let last = self.batch.positions[tile.first + tile.rows - 1] as usize;
        let first = self.first_key(tile.first);
        let blocks = (span * SPAN).max(first) / TILE..=(span * SPAN + SPAN - 1).min(last) / TILE;
        let keys = (blocks.end() + 1 - blocks.start()) * TILE;
        let base = blocks.start() * TILE;
        let table = self.batch.tables[self.batch.sequences[tile.first] as usize];

        let ThreadScratch { scores, tile: converted, span: states, .. } = scratch;
        scores.resize(queries * keys, 0.0);
        states.clear();
        states.resize(queries * state_len, 0.0);
        for (n, block) in blocks.clone().enumerate() {
            let key_tile = match self.cache.head(self.layer, table[block], head) {
                BlockHead::F32(k, _) => k,
                BlockHead::F16(k, _) => convert(k, converted),
            };
            // Queries share every load of a key.
            for (first, some) in scores.chunks_mut(TOGETHER * keys).enumerate().map(|(c, some)| (c * TOGETHER, some)) {
                let mut rows = some.chunks_exact_mut(keys).enumerate().map(|(i, row)| {
                    let out = &mut row[n * TILE..][..TILE];
                    out.fill(0.0);
                    (query(first + i), out)
                });
                accumulate(&mut rows, key_tile, TILE);
            }
        }
        for (i, row) in scores.chunks_exact_mut(keys).enumerate() {
            let (low, high) = self.visible(tile, i / group, base, keys);
            let state = &mut states[i * state_len..][..state_len];
            if low >= high {
                state[0] = f32::NEG_INFINITY;
                continue;
            }
            let row = &mut row[low..high];
            match softcap {
                None => row.iter_mut().for_each(|s| *s *= scale),
                Some(cap) => crate::ops::cap_part(row, scale, cap),
            }
            state[0] = row.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
            let mut sum = 0.0;
            soft_weights(row, state[0], &mut sum);
            state[1] = sum;
        }
        for (n, block) in blocks.enumerate() {
            let value_tile = match self.cache.head(self.layer, table[block], head) {
                BlockHead::F32(_, v) => v,
                BlockHead::F16(_, v) => convert(v, converted),
            };
            let stride = padded(head_dim);
            // Heads of one row see the same keys.
            for (row, states) in states.chunks_exact_mut(group * state_len).enumerate() {
                let (low, high) = self.visible(tile, row, base, keys);
                // A masked key's weight is not zero times its value, which may be anything: it takes no part.
                let (low, high) = (low.max(n * TILE), high.min((n + 1) * TILE));
                if low >= high {
                    continue;
                }
                let values = &value_tile[(low - n * TILE) * stride..];
                let weights = |i: usize| &scores[(row * group + i) * keys + low..(row * group + i) * keys + high];
                for (first, some) in states.chunks_mut(TOGETHER * state_len).enumerate().map(|(c, some)| (c * TOGETHER, some)) {
                    let sums = some.chunks_exact_mut(state_len).enumerate();
                    accumulate(&mut sums.map(|(i, state)| (weights(first + i), &mut state[2..])), values, stride);
                }
            }
        }
    }

    /// Keys `base + low .. base + high` are what a row of the tile sees of `keys` keys from `base`.
    fn visible(&self, tile: RowTile, row: usize, base: usize, keys: usize) -> (usize, usize) {
        let row = tile.first + row;
        let high = (self.batch.positions[row] as usize + 1).saturating_sub(base).min(keys);
        (self.first_key(row).saturating_sub(base), high)
    }
}

/// Adds the state of later keys to that of earlier ones.
fn merge(total: &mut [f32], span: &[f32], state_len: usize) {
    for (t, s) in total.chunks_exact_mut(state_len).zip(span.chunks_exact(state_len)) {
        if s[0] == f32::NEG_INFINITY && s[1] == 0.0 {
            continue;
        }
        let max = t[0].max(s[0]);
        let (keep, take) = (crate::math::exp(t[0] - max), crate::math::exp(s[0] - max));
        t[0] = max;
        for (a, b) in t[1..].iter_mut().zip(&s[1..]) {
            *a = *a * keep + *b * take;
        }
    }
}

fn finish(total: &[f32], out: &mut [f32]) {
    let scale = 1.0 / total[1];
    out.iter_mut().zip(&total[2..]).for_each(|(o, t)| *o = t * scale);
}
