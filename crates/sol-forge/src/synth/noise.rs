//! Random weights straight in their stored format.
//!
//! Quantising random floats would take an hour for what a few seconds of random bits do as well: the quantised numbers of a
//! block are random bits as they are. What has to be set are the scales, so that the decoded weights have the wanted spread,
//! and what the formats subtract, so that they have the mean 0. A mean other than 0 is the same direction in every row; such a
//! matrix maps nearly everything to it, and the logits of a deep model would hardly depend on its input.

use half::{bf16, f16};
use sol_weights::{DType, dequantize};

use super::random::Random;
use crate::{Error, Result};

/// Blocks that are made from one stream, so that pieces can be made in any order, by any number of threads.
pub(super) const PIECE: usize = 1024;

/// Weights of one format and spread.
#[derive(Debug)]
pub(super) struct Noise {
    dtype: DType,
    source: Source,
}

#[derive(Debug)]
enum Source {
    /// Uniform 32-bit floats: mean, and the factor of a random `i32`.
    Floats { mean: f32, step: f32 },
    /// The half for every 16 random bits.
    Halves(Vec<u16>),
    /// Scales of blocks. A random byte chooses one.
    Blocks(Box<[Scale; 256]>),
}

/// A block's scale and, in formats that have it, what is added or subtracted; f16.
#[derive(Clone, Copy, Debug, Default)]
struct Scale {
    scale: [u8; 2],
    offset: [u8; 2],
}

impl Noise {
    /// Weights of mean 0 and a standard deviation. Fails for formats that weights do not come in, or that [`dequantize`] can
    /// not decode.
    pub(super) fn new(dtype: DType, deviation: f32) -> Result<Self> {
        let source = match dtype {
            DType::F32 => Source::Floats { mean: 0.0, step: uniform_step(deviation, 32) },
            DType::F16 => Source::Halves(halves(deviation, |x| f16::from_f32(x).to_bits())),
            DType::BF16 => Source::Halves(halves(deviation, |x| bf16::from_f32(x).to_bits())),
            _ if dtype.is_quantized() => Source::Blocks(scales(dtype, deviation / unit_deviation(dtype)?)),
            _ => return Err(Error::Type(dtype)),
        };
        Ok(Self { dtype, source })
    }

    /// 32-bit floats around a mean.
    pub(super) fn around(mean: f32, deviation: f32) -> Self {
        Self { dtype: DType::F32, source: Source::Floats { mean, step: uniform_step(deviation, 32) } }
    }

    /// Fills whole blocks, which begin at a multiple of [`PIECE`] blocks of the tensor that `random` is the stream of.
    pub(super) fn fill(&self, random: Random, first_piece: u64, bytes: &mut [u8]) {
        let piece = PIECE * self.dtype.block_bytes();
        for (number, bytes) in (first_piece..).zip(bytes.chunks_mut(piece)) {
            random.nth(number).fill(bytes);
            self.shape(bytes);
        }
    }

    /// Makes numbers of random bits.
    fn shape(&self, bytes: &mut [u8]) {
        match &self.source {
            Source::Floats { mean, step } => {
                for b in bytes.as_chunks_mut::<4>().0 {
                    *b = (mean + i32::from_le_bytes(*b) as f32 * step).to_le_bytes();
                }
            }
            Source::Halves(table) => {
                for b in bytes.as_chunks_mut::<2>().0 {
                    *b = table[usize::from(u16::from_le_bytes(*b))].to_le_bytes();
                }
            }
            Source::Blocks(scales) => shape_blocks(self.dtype, scales, bytes),
        }
    }
}

/// What makes a random integer of so many bits, signed, a uniform number of this standard deviation.
fn uniform_step(deviation: f32, bits: i32) -> f32 {
    deviation * 3f32.sqrt() / 2f32.powi(bits - 1)
}

fn halves(deviation: f32, bits: fn(f32) -> u16) -> Vec<u16> {
    let step = uniform_step(deviation, 16);
    // In the middle of its interval, so that the mean is 0.
    (0..=u16::MAX).map(|random| bits((f32::from(random.cast_signed()) + 0.5) * step)).collect()
}

/// The mean of a quantised number where the format has something to subtract it with.
fn mean_to_subtract(dtype: DType) -> Option<f32> {
    match dtype {
        DType::Q2K => Some(1.5),
        DType::Q4_1 | DType::Q4K => Some(7.5),
        DType::Q5_1 | DType::Q5K => Some(15.5),
        _ => None,
    }
}

/// The 256 scales of a format around a mean square of `scale`: between 0.75 and 1.25 of it, so that blocks differ (and so that
/// in f16, where those of wide matrices are of few bits, the roundings cancel). In formats without anything to subtract, every
/// other one is negative, since their numbers go from -8 to 7 or the like and are not 0 in the mean.
fn scales(dtype: DType, scale: f32) -> Box<[Scale; 256]> {
    let spread = |i: usize| 0.75 + 0.5 * ((i / 2) as f32 + 0.5) / 128.0;
    let mean_square = (0..256).map(|i| spread(i) * spread(i)).sum::<f32>() / 256.0;
    Box::new(std::array::from_fn(|i| {
        let scale = f16::from_f32(scale / mean_square.sqrt() * spread(i));
        match mean_to_subtract(dtype) {
            None => Scale { scale: if i % 2 == 0 { scale } else { -scale }.to_le_bytes(), offset: [0; 2] },
            Some(mean) => {
                // K formats subtract, the others add.
                let sign = if dtype.block_len() == 256 { 1.0 } else { -1.0 };
                Scale { scale: scale.to_le_bytes(), offset: f16::from_f32(sign * mean * scale.to_f32()).to_le_bytes() }
            }
        }
    }))
}

/// The standard deviation of a format's numbers with all scales 1: measured, as the decoder knows the formats already.
fn unit_deviation(dtype: DType) -> Result<f32> {
    const BLOCKS: usize = 4096;
    let mut bytes = vec![0; BLOCKS * dtype.block_bytes()];
    Random::new(0).fill(&mut bytes);
    let one = mean_to_subtract(dtype);
    let sign = if dtype.block_len() == 256 { 1.0 } else { -1.0 };
    let unit = Scale { scale: f16::ONE.to_le_bytes(), offset: f16::from_f32(sign * one.unwrap_or(0.0)).to_le_bytes() };
    shape_blocks(dtype, &[unit; 256], &mut bytes);
    let mut values = vec![0.0; BLOCKS * dtype.block_len()];
    dequantize(dtype, &bytes, &mut values).map_err(|_| Error::Type(dtype))?;
    let mean_square = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>() / values.len() as f64;
    Ok(mean_square.sqrt() as f32)
}

/// Puts scales into blocks of random bits. The scales of K formats' groups stay random in their low bits; their high bits are
/// set so that no group is nearly 0.
fn shape_blocks(dtype: DType, scales: &[Scale; 256], bytes: &mut [u8]) {
    // The random byte where the scale will be chooses it.
    fn set_scale(scales: &[Scale; 256], block: &mut [u8], at: usize) {
        let Scale { scale, .. } = scales[usize::from(block[at])];
        block[at..at + 2].copy_from_slice(&scale);
    }
    fn set_both(scales: &[Scale; 256], block: &mut [u8], at: usize) {
        let Scale { scale, offset } = scales[usize::from(block[at])];
        block[at..at + 2].copy_from_slice(&scale);
        block[at + 2..at + 4].copy_from_slice(&offset);
    }
    /// Each pair of bits becomes 00 or 11: scales of -32..=-17 or 16..=31.
    fn alike(bits: u8) -> u8 {
        (bits & 0x55) * 3
    }
    fn each<const N: usize>(bytes: &mut [u8], shape: impl Fn(&mut [u8; N])) {
        bytes.as_chunks_mut().0.iter_mut().for_each(shape);
    }
    match dtype {
        DType::Q4_0 | DType::IQ4NL => each(bytes, |block: &mut [u8; 18]| set_scale(scales, block, 0)),
        DType::Q5_0 => each(bytes, |block: &mut [u8; 22]| set_scale(scales, block, 0)),
        DType::Q4_1 => each(bytes, |block: &mut [u8; 20]| set_both(scales, block, 0)),
        DType::Q5_1 => each(bytes, |block: &mut [u8; 24]| set_both(scales, block, 0)),
        DType::Q8_0 => each(bytes, |block: &mut [u8; 34]| {
            // -128 is in no file: quantisers keep to -127..=127, and kernels may count on it.
            block[2..].iter_mut().for_each(|q| *q = if *q == 0x80 { 0 } else { *q });
            set_scale(scales, block, 0);
        }),
        DType::Q2K => each(bytes, |block: &mut [u8; 84]| {
            // Scale and minimum of 8..=15.
            block[..16].iter_mut().for_each(|both| *both |= 0x88);
            set_both(scales, block, 80);
        }),
        DType::Q3K => each(bytes, |block: &mut [u8; 110]| {
            block[104..108].iter_mut().for_each(|high| *high = alike(*high));
            set_scale(scales, block, 108);
        }),
        // The high nibbles of the first eight bytes hold the two high bits of all scales and minima: 48..=63.
        DType::Q4K => each(bytes, |block: &mut [u8; 144]| {
            block[4..12].iter_mut().for_each(|packed| *packed |= 0xF0);
            set_both(scales, block, 0);
        }),
        DType::Q5K => each(bytes, |block: &mut [u8; 176]| {
            block[4..12].iter_mut().for_each(|packed| *packed |= 0xF0);
            set_both(scales, block, 0);
        }),
        DType::Q6K => each(bytes, |block: &mut [u8; 210]| {
            // 64..=127 or -128..=-65.
            block[192..208].iter_mut().for_each(|scale| *scale = *scale & 0xBF | (!*scale >> 1 & 0x40));
            set_scale(scales, block, 208);
        }),
        DType::IQ4XS => each(bytes, |block: &mut [u8; 136]| {
            block[2..4].iter_mut().for_each(|high| *high = alike(*high));
            set_scale(scales, block, 0);
        }),
        // `Noise::new` lets no other format pass.
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [DType; 15] = [
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::Q4_0,
        DType::Q4_1,
        DType::Q5_0,
        DType::Q5_1,
        DType::Q8_0,
        DType::Q2K,
        DType::Q3K,
        DType::Q4K,
        DType::Q5K,
        DType::Q6K,
        DType::IQ4NL,
        DType::IQ4XS,
    ];

    fn decoded(dtype: DType, deviation: f32, seed: u64) -> Vec<f32> {
        const ELEMENTS: usize = 1 << 18;
        let mut bytes = vec![0; dtype.bytes_for(ELEMENTS).unwrap()];
        Noise::new(dtype, deviation).unwrap().fill(Random::new(seed), 0, &mut bytes);
        let mut values = vec![0.0; ELEMENTS];
        dequantize(dtype, &bytes, &mut values).unwrap();
        values
    }

    /// Down to the deviation of Solar Pro's down projections.
    #[test]
    fn decoded_weights_have_the_wanted_mean_and_deviation() {
        for dtype in ALL {
            for deviation in [1.0, 0.014, 6.6e-4] {
                let values = decoded(dtype, deviation, 7);
                assert!(values.iter().all(|x| x.is_finite() && x.abs() < 8.0 * deviation), "{dtype}");
                let n = values.len() as f64;
                let mean = values.iter().map(|&x| f64::from(x)).sum::<f64>() / n / f64::from(deviation);
                let square = values.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n / f64::from(deviation).powi(2);
                assert!(mean.abs() < 0.01, "{dtype} {deviation}: mean {mean}");
                assert!((square.sqrt() - 1.0).abs() < 0.02, "{dtype} {deviation}: deviation {}", square.sqrt());
            }
        }
    }

    /// No run of 256 weights is much narrower or off-centre, and neighbours do not repeat.
    #[test]
    fn every_stretch_is_as_random_as_the_whole() {
        for dtype in ALL {
            let values = decoded(dtype, 1.0, 3);
            for run in values.as_chunks::<256>().0 {
                let square = run.iter().map(|x| x * x).sum::<f32>() / 256.0;
                let mean = run.iter().sum::<f32>() / 256.0;
                assert!((0.2..2.5).contains(&square) && mean.abs() < 0.5, "{dtype}: {square} {mean}");
            }
            let (a, b) = (&values[..256], &values[256..512]);
            assert!(a.iter().zip(b).filter(|(a, b)| a == b).count() < 128, "{dtype}");
        }
    }

    #[test]
    fn pieces_are_the_same_in_any_order() {
        for dtype in [DType::F16, DType::Q4K] {
            let noise = Noise::new(dtype, 1.0).unwrap();
            let piece = PIECE * dtype.block_bytes();
            let mut whole = vec![0; 3 * piece];
            noise.fill(Random::new(1), 0, &mut whole);
            let mut last = vec![0; piece];
            noise.fill(Random::new(1), 2, &mut last);
            assert_eq!(whole[2 * piece..], last);
            assert_ne!(decoded(dtype, 1.0, 1), decoded(dtype, 1.0, 2));
        }
    }

    #[test]
    fn floats_around_one() {
        let mut bytes = vec![0; 4 * 5120];
        Noise::around(1.0, 0.1).fill(Random::new(1), 0, &mut bytes);
        let mut values = vec![0.0; 5120];
        dequantize(DType::F32, &bytes, &mut values).unwrap();
        assert!(values.iter().all(|x| (0.8..1.2).contains(x)));
        assert!((values.iter().sum::<f32>() / 5120.0 - 1.0).abs() < 0.01);
    }

    #[test]
    fn formats_that_nothing_decodes_are_refused() {
        assert!(Noise::new(DType::Other(16), 1.0).is_err());
        assert!(Noise::new(DType::I8, 1.0).is_err());
    }
}
