//! Products of activations and weight matrices, in every block format.
//!
//! [`linear`] is the one entry: several matrices that read the same activations. Quantised weights are multiplied as they
//! are, as integers: an activation row is quantised to 8 bits once (`activations`), whatever number of matrices reads it.
//! The kernels know nothing of layers, attention or models. An instruction set is a module beside `portable` and a
//! [`Isa`]; `split` cuts the work among threads.
//!
//! **Invariant.** The bits of an output element depend on its weight row and its activation row only: not on the number of
//! rows, their order, the thread, the number of threads, nor the instruction set. `portable` says which order of additions
//! every kernel keeps.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod isa;
mod panel;
mod portable;
mod split;
#[cfg(target_arch = "x86_64")]
mod tiles;

use std::fmt;

use sol_compute::{ComputeError, MatrixData};
use sol_weights::{Bytes, DType};

use crate::pool::Pool;

use crate::shared::SharedMut;
use activations::{Blocks32, Blocks256, Classes};
use isa::Level;
use panel::Panel;
use split::{Block, Drawn, FEW, Grid, Queue, shares};

pub use isa::Isa;

/// What the kernels use, for people: "AVX2".
pub fn simd_name() -> &'static str {
    Isa::selected().name()
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

    /// Its bytes.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
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
    classes: Classes,
    /// One a thread.
    panels: Vec<Panel>,
    drawn: Vec<Drawn>,
}

impl Scratch {
    /// For the kernels that this process uses.
    pub fn new() -> Self {
        Self::with_isa(Isa::selected())
    }

    /// For the kernels of one instruction set: tests compare them.
    pub fn with_isa(isa: Isa) -> Self {
        Self {
            isa,
            q32: Blocks32::default(),
            q256: Blocks256::default(),
            classes: Classes::default(),
            panels: Vec::new(),
            drawn: Vec::new(),
        }
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
    let tiles = in_tiles(scratch.isa, n);
    if parts.iter().any(|part| part.matrix.dtype.block_len() == 32) {
        scratch.q32.fill(scratch.isa, pool, x, n, cols, tiles);
    }
    if parts.iter().any(|part| part.matrix.dtype.block_len() == 256) {
        scratch.q256.fill(scratch.isa, pool, x, n, cols, tiles);
    }
    let classes = by_class(scratch.isa, n) && parts.iter().any(|part| part.matrix.dtype.block_len() == 1);
    if classes {
        scratch.classes.fill(pool, x, n, cols);
    }
    scratch.panels.resize_with(pool.threads(), Panel::default);
    let (isa, q32, q256, classes) = (scratch.isa, &scratch.q32, &scratch.q256, classes.then_some(&scratch.classes));
    let panels = SharedMut::new(&mut scratch.panels);
    for parts in parts.chunks_mut(TOGETHER) {
        let mut parts = parts.iter_mut();
        let jobs: [Option<Job<'_>>; TOGETHER] = std::array::from_fn(|_| {
            let Part { matrix, bias, out } = parts.next()?;
            Some(Job { matrix, bias: *bias, x, q32, q256, classes, out: SharedMut::new(out) })
        });
        let jobs = jobs.iter().flatten();
        if n <= FEW {
            let sizes = jobs.clone().map(|job| (job.matrix.rows, job.matrix.row_bytes));
            pool.run(|thread| {
                // SAFETY: each thread uses its own panel.
                let panel = &mut unsafe { panels.slice(thread..thread + 1) }[0];
                for (job, rows) in jobs.clone().zip(shares(sizes.clone(), thread, pool.threads())) {
                    // SAFETY: the shares do not overlap.
                    unsafe { job.run(isa, Block { rows, columns: 0..n }, panel) };
                }
            });
        } else {
            let rows = jobs.clone().map(|job| job.matrix.rows);
            let tall = tiles && jobs.clone().all(|job| job.matrix.dtype.block_len() > 1);
            let most = if tall { Block::TALL } else { Block::ROWS };
            let grid = Grid::new(rows.clone(), n, pool.threads(), most);
            let queue = Queue::new(&mut scratch.drawn, grid.len(rows.clone()), pool.threads());
            pool.run(|thread| {
                // SAFETY: each thread uses its own panel.
                let panel = &mut unsafe { panels.slice(thread..thread + 1) }[0];
                while let Some((part, block)) = queue.draw(thread).and_then(|i| grid.block(i, rows.clone())) {
                    let job = jobs.clone().nth(part).expect("the grid's parts are the jobs");
                    // SAFETY: the blocks do not overlap, and each number is drawn once.
                    unsafe { job.run(isa, block, panel) };
                }
            });
        }
    }
}

/// Whether the kernels of quantised weights read `n` input rows as tiles.
fn in_tiles(isa: Isa, n: usize) -> bool {
    match isa.level() {
        #[cfg(target_arch = "x86_64")]
        Level::Amx => n > avx512::amx::WITHOUT,
        _ => false,
    }
}

/// Whether the kernels of float weights read `n` input rows as [`Classes`].
fn by_class(isa: Isa, n: usize) -> bool {
    let rows_as_they_lie = match isa.level() {
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => avx2::FLOATS_IN_PLACE,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 | Level::Amx => avx512::FLOATS_IN_PLACE,
        _ => usize::MAX,
    };
    n > rows_as_they_lie
}

/// Parts of one [`linear`] that share a region of the pool.
const TOGETHER: usize = 4;

/// One part as the kernels see it.
struct Job<'a> {
    matrix: &'a Matrix,
    bias: Option<&'a [f32]>,
    x: &'a [f32],
    q32: &'a Blocks32,
    q256: &'a Blocks256,
    /// Where the kernels want them.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "portable kernels read rows as they lie"))]
    classes: Option<&'a Classes>,
    out: SharedMut<'a, f32>,
}

impl Job<'_> {
    /// # Safety
    /// A block of this job, and no two threads may be given the same outputs.
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
    unsafe fn run(&self, isa: Isa, block: Block, panel: &mut Panel) {
        match isa.level() {
            // SAFETY: the caller's promise.
            Level::Portable => unsafe { portable::run(self, &block) },
            // SAFETY: the caller's promise, and an `Isa` is what the machine has.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { avx2::run(self, &block, panel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { avx512::run(self, &block, panel) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Level::Amx => unsafe { avx512::amx::run(self, &block, panel) },
        }
    }

    /// Where output `row` of input row `column` lies.
    ///
    /// # Safety
    /// `column < n`, `row < rows`.
    #[inline(always)]
    unsafe fn at(&self, column: usize, row: usize) -> *mut f32 {
        // SAFETY: `out` is `[n, rows]`.
        unsafe { self.out.as_ptr().add(column * self.matrix.rows + row) }
    }
}
