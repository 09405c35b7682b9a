//! Formats of 32-blocks: one scale, and perhaps one minimum, for each 32 weights.

use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::ops::Range;

use super::super::super::activations::TILE;
use super::super::super::tiles::{Ahead, HALVES};
use super::super::super::{Job, Matrix};
use super::super::Rows;
use super::super::blocks32::Format;
use super::Made;
use super::registers::{ROW, Sums, add, load, store, zero};

/// A block of rows.
#[repr(C, align(64))]
pub(super) struct Block {
    /// Columns `4 k .. 4 k + 4` of each row, signed.
    q: [[__m512i; 8]; HALVES],
    d: [__m512; HALVES],
    min: [__m512; HALVES],
}

pub(super) struct Tile<F>(PhantomData<F>);

impl<F: Format> super::Tile for Tile<F> {
    const BLOCK: usize = 32;

    const WIDTH: usize = 32;

    type Block = Block;

    const STEP: usize = SUMS;

    type Sums = [[Sums; HALVES]; SUMS];

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn pack(matrix: &Matrix, row: usize, blocks: Range<usize>, panel: &mut [Block], half: usize, ahead: &mut Ahead) {
        let rows = &Rows::still(matrix, row);
        for (b, block) in blocks.zip(panel) {
            ahead.fetch(32);
            // SAFETY: block `b` lies within each row.
            let (q, d, min) = unsafe { F::read(rows, b * F::BYTES) };
            for (to, q) in block.q[half].iter_mut().zip(q) {
                *to = match F::OFFSET {
                    Some(offset) => _mm512_sub_epi8(q, _mm512_set1_epi8((1u8 << offset) as i8)),
                    None => q,
                };
            }
            block.d[half] = d;
            block.min[half] = min;
        }
    }

    #[inline(always)]
    unsafe fn multiply(
        job: &Job<'_>,
        panel: &[Block],
        b: usize,
        first: usize,
        sums: &mut Self::Sums,
        next: *const i8,
        before: &Made<'_, Self>,
    ) {
        // SAFETY: the caller's promises.
        unsafe {
            for (i, (block, [one, other])) in panel.iter().zip(sums).enumerate() {
                zero::<0>();
                zero::<1>();
                load::<4>(Self::activations(job, b + i, first), 32);
                load::<6>(block.q[0].as_ptr().cast(), ROW);
                load::<7>(block.q[1].as_ptr().cast(), ROW);
                add::<0, 4, 6>(false);
                add::<1, 4, 7>(false);
                store::<0>(one);
                store::<1>(other);
            }
            // Between the tiles it would be slower, whose multipliers this needs too.
            for c in 0..TILE {
                before.meanwhile(job, c, next);
            }
        }
    }

    #[inline(always)]
    unsafe fn activations(job: &Job<'_>, b: usize, first: usize) -> *const i8 {
        // SAFETY: the caller's promises.
        unsafe { job.q32.q.tile(first, b * 32) }
    }

    #[inline(always)]
    unsafe fn settle(made: &Made<'_, Self>, job: &Job<'_>, c: usize, acc: &mut [__m512; HALVES]) {
        let mut now = *acc;
        // SAFETY: the caller's promises.
        unsafe {
            match made.panel.first_chunk::<{ SUMS }>() {
                // A known number is faster.
                Some(blocks) => add_blocks::<F>(blocks, made.sums, job, made.first + c, made.b, c, &mut now),
                None => add_blocks::<F>(made.panel, made.sums, job, made.first + c, made.b, c, &mut now),
            }
        }
        *acc = now;
    }
}

/// Blocks that are multiplied before their products are scaled.
const SUMS: usize = 4;

/// Adds the scaled products of blocks from `b` on with input row `row`, which are row `c` of their tiles.
///
/// # Safety
/// As [`super::Tile::settle`].
#[inline(always)]
unsafe fn add_blocks<F: Format>(
    blocks: &[Block],
    sums: &[[Sums; HALVES]; SUMS],
    job: &Job<'_>,
    row: usize,
    b: usize,
    c: usize,
    acc: &mut [__m512; HALVES],
) {
    // SAFETY: the caller's promises.
    unsafe {
        let at = row * (job.matrix.cols() / 32) + b;
        let (d, dsum) = (job.q32.d.as_ptr().add(at), job.q32.dsum.as_ptr().add(at));
        for (i, (block, sums)) in blocks.iter().zip(sums).enumerate() {
            let d = _mm512_set1_ps(*d.add(i));
            for h in 0..HALVES {
                acc[h] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[h].row(c)), _mm512_mul_ps(block.d[h], d), acc[h]);
                if F::MIN {
                    acc[h] = _mm512_fmadd_ps(block.min[h], _mm512_set1_ps(*dsum.add(i)), acc[h]);
                }
            }
        }
    }
}
