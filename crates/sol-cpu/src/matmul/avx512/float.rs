//! F32, F16 and BF16 weights by many input rows: a vector is two weight rows, each in eight lanes, a lane being a column modulo
//! 8 as everywhere. Few input rows wait for memory, not for products, and are left to [AVX2](avx2::float).

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::avx2::float::{Float, PITCH, Piece, padded, pieces, settle, weights};
use super::super::avx2::{self, float};
use super::super::{Block, FEW, Job, Panel};

/// Pairs of weight rows by input rows that share their loads: 24 accumulators. A pair is rows `i` and `i + PAIRS` of a strip.
const PAIRS: usize = 4;
const WIDE: usize = 6;

/// Weight rows of a strip.
const TALL: usize = 2 * PAIRS;

/// # Safety
/// AVX-512 F, BW, DQ and VL, AVX2, FMA and F16C; `F` is the format of the job's matrix; this is a block of the job that no other thread
/// is at work on.
pub(super) unsafe fn run<F: Float>(job: &Job<'_>, block: &Block, panel: &mut Panel) {
    if block.columns.len() <= FEW {
        // SAFETY: the caller's promises.
        return unsafe { float::run::<F>(job, block, panel) };
    }
    // SAFETY: any bytes are floats.
    let decoded = unsafe { panel.blocks::<f32>(Block::ROWS * PITCH) };
    pieces(job.matrix.cols(), |piece| {
        for (first, pairs) in block.rows.clone().step_by(TALL).zip(decoded.chunks_exact_mut(TALL * PITCH)) {
            for (i, pair) in pairs.chunks_exact_mut(2 * PITCH).enumerate() {
                let row = |row| weights::<F>(job, block, row, &piece);
                // SAFETY: the caller's promises; the rows are those of the matrix.
                unsafe { decode::<F>(row(first + i), row(first + i + PAIRS), piece.end - piece.start, pair) };
            }
        }
        for column in block.columns.clone().step_by(WIDE) {
            for (first, pairs) in block.rows.clone().step_by(TALL).zip(decoded.chunks_exact(TALL * PITCH)) {
                let rows = first..block.rows.end.min(first + TALL);
                // SAFETY: the caller's promises, and the pairs are decoded.
                unsafe {
                    match block.columns.end - column {
                        1 => strip::<1>(job, pairs, rows, column, &piece),
                        2 => strip::<2>(job, pairs, rows, column, &piece),
                        3 => strip::<3>(job, pairs, rows, column, &piece),
                        4 => strip::<4>(job, pairs, rows, column, &piece),
                        5 => strip::<5>(job, pairs, rows, column, &piece),
                        _ => strip::<WIDE>(job, pairs, rows, column, &piece),
                    }
                }
            }
        }
    });
}

/// Decodes `len` numbers of two rows, and zeros up to a multiple of 8: eight of the first, eight of the second, and so on.
///
/// # Safety
/// As [`run`]; `low` and `high` are to `len` numbers.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn decode<F: Float>(low: *const F::Bits, high: *const F::Bits, len: usize, to: &mut [f32]) {
    for (i, to) in to.as_chunks_mut::<16>().0.iter_mut().take(len.div_ceil(8)).enumerate() {
        let left = len - 8 * i;
        for (row, to) in [low, high].into_iter().zip(to.as_chunks_mut::<8>().0) {
            // SAFETY: the caller's promises.
            unsafe {
                let from = row.add(8 * i);
                let eight = if left < 8 { F::load(padded(from, left).as_ptr()) } else { F::load(from) };
                _mm256_storeu_ps(to.as_mut_ptr(), eight);
            }
        }
    }
}

/// Up to `TALL` weight rows by `C` input rows from `column` on.
///
/// # Safety
/// As [`run`]; `pairs` are decoded.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
#[allow(clippy::needless_range_loop, reason = "the same numbers index several arrays")]
unsafe fn strip<const C: usize>(job: &Job<'_>, pairs: &[f32], rows: Range<usize>, column: usize, piece: &Piece) {
    let len = piece.end - piece.start;
    let mut x = [std::ptr::null(); C];
    for (c, x) in x.iter_mut().enumerate() {
        *x = job.x[(column + c) * piece.cols + piece.start..][..len].as_ptr();
    }
    let mut acc = [[_mm512_setzero_ps(); PAIRS]; C];
    // SAFETY: as many numbers as the piece has columns lie there; the last few are copied before they are read as eight.
    unsafe {
        let weights = pairs.as_ptr();
        let whole = len / 8 * 8;
        for k in (0..whole).step_by(8) {
            let mut w = [_mm512_setzero_ps(); PAIRS];
            for (p, w) in w.iter_mut().enumerate() {
                *w = _mm512_loadu_ps(weights.add(2 * (p * PITCH + k)));
            }
            for c in 0..C {
                let x = _mm512_broadcast_f32x8(_mm256_loadu_ps(x[c].add(k)));
                for p in 0..PAIRS {
                    acc[c][p] = _mm512_fmadd_ps(w[p], x, acc[c][p]);
                }
            }
        }
        if whole < len {
            for c in 0..C {
                let x = _mm512_broadcast_f32x8(_mm256_loadu_ps(padded(x[c].add(whole), len - whole).as_ptr()));
                for p in 0..PAIRS {
                    acc[c][p] = _mm512_fmadd_ps(_mm512_loadu_ps(weights.add(2 * (p * PITCH + whole))), x, acc[c][p]);
                }
            }
        }
    }
    for (c, acc) in acc.iter().enumerate() {
        let half = rows.end.min(rows.start + PAIRS);
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
