//! Formats of 32-blocks: one scale, and perhaps one minimum, for each 32 weights.

use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::ops::Range;

use super::super::activations::Words;
use super::super::tiles::{self, Ahead, HALVES};
use super::super::{Job, Matrix};
use super::unpack::{OFFSET_8, fields, four, half, halves, in_lanes, levels_of, unsigned, word, words16};
use super::{COLS, Lanes, Rows, Sums};
use crate::fetch::Pace;

/// A block of `16 * H` interleaved rows.
#[repr(C, align(64))]
pub(super) struct Block<const H: usize> {
    /// Columns `4 k .. 4 k + 4` of each row.
    q: [[__m512i; H]; 8],
    d: [__m512; H],
    min: [__m512; H],
}

/// How a format's blocks are read. All functions are to be inlined into kernels that enable AVX-512.
pub(super) trait Format {
    /// Of a block.
    const BYTES: usize;
    /// The logarithm of what `q` is too large by.
    const OFFSET: Option<u32> = None;
    /// Whether there is a minimum.
    const MIN: bool = false;

    /// Interleaves the block at byte `at`: `q`, unsigned; scale; minimum.
    unsafe fn read(rows: &Rows, at: usize) -> ([__m512i; 8], __m512, __m512);

    /// Whether four blocks are better read together.
    const FOUR: bool = false;

    /// Interleaves the four blocks at byte `at` and hands on each as soon as it is whole.
    unsafe fn four(_rows: &Rows, _at: usize, _to: &mut impl Sink) {
        unreachable!("formats that read four blocks say how")
    }
}

/// Where the blocks go that are read together.
pub(super) trait Sink {
    /// Block `i` of four, each once, in order. To be inlined as a [`Format`].
    unsafe fn block(&mut self, i: usize, q: [__m512i; 8], d: __m512, min: __m512);
}

/// Times the activations of `C` input rows from `first` on, at once.
struct Multiply<'a, F, const C: usize> {
    job: &'a Job<'a>,
    /// The number of the first of the four.
    b: usize,
    first: usize,
    acc: Sums<1, C>,
    ahead: Pace,
    format: PhantomData<F>,
}

impl<F: Format, const C: usize> Sink for Multiply<'_, F, C> {
    #[inline(always)]
    unsafe fn block(&mut self, i: usize, q: [__m512i; 8], d: __m512, min: __m512) {
        let block = Block { q: q.map(|q| [q]), d: [d], min: [min] };
        // SAFETY: see `Tile::few`.
        unsafe {
            let x = self.job.q32.q.beside(self.first, (self.b + i) * 32);
            if C == 1 {
                self.ahead.fetch(8 * F::BYTES);
            }
            add::<F, 1, C>(self.job, &block, x, self.b + i, self.first, &mut self.acc);
            if C == 1 {
                self.ahead.fetch(8 * F::BYTES);
            }
        }
    }
}

pub(super) struct Tile<F>(PhantomData<F>);

impl<F: Format> tiles::Tile for Tile<F> {
    type Lanes = Lanes;

    const BLOCK: usize = 32;

    const COLS: usize = COLS;

    type Block = Block<HALVES>;

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn few<const C: usize>(job: &Job<'_>, row: usize, first: usize, sums: &mut Sums<1, C>) {
        let (rows, blocks) = (Rows::new(job.matrix, row), job.matrix.cols() / 32);
        let ahead = rows.ahead();
        let rows = &if C == 1 { Rows::still(job.matrix, row) } else { rows };
        let mut to = Multiply::<F, C> { job, b: 0, first, acc: *sums, ahead, format: PhantomData };
        while F::FOUR && to.b + 4 <= blocks {
            // SAFETY: the blocks lie within each row and within the activations.
            unsafe { F::four(rows, to.b * F::BYTES, &mut to) };
            to.b += 4;
        }
        while to.b < blocks {
            // SAFETY: as above.
            unsafe {
                let (q, d, min) = F::read(rows, to.b * F::BYTES);
                to.block(0, q, d, min);
            }
            to.b += 1;
        }
        *sums = to.acc;
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn pack(matrix: &Matrix, row: usize, blocks: Range<usize>, panel: &mut [Self::Block], half: usize) {
        let rows = &Rows::still(matrix, row);
        for (b, block) in blocks.zip(panel) {
            // SAFETY: block `b` lies within each row.
            let (q, d, min) = unsafe { F::read(rows, b * F::BYTES) };
            for (to, q) in block.q.iter_mut().zip(q) {
                to[half] = q;
            }
            block.d[half] = d;
            block.min[half] = min;
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn many<const C: usize>(
        job: &Job<'_>,
        panel: &[Self::Block],
        start: usize,
        first: usize,
        sums: &mut Sums<HALVES, C>,
        ahead: &mut Ahead,
    ) {
        if panel.is_empty() {
            return;
        }
        let (mut acc, mut b) = (*sums, start);
        // SAFETY: the panel's blocks are blocks of the matrix, so the activations have them too; they lie in one piece.
        let mut x = unsafe { job.q32.q.beside::<C>(first, start * 32) };
        for blocks in panel.chunks(Ahead::EVERY / 32) {
            ahead.fetch(1);
            for block in blocks {
                // SAFETY: as above.
                unsafe { add::<F, HALVES, C>(job, block, x, b, first, &mut acc) };
                (x, b) = (x.skip(32), b + 1);
            }
        }
        *sums = acc;
    }
}

/// Adds the products of one block, whose activations are `q`.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "the same numbers index several arrays")]
unsafe fn add<F: Format, const H: usize, const C: usize>(
    job: &Job<'_>,
    block: &Block<H>,
    mut q: Words<C>,
    b: usize,
    first: usize,
    acc: &mut Sums<H, C>,
) {
    // SAFETY: the caller enables the instructions, block `b` and rows `first..first + C` exist in the activations.
    unsafe {
        let (x, cols) = (job.q32, job.matrix.cols());
        let at = |c: usize| (first + c) * (cols / 32) + b;
        let mut sums = [[_mm512_setzero_si512(); H]; C];
        if let Some(offset) = F::OFFSET {
            for c in 0..C {
                sums[c] = [_mm512_set1_epi32(-(*x.sum.as_ptr().add(at(c)) << offset)); H];
            }
        }
        for w in &block.q {
            // Or all would be loaded first, and the sums of the row would lie on the stack meanwhile.
            q = q.hidden();
            for c in 0..C {
                let x = four(q.at(0, c));
                for h in 0..H {
                    sums[c][h] = _mm512_dpbusd_epi32(sums[c][h], w[h], x);
                }
            }
            q = q.skip(4);
        }
        for c in 0..C {
            let d = _mm512_set1_ps(*x.d.as_ptr().add(at(c)));
            for h in 0..H {
                acc[c][h] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[c][h]), _mm512_mul_ps(block.d[h], d), acc[c][h]);
                if F::MIN {
                    acc[c][h] = _mm512_fmadd_ps(block.min[h], _mm512_set1_ps(*x.dsum.as_ptr().add(at(c))), acc[c][h]);
                }
            }
        }
    }
}

/// The 32 nibbles whose 16 bytes start at `at`.
#[inline(always)]
unsafe fn nibbles(rows: &Rows, at: usize) -> [__m512i; 8] {
    // SAFETY: the caller's promises.
    unsafe { split(words16(rows, at)) }
}

/// The 32 nibbles of 16 bytes.
#[inline(always)]
unsafe fn split(v: [__m512i; 4]) -> [__m512i; 8] {
    // SAFETY: the caller enables the instructions.
    unsafe {
        let ([a, b, c, d], [e, f, g, h]) = (fields::<0, _>(v, 15), fields::<4, _>(v, 15));
        [a, b, c, d, e, f, g, h]
    }
}

/// The 32 five-bit numbers whose fifth bits start at `high` and whose nibbles start at `at`.
#[inline(always)]
unsafe fn five_bits(rows: &Rows, high: usize, at: usize) -> [__m512i; 8] {
    // SAFETY: the caller's promises.
    unsafe {
        let (mut q, bits) = (nibbles(rows, at), word(rows, high));
        for (k, q) in q.iter_mut().enumerate() {
            // Bits 4 k .. 4 k + 4 of the lane, one to a byte.
            let mine = _mm512_set1_epi32(if k % 2 == 0 { 0x0804_0201 } else { 0x8040_2010u32 as i32 });
            let set = _mm512_test_epi8_mask(in_lanes(bits, [k as i8 / 2; 4]), mine);
            *q = _mm512_mask_add_epi8(*q, set, *q, _mm512_set1_epi8(16));
        }
        q
    }
}

pub(super) struct Q4_0;

impl Format for Q4_0 {
    const BYTES: usize = 18;
    const OFFSET: Option<u32> = Some(3);

    #[inline(always)]
    unsafe fn read(rows: &Rows, at: usize) -> ([__m512i; 8], __m512, __m512) {
        // SAFETY: the caller's promises.
        unsafe { (nibbles(rows, at + 2), half(rows, at), _mm512_setzero_ps()) }
    }
}

pub(super) struct Q4_1;

impl Format for Q4_1 {
    const BYTES: usize = 20;
    const MIN: bool = true;

    #[inline(always)]
    unsafe fn read(rows: &Rows, at: usize) -> ([__m512i; 8], __m512, __m512) {
        // SAFETY: the caller's promises.
        unsafe {
            let (d, min) = halves(word(rows, at));
            (nibbles(rows, at + 4), d, min)
        }
    }

    const FOUR: bool = true;

    #[inline(always)]
    unsafe fn four(rows: &Rows, at: usize, to: &mut impl Sink) {
        // SAFETY: the caller's promises. Four blocks of five 32-bit words are five times four words.
        unsafe {
            let ([a, b, c, d], [e, f, g, h]) = (words16(rows, at), words16(rows, at + 16));
            let (scale, min) = halves(a);
            to.block(0, split([b, c, d, e]), scale, min);
            let [i, j, k, l] = words16(rows, at + 32);
            let (scale, min) = halves(f);
            to.block(1, split([g, h, i, j]), scale, min);
            let [m, n, o, p] = words16(rows, at + 48);
            let (scale, min) = halves(k);
            to.block(2, split([l, m, n, o]), scale, min);
            let (scale, min) = halves(p);
            to.block(3, split(words16(rows, at + 64)), scale, min);
        }
    }
}

pub(super) struct Q5_0;

impl Format for Q5_0 {
    const BYTES: usize = 22;
    const OFFSET: Option<u32> = Some(4);

    #[inline(always)]
    unsafe fn read(rows: &Rows, at: usize) -> ([__m512i; 8], __m512, __m512) {
        // SAFETY: the caller's promises.
        unsafe { (five_bits(rows, at + 2, at + 6), half(rows, at), _mm512_setzero_ps()) }
    }
}

pub(super) struct Q5_1;

impl Format for Q5_1 {
    const BYTES: usize = 24;
    const MIN: bool = true;

    #[inline(always)]
    unsafe fn read(rows: &Rows, at: usize) -> ([__m512i; 8], __m512, __m512) {
        // SAFETY: the caller's promises.
        unsafe {
            let (d, min) = halves(word(rows, at));
            (five_bits(rows, at + 4, at + 8), d, min)
        }
    }
}

pub(super) struct Q8_0;

impl Format for Q8_0 {
    const BYTES: usize = 34;
    const OFFSET: Option<u32> = Some(OFFSET_8);

    #[inline(always)]
    unsafe fn read(rows: &Rows, at: usize) -> ([__m512i; 8], __m512, __m512) {
        // SAFETY: the caller's promises.
        unsafe {
            let ([a, b, c, d], [e, f, g, h]) = (words16(rows, at + 2), words16(rows, at + 18));
            let mut q = [a, b, c, d, e, f, g, h];
            for q in &mut q {
                *q = unsigned(*q);
            }
            (q, half(rows, at), _mm512_setzero_ps())
        }
    }
}

pub(super) struct Iq4Nl;

impl Format for Iq4Nl {
    const BYTES: usize = 18;
    const OFFSET: Option<u32> = Some(OFFSET_8);

    #[inline(always)]
    unsafe fn read(rows: &Rows, at: usize) -> ([__m512i; 8], __m512, __m512) {
        // SAFETY: the caller's promises.
        unsafe { (levels_of(nibbles(rows, at + 2)), half(rows, at), _mm512_setzero_ps()) }
    }
}
