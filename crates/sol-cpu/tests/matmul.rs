//! Matrix products against an independent decoder, and against themselves in every shape, bit for bit.

use proptest::prelude::*;
use sol_compute::MatrixData;
use sol_cpu::matmul::{Isa, Matrix, Part, Scratch, linear};
use sol_cpu::pool::Pool;
use sol_weights::{Bytes, DType, dequantize};

const TYPES: [DType; 15] = [
    DType::F32,
    DType::F16,
    DType::BF16,
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q8_0,
    DType::IQ4NL,
    DType::Q2K,
    DType::Q3K,
    DType::Q4K,
    DType::Q5K,
    DType::Q6K,
    DType::IQ4XS,
];

/// Small, fast and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as u32
    }

    /// In -1..1.
    fn float(&mut self) -> f32 {
        self.next() as f32 / (1u32 << 30) as f32 - 1.0
    }
}

/// Where a block's f16 scales lie.
fn halves(dtype: DType) -> &'static [usize] {
    match dtype {
        DType::Q4_0 | DType::Q5_0 | DType::Q8_0 | DType::IQ4NL | DType::IQ4XS => &[0],
        DType::Q4_1 | DType::Q5_1 | DType::Q4K | DType::Q5K => &[0, 2],
        DType::Q2K => &[80, 82],
        DType::Q3K => &[108],
        DType::Q6K => &[208],
        _ => &[],
    }
}

/// Random bits in every field, but scales and floats of ordinary size.
fn weights(dtype: DType, rows: usize, cols: usize, random: &mut Random) -> Vec<u8> {
    let elements = rows * cols;
    let f16 = |v: f32| half::f16::from_f32(v).to_le_bytes();
    match dtype {
        DType::F32 => (0..elements).flat_map(|_| random.float().to_le_bytes()).collect(),
        DType::F16 => (0..elements).flat_map(|_| f16(random.float())).collect(),
        DType::BF16 => (0..elements).flat_map(|_| half::bf16::from_f32(random.float()).to_le_bytes()).collect(),
        _ => {
            let mut bytes: Vec<u8> = (0..dtype.bytes_for(elements).unwrap()).map(|_| random.next() as u8).collect();
            for block in bytes.chunks_exact_mut(dtype.block_bytes()) {
                for &at in halves(dtype) {
                    block[at..at + 2].copy_from_slice(&f16(random.float() / 16.0));
                }
            }
            bytes
        }
    }
}

fn matrix(dtype: DType, rows: usize, cols: usize, bytes: Vec<u8>) -> Matrix {
    Matrix::new(MatrixData { dtype, rows, cols, bytes: Bytes::from_vec(bytes) }).expect("the size fits")
}

fn product(pool: &Pool, isa: Isa, matrix: &Matrix, bias: Option<&[f32]>, x: &[f32]) -> Vec<f32> {
    let n = x.len() / matrix.cols();
    let mut out = vec![f32::NAN; n * matrix.rows()];
    linear(pool, &mut Scratch::with_isa(isa), x, n, &mut [Part { matrix, bias, out: &mut out }]);
    out
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Activations that the 8-bit form holds exactly: integers whose largest in every block of 32 is 127, times a power of 2.
fn exact_activations(n: usize, random: &mut Random) -> Vec<f32> {
    (0..n).map(|i| if i % 32 == 0 { 127.0 } else { (random.next() % 255) as f32 - 127.0 } / 64.0).collect()
}

/// `x W^T` and the sum of its terms' magnitudes, in f64 from decoded weights.
fn reference(dtype: DType, bytes: &[u8], rows: usize, cols: usize, x: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let mut w = vec![0.0; rows * cols];
    dequantize(dtype, bytes, &mut w).expect("the size fits");
    let term = |x: &[f32], w: &[f32]| -> (f64, f64) {
        let terms = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
        terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t.abs()))
    };
    x.chunks(cols).flat_map(|x| w.chunks(cols).map(move |w| term(x, w))).unzip()
}

/// The parts of a block that a column's term is a difference of (`d q - m`) may be larger than the term itself.
const CANCELLATION: f64 = 8.0;

fn check_against_decoded(dtype: DType, rows: usize, cols: usize, n: usize, isa: Isa, seed: u64) {
    let random = &mut Random(seed);
    let bytes = weights(dtype, rows, cols, random);
    let x =
        if dtype.is_quantized() { exact_activations(n * cols, random) } else { (0..n * cols).map(|_| random.float()).collect() };
    let (expected, sizes) = reference(dtype, &bytes, rows, cols, &x);
    let got = product(&Pool::new(2).unwrap(), isa, &matrix(dtype, rows, cols, bytes), None, &x);
    for (i, ((got, expected), size)) in got.iter().zip(&expected).zip(&sizes).enumerate() {
        let error = (f64::from(*got) - expected).abs();
        assert!(error <= 1e-6 * CANCELLATION * size + 1e-30, "{dtype} {isa} {rows}x{cols} n={n}: [{i}] {got}, not {expected}");
    }
}

fn cols_for(dtype: DType) -> [usize; 3] {
    match dtype.block_len() {
        1 => [1, 40, 1091],
        32 => [32, 576, 2144],
        _ => [256, 768, 2304],
    }
}

#[test]
fn products_agree_with_decoded_weights() {
    for isa in Isa::available() {
        for dtype in TYPES {
            for (i, cols) in cols_for(dtype).into_iter().enumerate() {
                for rows in [1, 7, 37] {
                    for n in [1, 3, 19] {
                        check_against_decoded(dtype, rows, cols, n, isa, i as u64);
                    }
                }
            }
        }
    }
}

#[test]
fn rounding_activations_to_8_bits_costs_what_it_must() {
    for dtype in TYPES {
        let (rows, cols, random) = (16, 768, &mut Random(5));
        let bytes = weights(dtype, rows, cols, random);
        let x: Vec<f32> = (0..2 * cols).map(|_| random.float()).collect();
        let (expected, sizes) = reference(dtype, &bytes, rows, cols, &x);
        let got = product(&Pool::new(1).unwrap(), Isa::best(), &matrix(dtype, rows, cols, bytes), None, &x);
        for ((got, expected), size) in got.iter().zip(expected).zip(sizes) {
            // Each term is off by half a step of 1/127 of the block's largest at the most, and the signs are random.
            assert!((f64::from(*got) - expected).abs() < size / 127.0, "{dtype}: {got}, not {expected}");
        }
    }
}

#[test]
fn every_instruction_set_gives_the_same_bits() {
    let pool = Pool::new(2).unwrap();
    for dtype in TYPES {
        for cols in cols_for(dtype) {
            for (rows, n) in [(1, 1), (50, 1), (19, 4), (33, 21)] {
                let random = &mut Random(rows as u64);
                let matrix = matrix(dtype, rows, cols, weights(dtype, rows, cols, random));
                let x: Vec<f32> = (0..n * cols).map(|_| random.float()).collect();
                let all = Isa::available().into_iter().map(|isa| (isa, bits(&product(&pool, isa, &matrix, None, &x))));
                let all: Vec<_> = all.collect();
                for (isa, result) in &all[1..] {
                    assert!(*result == all[0].1, "{dtype} {rows}x{cols} n={n}: {isa} differs from {}", all[0].0);
                }
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_its_neighbours_or_the_threads() {
    for isa in Isa::available() {
        for dtype in TYPES {
            let (rows, cols, random) = (139, cols_for(dtype)[2], &mut Random(9));
            let matrix = matrix(dtype, rows, cols, weights(dtype, rows, cols, random));
            let bias: Vec<f32> = (0..rows).map(|_| random.float()).collect();
            let x: Vec<f32> = (0..70 * cols).map(|_| random.float()).collect();
            let one = Pool::new(1).unwrap();
            let single: Vec<Vec<u32>> = x.chunks(cols).map(|x| bits(&product(&one, isa, &matrix, Some(&bias), x))).collect();
            for threads in [1, 2, 3, 5] {
                let pool = Pool::new(threads).unwrap();
                let counts: Vec<usize> = if isa == Isa::best() && threads < 3 { (1..=70).collect() } else { vec![1, 2, 5, 70] };
                for n in counts {
                    // Not always the first rows, so that a row meets other neighbours at other places.
                    let first = 70 - n;
                    let many = product(&pool, isa, &matrix, Some(&bias), &x[first * cols..]);
                    for (i, row) in many.chunks(rows).enumerate() {
                        assert!(bits(row) == single[first + i], "{dtype} {isa} n={n} threads={threads}: row {i} differs");
                    }
                }
            }
            // More rows than one unpacking of the weights serves.
            if isa == Isa::best() {
                let many = product(&Pool::new(2).unwrap(), isa, &matrix, Some(&bias), &x.repeat(4));
                for (i, row) in many.chunks(rows).enumerate() {
                    assert!(bits(row) == single[i % 70], "{dtype} {isa}: row {i} of 280 differs");
                }
            }
        }
    }
}

/// Blocks of all the rows that they may have, the last one smaller; more input rows than one unpacking serves.
#[test]
fn tall_matrices_give_the_bits_of_single_rows() {
    let (rows, cols, pool) = (401, 2304, Pool::new(1).unwrap());
    for isa in Isa::available() {
        for dtype in [DType::Q4_0, DType::Q4K, DType::Q6K] {
            let random = &mut Random(11);
            let matrix = matrix(dtype, rows, cols, weights(dtype, rows, cols, random));
            let bias: Vec<f32> = (0..rows).map(|_| random.float()).collect();
            let x: Vec<f32> = (0..270 * cols).map(|_| random.float()).collect();
            for n in [21, 270] {
                let many = product(&pool, isa, &matrix, Some(&bias), &x[..n * cols]);
                for i in [0, 3, 4, n - 2, n - 1] {
                    let single = product(&pool, isa, &matrix, Some(&bias), &x[i * cols..][..cols]);
                    assert!(bits(&many[i * rows..][..rows]) == bits(&single), "{dtype} {isa} n={n}: row {i} differs");
                }
            }
        }
    }
}

#[test]
fn parts_share_their_input_and_nothing_else() {
    let random = &mut Random(3);
    let cols = 768;
    let matrices: Vec<Matrix> =
        TYPES.iter().enumerate().map(|(i, &t)| matrix(t, 5 + 9 * i, cols, weights(t, 5 + 9 * i, cols, random))).collect();
    for isa in Isa::available() {
        let pool = Pool::new(3).unwrap();
        let mut scratch = Scratch::with_isa(isa);
        // Fewer rows after more: what an earlier call left in the scratch must not matter.
        for n in [33, 20, 1, 25, 6] {
            let x: Vec<f32> = (0..n * cols).map(|_| random.float()).collect();
            let mut outs: Vec<Vec<f32>> = matrices.iter().map(|m| vec![f32::NAN; n * m.rows()]).collect();
            let mut parts: Vec<Part<'_>> =
                matrices.iter().zip(&mut outs).map(|(matrix, out)| Part { matrix, bias: None, out }).collect();
            linear(&pool, &mut scratch, &x, n, &mut parts);
            for (matrix, out) in matrices.iter().zip(&outs) {
                assert_eq!(bits(out), bits(&product(&pool, isa, matrix, None, &x)), "{matrix:?} {isa} n={n}");
            }
        }
    }
}

#[test]
fn what_is_not_finite_stays_in_its_row() {
    for isa in Isa::available() {
        for dtype in TYPES {
            let (rows, cols, n, random) = (20, 768, 25, &mut Random(1));
            let matrix = matrix(dtype, rows, cols, weights(dtype, rows, cols, random));
            let mut x: Vec<f32> = (0..n * cols).map(|_| random.float()).collect();
            let pool = Pool::new(2).unwrap();
            let clean = product(&pool, isa, &matrix, None, &x);
            x[3 * cols + 400] = f32::NAN;
            x[5 * cols + 17] = f32::INFINITY;
            let got = product(&pool, isa, &matrix, None, &x);
            for (i, (got, clean)) in got.chunks(rows).zip(clean.chunks(rows)).enumerate() {
                if i == 3 || i == 5 {
                    assert!(got.iter().all(|v| !v.is_finite()), "{dtype} {isa}: {got:?}");
                } else {
                    assert_eq!(bits(got), bits(clean), "{dtype} {isa} row {i}");
                }
            }
        }
    }
}

#[test]
fn weights_of_any_bits_are_defined() {
    for isa in Isa::available() {
        for dtype in TYPES {
            let (rows, cols, random) = (18, 768, &mut Random(2));
            let bytes = (0..dtype.bytes_for(rows * cols).unwrap()).map(|_| random.next() as u8).collect();
            let matrix = matrix(dtype, rows, cols, bytes);
            for n in [1, 8, 25] {
                let x: Vec<f32> = (0..n * cols).map(|_| random.float()).collect();
                let (pool, portable) = (Pool::new(1).unwrap(), Isa::available()[0]);
                let (got, twin) = (product(&pool, isa, &matrix, None, &x), product(&pool, portable, &matrix, None, &x));
                assert!(
                    got.iter().zip(twin).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()),
                    "{dtype} {isa}"
                );
            }
        }
    }
}

/// A fault in the midst of the kernels, whatever registers are in use there.
#[test]
fn weights_that_vanish_are_noticed_and_read_as_zeros() {
    let (rows, cols, random) = (401, 2304, &mut Random(13));
    for isa in Isa::available() {
        for n in [1, 6, 40] {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), weights(DType::Q4K, rows, cols, random)).unwrap();
            let bytes = Bytes::map(file.path()).unwrap();
            let matrix = Matrix::new(MatrixData { dtype: DType::Q4K, rows, cols, bytes: bytes.clone() }).unwrap();
            let x: Vec<f32> = (0..n * cols).map(|_| random.float()).collect();
            file.as_file().set_len(256 << 10).unwrap();
            let got = product(&Pool::new(2).unwrap(), isa, &matrix, None, &x);
            assert!(bytes.intact().is_err(), "{isa} n={n}");
            assert!(got.chunks(rows).all(|row| row[0] != 0.0 && row[rows - 1] == 0.0), "{isa} n={n}");
        }
    }
}

#[test]
fn empty_shapes_are_harmless() {
    let pool = Pool::new(2).unwrap();
    for isa in Isa::available() {
        for dtype in TYPES {
            assert!(product(&pool, isa, &matrix(dtype, 0, 256, vec![]), None, &[1.0; 512]).is_empty());
            let matrix = matrix(dtype, 3, 0, vec![]);
            for n in [1, 2, 9, 25] {
                let mut out = vec![f32::NAN; 3 * n];
                let part = Part { matrix: &matrix, bias: Some(&[1.0, 2.0, 3.0]), out: &mut out };
                linear(&pool, &mut Scratch::with_isa(isa), &[], n, &mut [part]);
                assert_eq!(out, [1.0, 2.0, 3.0].repeat(n), "{dtype} {isa} n={n}");
            }
        }
        linear(&pool, &mut Scratch::with_isa(isa), &[], 0, &mut []);
    }
}

#[test]
fn sizes_that_do_not_fit_are_refused() {
    let refuse = |dtype, rows, cols, len| {
        let data = MatrixData { dtype, rows, cols, bytes: Bytes::from_vec(vec![0; len]) };
        Matrix::new(data).expect_err("refused").to_string()
    };
    assert!(refuse(DType::Q4K, 2, 300, 288).contains("multiples of 256"));
    let text = refuse(DType::Q4_1, 2, 64, 79);
    assert!(text.contains("80 bytes") && text.contains("79"), "{text}");
    assert!(refuse(DType::F32, usize::MAX, 8, 0).contains("addresses"));
    assert!(refuse(DType::I32, 1, 1, 4).contains("I32"));
}

#[test]
fn embedding_rows_are_decoded_exactly() {
    for dtype in TYPES {
        let random = &mut Random(8);
        let bytes = weights(dtype, 3, 512, random);
        let mut expected = vec![0.0; 3 * 512];
        dequantize(dtype, &bytes, &mut expected).unwrap();
        let (matrix, mut row) = (matrix(dtype, 3, 512, bytes), vec![0.0; 512]);
        matrix.row_to_f32(2, &mut row);
        assert_eq!(bits(&row), bits(&expected[1024..]), "{dtype}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn any_shape_agrees_with_decoded_weights(t in 0..TYPES.len(), rows in 1usize..70, blocks in 1usize..7, n in 1usize..40, seed: u64) {
        let cols = blocks * TYPES[t].block_len() + if TYPES[t].is_quantized() { 0 } else { seed as usize % 100 };
        check_against_decoded(TYPES[t], rows, cols, n, Isa::best(), seed);
    }
}
