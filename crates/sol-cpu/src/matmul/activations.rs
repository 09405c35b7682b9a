//! Activations as the integer kernels read them: 8-bit numbers in blocks with one scale, and the blocks' sums.
//!
//! A block of activations `x` becomes `d * q` with `d = max|x| / 127` and `q = round(x / d)`, ties to even. A block that holds
//! an infinity or NaN becomes NaN as a whole (`d = NaN`, `q = 0`): its row's result is NaN then, and no other row's.

use crate::pool::{Pool, share};

use super::isa::{Isa, Level};
use crate::shared::SharedMut;

/// Below this the reciprocal of the scale would overflow; such a block counts as zeros.
const TINY: f32 = 1e-35;

/// Rows of fewer numbers than this in all are quantised by the caller alone: waking the others would cost more.
const ALONE: usize = 16 * 1024;

/// Rows in blocks of 32, for the 32-block weight formats.
#[derive(Default)]
pub(super) struct Blocks32 {
    /// `[n][cols]`.
    pub(super) q: Vec<i8>,
    /// `[n][cols / 32]`.
    pub(super) d: Vec<f32>,
    /// Sum of a block's `q`, `[n][cols / 32]`.
    pub(super) sum: Vec<i32>,
    /// `d * sum`, `[n][cols / 32]`.
    pub(super) dsum: Vec<f32>,
}

/// Rows in super-blocks of 256, for the K formats.
#[derive(Default)]
pub(super) struct Blocks256 {
    /// `[n][cols]`.
    pub(super) q: Vec<i8>,
    /// `[n][cols / 256]`.
    pub(super) d: Vec<f32>,
    /// Sum of each 16 `q`, `[n][cols / 16]`.
    pub(super) sum16: Vec<i16>,
    /// Sum of each 32 `q`, `[n][cols / 32]`.
    pub(super) sum32: Vec<i16>,
}

impl Blocks32 {
    /// Quantises `n` rows of `cols` values.
    pub(super) fn fill(&mut self, isa: Isa, pool: &Pool, x: &[f32], n: usize, cols: usize) {
        let blocks = cols / 32;
        grow(&mut self.q, n * cols);
        grow(&mut self.d, n * blocks);
        grow(&mut self.sum, n * blocks);
        grow(&mut self.dsum, n * blocks);
        let (q, d) = (SharedMut::new(&mut self.q), SharedMut::new(&mut self.d));
        let (sum, dsum) = (SharedMut::new(&mut self.sum), SharedMut::new(&mut self.dsum));
        each_row(pool, n, cols, |row| {
            let at = row * blocks..(row + 1) * blocks;
            // SAFETY: every row is handled once, and rows do not overlap.
            let (q, d, sum, dsum) =
                unsafe { (q.slice(row * cols..(row + 1) * cols), d.slice(at.clone()), sum.slice(at.clone()), dsum.slice(at)) };
            quantise_row::<32>(isa, &x[row * cols..(row + 1) * cols], q, d);
            for (b, q) in q.as_chunks::<32>().0.iter().enumerate() {
                sum[b] = q.iter().map(|&q| i32::from(q)).sum();
                dsum[b] = d[b] * sum[b] as f32;
            }
        });
    }
}

impl Blocks256 {
    /// Quantises `n` rows of `cols` values.
    pub(super) fn fill(&mut self, isa: Isa, pool: &Pool, x: &[f32], n: usize, cols: usize) {
        grow(&mut self.q, n * cols);
        grow(&mut self.d, n * cols / 256);
        grow(&mut self.sum16, n * cols / 16);
        grow(&mut self.sum32, n * cols / 32);
        let (q, d) = (SharedMut::new(&mut self.q), SharedMut::new(&mut self.d));
        let (sum16, sum32) = (SharedMut::new(&mut self.sum16), SharedMut::new(&mut self.sum32));
        each_row(pool, n, cols, |row| {
            let at = |len: usize| row * cols / len..(row + 1) * cols / len;
            // SAFETY: every row is handled once, and rows do not overlap.
            let (q, d, sum16, sum32) = unsafe { (q.slice(at(1)), d.slice(at(256)), sum16.slice(at(16)), sum32.slice(at(32))) };
            quantise_row::<256>(isa, &x[at(1)], q, d);
            for (sum, q) in sum16.iter_mut().zip(q.as_chunks::<16>().0) {
                *sum = q.iter().map(|&q| i16::from(q)).sum();
            }
            for (sum, halves) in sum32.iter_mut().zip(sum16.as_chunks::<2>().0) {
                *sum = halves[0] + halves[1];
            }
        });
    }
}

/// Makes room without giving back what a longer prompt needed.
fn grow<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
}

fn each_row(pool: &Pool, n: usize, cols: usize, row: impl Fn(usize) + Sync) {
    if n == 1 || n * cols < ALONE {
        (0..n).for_each(row);
    } else {
        pool.run(|thread| share(n, 1, thread, pool.threads()).for_each(&row));
    }
}

/// Quantises a row of blocks of `N`, with the instructions there are.
fn quantise_row<const N: usize>(isa: Isa, x: &[f32], q: &mut [i8], d: &mut [f32]) {
    #[inline(always)]
    fn row<const N: usize>(x: &[f32], q: &mut [i8], d: &mut [f32]) {
        for ((x, q), d) in x.as_chunks::<N>().0.iter().zip(q.as_chunks_mut::<N>().0).zip(d) {
            *d = quantise(x, q);
        }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn row_avx2<const N: usize>(x: &[f32], q: &mut [i8], d: &mut [f32]) {
        row::<N>(x, q, d);
    }
    match isa.level() {
        Level::Portable => row::<N>(x, q, d),
        // SAFETY: an `Isa` is what the machine has.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { row_avx2::<N>(x, q, d) },
    }
}

/// Quantises a block and returns its scale.
#[inline(always)]
fn quantise<const N: usize>(x: &[f32; N], q: &mut [i8; N]) -> f32 {
    // As integers, because NaN is the largest there and compares as nothing in floats.
    let largest = x.iter().fold(0, |largest, v| (v.to_bits() & 0x7FFF_FFFF).max(largest));
    let max = f32::from_bits(largest);
    if !max.is_finite() || max < TINY {
        q.fill(0);
        return if max.is_finite() { 0.0 } else { f32::NAN };
    }
    let inverse = 127.0 / max;
    for (q, x) in q.iter_mut().zip(x) {
        *q = round(x * inverse);
    }
    max / 127.0
}

/// Rounds ties to even what is known to lie within +-127.5. Adding 1.5 * 2^23 leaves the integer in the low mantissa bits
/// (two's complement, because of the half), which every vector unit does in one addition.
#[inline(always)]
fn round(value: f32) -> i8 {
    (value + 12_582_912.0).to_bits() as i8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_to_the_nearest_even() {
        for i in -1016..=1016 {
            let value = i as f32 / 8.0;
            assert_eq!(f32::from(round(value)), value.round_ties_even(), "{value}");
        }
    }

    #[test]
    fn sums_and_scales_belong_to_their_blocks() {
        let pool = Pool::new(2).unwrap();
        let x: Vec<f32> = (0..2 * 512).map(|i| ((i * 37 % 255) as f32 - 127.0) * if i < 256 { 1.0 } else { 0.5 }).collect();
        let (mut small, mut large) = (Blocks32::default(), Blocks256::default());
        small.fill(Isa::best(), &pool, &x, 2, 512);
        large.fill(Isa::best(), &pool, &x, 2, 512);
        assert_eq!(large.d[0], 1.0);
        assert_eq!(large.d[1..], [0.5; 3]);
        for (i, x) in x.iter().enumerate() {
            assert!((small.d[i / 32] * f32::from(small.q[i]) - x).abs() <= 0.5 * small.d[i / 32] * 1.001);
            assert_eq!(large.d[i / 256] * f32::from(large.q[i]), *x);
        }
        for b in 0..32 {
            let sum = |q: &[i8]| q.iter().map(|&q| i32::from(q)).sum::<i32>();
            assert_eq!(small.sum[b], sum(&small.q[b * 32..][..32]));
            assert_eq!(small.dsum[b], small.d[b] * small.sum[b] as f32);
            assert_eq!(i32::from(large.sum32[b]), sum(&large.q[b * 32..][..32]));
            assert_eq!(i32::from(large.sum16[2 * b + 1]), sum(&large.q[b * 32 + 16..][..16]));
        }
    }

    #[test]
    fn what_is_not_finite_poisons_its_own_block_only() {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; 64];
            x[40] = bad;
            let mut blocks = Blocks32::default();
            blocks.fill(Isa::best(), &Pool::new(1).unwrap(), &x, 1, 64);
            assert_eq!(blocks.d[0], 1.0 / 127.0);
            assert!(blocks.d[1].is_nan() && blocks.dsum[1].is_nan());
            assert_eq!(blocks.q[32..64], [0; 32]);
        }
        let mut q = [1; 32];
        assert_eq!(quantise(&[f32::MIN_POSITIVE; 32], &mut q), 0.0);
        assert_eq!(q, [0; 32]);
        assert!(quantise(&[f32::MAX; 32], &mut q) > 1e36);
        assert_eq!(q, [127; 32]);
    }
}
