//! Decoding of every stored format to f32, block by block.
//!
//! The results are bit-equal to those of the `gguf` Python package: every product and sum here is rounded in the same
//! order as there. This is the reference that faster kernels are compared with; it is written to be read.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::{DType, Error, Result};

/// Decodes `bytes` of `dtype` into `out`.
///
/// Fails with [`Error::Length`] unless `bytes` are exactly the blocks of `out.len()` elements, and with
/// [`Error::NoDecoder`] for integers and for types this crate only lists.
pub fn dequantize(dtype: DType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    let length = || Error::Length { dtype, elements: out.len(), bytes: bytes.len() };
    match dtype.bytes_for(out.len()) {
        Some(need) if need == bytes.len() => {}
        None if dtype.block_bytes() == 0 => return Err(Error::NoDecoder(dtype)),
        _ => return Err(length()),
    }
    match dtype {
        DType::F64 => blocks(bytes, out, |b: &[u8; 8], y: &mut [f32; 1]| y[0] = f64::from_le_bytes(*b) as f32),
        DType::F32 => blocks(bytes, out, |b: &[u8; 4], y: &mut [f32; 1]| y[0] = f32::from_le_bytes(*b)),
        DType::F16 => halves(bytes, out),
        DType::BF16 => blocks(bytes, out, |b: &[u8; 2], y: &mut [f32; 1]| y[0] = bf16::from_le_bytes(*b).to_f32()),
        DType::F8E4M3 => blocks(bytes, out, |b: &[u8; 1], y: &mut [f32; 1]| y[0] = f8_e4m3(b[0])),
        DType::Q4_0 => blocks(bytes, out, q4_0),
        DType::Q4_1 => blocks(bytes, out, q4_1),
        DType::Q5_0 => blocks(bytes, out, q5_0),
        DType::Q5_1 => blocks(bytes, out, q5_1),
        DType::Q8_0 => blocks(bytes, out, q8_0),
        DType::Q2K => blocks(bytes, out, q2_k),
        DType::Q3K => blocks(bytes, out, q3_k),
        DType::Q4K => blocks(bytes, out, q4_k),
        DType::Q5K => blocks(bytes, out, q5_k),
        DType::Q6K => blocks(bytes, out, q6_k),
        DType::IQ4NL => blocks(bytes, out, iq4_nl),
        DType::IQ4XS => blocks(bytes, out, iq4_xs),
        DType::Bool
        | DType::I8
        | DType::I16
        | DType::I32
        | DType::I64
        | DType::U8
        | DType::U16
        | DType::U32
        | DType::U64
        | DType::Other(_) => return Err(Error::NoDecoder(dtype)),
    }
    Ok(())
}

/// Calls `decode` on each block of B bytes and N elements.
fn blocks<const B: usize, const N: usize>(bytes: &[u8], out: &mut [f32], decode: impl Fn(&[u8; B], &mut [f32; N])) {
    for (block, y) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        decode(block, y);
    }
}

/// F16, as many at once as the machine has an instruction for.
fn halves(bytes: &[u8], out: &mut [f32]) {
    const RUN: usize = 64;
    for (bytes, out) in bytes.as_chunks().0.chunks(RUN).zip(out.chunks_mut(RUN)) {
        let mut run = [f16::ZERO; RUN];
        for (half, bytes) in run.iter_mut().zip(bytes) {
            *half = f16::from_le_bytes(*bytes);
        }
        run[..out.len()].convert_to_f32_slice(out);
    }
}

/// The f16 at byte `at`.
fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn low(byte: u8) -> u8 {
    byte & 0x0F
}

fn high(byte: u8) -> u8 {
    byte >> 4
}

/// Four exponent bits, three of mantissa, no infinity: all ones is NaN.
fn f8_e4m3(bits: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 0x0F), f32::from(bits & 0x07));
    let magnitude = match (exponent, bits & 0x07) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-9),
        _ => (8.0 + mantissa) * 2f32.powi(exponent - 10),
    };
    if bits & 0x80 == 0 { magnitude } else { -magnitude }
}

// In blocks of 32, byte i holds element i in its low half and element i + 16 in its high half.

fn q4_0(block: &[u8; 18], y: &mut [f32; 32]) {
    let d = half(block, 0);
    for (i, &q) in block[2..].iter().enumerate() {
        y[i] = d * (f32::from(low(q)) - 8.0);
        y[i + 16] = d * (f32::from(high(q)) - 8.0);
    }
}

fn q4_1(block: &[u8; 20], y: &mut [f32; 32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    for (i, &q) in block[4..].iter().enumerate() {
        y[i] = d * f32::from(low(q)) + m;
        y[i + 16] = d * f32::from(high(q)) + m;
    }
}

/// The 32 five-bit numbers of Q5_0 and Q5_1: four low bits each in `qs`, the fifth in `qh`.
fn five_bits(qh: &[u8], qs: &[u8]) -> [f32; 32] {
    let bit = |i: usize| (qh[i / 8] >> (i % 8) & 1) << 4;
    std::array::from_fn(|i| f32::from(bit(i) | if i < 16 { low(qs[i]) } else { high(qs[i - 16]) }))
}

fn q5_0(block: &[u8; 22], y: &mut [f32; 32]) {
    let d = half(block, 0);
    *y = five_bits(&block[2..6], &block[6..]).map(|q| d * (q - 16.0));
}

fn q5_1(block: &[u8; 24], y: &mut [f32; 32]) {
    let (d, m) = (half(block, 0), half(block, 2));
    *y = five_bits(&block[4..8], &block[8..]).map(|q| d * q + m);
}

fn q8_0(block: &[u8; 34], y: &mut [f32; 32]) {
    let d = half(block, 0);
    *y = std::array::from_fn(|i| f32::from(block[2 + i] as i8) * d);
}

// Superblocks of 256. In all of them 32 consecutive bytes of packed bits hold 32 consecutive elements in their lowest
// bits, the next 32 elements in the next bits, and so on: element i of a field of `bits` bits is as below.

/// The `bits` bits of element `i`: byte i % 32 of the group of 32 bytes that holds 256 / bits ... elements.
fn packed(field: &[u8], bits: usize, i: usize) -> u8 {
    let per_group = 32 * (8 / bits);
    let (group, within) = (i / per_group, i % per_group);
    let shift = within / 32 * bits;
    field[group * 32 + within % 32] >> shift & ((1 << bits) - 1) as u8
}

fn q2_k(block: &[u8; 84], y: &mut [f32; 256]) {
    let (scales, qs) = (&block[..16], &block[16..80]);
    let (d, dmin) = (half(block, 80), half(block, 82));
    for (i, y) in y.iter_mut().enumerate() {
        let scale = scales[i / 16];
        let (dl, ml) = (d * f32::from(low(scale)), dmin * f32::from(high(scale)));
        *y = dl * f32::from(packed(qs, 2, i)) - ml;
    }
}

fn q3_k(block: &[u8; 110], y: &mut [f32; 256]) {
    let (high_bits, qs, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half(block, 108);
    // Sixteen six-bit scales: their low nibbles in bytes 0..8 (low halves first), their high pairs of bits in 8..12.
    let scale = |j: usize| {
        let low4 = if j < 8 { low(scales[j]) } else { high(scales[j - 8]) };
        let high2 = scales[8 + j % 4] >> (j / 4 * 2) & 3;
        f32::from(low4 | high2 << 4) - 32.0
    };
    for (j, y) in y.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let dl = d * scale(j);
        for (k, y) in y.iter_mut().enumerate() {
            let i = j * 16 + k;
            // A set bit means that 4 is NOT subtracted.
            let q = packed(qs, 2, i) as i8 - 4 * (1 - packed(high_bits, 1, i) as i8);
            *y = dl * f32::from(q);
        }
    }
}

/// Scale and minimum of each group of 32 in Q4_K and Q5_K: six bits each, packed in twelve bytes.
fn scale_and_min(packed: &[u8], group: usize) -> (f32, f32) {
    let (scale, min) = if group < 4 {
        (packed[group] & 0x3F, packed[group + 4] & 0x3F)
    } else {
        let (scale_top, min_top, both) = (packed[group - 4], packed[group], packed[group + 4]);
        (low(both) | scale_top >> 6 << 4, high(both) | min_top >> 6 << 4)
    };
    (scale.into(), min.into())
}

fn q4_k(block: &[u8; 144], y: &mut [f32; 256]) {
    let (d, dmin) = (half(block, 0), half(block, 2));
    let (scales, qs) = (&block[4..16], &block[16..]);
    for (group, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scale_and_min(scales, group);
        let (dl, ml) = (d * scale, dmin * min);
        for (k, y) in y.iter_mut().enumerate() {
            *y = dl * f32::from(packed(qs, 4, group * 32 + k)) - ml;
        }
    }
}

fn q5_k(block: &[u8; 176], y: &mut [f32; 256]) {
    let (d, dmin) = (half(block, 0), half(block, 2));
    let (scales, high_bits, qs) = (&block[4..16], &block[16..48], &block[48..]);
    for (group, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let (scale, min) = scale_and_min(scales, group);
        let (dl, ml) = (d * scale, dmin * min);
        for (k, y) in y.iter_mut().enumerate() {
            let i = group * 32 + k;
            *y = dl * f32::from(packed(qs, 4, i) | packed(high_bits, 1, i) << 4) - ml;
        }
    }
}

fn q6_k(block: &[u8; 210], y: &mut [f32; 256]) {
    let (ql, qh, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half(block, 208);
    for (j, y) in y.as_chunks_mut::<16>().0.iter_mut().enumerate() {
        let dl = d * f32::from(scales[j] as i8);
        for (k, y) in y.iter_mut().enumerate() {
            let i = j * 16 + k;
            // Unlike the other fields, the low nibbles come in groups of 64 bytes: two runs of 32 in the low halves first.
            let byte = ql[i / 128 * 64 + i % 64];
            let nibble = if i % 128 < 64 { low(byte) } else { high(byte) };
            *y = dl * f32::from((nibble | packed(qh, 2, i) << 4) as i8 - 32);
        }
    }
}

/// The sixteen levels of IQ4_NL and IQ4_XS.
pub(crate) const IQ4_LEVELS: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

fn iq4_level(index: u8) -> f32 {
    f32::from(IQ4_LEVELS[usize::from(index)])
}

fn iq4_nl(block: &[u8; 18], y: &mut [f32; 32]) {
    let d = half(block, 0);
    for (i, &q) in block[2..].iter().enumerate() {
        y[i] = d * iq4_level(low(q));
        y[i + 16] = d * iq4_level(high(q));
    }
}

fn iq4_xs(block: &[u8; 136], y: &mut [f32; 256]) {
    let d = half(block, 0);
    let scales_high = u16::from_le_bytes([block[2], block[3]]);
    let (scales_low, qs) = (&block[4..8], &block[8..]);
    for (group, y) in y.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        let low4 = scales_low[group / 2] >> (group % 2 * 4) & 0x0F;
        let high2 = (scales_high >> (2 * group) & 3) as u8;
        let dl = d * (f32::from(low4 | high2 << 4) - 32.0);
        for (i, &q) in qs[group * 16..][..16].iter().enumerate() {
            y[i] = dl * iq4_level(low(q));
            y[i + 16] = dl * iq4_level(high(q));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_must_agree() {
        assert!(matches!(dequantize(DType::Q4_0, &[0; 18], &mut [0.0; 31]), Err(Error::Length { .. })));
        assert!(matches!(dequantize(DType::Q4_0, &[0; 17], &mut [0.0; 32]), Err(Error::Length { .. })));
        assert!(matches!(dequantize(DType::I32, &[0; 4], &mut [0.0; 1]), Err(Error::NoDecoder(DType::I32))));
        assert!(matches!(dequantize(DType::Other(16), &[0; 66], &mut [0.0; 256]), Err(Error::NoDecoder(_))));
        assert!(matches!(dequantize(DType::Other(99), &[0; 66], &mut [0.0; 256]), Err(Error::NoDecoder(_))));
        dequantize(DType::Q6K, &[], &mut []).unwrap();
    }

    #[test]
    fn f8_e4m3_at_its_corners() {
        // The values of the OCP 8-bit floating point specification.
        for (bits, value) in
            [(0x00, 0.0), (0x01, 0.001953125), (0x07, 0.013671875), (0x08, 0.015625), (0x38, 1.0), (0x7E, 448.0), (0xB8, -1.0)]
        {
            assert_eq!(f8_e4m3(bits), value, "{bits:#x}");
        }
        assert!(f8_e4m3(0x7F).is_nan() && f8_e4m3(0xFF).is_nan());
        assert!(f8_e4m3(0x80).is_sign_negative());
    }
}
