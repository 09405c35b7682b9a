//! The scales with which a block's numbers are nearest to its levels: least squares.
//!
//! Given the integers, the best scale (and offset) has a closed form. Given a scale, the best integers are the nearest ones. The
//! pair has many local optima, so a few scales around "the largest number gets the last level" are tried, and from the best of
//! them both steps are alternated. Eight blocks at once, in lanes; `w` are the weights of the squared errors.

use super::lanes::F8;
use super::weights::Weights;

/// The integers (or levels of another kind) that a format has.
pub(super) trait Levels: Copy {
    /// The level nearest to each number.
    fn nearest(self, x: F8) -> F8;
}

/// All integers of a range.
#[derive(Clone, Copy)]
pub(super) struct Integers {
    pub(super) low: f32,
    pub(super) high: f32,
}

impl Levels for Integers {
    #[inline(always)]
    fn nearest(self, x: F8) -> F8 {
        x.clamp(self.low, self.high).round()
    }
}

/// `x ~ scale * level`.
#[derive(Clone, Copy)]
pub(super) struct Symmetric {
    pub(super) scale: F8,
    /// The sum of w level^2: how much an error of the scale costs.
    pub(super) stiffness: F8,
    /// How much of the sum of w x^2 is explained.
    score: F8,
}

/// Sums for one set of levels: those of `inverse * x`.
#[inline(always)]
fn symmetric_at<const N: usize>(x: &[F8; N], w: &impl Weights, inverse: F8, levels: impl Levels) -> Symmetric {
    let (mut xl, mut ll) = (F8::ZERO, F8::ZERO);
    for i in 0..N {
        let level = levels.nearest(x[i] * inverse);
        let weighted = w.at(i) * level;
        xl = xl + weighted * x[i];
        ll = ll + weighted * level;
    }
    let scale = xl.over(ll);
    Symmetric { scale, stiffness: ll, score: scale * xl }
}

impl Symmetric {
    #[inline(always)]
    fn better(self, other: Self) -> Self {
        let pick = |a: F8, b: F8| self.score.less(other.score, b, a);
        Self {
            scale: pick(self.scale, other.scale),
            stiffness: pick(self.stiffness, other.stiffness),
            score: pick(self.score, other.score),
        }
    }
}

/// The number of the largest magnitude.
#[inline(always)]
pub(super) fn peak<const N: usize>(x: &[F8; N]) -> F8 {
    let (mut low, mut high) = (F8::ZERO, F8::ZERO);
    for x in x {
        low = low.min(*x);
        high = high.max(*x);
    }
    (F8::ZERO - low).less(high, high, low)
}

/// Where the largest number may weigh little, how far beyond the last level it is tried too.
const FURTHER: [f32; 2] = [1.45, 2.1];

/// The best scale, of any sign. `tops`: the levels, negative ones too, that the number of the largest magnitude is tried at.
#[inline(always)]
pub(super) fn symmetric<const N: usize, W: Weights>(
    x: &[F8; N],
    w: &W,
    levels: impl Levels,
    tops: &[f32],
    rounds: usize,
) -> Symmetric {
    let inverse_peak = peak(x).inverse();
    let mut best = Symmetric { scale: F8::ZERO, stiffness: F8::ZERO, score: F8::ZERO };
    for &top in tops {
        best = best.better(symmetric_at(x, w, F8::all(top) * inverse_peak, levels));
        if !W::PEAKS_MATTER {
            for further in FURTHER {
                best = best.better(symmetric_at(x, w, F8::all(top * further) * inverse_peak, levels));
            }
        }
    }
    for _ in 0..rounds {
        best = best.better(symmetric_at(x, w, best.scale.inverse(), levels));
    }
    best
}

/// `x ~ scale * q + low`, q = 0..=top.
#[derive(Clone, Copy)]
pub(super) struct Affine {
    pub(super) scale: F8,
    pub(super) low: F8,
    score: F8,
}

/// What does not depend on the integers.
#[derive(Clone, Copy)]
struct Moments {
    weight: F8,
    mean: F8,
}

/// The best scale (never negative) and lowest level. `spans`: how far the first and the last level are tried within the range
/// of the numbers, in steps. `nonpositive`: the lowest level is not above 0, as formats that subtract it want.
#[inline(always)]
pub(super) fn affine<const N: usize>(
    x: &[F8; N],
    w: &impl Weights,
    top: f32,
    spans: &[(f32, f32)],
    rounds: usize,
    nonpositive: bool,
) -> Affine {
    let (mut low, mut high) = (x[0], x[0]);
    let (mut weight, mut sum) = (F8::ZERO, F8::ZERO);
    for i in 0..N {
        low = low.min(x[i]);
        high = high.max(x[i]);
        weight = weight + w.at(i);
        sum = sum + w.at(i) * x[i];
    }
    if nonpositive {
        low = low.min(F8::ZERO);
        high = high.max(low);
    }
    let moments = Moments { weight, mean: sum.over(weight) };
    let step = (high - low) * F8::all(1.0 / top);
    // All numbers alike: the one level is exact.
    let mut best = Affine { scale: F8::ZERO, low: moments.mean, score: F8::ZERO };
    if nonpositive {
        best.low = best.low.min(F8::ZERO);
        let above = moments.mean - best.low;
        best.score = F8::ZERO - above * above * weight;
    }
    for &(from_low, from_high) in spans {
        let first = low + step * F8::all(from_low);
        let inverse = F8::all(top).over(high - step * F8::all(from_high) - first);
        best = best.better(affine_at(x, w, top, inverse, first, moments, nonpositive));
    }
    for _ in 0..rounds {
        best = best.better(affine_at(x, w, top, best.scale.inverse(), best.low, moments, nonpositive));
    }
    best
}

#[inline(always)]
fn affine_at<const N: usize>(
    x: &[F8; N],
    w: &impl Weights,
    top: f32,
    inverse: F8,
    first: F8,
    moments: Moments,
    nonpositive: bool,
) -> Affine {
    let Moments { weight, mean } = moments;
    let (mut q1, mut q2, mut xq) = (F8::ZERO, F8::ZERO, F8::ZERO);
    let shift = F8::ZERO - first * inverse;
    for i in 0..N {
        let q = (x[i] * inverse + shift).clamp(0.0, top).round();
        let weighted = w.at(i) * q;
        q1 = q1 + weighted;
        q2 = q2 + weighted * q;
        xq = xq + weighted * (x[i] - mean);
    }
    // Around the mean the two unknowns part.
    let mean_q = q1.over(weight);
    let scale = xq.over(q2 - q1 * mean_q).max(F8::ZERO);
    let low = mean - scale * mean_q;
    let score = scale * xq;
    if !nonpositive {
        return Affine { scale, low, score };
    }
    // Where the lowest level would be above 0 it is 0.
    let through_zero = xq + mean * q1;
    let scale_to_zero = through_zero.over(q2);
    let score_to_zero = scale_to_zero * through_zero - mean * mean * weight;
    let pick = |a: F8, b: F8| F8::ZERO.less(low, b, a);
    Affine { scale: pick(scale, scale_to_zero), low: pick(low, F8::ZERO), score: pick(score, score_to_zero) }
}

impl Affine {
    #[inline(always)]
    fn better(self, other: Self) -> Self {
        let pick = |a: F8, b: F8| self.score.less(other.score, b, a);
        Self { scale: pick(self.scale, other.scale), low: pick(self.low, other.low), score: pick(self.score, other.score) }
    }
}
