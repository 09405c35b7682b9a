//! How fast numbers are put into blocks, in one thread: `cargo run --release -p sol-weights --example quantize_bench [-- Q4_0]`.

use std::time::Instant;

use sol_weights::{DType, quantize};

const TYPES: [DType; 12] = [
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
const NUMBERS: usize = 1 << 20;

fn main() -> sol_weights::Result<()> {
    // About normal: sums of twelve uniform numbers.
    let mut state = 1u32;
    let mut uniform = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 24) as f32
    };
    let values: Vec<f32> = (0..NUMBERS).map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0).collect();
    for dtype in TYPES.into_iter().filter(|t| std::env::args().nth(1).is_none_or(|n| t.name() == n)) {
        let mut bytes = vec![0; dtype.bytes_for(NUMBERS).unwrap_or(0)];
        let mut best = f64::MAX;
        for _ in 0..30 {
            let start = Instant::now();
            quantize(dtype, &values, &[], &mut bytes)?;
            best = best.min(start.elapsed().as_secs_f64());
        }
        println!("{dtype:7} {:6.1} million a second", NUMBERS as f64 / 1e6 / best);
    }
    Ok(())
}
