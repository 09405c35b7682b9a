//! Products of activations and weight matrices, in every block format.
//!
//! [`linear`] is the one entry: several matrices that read the same activations. Quantised weights are multiplied as they
//! are, as integers: an activation row is quantised to 8 bits once ([`activations`]), whatever number of matrices reads it.
//! The kernels know nothing of layers, attention or models.
//!
//! **Invariant.** The bits of an output element depend on its weight row and its activation row only: not on the number of
//! rows, their order, the thread, the number of threads, nor the instruction set. [`portable`] says which order of additions
//! every kernel keeps.

mod activations;
mod isa;
mod portable;
mod shared;

use std::fmt;
use std::ops::Range;

use sol_compute::{ComputeError, MatrixData};
use sol_weights::{Bytes, DType};

use crate::pool::{Pool, share};

use activations::{Blocks32, Blocks256};
use isa::Level;
use shared::SharedMut;

pub use isa::Isa;

/// What the kernels use on this machine, for people: "AVX2".
pub fn simd_name() -> &'static str {
    Isa::best().name()
}

/// A weight matrix `[rows, cols]` as it lies in its file.
pub struct Matrix {
    dtype: DType,
    rows: usize,
    cols: usize,
    row_bytes: usize,
    bytes: Bytes,
}

impl Matrix {
    /// Takes over a mapping after checking its size. Columns must fill whole blocks.
    pub fn new(data: MatrixData) -> Result<Self, ComputeError> {
        let MatrixData { dtype, rows, cols, bytes } = data;
        match dtype {
            DType::F32 | DType::F16 | DType::BF16 => {}
            DType::Q4_0 | DType::Q4_1 | DType::Q5_0 | DType::Q5_1 | DType::Q8_0 | DType::IQ4NL => {}
            DType::Q2K | DType::Q3K | DType::Q4K | DType::Q5K | DType::Q6K | DType::IQ4XS => {}
            _ => return Err(ComputeError::UnsupportedType { backend: "CPU", dtype }),
        }
        let shape = |needed: String| ComputeError::Shape { dtype, rows, cols, needed, got: bytes.len() };
        let Some(row_bytes) = dtype.bytes_for(cols) else {
            return Err(shape(format!("columns in multiples of {}", dtype.block_len())));
        };
        match row_bytes.checked_mul(rows) {
            Some(needed) if needed == bytes.len() => Ok(Self { dtype, rows, cols, row_bytes, bytes }),
            Some(needed) => Err(shape(format!("{needed} bytes"))),
            None => Err(shape("more bytes than there are addresses".into())),
        }
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Block format.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Decodes one row, as an embedding table is read.
    ///
    /// # Panics
    /// When there is no such row or `out` is not `cols` long.
    pub fn row_to_f32(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.cols);
        sol_weights::dequantize(self.dtype, self.row(row), out).expect("the constructor has checked format and length");
    }

    fn row(&self, row: usize) -> &[u8] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        &self.bytes[row * self.row_bytes..][..self.row_bytes]
    }
}

impl fmt::Debug for Matrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Matrix({} x {} {})", self.rows, self.cols, self.dtype)
    }
}

/// Work memory of [`linear`], kept between calls: it grows to what the largest call needs and is not allocated again.
pub struct Scratch {
    isa: Isa,
    q32: Blocks32,
    q256: Blocks256,
}

impl Scratch {
    /// For the best kernels of this machine.
    pub fn new() -> Self {
        Self::with_isa(Isa::best())
    }

    /// For the kernels of one instruction set: tests compare them.
    pub fn with_isa(isa: Isa) -> Self {
        Self { isa, q32: Blocks32::default(), q256: Blocks256::default() }
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// One product of several that read the same activations.
pub struct Part<'a> {
    /// The weights.
    pub matrix: &'a Matrix,
    /// Added to every row of the result.
    pub bias: Option<&'a [f32]>,
    /// `[n, matrix.rows()]`, row-major.
    pub out: &'a mut [f32],
}

/// `out = x W^T + bias` for each part, `x` being `n` rows of as many values as all the matrices have columns.
///
/// # Panics
/// When the shapes do not fit.
pub fn linear(pool: &Pool, scratch: &mut Scratch, x: &[f32], n: usize, parts: &mut [Part<'_>]) {
    let Some(cols) = parts.first().map(|part| part.matrix.cols) else { return };
    let x = &x[..n * cols];
    for part in parts.iter() {
        assert_eq!(part.matrix.cols, cols, "all parts read the same activations");
        assert_eq!(part.out.len(), n * part.matrix.rows, "{n} rows of {:?}", part.matrix);
        assert!(part.bias.is_none_or(|bias| bias.len() == part.matrix.rows), "bias of {:?}", part.matrix);
    }
    if n == 0 {
        return;
    }
    if parts.iter().any(|part| part.matrix.dtype.block_len() == 32) {
        scratch.q32.fill(pool, x, n, cols);
    }
    if parts.iter().any(|part| part.matrix.dtype.block_len() == 256) {
        scratch.q256.fill(pool, x, n, cols);
    }
    let (q32, q256) = (&scratch.q32, &scratch.q256);
    let parts: &mut [Part<'_>] = parts;
    for part in parts {
        let job = Job { matrix: part.matrix, bias: part.bias, x, q32, q256, n, out: SharedMut::new(part.out) };
        pool.run(|thread| {
            let rows = share(job.matrix.rows, 16, thread, pool.threads());
            // SAFETY: the threads' shares do not overlap.
            unsafe { job.run(scratch.isa, rows) };
        });
    }
}

/// One part as the kernels see it.
struct Job<'a> {
    matrix: &'a Matrix,
    bias: Option<&'a [f32]>,
    x: &'a [f32],
    q32: &'a Blocks32,
    q256: &'a Blocks256,
    n: usize,
    out: SharedMut<'a, f32>,
}

impl Job<'_> {
    /// # Safety
    /// No two threads may be given the same rows.
    unsafe fn run(&self, isa: Isa, rows: Range<usize>) {
        match isa.level() {
            // SAFETY: the caller's promise.
            Level::Portable => unsafe { portable::run(self, rows) },
            // SAFETY: the caller's promise.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { portable::run(self, rows) },
        }
    }

    /// Stores a finished sum: output `row` of input row `column`.
    ///
    /// # Safety
    /// `column < n`, `row < rows`, and no other thread may be at work on `row`.
    #[inline(always)]
    unsafe fn put(&self, column: usize, row: usize, sum: f32) {
        let value = self.bias.map_or(sum, |bias| sum + bias[row]);
        // SAFETY: `out` is `[n, rows]` and this thread's alone in `row`.
        unsafe { self.out.as_ptr().add(column * self.matrix.rows + row).write(value) };
    }
}
