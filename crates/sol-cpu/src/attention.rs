//! Causal attention over the paged cache.
//!
//! The keys of a row are cut into spans of [`SPAN`] at fixed positions. A span is a plain softmax (scores, maximum, weights,
//! weighted values); spans are merged from first to last as in online softmax (Milakov & Gimelshein, arXiv 1805.02867). The
//! result of a row is thus defined by its own position alone: whether its spans were computed one after another (a prompt:
//! there are rows enough for all threads) or side by side (one row over a long cache), the bits are the same.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use half::f16;
use sol_compute::{Attention, Batch, KvType};

use crate::cache::{Cache, TILE, padded};
use crate::ops::soften;
use crate::pool::Pool;
use crate::q8::Side;
use crate::reading::{AsIs, Halves, Reading, Scaled};
use crate::shared::SharedMut;
use crate::tile::{Strided, TOGETHER, accumulate};

/// Keys in a span: whole blocks.
const SPAN: usize = 256;

/// Rows that share every load of keys and values.
const ROWS: usize = 8;

/// Buffers of one thread.
#[derive(Default)]
pub(crate) struct ThreadScratch {
    query: Vec<f32>,
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

/// Some blocks of a sequence and how many queries read them, `group` of them a row.
struct Span {
    blocks: Range<usize>,
    queries: usize,
    group: usize,
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
        let Attention { heads, kv_heads, head_dim, .. } = *self.attention;
        let (group, width) = (heads / kv_heads, heads * head_dim);
        let last = self.batch.positions[tile.first + tile.rows - 1] as usize;
        let first = self.first_key(tile.first);
        let span = Span {
            blocks: (span * SPAN).max(first) / TILE..(span * SPAN + SPAN - 1).min(last) / TILE + 1,
            queries: tile.rows * group,
            group,
        };
        scratch.query.clear();
        for row in tile.first..tile.first + tile.rows {
            scratch.query.extend_from_slice(&self.query[row * width + head * group * head_dim..][..group * head_dim]);
        }
        match self.cache.dtype() {
            KvType::F32 => self.states::<AsIs<f32>>(tile, head, &span, scratch),
            // What many queries read is worth converting once.
            KvType::F16 if span.queries > TOGETHER => self.states::<Halves>(tile, head, &span, scratch),
            KvType::F16 => self.states::<AsIs<f16>>(tile, head, &span, scratch),
            KvType::Q8_0 => self.states::<Scaled>(tile, head, &span, scratch),
        }
    }

    /// Scores, weights and weighted values of the queries in `scratch.query` over one span.
    fn states<R: Reading>(&self, tile: RowTile, head: usize, span: &Span, scratch: &mut ThreadScratch) {
        let table = self.batch.tables[self.batch.sequences[tile.first] as usize];
        let head = |block: usize| self.cache.head(self.layer, table[block], head);
        let Attention { head_dim, scale, softcap, .. } = *self.attention;
        let Span { blocks, queries, group } = span;
        let (keys, base) = (blocks.len() * TILE, blocks.start * TILE);
        let ThreadScratch { query, scores, tile: converted, span: states, .. } = scratch;
        scores.clear();
        scores.resize(queries * keys, 0.0);
        let dims = Strided { len: head_dim, stride: head_dim };
        for (n, block) in blocks.clone().enumerate() {
            let next = (block + 1 < blocks.end).then(|| head(block + 1).0).and_then(R::ahead);
            let (k, out) = (R::tile(head(block).0, Side::Keys, converted), Strided { len: TILE, stride: keys });
            accumulate(query, dims, k, TILE, next, &mut scores[n * TILE..], out);
        }

        let state_len = self.state_len();
        states.clear();
        states.resize(queries * state_len, 0.0);
        for (i, row) in scores.chunks_exact_mut(keys).enumerate() {
            let (low, high) = self.visible(tile, i / group, base, keys);
            let state = &mut states[i * state_len..][..2];
            if low < high {
                soften(&mut row[low..high], scale, softcap, state);
            } else {
                state[0] = f32::NEG_INFINITY;
            }
        }

        let stride = padded(head_dim);
        let sums = Strided { len: stride, stride: state_len };
        for (n, block) in blocks.clone().enumerate() {
            let next = (block + 1 < blocks.end).then(|| head(block + 1).1).and_then(R::ahead);
            let v = R::tile(head(block).1, Side::Values, converted);
            // A masked key's weight is not zero times its value, which may be anything: it takes no part. Rows that see the
            // same keys of a block are taken together.
            let part = |row: usize| {
                let (low, high) = self.visible(tile, row, base, keys);
                (low.max(n * TILE), high.min((n + 1) * TILE))
            };
            let mut row = 0;
            while row < tile.rows {
                let (low, high) = part(row);
                let end = (row + 1..tile.rows).find(|r| part(*r) != (low, high)).unwrap_or(tile.rows);
                if low < high {
                    let seen = Strided { len: high - low, stride: keys };
                    let weights = &scores[row * group * keys + low..(end * group - 1) * keys + high];
                    let to = &mut states[row * group * state_len + 2..end * group * state_len];
                    let at = (low - n * TILE) * stride;
                    accumulate(weights, seen, &v[at..], stride, next, to, sums);
                }
                row = end;
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

#[cfg(test)]
mod tests {
    use super::*;
    use sol_compute::{CacheShape, KvShape};
    use sol_weights::DType;

    const ATTENTION: Attention = Attention { heads: 6, kv_heads: 2, head_dim: 40, scale: 0.2, softcap: None, window: Some(290) };

    /// Attention of the last `rows` of some tokens over a cache of this format.
    fn attended(pool: &Pool, dtype: KvType, rows: usize, [q, k, v]: [&[f32]; 3]) -> Vec<f32> {
        let Attention { heads, kv_heads, head_dim, .. } = ATTENTION;
        let tokens = k.len() / (kv_heads * head_dim);
        let shape = CacheShape { layers: vec![KvShape { kv_heads, head_dim }; 2], block_len: TILE, blocks: 12, dtype };
        let mut cache = Cache::new(&shape).unwrap();
        let (table, positions): (Vec<u32>, Vec<u32>) = ((0..12).rev().collect(), (0..tokens as u32).collect());
        let (tables, sequences) = ([&table[..]], vec![0; tokens]);
        let batch = |from: usize| Batch {
            tokens: &sequences[from..],
            positions: &positions[from..],
            sequences: &sequences[from..],
            tables: &tables,
        };
        cache.write(pool, 1, &batch(0), k, v);
        let (first, width) = (tokens - rows, heads * head_dim);
        let mut out = vec![0.0; rows * width];
        let mut scratch = AttentionScratch::new(pool.threads());
        attend(pool, &mut scratch, &ATTENTION, &batch(first), 1, &q[first * width..], &cache, &mut out);
        out
    }

    /// A cache of 8 or 16 bits is read as one of floats with the same numbers in it, by one query as by many.
    #[test]
    fn every_format_is_read_as_the_floats_it_stands_for() {
        let Attention { heads, kv_heads, head_dim, .. } = ATTENTION;
        let wave = |n: usize, f: f32| -> Vec<f32> { (0..n).map(|i| (i as f32 * f).sin() * (1.0 + (i % 7) as f32)).collect() };
        let (tokens, pool) = (371, Pool::new(2).unwrap());
        let (q, kv) = (wave(tokens * heads * head_dim, 0.37), tokens * kv_heads * head_dim);
        let (k, v) = (wave(kv, 0.71), wave(kv, 0.13));
        let blocks = |values: &[f32]| -> Vec<f32> {
            let block = |x: &[f32]| {
                let (mut whole, mut bytes, mut out) = ([0.0; 32], [0; 34], [0.0; 32]);
                whole[..x.len()].copy_from_slice(x);
                sol_weights::quantize(DType::Q8_0, &whole, &[], &mut bytes).unwrap();
                sol_weights::dequantize(DType::Q8_0, &bytes, &mut out).unwrap();
                out[..x.len()].to_vec()
            };
            values.chunks(head_dim).flat_map(|head| head.chunks(32).flat_map(block).collect::<Vec<_>>()).collect()
        };
        let halves = |values: &[f32]| -> Vec<f32> { values.iter().map(|x| f16::from_f32(*x).to_f32()).collect() };
        for rows in [1, 2, 9, 200] {
            for (dtype, k8, v8) in [(KvType::F16, halves(&k), halves(&v)), (KvType::Q8_0, blocks(&k), blocks(&v))] {
                let got = attended(&pool, dtype, rows, [&q, &k, &v]);
                assert!(got == attended(&pool, KvType::F32, rows, [&q, &k8, &v8]), "{dtype:?}, {rows} rows");
                let exact = attended(&pool, KvType::F32, rows, [&q, &k, &v]);
                let worst = got.iter().zip(&exact).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(worst < 0.5, "{dtype:?}: off by {worst}");
            }
        }
    }
}
