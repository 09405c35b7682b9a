//! K formats: super-blocks of 256 weights with integer scales for each 16 or 32.

use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::ops::Range;

use super::super::Job;
use super::unpack::{Rows, field, four, halves, in_lanes, levels, pair, pair_signed, signed, twice, twice_signed, unsigned};
use super::{HALVES, Sums};

/// A super-block of `8 * H` interleaved rows.
#[repr(C, align(64))]
pub(super) struct Block<const H: usize> {
    /// Columns `4 k .. 4 k + 4` of each row.
    q: [[__m256i; H]; 64],
    /// A group's scale, twice as 16 bits.
    scales: [[__m256i; H]; 16],
    /// Minimums (or scales, where `q` has an offset) of groups `2 p` and `2 p + 1`, 16 bits each.
    mins: [[__m256i; H]; 8],
    d: [__m256; H],
    dmin: [__m256; H],
}

/// How a format's super-blocks are read. All functions are to be inlined into kernels that enable AVX2 and F16C.
pub(super) trait Format {
    /// Of a super-block.
    const BYTES: usize;
    /// 8 of 32 weights or 16 of 16.
    const GROUPS: usize;
    /// How many products of `q` sum up to no more than 16 bits hold, in pairs; 0: `q` is signed.
    const WIDEN: usize;
    /// What `q` is too large by.
    const OFFSET: i32 = 0;
    /// Whether there are minimums.
    const MIN: bool = false;

    /// Interleaves the super-block at byte `at` into half `h`.
    unsafe fn read<const H: usize>(rows: &Rows, at: usize, to: &mut Block<H>, h: usize);
}

pub(super) struct Tile<F>(PhantomData<F>);

impl<F: Format> super::Tile for Tile<F> {
    const BLOCK: usize = 256;

    type Block = Block<HALVES>;

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn few<const C: usize>(job: &Job<'_>, rows: &Rows, first: usize, sums: &mut Sums<1, C>) {
        let mut acc = *sums;
        // SAFETY: any bytes are a block.
        let mut block: Block<1> = unsafe { std::mem::zeroed() };
        for b in 0..job.matrix.cols() / 256 {
            // SAFETY: block `b` lies within each row.
            unsafe {
                rows.prefetch(b * F::BYTES, F::BYTES);
                F::read(rows, b * F::BYTES, &mut block, 0);
                add::<F, 1, C>(job, &block, b, first, &mut acc);
            }
        }
        *sums = acc;
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn pack(rows: &Rows, blocks: Range<usize>, panel: &mut [Self::Block], half: usize) {
        for (b, block) in blocks.zip(panel) {
            // SAFETY: block `b` lies within each row.
            unsafe {
                rows.prefetch(b * F::BYTES, F::BYTES);
                F::read(rows, b * F::BYTES, block, half);
            }
        }
    }

    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn many<const C: usize>(job: &Job<'_>, panel: &[Self::Block], start: usize, first: usize, sums: &mut Sums<HALVES, C>) {
        let mut acc = *sums;
        for (b, block) in panel.iter().enumerate() {
            // SAFETY: the panel's blocks are blocks of the matrix, so the activations have them too.
            unsafe { add::<F, HALVES, C>(job, block, start + b, first, &mut acc) };
        }
        *sums = acc;
    }
}

/// Adds the products of one super-block.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "the same numbers index several arrays")]
unsafe fn add<F: Format, const H: usize, const C: usize>(
    job: &Job<'_>,
    block: &Block<H>,
    b: usize,
    first: usize,
    acc: &mut Sums<H, C>,
) {
    // SAFETY: the caller enables the instructions, block `b` and rows `first..first + C` exist in the activations.
    unsafe {
        let (x, cols) = (job.q256, job.matrix.cols());
        let q = x.q.as_ptr().add(first * cols + b * 256);
        let mut sums = [[_mm256_setzero_si256(); H]; C];
        let step = if F::WIDEN == 0 { 1 } else { F::WIDEN };
        let words = 64 / F::GROUPS;
        for (g, scale) in block.scales[..F::GROUPS].iter().enumerate() {
            let (w, q) = (&block.q[g * words..][..words], q.add(g * words * 4));
            for start in (0..words).step_by(step) {
                let mut short = [[_mm256_setzero_si256(); H]; C];
                for k in start..start + step {
                    for c in 0..C {
                        let x = four(q.add(c * cols + 4 * k));
                        for h in 0..H {
                            let product = if F::WIDEN == 0 { signed(w[k][h], x) } else { unsigned(w[k][h], x) };
                            short[c][h] = if k == start { product } else { _mm256_add_epi16(short[c][h], product) };
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
        for c in 0..C {
            let mut mins = [_mm256_setzero_si256(); H];
            if F::MIN || F::OFFSET != 0 {
                let sums = if F::GROUPS == 16 { &x.sum16 } else { &x.sum32 };
                let sums = sums.as_ptr().add((first + c) * (cols / 256 * F::GROUPS) + b * F::GROUPS);
                for (p, min) in block.mins[..F::GROUPS / 2].iter().enumerate() {
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
                acc[c][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_mul_ps(block.d[h], d), acc[c][h]);
                if F::MIN {
                    acc[c][h] = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(mins[h]), _mm256_mul_ps(block.dmin[h], d), acc[c][h]);
                }
            }
        }
    }
}

/// Scales and minimums of Q4_K and Q5_K, which share their first 16 bytes.
#[inline(always)]
unsafe fn six_bits<const H: usize>(rows: &Rows, at: usize, to: &mut Block<H>, h: usize) {
    // SAFETY: the caller's promises.
    unsafe {
        let [dd, a, b, c] = rows.words16(at);
        (to.d[h], to.dmin[h]) = halves(dd);
        let top = |v| field::<2>(v, 0x30);
        let scales = [field::<0>(a, 63), _mm256_or_si256(field::<0>(c, 15), top(a))];
        let mins = [field::<0>(b, 63), _mm256_or_si256(field::<4>(c, 15), top(b))];
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
unsafe fn signed_scales<const H: usize>(scales: [__m256i; 4], to: &mut Block<H>, h: usize) {
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
    unsafe fn read<const H: usize>(rows: &Rows, at: usize, to: &mut Block<H>, h: usize) {
        // SAFETY: the caller's promises.
        unsafe {
            six_bits(rows, at, to, h);
            for i in 0..8 {
                let k = i / 2 * 16 + i % 2 * 4;
                for (j, v) in rows.words16(at + 16 + 16 * i).into_iter().enumerate() {
                    to.q[k + j][h] = field::<0>(v, 15);
                    to.q[k + 8 + j][h] = field::<4>(v, 15);
                }
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
    unsafe fn read<const H: usize>(rows: &Rows, at: usize, to: &mut Block<H>, h: usize) {
        // SAFETY: the caller's promises.
        unsafe {
            six_bits(rows, at, to, h);
            for half in 0..2 {
                // Bit g of each byte is the fifth bit of group g.
                let mut high = rows.words16(at + 16 + 16 * half);
                for i in 0..4 {
                    let k = i * 16 + half * 4;
                    for (j, v) in rows.words16(at + 48 + 32 * i + 16 * half).into_iter().enumerate() {
                        to.q[k + j][h] = _mm256_or_si256(field::<0>(v, 15), field::<-4>(high[j], 16));
                        to.q[k + 8 + j][h] = _mm256_or_si256(field::<4>(v, 15), field::<-3>(high[j], 16));
                        high[j] = _mm256_srli_epi16::<2>(high[j]);
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

    #[inline(always)]
    unsafe fn read<const H: usize>(rows: &Rows, at: usize, to: &mut Block<H>, h: usize) {
        // SAFETY: the caller's promises.
        unsafe {
            signed_scales(rows.words16(at + 192), to, h);
            to.d[h] = rows.half(at + 208);
            for i in 0..4 {
                let (n, half) = (i / 2, i % 2);
                let a = rows.words16(at + 64 * n + 16 * half);
                let b = rows.words16(at + 64 * n + 32 + 16 * half);
                let high = rows.words16(at + 128 + 32 * n + 16 * half);
                for j in 0..4 {
                    let k = 32 * n + 4 * half + j;
                    to.q[k][h] = _mm256_or_si256(field::<0>(a[j], 15), field::<-4>(high[j], 48));
                    to.q[k + 8][h] = _mm256_or_si256(field::<0>(b[j], 15), field::<-2>(high[j], 48));
                    to.q[k + 16][h] = _mm256_or_si256(field::<4>(a[j], 15), field::<0>(high[j], 48));
                    to.q[k + 24][h] = _mm256_or_si256(field::<4>(b[j], 15), field::<2>(high[j], 48));
                }
            }
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
    unsafe fn read<const H: usize>(rows: &Rows, at: usize, to: &mut Block<H>, h: usize) {
        // SAFETY: the caller's promises.
        unsafe {
            let both = rows.words16(at);
            (to.d[h], to.dmin[h]) = halves(rows.word(at + 80));
            for g in 0..16 {
                to.scales[g][h] = twice(field::<0>(both[g / 4], 15), g as i8 % 4);
            }
            for p in 0..8 {
                to.mins[p][h] = pair(field::<4>(both[p / 2], 15), p as i8 % 2 * 2);
            }
            for i in 0..4 {
                let k = i / 2 * 32 + i % 2 * 4;
                for (j, v) in rows.words16(at + 16 + 16 * i).into_iter().enumerate() {
                    to.q[k + j][h] = field::<0>(v, 3);
                    to.q[k + 8 + j][h] = field::<2>(v, 3);
                    to.q[k + 16 + j][h] = field::<4>(v, 3);
                    to.q[k + 24 + j][h] = field::<6>(v, 3);
                }
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
    unsafe fn read<const H: usize>(rows: &Rows, at: usize, to: &mut Block<H>, h: usize) {
        // SAFETY: the caller's promises.
        unsafe {
            let (a, b, c) = (rows.word(at + 96), rows.word(at + 100), rows.word(at + 104));
            let scale = |low, high| _mm256_sub_epi8(_mm256_or_si256(low, high), _mm256_set1_epi8(32));
            let scales = [
                scale(field::<0>(a, 15), field::<-4>(c, 48)),
                scale(field::<0>(b, 15), field::<-2>(c, 48)),
                scale(field::<4>(a, 15), field::<0>(c, 48)),
                scale(field::<4>(b, 15), field::<2>(c, 48)),
            ];
            signed_scales(scales, to, h);
            to.d[h] = rows.half(at + 108);
            for half in 0..2 {
                // Bit g of each byte is the third bit of group g of 32.
                let mut high = rows.words16(at + 16 * half);
                for n in 0..2 {
                    for (j, v) in rows.words16(at + 32 + 32 * n + 16 * half).into_iter().enumerate() {
                        let k = 32 * n + 4 * half + j;
                        to.q[k][h] = _mm256_or_si256(field::<0>(v, 3), field::<-2>(high[j], 4));
                        to.q[k + 8][h] = _mm256_or_si256(field::<2>(v, 3), field::<-1>(high[j], 4));
                        to.q[k + 16][h] = _mm256_or_si256(field::<4>(v, 3), field::<0>(high[j], 4));
                        to.q[k + 24][h] = _mm256_or_si256(field::<6>(v, 3), field::<1>(high[j], 4));
                        high[j] = _mm256_srli_epi16::<4>(high[j]);
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
    unsafe fn read<const H: usize>(rows: &Rows, at: usize, to: &mut Block<H>, h: usize) {
        // SAFETY: the caller's promises.
        unsafe {
            let (first, low) = (rows.word(at), rows.word(at + 4));
            to.d[h] = halves(first).0;
            for g in 0..8 {
                // Four bits of group g at 4 g of one word, two at 16 + 2 g of the other.
                let low = _mm256_and_si256(_mm256_srl_epi32(low, _mm_cvtsi32_si128(4 * g)), _mm256_set1_epi32(15));
                let high = _mm256_and_si256(_mm256_srl_epi32(first, _mm_cvtsi32_si128(16 + 2 * g)), _mm256_set1_epi32(3));
                let scale = _mm256_or_si256(low, _mm256_slli_epi32::<4>(high));
                let scale = _mm256_sub_epi32(scale, _mm256_set1_epi32(32));
                to.scales[g as usize][h] = in_lanes(scale, [0, 1, 0, 1]);
            }
            for i in 0..8 {
                for (j, v) in rows.words16(at + 8 + 16 * i).into_iter().enumerate() {
                    to.q[8 * i + j][h] = levels(field::<0>(v, 15));
                    to.q[8 * i + 4 + j][h] = levels(field::<4>(v, 15));
                }
            }
        }
    }
}
