//! F32, F16 and BF16 weights: a lane is a column modulo 8, one accumulator of eight lanes an output.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::{Job, Panel};

/// Weight rows by input rows that share their loads: twelve accumulators.
const TALL: usize = 4;
const WIDE: usize = 3;

/// Weight rows and input rows of a block that stays in the second-level cache.
const ROWS: usize = 16;
const COLUMNS: usize = 252;

/// Columns of a block; multiples of 8.
const DEPTH: usize = 2048;

/// From one decoded row to the next: rows must not all fall into the same cache sets.
const PITCH: usize = DEPTH + 16;

/// A number format. Its functions are to be inlined into kernels that enable AVX2 and F16C.
pub(super) trait Float {
    type Bits: Copy + Default;

    /// Whether decoding costs enough to be done once for many input rows.
    const DECODE: bool = true;

    /// Eight numbers.
    unsafe fn load(at: *const Self::Bits) -> __m256;
}

pub(super) struct F32;

impl Float for F32 {
    type Bits = f32;

    const DECODE: bool = false;

    #[inline(always)]
    unsafe fn load(at: *const f32) -> __m256 {
        // SAFETY: the caller's promises.
        unsafe { _mm256_loadu_ps(at) }
    }
}

pub(super) struct F16;

impl Float for F16 {
    type Bits = u16;

    #[inline(always)]
    unsafe fn load(at: *const u16) -> __m256 {
        // SAFETY: the caller's promises.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) }
    }
}

pub(super) struct Bf16;

impl Float for Bf16 {
    type Bits = u16;

    #[inline(always)]
    unsafe fn load(at: *const u16) -> __m256 {
        // SAFETY: the caller's promises.
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }
}

/// Sums of `TALL` weight rows by `C` input rows.
type Sums<const C: usize> = [[__m256; C]; TALL];

/// # Safety
/// AVX2, FMA and F16C; `F` is the format of the job's matrix; no other thread is at work on the same rows of the job.
pub(super) unsafe fn run<F: Float>(job: &Job<'_>, rows: Range<usize>, panel: &mut Panel) {
    // SAFETY: the caller's promises.
    unsafe {
        match job.n {
            1 => few::<F, 1>(job, rows),
            2 => few::<F, 2>(job, rows),
            3 => few::<F, 3>(job, rows),
            _ => many::<F>(job, rows, panel),
        }
    }
}

/// # Safety
/// As [`run`]; there are `C` input rows.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn few<F: Float, const C: usize>(job: &Job<'_>, rows: Range<usize>) {
    for row in rows.clone().step_by(TALL) {
        let mut sums = [[super::zero(); C]; TALL];
        let weights = std::array::from_fn(|r| job.matrix.row((row + r).min(rows.end - 1)).as_ptr().cast());
        let x = std::array::from_fn(|c| job.x[c * job.matrix.cols()..].as_ptr());
        // SAFETY: whole rows of weights and input, and this thread's outputs.
        unsafe {
            tile::<F, C>(&weights, &x, job.matrix.cols(), &mut sums);
            finish(job, row..rows.end.min(row + TALL), 0, &sums);
        }
    }
}

/// # Safety
/// As [`run`].
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn many<F: Float>(job: &Job<'_>, rows: Range<usize>, panel: &mut Panel) {
    let cols = job.matrix.cols();
    let (sums, decoded) = panel.floats(COLUMNS * ROWS, if F::DECODE { ROWS * PITCH } else { 0 });
    for row in rows.clone().step_by(ROWS) {
        let block = row..rows.end.min(row + ROWS);
        for first in (0..job.n).step_by(COLUMNS) {
            let columns = first..job.n.min(first + COLUMNS);
            let mut start = 0;
            loop {
                let end = cols.min(start + DEPTH);
                let mut weights = [std::ptr::null::<f32>(); ROWS];
                for (r, to) in weights.iter_mut().enumerate() {
                    let from = job.matrix.row((row + r).min(rows.end - 1)).as_ptr().cast::<F::Bits>();
                    // SAFETY: `start` lies within the row (or at its end); a decoded row fits its pitch.
                    unsafe {
                        *to = if F::DECODE {
                            let to = decoded.as_mut_ptr().add(r * PITCH);
                            decode::<F>(from.add(start), end - start, to);
                            to
                        } else {
                            from.add(start).cast()
                        };
                    }
                }
                let piece = Piece { block: block.clone(), first, start, end };
                let whole = columns.len() / WIDE * WIDE;
                // SAFETY: rows, input rows and columns of the job; `sums` has room for all of the block.
                unsafe {
                    for column in (first..first + whole).step_by(WIDE) {
                        strip::<WIDE>(job, &weights, &piece, column, sums);
                    }
                    match columns.len() - whole {
                        0 => {}
                        1 => strip::<1>(job, &weights, &piece, first + whole, sums),
                        _ => strip::<2>(job, &weights, &piece, first + whole, sums),
                    }
                }
                if end == cols {
                    break;
                }
                start = end;
            }
        }
    }
}

/// What [`strip`] works on.
struct Piece {
    /// Weight rows.
    block: Range<usize>,
    /// The input row whose sums come first in the buffer.
    first: usize,
    /// Columns.
    start: usize,
    end: usize,
}

/// A block of weight rows by `C` input rows from `column` on.
///
/// # Safety
/// As [`run`]; everything named exists.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn strip<const C: usize>(
    job: &Job<'_>,
    weights: &[*const f32; ROWS],
    piece: &Piece,
    column: usize,
    buffer: &mut [__m256],
) {
    let cols = job.matrix.cols();
    let x = std::array::from_fn(|c| job.x[(column + c) * cols + piece.start..].as_ptr());
    for (t, weights) in weights.as_chunks::<TALL>().0.iter().enumerate() {
        let row = piece.block.start + t * TALL;
        if row >= piece.block.end {
            break;
        }
        let kept = &mut buffer[(column - piece.first) * ROWS + t * TALL * C..][..TALL * C];
        let mut sums = [[super::zero(); C]; TALL];
        if piece.start > 0 {
            sums.as_flattened_mut().copy_from_slice(kept);
        }
        // SAFETY: the caller's promises.
        unsafe { tile::<F32, C>(weights, &x, piece.end - piece.start, &mut sums) };
        if piece.end == cols {
            // SAFETY: the caller's promises.
            unsafe { finish(job, row..piece.block.end.min(row + TALL), column, &sums) };
        } else {
            kept.copy_from_slice(sums.as_flattened());
        }
    }
}

/// Adds the products of `len` columns.
///
/// # Safety
/// AVX2, FMA and F16C; all pointers are to `len` numbers.
#[inline(always)]
unsafe fn tile<F: Float, const C: usize>(
    weights: &[*const F::Bits; TALL],
    x: &[*const f32; C],
    len: usize,
    sums: &mut Sums<C>,
) {
    // SAFETY: the caller's promises.
    unsafe {
        let mut acc = *sums;
        let whole = len / 8 * 8;
        for k in (0..whole).step_by(8) {
            let x = x.map(|x| _mm256_loadu_ps(x.add(k)));
            for r in 0..TALL {
                let w = F::load(weights[r].add(k));
                for c in 0..C {
                    acc[r][c] = _mm256_fmadd_ps(w, x[c], acc[r][c]);
                }
            }
        }
        if whole < len {
            let x = x.map(|x| F32::load(padded(x.add(whole), len - whole).as_ptr()));
            for r in 0..TALL {
                let w = F::load(padded(weights[r].add(whole), len - whole).as_ptr());
                for c in 0..C {
                    acc[r][c] = _mm256_fmadd_ps(w, x[c], acc[r][c]);
                }
            }
        }
        *sums = acc;
    }
}

/// The last few numbers of a row, and zeros.
///
/// # Safety
/// `from` is to `len < 8` numbers.
#[inline(always)]
unsafe fn padded<T: Copy + Default>(from: *const T, len: usize) -> [T; 8] {
    let mut all = [T::default(); 8];
    // SAFETY: the caller's promise. As bytes, because rows of a file need not be aligned.
    unsafe { std::ptr::copy_nonoverlapping(from.cast::<u8>(), all.as_mut_ptr().cast(), len * size_of::<T>()) };
    all
}

/// # Safety
/// AVX2, FMA and F16C; `from` is to `len` numbers, `to` to room for as many, rounded up to 8.
#[inline(always)]
unsafe fn decode<F: Float>(from: *const F::Bits, len: usize, to: *mut f32) {
    // SAFETY: the caller's promises.
    unsafe {
        let whole = len / 8 * 8;
        for k in (0..whole).step_by(8) {
            _mm256_storeu_ps(to.add(k), F::load(from.add(k)));
        }
        if whole < len {
            _mm256_storeu_ps(to.add(whole), F::load(padded(from.add(whole), len - whole).as_ptr()));
        }
    }
}

/// Adds up the lanes and stores.
///
/// # Safety
/// AVX2; up to `TALL` rows, which are this thread's, and input rows `column..column + C`.
#[inline(always)]
unsafe fn finish<const C: usize>(job: &Job<'_>, rows: Range<usize>, column: usize, sums: &Sums<C>) {
    for (row, sums) in rows.zip(sums) {
        for (c, &sum) in sums.iter().enumerate() {
            // SAFETY: the caller's promises.
            unsafe {
                let four = _mm_add_ps(_mm256_castps256_ps128(sum), _mm256_extractf128_ps::<1>(sum));
                let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
                let one = _mm_add_ss(two, _mm_movehdup_ps(two));
                job.put(column + c, row, _mm_cvtss_f32(one));
            }
        }
    }
}
