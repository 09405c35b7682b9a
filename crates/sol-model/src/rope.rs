//! From a [`RopeSpec`] to frequencies. Sources: RoPE arXiv 2104.09864; longrope arXiv 2402.13753; Llama 3.1's model card.

use sol_compute::RopeTable;

use crate::spec::{RopeScaling, RopeSpec};

/// Which of longrope's two sets holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeFactors {
    /// For sequences no longer than the original context.
    Short,
    /// For longer ones.
    Long,
}

impl RopeSpec {
    /// Which set an engine uses that will hold sequences of up to `context` tokens: a cache can not mix them.
    pub fn factors_for(&self, context: usize) -> RopeFactors {
        match self.scaling {
            RopeScaling::LongRope { original, .. } if context > original => RopeFactors::Long,
            _ => RopeFactors::Short,
        }
    }

    /// Frequencies in f32, in the order of operations of the PyTorch implementations.
    pub fn table(&self, factors: RopeFactors) -> RopeTable {
        let plain = |i: usize| 1.0 / self.theta.powf((2 * i) as f32 / self.dim as f32);
        let mut mscale = 1.0;
        let mut inv_freq: Vec<f32> = (0..self.dim / 2).map(plain).collect();
        match &self.scaling {
            RopeScaling::None => {}
            RopeScaling::Linear { factor } => inv_freq.iter_mut().for_each(|f| *f /= factor),
            RopeScaling::Divisors(divisors) => inv_freq.iter_mut().zip(divisors).for_each(|(f, d)| *f /= d),
            RopeScaling::Llama3 { factor, low, high, original } => {
                for f in &mut inv_freq {
                    let wavelength = 2.0 * std::f32::consts::PI / *f;
                    if wavelength > original / low {
                        *f /= factor;
                    } else if wavelength >= original / high {
                        let u = (original / wavelength - low) / (high - low);
                        *f *= (1.0 - u) / factor + u;
                    }
                }
            }
            RopeScaling::LongRope { short, long, short_mscale, long_mscale, .. } => {
                let (divisors, m) = match factors {
                    RopeFactors::Short => (short, short_mscale),
                    RopeFactors::Long => (long, long_mscale),
                };
                mscale = *m;
                for (i, (f, d)) in inv_freq.iter_mut().zip(divisors).enumerate() {
                    *f = 1.0 / (d * self.theta.powf((2 * i) as f32 / self.dim as f32));
                }
            }
        }
        RopeTable { inv_freq, mscale, pairing: self.pairing }
    }
}

/// Longrope's magnitude where the config gives none: `sqrt(1 + ln(max/original) / ln(original))`.
pub(crate) fn longrope_mscale(max: usize, original: usize) -> f32 {
    if max <= original {
        return 1.0;
    }
    let (max, original) = (max as f64, original as f64);
    (1.0 + (max / original).ln() / original.ln()).sqrt() as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use sol_compute::RopePairing;

    #[test]
    fn longrope_magnitude_matches_the_published_values() {
        assert!((longrope_mscale(131072, 4096) - 1.190_238).abs() < 1e-5);
        assert_eq!(longrope_mscale(4096, 4096), 1.0);
    }

    /// Llama 3.1's: values of transformers 4.57.6, `ROPE_INIT_FUNCTIONS["llama3"]`.
    #[test]
    fn llama3_scaling_keeps_high_and_divides_low_frequencies() {
        let scaling = RopeScaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 8192.0 };
        let spec = RopeSpec { dim: 128, theta: 500_000.0, pairing: RopePairing::Halves, scaling };
        let inv_freq = spec.table(RopeFactors::Short).inv_freq;
        for (i, expected) in [
            (0, 1.0),
            (20, 0.016_560_44),
            (28, 0.003_211_446),
            (30, 0.001_371_893_7),
            (32, 0.000_524_846),
            (34, 0.000_178_507_79),
            (36, 7.784_655_5e-5),
            (63, 3.068_926e-7),
        ] {
            assert!((inv_freq[i] / expected - 1.0f32).abs() < 1e-6, "{i}: {} {expected}", inv_freq[i]);
        }
    }
}
