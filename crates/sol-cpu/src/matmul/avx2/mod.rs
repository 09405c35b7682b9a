//! Kernels for x86-64 with AVX2, FMA and F16C.
//!
//! Quantised weights: a lane is an output. Eight weight rows are read together and their bytes interleaved, four columns of a
//! row in each 32-bit lane, so that one broadcast of four activations meets eight rows: no horizontal sum is ever needed, and
//! the order of float additions is that of the blocks however many rows and columns share a pass. With few input rows the
//! interleaved block is used where it was made ([`Tile::few`]); with many, a panel of sixteen rows is kept and used for all.
//!
//! Floats: a lane is a column modulo 8 ([`float`]).

mod blocks256;
mod blocks32;
mod float;
mod unpack;

use std::arch::x86_64::*;
use std::ops::Range;

use sol_weights::DType;

use super::activations::BESIDE;
use super::{Block, FEW, Job, Panel};
use unpack::Rows;

/// Input rows that share a load of the panel.
const WIDTH: usize = 4;

/// Input rows that one unpacking of the weights serves: with [`Panel::COLS`] columns, 8-bit numbers that stay in the
/// second-level cache.
const PASS: usize = 256;

/// Weight rows of a panel, in halves of eight.
const HALVES: usize = 2;

/// What the index arithmetic of interleaved activations stands on: input rows are taken in whole groups of those that lie
/// interleaved, the last ones excepted, and blocks of columns do not reach over the end of a piece.
const _: () = assert!(
    WIDTH == BESIDE && FEW == BESIDE && PASS.is_multiple_of(BESIDE) && Panel::COLS.is_multiple_of(256),
    "see `activations::Interleaved`"
);

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
            DType::Q4_0 => tiles::<blocks32::Tile<blocks32::Q4_0>>(job, block, panel),
            DType::Q4_1 => tiles::<blocks32::Tile<blocks32::Q4_1>>(job, block, panel),
            DType::Q5_0 => tiles::<blocks32::Tile<blocks32::Q5_0>>(job, block, panel),
            DType::Q5_1 => tiles::<blocks32::Tile<blocks32::Q5_1>>(job, block, panel),
            DType::Q8_0 => tiles::<blocks32::Tile<blocks32::Q8_0>>(job, block, panel),
            DType::IQ4NL => tiles::<blocks32::Tile<blocks32::Iq4Nl>>(job, block, panel),
            DType::Q2K => tiles::<blocks256::Tile<blocks256::Q2K>>(job, block, panel),
            DType::Q3K => tiles::<blocks256::Tile<blocks256::Q3K>>(job, block, panel),
            DType::Q4K => tiles::<blocks256::Tile<blocks256::Q4K>>(job, block, panel),
            DType::Q5K => tiles::<blocks256::Tile<blocks256::Q5K>>(job, block, panel),
            DType::Q6K => tiles::<blocks256::Tile<blocks256::Q6K>>(job, block, panel),
            DType::IQ4XS => tiles::<blocks256::Tile<blocks256::Iq4Xs>>(job, block, panel),
            other => unreachable!("{other} matrices are refused"),
        }
    }
}

/// Sums of `C` input rows (outer) by `8 * H` weight rows.
type Sums<const H: usize, const C: usize> = [[__m256; H]; C];

/// The kernels of a quantised format.
trait Tile {
    /// Columns of a block.
    const BLOCK: usize;

    /// A panel block: [`HALVES`] times eight rows of one block, interleaved.
    type Block;

    /// Adds the products of eight whole weight rows with input rows `first..first + C`.
    ///
    /// # Safety
    /// AVX2, FMA and F16C; rows of the job's matrix; input rows that it has.
    unsafe fn few<const C: usize>(job: &Job<'_>, rows: &Rows, first: usize, sums: &mut Sums<1, C>);

    /// Interleaves `blocks` of eight rows into half `half` of a panel.
    ///
    /// # Safety
    /// As above, and blocks that the matrix has.
    unsafe fn pack(rows: &Rows, blocks: Range<usize>, panel: &mut [Self::Block], half: usize);

    /// Adds the products of a panel that starts at block `start` with input rows `first..first + C`.
    ///
    /// # Safety
    /// As above, and a panel that was packed.
    unsafe fn many<const C: usize>(job: &Job<'_>, panel: &[Self::Block], start: usize, first: usize, sums: &mut Sums<HALVES, C>);
}

/// # Safety
/// As [`run`]; `T` is the format of the job's matrix.
unsafe fn tiles<T: Tile>(job: &Job<'_>, block: &Block, panel: &mut Panel) {
    // SAFETY: the caller's promises.
    unsafe {
        match block.columns.len() {
            1 => few::<T, 1>(job, block),
            2 => few::<T, 2>(job, block),
            3 => few::<T, 3>(job, block),
            4 => few::<T, 4>(job, block),
            _ => {
                for start in block.columns.clone().step_by(PASS) {
                    let columns = start..block.columns.end.min(start + PASS);
                    panels::<T>(job, &Block { rows: block.rows.clone(), columns }, panel);
                }
            }
        }
    }
}

/// # Safety
/// As [`tiles`]; the block has `C` input rows.
unsafe fn few<T: Tile, const C: usize>(job: &Job<'_>, block: &Block) {
    for row in block.rows.clone().step_by(8) {
        let rows = row..block.rows.end.min(row + 8);
        let mut sums = [[zero(); 1]; C];
        // SAFETY: the caller's promises.
        unsafe {
            T::few(job, &Rows::new(job.matrix, row), block.columns.start, &mut sums);
            finish(job, rows, block.columns.start, &sums, true);
        }
    }
}

/// # Safety
/// As [`tiles`].
unsafe fn panels<T: Tile>(job: &Job<'_>, block: &Block, panel: &mut Panel) {
    let blocks = job.matrix.cols() / T::BLOCK;
    let mut start = 0;
    loop {
        let end = blocks.min(start + Panel::COLS / T::BLOCK);
        let last = end == blocks;
        // SAFETY: a panel block is vectors of numbers, whose bytes may be any; all are written before use.
        let panel = unsafe { panel.blocks::<T::Block>(end - start) };
        for row in block.rows.clone().step_by(8 * HALVES) {
            let rows = row..block.rows.end.min(row + 8 * HALVES);
            for half in 0..HALVES {
                // SAFETY: the caller's promises.
                unsafe { T::pack(&Rows::new(job.matrix, row + 8 * half), start..end, panel, half) };
            }
            for first in block.columns.clone().step_by(WIDTH) {
                // SAFETY: the caller's promises, and the panel is packed.
                unsafe {
                    match block.columns.end - first {
                        1 => many::<T, 1>(job, &rows, panel, start, first, last),
                        2 => many::<T, 2>(job, &rows, panel, start, first, last),
                        3 => many::<T, 3>(job, &rows, panel, start, first, last),
                        _ => many::<T, WIDTH>(job, &rows, panel, start, first, last),
                    }
                }
            }
        }
        if last {
            break;
        }
        start = end;
    }
}

/// # Safety
/// As [`tiles`]; a packed panel; input rows `first..first + C` exist.
#[inline(always)]
unsafe fn many<T: Tile, const C: usize>(
    job: &Job<'_>,
    rows: &Range<usize>,
    panel: &[T::Block],
    start: usize,
    first: usize,
    last: bool,
) {
    // SAFETY: the caller's promises. Between the pieces of a long row the output itself holds the sums.
    unsafe {
        let mut sums = [[zero(); HALVES]; C];
        if start > 0 {
            resume(job, rows.clone(), first, &mut sums);
        }
        T::many(job, panel, start, first, &mut sums);
        finish(job, rows.clone(), first, &sums, last);
    }
}

#[inline(always)]
fn zero() -> __m256 {
    // SAFETY: all bits zero are eight zeros.
    unsafe { std::mem::zeroed() }
}

/// Loads the sums that [`finish`] stored before the last piece.
///
/// # Safety
/// `rows` and input rows `first..first + C` are the job's, and nobody else works on them.
#[target_feature(enable = "avx2")]
unsafe fn resume<const H: usize, const C: usize>(job: &Job<'_>, rows: Range<usize>, first: usize, sums: &mut Sums<H, C>) {
    for h in 0..H {
        let row = rows.start + 8 * h;
        let live = 8.min(rows.end.saturating_sub(row));
        if live == 0 {
            // Not even a pointer to such rows may be made: they may lie beyond the output.
            break;
        }
        for (c, sums) in sums.iter_mut().enumerate() {
            // SAFETY: `live` outputs from `row` on are this thread's.
            unsafe {
                let at = job.at(first + c, row);
                let mut values = [0.0; 8];
                sums[h] = _mm256_loadu_ps(if live == 8 {
                    at
                } else {
                    std::ptr::copy_nonoverlapping(at, values.as_mut_ptr(), live);
                    values.as_ptr()
                });
            }
        }
    }
}

/// Stores sums, with the bias when they are complete.
///
/// # Safety
/// As [`resume`].
#[target_feature(enable = "avx2")]
unsafe fn finish<const H: usize, const C: usize>(job: &Job<'_>, rows: Range<usize>, first: usize, sums: &Sums<H, C>, last: bool) {
    for h in 0..H {
        let row = rows.start + 8 * h;
        let live = 8.min(rows.end.saturating_sub(row));
        let bias = job.bias.filter(|_| last).map(|bias| {
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
