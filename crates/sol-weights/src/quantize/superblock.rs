//! Superblocks of 256: sixteen groups of 16 or eight of 32, each with a small integer for its scale (and one for its minimum),
//! which share a half-precision factor.
//!
//! The groups' scales are fitted one by one, then rounded to integers of the shared factor. What the rounding spoilt is mended in
//! turns: every group takes the best of the neighbouring integers, the factor the least-squares fit to all 256 numbers.

use half::f16;

use super::fit::{self, Levels};
use super::lanes::{F8, LANES, in_runs, side_by_side};
use super::weights::{Source, Weights};

/// Elements of a superblock.
pub(super) const LEN: usize = 256;

/// The groups of a superblock, SETS times eight of N numbers, with their weights.
pub(super) struct Groups<const SETS: usize, const N: usize, W> {
    x: [[F8; N]; SETS],
    w: [W; SETS],
}

/// What is stored of a superblock of a format without minima.
pub(super) struct Scaled<const SETS: usize> {
    pub(super) factor: f16,
    /// Group by group.
    pub(super) scales: [[i8; LANES]; SETS],
    /// The level of each element, as its number above the lowest.
    pub(super) levels: [u8; LEN],
}

/// What is stored of a superblock of a format with minima.
pub(super) struct WithMinima<const SETS: usize> {
    pub(super) factor: f16,
    pub(super) min_factor: f16,
    pub(super) scales: [[u8; LANES]; SETS],
    pub(super) minima: [[u8; LANES]; SETS],
    pub(super) levels: [u8; LEN],
}

/// The nearest half; what is too large for one becomes the largest.
pub(super) fn nearest_half(x: f32) -> f16 {
    f16::from_f32(x.clamp(-65504.0, 65504.0))
}

/// The half of which `most` steps reach `peak`: where steps of halves are so coarse that the nearest does not by a percent, the next.
pub(super) fn half_that_reaches(peak: f32, most: f32) -> f16 {
    let nearest = nearest_half(peak / most);
    let short = nearest.to_f32().abs() * most.abs() < 0.99 * peak.abs();
    if short && nearest.to_bits() & 0x7FFF < f16::MAX.to_bits() { f16::from_bits(nearest.to_bits() + 1) } else { nearest }
}

/// The squared errors of a group's nearest levels.
#[inline(always)]
fn error_of<const N: usize>(x: &[F8; N], w: &impl Weights, scale: F8, levels: impl Levels) -> F8 {
    let inverse = scale.inverse();
    let mut error = F8::ZERO;
    for i in 0..N {
        let off = x[i] - scale * levels.nearest(x[i] * inverse);
        error = error + w.at(i) * off * off;
    }
    error
}

#[inline(always)]
fn error_with_minimum<const N: usize>(x: &[F8; N], w: &impl Weights, scale: F8, min: F8, top: f32) -> F8 {
    let inverse = scale.inverse();
    let shift = min * inverse;
    let mut error = F8::ZERO;
    for i in 0..N {
        let q = (x[i] * inverse + shift).clamp(0.0, top).round();
        let off = x[i] + min - scale * q;
        error = error + w.at(i) * off * off;
    }
    error
}

/// What a search may cost.
#[derive(Clone, Copy)]
pub(super) struct Effort {
    /// Alternations of levels and scale in each group.
    pub(super) rounds: usize,
    /// Alternations of the groups' integers and the shared factors.
    pub(super) turns: usize,
}

/// 256 numbers and their weights.
#[inline(always)]
pub(super) fn groups<const SETS: usize, const N: usize, S: Source>(x: &[f32; LEN], w: S) -> Groups<SETS, N, S::Of<N>> {
    let mut groups = Groups { x: [[F8::ZERO; N]; SETS], w: [w.eight(0); SETS] };
    for set in 0..SETS {
        groups.x[set] = side_by_side(&x[set * LANES * N..][..LANES * N]);
        groups.w[set] = w.eight(set * LANES * N);
    }
    groups
}

impl<const SETS: usize, const N: usize, W: Weights> Groups<SETS, N, W> {
    /// The best scales, integers from `-lowest` to `lowest - 1`. `index` numbers the levels from 0.
    #[inline(always)]
    pub(super) fn scaled(
        &self,
        levels: impl Levels,
        index: impl Fn(F8) -> F8,
        tops: &[f32],
        lowest: f32,
        effort: Effort,
    ) -> Scaled<SETS> {
        let mut fits = [F8::ZERO; SETS];
        let mut peak = 0f32;
        for set in 0..SETS {
            fits[set] = fit::symmetric(&self.x[set], &self.w[set], levels, tops, effort.rounds).scale;
            for scale in fits[set].0 {
                peak = if scale.abs() > peak.abs() { scale } else { peak };
            }
        }
        let mut best = self.with_factor(half_that_reaches(peak, -lowest), &fits, levels, lowest);
        for _ in 0..effort.turns {
            let refined = self.refit(&best.1, levels, best.0);
            let next = self.with_factor(refined, &fits, levels, lowest);
            if next.2 >= best.2 {
                break;
            }
            best = next;
        }
        let (factor, scales, _) = best;
        let mut out = Scaled { factor, scales: [[0; LANES]; SETS], levels: [0; LEN] };
        for set in 0..SETS {
            let inverse = (F8::all(factor.to_f32()) * scales[set]).inverse();
            let mut q = [F8::ZERO; N];
            for i in 0..N {
                q[i] = index(levels.nearest(self.x[set][i] * inverse));
            }
            in_runs(&q, &mut out.levels[set * LANES * N..]);
            for lane in 0..LANES {
                out.scales[set][lane] = scales[set].0[lane] as i8;
            }
        }
        out
    }

    /// The groups' best integers near their fits, and the error.
    #[inline(always)]
    fn with_factor(&self, factor: f16, fits: &[F8; SETS], levels: impl Levels, lowest: f32) -> (f16, [F8; SETS], f32) {
        let factor_of = F8::all(factor.to_f32());
        let inverse = factor_of.inverse();
        let mut scales = [F8::ZERO; SETS];
        let mut error = F8::ZERO;
        for set in 0..SETS {
            let middle = (fits[set] * inverse).clamp(-lowest, lowest - 1.0).round();
            let mut best = (middle, error_of(&self.x[set], &self.w[set], middle * factor_of, levels));
            for step in [-1.0, 1.0] {
                let scale = (middle + F8::all(step)).clamp(-lowest, lowest - 1.0);
                let error = error_of(&self.x[set], &self.w[set], scale * factor_of, levels);
                best = (error.less(best.1, scale, best.0), error.min(best.1));
            }
            scales[set] = best.0;
            error = error + best.1;
        }
        (factor, scales, error.sum())
    }

    /// The factor that fits best to the levels that these scales give.
    #[inline(always)]
    fn refit(&self, scales: &[F8; SETS], levels: impl Levels, factor: f16) -> f16 {
        let (mut xu, mut uu) = (F8::ZERO, F8::ZERO);
        for set in 0..SETS {
            let inverse = (F8::all(factor.to_f32()) * scales[set]).inverse();
            for i in 0..N {
                let u = scales[set] * levels.nearest(self.x[set][i] * inverse);
                let weighted = self.w[set].at(i) * u;
                xu = xu + weighted * self.x[set][i];
                uu = uu + weighted * u;
            }
        }
        let (xu, uu) = (xu.sum(), uu.sum());
        if uu > 0.0 { nearest_half(xu / uu) } else { factor }
    }

    /// The best scales and minima: integers up to `most`, of levels up to `top`.
    #[inline(always)]
    pub(super) fn with_minima(&self, top: f32, spans: &[(f32, f32)], most: f32, effort: Effort) -> WithMinima<SETS> {
        let mut fits = [(F8::ZERO, F8::ZERO); SETS];
        let (mut peak, mut deepest) = (F8::ZERO, F8::ZERO);
        for set in 0..SETS {
            let fit = fit::affine(&self.x[set], &self.w[set], top, spans, effort.rounds, true);
            fits[set] = (fit.scale, F8::ZERO - fit.low);
            peak = peak.max(fits[set].0);
            deepest = deepest.max(fits[set].1);
        }
        let largest = |lanes: F8| lanes.0.into_iter().fold(0f32, f32::max);
        let factors = (half_that_reaches(largest(peak), most), half_that_reaches(largest(deepest), most));
        let mut best = self.with_factors(factors, &fits, top, most);
        for _ in 0..effort.turns {
            let next = self.with_factors(self.refit_both(&best, top), &fits, top, most);
            if next.error >= best.error {
                break;
            }
            best = next;
        }
        let Pairs { factors, scales, minima, .. } = best;
        let mut out = WithMinima {
            factor: factors.0,
            min_factor: factors.1,
            scales: [[0; LANES]; SETS],
            minima: [[0; LANES]; SETS],
            levels: [0; LEN],
        };
        let (factor, min_factor) = (F8::all(factors.0.to_f32()), F8::all(factors.1.to_f32()));
        for set in 0..SETS {
            let inverse = (factor * scales[set]).inverse();
            let shift = min_factor * minima[set] * inverse;
            let mut q = [F8::ZERO; N];
            for i in 0..N {
                q[i] = (self.x[set][i] * inverse + shift).clamp(0.0, top).round();
            }
            in_runs(&q, &mut out.levels[set * LANES * N..]);
            for lane in 0..LANES {
                out.scales[set][lane] = scales[set].0[lane] as u8;
                out.minima[set][lane] = minima[set].0[lane] as u8;
            }
        }
        out
    }

    #[inline(always)]
    fn with_factors(&self, factors: (f16, f16), fits: &[(F8, F8); SETS], top: f32, most: f32) -> Pairs<SETS> {
        let (factor, min_factor) = (F8::all(factors.0.to_f32()), F8::all(factors.1.to_f32()));
        let (inverse, min_inverse) = (factor.inverse(), min_factor.inverse());
        let mut out = Pairs { factors, scales: [F8::ZERO; SETS], minima: [F8::ZERO; SETS], error: 0.0 };
        let mut total = F8::ZERO;
        for set in 0..SETS {
            let (x, w) = (&self.x[set], &self.w[set]);
            let middle = (fits[set].0 * inverse).clamp(0.0, most).round();
            let min_middle = (fits[set].1 * min_inverse).clamp(0.0, most).round();
            let mut best = (middle, min_middle, error_with_minimum(x, w, middle * factor, min_middle * min_factor, top));
            for (step, min_step) in NEIGHBOURS {
                let scale = (middle + F8::all(step)).clamp(0.0, most);
                let min = (min_middle + F8::all(min_step)).clamp(0.0, most);
                let error = error_with_minimum(x, w, scale * factor, min * min_factor, top);
                best = (error.less(best.2, scale, best.0), error.less(best.2, min, best.1), error.min(best.2));
            }
            (out.scales[set], out.minima[set]) = (best.0, best.1);
            total = total + best.2;
        }
        out.error = total.sum();
        out
    }

    /// The two factors that fit best to the levels that these integers give.
    #[inline(always)]
    fn refit_both(&self, pairs: &Pairs<SETS>, top: f32) -> (f16, f16) {
        let (factor, min_factor) = (F8::all(pairs.factors.0.to_f32()), F8::all(pairs.factors.1.to_f32()));
        let [mut uu, mut uv, mut vv, mut xu, mut xv] = [F8::ZERO; 5];
        for set in 0..SETS {
            let inverse = (factor * pairs.scales[set]).inverse();
            let v = pairs.minima[set];
            let shift = min_factor * v * inverse;
            for i in 0..N {
                let (x, w) = (self.x[set][i], self.w[set].at(i));
                let u = pairs.scales[set] * (x * inverse + shift).clamp(0.0, top).round();
                uu = uu + w * u * u;
                uv = uv + w * u * v;
                vv = vv + w * v * v;
                xu = xu + w * x * u;
                xv = xv + w * x * v;
            }
        }
        let [uu, uv, vv, xu, xv] = [uu, uv, vv, xu, xv].map(|sum| f64::from(sum.sum()));
        // x ~ f u - g v.
        let determinant = uu * vv - uv * uv;
        if determinant > 1e-9 * uu * vv {
            let both = ((xu * vv - xv * uv) / determinant, (xu * uv - xv * uu) / determinant);
            if both.0 > 0.0 && both.1 > 0.0 {
                return (nearest_half(both.0 as f32), nearest_half(both.1 as f32));
            }
        } else if vv == 0.0 && uu > 0.0 && xu > 0.0 {
            return (nearest_half((xu / uu) as f32), pairs.factors.1);
        }
        pairs.factors
    }
}

/// Steps of scale and minimum to try.
const NEIGHBOURS: [(f32, f32); 8] =
    [(-1.0, -1.0), (-1.0, 0.0), (-1.0, 1.0), (0.0, -1.0), (0.0, 1.0), (1.0, -1.0), (1.0, 0.0), (1.0, 1.0)];

/// Integers of all groups with their shared factors.
struct Pairs<const SETS: usize> {
    factors: (f16, f16),
    scales: [F8; SETS],
    minima: [F8; SETS],
    error: f32,
}
