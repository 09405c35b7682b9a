//! The inner loops of attention, over tiles of cached keys and values.

use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::cache::TILE;
#[cfg(target_arch = "x86_64")]
use crate::matmul::Isa;

/// Queries that share the loads of a tile: three times four sums of eight fill twelve of AVX2's sixteen registers.
pub(crate) const TOGETHER: usize = 3;

/// For up to [`TOGETHER`] pairs `(a, out)` and every `j` of `out`, which is whole tiles long:
/// `out[j] += sum_i a[i] * m[i * stride + j]`, i rising. Scores of a block of keys, or weighted sums of values. Each sum has the
/// same order whatever else is computed beside it.
pub(crate) fn accumulate<'a>(pairs: &mut dyn Iterator<Item = (&'a [f32], &'a mut [f32])>, m: &[f32], stride: usize) {
    match (pairs.next(), pairs.next(), pairs.next()) {
        (Some((a, x)), Some((b, y)), Some((c, z))) => dispatch([a, b, c], m, stride, [x, y, z]),
        (Some((a, x)), Some((b, y)), None) => dispatch([a, b], m, stride, [x, y]),
        (Some((a, x)), None, _) => dispatch([a], m, stride, [x]),
        (None, ..) => {}
    }
}

fn dispatch<const N: usize>(a: [&[f32]; N], m: &[f32], stride: usize, out: [&mut [f32]; N]) {
    #[cfg(target_arch = "x86_64")]
    if Isa::selected().has_avx2() {
        // SAFETY: an `Isa` is what the machine has.
        return unsafe { tiles_fma(a, m, stride, out) };
    }
    tiles(a, m, stride, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn tiles_fma<const N: usize>(a: [&[f32]; N], m: &[f32], stride: usize, mut out: [&mut [f32]; N]) {
    use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps};
    /// Lanes of a register, and registers of a tile.
    const LANES: usize = 8;
    const WIDE: usize = TILE / LANES;
    let (n, tiles) = (a[0].len(), out[0].len() / TILE);
    assert!(a.iter().all(|a| a.len() == n) && out.iter().all(|out| out.len() >= tiles * TILE));
    assert!(n == 0 || m.len() >= (n - 1) * stride + tiles * TILE);
    for tile in 0..tiles {
        let mut sums = [[_mm256_setzero_ps(); WIDE]; N];
        for (sums, out) in sums.iter_mut().zip(&out) {
            for (v, sum) in sums.iter_mut().enumerate() {
                // SAFETY: within a tile of `out`, by the assertions.
                *sum = unsafe { _mm256_loadu_ps(out.as_ptr().add(tile * TILE + v * LANES)) };
            }
        }
        for i in 0..n {
            // SAFETY: within row `i` of `m`, by the assertions.
            let row: [_; WIDE] =
                std::array::from_fn(|v| unsafe { _mm256_loadu_ps(m.as_ptr().add(i * stride + tile * TILE + v * LANES)) });
            for (sums, a) in sums.iter_mut().zip(&a) {
                // SAFETY: `i` is below every `a`'s length, by the assertions.
                let x = _mm256_set1_ps(unsafe { *a.get_unchecked(i) });
                for (sum, row) in sums.iter_mut().zip(&row) {
                    *sum = _mm256_fmadd_ps(x, *row, *sum);
                }
            }
        }
        for (sums, out) in sums.iter().zip(&mut out) {
            for (v, sum) in sums.iter().enumerate() {
                // SAFETY: within a tile of `out`, by the assertions.
                unsafe { _mm256_storeu_ps(out.as_mut_ptr().add(tile * TILE + v * LANES), *sum) };
            }
        }
    }
}

/// The portable twin, with the same bits.
fn tiles<const N: usize>(a: [&[f32]; N], m: &[f32], stride: usize, out: [&mut [f32]; N]) {
    for (a, out) in a.into_iter().zip(out) {
        for (tile, out) in out.chunks_exact_mut(TILE).enumerate() {
            let mut sums = [0.0f32; TILE];
            sums.copy_from_slice(out);
            for (x, row) in a.iter().zip(m.chunks(stride)) {
                for (sum, y) in sums.iter_mut().zip(&row[tile * TILE..][..TILE]) {
                    *sum = x.mul_add(*y, *sum);
                }
            }
            out.copy_from_slice(&sums);
        }
    }
}

/// `f16` to `f32`, exact.
pub(crate) fn convert<'a>(tile: &[f16], buffer: &'a mut Vec<f32>) -> &'a [f32] {
    buffer.resize(tile.len(), 0.0);
    #[cfg(target_arch = "x86_64")]
    if Isa::selected().has_avx2() {
        // SAFETY: an `Isa` is what the machine has.
        unsafe { convert_f16c(tile, buffer) };
        return buffer;
    }
    tile.convert_to_f32_slice(buffer);
    buffer
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

#[cfg(test)]
mod tests {
    use super::*;

    fn wave(n: usize, f: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * f).sin()).collect()
    }

    #[test]
    fn the_fma_kernel_agrees_with_its_scalar_twin_and_alone_with_together() {
        let (a, m) = ([wave(19, 0.7), wave(19, 0.9), wave(19, 1.1)], wave(19 * 64, 0.3));
        let mut alone = vec![vec![0.5f32; 64]; 3];
        for (a, out) in a.iter().zip(&mut alone) {
            accumulate(&mut [(a.as_slice(), out.as_mut_slice())].into_iter(), &m, 64);
        }
        let mut slow = vec![0.5f32; 64];
        tiles([&a[0]], &m, 64, [&mut slow]);
        assert_eq!(alone[0], slow);
        for n in 1..=3 {
            let mut together = vec![vec![0.5f32; 64]; n];
            accumulate(&mut a.iter().map(Vec::as_slice).zip(together.iter_mut().map(Vec::as_mut_slice)), &m, 64);
            assert_eq!(together, alone[..n]);
        }
    }

    #[test]
    fn every_half_becomes_its_own_float() {
        let all: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        let mut buffer = Vec::new();
        for (half, float) in all.iter().zip(convert(&all, &mut buffer)) {
            assert!(half.to_f32() == *float || (half.is_nan() && float.is_nan()), "{half:?}");
        }
    }
}
