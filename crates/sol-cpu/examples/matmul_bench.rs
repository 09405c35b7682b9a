//! How fast matrix products are: `cargo run --release -p sol-cpu --example matmul_bench [-- THREADS [TYPE,... [ROWS,... [SHAPE]]]]`.
//!
//! One row reads weights (GB/s); many rows multiply (GOP/s, a multiply-add being two). Matrices of one shape are laid end to
//! end until they exceed the caches, as a model's layers do, so that one row meets weights that lie in memory. The median of
//! several runs is shown; to compare two builds, run them in turn.

use std::time::{Duration, Instant};

use sol_compute::MatrixData;
use sol_cpu::matmul::{Matrix, Part, Scratch, linear, simd_name};
use sol_cpu::pool::Pool;
use sol_weights::{Bytes, DType};

const TYPES: [DType; 15] = [
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::Q8_0,
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::IQ4NL,
    DType::Q2K,
    DType::Q3K,
    DType::Q4K,
    DType::Q5K,
    DType::Q6K,
    DType::IQ4XS,
];

/// More than any cache here holds.
const COLD: usize = 512 << 20;

/// Bytes that a timed run of one row reads: several milliseconds, as the best millisecond is faster than any model's.
const READ: usize = 256 << 20;

fn main() {
    let mut args = std::env::args().skip(1);
    let threads = args.next().map_or(2, |t| t.parse().expect("THREADS is a number"));
    let only = args.next().map(|t| t.to_lowercase());
    let wanted = |dtype: &DType| only.as_ref().is_none_or(|only| only.split(',').any(|o| dtype.name().to_lowercase() == o));
    let counts = args.next().unwrap_or("4,8,16,64,512".into());
    let counts: Vec<usize> = counts.split(',').map(|n| n.parse().expect("ROWS are numbers")).filter(|n| *n > 0).collect();
    let shape_of = args.next();
    let pool = Pool::new(threads).expect("threads start");
    println!("{}, {threads} threads", simd_name());
    print!("{:>7} {:>11} | {:>9} {:>9} | GOP/s:", "type", "shape", "n=1 us", "GB/s");
    counts.iter().for_each(|n| print!(" {:>9}", format!("n={n}")));
    println!();
    for dtype in TYPES.iter().filter(|t| wanted(t)) {
        for (rows, cols) in [(576, 576), (1536, 576), (576, 1536), (5120, 5120), (5120, 17920)] {
            let shown = shape_of.as_ref().is_none_or(|s| *s == format!("{rows}x{cols}"));
            if shown && cols % dtype.block_len() == 0 {
                shape(&pool, *dtype, rows, cols, &counts);
            }
        }
    }
}

fn shape(pool: &Pool, dtype: DType, rows: usize, cols: usize, counts: &[usize]) {
    let size = dtype.bytes_for(rows * cols).expect("whole blocks");
    let copies = COLD.div_ceil(size);
    let all = Bytes::from_vec(weights(dtype, size * copies));
    let matrices: Vec<Matrix> = (0..copies)
        .map(|i| {
            Matrix::new(MatrixData { dtype, rows, cols, bytes: all.slice(i * size..(i + 1) * size) }).expect("the size fits")
        })
        .collect();
    let mut scratch = Scratch::new();
    let mut seconds = |n: usize, calls: usize| {
        // As activations are: more of them small than large.
        let x = (0..n * cols).map(|i| [7919, 104_729, 1_299_709].map(|prime| (i * prime % 1009) as f32 / 504.0 - 1.0));
        let x: Vec<f32> = x.map(|three| three.iter().sum()).collect();
        let mut out = vec![0.0; n * rows];
        let mut at = 0;
        median(|| {
            for _ in 0..calls {
                let part = Part { matrix: &matrices[at % copies], bias: None, out: &mut out };
                linear(pool, &mut scratch, &x, n, &mut [part]);
                at += 1;
            }
        }) / calls as f64
    };
    let one = seconds(1, READ.div_ceil(size));
    let gops = |n: usize, seconds: f64| 2.0 * (n * rows * cols) as f64 / seconds / 1e9;
    print!("{:>7} {:>11} | {:>9.1} {:>9.2} |       ", dtype.name(), format!("{rows}x{cols}"), one * 1e6, size as f64 / one / 1e9);
    for &n in counts {
        let calls = (50_000_000 / (n * rows * cols)).max(1);
        print!(" {:>9.1}", gops(n, seconds(n, calls)));
    }
    println!();
}

/// Any bits will do but for scales, which must be finite: a byte of 0x2x in every place makes halves of about 0.01.
fn weights(dtype: DType, len: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut bytes: Vec<u8> = (0..len)
        .map(|_| {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (state >> 24) as u8
        })
        .collect();
    if dtype.is_quantized() {
        bytes.iter_mut().for_each(|b| *b = *b & 0x8F | 0x20);
    } else {
        // The top byte of every number: of the order of 1.
        let step = dtype.block_bytes();
        bytes.iter_mut().skip(step - 1).step_by(step).for_each(|b| *b = *b & 0x80 | 0x3D);
    }
    bytes
}

/// The median of as many runs as half a second allows, but five at least.
fn median(mut f: impl FnMut()) -> f64 {
    let (start, mut runs) = (Instant::now(), Vec::new());
    while runs.len() < 5 || start.elapsed() < Duration::from_millis(500) {
        let run = Instant::now();
        f();
        runs.push(run.elapsed().as_secs_f64());
    }
    runs.sort_by(f64::total_cmp);
    runs[runs.len() / 2]
}
