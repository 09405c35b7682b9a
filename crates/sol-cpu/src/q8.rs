//! Keys and values in 8 bits: 32 dimensions of one head of one token share a scale and are what GGUF's Q8_0 makes of them. Where
//! a head is no multiple of 32, its last block is filled up with zeros.
//!
//! Keys (or values) of one head of one cache block lie as scales, [`TILE`] for each [`TILE`] dimensions, and then numbers, in
//! the order of the other formats: a key's neighbours in memory are other tokens' keys, so that each has its own scale; a
//! value's are of its own block. A scale times a number has 19 bits at most, so that floats hold it exactly.

use half::f16;
use sol_weights::DType;

use crate::cache::{TILE, padded};
use crate::matmul::Isa;
use crate::tile::convert;

/// Numbers of a group, which has [`TILE`] scales.
const GROUP: usize = TILE * TILE;

/// Whose scales they are.
#[derive(Clone, Copy)]
pub(crate) enum Side {
    /// One a column.
    Keys,
    /// One a row.
    Values,
}

/// Bytes of the keys, or of the values, of one head of one cache block.
pub(crate) const fn part_bytes(head_dim: usize) -> usize {
    padded(head_dim) * (size_of::<f16>() + TILE)
}

/// Scales and numbers.
fn scales_len(part: &[u8]) -> usize {
    part.len() / (size_of::<f16>() + TILE) * size_of::<f16>()
}

/// Writes a token's key and value.
pub(crate) fn put(keys: &mut [u8], values: &mut [u8], slot: usize, key: &[f32], value: &[f32]) {
    let (scales, numbers) = keys.split_at_mut(scales_len(keys));
    let scales: &mut [f16] = bytemuck::cast_slice_mut(scales);
    for (i, x) in key.chunks(TILE).enumerate() {
        let (scale, block) = encode(x);
        scales[i * TILE + slot] = scale;
        let column = numbers[i * GROUP + slot..].iter_mut().step_by(TILE);
        column.zip(block).for_each(|(to, number)| *to = number);
    }
    let blocks = value.len().div_ceil(TILE);
    let (scales, numbers) = values.split_at_mut(scales_len(values));
    let scales: &mut [f16] = bytemuck::cast_slice_mut(scales);
    for (i, x) in value.chunks(TILE).enumerate() {
        let (scale, block) = encode(x);
        scales[slot * blocks + i] = scale;
        numbers[(slot * blocks + i) * TILE..][..TILE].copy_from_slice(&block);
    }
}

/// The scale and the numbers of up to [`TILE`] values. What a scale can not reach, and what is no number, makes all of them no
/// numbers: it must show as it does in the other formats.
fn encode(values: &[f32]) -> (f16, [u8; TILE]) {
    const MOST: f32 = 127.0 * 65504.0;
    let (mut whole, mut block) = ([0.0; TILE], [0; 2 + TILE]);
    whole[..values.len()].copy_from_slice(values);
    sol_weights::quantize(DType::Q8_0, &whole, &[], &mut block).expect("the length is a block's");
    let [low, high, numbers @ ..] = block;
    let scale = if values.iter().all(|v| v.abs() <= MOST) { f16::from_le_bytes([low, high]) } else { f16::NAN };
    (scale, numbers)
}

/// Keys or values as floats.
pub(crate) fn floats(part: &[u8], side: Side, out: &mut Vec<f32>) {
    let (scales, numbers) = part.split_at(scales_len(part));
    out.resize(numbers.len(), 0.0);
    let scales: &[f16] = bytemuck::cast_slice(scales);
    let groups = scales.as_chunks::<TILE>().0.iter().zip(bytemuck::cast_slice::<u8, i8>(numbers).as_chunks::<GROUP>().0);
    for ((scales, numbers), out) in groups.zip(out.as_chunks_mut::<GROUP>().0) {
        let mut factors = [0.0; TILE];
        convert(scales, &mut factors);
        multiply(Isa::selected(), side, &factors, numbers, out);
    }
}

#[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
fn multiply(isa: Isa, side: Side, factors: &[f32; TILE], numbers: &[i8; GROUP], out: &mut [f32; GROUP]) {
    #[cfg(target_arch = "x86_64")]
    if isa.has_avx512() {
        // SAFETY: an `Isa` is what the machine has.
        return unsafe { multiply_avx512(side, factors, numbers, out) };
    } else if isa.has_avx2() {
        // SAFETY: likewise.
        return unsafe { multiply_avx2(side, factors, numbers, out) };
    }
    portable(side, factors, numbers, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn multiply_avx512(side: Side, factors: &[f32; TILE], numbers: &[i8; GROUP], out: &mut [f32; GROUP]) {
    portable(side, factors, numbers, out);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn multiply_avx2(side: Side, factors: &[f32; TILE], numbers: &[i8; GROUP], out: &mut [f32; GROUP]) {
    portable(side, factors, numbers, out);
}

/// A loop that the compiler makes instructions of each set of.
#[inline(always)]
fn portable(side: Side, factors: &[f32; TILE], numbers: &[i8; GROUP], out: &mut [f32; GROUP]) {
    let rows = numbers.as_chunks::<TILE>().0.iter().zip(out.as_chunks_mut::<TILE>().0);
    match side {
        Side::Keys => {
            for (row, out) in rows {
                for i in 0..TILE {
                    out[i] = f32::from(row[i]) * factors[i];
                }
            }
        }
        Side::Values => {
            for ((row, out), factor) in rows.zip(factors) {
                for i in 0..TILE {
                    out[i] = f32::from(row[i]) * factor;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_multiplies_alike() {
        let numbers: [i8; GROUP] = std::array::from_fn(|i| (i * 37 + i / 7) as u8 as i8);
        let factors: [f32; TILE] = std::array::from_fn(|i| f16::from_f32(0.01 * (i as f32 - 11.3)).to_f32());
        for side in [Side::Keys, Side::Values] {
            let mut expected = [0.0; GROUP];
            portable(side, &factors, &numbers, &mut expected);
            for isa in Isa::available() {
                let mut out = [1.0; GROUP];
                multiply(isa, side, &factors, &numbers, &mut out);
                assert_eq!(out, expected, "{isa:?}");
            }
        }
    }

    #[test]
    fn blocks_are_those_of_gguf() {
        let values: Vec<f32> = (0..TILE).map(|i| (i as f32 * 0.7).sin() * 3.0).collect();
        let mut block = [0; 2 + TILE];
        sol_weights::quantize(DType::Q8_0, &values, &[], &mut block).unwrap();
        let (scale, numbers) = encode(&values);
        assert_eq!((scale.to_le_bytes(), &numbers[..]), ([block[0], block[1]], &block[2..]));
        assert_eq!(scale, f16::from_f32(values.iter().fold(0.0, |a: f32, v| a.max(v.abs())) / 127.0));
        assert_eq!(encode(&[0.0; 5]), (f16::ZERO, [0; TILE]));
    }

    #[test]
    fn what_is_no_number_stays_none() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e7] {
            assert!(encode(&[1.0, bad]).0.is_nan(), "{bad}");
        }
        assert!(encode(&[65504.0 * 127.0]).0.is_finite());
    }
}
