//! K formats: super-blocks of 256 weights with integer scales for each 16 or 32.

use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::ops::Range;

use super::super::tiles::{self, Ahead, HALVES};
use super::super::{Job, Matrix};
use super::unpack::{
    as_written, field, four, half, halves, in_lanes, levels, load, pair, pair_signed, signed, twice, twice_signed, unsigned,
    word, words16,
};
use super::{Lanes, Rows, Sums};
use crate::fetch::Pace;

/// The scales of a super-block of `8 * H` interleaved rows.
#[repr(C, align(64))]
pub(super) struct Scales<const H: usize> {
    /// A group's scale, twice as 16 bits.
    scales: [[__m256i; H]; 16],
    /// Minimums (or scales, where weights have an offset) of groups `2 p` and `2 p + 1`, 16 bits each.
    mins: [[__m256i; H]; 8],
    d: [__m256; H],
    dmin: [__m256; H],
}

/// A super-block of `8 * H` interleaved rows.
#[repr(C, align(64))]
pub(super) struct Block<const H: usize> {
    /// Columns `4 k .. 4 k + 4` of each row.
    q: [[__m256i; H]; 64],
    scales: Scales<H>,
}

/// How a format's super-blocks are read. All functions are to be inlined into kernels that enable AVX2 and F16C.
pub(super) trait Format {
    /// Of a super-block.
    const BYTES: usize;
    /// 8 of 32 weights or 16 of 16.
    const GROUPS: usize;
    /// How many products of weights sum up to no more than 16 bits hold, in pairs; 0: weights are signed.
    const WIDEN: usize;
    /// What weights are too large by.
    const OFFSET: i32 = 0;
    /// Whether there are minimums.
    const MIN: bool = false;

    /// Input rows up to which weights are fetched at the pace of the products, not a super-block of eight rows at once.
    const PACED: usize = 2;

    /// Interleaves the scales of the super-block at byte `at` into half `h`.
    unsafe fn scales<const H: usize>(rows: &Rows, at: usize, to: &mut Scales<H>, h: usize);

    /// Interleaves the weights of the super-block at byte `at`, sixteen columns at a time.
    unsafe fn weights(rows: &Rows, at: usize, to: &mut impl Sink);

    /// Whether one input row is better multiplied by [`Format::row`]: interleaving costs more than it saves.
    const BY_ROW: bool = false;

    /// The products of the super-block of weight row `r` of eight, scales included: the sum of the lanes is meant.
    unsafe fn row(_rows: &Rows, _r: usize, _at: usize, _x: *const i8) -> __m256i {
        unreachable!("formats that multiply by row say how")
    }
}

/// Where interleaved weights go.
pub(super) trait Sink {
    /// Columns `16 i .. 16 i + 16` of eight rows, each `i` of sixteen once, in any order. To be inlined as a [`Format`].
    unsafe fn sixteen(&mut self, i: usize, w: [__m256i; 4]);
}

/// Into half `h` of a panel.
struct Store<'a, const H: usize> {
    q: &'a mut [[__m256i; H]; 64],
    h: usize,
}

impl<const H: usize> Sink for Store<'_, H> {
    #[inline(always)]
    unsafe fn sixteen(&mut self, i: usize, w: [__m256i; 4]) {
        for (to, w) in self.q[4 * i..4 * i + 4].iter_mut().zip(w) {
            to[self.h] = w;
        }
    }
}

/// Times the activations of `C` input rows, at once: weights that meet few rows are not worth storing.
struct Multiply<'a, F, const C: usize> {
    x: *const i8,
    scales: &'a [[__m256i; 1]; 16],
    sums: [__m256i; C],
    ahead: &'a mut Pace,
    format: PhantomData<F>,
}

impl<F: Format, const C: usize> Sink for Multiply<'_, F, C> {
    #[inline(always)]
    unsafe fn sixteen(&mut self, i: usize, w: [__m256i; 4]) {
        if C <= F::PACED {
            self.ahead.fetch(8 * F::BYTES / 16);
        }
        // SAFETY: see `Rows`; the activations have a super-block of sixteen times sixteen columns.
        unsafe {
            let scale = self.scales[i * F::GROUPS / 16][0];
            let x = self.x.add(i * 16 * C);
            let step = if F::WIDEN == 0 { 1 } else { F::WIDEN.min(4) };
            for start in (0..4).step_by(step) {
                for c in 0..C {
                    let mut short = product::<F>(w[start], four(x.add((start * C + c) * 4)));
                    for (k, w) in (start + 1..).zip(&w[start + 1..start + step]) {
                        short = _mm256_add_epi16(short, product::<F>(*w, four(x.add((k * C + c) * 4))));
                    }
                    self.sums[c] = _mm256_add_epi32(self.sums[c], _mm256_madd_epi16(short, scale));
                }
            }
        }
    }
}

/// Lane `r` of the result is the sum of the lanes of vector `r`.
#[inline(always)]
unsafe fn lane_sums(v: [__m256i; 8]) -> __m256i {
    // SAFETY: the caller enables AVX2.
    unsafe {
        // Of four vectors: their sums over the low halves, then over the high ones.
        let four = |a, b, c, d| _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
        let (low, high) = (four(v[0], v[1], v[2], v[3]), four(v[4], v[5], v[6], v[7]));
        _mm256_add_epi32(_mm256_permute2x128_si256::<0x20>(low, high), _mm256_permute2x128_si256::<0x31>(low, high))
    }
}

/// Sums of neighbouring products, 16 bits each.
#[inline(always)]
unsafe fn product<F: Format>(w: __m256i, x: __m256i) -> __m256i {
    // SAFETY: the caller enables AVX2.
    unsafe { if F::WIDEN == 0 { signed(w, x) } else { unsigned(w, x) } }
}

pub(super) struct Tile<F>(PhantomData<F>);

impl<F: Format> tiles::Tile for Tile<F> {
    type Lanes = Lanes;

    const BLOCK: usize = 256;

    type Block = Block<HALVES>;

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn few<const C: usize>(job: &Job<'_>, row: usize, first: usize, sums: &mut Sums<1, C>) {
        let (rows, mut acc) = (&Rows::new(job.matrix, row), *sums);
        let mut ahead = rows.ahead();
        // SAFETY: any bytes are scales.
        let mut scales: Scales<1> = unsafe { std::mem::zeroed() };
        let x = &job.q256.q;
        for b in 0..job.matrix.cols() / 256 {
            // SAFETY: block `b` lies within each row and within the activations.
            unsafe {
                if C > F::PACED {
                    rows.prefetch(b * F::BYTES, F::BYTES);
                }
                F::scales(rows, b * F::BYTES, &mut scales, 0);
                let (x, mut sums) = (x.words(first, b * 256), [[_mm256_setzero_si256(); 1]; C]);
                if C == 1 && F::BY_ROW {
                    let mut each = [_mm256_setzero_si256(); 8];
                    for (r, sum) in each.iter_mut().enumerate() {
                        ahead.fetch(F::BYTES);
                        *sum = F::row(rows, r, b * F::BYTES, x);
                    }
                    sums[0][0] = lane_sums(each);
                } else {
                    let mut multiply = Multiply::<F, C> {
                        x,
                        scales: &scales.scales,
                        sums: sums.map(|sum| sum[0]),
                        ahead: &mut ahead,
                        format: PhantomData,
                    };
                    F::weights(rows, b * F::BYTES, &mut multiply);
                    sums = multiply.sums.map(|sum| [sum]);
                }
                settle::<F, 1, C>(job, &scales, &sums, b, first, &mut acc);
            }
        }
        *sums = acc;
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn pack(matrix: &Matrix, row: usize, blocks: Range<usize>, panel: &mut [Self::Block], half: usize) {
        let rows = &Rows::still(matrix, row);
        for (b, block) in blocks.zip(panel) {
            // SAFETY: block `b` lies within each row.
            unsafe {
                F::scales(rows, b * F::BYTES, &mut block.scales, half);
                F::weights(rows, b * F::BYTES, &mut Store { q: &mut block.q, h: half });
            }
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
        let mut acc = *sums;
        let x = &job.q256.q;
        for (b, block) in panel.iter().enumerate() {
            ahead.fetch(1);
            // SAFETY: the panel's blocks are blocks of the matrix, so the activations have them too.
            unsafe {
                let sums = products::<F, HALVES, C>(block, x.words(first, (start + b) * 256));
                settle::<F, HALVES, C>(job, &block.scales, &sums, start + b, first, &mut acc);
            }
        }
        *sums = acc;
    }
}

/// The integer sums of a super-block's products, scales included.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "the same numbers index several arrays")]
unsafe fn products<F: Format, const H: usize, const C: usize>(block: &Block<H>, x: *const i8) -> [[__m256i; H]; C] {
    // SAFETY: the caller enables the instructions; `x` is a super-block of `C` input rows.
    unsafe {
        let mut sums = [[_mm256_setzero_si256(); H]; C];
        let step = if F::WIDEN == 0 { 1 } else { F::WIDEN };
        let words = 64 / F::GROUPS;
        for (g, scale) in block.scales.scales[..F::GROUPS].iter().enumerate() {
            let (w, x) = (&block.q[g * words..][..words], x.add(g * words * 4 * C));
            for start in (0..words).step_by(step) {
                let mut short = [[_mm256_setzero_si256(); H]; C];
                for k in start..start + step {
                    for c in 0..C {
                        let x = four(x.add((k * C + c) * 4));
                        for h in 0..H {
                            let product = product::<F>(w[k][h], x);
                            short[c][h] = if k == start { product } else { as_written(_mm256_add_epi16(short[c][h], product)) };
                        }
                    }
                }
                for c in 0..C {
                    for h in 0..H {
                        sums[c][h] = _mm256_add_epi32(sums[c][h], _mm256_madd_epi16(short[c][h], scale[h]));
                    }
                }
            }
        }
        sums
    }
}

/// Adds a super-block's sums to those of the row, and what minimums and offsets make.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "the same numbers index several arrays")]
unsafe fn settle<F: Format, const H: usize, const C: usize>(
    job: &Job<'_>,
    scales: &Scales<H>,
    sums: &[[__m256i; H]; C],
    b: usize,
    first: usize,
    acc: &mut Sums<H, C>,
) {
    // SAFETY: the caller enables the instructions, block `b` and rows `first..first + C` exist in the activations.
    unsafe {
        let (x, cols) = (job.q256, job.matrix.cols());
        for c in 0..C {
            let mut mins = [_mm256_setzero_si256(); H];
            if F::MIN || F::OFFSET != 0 {
                let sums = if F::GROUPS == 16 { &x.sum16 } else { &x.sum32 };
                let sums = sums.as_ptr().add((first + c) * (cols / 256 * F::GROUPS) + b * F::GROUPS);
                for (p, min) in scales.mins[..F::GROUPS / 2].iter().enumerate() {
                    let two = four(sums.add(2 * p).cast());
                    for h in 0..H {
                        mins[h] = _mm256_add_epi32(mins[h], _mm256_madd_epi16(min[h], two));
                    }
                }
            }
            let d = _mm256_broadcast_ss(&*x.d.as_ptr().add((first + c) * (cols / 256) + b));
            for h in 0..H {
                let mut sum = sums[c][h];
                if F::OFFSET != 0 {
                    sum = _mm256_sub_epi32(sum, _mm256_mullo_epi32(mins[h], _mm256_set1_epi32(F::OFFSET)));
                }
                acc[c][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_mul_ps(scales.d[h], d), acc[c][h]);
                if F::MIN {
                    acc[c][h] = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(mins[h]), _mm256_mul_ps(scales.dmin[h], d), acc[c][h]);
                }
            }
        }
    }
}

/// Scales and minimums of Q4_K and Q5_K, which share their first 16 bytes.
#[inline(always)]
unsafe fn six_bits<const H: usize>(rows: &Rows, at: usize, to: &mut Scales<H>, h: usize) {
    // SAFETY: the caller's promises.
    unsafe {
        let [dd, a, b, c] = words16(rows, at);
        (to.d[h], to.dmin[h]) = halves(dd);
        let scales = [field::<0>(a, 63), _mm256_or_si256(field::<0>(c, 15), field::<2>(a, 0x30))];
        let mins = [field::<0>(b, 63), _mm256_or_si256(field::<4>(c, 15), field::<2>(b, 0x30))];
        for g in 0..8 {
            to.scales[g][h] = twice(scales[g / 4], g as i8 % 4);
        }
        for p in 0..4 {
            to.mins[p][h] = pair(mins[p / 2], p as i8 % 2 * 2);
        }
    }
}

/// Signed scales for each 16 weights, also as the minimums' place wants them.
#[inline(always)]
unsafe fn signed_scales<const H: usize>(scales: [__m256i; 4], to: &mut Scales<H>, h: usize) {
    // SAFETY: the caller's promises.
    unsafe {
        for g in 0..16 {
            to.scales[g][h] = twice_signed(scales[g / 4], g as i8 % 4);
        }
        for p in 0..8 {
            to.mins[p][h] = pair_signed(scales[p / 2], p as i8 % 2 * 2);
        }
    }
}

pub(super) struct Q4K;

impl Format for Q4K {
    const BYTES: usize = 144;
    const GROUPS: usize = 8;
    const WIDEN: usize = 8; // 8 * 2 * 15 * 127 = 30480
    const MIN: bool = true;

    #[inline(always)]
    unsafe fn scales<const H: usize>(rows: &Rows, at: usize, to: &mut Scales<H>, h: usize) {
        // SAFETY: the caller's promises.
        unsafe { six_bits(rows, at, to, h) };
    }

    #[inline(always)]
    unsafe fn weights(rows: &Rows, at: usize, to: &mut impl Sink) {
        for i in 0..8 {
            // SAFETY: the caller's promises.
            unsafe {
                let v = words16(rows, at + 16 + 16 * i);
                let k = i / 2 * 4 + i % 2;
                to.sixteen(k, fields::<0>(v, 15));
                to.sixteen(k + 2, fields::<4>(v, 15));
            }
        }
    }
}

pub(super) struct Q5K;

impl Format for Q5K {
    const BYTES: usize = 176;
    const GROUPS: usize = 8;
    const WIDEN: usize = 4; // 4 * 2 * 31 * 127 = 31496
    const MIN: bool = true;

    #[inline(always)]
    unsafe fn scales<const H: usize>(rows: &Rows, at: usize, to: &mut Scales<H>, h: usize) {
        // SAFETY: the caller's promises.
        unsafe { six_bits(rows, at, to, h) };
    }

    #[inline(always)]
    unsafe fn weights(rows: &Rows, at: usize, to: &mut impl Sink) {
        for half in 0..2 {
            // SAFETY: the caller's promises.
            unsafe {
                // Bit g of each byte is the fifth bit of group g.
                let mut high = words16(rows, at + 16 + 16 * half);
                for i in 0..4 {
                    let v = words16(rows, at + 48 + 32 * i + 16 * half);
                    to.sixteen(4 * i + half, both(fields::<0>(v, 15), fields::<-4>(high, 16)));
                    to.sixteen(4 * i + half + 2, both(fields::<4>(v, 15), fields::<-3>(high, 16)));
                    for high in &mut high {
                        *high = _mm256_srli_epi16::<2>(*high);
                    }
                }
            }
        }
    }
}

pub(super) struct Q6K;

impl Format for Q6K {
    const BYTES: usize = 210;
    const GROUPS: usize = 16;
    const WIDEN: usize = 2; // 2 * 2 * 63 * 127 = 32004
    const OFFSET: i32 = 32;
    const PACED: usize = 4;

    #[inline(always)]
    unsafe fn scales<const H: usize>(rows: &Rows, at: usize, to: &mut Scales<H>, h: usize) {
        // SAFETY: the caller's promises.
        unsafe {
            signed_scales(words16(rows, at + 192), to, h);
            to.d[h] = half(rows, at + 208);
        }
    }

    #[inline(always)]
    unsafe fn weights(rows: &Rows, at: usize, to: &mut impl Sink) {
        for i in 0..4 {
            // SAFETY: the caller's promises.
            unsafe {
                let (n, half) = (i / 2, i % 2);
                let high = words16(rows, at + 128 + 32 * n + 16 * half);
                let a = words16(rows, at + 64 * n + 16 * half);
                to.sixteen(8 * n + half, both(fields::<0>(a, 15), fields::<-4>(high, 48)));
                to.sixteen(8 * n + half + 4, both(fields::<4>(a, 15), fields::<0>(high, 48)));
                let b = words16(rows, at + 64 * n + 32 + 16 * half);
                to.sixteen(8 * n + half + 2, both(fields::<0>(b, 15), fields::<-2>(high, 48)));
                to.sixteen(8 * n + half + 6, both(fields::<4>(b, 15), fields::<2>(high, 48)));
            }
        }
    }

    const BY_ROW: bool = true;

    #[inline(always)]
    unsafe fn row(rows: &Rows, r: usize, at: usize, x: *const i8) -> __m256i {
        // SAFETY: the caller's promises.
        unsafe {
            let (block, low, two) = (rows.byte(r, at), _mm256_set1_epi8(15), _mm256_set1_epi8(48));
            let scales = _mm_loadu_si128(block.add(192).cast());
            let mut sum = _mm256_setzero_si256();
            for n in 0..2 {
                let (a, b) = (load(block.add(64 * n)), load(block.add(64 * n + 32)));
                let high = load(block.add(128 + 32 * n));
                let quarters = [
                    _mm256_or_si256(_mm256_and_si256(a, low), _mm256_and_si256(_mm256_slli_epi16::<4>(high), two)),
                    _mm256_or_si256(_mm256_and_si256(b, low), _mm256_and_si256(_mm256_slli_epi16::<2>(high), two)),
                    _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16::<4>(a), low), _mm256_and_si256(high, two)),
                    _mm256_or_si256(
                        _mm256_and_si256(_mm256_srli_epi16::<4>(b), low),
                        _mm256_and_si256(_mm256_srli_epi16::<2>(high), two),
                    ),
                ];
                for (i, w) in (4 * n..).zip(quarters) {
                    let product = unsigned(w, load(x.add(32 * i).cast()));
                    // Eight times the scale of the lower sixteen columns, then of the upper ones.
                    let pair = _mm_add_epi8(_mm_set1_epi8(2 * i as i8), _mm_set_epi64x(0x0101_0101_0101_0101, 0));
                    let scale = _mm256_cvtepi8_epi16(_mm_shuffle_epi8(scales, pair));
                    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(product, scale));
                }
            }
            sum
        }
    }
}

pub(super) struct Q2K;

impl Format for Q2K {
    const BYTES: usize = 84;
    const GROUPS: usize = 16;
    const WIDEN: usize = 4;
    const MIN: bool = true;

    #[inline(always)]
    unsafe fn scales<const H: usize>(rows: &Rows, at: usize, to: &mut Scales<H>, h: usize) {
        // SAFETY: the caller's promises.
        unsafe {
            let both = words16(rows, at);
            (to.d[h], to.dmin[h]) = halves(word(rows, at + 80));
            for g in 0..16 {
                to.scales[g][h] = twice(field::<0>(both[g / 4], 15), g as i8 % 4);
            }
            for p in 0..8 {
                to.mins[p][h] = pair(field::<4>(both[p / 2], 15), p as i8 % 2 * 2);
            }
        }
    }

    #[inline(always)]
    unsafe fn weights(rows: &Rows, at: usize, to: &mut impl Sink) {
        for i in 0..4 {
            // SAFETY: the caller's promises.
            unsafe {
                let (v, k) = (words16(rows, at + 16 + 16 * i), i / 2 * 8 + i % 2);
                to.sixteen(k, fields::<0>(v, 3));
                to.sixteen(k + 2, fields::<2>(v, 3));
                to.sixteen(k + 4, fields::<4>(v, 3));
                to.sixteen(k + 6, fields::<6>(v, 3));
            }
        }
    }
}

pub(super) struct Q3K;

impl Format for Q3K {
    const BYTES: usize = 110;
    const GROUPS: usize = 16;
    const WIDEN: usize = 4;
    const OFFSET: i32 = 4;

    #[inline(always)]
    unsafe fn scales<const H: usize>(rows: &Rows, at: usize, to: &mut Scales<H>, h: usize) {
        // SAFETY: the caller's promises.
        unsafe {
            let (a, b, c) = (word(rows, at + 96), word(rows, at + 100), word(rows, at + 104));
            let mut scales = [
                _mm256_or_si256(field::<0>(a, 15), field::<-4>(c, 48)),
                _mm256_or_si256(field::<0>(b, 15), field::<-2>(c, 48)),
                _mm256_or_si256(field::<4>(a, 15), field::<0>(c, 48)),
                _mm256_or_si256(field::<4>(b, 15), field::<2>(c, 48)),
            ];
            for scale in &mut scales {
                *scale = _mm256_sub_epi8(*scale, _mm256_set1_epi8(32));
            }
            signed_scales(scales, to, h);
            to.d[h] = half(rows, at + 108);
        }
    }

    #[inline(always)]
    unsafe fn weights(rows: &Rows, at: usize, to: &mut impl Sink) {
        for half in 0..2 {
            // SAFETY: the caller's promises.
            unsafe {
                // Bit g of each byte is the third bit of group g of 32.
                let mut high = words16(rows, at + 16 * half);
                for n in 0..2 {
                    let (v, k) = (words16(rows, at + 32 + 32 * n + 16 * half), 8 * n + half);
                    to.sixteen(k, both(fields::<0>(v, 3), fields::<-2>(high, 4)));
                    to.sixteen(k + 2, both(fields::<2>(v, 3), fields::<-1>(high, 4)));
                    to.sixteen(k + 4, both(fields::<4>(v, 3), fields::<0>(high, 4)));
                    to.sixteen(k + 6, both(fields::<6>(v, 3), fields::<1>(high, 4)));
                    for high in &mut high {
                        *high = _mm256_srli_epi16::<4>(*high);
                    }
                }
            }
        }
    }
}

pub(super) struct Iq4Xs;

impl Format for Iq4Xs {
    const BYTES: usize = 136;
    const GROUPS: usize = 8;
    const WIDEN: usize = 0;

    #[inline(always)]
    unsafe fn scales<const H: usize>(rows: &Rows, at: usize, to: &mut Scales<H>, h: usize) {
        // SAFETY: the caller's promises.
        unsafe {
            let (first, low) = (word(rows, at), word(rows, at + 4));
            to.d[h] = halves(first).0;
            for g in 0..8 {
                // Four bits of group g at 4 g of one word, two at 16 + 2 g of the other.
                let low = _mm256_and_si256(_mm256_srl_epi32(low, _mm_cvtsi32_si128(4 * g)), _mm256_set1_epi32(15));
                let high = _mm256_and_si256(_mm256_srl_epi32(first, _mm_cvtsi32_si128(16 + 2 * g)), _mm256_set1_epi32(3));
                let scale = _mm256_or_si256(low, _mm256_slli_epi32::<4>(high));
                let scale = _mm256_sub_epi32(scale, _mm256_set1_epi32(32));
                to.scales[g as usize][h] = in_lanes(scale, [0, 1, 0, 1]);
            }
        }
    }

    #[inline(always)]
    unsafe fn weights(rows: &Rows, at: usize, to: &mut impl Sink) {
        for i in 0..8 {
            // SAFETY: the caller's promises.
            unsafe {
                let v = words16(rows, at + 8 + 16 * i);
                let (mut low, mut high) = (fields::<0>(v, 15), fields::<4>(v, 15));
                for v in low.iter_mut().chain(&mut high) {
                    *v = levels(*v);
                }
                to.sixteen(2 * i, low);
                to.sixteen(2 * i + 1, high);
            }
        }
    }
}

/// [`field`] of each.
#[inline(always)]
unsafe fn fields<const SHIFT: i32>(v: [__m256i; 4], mask: u8) -> [__m256i; 4] {
    // SAFETY: the caller's promises.
    unsafe { [field::<SHIFT>(v[0], mask), field::<SHIFT>(v[1], mask), field::<SHIFT>(v[2], mask), field::<SHIFT>(v[3], mask)] }
}

/// Low and high bits together.
#[inline(always)]
unsafe fn both(a: [__m256i; 4], b: [__m256i; 4]) -> [__m256i; 4] {
    // SAFETY: the caller's promises.
    unsafe {
        [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1]), _mm256_or_si256(a[2], b[2]), _mm256_or_si256(a[3], b[3])]
    }
}
