//! Formats of 32-blocks: one scale, and perhaps one minimum, for each 32 weights.

use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::ops::Range;

use super::super::super::tiles::HALVES;
use super::super::super::{Job, Matrix};
use super::super::Rows;
use super::super::blocks32::Format;
use super::registers::{self, Sums};

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

    const STEP: usize = 4;

    type Sums = [[Sums; HALVES]; 4];

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn pack(matrix: &Matrix, row: usize, blocks: Range<usize>, panel: &mut [Block], half: usize) {
        let rows = &Rows::still(matrix, row);
        for (b, block) in blocks.zip(panel) {
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
    unsafe fn multiply(job: &Job<'_>, panel: &[Block], b: usize, first: usize, sums: &mut Self::Sums, _next: (usize, usize)) {
        for (i, (block, sums)) in panel.iter().zip(sums).enumerate() {
            // SAFETY: the caller's promises.
            unsafe {
                let x = job.q32.q.tile(first, (b + i) * 32);
                registers::products32(x, block.q.as_ptr().cast(), sums.as_mut_ptr());
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn settle(job: &Job<'_>, panel: &[Block], b: usize, first: usize, sums: &Self::Sums, acc: &mut [[__m512; HALVES]]) {
        let (x, blocks) = (job.q32, job.matrix.cols() / 32);
        for (c, acc) in acc.iter_mut().enumerate() {
            let mut now = *acc;
            for (i, (block, sums)) in panel.iter().zip(sums).enumerate() {
                // SAFETY: there is such an input row, and so many rows of a tile.
                unsafe {
                    let at = (first + c) * blocks + b + i;
                    let d = _mm512_set1_ps(*x.d.as_ptr().add(at));
                    for h in 0..HALVES {
                        let sum = _mm512_cvtepi32_ps(_mm512_load_si512(sums[h].0.as_ptr().add(c).cast()));
                        now[h] = _mm512_fmadd_ps(sum, _mm512_mul_ps(block.d[h], d), now[h]);
                        if F::MIN {
                            now[h] = _mm512_fmadd_ps(block.min[h], _mm512_set1_ps(*x.dsum.as_ptr().add(at)), now[h]);
                        }
                    }
                }
            }
            *acc = now;
        }
    }
}
