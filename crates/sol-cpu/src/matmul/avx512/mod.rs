//! Kernels for x86-64 with AVX-512 (F, BW, DQ, VL) and VNNI.
//!
//! As those for [AVX2](super::avx2), a lane being an output, with sixteen weight rows side by side. `vpdpbusd` multiplies four
//! unsigned weights of a lane with four signed activations and adds all to the lane's sum, so that weights that are signed
//! carry an offset here, which the activations' sums take off again: integers, hence the same bits.
//! With few input rows, each reading of some bytes of the sixteen rows fetches as many of the next sixteen; with one, this goes at the
//! pace of the products. For one input row, rows of K formats are taken eight at a time, two lanes each.
//!
//! Many input rows are multiplied in tiles where the machine has them ([`amx`]).
//! Floats of few input rows: two rows of eight lanes side by side; of many, a lane is an output there too ([`float`]).

pub(super) mod amx;
mod blocks256;
mod blocks32;
mod float;
mod k_formats;
mod unpack;

pub(super) use float::IN_PLACE as FLOATS_IN_PLACE;

use std::arch::x86_64::*;
use std::ops::Range;

use sol_weights::DType;

use super::avx2::float::{Bf16, F16, F32};
use super::{Block, Job, Panel, tiles};

/// Computes a block of the output.
///
/// # Safety
/// The machine has AVX-512 F, BW, DQ, VL and VNNI, AVX2, FMA and F16C, and this is a block of the job that no other thread is
/// at work on.
pub(super) unsafe fn run(job: &Job<'_>, block: &Block, panel: &mut Panel) {
    // SAFETY: the caller's promises; the format is that of the matrix.
    unsafe {
        match job.matrix.dtype() {
            DType::F32 => float::run::<F32>(job, block, panel),
            DType::F16 => float::run::<F16>(job, block, panel),
            DType::BF16 => float::run::<Bf16>(job, block, panel),
            DType::Q4_0 => tiles::run::<blocks32::Tile<blocks32::Q4_0>>(job, block, panel),
            DType::Q4_1 => tiles::run::<blocks32::Tile<blocks32::Q4_1>>(job, block, panel),
            DType::Q5_0 => tiles::run::<blocks32::Tile<blocks32::Q5_0>>(job, block, panel),
            DType::Q5_1 => tiles::run::<blocks32::Tile<blocks32::Q5_1>>(job, block, panel),
            DType::Q8_0 => tiles::run::<blocks32::Tile<blocks32::Q8_0>>(job, block, panel),
            DType::IQ4NL => tiles::run::<blocks32::Tile<blocks32::Iq4Nl>>(job, block, panel),
            DType::Q2K => tiles::run::<blocks256::Tile<k_formats::Q2K>>(job, block, panel),
            DType::Q3K => tiles::run::<blocks256::Tile<k_formats::Q3K>>(job, block, panel),
            DType::Q4K => tiles::run::<blocks256::Tile<k_formats::Q4K>>(job, block, panel),
            DType::Q5K => tiles::run::<blocks256::Tile<k_formats::Q5K>>(job, block, panel),
            DType::Q6K => tiles::run::<blocks256::Tile<k_formats::Q6K>>(job, block, panel),
            DType::IQ4XS => tiles::run::<blocks256::Tile<k_formats::Iq4Xs>>(job, block, panel),
            other => unreachable!("{other} matrices are refused"),
        }
    }
}

/// Columns that are unpacked at a time for many input rows: 32 rows of them stay in the first-level cache.
const COLS: usize = Panel::COLS / 2;

/// Sums of `C` input rows (outer) by `16 * H` weight rows.
type Sums<const H: usize, const C: usize> = tiles::Sums<__m512, H, C>;

/// Sixteen weight rows.
type Rows = tiles::Rows<16>;

/// Sixteen floats.
struct Lanes;

impl tiles::Lanes for Lanes {
    type Vector = __m512;

    const COUNT: usize = 16;

    const UNPACKED: usize = 8;

    unsafe fn unpacked<T: tiles::Tile<Lanes = Self>>(job: &Job<'_>, block: &Block) {
        // SAFETY: the caller's promises.
        unsafe { tiles::by_eight::<T>(job, block) }
    }

    #[target_feature(enable = "avx512f")]
    unsafe fn finish<const H: usize>(job: &Job<'_>, rows: Range<usize>, first: usize, sums: &[[__m512; H]]) {
        for h in 0..H {
            let (row, live) = live(&rows, h);
            // SAFETY: a bias is as long as the matrix has rows, and only those of the mask are read.
            let bias = job.bias.map(|b| unsafe { _mm512_maskz_loadu_ps(live, b.as_ptr().wrapping_add(row)) });
            for (c, sums) in sums.iter().enumerate() {
                let sum = bias.map_or(sums[h], |bias| _mm512_add_ps(sums[h], bias));
                // SAFETY: the caller's rows, of which only those of the mask are written.
                unsafe { _mm512_mask_storeu_ps(job.at(first + c, 0).wrapping_add(row), live, sum) };
            }
        }
    }
}

/// The first row of vector `h`, and which of its lanes are rows.
fn live(rows: &Range<usize>, h: usize) -> (usize, __mmask16) {
    let row = rows.start + 16 * h;
    (row, ((1u32 << 16.min(rows.end.saturating_sub(row))) - 1) as __mmask16)
}
