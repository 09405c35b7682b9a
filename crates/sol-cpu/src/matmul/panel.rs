//! A thread's work memory: unpacked weights, kept while many input rows pass.

/// A cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line([u8; 64]);

impl Line {
    pub(super) const ZERO: Self = Self([0; 64]);
}

// SAFETY: bytes without padding, any of which may be zero.
unsafe impl bytemuck::Zeroable for Line {}
// SAFETY: as above.
unsafe impl bytemuck::Pod for Line {}

/// Aligned memory that grows to what is asked for and stays.
#[derive(Default)]
pub(super) struct Panel {
    weights: Vec<Line>,
    sums: Vec<Line>,
}

#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "portable kernels keep nothing"))]
impl Panel {
    /// Columns of a quantised row that are unpacked at a time where many input rows pass: a multiple of every block, and little
    /// enough for sixteen rows to stay in the first-level cache.
    pub(super) const COLS: usize = 1024;

    /// Room for `n` of `T`.
    ///
    /// # Safety
    /// All bytes are valid as `T`.
    pub(super) unsafe fn blocks<T>(&mut self, n: usize) -> &mut [T] {
        // SAFETY: the caller's promise.
        unsafe { Self::room(&mut self.weights, n) }
    }

    /// Room for `n` of `T` and, for the sums between one piece of a row and the next, `m` of `S`: one after the other, where
    /// those of the output lie a row apart, all too often at the same place of a page.
    ///
    /// # Safety
    /// All bytes are valid as `T` and as `S`.
    pub(super) unsafe fn with_sums<T, S>(&mut self, n: usize, m: usize) -> (&mut [T], &mut [S]) {
        // SAFETY: the caller's promise.
        unsafe { (Self::room(&mut self.weights, n), Self::room(&mut self.sums, m)) }
    }

    /// # Safety
    /// All bytes are valid as `T`.
    unsafe fn room<T>(lines: &mut Vec<Line>, n: usize) -> &mut [T] {
        const { assert!(align_of::<T>() <= 64) };
        let wanted = (n * size_of::<T>()).div_ceil(64);
        if lines.len() < wanted {
            lines.resize(wanted, Line::ZERO);
        }
        // SAFETY: aligned, large enough, initialised, and valid by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), n) }
    }
}
