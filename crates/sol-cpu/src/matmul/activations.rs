//! Activations as the kernels read them. Integer ones: 8-bit numbers in blocks with one scale, and the blocks' sums. Those of
//! floats that have an output in each lane: [`Classes`].
//!
//! A block of activations `x` becomes `d * q` with `d = max|x| / 127` and `q = round(x / d)`, ties to even. A block that holds
//! an infinity or NaN becomes NaN as a whole (`d = NaN`, `q = 0`): its row's result is NaN then, and no other row's.

use std::ops::Range;

use crate::pool::{Pool, share};

use super::isa::{Isa, Level};
use super::panel::{Line, Panel};
use super::portable::DEPTH;
use crate::shared::SharedMut;

/// Below this the reciprocal of the scale would overflow; such a block counts as zeros.
const TINY: f32 = 1e-35;

/// Rows of fewer numbers than this in all are quantised by the caller alone: waking the others would cost more.
const ALONE: usize = 16 * 1024;

/// Rows that lie interleaved, as the kernels read them.
pub(super) const BESIDE: usize = 4;

/// The same for kernels of matrix instructions: the rows of a tile.
pub(super) const TILE: usize = 16;

/// Room after the last numbers: a tile is read whole, though fewer rows are left.
const BEYOND: usize = TILE * 64;

/// 8-bit numbers of rows. [`Panel::COLS`] columns of all rows come first, then the next columns. Within such a piece
/// [`BESIDE`] rows lie interleaved: four columns of the first, of the second and so on, then the next four columns; then the
/// next rows. Rows and columns that are left over lie in the same way. Where they are for tiles, [`TILE`] rows lie
/// interleaved, and a tile's columns in place of four: 32 of blocks of 32, else 64.
#[derive(Default)]
pub(super) struct Interleaved {
    q: Vec<Line>,
    n: usize,
    cols: usize,
    tiles: bool,
}

impl Interleaved {
    fn reset(&mut self, n: usize, cols: usize, tiles: bool) {
        let lines = (n * cols + if tiles { BEYOND } else { 0 }).div_ceil(size_of::<Line>());
        if self.q.len() < lines {
            self.q.resize(lines, Line::ZERO);
        }
        (self.n, self.cols, self.tiles) = (n, cols, tiles);
    }

    /// Whether they lie as tiles want them.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn for_tiles(&self) -> bool {
        self.tiles
    }

    /// Where columns from `col` on of the rows from `first` on lie in `q`, `B` rows being interleaved; `first` is a multiple of
    /// that, `col` of the columns that lie together.
    #[inline(always)]
    fn at<const B: usize>(n: usize, cols: usize, first: usize, col: usize) -> usize {
        let piece = col / Panel::COLS * Panel::COLS;
        piece * n + first * Panel::COLS.min(cols - piece) + (col - piece) * B.min(n - first)
    }

    /// Where `len` columns of up to `B` rows lie.
    fn range<const B: usize>(n: usize, cols: usize, rows: &Range<usize>, col: usize, len: usize) -> Range<usize> {
        let start = Self::at::<B>(n, cols, rows.start, col);
        start..start + len * rows.len()
    }

    /// A tile: columns from `col` on, of the rows from `first` on, a row's next to each other; the next columns of all these
    /// rows follow. A whole tile may be read, whatever lies behind the last row.
    ///
    /// # Safety
    /// There are such rows and columns, they lie for tiles; `first` is a multiple of [`TILE`], `col` of a tile's columns.
    #[inline(always)]
    #[cfg(target_arch = "x86_64")]
    pub(super) unsafe fn tile(&self, first: usize, col: usize) -> *const i8 {
        debug_assert!(self.tiles && first.is_multiple_of(TILE) && first < self.n && col < self.cols);
        // SAFETY: within `n * cols` numbers.
        unsafe { self.q.as_ptr().cast::<i8>().add(Self::at::<TILE>(self.n, self.cols, first, col)) }
    }

    /// The activations of columns `col..` of rows `first..`, up to the end of the piece of columns.
    ///
    /// # Safety
    /// There are such rows and columns; `first` is a multiple of [`BESIDE`], `col` of 4.
    #[inline(always)]
    pub(super) unsafe fn words(&self, first: usize, col: usize) -> *const i8 {
        debug_assert!(!self.tiles && first.is_multiple_of(BESIDE) && first < self.n && col < self.cols);
        // SAFETY: within `n * cols` numbers.
        unsafe { self.q.as_ptr().cast::<i8>().add(Self::at::<BESIDE>(self.n, self.cols, first, col)) }
    }

    /// As [`Interleaved::words`], for `C` rows.
    ///
    /// # Safety
    /// As there, and `C` rows are all that lie interleaved from `first` on, or these and all of the next group.
    #[inline(always)]
    #[cfg(target_arch = "x86_64")]
    pub(super) unsafe fn beside<const C: usize>(&self, first: usize, col: usize) -> Words<C> {
        const { assert!(C <= 2 * BESIDE) };
        // SAFETY: the caller's promise.
        unsafe {
            let words = self.words(first, col);
            Words([words, if C > BESIDE { self.words(first + BESIDE, col) } else { words }])
        }
    }

    /// Columns `N b .. N b + N` of a row.
    pub(super) fn block<const N: usize>(&self, row: usize, b: usize) -> [i8; N] {
        debug_assert!(!self.tiles);
        let first = row / BESIDE * BESIDE;
        let q: &[i8] = bytemuck::cast_slice(&self.q);
        let words = q[Self::at::<BESIDE>(self.n, self.cols, first, b * N)..].as_chunks::<4>().0;
        std::array::from_fn(|i| words[i / 4 * BESIDE.min(self.n - first) + row - first][i % 4])
    }
}

/// Where the activations of `C` rows lie, of one group of rows that lie interleaved or of two.
#[derive(Clone, Copy)]
#[cfg(target_arch = "x86_64")]
pub(super) struct Words<const C: usize>([*const i8; 2]);

#[cfg(target_arch = "x86_64")]
impl<const C: usize> Words<C> {
    const FIRST: usize = if C > BESIDE { BESIDE } else { C };

    /// Four columns, the `k`-th of such, of row `c`.
    ///
    /// # Safety
    /// There are such.
    #[inline(always)]
    pub(super) unsafe fn at(&self, k: usize, c: usize) -> *const i8 {
        // SAFETY: the caller's promise.
        unsafe {
            match c < Self::FIRST {
                true => self.0[0].add((k * Self::FIRST + c) * 4),
                false => self.0[1].add((k * (C - Self::FIRST) + c - Self::FIRST) * 4),
            }
        }
    }

    /// The same words, of which the compiler does not know where they lie: it then leaves loads where they are written. A hint.
    #[inline(always)]
    #[allow(clippy::pointers_in_nomem_asm_block, reason = "only their values are hidden")]
    pub(super) fn hidden(mut self) -> Self {
        for x in &mut self.0 {
            // SAFETY: nothing is done.
            unsafe { std::arch::asm!("/* {0} */", inout(reg) * x, options(pure, nomem, nostack, preserves_flags)) };
        }
        self
    }

    /// So many columns further on, a multiple of 4.
    #[inline(always)]
    pub(super) fn skip(self, columns: usize) -> Self {
        let [a, b] = self.0;
        Self([a.wrapping_add(columns * Self::FIRST), b.wrapping_add(columns * (C - Self::FIRST))])
    }
}

/// Rows in blocks of 32, for the 32-block weight formats.
#[derive(Default)]
pub(super) struct Blocks32 {
    pub(super) q: Interleaved,
    /// `[n][cols / 32]`.
    pub(super) d: Vec<f32>,
    /// Sum of a block's `q`, `[n][cols / 32]`.
    pub(super) sum: Vec<i32>,
    /// `d * sum`, `[n][cols / 32]`.
    pub(super) dsum: Vec<f32>,
}

/// Rows in super-blocks of 256, for the K formats.
#[derive(Default)]
pub(super) struct Blocks256 {
    pub(super) q: Interleaved,
    /// `[n][cols / 256]`.
    pub(super) d: Vec<f32>,
    /// Sum of each 16 `q`, `[n][cols / 16]`.
    pub(super) sum16: Vec<i16>,
    /// Sum of each 32 `q`, `[n][cols / 32]`.
    pub(super) sum32: Vec<i16>,
}

impl Blocks32 {
    /// Quantises `n` rows of `cols` values, for tiles or not.
    pub(super) fn fill(&mut self, isa: Isa, pool: &Pool, x: &[f32], n: usize, cols: usize, tiles: bool) {
        match tiles {
            true => self.fill_by::<TILE, 32>(isa, pool, x, n, cols),
            false => self.fill_by::<BESIDE, 4>(isa, pool, x, n, cols),
        }
    }

    /// `B` rows interleaved, by `W` columns each.
    fn fill_by<const B: usize, const W: usize>(&mut self, isa: Isa, pool: &Pool, x: &[f32], n: usize, cols: usize) {
        let blocks = cols / 32;
        self.q.reset(n, cols, B == TILE);
        grow(&mut self.d, n * blocks);
        grow(&mut self.sum, n * blocks);
        grow(&mut self.dsum, n * blocks);
        let (q, d) = (SharedMut::new(bytemuck::cast_slice_mut::<_, i8>(&mut self.q.q)), SharedMut::new(&mut self.d));
        let (sum, dsum) = (SharedMut::new(&mut self.sum), SharedMut::new(&mut self.dsum));
        each_few::<B>(pool, n, cols, |rows| {
            let at = rows.start * blocks..rows.end * blocks;
            // SAFETY: every row is handled once, and groups of rows do not overlap.
            let (d, sum, dsum) = unsafe { (d.slice(at.clone()), sum.slice(at.clone()), dsum.slice(at)) };
            // SAFETY: as above; one block at a time.
            let to = |col| unsafe { q.slice(Interleaved::range::<B>(n, cols, &rows, col, 32)) };
            quantise_rows::<32, W>(isa, &x[rows.start * cols..rows.end * cols], cols, to, d, |block, q| {
                sum[block] = q.iter().map(|&q| i32::from(q)).sum();
            });
            for ((dsum, d), sum) in dsum.iter_mut().zip(d).zip(sum) {
                *dsum = *d * *sum as f32;
            }
        });
    }
}

impl Blocks256 {
    /// Quantises `n` rows of `cols` values, for tiles or not.
    pub(super) fn fill(&mut self, isa: Isa, pool: &Pool, x: &[f32], n: usize, cols: usize, tiles: bool) {
        match tiles {
            true => self.fill_by::<TILE, 64>(isa, pool, x, n, cols),
            false => self.fill_by::<BESIDE, 4>(isa, pool, x, n, cols),
        }
    }

    /// `B` rows interleaved, by `W` columns each.
    fn fill_by<const B: usize, const W: usize>(&mut self, isa: Isa, pool: &Pool, x: &[f32], n: usize, cols: usize) {
        self.q.reset(n, cols, B == TILE);
        grow(&mut self.d, n * cols / 256);
        grow(&mut self.sum16, n * cols / 16);
        grow(&mut self.sum32, n * cols / 32);
        let (q, d) = (SharedMut::new(bytemuck::cast_slice_mut::<_, i8>(&mut self.q.q)), SharedMut::new(&mut self.d));
        let (sum16, sum32) = (SharedMut::new(&mut self.sum16), SharedMut::new(&mut self.sum32));
        each_few::<B>(pool, n, cols, |rows| {
            let at = |len: usize| rows.start * cols / len..rows.end * cols / len;
            // SAFETY: every row is handled once, and groups of rows do not overlap.
            let (d, sum16, sum32) = unsafe { (d.slice(at(256)), sum16.slice(at(16)), sum32.slice(at(32))) };
            // SAFETY: as above; one block at a time.
            let to = |col| unsafe { q.slice(Interleaved::range::<B>(n, cols, &rows, col, 256)) };
            quantise_rows::<256, W>(isa, &x[at(1)], cols, to, d, |block, q| {
                for (sum, q) in sum16[block * 16..].iter_mut().zip(q.as_chunks::<16>().0) {
                    *sum = q.iter().map(|&q| i16::from(q)).sum();
                }
            });
            for (sum, halves) in sum32.iter_mut().zip(sum16.as_chunks::<2>().0) {
                *sum = halves[0] + halves[1];
            }
        });
    }
}

/// Rows of floats as kernels read them that have an output in each lane: of [`DEPTH`] columns at a time, those that are 0 modulo
/// 8 of every row, then those that are 1, and so on. Zeros fill the last columns up to a multiple of 8.
#[derive(Default)]
pub(super) struct Classes {
    x: Vec<f32>,
    n: usize,
}

/// The order in which the sums of columns modulo 8 are added up: `((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7))`.
#[cfg(target_arch = "x86_64")]
pub(super) const ORDER: [usize; 8] = [0, 4, 2, 6, 1, 5, 3, 7];

#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "portable kernels read rows as they lie"))]
impl Classes {
    /// Reorders `n` rows of `cols` values.
    pub(super) fn fill(&mut self, pool: &Pool, x: &[f32], n: usize, cols: usize) {
        grow(&mut self.x, n * cols.next_multiple_of(8));
        self.n = n;
        let to = SharedMut::new(&mut self.x);
        each_few::<BESIDE>(pool, n, cols, |rows| {
            for row in rows {
                for (i, x) in x[row * cols..][..cols].chunks(DEPTH).enumerate() {
                    for class in 0..8 {
                        let steps = x.len().div_ceil(8);
                        let at = Self::at(n, i * DEPTH, steps, class, row);
                        // SAFETY: every row is handled once.
                        let to = unsafe { to.slice(at..at + steps) };
                        for (to, x) in to.iter_mut().zip(x.chunks(8)) {
                            *to = x.get(class).copied().unwrap_or(0.0);
                        }
                    }
                }
            }
        });
    }

    fn at(n: usize, start: usize, steps: usize, class: usize, row: usize) -> usize {
        start * n + (class * n + row) * steps
    }

    /// The columns of a piece that are `class` modulo 8 of rows from `row` on.
    pub(super) fn class(&self, piece: Range<usize>, class: usize, row: usize) -> *const f32 {
        let steps = piece.len().div_ceil(8);
        self.x[Self::at(self.n, piece.start, steps, class, row)..].as_ptr()
    }
}

fn grow<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
}

/// Calls `few` on `B` rows at a time.
fn each_few<const B: usize>(pool: &Pool, n: usize, cols: usize, few: impl Fn(Range<usize>) + Sync) {
    let all = |rows: Range<usize>| {
        for first in rows.clone().step_by(B) {
            few(first..rows.end.min(first + B));
        }
    };
    if cols == 0 {
        return;
    }
    if n <= B || n * cols < ALONE {
        all(0..n);
    } else {
        pool.run(|thread| all(share(n, B, thread, pool.threads())));
    }
}

/// Quantises a few rows `x` of blocks of `N`, with the instructions there are. `to` gives the place of so many columns of them,
/// which lie interleaved by `W`; `seen` is given each block and its number.
fn quantise_rows<'a, const N: usize, const W: usize>(
    isa: Isa,
    x: &[f32],
    cols: usize,
    to: impl Fn(usize) -> &'a mut [i8],
    d: &mut [f32],
    mut seen: impl FnMut(usize, &[i8; N]),
) {
    #[inline(always)]
    fn rows<'a, const N: usize, const W: usize>(
        x: &[f32],
        cols: usize,
        to: impl Fn(usize) -> &'a mut [i8],
        d: &mut [f32],
        seen: &mut impl FnMut(usize, &[i8; N]),
    ) {
        let (beside, blocks) = (x.len() / cols, cols / N);
        for b in 0..blocks {
            let words = to(b * N).as_chunks_mut::<W>().0;
            for row in 0..beside {
                let (x, mut whole) = (&x.as_chunks::<N>().0[row * blocks + b], [0; N]);
                d[row * blocks + b] = quantise(x, &mut whole);
                seen(row * blocks + b, &whole);
                for (word, to) in whole.as_chunks::<W>().0.iter().zip(words[row..].iter_mut().step_by(beside)) {
                    *to = *word;
                }
            }
        }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn rows_avx2<'a, const N: usize, const W: usize>(
        x: &[f32],
        cols: usize,
        to: impl Fn(usize) -> &'a mut [i8],
        d: &mut [f32],
        seen: &mut impl FnMut(usize, &[i8; N]),
    ) {
        rows::<N, W>(x, cols, to, d, seen);
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    fn rows_avx512<'a, const N: usize, const W: usize>(
        x: &[f32],
        cols: usize,
        to: impl Fn(usize) -> &'a mut [i8],
        d: &mut [f32],
        seen: &mut impl FnMut(usize, &[i8; N]),
    ) {
        rows::<N, W>(x, cols, to, d, seen);
    }
    match isa.level() {
        Level::Portable => rows::<N, W>(x, cols, to, d, &mut seen),
        // SAFETY: an `Isa` is what the machine has.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { rows_avx2::<N, W>(x, cols, to, d, &mut seen) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Amx => unsafe { rows_avx512::<N, W>(x, cols, to, d, &mut seen) },
    }
}

/// Quantises a block and returns its scale.
#[inline(always)]
fn quantise<const N: usize>(x: &[f32; N], q: &mut [i8; N]) -> f32 {
    // As integers, because NaN is the largest there and compares as nothing in floats.
    let largest = x.iter().fold(0, |largest, v| (v.to_bits() & 0x7FFF_FFFF).max(largest));
    let max = f32::from_bits(largest);
    if !max.is_finite() || max < TINY {
        q.fill(0);
        return if max.is_finite() { 0.0 } else { f32::NAN };
    }
    let inverse = 127.0 / max;
    for (q, x) in q.iter_mut().zip(x) {
        *q = round(x * inverse);
    }
    max / 127.0
}

/// Rounds ties to even what is known to lie within +-127.5. Adding 1.5 * 2^23 leaves the integer in the low mantissa bits
/// (two's complement, because of the half), which every vector unit does in one addition.
#[inline(always)]
fn round(value: f32) -> i8 {
    (value + 12_582_912.0).to_bits() as i8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_the_nearest_even() {
        for i in -1016..=1016 {
            let value = i as f32 / 8.0;
            assert_eq!(f32::from(round(value)), value.round_ties_even(), "{value}");
        }
    }

    #[test]
    fn sums_and_scales_belong_to_their_blocks() {
        let pool = Pool::new(2).unwrap();
        let x: Vec<f32> = (0..2 * 512).map(|i| ((i * 37 % 255) as f32 - 127.0) * if i < 256 { 1.0 } else { 0.5 }).collect();
        let (mut small, mut large) = (Blocks32::default(), Blocks256::default());
        small.fill(Isa::best(), &pool, &x, 2, 512, false);
        large.fill(Isa::best(), &pool, &x, 2, 512, false);
        assert_eq!(large.d[0], 1.0);
        assert_eq!(large.d[1..], [0.5; 3]);
        for (i, x) in x.iter().enumerate() {
            let small_q = small.q.block::<32>(i / 512, i % 512 / 32)[i % 32];
            assert!((small.d[i / 32] * f32::from(small_q) - x).abs() <= 0.5 * small.d[i / 32] * 1.001);
            assert_eq!(large.d[i / 256] * f32::from(large.q.block::<256>(i / 512, i % 512 / 256)[i % 256]), *x);
        }
        for b in 0..32 {
            let sum = |q: &[i8]| q.iter().map(|&q| i32::from(q)).sum::<i32>();
            assert_eq!(small.sum[b], sum(&small.q.block::<32>(b / 16, b % 16)));
            assert_eq!(small.dsum[b], small.d[b] * small.sum[b] as f32);
            let q = large.q.block::<256>(b / 16, b % 16 / 8);
            let part = &q[b % 8 * 32..][..32];
            assert_eq!(i32::from(large.sum32[b]), sum(part));
            assert_eq!(i32::from(large.sum16[2 * b + 1]), sum(&part[16..]));
        }
    }

    #[test]
    fn what_is_not_finite_poisons_its_own_block_only() {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; 64];
            x[40] = bad;
            let mut blocks = Blocks32::default();
            blocks.fill(Isa::best(), &Pool::new(1).unwrap(), &x, 1, 64, false);
            assert_eq!(blocks.d[0], 1.0 / 127.0);
            assert!(blocks.d[1].is_nan() && blocks.dsum[1].is_nan());
            assert_eq!(blocks.q.block::<32>(0, 1), [0; 32]);
        }
        let mut q = [1; 32];
        assert_eq!(quantise(&[f32::MIN_POSITIVE; 32], &mut q), 0.0);
        assert_eq!(q, [0; 32]);
        assert!(quantise(&[f32::MAX; 32], &mut q) > 1e36);
        assert_eq!(q, [127; 32]);
    }
}
