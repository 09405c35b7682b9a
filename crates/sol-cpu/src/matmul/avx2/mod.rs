//! Kernels for x86-64 with AVX2, FMA and F16C.
//!
//! Quantised weights: a lane is an output. Eight weight rows are read together and their bytes interleaved, four columns of a
//! row in each 32-bit lane, so that one broadcast of four activations meets eight rows: no horizontal sum is ever needed, and
//! the order of float additions is that of the blocks however many rows and columns share a pass (see
//! [`tiles`](super::tiles)).
//!
//! Floats: a lane is a column modulo 8 ([`float`]), with many input rows an output ([`columns`]).

mod blocks256;
mod blocks32;
mod columns;
pub(super) mod float;
mod unpack;

use std::arch::x86_64::*;
use std::ops::Range;

use sol_weights::DType;

use super::tiles;
use super::{Block, Job, Panel};

/// Computes a block of the output.
///
/// # Safety
/// The machine has AVX2, FMA and F16C, and this is a block of the job that no other thread is at work on.
pub(super) unsafe fn run(job: &Job<'_>, block: &Block, panel: &mut Panel) {
    // SAFETY: the caller's promises; the format is that of the matrix.
    unsafe {
        match job.matrix.dtype() {
            DType::F32 => float::run::<float::F32>(job, block, panel),
            DType::F16 => float::run::<float::F16>(job, block, panel),
            DType::BF16 => float::run::<float::Bf16>(job, block, panel),
            DType::Q4_0 => tiles::run::<blocks32::Tile<blocks32::Q4_0>>(job, block, panel),
            DType::Q4_1 => tiles::run::<blocks32::Tile<blocks32::Q4_1>>(job, block, panel),
            DType::Q5_0 => tiles::run::<blocks32::Tile<blocks32::Q5_0>>(job, block, panel),
            DType::Q5_1 => tiles::run::<blocks32::Tile<blocks32::Q5_1>>(job, block, panel),
            DType::Q8_0 => tiles::run::<blocks32::Tile<blocks32::Q8_0>>(job, block, panel),
            DType::IQ4NL => tiles::run::<blocks32::Tile<blocks32::Iq4Nl>>(job, block, panel),
            DType::Q2K => tiles::run::<blocks256::Tile<blocks256::Q2K>>(job, block, panel),
            DType::Q3K => tiles::run::<blocks256::Tile<blocks256::Q3K>>(job, block, panel),
            DType::Q4K => tiles::run::<blocks256::Tile<blocks256::Q4K>>(job, block, panel),
            DType::Q5K => tiles::run::<blocks256::Tile<blocks256::Q5K>>(job, block, panel),
            DType::Q6K => tiles::run::<blocks256::Tile<blocks256::Q6K>>(job, block, panel),
            DType::IQ4XS => tiles::run::<blocks256::Tile<blocks256::Iq4Xs>>(job, block, panel),
            other => unreachable!("{other} matrices are refused"),
        }
    }
}

/// Input rows up to which float weights are multiplied with a lane for each column modulo 8.
pub(super) const FLOATS_IN_PLACE: usize = 20;

/// Sums of `C` input rows (outer) by `8 * H` weight rows.
type Sums<const H: usize, const C: usize> = tiles::Sums<__m256, H, C>;

/// Eight weight rows.
type Rows = tiles::Rows<8>;

#[inline(always)]
pub(super) fn zero() -> __m256 {
    // SAFETY: all bits zero are eight zeros.
    unsafe { std::mem::zeroed() }
}

/// Eight floats.
struct Lanes;

impl tiles::Lanes for Lanes {
    type Vector = __m256;

    const COUNT: usize = 8;

    const UNPACKED: usize = 12;

    unsafe fn unpacked<T: tiles::Tile<Lanes = Self>>(job: &Job<'_>, block: &Block) {
        // SAFETY: the caller's promises.
        unsafe { tiles::by_four::<T>(job, block) }
    }

    #[target_feature(enable = "avx2")]
    unsafe fn finish<const H: usize>(job: &Job<'_>, rows: Range<usize>, first: usize, sums: &[[__m256; H]]) {
        for h in 0..H {
            let row = rows.start + 8 * h;
            let live = 8.min(rows.end.saturating_sub(row));
            let bias = job.bias.map(|bias| {
                let mut values = [0.0; 8];
                values[..live].copy_from_slice(&bias[row.min(rows.end)..][..live]);
                // SAFETY: eight floats.
                unsafe { _mm256_loadu_ps(values.as_ptr()) }
            });
            for (c, sums) in sums.iter().enumerate() {
                let sum = bias.map_or(sums[h], |bias| _mm256_add_ps(sums[h], bias));
                // SAFETY: `live` outputs from `row` on are this thread's.
                unsafe {
                    if live == 8 {
                        _mm256_storeu_ps(job.at(first + c, row), sum);
                    } else {
                        let mut values = [0.0f32; 8];
                        _mm256_storeu_ps(values.as_mut_ptr(), sum);
                        for (i, value) in values[..live].iter().enumerate() {
                            job.at(first + c, row + i).write(*value);
                        }
                    }
                }
            }
        }
    }
}
