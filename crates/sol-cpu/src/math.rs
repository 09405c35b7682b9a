//! Elementary functions that the compiler can vectorise: straight-line f32, no table, no branch. The same source is compiled
//! for AVX2 and for the baseline, without fused multiply-adds, so both give the same bits.

/// `e^x` for any f32: relative error below 2e-7, 0 below -87.3, infinity above 88.7, NaN for NaN.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    // Cody-Waite: x = n ln 2 + r with |r| <= ln 2 / 2, ln 2 in two parts so that n * HIGH is exact.
    const HIGH: f32 = 0.693_359_4;
    const LOW: f32 = -2.121_944_4e-4;
    let clamped = x.clamp(-87.3, 88.8);
    let n = (clamped * std::f32::consts::LOG2_E).round_ties_even();
    let r = (clamped - n * HIGH) - n * LOW;
    // Taylor to degree 7: the remainder is (ln 2 / 2)^8 / 8! = 5e-9.
    let p = 1.0 / 5040.0;
    let p = p * r + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r + 1.0;
    let p = p * r + 1.0;
    // 2^n in two steps, so that n = 128 does not overflow before the product does.
    // Adding 1.5 * 2^23 leaves the integer in the low mantissa bits, which every vector unit does in one addition.
    const SHIFT: f32 = 12_582_912.0;
    let n = (n + SHIFT).to_bits().wrapping_sub(SHIFT.to_bits()) as i32;
    let half = n >> 1;
    let power = |k: i32| f32::from_bits((k.wrapping_add(127) as u32) << 23);
    let y = p * power(half) * power(n.wrapping_sub(half));
    if x < -87.3 { 0.0 } else { y }
}

/// `x * sigmoid(x)`.
#[inline(always)]
pub(crate) fn silu(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// `tanh x`: absolute error below 2e-7.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (exp(2.0 * x) + 1.0)
}

/// GELU, tanh form.
#[inline(always)]
pub(crate) fn gelu_tanh(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    0.5 * x * (1.0 + tanh(SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x)))
}

/// Lanes of a sum: each output is summed in eight strands, then the strands in a tree, on every machine.
const LANES: usize = 8;

#[inline(always)]
fn lanes_sum(mut strands: [f32; LANES]) -> f32 {
    for width in [4, 2, 1] {
        for i in 0..width {
            strands[i] += strands[i + width];
        }
    }
    strands[0]
}

/// `sum f(x_i)` in a fixed order.
#[inline(always)]
pub(crate) fn sum_by(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut strands = [0.0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (s, v) in strands.iter_mut().zip(chunk) {
            *s += f(*v);
        }
    }
    for (s, v) in strands.iter_mut().zip(rest) {
        *s += f(*v);
    }
    lanes_sum(strands)
}

/// The largest; NaN is never it. Of an order that does not matter.
#[inline(always)]
pub(crate) fn max_of(x: &[f32]) -> f32 {
    let mut strands = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    let larger = |s: &mut f32, v: &f32| *s = if *v > *s { *v } else { *s };
    for chunk in chunks {
        strands.iter_mut().zip(chunk).for_each(|(s, v)| larger(s, v));
    }
    strands.iter_mut().zip(rest).for_each(|(s, v)| larger(s, v));
    strands.into_iter().fold(f32::NEG_INFINITY, |a, b| if b > a { b } else { a })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_close_to_the_true_value_everywhere() {
        let mut x = -87.0f32;
        while x < 88.7 {
            let truth = f64::from(x).exp();
            assert!((f64::from(exp(x)) / truth - 1.0).abs() < 2e-7, "exp({x}) = {}, not {truth}", exp(x));
            x += 0.0137;
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1e30), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn activations_match_double_precision() {
        for i in -2000..2000 {
            let x = i as f32 * 0.01;
            let d = f64::from(x);
            assert!((f64::from(silu(x)) - d / (1.0 + (-d).exp())).abs() < 2e-6);
            assert!((f64::from(tanh(x)) - d.tanh()).abs() < 3e-7);
            let gelu = 0.5 * d * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (d + 0.044715 * d * d * d)).tanh());
            assert!((f64::from(gelu_tanh(x)) - gelu).abs() < 3e-6, "{x}");
        }
    }

    #[test]
    fn sums_take_every_element_once() {
        for n in 0..40usize {
            let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
            assert_eq!(sum_by(&x, |v| v), (n * n.saturating_sub(1) / 2) as f32);
        }
    }
}
