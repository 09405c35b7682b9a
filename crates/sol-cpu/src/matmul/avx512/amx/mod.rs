//! Many input rows by matrix instructions: AMX, with tiles of 16 input rows by 16 weight rows.
//!
//! Weights are unpacked into tiles, [`HALVES`] times 16 rows of some columns, which all input rows then meet. What the tiles sum up
//! are integers (or such as f32 has exactly), so the bits are those of every other kernel; vectors then scale these sums and add
//! them up. As tiles and vectors work side by side, the sums of one step are scaled while the next ones are made.

mod blocks256;
mod blocks32;
mod registers;

use std::arch::x86_64::*;
use std::ops::Range;

use sol_weights::DType;

use super::super::activations::TILE;
use super::super::tiles::{Ahead, HALVES, Lanes as _};
use super::super::{Block, Job, Matrix, Panel};
use super::{COLS, Lanes, blocks32 as formats32, k_formats};
use registers::Registers;

pub(in crate::matmul) use registers::available;

/// Input rows up to which kernels without tiles are faster.
pub(in crate::matmul) const WITHOUT: usize = 8;

/// Input rows that one unpacking of the weights serves: a piece of their columns stays in the second-level cache.
const PASS: usize = 1024;

/// The kernels of a quantised format.
trait Tile {
    /// Columns of a block.
    const BLOCK: usize;

    /// 8-bit columns of a tile.
    const WIDTH: usize;

    /// A panel block: [`HALVES`] times 16 rows of one block. Any bytes are valid.
    type Block;

    /// Panel blocks of a step.
    const STEP: usize;

    /// What the tiles sum up in a step. Any bytes are valid.
    type Sums;

    /// Unpacks `blocks` of 16 rows, from `row` on, into half `half` of a panel. Rows beyond the last one are the last one again.
    ///
    /// # Safety
    /// The machine has the instructions, and the matrix the blocks.
    unsafe fn pack(matrix: &Matrix, row: usize, blocks: Range<usize>, panel: &mut [Self::Block], half: usize);

    /// The products of up to [`Tile::STEP`] panel blocks, the first of which is block `b`, with input rows `first..first + 16`.
    /// Those beyond the last one are any numbers.
    ///
    /// # Safety
    /// As above; [`Registers`] for as many columns; a panel that was packed; activations that lie in tiles.
    unsafe fn multiply(job: &Job<'_>, panel: &[Self::Block], b: usize, first: usize, sums: &mut Self::Sums);

    /// Scales the products of input rows `first..` and adds them to those of the blocks before.
    ///
    /// # Safety
    /// As above; there are such input rows.
    unsafe fn settle(
        job: &Job<'_>,
        panel: &[Self::Block],
        b: usize,
        first: usize,
        sums: &Self::Sums,
        acc: &mut [[__m512; HALVES]],
    );
}

/// Computes a block of the output.
///
/// # Safety
/// As [`super::run`], and the machine has AMX ([`available`]).
pub(in crate::matmul) unsafe fn run(job: &Job<'_>, block: &Block, panel: &mut Panel) {
    let in_tiles = match job.matrix.dtype().block_len() {
        32 => job.q32.q.for_tiles(),
        256 => job.q256.q.for_tiles(),
        _ => false,
    };
    // SAFETY: the caller's promises; the format is that of the matrix.
    unsafe {
        match job.matrix.dtype() {
            _ if !in_tiles => super::run(job, block, panel),
            DType::Q4_0 => tiles::<blocks32::Tile<formats32::Q4_0>>(job, block, panel),
            DType::Q4_1 => tiles::<blocks32::Tile<formats32::Q4_1>>(job, block, panel),
            DType::Q5_0 => tiles::<blocks32::Tile<formats32::Q5_0>>(job, block, panel),
            DType::Q5_1 => tiles::<blocks32::Tile<formats32::Q5_1>>(job, block, panel),
            DType::Q8_0 => tiles::<blocks32::Tile<formats32::Q8_0>>(job, block, panel),
            DType::IQ4NL => tiles::<blocks32::Tile<formats32::Iq4Nl>>(job, block, panel),
            DType::Q2K => tiles::<blocks256::Tile<k_formats::Q2K>>(job, block, panel),
            DType::Q3K => tiles::<blocks256::Tile<k_formats::Q3K>>(job, block, panel),
            DType::Q4K => tiles::<blocks256::Tile<k_formats::Q4K>>(job, block, panel),
            DType::Q5K => tiles::<blocks256::Tile<k_formats::Q5K>>(job, block, panel),
            DType::Q6K => tiles::<blocks256::Tile<k_formats::Q6K>>(job, block, panel),
            DType::IQ4XS => tiles::<blocks256::Tile<k_formats::Iq4Xs>>(job, block, panel),
            other => unreachable!("{other} matrices are refused"),
        }
    }
}

/// # Safety
/// As [`run`]; `T` is the format of the job's matrix, and the activations lie in tiles.
unsafe fn tiles<T: Tile>(job: &Job<'_>, block: &Block, panel: &mut Panel) {
    // SAFETY: the caller's promise.
    let _registers = unsafe { Registers::new(T::WIDTH) };
    for start in block.columns.clone().step_by(PASS) {
        let columns = start..block.columns.end.min(start + PASS);
        let next = if columns.end < block.columns.end { block.rows.start } else { block.rows.end };
        // SAFETY: the caller's promises.
        unsafe { pass::<T>(job, &Block { rows: block.rows.clone(), columns }, next, panel) };
    }
}

/// `next` is the first row of what comes after this block.
///
/// # Safety
/// As [`tiles`], with registers.
unsafe fn pass<T: Tile>(job: &Job<'_>, block: &Block, next: usize, panel: &mut Panel) {
    const { assert!(Panel::COLS.is_multiple_of(COLS) && COLS.is_multiple_of(T::BLOCK * T::STEP)) };
    const HEIGHT: usize = HALVES * 16;
    let (blocks, input) = (job.matrix.cols() / T::BLOCK, block.columns.len());
    let at_once = COLS / T::BLOCK;
    // SAFETY: vectors of numbers, whose bytes may be any; all are written before use.
    let (panel, sums) = unsafe { panel.with_sums::<T::Block, [__m512; HALVES]>(at_once, block.rows.len().div_ceil(HEIGHT) * input) };
    // SAFETY: any bytes are valid.
    let mut made: [T::Sums; 2] = unsafe { std::mem::zeroed() };
    for start in (0..blocks.max(1)).step_by(at_once) {
        let end = blocks.min(start + at_once);
        let panel = &mut panel[..end - start];
        for (row, sums) in block.rows.clone().step_by(HEIGHT).zip(sums.chunks_mut(input)) {
            let rows = row..block.rows.end.min(row + HEIGHT);
            if start == 0 {
                // SAFETY: as above.
                sums.fill(unsafe { std::mem::zeroed() });
            }
            let (to_come, from) = match (rows.end < block.rows.end, end < blocks) {
                (true, _) => (rows.end, start),
                (false, true) => (block.rows.start, end),
                (false, false) => (next, 0),
            };
            let bytes = |block: usize| blocks.min(block) * (job.matrix.row_bytes / blocks.max(1));
            let (to_come, bytes) = (to_come..to_come + HEIGHT, bytes(from)..bytes(from + at_once));
            let steps = (end - start).div_ceil(T::STEP);
            let ahead = &mut Ahead::new(job.matrix, to_come, bytes, input.div_ceil(TILE) * steps.max(1));
            for half in 0..HALVES {
                // SAFETY: the caller's promises.
                unsafe { T::pack(job.matrix, row + half * 16, start..end, panel, half) };
            }
            let mut settle = |(first, step, sums_of): (usize, usize, &T::Sums)| {
                let (panel, b) = (&panel[step * T::STEP..], start + step * T::STEP);
                let acc = &mut sums[first..input.min(first + TILE)];
                // SAFETY: as above; `sums_of` was made.
                unsafe { T::settle(job, panel, b, block.columns.start + first, sums_of, acc) };
            };
            let mut before = None;
            let [mut now, mut other] = made.each_mut();
            for first in (0..input).step_by(TILE) {
                for step in 0..steps {
                    ahead.fetch();
                    let (panel, b) = (&panel[step * T::STEP..], start + step * T::STEP);
                    // SAFETY: as above.
                    unsafe { T::multiply(job, panel, b, block.columns.start + first, now) };
                    std::mem::swap(&mut now, &mut other);
                    if let Some((first, step)) = before.replace((first, step)) {
                        settle((first, step, now));
                    }
                }
            }
            if let Some((first, step)) = before {
                settle((first, step, other));
            }
            if end == blocks {
                // SAFETY: the caller's promises.
                unsafe { Lanes::finish(job, rows, block.columns.start, sums) };
            }
        }
    }
}
