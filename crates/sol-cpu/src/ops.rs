//! The operations between the products: norms, rotations, activations, sums. Each row (or element) is computed by one thread
//! in one order, so a result does not depend on how the work is split.

use sol_compute::{Activation, NormKind, RopePairing, RopeTable};

use crate::math::{exp, gelu_tanh, max_of, silu, sum_by, tanh};
use crate::pool::Pool;
use crate::shared::SharedMut;

/// Fewer values than this are not worth waking another thread for.
const INLINE_VALUES: usize = 8192;

/// Calls `f(start, part)` on contiguous parts of `out`, whole multiples of `unit` values, on all threads.
pub(crate) fn split(pool: &Pool, out: &mut [f32], unit: usize, f: impl Fn(usize, &mut [f32]) + Sync) {
    if out.len() <= INLINE_VALUES || pool.threads() == 1 {
        return f(0, out);
    }
    let (units, threads) = (out.len() / unit, pool.threads());
    let shared = SharedMut::new(out);
    pool.run(|thread| {
        let range = units * thread / threads * unit..units * (thread + 1) / threads * unit;
        // SAFETY: threads get consecutive ranges.
        f(range.start, unsafe { shared.slice(range) });
    });
}

/// Gives `body` AVX2 or AVX-512 code where the machine has it; the source is one and the same, and so are the bits.
macro_rules! vectorised {
    ($(#[$doc:meta])* fn $name:ident($($arg:ident: $type:ty),* $(,)?) $body:block) => {
        $(#[$doc])*
        pub(crate) fn $name($($arg: $type),*) {
            #[inline(always)]
            fn body($($arg: $type),*) $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $type),*) {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                fn avx512($($arg: $type),*) {
                    body($($arg),*)
                }
                let isa = $crate::matmul::Isa::selected();
                if isa.has_avx512() {
                    // SAFETY: an `Isa` is what the machine has.
                    return unsafe { avx512($($arg),*) };
                }
                if isa.has_avx2() {
                    // SAFETY: as above.
                    return unsafe { avx2($($arg),*) };
                }
            }
            body($($arg),*)
        }
    };
}

vectorised! {
    /// One row of a norm.
    fn norm_row(kind: NormKind, eps: f32, weight: &[f32], bias: Option<&[f32]>, x: &[f32], out: &mut [f32]) {
        let n = x.len() as f32;
        match kind {
            NormKind::Rms => {
                let scale = 1.0 / (sum_by(x, |v| v * v) / n + eps).sqrt();
                for ((o, v), w) in out.iter_mut().zip(x).zip(weight) {
                    *o = w * (v * scale);
                }
            }
            NormKind::Layer => {
                let mean = sum_by(x, |v| v) / n;
                let scale = 1.0 / (sum_by(x, |v| (v - mean) * (v - mean)) / n + eps).sqrt();
                for ((o, v), w) in out.iter_mut().zip(x).zip(weight) {
                    *o = w * ((v - mean) * scale);
                }
            }
        }
        if let Some(bias) = bias {
            for (o, b) in out.iter_mut().zip(bias) {
                *o += b;
            }
        }
    }
}

vectorised! {
    fn gated_part(activation: Activation, gate: &mut [f32], up: &[f32]) {
        match activation {
            Activation::Silu => gate.iter_mut().zip(up).for_each(|(g, u)| *g = silu(*g) * u),
            Activation::GeluTanh => gate.iter_mut().zip(up).for_each(|(g, u)| *g = gelu_tanh(*g) * u),
        }
    }
}

vectorised! {
    fn cap_part(x: &mut [f32], scale: f32, cap: f32) {
        x.iter_mut().for_each(|v| *v = cap * tanh(scale * *v / cap));
    }
}

vectorised! {
    /// `state = [max, sum]` of the capped and scaled scores, which become weights `e^(score - max)`.
    fn soften(scores: &mut [f32], scale: f32, cap: Option<f32>, state: &mut [f32]) {
        match cap {
            None => scores.iter_mut().for_each(|s| *s *= scale),
            Some(cap) => scores.iter_mut().for_each(|s| *s = cap * tanh(scale * *s / cap)),
        }
        let max = max_of(scores);
        scores.iter_mut().for_each(|s| *s = exp(*s - max));
        (state[0], state[1]) = (max, sum_by(scores, |v| v));
    }
}

/// Rotates one head in place; `angles` is `[cos.., sin..]`.
pub(crate) fn rotate(head: &mut [f32], angles: &[f32], pairing: RopePairing) {
    let half = head.len() / 2;
    let (cos, sin) = angles.split_at(half);
    match pairing {
        RopePairing::Halves => {
            let (low, high) = head.split_at_mut(half);
            for (((a, b), c), s) in low.iter_mut().zip(high).zip(cos).zip(sin) {
                (*a, *b) = (*a * c - *b * s, *b * c + *a * s);
            }
        }
        RopePairing::Adjacent => {
            for ((pair, c), s) in head.chunks_exact_mut(2).zip(cos).zip(sin) {
                (pair[0], pair[1]) = (pair[0] * c - pair[1] * s, pair[1] * c + pair[0] * s);
            }
        }
    }
}

/// cos and sin of one position.
pub(crate) fn angles(rope: &RopeTable, position: u32, out: &mut [f32]) {
    let (cos, sin) = out.split_at_mut(rope.inv_freq.len());
    for ((c, s), frequency) in cos.iter_mut().zip(sin).zip(&rope.inv_freq) {
        let (sine, cosine) = (position as f32 * frequency).sin_cos();
        (*c, *s) = (cosine * rope.mscale, sine * rope.mscale);
    }
}
