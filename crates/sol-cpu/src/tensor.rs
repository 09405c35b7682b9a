//! Rows of f32 on the heap.

/// Up to `capacity` rows of `cols` values, of which the first `rows` are live.
pub struct Tensor {
    data: Vec<f32>,
    cols: usize,
    rows: usize,
}

impl Tensor {
    pub(crate) fn new(capacity: usize, cols: usize) -> Self {
        Self { data: vec![0.0; capacity * cols], cols, rows: 0 }
    }

    pub(crate) fn from_row(values: &[f32]) -> Self {
        Self { data: values.to_vec(), cols: values.len(), rows: 1 }
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    pub(crate) fn cols(&self) -> usize {
        self.cols
    }

    /// All live values, row after row.
    pub(crate) fn live(&self) -> &[f32] {
        &self.data[..self.rows * self.cols]
    }

    pub(crate) fn live_mut(&mut self) -> &mut [f32] {
        &mut self.data[..self.rows * self.cols]
    }

    /// Makes `rows` rows live and gives them for writing.
    pub(crate) fn begin(&mut self, rows: usize) -> &mut [f32] {
        self.rows = rows;
        self.live_mut()
    }

    pub(crate) fn row(&self, row: usize) -> &[f32] {
        &self.live()[row * self.cols..][..self.cols]
    }
}
