//! K formats: super-blocks of 256 weights with integer scales for each 16 or 32.
//!
//! A weight times its scale is an integer of up to 14 bits, here `128 * high + low` with `low` in 0..128: numbers of 8 bits, whose
//! products with a super-block's activations tiles sum up, each apart.
//! Minimums times the activations' sums are the products of bf16, which has all of them exactly, as f32 has what is summed up.

use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::ops::Range;

use super::super::super::activations::TILE;
use super::super::super::tiles::HALVES;
use super::super::super::{Job, Matrix, Panel};
use super::super::Rows;
use super::super::k_formats::{Format, Scales, Sink};
use super::super::unpack::in_lanes;
use super::registers::{self, Sums};

/// A super-block of rows.
#[repr(C, align(64))]
pub(super) struct Block {
    /// Columns `4 k .. 4 k + 4` of each row, low and high numbers.
    q: [[[__m512i; 64]; 2]; HALVES],
    /// Minimums of groups `2 p` and `2 p + 1` of 16, in bf16; then the same again.
    mins: [[__m512i; 16]; HALVES],
    d: [__m512; HALVES],
    dmin: [__m512; HALVES],
}

/// Weights times their scales.
struct Store<'a, F> {
    q: &'a mut [[__m512i; 64]; 2],
    scales: &'a Scales<1>,
    format: PhantomData<F>,
}

impl<F: Format> Sink for Store<'_, F> {
    #[inline(always)]
    unsafe fn columns(&mut self, col: usize, w: &[__m512i]) {
        let of_group = 64 / F::GROUPS;
        for (i, w) in w.chunks(of_group).enumerate() {
            let k = col / 4 + i * of_group;
            let scale = self.scales.scales[k / of_group][0];
            // SAFETY: the caller enables the instructions.
            unsafe {
                let (even, odd) = (in_lanes(scale, [0, -1, 0, -1]), in_lanes(scale, [-1, 0, -1, 0]));
                let off = F::OFFSET.map(|offset| {
                    let words = in_lanes(scale, [0, 1, 0, 1]);
                    _mm512_sll_epi16(words, _mm_cvtsi32_si128(offset as i32))
                });
                for (k, w) in (k..).zip(w) {
                    let (mut a, mut b) = (_mm512_maddubs_epi16(*w, even), _mm512_maddubs_epi16(*w, odd));
                    if let Some(off) = off {
                        (a, b) = (_mm512_sub_epi16(a, off), _mm512_sub_epi16(b, off));
                    }
                    let first = _mm512_set1_epi16(0xFF);
                    // Bits of `a` where `first` has ones, of `b` elsewhere.
                    const SELECT: i32 = 0xCA;
                    let low = _mm512_ternarylogic_epi32::<SELECT>(first, a, _mm512_slli_epi16::<8>(b));
                    self.q[0][k] = _mm512_and_si512(low, _mm512_set1_epi8(127));
                    self.q[1][k] =
                        _mm512_ternarylogic_epi32::<SELECT>(first, _mm512_srli_epi16::<7>(a), _mm512_slli_epi16::<1>(b));
                }
            }
        }
    }
}

pub(super) struct Tile<F>(PhantomData<F>);

impl<F: Format> super::Tile for Tile<F> {
    const BLOCK: usize = 256;

    const WIDTH: usize = 64;

    type Block = Block;

    const STEP: usize = 1;

    /// As [`registers::products256`] orders them, then those of the minimums.
    type Sums = [Sums; 6];

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn pack(matrix: &Matrix, row: usize, blocks: Range<usize>, panel: &mut [Block], half: usize) {
        let rows = &Rows::still(matrix, row);
        // SAFETY: any bytes are scales; block `b` lies within each row.
        unsafe {
            let mut scales: Scales<1> = std::mem::zeroed();
            for (b, block) in blocks.zip(panel) {
                F::scales(rows, b * F::BYTES, &mut scales, 0);
                (block.d[half], block.dmin[half]) = (scales.d[0], scales.dmin[0]);
                if F::MIN {
                    let (mins, again) = block.mins[half].split_at_mut(8);
                    for (p, (min, again)) in mins.iter_mut().zip(again).enumerate() {
                        // A group of 32 is two of 16.
                        let of_16 = scales.mins[p * F::GROUPS / 16][0];
                        let two = match (F::GROUPS, p % 2) {
                            (16, _) => of_16,
                            (_, 0) => in_lanes(of_16, [0, 1, 0, 1]),
                            _ => in_lanes(of_16, [2, 3, 2, 3]),
                        };
                        *min = bf16(two);
                        *again = *min;
                    }
                }
                F::weights::<8, _>(rows, b * F::BYTES, &mut Store { q: &mut block.q[half], scales: &scales, format: PhantomData::<F> });
            }
        }
    }

    #[inline(always)]
    unsafe fn multiply(job: &Job<'_>, panel: &[Block], b: usize, first: usize, sums: &mut [Sums; 6], next: (usize, usize)) {
        let (x, n) = (job.q256, job.x.len() / job.matrix.cols());
        let block = &panel[0];
        let (products, mins) = sums.split_at_mut(4);
        // SAFETY: the caller's promises.
        unsafe {
            let step = ROWS_OF_64 * TILE.min(n - first);
            registers::products256(x.q.tile(first, b * 256), step, block.q.as_ptr().cast(), products.as_mut_ptr(), x.q.tile(next.1, next.0 * 256));
            if F::MIN {
                let split = x.split16.as_ptr().add(b * n + first);
                registers::products_bf16(split.cast(), block.mins.as_ptr().cast(), mins.as_mut_ptr());
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn settle(job: &Job<'_>, panel: &[Block], b: usize, first: usize, sums: &[Sums; 6], acc: &mut [[__m512; HALVES]]) {
        let (block, blocks) = (&panel[0], job.matrix.cols() / 256);
        for (c, acc) in acc.iter_mut().enumerate() {
            // SAFETY: there is such an input row, and so many rows of a tile.
            unsafe {
                let row = |tile: usize| sums[tile].0.as_ptr().add(c).cast::<f32>();
                let d = _mm512_set1_ps(*job.q256.d.as_ptr().add((first + c) * blocks + b));
                for h in 0..HALVES {
                    let [low, high] = [_mm512_load_si512(row(2 * h).cast()), _mm512_load_si512(row(2 * h + 1).cast())];
                    let sum = _mm512_add_epi32(low, _mm512_slli_epi32::<7>(high));
                    acc[h] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(block.d[h], d), acc[h]);
                    if F::MIN {
                        acc[h] = _mm512_fnmadd_ps(_mm512_load_ps(row(4 + h)), _mm512_mul_ps(block.dmin[h], d), acc[h]);
                    }
                }
            }
        }
    }
}

/// Bytes of 64 columns of a row.
const ROWS_OF_64: usize = 64;

const _: () = assert!(Panel::COLS.is_multiple_of(256));

/// 16-bit integers below 256 as bf16.
#[inline(always)]
unsafe fn bf16(words: __m512i) -> __m512i {
    // SAFETY: the caller enables the instructions. Such integers have their lower half in zeros as f32.
    unsafe {
        let even = _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_and_si512(words, _mm512_set1_epi32(0xFFFF))));
        let odd = _mm512_castps_si512(_mm512_cvtepi32_ps(_mm512_srli_epi32::<16>(words)));
        _mm512_or_si512(_mm512_srli_epi32::<16>(even), odd)
    }
}
