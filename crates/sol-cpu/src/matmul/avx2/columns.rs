//! Many input rows of float weights: a lane is an output. What eight lanes of columns would hold are eight passes, one after the
//! other, over every eighth column, so that the sums are those of [`float`](super::float); see [`Classes`]. A pass's weights stay in
//! the first-level cache while all input rows meet them.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::activations::{Classes, ORDER};
use super::super::portable::DEPTH;
use super::super::tiles::Ahead;
use super::super::{Block, Job, Matrix, Panel};
use super::Rows;
use super::float::{Float, Piece, padded, pieces};

/// Vectors of eight weight rows by input rows that share their loads: twelve accumulators.
const TALL: usize = 2;
const WIDE: usize = 6;

/// A vector of weight rows for each of [`TALL`].
type Weights = [__m256; TALL];

/// What is kept of an input row between the classes of a piece.
type Between = [Weights; 3];

/// Up to sixteen weight rows are unpacked at a time, a piece of their columns, and kept while all input rows pass.
///
/// # Safety
/// AVX2, FMA and F16C; `F` is the format of the job's matrix; this is a block of the job that no other thread is at work on; `x` are
/// the job's activations.
pub(super) unsafe fn run<F: Float>(job: &Job<'_>, x: &Classes, block: &Block, panel: &mut Panel) {
    let columns = block.columns.clone();
    // SAFETY: any bytes are floats, and all are written before use.
    let (panel, sums) = unsafe { panel.with_sums::<Weights, Between>(DEPTH, columns.len()) };
    for row in block.rows.clone().step_by(8 * TALL) {
        let rows = row..block.rows.end.min(row + 8 * TALL);
        pieces(job.matrix.cols(), |piece| {
            let steps = (piece.end - piece.start).div_ceil(8);
            for half in 0..TALL {
                // SAFETY: the caller's promises.
                unsafe { pack::<F>(job.matrix, row + 8 * half, &piece, panel, half) };
            }
            let (next_row, start) = if piece.end < piece.cols { (row, piece.end) } else { (rows.end, 0) };
            let end = piece.cols.min(start + DEPTH);
            let (bytes, times) =
                (start * size_of::<F::Bits>()..end * size_of::<F::Bits>(), ORDER.len() * columns.len().div_ceil(WIDE));
            let mut ahead = Ahead::new(job.matrix, next_row..next_row + 8 * TALL, bytes, times);
            for (turn, class) in ORDER.into_iter().enumerate() {
                let weights = &panel[class * steps..][..steps];
                for first in columns.clone().step_by(WIDE) {
                    let (next, turn_after) = match first + WIDE < columns.end {
                        true => (first + WIDE, turn),
                        false => (columns.start, (turn + 1) % ORDER.len()),
                    };
                    let next = x.class(piece.start..piece.end, ORDER[turn_after], next);
                    let x = x.class(piece.start..piece.end, class, first);
                    ahead.fetch(1);
                    let sums = &mut sums[first - columns.start..];
                    macro_rules! strip {
                        ($($c:literal)*) => {
                            match columns.end - first {
                                $($c => strip::<$c>(job, weights, x, next, &rows, first, &piece, turn, sums),)*
                                _ => strip::<WIDE>(job, weights, x, next, &rows, first, &piece, turn, sums),
                            }
                        };
                    }
                    // SAFETY: the caller's promises, and the panel is packed.
                    unsafe { strip!(1 2 3 4 5) }
                }
            }
        });
    }
}

/// Unpacks a piece of eight rows, from `row` on, into half `half` of the panel: column after column of those that are 0 modulo 8,
/// then of those that are 1, and so on. Columns beyond the last one are zeros.
///
/// # Safety
/// As [`run`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn pack<F: Float>(matrix: &Matrix, row: usize, piece: &Piece, panel: &mut [Weights], half: usize) {
    let (rows, len, size) = (Rows::still(matrix, row), piece.end - piece.start, size_of::<F::Bits>());
    let steps = len.div_ceil(8);
    for k in 0..steps {
        let left = len - 8 * k;
        let mut eight = [super::zero(); 8];
        for (r, eight) in eight.iter_mut().enumerate() {
            // SAFETY: the columns lie within each row; the last few are copied before they are read as eight.
            unsafe {
                let from = rows.byte(r, (piece.start + 8 * k) * size).cast::<F::Bits>();
                *eight = if left < 8 { F::load(padded(from, left).as_ptr()) } else { F::load(from) };
            }
        }
        // SAFETY: this function has the features.
        for (class, column) in unsafe { transpose(eight) }.into_iter().enumerate() {
            panel[class * steps + k][half] = column;
        }
    }
}

/// Eight columns of eight rows.
#[inline(always)]
unsafe fn transpose(rows: [__m256; 8]) -> [__m256; 8] {
    // SAFETY: the caller enables AVX2.
    unsafe {
        // Rows `i` and `i + 4` in the halves of a vector, columns 0 to 3, then 4 to 7.
        let mut columns = [super::zero(); 8];
        for high in 0..2 {
            let both = |i: usize| match high {
                0 => _mm256_permute2f128_ps::<0x20>(rows[i], rows[i + 4]),
                _ => _mm256_permute2f128_ps::<0x31>(rows[i], rows[i + 4]),
            };
            let [a, b, c, d] = [both(0), both(1), both(2), both(3)];
            let [ab, cd] = [_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d)];
            columns[4 * high] = _mm256_shuffle_ps::<0x44>(ab, cd);
            columns[4 * high + 1] = _mm256_shuffle_ps::<0xEE>(ab, cd);
            let [ab, cd] = [_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d)];
            columns[4 * high + 2] = _mm256_shuffle_ps::<0x44>(ab, cd);
            columns[4 * high + 3] = _mm256_shuffle_ps::<0xEE>(ab, cd);
        }
        columns
    }
}

/// A class's products of a panel with `C` input rows from `first` on, whose activations start at `x` (those of the rows
/// after them at `next`), added to what `between` holds of the classes before.
///
/// # Safety
/// As [`run`]; `C` input rows have activations and a place in `between`.
#[target_feature(enable = "avx2,fma,f16c")]
#[allow(clippy::too_many_arguments, clippy::needless_range_loop, reason = "the same numbers index several arrays")]
unsafe fn strip<const C: usize>(
    job: &Job<'_>,
    weights: &[Weights],
    x: *const f32,
    next: *const f32,
    rows: &Range<usize>,
    first: usize,
    piece: &Piece,
    turn: usize,
    between: &mut [Between],
) {
    let mut acc = [[super::zero(); TALL]; C];
    // SAFETY: the caller's promises.
    unsafe {
        // Six streams of 512 bytes are nothing that a processor foresees.
        for (k, w) in weights.iter().enumerate() {
            _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(C * k).cast());
            for c in 0..C {
                let x = _mm256_broadcast_ss(&*x.add(c * weights.len() + k));
                for h in 0..TALL {
                    acc[c][h] = _mm256_fmadd_ps(w[h], x, acc[c][h]);
                }
            }
        }
        for c in 0..C {
            for h in 0..TALL {
                if let Some(sum) = add_class(turn, acc[c][h], &mut between[c], h) {
                    add_piece(job, rows, h, first + c, piece, sum);
                }
            }
        }
    }
}

/// Adds the sum of the columns whose turn it is by [`ORDER`], and gives that of all after the last turn:
/// `((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7))`.
#[inline(always)]
unsafe fn add_class(turn: usize, sum: __m256, between: &mut Between, h: usize) -> Option<__m256> {
    let [a, b, c] = between;
    // SAFETY: the caller enables the instructions.
    unsafe {
        match turn {
            0 => a[h] = sum,
            1 => a[h] = _mm256_add_ps(a[h], sum),
            2 | 4 => b[h] = sum,
            3 => a[h] = _mm256_add_ps(a[h], _mm256_add_ps(b[h], sum)),
            5 => b[h] = _mm256_add_ps(b[h], sum),
            6 => c[h] = sum,
            _ => return Some(_mm256_add_ps(a[h], _mm256_add_ps(b[h], _mm256_add_ps(c[h], sum)))),
        }
    }
    None
}

/// Adds a piece's sum to what came before; with the bias after the last piece.
///
/// # Safety
/// As [`run`].
#[inline(always)]
unsafe fn add_piece(job: &Job<'_>, rows: &Range<usize>, h: usize, column: usize, piece: &Piece, sum: __m256) {
    let row = rows.start + 8 * h;
    let live = 8.min(rows.end.saturating_sub(row));
    // SAFETY: only outputs and numbers of the bias are read and written that the mask says there are.
    unsafe {
        let mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(live as i32), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
        let out = job.at(column, 0).wrapping_add(row);
        let before = if piece.start > 0 { _mm256_maskload_ps(out, mask) } else { super::zero() };
        let mut sum = _mm256_add_ps(before, sum);
        if let Some(bias) = job.bias.filter(|_| piece.end == piece.cols) {
            sum = _mm256_add_ps(sum, _mm256_maskload_ps(bias.as_ptr().wrapping_add(row), mask));
        }
        _mm256_maskstore_ps(out, mask, sum);
    }
}
