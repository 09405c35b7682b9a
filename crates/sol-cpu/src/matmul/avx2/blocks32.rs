//! Formats of 32-blocks: one scale, and perhaps one minimum, for each 32 weights.

use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::ops::Range;

use super::super::tiles::{self, Ahead, HALVES};
use super::super::{Job, Matrix, Panel};
use super::unpack::{as_written, field, four, half, halves, in_lanes, levels, signed, unsigned, word, words16};
use super::{Lanes, Rows, Sums};

/// A block of `8 * H` interleaved rows.
#[repr(C, align(64))]
pub(super) struct Block<const H: usize> {
    /// Columns `4 k .. 4 k + 4` of each row.
    q: [[__m256i; H]; 8],
    d: [__m256; H],
    min: [__m256; H],
}

/// How a format's blocks are read. All functions are to be inlined into kernels that enable AVX2 and F16C.
pub(super) trait Format {
    /// Of a block.
    const BYTES: usize;
    /// How many products of `q` sum up to no more than 16 bits hold, in pairs; 0: `q` is signed.
    const WIDEN: usize;
    /// What `q` is too large by.
    const OFFSET: i32 = 0;
    /// Whether there is a minimum.
    const MIN: bool = false;

    /// Interleaves the block at byte `at`: `q`, scale, minimum.
    unsafe fn read(rows: &Rows, at: usize) -> ([__m256i; 8], __m256, __m256);
}

pub(super) struct Tile<F>(PhantomData<F>);

impl<F: Format> tiles::Tile for Tile<F> {
    type Lanes = Lanes;

    const BLOCK: usize = 32;

    type Block = Block<HALVES>;

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn few<const C: usize>(job: &Job<'_>, row: usize, first: usize, sums: &mut Sums<1, C>) {
        let (rows, mut acc) = (&Rows::new(job.matrix, row), *sums);
        let (mut ahead, blocks) = (rows.ahead(), job.matrix.cols() / 32);
        for start in (0..blocks).step_by(Panel::COLS / 32) {
            // SAFETY: the blocks lie within each row, and the activations have them too.
            unsafe {
                let mut x = Input::new(job, first, start);
                for b in start..blocks.min(start + Panel::COLS / 32) {
                    if C == 1 {
                        ahead.fetch(8 * F::BYTES);
                    } else {
                        rows.prefetch(b * F::BYTES, F::BYTES);
                    }
                    let (q, d, min) = F::read(rows, b * F::BYTES);
                    let block = Block { q: q.map(|q| [q]), d: [d], min: [min] };
                    add::<F, 1, C>(&block, &x, &mut acc);
                    x.next::<C>();
                }
            }
        }
        *sums = acc;
    }

    #[target_feature(enable = "avx2,fma,f16c")]
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

    #[target_feature(enable = "avx2,fma,f16c")]
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
        let mut acc = *sums;
        // SAFETY: the panel's blocks are blocks of the matrix, so the activations have them too.
        let mut x = unsafe { Input::new(job, first, start) };
        for blocks in panel.chunks(Ahead::EVERY / 32) {
            ahead.fetch(1);
            for block in blocks {
                // SAFETY: as above.
                unsafe { add::<F, HALVES, C>(block, &x, &mut acc) };
                x.next::<C>();
            }
        }
        *sums = acc;
    }
}

/// Where a block's activations of a few input rows lie.
struct Input {
    q: *const i8,
    d: *const f32,
    sum: *const i32,
    dsum: *const f32,
    /// From one row's scales and sums to the next one's.
    row: usize,
}

impl Input {
    /// Block `b` of input rows from `first` on.
    ///
    /// # Safety
    /// There are such.
    #[inline(always)]
    unsafe fn new(job: &Job<'_>, first: usize, b: usize) -> Self {
        let (x, row) = (job.q32, job.matrix.cols() / 32);
        let at = first * row + b;
        // SAFETY: the caller's promise.
        unsafe {
            let (d, sum, dsum) = (x.d.as_ptr().add(at), x.sum.as_ptr().add(at), x.dsum.as_ptr().add(at));
            Self { q: x.q.words(first, b * 32), d, sum, dsum, row }
        }
    }

    /// Goes on to the next block, of `C` rows, if that lies in the same piece of columns.
    #[inline(always)]
    fn next<const C: usize>(&mut self) {
        self.q = self.q.wrapping_add(32 * C);
        (self.d, self.sum, self.dsum) = (self.d.wrapping_add(1), self.sum.wrapping_add(1), self.dsum.wrapping_add(1));
    }
}

/// Adds the products of one block.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "the same numbers index several arrays")]
unsafe fn add<F: Format, const H: usize, const C: usize>(block: &Block<H>, x: &Input, acc: &mut Sums<H, C>) {
    // SAFETY: the caller enables the instructions; `x` is a block of `C` input rows.
    unsafe {
        let q = x.q;
        let mut sums = [[_mm256_setzero_si256(); H]; C];
        let ones = _mm256_set1_epi16(1);
        if F::WIDEN == 0 {
            for (k, w) in block.q.iter().enumerate() {
                for c in 0..C {
                    let x = four(q.add((k * C + c) * 4));
                    for h in 0..H {
                        let product = _mm256_madd_epi16(signed(w[h], x), ones);
                        sums[c][h] = if k == 0 { product } else { _mm256_add_epi32(sums[c][h], product) };
                    }
                }
            }
        } else {
            for start in (0..8).step_by(if F::WIDEN == 0 { 8 } else { F::WIDEN }) {
                let mut short = [[_mm256_setzero_si256(); H]; C];
                for k in start..start + F::WIDEN {
                    for c in 0..C {
                        let x = four(q.add((k * C + c) * 4));
                        for h in 0..H {
                            let product = unsigned(block.q[k][h], x);
                            short[c][h] = match k == start {
                                true => product,
                                // In a tree where there is room for it: a chain takes longer.
                                false if C * H == 1 => _mm256_add_epi16(short[c][h], product),
                                false => as_written(_mm256_add_epi16(short[c][h], product)),
                            };
                        }
                    }
                }
                for c in 0..C {
                    for h in 0..H {
                        let wide = _mm256_madd_epi16(short[c][h], ones);
                        sums[c][h] = if start == 0 { wide } else { _mm256_add_epi32(sums[c][h], wide) };
                    }
                }
            }
        }
        for c in 0..C {
            let at = c * x.row;
            let d = _mm256_broadcast_ss(&*x.d.add(at));
            for h in 0..H {
                let mut sum = sums[c][h];
                if F::OFFSET != 0 {
                    sum = _mm256_sub_epi32(sum, _mm256_set1_epi32(F::OFFSET * *x.sum.add(at)));
                }
                acc[c][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_mul_ps(block.d[h], d), acc[c][h]);
                if F::MIN {
                    acc[c][h] = _mm256_fmadd_ps(block.min[h], _mm256_broadcast_ss(&*x.dsum.add(at)), acc[c][h]);
                }
            }
        }
    }
}

/// The 32 nibbles whose 16 bytes start at `at`.
#[inline(always)]
unsafe fn nibbles(rows: &Rows, at: usize) -> [__m256i; 8] {
    // SAFETY: the caller's promises.
    unsafe {
        let [a, b, c, d] = words16(rows, at);
        [
            field::<0>(a, 15),
            field::<0>(b, 15),
            field::<0>(c, 15),
            field::<0>(d, 15),
            field::<4>(a, 15),
            field::<4>(b, 15),
            field::<4>(c, 15),
            field::<4>(d, 15),
        ]
    }
}

/// The 32 five-bit numbers whose fifth bits start at `high` and whose nibbles start at `at`.
#[inline(always)]
unsafe fn five_bits(rows: &Rows, high: usize, at: usize) -> [__m256i; 8] {
    // SAFETY: the caller's promises.
    unsafe {
        let (mut q, bits) = (nibbles(rows, at), word(rows, high));
        for (k, q) in q.iter_mut().enumerate() {
            // Bits 4 k .. 4 k + 4 of the lane, one to a byte.
            let mine = _mm256_set1_epi32(if k % 2 == 0 { 0x0804_0201 } else { 0x8040_2010u32 as i32 });
            let byte = in_lanes(bits, [k as i8 / 2; 4]);
            let set = _mm256_cmpeq_epi8(_mm256_and_si256(byte, mine), mine);
            *q = _mm256_or_si256(*q, _mm256_and_si256(set, _mm256_set1_epi8(16)));
        }
        q
    }
}

pub(super) struct Q4_0;

impl Format for Q4_0 {
    const BYTES: usize = 18;
    const WIDEN: usize = 8; // 8 * 2 * 15 * 127 = 30480
    const OFFSET: i32 = 8;

    #[inline(always)]
    unsafe fn read(rows: &Rows, at: usize) -> ([__m256i; 8], __m256, __m256) {
        // SAFETY: the caller's promises.
        unsafe { (nibbles(rows, at + 2), half(rows, at), super::zero()) }
    }
}

pub(super) struct Q4_1;

impl Format for Q4_1 {
    const BYTES: usize = 20;
    const WIDEN: usize = 8;
    const MIN: bool = true;

    #[inline(always)]
    unsafe fn read(rows: &Rows, at: usize) -> ([__m256i; 8], __m256, __m256) {
        // SAFETY: the caller's promises.
        unsafe {
            let (d, min) = halves(word(rows, at));
            (nibbles(rows, at + 4), d, min)
        }
    }
}

pub(super) struct Q5_0;

impl Format for Q5_0 {
    const BYTES: usize = 22;
    const WIDEN: usize = 4; // 4 * 2 * 31 * 127 = 31496
    const OFFSET: i32 = 16;

    #[inline(always)]
    unsafe fn read(rows: &Rows, at: usize) -> ([__m256i; 8], __m256, __m256) {
        // SAFETY: the caller's promises.
        unsafe { (five_bits(rows, at + 2, at + 6), half(rows, at), super::zero()) }
    }
}

pub(super) struct Q5_1;

impl Format for Q5_1 {
    const BYTES: usize = 24;
    const WIDEN: usize = 4;
    const MIN: bool = true;

    #[inline(always)]
    unsafe fn read(rows: &Rows, at: usize) -> ([__m256i; 8], __m256, __m256) {
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
    const WIDEN: usize = 0;

    #[inline(always)]
    unsafe fn read(rows: &Rows, at: usize) -> ([__m256i; 8], __m256, __m256) {
        // SAFETY: the caller's promises.
        unsafe {
            let ([a, b, c, d], [e, f, g, h]) = (words16(rows, at + 2), words16(rows, at + 18));
            ([a, b, c, d, e, f, g, h], half(rows, at), super::zero())
        }
    }
}

pub(super) struct Iq4Nl;

impl Format for Iq4Nl {
    const BYTES: usize = 18;
    const WIDEN: usize = 0;

    #[inline(always)]
    unsafe fn read(rows: &Rows, at: usize) -> ([__m256i; 8], __m256, __m256) {
        // SAFETY: the caller's promises.
        unsafe {
            let mut q = nibbles(rows, at + 2);
            for q in &mut q {
                *q = levels(*q);
            }
            (q, half(rows, at), super::zero())
        }
    }
}
