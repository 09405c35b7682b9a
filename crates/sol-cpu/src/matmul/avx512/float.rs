//! F32, F16 and BF16 weights. Few input rows ([`few`]): a vector is two weight rows, each in eight lanes, a lane being a column
//! modulo 8. Many ([`many`]): a lane is an output. What the eight lanes would hold are then eight passes, one after the other,
//! over every eighth column, so that the sums are the same; see [`Classes`].

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::activations::{Classes, ORDER};
use super::super::avx2::float::{Bf16, F16, F32, Float, Piece, padded, pieces, settle, weights};
use super::super::portable::DEPTH;
use super::super::tiles::Ahead;
use super::super::{Block, Job, Matrix, Panel, avx2};
use super::unpack::{halves, transpose};
use super::{Rows, live};
use crate::fetch::Cache;

/// Input rows up to which weights are decoded where they are used.
pub(in super::super) const IN_PLACE: usize = 20;

/// A number format, as sixteen rows read it. Its functions are to be inlined into kernels that enable AVX-512.
pub(super) trait Columns: Float {
    /// Eight columns of sixteen rows, from byte `at` of each: a vector is a column.
    unsafe fn columns(rows: &Rows, at: usize) -> [__m512; 8];

    /// Eight numbers of each of two rows.
    unsafe fn load_two(low: *const Self::Bits, high: *const Self::Bits) -> __m512;
}

impl Columns for F32 {
    #[inline(always)]
    unsafe fn columns(rows: &Rows, at: usize) -> [__m512; 8] {
        // SAFETY: the caller's promises.
        unsafe {
            let ([a, b, c, d], [e, f, g, h]) = (transpose(rows, at), transpose(rows, at + 16));
            [a, b, c, d, e, f, g, h].map(|v| _mm512_castsi512_ps(v))
        }
    }

    #[inline(always)]
    unsafe fn load_two(low: *const f32, high: *const f32) -> __m512 {
        // SAFETY: the caller's promises.
        unsafe { _mm512_insertf32x8::<1>(_mm512_castps256_ps512(_mm256_loadu_ps(low)), _mm256_loadu_ps(high)) }
    }
}

impl Columns for F16 {
    #[inline(always)]
    unsafe fn columns(rows: &Rows, at: usize) -> [__m512; 8] {
        // SAFETY: the caller's promises.
        unsafe {
            let [a, b, c, d] = transpose(rows, at);
            let ((a, b), (c, d), (e, f), (g, h)) = (halves(a), halves(b), halves(c), halves(d));
            [a, b, c, d, e, f, g, h]
        }
    }

    #[inline(always)]
    unsafe fn load_two(low: *const u16, high: *const u16) -> __m512 {
        // SAFETY: the caller's promises.
        unsafe { _mm512_cvtph_ps(two(low, high)) }
    }
}

impl Columns for Bf16 {
    #[inline(always)]
    unsafe fn columns(rows: &Rows, at: usize) -> [__m512; 8] {
        // SAFETY: the caller's promises.
        unsafe {
            let [a, b, c, d] = transpose(rows, at);
            let ((a, b), (c, d), (e, f), (g, h)) = (upper(a), upper(b), upper(c), upper(d));
            [a, b, c, d, e, f, g, h]
        }
    }

    #[inline(always)]
    unsafe fn load_two(low: *const u16, high: *const u16) -> __m512 {
        // SAFETY: the caller's promises.
        unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(two(low, high)))) }
    }
}

/// Eight 16-bit numbers of each of two rows.
#[inline(always)]
unsafe fn two(low: *const u16, high: *const u16) -> __m256i {
    // SAFETY: the caller's promises.
    unsafe { _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(_mm_loadu_si128(low.cast())), _mm_loadu_si128(high.cast())) }
}

/// The two BF16 of each lane: low, high.
#[inline(always)]
unsafe fn upper(words: __m512i) -> (__m512, __m512) {
    // SAFETY: the caller's promises.
    unsafe {
        let high = _mm512_and_si512(words, _mm512_set1_epi32(0xFFFF_0000u32 as i32));
        (_mm512_castsi512_ps(_mm512_slli_epi32::<16>(words)), _mm512_castsi512_ps(high))
    }
}

/// # Safety
/// AVX-512 F, BW, DQ and VL, AVX2, FMA and F16C; `F` is the format of the job's matrix; this is a block of the job that no other
/// thread is at work on.
pub(super) unsafe fn run<F: Columns>(job: &Job<'_>, block: &Block, panel: &mut Panel) {
    // SAFETY: the caller's promises.
    unsafe {
        match job.classes {
            None => few::<F>(job, block),
            Some(x) => many::<F>(job, x, block, panel),
        }
    }
}

/// Vectors of sixteen weight rows by input rows that share their loads: 24 accumulators.
const TALL: usize = 2;
const WIDE: usize = 12;

/// A vector of weight rows for each of [`TALL`].
type Weights = [__m512; TALL];

/// Up to 32 weight rows are unpacked at a time, a piece of their columns, and kept while all input rows pass.
///
/// # Safety
/// As [`run`]; `x` are the job's activations.
unsafe fn many<F: Columns>(job: &Job<'_>, x: &Classes, block: &Block, panel: &mut Panel) {
    let columns = block.columns.clone();
    // SAFETY: any bytes are floats, and all are written before use.
    let (panel, sums) = unsafe { panel.with_sums::<Weights, Between>(DEPTH, columns.len()) };
    for row in block.rows.clone().step_by(16 * TALL) {
        let rows = row..block.rows.end.min(row + 16 * TALL);
        pieces(job.matrix.cols(), |piece| {
            let steps = (piece.end - piece.start).div_ceil(8);
            for half in 0..TALL {
                // SAFETY: the caller's promises.
                unsafe { pack::<F>(job.matrix, row + 16 * half, &piece, panel, half) };
            }
            let (next_row, start) = if piece.end < piece.cols { (row, piece.end) } else { (rows.end, 0) };
            let end = piece.cols.min(start + DEPTH);
            let (bytes, times) =
                (start * size_of::<F::Bits>()..end * size_of::<F::Bits>(), ORDER.len() * columns.len().div_ceil(WIDE));
            let mut ahead = Ahead::new(job.matrix, next_row..next_row + 16 * TALL, bytes, times);
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
                    unsafe { strip!(1 2 3 4 5 6 7 8 9 10 11) }
                }
            }
        });
    }
}

/// Unpacks a piece of sixteen rows, from `row` on, into half `half` of the panel: column after column of those that are 0 modulo
/// 8, then of those that are 1, and so on. Columns beyond the last one are zeros.
///
/// # Safety
/// As [`run`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn pack<F: Columns>(matrix: &Matrix, row: usize, piece: &Piece, panel: &mut [Weights], half: usize) {
    let (rows, len, size) = (Rows::still(matrix, row), piece.end - piece.start, size_of::<F::Bits>());
    let steps = len.div_ceil(8);
    for k in 0..len / 8 {
        // SAFETY: the columns lie within each row.
        let columns = unsafe { F::columns(&rows, (piece.start + 8 * k) * size) };
        for (class, column) in columns.into_iter().enumerate() {
            panel[class * steps + k][half] = column;
        }
    }
    if len % 8 != 0 {
        let k = len / 8;
        let mut columns = [[0.0f32; 16]; 8];
        for r in 0..16 {
            // SAFETY: as above, and eight floats are a vector.
            let eight: [f32; 8] = unsafe {
                let from = rows.byte(r, (piece.start + 8 * k) * size).cast::<F::Bits>();
                std::mem::transmute(F::load(padded(from, len % 8).as_ptr()))
            };
            for (column, value) in columns.iter_mut().zip(eight) {
                column[r] = value;
            }
        }
        for (class, column) in columns.iter().enumerate() {
            // SAFETY: sixteen floats.
            panel[class * steps + k][half] = unsafe { _mm512_loadu_ps(column.as_ptr()) };
        }
    }
}

/// What is kept of an input row between the classes of a piece.
type Between = [Weights; 3];

/// A class's products of a panel with `C` input rows from `first` on, whose activations start at `x` (those of the rows after
/// them at `next`), added to what `between`
/// holds of the classes before.
///
/// # Safety
/// As [`run`]; `C` input rows have activations and a place in `between`.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
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
    let mut acc = [[_mm512_setzero_ps(); TALL]; C];
    // SAFETY: the caller's promises.
    unsafe {
        // Twelve streams of 512 bytes are nothing that a processor foresees.
        for (k, w) in weights.iter().enumerate() {
            _mm_prefetch::<_MM_HINT_T0>(next.wrapping_add(C * k).cast());
            for c in 0..C {
                let x = _mm512_set1_ps(*x.add(c * weights.len() + k));
                for h in 0..TALL {
                    acc[c][h] = _mm512_fmadd_ps(w[h], x, acc[c][h]);
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
unsafe fn add_class(turn: usize, sum: __m512, between: &mut Between, h: usize) -> Option<__m512> {
    let [a, b, c] = between;
    // SAFETY: the caller enables the instructions.
    unsafe {
        match turn {
            0 => a[h] = sum,
            1 => a[h] = _mm512_add_ps(a[h], sum),
            2 | 4 => b[h] = sum,
            3 => a[h] = _mm512_add_ps(a[h], _mm512_add_ps(b[h], sum)),
            5 => b[h] = _mm512_add_ps(b[h], sum),
            6 => c[h] = sum,
            _ => return Some(_mm512_add_ps(a[h], _mm512_add_ps(b[h], _mm512_add_ps(c[h], sum)))),
        }
    }
    None
}

/// Adds a piece's sum to what came before; with the bias after the last piece.
///
/// # Safety
/// As [`run`].
#[inline(always)]
unsafe fn add_piece(job: &Job<'_>, rows: &Range<usize>, h: usize, column: usize, piece: &Piece, sum: __m512) {
    let (row, live) = live(rows, h);
    // SAFETY: only outputs and numbers of the bias are read and written that the mask says there are.
    unsafe {
        let out = job.at(column, 0).wrapping_add(row);
        let before = if piece.start > 0 { _mm512_maskz_loadu_ps(live, out) } else { _mm512_setzero_ps() };
        let mut sum = _mm512_add_ps(before, sum);
        if let Some(bias) = job.bias.filter(|_| piece.end == piece.cols) {
            sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(live, bias.as_ptr().wrapping_add(row)));
        }
        _mm512_mask_storeu_ps(out, live, sum);
    }
}

/// Pairs of weight rows that share the loads of an input row. A pair is rows `i` and `i + PAIRS` of a strip.
const PAIRS: usize = 4;

/// Input rows that share the decoding of the weights.
const SHARING: usize = 6;

/// # Safety
/// As [`run`].
unsafe fn few<F: Columns>(job: &Job<'_>, block: &Block) {
    // As many in each group.
    let groups = block.columns.len().div_ceil(SHARING).max(1);
    let width = block.columns.len().div_ceil(groups).max(1);
    for first in block.rows.clone().step_by(2 * PAIRS) {
        let rows = first..block.rows.end.min(first + 2 * PAIRS);
        pieces(job.matrix.cols(), |piece| {
            for column in block.columns.clone().step_by(width) {
                // SAFETY: the caller's promises.
                unsafe {
                    match width.min(block.columns.end - column) {
                        1 => pairs::<F, 1>(job, block, &rows, column, &piece),
                        2 => pairs::<F, 2>(job, block, &rows, column, &piece),
                        3 => pairs::<F, 3>(job, block, &rows, column, &piece),
                        4 => pairs::<F, 4>(job, block, &rows, column, &piece),
                        5 => pairs::<F, 5>(job, block, &rows, column, &piece),
                        _ => pairs::<F, SHARING>(job, block, &rows, column, &piece),
                    }
                }
            }
        });
    }
}

/// Up to eight weight rows by `C` input rows from `column` on.
///
/// # Safety
/// As [`run`].
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
#[allow(clippy::needless_range_loop, reason = "the same numbers index several arrays")]
unsafe fn pairs<F: Columns, const C: usize>(job: &Job<'_>, block: &Block, rows: &Range<usize>, column: usize, piece: &Piece) {
    let (len, size) = (piece.end - piece.start, size_of::<F::Bits>());
    let mut x = [std::ptr::null(); C];
    for (c, x) in x.iter_mut().enumerate() {
        *x = job.x[(column + c) * piece.cols + piece.start..][..len].as_ptr();
    }
    let mut w = [std::ptr::null(); 2 * PAIRS];
    for (r, w) in w.iter_mut().enumerate() {
        *w = weights::<F>(job, block, rows.start + r, piece);
    }
    // The same part of the rows after these.
    let ahead = job.matrix.row(rows.start).as_ptr().wrapping_add(2 * PAIRS * (job.matrix.row_bytes + piece.start * size));
    let cache = Cache::of_weights();
    let mut acc = [[_mm512_setzero_ps(); PAIRS]; C];
    // SAFETY: so many numbers lie there; the last few are copied before they are read as eight. Fetching reads nothing.
    unsafe {
        let whole = len / 8 * 8;
        for k in (0..whole).step_by(8) {
            for line in (0..2 * PAIRS * 8 * size).step_by(64) {
                cache.line(ahead.wrapping_add(2 * PAIRS * size * k + line));
            }
            for p in 0..PAIRS {
                let w = F::load_two(w[p].add(k), w[p + PAIRS].add(k));
                for c in 0..C {
                    let x = _mm512_broadcast_f32x8(_mm256_loadu_ps(x[c].add(k)));
                    acc[c][p] = _mm512_fmadd_ps(w, x, acc[c][p]);
                }
            }
        }
        if whole < len {
            for p in 0..PAIRS {
                let [low, high] = [w[p], w[p + PAIRS]].map(|w| padded(w.add(whole), len - whole));
                let w = F::load_two(low.as_ptr(), high.as_ptr());
                for c in 0..C {
                    let x = _mm512_broadcast_f32x8(_mm256_loadu_ps(padded(x[c].add(whole), len - whole).as_ptr()));
                    acc[c][p] = _mm512_fmadd_ps(w, x, acc[c][p]);
                }
            }
        }
    }
    let half = rows.end.min(rows.start + PAIRS);
    for (c, acc) in acc.iter().enumerate() {
        let (mut low, mut high) = ([avx2::zero(); PAIRS], [avx2::zero(); PAIRS]);
        for p in 0..PAIRS {
            (low[p], high[p]) = (_mm512_castps512_ps256(acc[p]), _mm512_extractf32x8_ps::<1>(acc[p]));
        }
        // SAFETY: outputs of this thread's block.
        unsafe {
            settle(job, rows.start..half, column + c, piece, &low);
            if half < rows.end {
                settle(job, half..rows.end, column + c, piece, &high);
            }
        }
    }
}
