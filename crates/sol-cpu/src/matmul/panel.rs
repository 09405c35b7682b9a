//! A thread's work memory: unpacked weights, kept while many input rows pass.

/// A cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Aligned memory that grows to what is asked for and stays.
#[derive(Default)]
pub(super) struct Panel(Vec<Line>);

#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "portable kernels keep nothing"))]
impl Panel {
    /// Columns of a quantised row that are unpacked at a time: a multiple of every block, and little enough for sixteen rows
    /// to stay in the first-level cache while the input passes.
    pub(super) const COLS: usize = 1024;

    /// Room for `n` of `T`.
    ///
    /// # Safety
    /// All bytes are valid as `T`.
    pub(super) unsafe fn blocks<T>(&mut self, n: usize) -> &mut [T] {
        const { assert!(align_of::<T>() <= 64) };
        let lines = (n * size_of::<T>()).div_ceil(64);
        if self.0.len() < lines {
            self.0.resize(lines, Line([0; 64]));
        }
        // SAFETY: aligned, large enough, initialised, and valid by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), n) }
    }
}
