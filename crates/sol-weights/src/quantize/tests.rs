//! Against the decoders, which are bit-equal to those of the gguf package, and against the errors of llama.cpp's encoders.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::dequantize;

const ALL: [DType; 12] = [
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

fn there_and_back(dtype: DType, values: &[f32], importance: &[f32]) -> Vec<f32> {
    decoded(dtype, &encoded(dtype, values, importance))
}

/// Squared error in proportion to the squares.
fn error(a: &[f32], b: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x) * f64::from(x);
    a.iter().zip(b).map(|(a, b)| square(a - b)).sum::<f64>() / a.iter().map(|a| square(*a)).sum::<f64>()
}

/// The numbers that `xtools/make_quantize_fixtures.py` makes too: sums of twelve uniform ones, which are nearly normal, and with
/// `tails` divided by another, which makes some of them large.
fn numbers(count: usize, tails: bool) -> Vec<f32> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32
    };
    let mut number = || {
        let sum: f32 = (0..12).map(|_| next() - 0.5).sum();
        if tails { sum / (next() + 0.25) } else { sum }
    };
    (0..count).map(|_| number()).collect()
}

/// What llama.cpp's encoders lose of 128 rows of 256 of both kinds.
const LLAMA_CPP: [(DType, f64, f64); 12] = include!("tests_llama_cpp.in");

#[test]
fn errors_are_no_larger_than_llama_cpps() {
    for (dtype, normal, tails) in LLAMA_CPP {
        for (values, expected) in [(numbers(1 << 15, false), normal), (numbers(1 << 15, true), tails)] {
            let found = error(&values, &there_and_back(dtype, &values, &[]));
            eprintln!("{dtype:7} {found:.4e}, llama.cpp {expected:.4e}: {:.3}", expected / found);
            assert!(found <= expected * 1.001, "{dtype}: {found:e}, but llama.cpp {expected:e}");
        }
    }
}

/// The search is a wider one where weights are given.
#[test]
fn weights_that_are_all_alike_do_no_harm() {
    let values = numbers(1 << 13, true);
    for dtype in ALL {
        let [without, with] = [&[][..], &[1.0; 512]].map(|weights| error(&values, &there_and_back(dtype, &values, weights)));
        assert!(with <= 1.001 * without && with >= 0.98 * without, "{dtype}: {with} {without}");
    }
}

#[test]
fn columns_that_matter_more_lose_less() {
    let values = numbers(1 << 15, false);
    let importance: Vec<f32> = (0..512).map(|i| if i % 8 == 0 { 6.0 } else { 0.25 }).collect();
    let weighed = |back: &[f32]| {
        let each = values.iter().zip(back).enumerate();
        each.map(|(i, (a, b))| f64::from(importance[i % 512]) * f64::from(a - b).powi(2)).sum::<f64>()
    };
    for dtype in ALL.into_iter().skip(1) {
        let (with, without) = (there_and_back(dtype, &values, &importance), there_and_back(dtype, &values, &[]));
        assert!(weighed(&with) < 0.9 * weighed(&without), "{dtype}: {} {}", weighed(&with), weighed(&without));
    }
}

/// So that rows can be shared among threads.
#[test]
fn blocks_do_not_depend_on_their_neighbours() {
    let values = numbers(1 << 12, true);
    let importance = numbers(1 << 9, false).iter().map(|x| x.abs() + 0.1).collect::<Vec<_>>();
    for dtype in ALL {
        let whole = encoded(dtype, &values, &importance);
        let parts: Vec<u8> = values.chunks(512).flat_map(|row| encoded(dtype, row, &importance)).collect();
        assert!(whole == parts, "{dtype}");
    }
    let row = &values[..5 * 32];
    for dtype in &ALL[..6] {
        let blocks: Vec<u8> = row.chunks(32).flat_map(|block| encoded(*dtype, block, &[])).collect();
        assert!(encoded(*dtype, row, &[]) == blocks, "{dtype}");
    }
}

#[test]
fn rows_that_are_all_alike_keep_their_value() {
    for value in [0.0, 1.0, -0.37, 1e-3] {
        for dtype in ALL {
            let back = there_and_back(dtype, &[value; 512], &[]);
            // Scales of superblocks are shared in parts, which for a thousandth are as small as the steps of halves.
            let most = if value == 1e-3 { 0.02 } else { 0.002 };
            assert!(back.iter().all(|x| (x - value).abs() <= most * value.abs()), "{dtype} {value}: {}", back[0]);
        }
    }
}

/// Down to where scales vanish in half precision, and up to where they have no more.
#[test]
fn numbers_of_any_size_are_encoded() {
    for scale in [1e-3, 1e-5, 1e3] {
        let values: Vec<f32> = numbers(1 << 12, false).iter().map(|x| x * scale).collect();
        for dtype in ALL {
            let found = error(&values, &there_and_back(dtype, &values, &[]));
            // Where the steps of half precision are as large as the numbers, most is lost.
            let bound = if scale < 1e-4 { 0.5 } else { 1.5 * LLAMA_CPP.iter().find(|known| known.0 == dtype).unwrap().1 };
            assert!(found < bound, "{dtype} {scale:e}: {found}");
        }
    }
    for scale in [1e-20, 1e-39, 1e20, 3e38] {
        let values: Vec<f32> = numbers(1 << 10, false).iter().map(|x| (x * scale).clamp(f32::MIN, f32::MAX)).collect();
        for dtype in ALL {
            let back = there_and_back(dtype, &values, &[]);
            assert!(back.iter().all(|x| x.is_finite()), "{dtype} {scale:e}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let encode = |dtype, elements, importance: usize, bytes| {
        quantize(dtype, &vec![0.0; elements], &vec![1.0; importance], &mut vec![0; bytes])
    };
    assert!(matches!(encode(DType::Q4_0, 31, 0, 18), Err(Error::Length { .. })));
    assert!(matches!(encode(DType::Q4_0, 32, 0, 17), Err(Error::Length { .. })));
    assert!(matches!(encode(DType::Q4_0, 64, 48, 36), Err(Error::Length { .. })));
    assert!(matches!(encode(DType::Q4K, 512, 128, 288), Err(Error::Length { .. })));
    assert!(matches!(encode(DType::I32, 4, 0, 16), Err(Error::NoEncoder(DType::I32))));
    assert!(matches!(encode(DType::Other(16), 256, 0, 66), Err(Error::NoEncoder(_))));
    assert!(matches!(encode(DType::Other(99), 256, 0, 66), Err(Error::NoEncoder(_))));
    for dtype in ALL.into_iter().chain([DType::F32, DType::F16, DType::BF16]) {
        encode(dtype, 0, 0, 0).unwrap();
    }
}

#[test]
fn floats_are_rounded() {
    let values = [1.0, -2.5, 65504.0, 1e-8, 0.1];
    for (dtype, most) in [(DType::F32, 0.0), (DType::F16, 5e-4), (DType::BF16, 4e-3)] {
        for (x, y) in values.iter().zip(there_and_back(dtype, &values, &[])) {
            assert!((x - y).abs() <= most * x.abs() + 3e-8 * most.min(1.0).signum(), "{dtype} {x} {y}");
        }
    }
}

proptest! {
    /// Whatever the bits are, nothing panics; and finite numbers of a sane size come back finite.
    #[test]
    fn any_bits_are_encoded(bits in vec(any::<u32>(), 256), weights in vec(0.0f32..10.0, 256)) {
        let values: Vec<f32> = bits.iter().map(|bits| f32::from_bits(*bits)).collect();
        let tame: Vec<f32> = values.iter().map(|x| if x.is_finite() { x.clamp(-1e4, 1e4) } else { 0.0 }).collect();
        for dtype in ALL {
            encoded(dtype, &values, &weights);
            prop_assert!(there_and_back(dtype, &tame, &weights).iter().all(|x| x.is_finite()));
        }
    }

    /// What a format can hold comes back nearly as it was, where the first and last of its levels are in use.
    #[test]
    fn what_was_decoded_is_encoded_again(bytes in vec(any::<u8>(), 8 * 34)) {
        for dtype in [DType::Q8_0, DType::Q4_0, DType::Q4_1, DType::Q5_0, DType::Q5_1] {
            let mut bytes = bytes[..8 * dtype.block_bytes()].to_vec();
            for block in bytes.chunks_mut(dtype.block_bytes()) {
                block[..2].copy_from_slice(&half::f16::from_f32(0.25).to_le_bytes());
                let quants = block.len() - 16;
                match dtype {
                    DType::Q8_0 => block[2..].iter_mut().for_each(|q| *q = (*q).max(0x81)),
                    DType::Q5_0 => (block[2], block[4]) = (block[2] & 0xFE, block[4] | 1),
                    DType::Q5_1 => (block[4], block[6]) = (block[4] & 0xFE, block[6] | 1),
                    _ => {}
                }
                if dtype == DType::Q8_0 { block[2] = 0x7F } else { block[quants] = 0xF0 }
                if matches!(dtype, DType::Q4_1 | DType::Q5_1) {
                    block[2..4].copy_from_slice(&half::f16::from_f32(-1.5).to_le_bytes());
                }
            }
            let values = decoded(dtype, &bytes);
            prop_assert!(error(&values, &there_and_back(dtype, &values, &[])) < 1e-4, "{}", dtype);
        }
    }
}
