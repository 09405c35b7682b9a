//! Products without any special instruction: for machines that have none of the others, and the twin that the other kernels
//! are compared with, bit for bit.
//!
//! What fixes the bits of a result, here and in every other kernel:
//! - quantised weights: the integer sum of a block is exact, whatever its order; the blocks of a row are added one after the
//!   other, `acc = fma(sum, d_w * d_x, acc)`, then the minimum's term if the format has one;
//! - floats: eight sums, the column modulo 8 choosing which, one fused multiply-add a column; after each [`DEPTH`] columns
//!   they are added up by halves ([`add_up`]) and to what came before;
//! - then the bias.

use half::{bf16, f16};
use sol_weights::DType;

use super::{Block, Job, Matrix};

/// Columns of the output that share the decoding of a weight block.
const WIDTH: usize = 16;

/// Float columns that are added up together.
pub(super) const DEPTH: usize = 1024;

/// Computes a block of the output.
///
/// # Safety
/// A block of the job, and no other thread at work on it.
pub(super) unsafe fn run(job: &Job<'_>, block: &Block) {
    let matrix = job.matrix;
    for row in block.rows.clone() {
        let weights = matrix.row(row);
        for first in block.columns.clone().step_by(WIDTH) {
            let count = WIDTH.min(block.columns.end - first);
            let mut sums = [0.0; WIDTH];
            let sums = &mut sums[..count];
            match matrix.dtype() {
                DType::F32 => floats(job, weights, first, sums, |b: [u8; 4]| f32::from_le_bytes(b)),
                DType::F16 => floats(job, weights, first, sums, |b: [u8; 2]| f16::from_le_bytes(b).to_f32()),
                DType::BF16 => floats(job, weights, first, sums, |b: [u8; 2]| bf16::from_le_bytes(b).to_f32()),
                _ if matrix.dtype().block_len() == 32 => blocks32(job, matrix, weights, first, sums),
                _ => blocks256(job, matrix, weights, first, sums),
            }
            for (i, sum) in sums.iter().enumerate() {
                let value = job.bias.map_or(*sum, |bias| sum + bias[row]);
                // SAFETY: an output of this thread's block.
                unsafe { job.at(first + i, row).write(value) };
            }
        }
    }
}

/// The fixed order in which eight partial sums become one.
fn add_up(s: [f32; 8]) -> f32 {
    ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))
}

fn floats<const B: usize>(job: &Job<'_>, weights: &[u8], first: usize, sums: &mut [f32], value: impl Fn([u8; B]) -> f32) {
    let cols = job.matrix.cols();
    for (i, sum) in sums.iter_mut().enumerate() {
        let x = &job.x[(first + i) * cols..][..cols];
        for (w, x) in weights.as_chunks::<B>().0.chunks(DEPTH).zip(x.chunks(DEPTH)) {
            let mut partial = [0.0f32; 8];
            for (w, x) in w.chunks(8).zip(x.chunks(8)) {
                for lane in 0..8 {
                    // A last group of fewer than eight is filled up with zeros.
                    let (w, x) = if lane < x.len() { (value(w[lane]), x[lane]) } else { (0.0, 0.0) };
                    partial[lane] = w.mul_add(x, partial[lane]);
                }
            }
            *sum += add_up(partial);
        }
    }
}

fn blocks32(job: &Job<'_>, matrix: &Matrix, weights: &[u8], first: usize, sums: &mut [f32]) {
    let (x, blocks, dtype) = (job.q32, matrix.cols() / 32, matrix.dtype());
    for (b, block) in weights.chunks_exact(dtype.block_bytes()).enumerate() {
        let Decoded32 { q, d, min } = decode32(dtype, block);
        for (i, acc) in sums.iter_mut().enumerate() {
            let at = (first + i) * blocks + b;
            *acc = (dot(&q, &x.q.block::<32>(first + i, b)) as f32).mul_add(d * x.d[at], *acc);
            if let Some(min) = min {
                *acc = min.mul_add(x.dsum[at], *acc);
            }
        }
    }
}

fn blocks256(job: &Job<'_>, matrix: &Matrix, weights: &[u8], first: usize, sums: &mut [f32]) {
    let (x, blocks, dtype) = (job.q256, matrix.cols() / 256, matrix.dtype());
    for (b, block) in weights.chunks_exact(dtype.block_bytes()).enumerate() {
        let Decoded256 { q, scales, d, mins } = decode256(dtype, block);
        for (i, acc) in sums.iter_mut().enumerate() {
            let at = (first + i) * blocks + b;
            let xq = x.q.block::<256>(first + i, b);
            let xq = xq.as_chunks::<16>().0;
            let groups = q.as_chunks::<16>().0.iter().zip(xq).zip(scales);
            let sum: i32 = groups.map(|((q, x), scale)| i32::from(scale) * dot(q, x)).sum();
            *acc = (sum as f32).mul_add(d * x.d[at], *acc);
            if let Some((mins, dmin)) = mins {
                let sums = &x.sum16[at * 16..][..16];
                let sum: i32 = mins.iter().zip(sums).map(|(&min, &x)| i32::from(min) * i32::from(x)).sum();
                *acc = (-(sum as f32)).mul_add(dmin * x.d[at], *acc);
            }
        }
    }
}

fn dot(w: &[i8], x: &[i8]) -> i32 {
    w.iter().zip(x).map(|(&w, &x)| i32::from(w) * i32::from(x)).sum()
}

/// A block of 32: `d * q`, or `d * q + min`.
struct Decoded32 {
    q: [i8; 32],
    d: f32,
    min: Option<f32>,
}

/// A super-block of 256: `d * scale * q`, or `d * scale * q - dmin * min`, scales and minimums for each 16.
struct Decoded256 {
    q: [i8; 256],
    scales: [i8; 16],
    d: f32,
    mins: Option<([u8; 16], f32)>,
}

fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Element `i` of a block of 32 nibbles.
fn nibble(qs: &[u8], i: usize) -> u8 {
    if i < 16 { qs[i] & 15 } else { qs[i - 16] >> 4 }
}

fn decode32(dtype: DType, block: &[u8]) -> Decoded32 {
    let make = |f: &dyn Fn(usize) -> u8, offset: u8| std::array::from_fn(|i| f(i).wrapping_sub(offset) as i8);
    let fifth = |at: usize, i: usize| (block[at + i / 8] >> (i % 8) & 1) << 4;
    let (q, has_min) = match dtype {
        DType::Q4_0 => (make(&|i| nibble(&block[2..], i), 8), false),
        DType::Q4_1 => (make(&|i| nibble(&block[4..], i), 0), true),
        DType::Q5_0 => (make(&|i| nibble(&block[6..], i) | fifth(2, i), 16), false),
        DType::Q5_1 => (make(&|i| nibble(&block[8..], i) | fifth(4, i), 0), true),
        DType::Q8_0 => (make(&|i| block[2 + i], 0), false),
        DType::IQ4NL => (make(&|i| IQ4[usize::from(nibble(&block[2..], i))] as u8, 0), false),
        other => unreachable!("{other} is no format of 32-blocks"),
    };
    Decoded32 { q, d: half(block, 0), min: has_min.then(|| half(block, 2)) }
}

fn decode256(dtype: DType, block: &[u8]) -> Decoded256 {
    /// Bits of element `i`, in fields where 32 bytes hold 32 elements in their lowest bits, the next 32 in the next.
    fn bits(field: &[u8], width: usize, i: usize) -> u8 {
        let group = 256 / width;
        field[i / group * 32 + i % 32] >> (i % group / 32 * width) & ((1 << width) - 1) as u8
    }
    match dtype {
        DType::Q2K => Decoded256 {
            q: std::array::from_fn(|i| bits(&block[16..], 2, i) as i8),
            scales: std::array::from_fn(|g| (block[g] & 15) as i8),
            d: half(block, 80),
            mins: Some((std::array::from_fn(|g| block[g] >> 4), half(block, 82))),
        },
        DType::Q3K => Decoded256 {
            q: std::array::from_fn(|i| (bits(&block[32..], 2, i) | bits(block, 1, i) << 2) as i8 - 4),
            scales: std::array::from_fn(|g| {
                let low = block[96 + g % 8] >> (g / 8 * 4) & 15;
                let high = block[104 + g % 4] >> (g / 4 * 2) & 3;
                (low | high << 4) as i8 - 32
            }),
            d: half(block, 108),
            mins: None,
        },
        DType::Q4K | DType::Q5K => {
            let five = dtype == DType::Q5K;
            let qs = &block[if five { 48 } else { 16 }..];
            let pair = |g: usize| six_bits(&block[4..16], g / 2);
            Decoded256 {
                q: std::array::from_fn(|i| (bits(qs, 4, i) | if five { bits(&block[16..], 1, i) << 4 } else { 0 }) as i8),
                scales: std::array::from_fn(|g| pair(g).0 as i8),
                d: half(block, 0),
                mins: Some((std::array::from_fn(|g| pair(g).1), half(block, 2))),
            }
        }
        DType::Q6K => Decoded256 {
            q: std::array::from_fn(|i| {
                let low = block[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4) & 15;
                (low | bits(&block[128..], 2, i) << 4) as i8 - 32
            }),
            scales: std::array::from_fn(|g| block[192 + g] as i8),
            d: half(block, 208),
            mins: None,
        },
        DType::IQ4XS => {
            let high = u16::from_le_bytes([block[2], block[3]]);
            Decoded256 {
                q: std::array::from_fn(|i| IQ4[usize::from(nibble(&block[8 + i / 32 * 16..], i % 32))]),
                scales: std::array::from_fn(|g| {
                    let (low, g) = (block[4 + g / 4] >> (g / 2 % 2 * 4) & 15, g / 2);
                    (low | ((high >> (2 * g) & 3) as u8) << 4) as i8 - 32
                }),
                d: half(block, 0),
                mins: None,
            }
        }
        other => unreachable!("{other} is no format of super-blocks"),
    }
}

/// Scale and minimum of group `g` of the eight whose 6-bit numbers lie in 12 bytes.
fn six_bits(packed: &[u8], g: usize) -> (u8, u8) {
    if g < 4 {
        (packed[g] & 63, packed[g + 4] & 63)
    } else {
        let both = packed[g + 4];
        (both & 15 | packed[g - 4] >> 6 << 4, both >> 4 | packed[g] >> 6 << 4)
    }
}

/// The sixteen levels of IQ4_NL and IQ4_XS.
pub(super) const IQ4: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
