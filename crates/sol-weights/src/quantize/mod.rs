//! Encoding of floats in every block format that [`dequantize`](crate::dequantize) decodes.
//!
//! Every encoder looks for the scales (and minima) with the least weighted squared error: 1. `fit` finds those of eight blocks or
//! groups at once, 2. `superblock` those of 256 numbers that share a factor, 3. `blocks`, `iq4` and `k` put them where the
//! formats want them. All of it is plain arithmetic on `lanes`, without fused or reordered operations: the bytes are the same
//! on every machine.

// Loops over lanes and elements index several arrays together.
#![allow(clippy::needless_range_loop)]

mod blocks;
mod fit;
mod iq4;
mod k;
mod lanes;
mod superblock;
#[cfg(test)]
mod tests;
mod weights;

use half::{bf16, f16};
use multiversion::multiversion;

use crate::{DType, Error, Result};
use lanes::LANES;
use weights::Alike;

/// Numbers that are encoded in one go: eight blocks of 32 or a superblock.
const TILE: usize = 256;

/// Encodes `values`, whole rows, as `dtype` into `out`.
///
/// `importance` has a weight for each column of a row, by which squared errors are multiplied (positive, 1 on average or so); an
/// empty one weighs all columns alike. Formats that are not searched for (F32, F16, BF16, Q8_0) do not use it. The numbers should be
/// finite: with others the blocks that hold them mean nothing.
///
/// Fails with [`Error::Length`] unless rows are whole blocks and `out` is their size, and with [`Error::NoEncoder`] for other
/// formats.
pub fn quantize(dtype: DType, values: &[f32], importance: &[f32], out: &mut [u8]) -> Result<()> {
    let row = if importance.is_empty() { values.len() } else { importance.len() };
    let whole = row.is_multiple_of(dtype.block_len()) && (row == 0 || values.len().is_multiple_of(row));
    if dtype.bytes_for(values.len()).filter(|_| whole) != Some(out.len()) {
        return Err(match dtype.block_bytes() {
            0 => Error::NoEncoder(dtype),
            _ => Error::Length { dtype, elements: values.len(), bytes: out.len() },
        });
    }
    match dtype {
        DType::F32 => each(values, out, |x: &[f32; 1], b: &mut [u8; 4]| *b = x[0].to_le_bytes()),
        DType::F16 => each(values, out, |x: &[f32; 1], b: &mut [u8; 2]| *b = f16::from_f32(x[0]).to_le_bytes()),
        DType::BF16 => each(values, out, |x: &[f32; 1], b: &mut [u8; 2]| *b = bf16::from_f32(x[0]).to_le_bytes()),
        DType::Q8_0 => q8_0(values, out),
        DType::Q4_0 => q4_0(values, importance, out),
        DType::Q4_1 => q4_1(values, importance, out),
        DType::Q5_0 => q5_0(values, importance, out),
        DType::Q5_1 => q5_1(values, importance, out),
        DType::IQ4NL => iq4_nl(values, importance, out),
        DType::Q2K => q2_k(values, importance, out),
        DType::Q3K => q3_k(values, importance, out),
        DType::Q4K => q4_k(values, importance, out),
        DType::Q5K => q5_k(values, importance, out),
        DType::Q6K => q6_k(values, importance, out),
        DType::IQ4XS => iq4_xs(values, importance, out),
        _ => return Err(Error::NoEncoder(dtype)),
    }
    Ok(())
}

/// Calls `encode` on each block of N numbers and B bytes.
#[inline(always)]
fn each<const N: usize, const B: usize>(values: &[f32], out: &mut [u8], encode: impl Fn(&[f32; N], &mut [u8; B])) {
    for (x, block) in values.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        encode(x, block);
    }
}

/// Calls `encode` on each tile and its blocks.
#[inline(always)]
fn tiles<const B: usize>(values: &[f32], out: &mut [u8], blocks: usize, mut encode: impl FnMut(&[f32], &mut [[u8; B]])) {
    for (x, blocks) in values.chunks(TILE).zip(out.as_chunks_mut().0.chunks_mut(blocks)) {
        encode(x, blocks);
    }
}

/// Calls `encode` on each tile, its weights and its blocks.
#[inline(always)]
fn weighed_tiles<const B: usize>(
    values: &[f32],
    importance: &[f32],
    out: &mut [u8],
    blocks: usize,
    encode: impl Fn(&[f32], &[f32; TILE], &mut [[u8; B]]),
) {
    let mut weights = [1.0; TILE];
    let mut column = 0;
    tiles(values, out, blocks, |x, blocks| {
        // A tile of small blocks may begin in one row and end in another.
        for weights in weights.as_chunks_mut::<{ blocks::LEN }>().0.iter_mut().take(x.len() / blocks::LEN) {
            weights.copy_from_slice(&importance[column..][..blocks::LEN]);
            column = if column + blocks::LEN == importance.len() { 0 } else { column + blocks::LEN };
        }
        encode(x, &weights, blocks);
    });
}

#[multiversion(targets("x86_64+avx2"))]
fn q8_0(values: &[f32], out: &mut [u8]) {
    each(values, out, blocks::q8_0);
}

/// Formats of blocks of 32.
macro_rules! small {
    ($($name:ident)*) => {$(
        #[multiversion(targets("x86_64+avx2+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2"))]
        fn $name(values: &[f32], importance: &[f32], out: &mut [u8]) {
            if importance.is_empty() {
                tiles(values, out, LANES, |x, out| blocks::$name(&blocks::eight(x, Alike), out));
            } else {
                weighed_tiles(values, importance, out, LANES, |x, w, out| blocks::$name(&blocks::eight(x, w), out));
            }
        }
    )*};
}

/// Formats of blocks of 32 with a scale alone: errors weigh as the magnitudes of their numbers. Their levels are so few that to
/// weigh all alike cuts off the largest numbers, which costs more perplexity than it saves error (`docs/performance.md`).
macro_rules! small_by_magnitude {
    ($($name:ident)*) => {$(
        #[multiversion(targets("x86_64+avx2+avx512f+avx512vl+avx512bw+avx512dq", "x86_64+avx2"))]
        fn $name(values: &[f32], importance: &[f32], out: &mut [u8]) {
            if importance.is_empty() {
                tiles(values, out, LANES, |x, out| blocks::$name(&blocks::eight(x, Alike).by_magnitude(), out));
            } else {
                weighed_tiles(values, importance, out, LANES, |x, w, out| {
                    blocks::$name(&blocks::eight(x, w).by_magnitude(), out);
                });
            }
        }
    )*};
}

/// Formats of superblocks.
macro_rules! large {
    ($($name:ident)*) => {$(
        #[multiversion(targets("x86_64+avx2"))]
        fn $name(values: &[f32], importance: &[f32], out: &mut [u8]) {
            if importance.is_empty() {
                each(values, out, |x, block| k::$name(x, Alike, block));
            } else {
                weighed_tiles(values, importance, out, 1, |x, w, out| {
                    if let (Some(x), [block]) = (x.first_chunk(), out) {
                        k::$name(x, w, block);
                    }
                });
            }
        }
    )*};
}

small!(q4_1 q5_1 iq4_nl);
small_by_magnitude!(q4_0 q5_0);
large!(q2_k q3_k q4_k q5_k q6_k iq4_xs);
