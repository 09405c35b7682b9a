use super::*;
use crate::dequantize;

const SEARCHED: [DType; 11] = [
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

/// Numbers that are distributed normally, nearly.
fn normal(count: usize) -> Vec<f32> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..count).map(|_| (0..12).map(|_| next()).sum()).collect()
}

fn encoded(dtype: DType, values: &[f32], importance: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; dtype.bytes_for(values.len()).unwrap()];
    quantize(dtype, values, importance, &mut bytes).unwrap();
    bytes
}

fn decoded(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let mut values = vec![0.0; bytes.len() / dtype.block_bytes() * dtype.block_len()];
    dequantize(dtype, bytes, &mut values).unwrap();
    values
}

/// Error relative to the size.
fn error(a: &[f32], b: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    let off: f64 = a.iter().zip(b).map(|(a, b)| square(a - b)).sum();
    (off / a.iter().map(|a| square(*a)).sum::<f64>()).sqrt()
}

#[test]
fn speed() {
    let values = normal(1 << 20);
    for dtype in SEARCHED.into_iter().chain([DType::Q8_0]) {
        let start = std::time::Instant::now();
        let bytes = encoded(dtype, &values, &[]);
        let seconds = start.elapsed().as_secs_f64();
        let back = decoded(dtype, &bytes);
        eprintln!(
            "{dtype:8} {:.6} mse {:.6e} {:.1} M/s",
            error(&values, &back),
            error(&values, &back).powi(2),
            1.048576 / seconds
        );
    }
}
