//! K formats: super-blocks of 256 weights with integer scales for each 16 or 32.
//!
//! A weight times its scale is more than 8 bits. Tiles multiply two numbers of 8 bits each and sum up the products of a super-block
//! apart: what the scale's lower and higher bits make of the weight or, where it is signed, the lower and higher bits of the product.

use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::ops::Range;

use super::super::super::activations::TILE;
use super::super::super::tiles::{Ahead, HALVES};
use super::super::super::{Job, Matrix};
use super::super::Rows;
use super::super::blocks256::settle;
use super::super::k_formats::{Format, Scales, Sink};
use super::super::unpack::in_lanes;
use super::Made;
use super::registers::{ROW, Sums, add, load, store, zero};

/// A super-block of rows.
#[repr(C, align(64))]
pub(super) struct Block {
    /// Columns `4 k .. 4 k + 4` of each row, low and high numbers.
    q: [[[__m512i; 64]; 2]; HALVES],
    scales: Scales<HALVES>,
}

/// The logarithm of what high numbers count.
const fn high<F: Format>() -> i32 {
    if F::OFFSET.is_some() { 8 } else { 3 }
}

/// Weights times their scales.
struct Store<'a, F> {
    q: &'a mut [[__m512i; 64]; 2],
    scales: &'a [[__m512i; HALVES]; 16],
    half: usize,
    ahead: &'a mut Ahead,
    format: PhantomData<F>,
}

impl<F: Format> Sink for Store<'_, F> {
    #[inline(always)]
    unsafe fn columns(&mut self, col: usize, w: &[__m512i]) {
        self.ahead.fetch(4 * w.len());
        let of_group = 64 / F::GROUPS;
        for (k, w) in (col / 4..).step_by(of_group).zip(w.chunks(of_group)) {
            let scale = self.scales[k / of_group][self.half];
            let (low, high) = self.q.split_at_mut(1);
            // SAFETY: the caller enables the instructions.
            unsafe {
                match F::OFFSET {
                    Some(offset) => products::<F>(w, scale, offset, &mut low[0][k..], &mut high[0][k..]),
                    None => by_parts(w, scale, &mut low[0][k..], &mut high[0][k..]),
                }
            }
        }
    }
}

/// Times the lower three bits of the scale, and the higher three.
#[inline(always)]
unsafe fn by_parts(w: &[__m512i], scale: __m512i, low: &mut [__m512i], high: &mut [__m512i]) {
    // SAFETY: the caller enables the instructions.
    unsafe {
        let (both, bits) = (_mm512_or_si512(scale, _mm512_slli_epi32::<16>(scale)), _mm512_set1_epi16(7));
        let parts = [_mm512_and_si512(both, bits), _mm512_and_si512(_mm512_srli_epi16::<3>(both), bits)];
        for ((w, low), high) in w.iter().zip(low).zip(high) {
            // Two products at once: the lower one, of five bits by three, has no more than eight.
            *low = _mm512_mullo_epi16(*w, parts[0]);
            *high = _mm512_mullo_epi16(*w, parts[1]);
        }
    }
}

/// Products less those of the offset: their lower eight bits, and the rest, which is signed.
#[inline(always)]
unsafe fn products<F: Format>(w: &[__m512i], scale: __m512i, offset: u32, low: &mut [__m512i], high: &mut [__m512i]) {
    /// Bits of the second where the first has ones, else of the third.
    const SELECT: i32 = 0xCA;
    // SAFETY: the caller enables the instructions.
    unsafe {
        let [even, odd] = [in_lanes(scale, [0, -1, 0, -1]), in_lanes(scale, [-1, 0, -1, 0])];
        let off = _mm512_sll_epi16(in_lanes(scale, [0, 1, 0, 1]), _mm_cvtsi32_si128(offset as i32));
        let first = _mm512_set1_epi16(0xFF);
        for ((w, low), high) in w.iter().zip(low).zip(high) {
            let a = _mm512_sub_epi16(_mm512_maddubs_epi16(*w, even), off);
            let b = _mm512_sub_epi16(_mm512_maddubs_epi16(*w, odd), off);
            *low = _mm512_ternarylogic_epi32::<SELECT>(first, a, _mm512_slli_epi16::<8>(b));
            *high = _mm512_ternarylogic_epi32::<SELECT>(first, _mm512_srli_epi16::<8>(a), b);
        }
    }
}

pub(super) struct Tile<F>(PhantomData<F>);

impl<F: Format> super::Tile for Tile<F> {
    const BLOCK: usize = 256;

    const WIDTH: usize = 64;

    type Block = Block;

    const STEP: usize = 1;

    /// Low and high numbers' of the first sixteen rows, then of the others.
    type Sums = [Sums; 4];

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn pack(matrix: &Matrix, row: usize, blocks: Range<usize>, panel: &mut [Block], half: usize, ahead: &mut Ahead) {
        let rows = &Rows::still(matrix, row);
        for (b, Block { q, scales }) in blocks.zip(panel) {
            // SAFETY: block `b` lies within each row.
            unsafe {
                F::scales(rows, b * F::BYTES, scales, half);
                let (q, scales, format) = (&mut q[half], &scales.scales, PhantomData::<F>);
                F::weights::<8, _>(rows, b * F::BYTES, &mut Store { q, scales, half, ahead, format });
            }
        }
    }

    #[inline(always)]
    unsafe fn multiply(
        job: &Job<'_>,
        panel: &[Block],
        b: usize,
        first: usize,
        sums: &mut [Sums; 4],
        next: *const i8,
        before: &Made<'_, Self>,
    ) {
        let [[low, high], [other_low, other_high]] = &panel[0].q;
        // Weights meet four tiles of activations, which in the last rows may be smaller.
        let columns = TILE.min(job.x.len() / job.matrix.cols() - first) * ROW;
        // SAFETY: the caller's promises.
        unsafe {
            let x = Self::activations(job, b, first);
            zero::<0>();
            zero::<1>();
            zero::<2>();
            zero::<3>();
            for k in 0..4 {
                load::<4>(x.add(k * columns), ROW);
                load::<6>(tile(low, k), ROW);
                load::<7>(tile(high, k), ROW);
                add::<0, 4, 6>(true);
                before.meanwhile(job, 4 * k, next);
                add::<1, 4, 7>(F::OFFSET.is_none());
                before.meanwhile(job, 4 * k + 1, next);
                load::<6>(tile(other_low, k), ROW);
                load::<7>(tile(other_high, k), ROW);
                add::<2, 4, 6>(true);
                before.meanwhile(job, 4 * k + 2, next);
                add::<3, 4, 7>(F::OFFSET.is_none());
                before.meanwhile(job, 4 * k + 3, next);
            }
            let [a, b, c, d] = sums;
            store::<0>(a);
            store::<1>(b);
            store::<2>(c);
            store::<3>(d);
        }
    }

    #[inline(always)]
    unsafe fn activations(job: &Job<'_>, b: usize, first: usize) -> *const i8 {
        // SAFETY: the caller's promises.
        unsafe { job.q256.q.tile(first, b * 256) }
    }

    #[inline(always)]
    unsafe fn settle(made: &Made<'_, Self>, job: &Job<'_>, c: usize, acc: &mut [__m512; HALVES]) {
        let (scales, sums) = (&made.panel[0].scales, made.sums);
        // SAFETY: the caller's promises.
        unsafe {
            let mut now = [*acc];
            let high = _mm_cvtsi32_si128(high::<F>());
            let mut products = [[_mm512_setzero_si512(); HALVES]];
            for h in 0..HALVES {
                products[0][h] = _mm512_add_epi32(sums[2 * h].row(c), _mm512_sll_epi32(sums[2 * h + 1].row(c), high));
            }
            settle::<F, HALVES, 1>(job, scales, &products, made.b, made.first + c, &mut now);
            [*acc] = now;
        }
    }
}

/// The `k`-th of four tiles.
#[inline(always)]
fn tile(w: &[__m512i; 64], k: usize) -> *const i8 {
    w[k * 16..].as_ptr().cast()
}
