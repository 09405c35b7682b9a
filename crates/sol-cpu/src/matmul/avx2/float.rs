//! F32, F16 and BF16 weights: a lane is a column modulo 8, one accumulator of eight lanes an output.

use std::arch::x86_64::*;
use std::ops::Range;

use super::super::portable::DEPTH;
use super::super::{Block, FEW, Job, Panel};
use super::columns;
use crate::fetch::Cache;

/// Weight rows by input rows that share their loads: twelve accumulators.
const TALL: usize = 4;
const WIDE: usize = 3;

/// From one decoded row to the next: rows must not all fall into the same cache sets.
const PITCH: usize = DEPTH + 16;

/// A number format. Its functions are to be inlined into kernels that enable AVX2 and F16C.
pub(in super::super) trait Float {
    type Bits: Copy + Default;

    /// Whether decoding costs enough to be done once for many input rows.
    const DECODE: bool = true;

    /// Eight numbers.
    unsafe fn load(at: *const Self::Bits) -> __m256;
}

pub(in super::super) struct F32;

impl Float for F32 {
    type Bits = f32;

    const DECODE: bool = false;

    #[inline(always)]
    unsafe fn load(at: *const f32) -> __m256 {
        // SAFETY: the caller's promises.
        unsafe { _mm256_loadu_ps(at) }
    }
}

pub(in super::super) struct F16;

impl Float for F16 {
    type Bits = u16;

    #[inline(always)]
    unsafe fn load(at: *const u16) -> __m256 {
        // SAFETY: the caller's promises.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) }
    }
}

pub(in super::super) struct Bf16;

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

/// Sums of `C` input rows (outer) by `TALL` weight rows.
type Sums<const C: usize> = [[__m256; TALL]; C];

/// # Safety
/// AVX2, FMA and F16C; `F` is the format of the job's matrix; this is a block of the job that no other thread is at work on.
pub(in super::super) unsafe fn run<F: Float>(job: &Job<'_>, block: &Block, panel: &mut Panel) {
    // SAFETY: the caller's promises.
    unsafe {
        if let Some(x) = job.classes {
            columns::run::<F>(job, x, block, panel);
        } else if block.columns.len() <= FEW {
            for first in block.rows.clone().step_by(TALL) {
                let tile = Block { rows: first..block.rows.end.min(first + TALL), columns: block.columns.clone() };
                pieces(job.matrix.cols(), |piece| {
                    strips::<F, true>(job, &tile, &piece, |row| weights::<F>(job, &tile, row, &piece))
                });
            }
        } else if F::DECODE {
            let decoded = panel.blocks::<f32>(Block::ROWS * PITCH);
            let first = block.rows.start;
            pieces(job.matrix.cols(), |piece| {
                for row in block.rows.clone() {
                    let to = &mut decoded[(row - first) * PITCH..][..PITCH];
                    decode::<F>(weights::<F>(job, block, row, &piece), piece.end - piece.start, to);
                }
                let row = |row: usize| decoded[(row.min(block.rows.end - 1) - first) * PITCH..].as_ptr();
                strips::<F32, false>(job, block, &piece, row);
            });
        } else {
            pieces(job.matrix.cols(), |piece| {
                strips::<F, false>(job, block, &piece, |row| weights::<F>(job, block, row, &piece))
            });
        }
    }
}

/// Where a piece of a weight row is; the block's last row stands for those beyond it, whose results are not stored.
pub(in super::super) fn weights<F: Float>(job: &Job<'_>, block: &Block, row: usize, piece: &Piece) -> *const F::Bits {
    job.matrix.row(row.min(block.rows.end - 1)).as_ptr().cast::<F::Bits>().wrapping_add(piece.start)
}

/// Cuts columns into pieces; no columns are one piece.
pub(in super::super) fn pieces(cols: usize, mut f: impl FnMut(Piece)) {
    let mut start = 0;
    loop {
        let end = cols.min(start + DEPTH);
        f(Piece { start, end, cols });
        if end == cols {
            break;
        }
        start = end;
    }
}

/// Some columns of the matrix.
pub(in super::super) struct Piece {
    pub(in super::super) start: usize,
    pub(in super::super) end: usize,
    /// Of the whole matrix.
    pub(in super::super) cols: usize,
}

/// Adds a piece's products to the block. `row` tells where the piece of a weight row is. With `AHEAD`, the rows lie in memory
/// one after the other and are fetched ahead.
///
/// # Safety
/// As [`run`], and `row` is to be trusted.
#[inline(always)]
unsafe fn strips<F: Float, const AHEAD: bool>(
    job: &Job<'_>,
    block: &Block,
    piece: &Piece,
    row: impl Fn(usize) -> *const F::Bits,
) {
    for column in block.columns.clone().step_by(WIDE) {
        for first in block.rows.clone().step_by(TALL) {
            let weights = [row(first), row(first + 1), row(first + 2), row(first + 3)];
            let rows = first..block.rows.end.min(first + TALL);
            // SAFETY: the caller's promises.
            unsafe {
                match block.columns.end - column {
                    1 => strip::<F, 1, AHEAD>(job, &weights, rows, column, piece),
                    2 => strip::<F, 2, AHEAD>(job, &weights, rows, column, piece),
                    _ => strip::<F, WIDE, AHEAD>(job, &weights, rows, column, piece),
                }
            }
        }
    }
}

/// Up to `TALL` weight rows by `C` input rows from `column` on.
///
/// # Safety
/// As [`run`]; the pointers are to as many numbers as the piece has columns.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn strip<F: Float, const C: usize, const AHEAD: bool>(
    job: &Job<'_>,
    weights: &[*const F::Bits; TALL],
    rows: Range<usize>,
    column: usize,
    piece: &Piece,
) {
    let mut x = [std::ptr::null(); C];
    for (c, x) in x.iter_mut().enumerate() {
        *x = job.x[(column + c) * piece.cols + piece.start..].as_ptr();
    }
    let mut sums = [[super::zero(); TALL]; C];
    let ahead = AHEAD.then(|| {
        // The same part of the rows after these.
        let piece = TALL * piece.start * size_of::<F::Bits>();
        job.matrix.row(rows.start).as_ptr().wrapping_add(TALL * job.matrix.row_bytes + piece)
    });
    // SAFETY: the caller's promises.
    unsafe { multiply::<F, C>(weights, &x, piece.end - piece.start, ahead, &mut sums) };
    for (c, sums) in sums.iter().enumerate() {
        // SAFETY: outputs of this thread's block.
        unsafe { settle(job, rows.clone(), column + c, piece, sums) };
    }
}

/// Adds up a piece's sums of up to `TALL` weight rows and one input row, and adds them to what came before; with the bias after
/// the last piece.
///
/// # Safety
/// AVX2; `rows` of input row `column` are the job's, and nobody else works on them.
#[target_feature(enable = "avx2")]
pub(in super::super) unsafe fn settle(job: &Job<'_>, rows: Range<usize>, column: usize, piece: &Piece, sums: &[__m256; TALL]) {
    // SAFETY: the caller's promises; `add_up` has the features that this function has.
    unsafe {
        let out = job.at(column, rows.start);
        let mut values = [0.0f32; TALL];
        if piece.start > 0 {
            out.copy_to_nonoverlapping(values.as_mut_ptr(), rows.len());
        }
        let mut sum = _mm_add_ps(_mm_loadu_ps(values.as_ptr()), add_up(sums));
        if let Some(bias) = job.bias.filter(|_| piece.end == piece.cols) {
            let mut values = [0.0f32; TALL];
            values[..rows.len()].copy_from_slice(&bias[rows.clone()]);
            sum = _mm_add_ps(sum, _mm_loadu_ps(values.as_ptr()));
        }
        if rows.len() == TALL {
            _mm_storeu_ps(out, sum);
        } else {
            _mm_storeu_ps(values.as_mut_ptr(), sum);
            out.copy_from_nonoverlapping(values.as_ptr(), rows.len());
        }
    }
}

/// Adds the products of `len` columns.
///
/// # Safety
/// AVX2, FMA and F16C; all pointers are to `len` numbers.
#[inline(always)]
unsafe fn multiply<F: Float, const C: usize>(
    weights: &[*const F::Bits; TALL],
    x: &[*const f32; C],
    len: usize,
    ahead: Option<*const u8>,
    sums: &mut Sums<C>,
) {
    // SAFETY: the caller's promises.
    unsafe {
        let cache = Cache::of_weights();
        let mut acc = *sums;
        let mut eight = [super::zero(); C];
        let whole = len / 8 * 8;
        for k in (0..whole).step_by(8) {
            if let Some(ahead) = ahead {
                // As long as a step's weights. Fetching reads nothing, so the address may be any.
                for line in (0..TALL * size_of::<[F::Bits; 8]>()).step_by(64) {
                    cache.line(ahead.wrapping_add(TALL * size_of::<F::Bits>() * k + line));
                }
            }
            for c in 0..C {
                eight[c] = _mm256_loadu_ps(x[c].add(k));
            }
            for r in 0..TALL {
                let w = F::load(weights[r].add(k));
                for c in 0..C {
                    acc[c][r] = _mm256_fmadd_ps(w, eight[c], acc[c][r]);
                }
            }
        }
        if whole < len {
            for r in 0..TALL {
                let w = F::load(padded(weights[r].add(whole), len - whole).as_ptr());
                for c in 0..C {
                    let x = _mm256_loadu_ps(padded(x[c].add(whole), len - whole).as_ptr());
                    acc[c][r] = _mm256_fmadd_ps(w, x, acc[c][r]);
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
pub(in super::super) unsafe fn padded<T: Copy + Default>(from: *const T, len: usize) -> [T; 8] {
    let mut all = [T::default(); 8];
    // SAFETY: the caller's promise. As bytes, because rows of a file need not be aligned.
    unsafe { std::ptr::copy_nonoverlapping(from.cast::<u8>(), all.as_mut_ptr().cast(), len * size_of::<T>()) };
    all
}

/// Decodes `len` numbers, and zeros up to a multiple of 8.
///
/// # Safety
/// AVX2, FMA and F16C; `from` is to `len` numbers.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn decode<F: Float>(from: *const F::Bits, len: usize, to: &mut [f32]) {
    for (i, to) in to.as_chunks_mut::<8>().0.iter_mut().take(len.div_ceil(8)).enumerate() {
        let left = len - 8 * i;
        // SAFETY: the caller's promises.
        unsafe {
            let from = from.add(8 * i);
            let eight = if left < 8 { F::load(padded(from, left).as_ptr()) } else { F::load(from) };
            _mm256_storeu_ps(to.as_mut_ptr(), eight);
        }
    }
}

/// The sums of each vector's lanes, in the order of [`portable`](super::super::portable).
#[inline(always)]
unsafe fn add_up(sums: &[__m256; TALL]) -> __m128 {
    // SAFETY: the caller enables AVX2.
    unsafe {
        let mut four = [_mm_setzero_ps(); TALL];
        for (four, sum) in four.iter_mut().zip(sums) {
            *four = _mm_add_ps(_mm256_castps256_ps128(*sum), _mm256_extractf128_ps::<1>(*sum));
        }
        let [mut a, mut b, mut c, mut d] = four;
        _MM_TRANSPOSE4_PS(&mut a, &mut b, &mut c, &mut d);
        _mm_add_ps(_mm_add_ps(a, c), _mm_add_ps(b, d))
    }
}
