//! Many input rows by matrix instructions: AMX, with tiles of 16 input rows by 16 weight rows.
//!
//! Weights are unpacked into a panel of tiles, [`HALVES`] times 16 rows of [`COLS`] columns, which all input rows then meet. Tiles sum up
//! integers, vectors scale these sums and add them up, in the order of every other kernel and with the same bits. Both work side
//! by side: the sums of one step are scaled while the next ones are made.

mod blocks256;
mod blocks32;
mod registers;

use std::arch::x86_64::*;
use std::ops::Range;

use sol_weights::DType;

use super::super::activations::TILE;
use super::super::tiles::{Ahead, HALVES, Lanes as _};
use super::super::{Block, Job, Matrix, Panel};
use super::{Lanes, blocks32 as formats32, k_formats};
use crate::fetch::Cache;
use registers::Registers;

pub(in crate::matmul) use registers::available;

/// Columns that are unpacked at a time: a panel stays in the first-level cache.
const COLS: usize = 256;

/// Weight rows that are unpacked at a time.
const HEIGHT: usize = HALVES * 16;

/// 8-bit numbers of input rows that the second-level cache keeps beside what else is used.
const STAY: usize = 1 << 20;

/// Input rows up to which kernels without tiles are faster.
pub(in crate::matmul) const WITHOUT: usize = 8;

/// Input rows that one unpacking of the weights serves: [`COLS`] columns of them stay in the second-level cache.
const PASS: usize = 1024;

/// The kernels of a quantised format.
trait Tile: Sized {
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
    unsafe fn pack(matrix: &Matrix, row: usize, blocks: Range<usize>, panel: &mut [Self::Block], half: usize, ahead: &mut Ahead);

    /// The products of up to [`Tile::STEP`] panel blocks, the first of which is block `b`, with input rows `first..first + 16`
    /// (those beyond the last one are any numbers), while those of another step are settled and what lies at `next` is fetched.
    ///
    /// # Safety
    /// As above; [`Registers`] for as many columns; a panel that was packed; activations that lie in tiles.
    unsafe fn multiply(
        job: &Job<'_>,
        panel: &[Self::Block],
        b: usize,
        first: usize,
        sums: &mut Self::Sums,
        next: *const i8,
        before: &Made<'_, Self>,
    );

    /// Where the activations of block `b` of input rows `first..` lie.
    ///
    /// # Safety
    /// As above.
    unsafe fn activations(job: &Job<'_>, b: usize, first: usize) -> *const i8;

    /// Scales the products of input row `first + c` and adds them to those of the blocks before.
    ///
    /// # Safety
    /// As above; there is such an input row.
    unsafe fn settle(made: &Made<'_, Self>, job: &Job<'_>, c: usize, acc: &mut [__m512; HALVES]);
}

/// The products of a step.
struct Made<'a, T: Tile> {
    panel: &'a [T::Block],
    b: usize,
    first: usize,
    sums: &'a T::Sums,
    /// What the blocks before have made, of every input row.
    acc: *mut [__m512; HALVES],
    rows: usize,
}

impl<T: Tile> Made<'_, T> {
    /// Settles input row `c` of sixteen, if there are so many.
    ///
    /// # Safety
    /// As [`Tile::settle`].
    #[inline(always)]
    unsafe fn settle(&self, job: &Job<'_>, c: usize) {
        if c < self.rows {
            // SAFETY: the caller's promises; there are so many.
            unsafe { T::settle(self, job, c, &mut *self.acc.add(c)) };
        }
    }

    /// The same, and fetches the `c`-th part of the activations that lie at `next`.
    ///
    /// # Safety
    /// As above.
    #[inline(always)]
    unsafe fn meanwhile(&self, job: &Job<'_>, c: usize, next: *const i8) {
        // SAFETY: as above.
        unsafe { self.settle(job, c) };
        // A sixteenth of a step's columns of sixteen rows.
        for line in 0..T::STEP * T::BLOCK / 64 {
            Cache::First.line_now(next.wrapping_add((c + 16 * line) * 64));
        }
    }
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
    const { assert!(COLS.is_multiple_of(T::BLOCK * T::STEP)) };
    let (blocks, at_once) = (job.matrix.cols() / T::BLOCK, COLS / T::BLOCK);
    let (first, input) = (block.columns.start, block.columns.len());
    // Input rows of so many columns stay in the second-level cache while all weight rows pass.
    let stay = (STAY / input / COLS).max(1) * at_once;
    // SAFETY: vectors of numbers, whose bytes may be any; all are written before use.
    let (panel, sums) =
        unsafe { panel.with_sums::<T::Block, [__m512; HALVES]>(at_once, block.rows.len().div_ceil(HEIGHT) * input) };
    // SAFETY: as above.
    let mut made: [T::Sums; 2] = unsafe { std::mem::zeroed() };
    // SAFETY: as above.
    unsafe { sums.fill(std::mem::zeroed()) };
    for start in (0..blocks).step_by(stay) {
        let end = blocks.min(start + stay);
        for (row, sums) in block.rows.clone().step_by(HEIGHT).zip(sums.chunks_mut(input)) {
            let (rows, blocks_to_come) = match (row + HEIGHT < block.rows.end, end < blocks) {
                (true, _) => (row + HEIGHT, start..end),
                (false, true) => (block.rows.start, end..blocks.min(end + stay)),
                (false, false) => (next, 0..blocks.min(stay)),
            };
            let block_bytes = job.matrix.row_bytes / blocks;
            let bytes = blocks_to_come.start * block_bytes..blocks_to_come.end * block_bytes;
            let work = (end - start) * T::BLOCK * (HALVES + input.div_ceil(TILE));
            let ahead = &mut Ahead::new(job.matrix, rows..rows + HEIGHT, bytes, work);
            for start in (start..end).step_by(at_once) {
                let end = end.min(start + at_once);
                let panel = &mut panel[..end - start];
                for half in 0..HALVES {
                    // SAFETY: the caller's promises.
                    unsafe { T::pack(job.matrix, row + half * 16, start..end, panel, half, ahead) };
                }
                // SAFETY: the caller's promises, and the panel is packed.
                unsafe { multiply::<T>(job, panel, start, first, sums, &mut made, ahead) };
            }
        }
    }
    for i in 0..input {
        for (row, sums) in block.rows.clone().step_by(HEIGHT).zip(sums.chunks(input)) {
            // SAFETY: the caller's promises.
            unsafe { Lanes::finish(job, row..block.rows.end.min(row + HEIGHT), first + i, &sums[i..i + 1]) };
        }
    }
}

/// Adds the products of a panel that starts at block `start` with as many input rows from `first` on as there are sums.
///
/// # Safety
/// As [`pass`], and a panel that was packed.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
unsafe fn multiply<T: Tile>(
    job: &Job<'_>,
    panel: &[T::Block],
    start: usize,
    first: usize,
    acc: &mut [[__m512; HALVES]],
    made: &mut [T::Sums; 2],
    ahead: &mut Ahead,
) {
    let (input, steps) = (acc.len(), panel.len());
    let [mut now, mut other] = made.each_mut();
    let (mut group, mut step, mut rows) = (0, 0, 0);
    let mut before = (0, 0);
    while group < input {
        let (next_group, next_step) = if step + T::STEP < steps { (group, step + T::STEP) } else { (group + TILE, 0) };
        ahead.fetch(T::BLOCK * (steps - step).min(T::STEP));
        // SAFETY: the caller's promises.
        unsafe {
            let (panel_before, acc) = (&panel[before.1..], acc.as_mut_ptr().add(before.0));
            let made = Made { panel: panel_before, b: start + before.1, first: first + before.0, sums: &*other, acc, rows };
            let next = T::activations(job, start + next_step, first + if next_group < input { next_group } else { group });
            T::multiply(job, &panel[step..], start + step, first + group, now, next, &made);
        }
        std::mem::swap(&mut now, &mut other);
        (before, rows) = ((group, step), TILE.min(input - group));
        (group, step) = (next_group, next_step);
    }
    let (panel, acc) = (&panel[before.1..], acc[before.0..].as_mut_ptr());
    let made = Made::<T> { panel, b: start + before.1, first: first + before.0, sums: &*other, acc, rows };
    for c in 0..TILE {
        // SAFETY: as above.
        unsafe { made.settle(job, c) };
    }
}
