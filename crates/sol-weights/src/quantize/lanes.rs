//! Eight numbers at once: one of each of eight blocks (or of eight groups of a superblock), so that what is done for a block
//! is done for eight without anything across lanes. Plain loops over arrays: the compiler makes one instruction of each.

use std::ops::{Add, Div, Mul, Sub};

/// Lanes of a vector.
pub(super) const LANES: usize = 8;

/// 3 * 2^22: what is added to it loses its fraction, and the low bits of the sum are those of the integer.
const NO_FRACTION: f32 = 12_582_912.0;

/// A number in each lane.
#[derive(Clone, Copy, Debug, PartialEq)]
#[repr(align(32))]
pub(super) struct F8(pub(super) [f32; LANES]);

impl F8 {
    pub(super) const ZERO: Self = Self::all(0.0);

    #[inline(always)]
    pub(super) const fn all(value: f32) -> Self {
        Self([value; LANES])
    }

    /// To the nearest integer, ties to even; for magnitudes below 2^22.
    #[inline(always)]
    pub(super) fn round(self) -> Self {
        self + Self::all(NO_FRACTION) - Self::all(NO_FRACTION)
    }

    /// The low bytes of the nearest integers, negative ones in two's complement.
    #[inline(always)]
    pub(super) fn bytes(self) -> [u8; LANES] {
        let shifted = self + Self::all(NO_FRACTION);
        let mut out = [0; LANES];
        for i in 0..LANES {
            out[i] = shifted.0[i].to_bits() as u8;
        }
        out
    }

    #[inline(always)]
    pub(super) fn clamp(self, low: f32, high: f32) -> Self {
        let mut out = self;
        for x in &mut out.0 {
            *x = if *x < low { low } else { *x };
            *x = if *x > high { high } else { *x };
        }
        out
    }

    #[inline(always)]
    pub(super) fn min(self, other: Self) -> Self {
        self.less(other, self, other)
    }

    #[inline(always)]
    pub(super) fn max(self, other: Self) -> Self {
        self.less(other, other, self)
    }

    #[inline(always)]
    pub(super) fn abs(self) -> Self {
        let mut out = self;
        for x in &mut out.0 {
            *x = x.abs();
        }
        out
    }

    /// `yes` in the lanes where this is less than `than`, else `no`.
    #[inline(always)]
    pub(super) fn less(self, than: Self, yes: Self, no: Self) -> Self {
        let mut out = Self::ZERO;
        for i in 0..LANES {
            out.0[i] = if self.0[i] < than.0[i] { yes.0[i] } else { no.0[i] };
        }
        out
    }

    /// This by a divisor, 0 where that is not positive.
    #[inline(always)]
    pub(super) fn over(self, divisor: Self) -> Self {
        let mut out = Self::ZERO;
        for i in 0..LANES {
            out.0[i] = if divisor.0[i] > 0.0 { self.0[i] / divisor.0[i] } else { 0.0 };
        }
        out
    }

    /// 1 by this, 0 where this is 0 or so small that it has no finite inverse.
    #[inline(always)]
    pub(super) fn inverse(self) -> Self {
        let mut out = Self::ZERO;
        for i in 0..LANES {
            let inverse = 1.0 / self.0[i];
            out.0[i] = if inverse.abs() < f32::MAX { inverse } else { 0.0 };
        }
        out
    }

    /// The nearest halves, ties to even; what is too large for one becomes the largest.
    #[inline(always)]
    pub(super) fn to_halves(self) -> [u16; LANES] {
        // Below 2^-14 the steps of halves are those of a float between a half and one.
        const SMALLEST: u32 = (127 - 14) << 23;
        const HALF: f32 = 0.5;
        let mut out = [0; LANES];
        for i in 0..LANES {
            let bits = self.0[i].to_bits();
            let magnitude = f32::from_bits(bits & 0x7FFF_FFFF);
            let magnitude = if magnitude > 65504.0 { 65504.0 } else { magnitude };
            let small = (magnitude + HALF).to_bits().wrapping_sub(HALF.to_bits());
            let even = magnitude.to_bits() >> 13 & 1;
            let normal = magnitude.to_bits().wrapping_sub(112 << 23).wrapping_add(0xFFF + even) >> 13;
            let half = if magnitude.to_bits() < SMALLEST { small } else { normal };
            out[i] = (half | bits >> 16 & 0x8000) as u16;
        }
        out
    }

    /// Finite halves as floats.
    #[inline(always)]
    pub(super) fn of_halves(halves: [u16; LANES]) -> Self {
        let mut out = Self::ZERO;
        for i in 0..LANES {
            let half = u32::from(halves[i]);
            // Exponents begin 112 lower.
            let magnitude = f32::from_bits((half & 0x7FFF) << 13) * f32::from_bits((127 + 112) << 23);
            out.0[i] = f32::from_bits(magnitude.to_bits() | (half & 0x8000) << 16);
        }
        out
    }

    /// The sum of all lanes.
    #[inline(always)]
    pub(super) fn sum(self) -> f32 {
        let [a, b, c, d, e, f, g, h] = self.0;
        ((a + e) + (c + g)) + ((b + f) + (d + h))
    }
}

/// The operator, lane by lane.
macro_rules! operator {
    ($trait:ident, $name:ident, $op:tt) => {
        impl $trait for F8 {
            type Output = Self;
            #[inline(always)]
            fn $name(self, other: Self) -> Self {
                let mut out = self;
                for i in 0..LANES {
                    out.0[i] = self.0[i] $op other.0[i];
                }
                out
            }
        }
    };
}

operator!(Add, add, +);
operator!(Sub, sub, -);
operator!(Mul, mul, *);
operator!(Div, div, /);

/// Eight runs of N numbers side by side: number i of run `lane` becomes lane `lane` of vector i. Runs that are not there are 0.
#[inline(always)]
pub(super) fn side_by_side<const N: usize>(values: &[f32]) -> [F8; N] {
    let mut out = [F8::ZERO; N];
    for (lane, run) in values.as_chunks::<N>().0.iter().take(LANES).enumerate() {
        for i in 0..N {
            out[i].0[lane] = run[i];
        }
    }
    out
}

/// The integers of [`side_by_side`] back in runs, as bytes.
#[inline(always)]
pub(super) fn in_runs<const N: usize>(values: &[F8; N], out: &mut [u8]) {
    let mut bytes = [[0; LANES]; N];
    for i in 0..N {
        bytes[i] = values[i].bytes();
    }
    for (lane, run) in out.as_chunks_mut::<N>().0.iter_mut().take(LANES).enumerate() {
        for i in 0..N {
            run[i] = bytes[i][lane];
        }
    }
}
