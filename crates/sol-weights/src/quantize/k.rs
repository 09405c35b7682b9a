//! The K formats and IQ4_XS: where the bits of a superblock go. The decoders say the same the other way round.

use half::f16;

use super::fit::Integers;
use super::iq4::Iq4;
use super::lanes::F8;
use super::superblock::{Effort, LEN, Scaled, WithMinima, groups};
use super::weights::Source;

/// Puts the low `BITS` bits of 256 numbers into a field: 32 bytes hold 32 numbers in their lowest bits, the next 32 in the next.
#[inline(always)]
fn pack<const BITS: usize>(numbers: &[u8; LEN], shift: usize, field: &mut [u8]) {
    let mask = ((1u16 << BITS) - 1) as u8;
    for (bytes, numbers) in field.as_chunks_mut::<32>().0.iter_mut().zip(numbers.chunks(32 * (8 / BITS))) {
        *bytes = [0; 32];
        for (at, run) in numbers.as_chunks::<32>().0.iter().enumerate() {
            for k in 0..32 {
                bytes[k] |= (run[k] >> shift & mask) << (at * BITS);
            }
        }
    }
}

fn put(block: &mut [u8], at: usize, half: f16) {
    block[at..at + 2].copy_from_slice(&half.to_le_bytes());
}

/// Six bits each of eight scales and minima in twelve bytes.
fn pack_scales(scales: [u8; 8], minima: [u8; 8], out: &mut [u8]) {
    for group in 0..4 {
        out[group] = scales[group] | scales[group + 4] >> 4 << 6;
        out[group + 4] = minima[group] | minima[group + 4] >> 4 << 6;
        out[group + 8] = scales[group + 4] & 0x0F | minima[group + 4] << 4;
    }
}

#[inline(always)]
pub(super) fn q2_k(x: &[f32; LEN], w: impl Source, block: &mut [u8; 84]) {
    const SPANS: [(f32, f32); 9] =
        [(0.0, 0.0), (0.0, 0.25), (0.25, 0.0), (0.25, 0.25), (0.0, 0.5), (0.5, 0.0), (0.5, 0.5), (0.3, 0.6), (0.6, 0.3)];
    let WithMinima { factor, min_factor, scales, minima, levels } =
        groups::<2, 16, _>(x, w).with_minima(3.0, &SPANS, 15.0, Effort { rounds: 3, turns: 3 });
    for (byte, (scale, min)) in block.iter_mut().zip(scales.as_flattened().iter().zip(minima.as_flattened())) {
        *byte = scale | min << 4;
    }
    pack::<2>(&levels, 0, &mut block[16..80]);
    put(block, 80, factor);
    put(block, 82, min_factor);
}

#[inline(always)]
pub(super) fn q4_k(x: &[f32; LEN], w: impl Source, block: &mut [u8; 144]) {
    const SPANS: [(f32, f32); 9] =
        [(0.0, 0.0), (0.0, 0.4), (0.4, 0.0), (0.4, 0.4), (0.0, 0.8), (0.8, 0.0), (0.8, 0.8), (0.4, 1.2), (1.2, 0.4)];
    let found = groups::<1, 32, _>(x, w).with_minima(15.0, &SPANS, 63.0, Effort { rounds: 2, turns: 2 });
    put(block, 0, found.factor);
    put(block, 2, found.min_factor);
    pack_scales(found.scales[0], found.minima[0], &mut block[4..16]);
    pack::<4>(&found.levels, 0, &mut block[16..]);
}

#[inline(always)]
pub(super) fn q5_k(x: &[f32; LEN], w: impl Source, block: &mut [u8; 176]) {
    const SPANS: [(f32, f32); 9] =
        [(0.0, 0.0), (0.0, 0.4), (0.4, 0.0), (0.4, 0.4), (0.0, 0.8), (0.8, 0.0), (0.8, 0.8), (-0.3, 0.3), (0.3, -0.3)];
    let found = groups::<1, 32, _>(x, w).with_minima(31.0, &SPANS, 63.0, Effort { rounds: 2, turns: 2 });
    put(block, 0, found.factor);
    put(block, 2, found.min_factor);
    pack_scales(found.scales[0], found.minima[0], &mut block[4..16]);
    pack::<1>(&found.levels, 4, &mut block[16..48]);
    pack::<4>(&found.levels, 0, &mut block[48..]);
}

#[inline(always)]
pub(super) fn q3_k(x: &[f32; LEN], w: impl Source, block: &mut [u8; 110]) {
    const TOPS: [f32; 8] = [-4.3, -3.9, -3.5, -3.1, 2.7, 3.1, 3.5, 3.9];
    let levels = Integers { low: -4.0, high: 3.0 };
    let Scaled { factor, scales, levels, .. } =
        groups::<2, 16, _>(x, w).scaled(levels, |q| q + F8::all(4.0), &TOPS, 32.0, Effort { rounds: 2, turns: 3 });
    pack::<1>(&levels, 2, &mut block[..32]);
    pack::<2>(&levels, 0, &mut block[32..96]);
    let scales = scales.as_flattened();
    for j in 0..8 {
        let [low, high] = [scales[j], scales[j + 8]].map(|scale| (scale + 32) as u8);
        block[96 + j] = low & 0x0F | high << 4;
    }
    for j in 0..4 {
        block[104 + j] = (0..4).fold(0, |byte, k| byte | ((scales[j + 4 * k] + 32) as u8 >> 4) << (2 * k));
    }
    put(block, 108, factor);
}

#[inline(always)]
pub(super) fn q6_k(x: &[f32; LEN], w: impl Source, block: &mut [u8; 210]) {
    const TOPS: [f32; 8] = [-32.0, -31.5, -31.0, -30.3, 31.3, 30.8, 30.2, -32.6];
    let levels = Integers { low: -32.0, high: 31.0 };
    let Scaled { factor, scales, levels, .. } =
        groups::<2, 16, _>(x, w).scaled(levels, |q| q + F8::all(32.0), &TOPS, 128.0, Effort { rounds: 2, turns: 1 });
    // Two runs of 64 bytes; in each the low nibbles of 64 elements, then the high nibbles of the next 64.
    for (bytes, levels) in block[..128].as_chunks_mut::<64>().0.iter_mut().zip(levels.as_chunks::<128>().0) {
        for k in 0..64 {
            bytes[k] = levels[k] & 0x0F | levels[k + 64] << 4;
        }
    }
    pack::<2>(&levels, 4, &mut block[128..192]);
    for (byte, scale) in block[192..208].iter_mut().zip(scales.as_flattened()) {
        *byte = scale.cast_unsigned();
    }
    put(block, 208, factor);
}

#[inline(always)]
pub(super) fn iq4_xs(x: &[f32; LEN], w: impl Source, block: &mut [u8; 136]) {
    let Scaled { factor, scales, levels, .. } =
        groups::<1, 32, _>(x, w).scaled(Iq4, Iq4::index, &Iq4::TOPS, 32.0, Effort { rounds: 2, turns: 2 });
    put(block, 0, factor);
    let scales = scales[0].map(|scale| (scale + 32) as u8);
    let high = (0..8).fold(0u16, |bits, group| bits | u16::from(scales[group] >> 4) << (2 * group));
    block[2..4].copy_from_slice(&high.to_le_bytes());
    for pair in 0..4 {
        block[4 + pair] = scales[2 * pair] & 0x0F | scales[2 * pair + 1] << 4;
    }
    for (bytes, levels) in block[8..].as_chunks_mut::<16>().0.iter_mut().zip(levels.as_chunks::<32>().0) {
        for i in 0..16 {
            bytes[i] = levels[i] | levels[i + 16] << 4;
        }
    }
}
