//! The way through a block of the output that the kernels of quantised weights take, whatever their instructions: a lane of
//! their vectors is an output. With few input rows, weights are used where they were unpacked ([`Tile::few`]); with many, a
//! panel of [`HALVES`] vectors of weight rows is unpacked and kept while all of them pass ([`Tile::many`]).

use std::ops::Range;

use super::activations::BESIDE;
use super::{Block, FEW, Job, Matrix, Panel};
use crate::fetch::{Cache, Pace};

/// Input rows that share a load of the panel.
const WIDTH: usize = 4;

/// Input rows that one unpacking of the weights serves: with [`Panel::COLS`] columns, 8-bit numbers that stay in the
/// second-level cache.
const PASS: usize = 256;

/// Vectors of weight rows in a panel.
pub(super) const HALVES: usize = 2;

/// What the index arithmetic of interleaved activations stands on: input rows are taken in whole groups of those that lie
/// interleaved, the last ones excepted, and blocks of columns do not reach over the end of a piece.
const _: () = assert!(
    WIDTH == BESIDE && FEW == BESIDE && PASS.is_multiple_of(BESIDE) && Panel::COLS.is_multiple_of(256),
    "see `activations::Interleaved`"
);

/// Vectors of floats.
pub(super) trait Lanes {
    /// All bits zero are zeros.
    type Vector: Copy;

    /// Its lanes.
    const COUNT: usize;

    /// Input rows up to which unpacking the weights again for each few of them is faster than a panel.
    const UNPACKED: usize;

    /// Computes a block with so few input rows: [`by_four`] or [`by_eight`] of them at a time, as many sums as there is room for.
    ///
    /// # Safety
    /// As [`run`].
    unsafe fn unpacked<T: Tile<Lanes = Self>>(job: &Job<'_>, block: &Block);

    /// Stores sums, with the bias.
    ///
    /// # Safety
    /// The machine has the instructions; `rows` (at most `COUNT * H`) and as many input rows from `first` on as there are sums are
    /// the job's, and nobody else works on them.
    unsafe fn finish<const H: usize>(job: &Job<'_>, rows: Range<usize>, first: usize, sums: &[[Self::Vector; H]]);
}

/// Sums of `C` input rows (outer) by `H` vectors of weight rows.
pub(super) type Sums<V, const H: usize, const C: usize> = [[V; H]; C];

/// The vectors of a format's kernels.
type Vector<T> = <<T as Tile>::Lanes as Lanes>::Vector;

/// The kernels of a quantised format.
pub(super) trait Tile {
    type Lanes: Lanes;

    /// Columns of a block.
    const BLOCK: usize;

    /// Columns that are unpacked at a time: a part of [`Panel::COLS`].
    const COLS: usize = Panel::COLS;

    /// A panel block: [`HALVES`] vectors of rows of one block, interleaved. Any bytes are valid.
    type Block;

    /// The products of a vector of whole weight rows, from `row` on, with input rows `first..first + C`, added up in `sums`, which
    /// are zeros before.
    ///
    /// # Safety
    /// The machine has the instructions; a row of the job's matrix; input rows that it has.
    unsafe fn few<const C: usize>(job: &Job<'_>, row: usize, first: usize, sums: &mut Sums<Vector<Self>, 1, C>);

    /// Interleaves `blocks` of a vector of rows, from `row` on, into half `half` of a panel. Rows beyond the last one are the
    /// last one again.
    ///
    /// # Safety
    /// As above, and blocks that the matrix has.
    unsafe fn pack(matrix: &Matrix, row: usize, blocks: Range<usize>, panel: &mut [Self::Block], half: usize);

    /// Adds the products of a panel that starts at block `start` with input rows `first..first + C`.
    ///
    /// # Safety
    /// As above, and a panel that was packed.
    unsafe fn many<const C: usize>(
        job: &Job<'_>,
        panel: &[Self::Block],
        start: usize,
        first: usize,
        sums: &mut Sums<Vector<Self>, HALVES, C>,
        ahead: &mut Ahead,
    );
}

/// What is unpacked next, fetched bit by bit in the midst of other work.
pub(super) struct Ahead {
    /// Where the bytes of the next row start, and the bytes left of this one.
    row: *const u8,
    left: Range<*const u8>,
    rows: usize,
    row_bytes: usize,
    bytes: usize,
    /// Lines in all, and as many of them as are due, times `work`.
    lines: usize,
    due: usize,
    work: usize,
}

impl Ahead {
    const LINE: usize = 64;

    /// Columns that are multiplied between two times.
    pub(super) const EVERY: usize = 256;

    /// Some bytes of some rows of the matrix, while so much work is done.
    pub(super) fn new(matrix: &Matrix, rows: Range<usize>, bytes: Range<usize>, work: usize) -> Self {
        let rows = rows.start..rows.end.min(matrix.rows());
        let lines = rows.len() * (bytes.len().div_ceil(Self::LINE) + 1);
        let row = if rows.is_empty() { std::ptr::null() } else { matrix.row(rows.start)[bytes.start..].as_ptr() };
        let (rows, row_bytes, bytes) = (rows.len(), matrix.row_bytes, bytes.len());
        Self { row, left: row..row, rows, row_bytes, bytes, lines, due: 0, work }
    }

    /// To be called when so much more of the work is done.
    #[inline(always)]
    pub(super) fn fetch(&mut self, work: usize) {
        self.due += work * self.lines;
        while self.due >= self.work {
            self.due -= self.work;
            if self.left.start >= self.left.end {
                if self.rows == 0 {
                    return;
                }
                self.left = self.row.wrapping_sub(self.row as usize % Self::LINE)..self.row.wrapping_add(self.bytes);
                self.row = self.row.wrapping_add(self.row_bytes);
                self.rows -= 1;
            }
            Cache::Second.line_now(self.left.start);
            self.left.start = self.left.start.wrapping_add(Self::LINE);
        }
    }
}

/// Computes a block of the output.
///
/// # Safety
/// The machine has `T`'s instructions, `T` is the format of the job's matrix, and this is a block of the job that no other
/// thread is at work on.
pub(super) unsafe fn run<T: Tile>(job: &Job<'_>, block: &Block, panel: &mut Panel) {
    // SAFETY: the caller's promises.
    unsafe {
        if block.columns.len() <= T::Lanes::UNPACKED {
            T::Lanes::unpacked::<T>(job, block);
            return;
        }
        for start in block.columns.clone().step_by(PASS) {
            let columns = start..block.columns.end.min(start + PASS);
            let next = if columns.end < block.columns.end { block.rows.start } else { block.rows.end };
            panels::<T>(job, &Block { rows: block.rows.clone(), columns }, next, panel);
        }
    }
}

/// Ways through a block for which weights are unpacked again for each few input rows: so many.
macro_rules! unpacked {
    ($name:ident, $most:literal: $($count:literal)*) => {
        /// # Safety
        /// As [`run`].
        pub(super) unsafe fn $name<T: Tile>(job: &Job<'_>, block: &Block) {
            for row in block.rows.clone().step_by(T::Lanes::COUNT) {
                let rows = row..block.rows.end.min(row + T::Lanes::COUNT);
                for first in block.columns.clone().step_by($most) {
                    // SAFETY: the caller's promises.
                    unsafe {
                        match block.columns.end - first {
                            $($count => few::<T, $count>(job, &rows, first),)*
                            _ => few::<T, $most>(job, &rows, first),
                        }
                    }
                }
            }
        }
    };
}

unpacked!(by_four, 4: 1 2 3);
unpacked!(by_eight, 8: 1 2 3 4 5 6 7);

/// # Safety
/// As [`run`]; input rows `first..first + C` exist.
#[inline(always)]
unsafe fn few<T: Tile, const C: usize>(job: &Job<'_>, rows: &Range<usize>, first: usize) {
    // SAFETY: the caller's promises.
    unsafe {
        let mut sums: Sums<Vector<T>, 1, C> = std::mem::zeroed();
        T::few(job, rows.start, first, &mut sums);
        T::Lanes::finish(job, rows.clone(), first, &sums);
    }
}

/// With panels. `next` is the first row of what comes after this block.
///
/// # Safety
/// As [`run`].
unsafe fn panels<T: Tile>(job: &Job<'_>, block: &Block, next: usize, panel: &mut Panel) {
    const { assert!(Panel::COLS.is_multiple_of(T::COLS) && T::COLS.is_multiple_of(T::BLOCK)) };
    let (blocks, height) = (job.matrix.cols() / T::BLOCK, T::Lanes::COUNT);
    let strips = || block.rows.clone().step_by(HALVES * height);
    let groups = || block.columns.clone().step_by(WIDTH);
    let at_once = T::COLS / T::BLOCK;
    // SAFETY: vectors of numbers, whose bytes may be any; all are written before use.
    let (panel, sums) = unsafe { panel.with_sums(at_once, strips().len() * groups().len()) };
    for start in (0..blocks.max(1)).step_by(at_once) {
        let end = blocks.min(start + at_once);
        let panel = &mut panel[..end - start];
        let mut sums = sums.iter_mut();
        for row in strips() {
            let rows = row..block.rows.end.min(row + HALVES * height);
            let (to_come, from) = match (rows.end < block.rows.end, end < blocks) {
                (true, _) => (rows.end, start),
                (false, true) => (block.rows.start, end),
                (false, false) => (next, 0),
            };
            let bytes = |block: usize| blocks.min(block) * (job.matrix.row_bytes / blocks.max(1));
            let (to_come, bytes) = (to_come..to_come + HALVES * height, bytes(from)..bytes(from + at_once));
            let ahead = &mut Ahead::new(
                job.matrix,
                to_come,
                bytes,
                groups().len() * ((end - start) * T::BLOCK).div_ceil(Ahead::EVERY).max(1),
            );
            for half in 0..HALVES {
                // SAFETY: the caller's promises.
                unsafe { T::pack(job.matrix, row + half * height, start..end, panel, half) };
            }
            for (first, sums) in groups().zip(&mut sums) {
                // SAFETY: the caller's promises, and the panel is packed.
                unsafe {
                    match block.columns.end - first {
                        1 => many::<T, 1>(job, &rows, panel, start, first, sums, end == blocks, ahead),
                        2 => many::<T, 2>(job, &rows, panel, start, first, sums, end == blocks, ahead),
                        3 => many::<T, 3>(job, &rows, panel, start, first, sums, end == blocks, ahead),
                        _ => many::<T, WIDTH>(job, &rows, panel, start, first, sums, end == blocks, ahead),
                    }
                }
            }
        }
    }
}

/// # Safety
/// As [`run`]; a packed panel; input rows `first..first + C` exist.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn many<T: Tile, const C: usize>(
    job: &Job<'_>,
    rows: &Range<usize>,
    panel: &[T::Block],
    start: usize,
    first: usize,
    between: &mut Sums<Vector<T>, HALVES, WIDTH>,
    last: bool,
    ahead: &mut Ahead,
) {
    // SAFETY: the caller's promises.
    unsafe {
        let sums: &mut Sums<Vector<T>, HALVES, C> = between.first_chunk_mut().expect("C is at most WIDTH");
        if start == 0 {
            *sums = std::mem::zeroed();
        }
        T::many(job, panel, start, first, sums, ahead);
        if last {
            T::Lanes::finish(job, rows.clone(), first, sums);
        }
    }
}

/// `N` weight rows, read together.
#[derive(Clone, Copy)]
pub(super) struct Rows<const N: usize> {
    rows: [*const u8; N],
    /// Where the rows after them start; null where nothing is fetched ahead.
    next: *const u8,
    cache: Cache,
}

impl<const N: usize> Rows<N> {
    /// Rows `first..first + N`. Rows beyond the last one are the last one again: their results are not stored.
    ///
    /// # Panics
    /// When the matrix has no rows.
    pub(super) fn new(matrix: &Matrix, first: usize) -> Self {
        let last = matrix.rows().checked_sub(1).expect("a matrix with rows");
        let first = first.min(last);
        let start = matrix.bytes[first * matrix.row_bytes..].as_ptr();
        let rows = std::array::from_fn(|i| start.wrapping_add(i.min(last - first) * matrix.row_bytes));
        Self { rows, next: start.wrapping_add(N * matrix.row_bytes), cache: Cache::of_weights() }
    }

    /// As [`Rows::new`], for which nothing is fetched ahead.
    pub(super) fn still(matrix: &Matrix, first: usize) -> Self {
        Self { next: std::ptr::null(), ..Self::new(matrix, first) }
    }

    /// Fetches the part of the next rows that is as far from their start as the blocks of `bytes` at `at` are from the start
    /// of these. So many rows at once are too many streams, and each too short, for a processor to foresee; but as they lie one
    /// after the other, all of the next rows are simply the next bytes.
    #[inline(always)]
    pub(super) fn prefetch(&self, at: usize, bytes: usize) {
        if self.next.is_null() {
            return;
        }
        for line in (0..N * bytes).step_by(64) {
            self.cache.line(self.next.wrapping_add(N * at + line));
        }
    }

    /// For fetching the next rows in the midst of work on these.
    pub(super) fn ahead(&self) -> Pace {
        Pace::new(self.next, self.cache)
    }

    /// Where byte `at` of row `r` lies.
    ///
    /// # Safety
    /// There is such a byte.
    #[inline(always)]
    pub(super) unsafe fn byte(&self, r: usize, at: usize) -> *const u8 {
        // SAFETY: the caller's promise.
        unsafe { self.rows[r].add(at) }
    }
}
