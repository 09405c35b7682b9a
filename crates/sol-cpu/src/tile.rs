//! The inner loops of attention, over tiles of cached keys and values.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::cache::TILE;
#[cfg(target_arch = "x86_64")]
use crate::matmul::Isa;

/// Queries that share the loads of a tile with AVX2: six times two sums of eight fill twelve of its sixteen registers.
pub(crate) const TOGETHER: usize = 6;

/// The same with AVX-512: twelve times two sums of sixteen fill 24 of its 32.
#[cfg(target_arch = "x86_64")]
const TOGETHER_512: usize = 12;

/// A number that the kernels read.
pub(crate) trait Cached: bytemuck::AnyBitPattern {
    fn to_f32(self) -> f32;

    /// Eight numbers from `at` on.
    ///
    /// # Safety
    /// AVX2 and F16C, into whose code this is inlined; there are eight.
    #[cfg(target_arch = "x86_64")]
    unsafe fn eight(at: *const Self) -> std::arch::x86_64::__m256;

    /// Sixteen numbers from `at` on.
    ///
    /// # Safety
    /// AVX-512 F and VL, into whose code this is inlined; there are sixteen.
    #[cfg(target_arch = "x86_64")]
    unsafe fn sixteen(at: *const Self) -> std::arch::x86_64::__m512;
}

impl Cached for f32 {
    fn to_f32(self) -> f32 {
        self
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn eight(at: *const Self) -> std::arch::x86_64::__m256 {
        // SAFETY: the caller's promises.
        unsafe { std::arch::x86_64::_mm256_loadu_ps(at) }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn sixteen(at: *const Self) -> std::arch::x86_64::__m512 {
        // SAFETY: the caller's promises.
        unsafe { std::arch::x86_64::_mm512_loadu_ps(at) }
    }
}

impl Cached for f16 {
    fn to_f32(self) -> f32 {
        f16::to_f32(self)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn eight(at: *const Self) -> std::arch::x86_64::__m256 {
        use std::arch::x86_64::{_mm_loadu_si128, _mm256_cvtph_ps};
        // SAFETY: the caller's promises.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn sixteen(at: *const Self) -> std::arch::x86_64::__m512 {
        use std::arch::x86_64::{_mm256_loadu_si256, _mm512_cvtph_ps};
        // SAFETY: the caller's promises.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(at.cast())) }
    }
}

/// Rows of f32 that lie `stride` apart, the first `len` of each being meant.
#[derive(Clone, Copy)]
pub(crate) struct Strided {
    pub(crate) len: usize,
    pub(crate) stride: usize,
}

/// `out[q][j] += sum_i a[q][i] * m[i * stride + j]` for every row `q` of `out`, `i` rising: scores of a block of keys, or
/// weighted sums of values. Rows of `out` are whole tiles long. Each sum has the same order whatever else is computed beside it.
/// `next` is what will be read after `m` in the same way: it lies apart, where the processor does not foresee it.
pub(crate) fn accumulate<T: Cached>(
    a: &[f32],
    a_rows: Strided,
    m: &[T],
    stride: usize,
    next: Option<&[T]>,
    out: &mut [f32],
    out_rows: Strided,
) {
    let count = out.len().div_ceil(out_rows.stride);
    // What the kernels rely on: every row they touch lies within its slice.
    assert!(out_rows.len.is_multiple_of(TILE) && out_rows.len <= out_rows.stride && a_rows.len <= a_rows.stride);
    if count == 0 || a_rows.len == 0 {
        return;
    }
    assert!(out.len() >= (count - 1) * out_rows.stride + out_rows.len && a.len() >= (count - 1) * a_rows.stride + a_rows.len);
    assert!(m.len() >= (a_rows.len - 1) * stride + out_rows.len);
    #[cfg(target_arch = "x86_64")]
    if Isa::selected().has_avx2() {
        let m = Streamed { at: m.as_ptr(), stride, next: next.unwrap_or(m).as_ptr() };
        if Isa::selected().has_avx512() {
            for first in (0..count).step_by(TOGETHER_512) {
                // SAFETY: as below.
                unsafe {
                    let (a, out) = (a.as_ptr().add(first * a_rows.stride), out.as_mut_ptr().add(first * out_rows.stride));
                    // Sums of few queries are too few to keep the multipliers busy: those of two tiles then.
                    let wide = out_rows.len.is_multiple_of(2 * TILE);
                    match count - first {
                        1 if wide => fma512::<T, 1, 4>(a, a_rows, m, out, out_rows),
                        2 if wide => fma512::<T, 2, 4>(a, a_rows, m, out, out_rows),
                        3 if wide => fma512::<T, 3, 4>(a, a_rows, m, out, out_rows),
                        4 if wide => fma512::<T, 4, 4>(a, a_rows, m, out, out_rows),
                        1 => fma512::<T, 1, 2>(a, a_rows, m, out, out_rows),
                        2 => fma512::<T, 2, 2>(a, a_rows, m, out, out_rows),
                        3 => fma512::<T, 3, 2>(a, a_rows, m, out, out_rows),
                        4 => fma512::<T, 4, 2>(a, a_rows, m, out, out_rows),
                        5 => fma512::<T, 5, 2>(a, a_rows, m, out, out_rows),
                        6 => fma512::<T, 6, 2>(a, a_rows, m, out, out_rows),
                        7 => fma512::<T, 7, 2>(a, a_rows, m, out, out_rows),
                        8 => fma512::<T, 8, 2>(a, a_rows, m, out, out_rows),
                        9 => fma512::<T, 9, 2>(a, a_rows, m, out, out_rows),
                        10 => fma512::<T, 10, 2>(a, a_rows, m, out, out_rows),
                        11 => fma512::<T, 11, 2>(a, a_rows, m, out, out_rows),
                        _ => fma512::<T, TOGETHER_512, 2>(a, a_rows, m, out, out_rows),
                    }
                }
            }
            return;
        }
        for first in (0..count).step_by(TOGETHER) {
            // SAFETY: an `Isa` is what the machine has, and the rows are there by the assertions.
            unsafe {
                let (a, out) = (a.as_ptr().add(first * a_rows.stride), out.as_mut_ptr().add(first * out_rows.stride));
                match count - first {
                    1 => fma::<T, 1, 4>(a, a_rows, m, out, out_rows),
                    2 => fma::<T, 2, 4>(a, a_rows, m, out, out_rows),
                    3 => fma::<T, 3, 4>(a, a_rows, m, out, out_rows),
                    4 => fma::<T, 4, 2>(a, a_rows, m, out, out_rows),
                    5 => fma::<T, 5, 2>(a, a_rows, m, out, out_rows),
                    _ => fma::<T, TOGETHER, 2>(a, a_rows, m, out, out_rows),
                }
            }
        }
        return;
    }
    for (a, out) in a.chunks(a_rows.stride).zip(out.chunks_mut(out_rows.stride)) {
        portable(&a[..a_rows.len], m, stride, &mut out[..out_rows.len]);
    }
}

/// A matrix whose rows lie `stride` apart, and the one that is wanted next.
#[derive(Clone, Copy)]
#[cfg(target_arch = "x86_64")]
struct Streamed<T> {
    at: *const T,
    stride: usize,
    next: *const T,
}

/// `N` rows, `8 * W` columns at a time.
///
/// # Safety
/// AVX2, FMA and F16C; the rows are there; `8 * W` divides a tile.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn fma<T: Cached, const N: usize, const W: usize>(
    a: *const f32,
    a_rows: Strided,
    m: Streamed<T>,
    out: *mut f32,
    out_rows: Strided,
) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps};
    for j in (0..out_rows.len).step_by(8 * W) {
        // SAFETY: the caller's promises.
        unsafe {
            let mut sums = [[_mm256_setzero_ps(); W]; N];
            for (q, sums) in sums.iter_mut().enumerate() {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm256_loadu_ps(out.add(q * out_rows.stride + j + 8 * v));
                }
            }
            for i in 0..a_rows.len {
                let offset = i * m.stride + j;
                // Fetching reads nothing, so the address may be any.
                _mm_prefetch::<_MM_HINT_T0>(m.next.wrapping_add(offset).cast());
                let row: [_; W] = std::array::from_fn(|v| T::eight(m.at.add(offset + 8 * v)));
                for (q, sums) in sums.iter_mut().enumerate() {
                    let x = _mm256_set1_ps(*a.add(q * a_rows.stride + i));
                    for (sum, row) in sums.iter_mut().zip(&row) {
                        *sum = _mm256_fmadd_ps(x, *row, *sum);
                    }
                }
            }
            for (q, sums) in sums.iter().enumerate() {
                for (v, sum) in sums.iter().enumerate() {
                    _mm256_storeu_ps(out.add(q * out_rows.stride + j + 8 * v), *sum);
                }
            }
        }
    }
}

/// `N` rows, `16 * W` columns at a time.
///
/// # Safety
/// AVX-512 F and VL; the rows are there, and so many columns divide them.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl")]
unsafe fn fma512<T: Cached, const N: usize, const W: usize>(
    a: *const f32,
    a_rows: Strided,
    m: Streamed<T>,
    out: *mut f32,
    out_rows: Strided,
) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    use std::arch::x86_64::{_mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps};
    for j in (0..out_rows.len).step_by(16 * W) {
        // SAFETY: the caller's promises.
        unsafe {
            let mut sums = [[_mm512_setzero_ps(); W]; N];
            for (q, sums) in sums.iter_mut().enumerate() {
                for (v, sum) in sums.iter_mut().enumerate() {
                    *sum = _mm512_loadu_ps(out.add(q * out_rows.stride + j + 16 * v));
                }
            }
            for i in 0..a_rows.len {
                let offset = i * m.stride + j;
                for tile in (0..16 * W).step_by(TILE) {
                    // Fetching reads nothing, so the address may be any.
                    _mm_prefetch::<_MM_HINT_T0>(m.next.wrapping_add(offset + tile).cast());
                }
                let mut row = [_mm512_setzero_ps(); W];
                for (v, row) in row.iter_mut().enumerate() {
                    *row = T::sixteen(m.at.add(offset + 16 * v));
                }
                for (q, sums) in sums.iter_mut().enumerate() {
                    let x = _mm512_set1_ps(*a.add(q * a_rows.stride + i));
                    for (sum, row) in sums.iter_mut().zip(&row) {
                        *sum = _mm512_fmadd_ps(x, *row, *sum);
                    }
                }
            }
            for (q, sums) in sums.iter().enumerate() {
                for (v, sum) in sums.iter().enumerate() {
                    _mm512_storeu_ps(out.add(q * out_rows.stride + j + 16 * v), *sum);
                }
            }
        }
    }
}

/// The portable twin, one row.
fn portable<T: Cached>(a: &[f32], m: &[T], stride: usize, out: &mut [f32]) {
    for (tile, out) in out.chunks_exact_mut(TILE).enumerate() {
        let mut sums = [0.0f32; TILE];
        sums.copy_from_slice(out);
        for (x, row) in a.iter().zip(m.chunks(stride)) {
            for (sum, y) in sums.iter_mut().zip(&row[tile * TILE..][..TILE]) {
                *sum = x.mul_add(y.to_f32(), *sum);
            }
        }
        out.copy_from_slice(&sums);
    }
}

/// `f16` to `f32`, exact.
///
/// # Panics
/// When the lengths differ.
pub(crate) fn convert(tile: &[f16], out: &mut [f32]) {
    assert_eq!(tile.len(), out.len());
    #[cfg(target_arch = "x86_64")]
    if Isa::selected().has_avx512() {
        // SAFETY: an `Isa` is what the machine has.
        return unsafe { convert_512(tile, out) };
    }
    #[cfg(target_arch = "x86_64")]
    if Isa::selected().has_avx2() {
        // SAFETY: as above.
        return unsafe { convert_f16c(tile, out) };
    }
    tile.convert_to_f32_slice(out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx,f16c")]
fn convert_f16c(tile: &[f16], out: &mut [f32]) {
    use std::arch::x86_64::{_mm_loadu_si128, _mm256_cvtph_ps, _mm256_storeu_ps};
    let (chunks, outs) = (tile.chunks_exact(8), out.chunks_exact_mut(8));
    debug_assert!(chunks.remainder().is_empty(), "tiles are whole");
    for (from, to) in chunks.zip(outs) {
        // SAFETY: both hold eight values.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast()))) };
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl")]
fn convert_512(tile: &[f16], out: &mut [f32]) {
    let (chunks, outs) = (tile.chunks_exact(16), out.chunks_exact_mut(16));
    debug_assert!(chunks.remainder().is_empty(), "tiles are whole");
    for (from, to) in chunks.zip(outs) {
        // SAFETY: both hold sixteen values.
        unsafe { std::arch::x86_64::_mm512_storeu_ps(to.as_mut_ptr(), f16::sixteen(from.as_ptr())) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(n: usize, f: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * f).sin()).collect()
    }

    #[test]
    fn the_fma_kernel_agrees_with_its_scalar_twin_and_alone_with_together() {
        let (rows, keys, width) = (3 * TOGETHER + 1, 19, 2 * TILE);
        let (a, m) = (wave(rows * 20, 0.7), wave(keys * 80, 0.3));
        let halves: Vec<f16> = m.iter().map(|x| f16::from_f32(*x)).collect();
        let exact: Vec<f32> = halves.iter().map(|h| h.to_f32()).collect();
        let (a_rows, out_rows) = (Strided { len: keys, stride: 20 }, Strided { len: width, stride: width + 3 });
        let start = vec![0.5f32; rows * out_rows.stride];
        let mut alone = start.clone();
        for (a, out) in a.chunks(20).zip(alone.chunks_mut(out_rows.stride)) {
            accumulate(a, a_rows, &exact, 80, None, out, out_rows);
            let mut slow = vec![0.5f32; width];
            portable(&a[..keys], &exact, 80, &mut slow);
            assert_eq!(out[..width], slow, "the same order of fused additions");
            assert_eq!(out[width..], [0.5; 3], "nothing beyond the row is touched");
        }
        for n in 1..=rows {
            let mut together = start[..n * out_rows.stride].to_vec();
            accumulate(&a, a_rows, &exact, 80, None, &mut together, out_rows);
            assert_eq!(together, alone[..n * out_rows.stride]);
            together.copy_from_slice(&start[..n * out_rows.stride]);
            accumulate(&a, a_rows, &halves, 80, Some(&halves[1..]), &mut together, out_rows);
            assert_eq!(together, alone[..n * out_rows.stride]);
        }
    }

    #[test]
    fn every_half_becomes_its_own_float() {
        let all: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        let mut floats = vec![0.0; all.len()];
        convert(&all, &mut floats);
        for (half, float) in all.iter().zip(&floats) {
            assert!(half.to_f32() == *float || (half.is_nan() && float.is_nan()), "{half:?}");
        }
    }
}
