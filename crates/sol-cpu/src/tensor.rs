//! Rows of f32 on the heap, and how threads share them.

use std::marker::PhantomData;
use std::ops::Range;

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

/// A slice of which threads write disjoint parts.
pub(crate) struct Shared<'a, T> {
    pointer: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: parts are only handed out by `part`, whose caller promises that they are disjoint.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { pointer: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// # Safety
    /// No two parts that are alive at the same time overlap.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: in bounds by the assertion, disjoint by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(range.start), range.end - range.start) }
    }
}
