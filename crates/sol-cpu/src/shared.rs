//! A buffer that the threads of a region write, each its own part.

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice that several threads hold.
pub(crate) struct SharedMut<'a, T> {
    start: *mut T,
    len: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: it gives access to `T`s of a slice that it borrows mutably, and only through unsafe functions whose callers promise
// not to touch the same element from two threads.
unsafe impl<T: Send> Sync for SharedMut<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for SharedMut<'_, T> {}

impl<'a, T> SharedMut<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { start: slice.as_mut_ptr(), len: slice.len(), lifetime: PhantomData }
    }

    /// # Safety
    /// While the result lives nobody else may hold any of its elements.
    #[allow(clippy::mut_from_ref, reason = "the caller promises exclusiveness")]
    pub(crate) unsafe fn slice(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: in bounds, and exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    pub(crate) fn as_ptr(&self) -> *mut T {
        self.start
    }
}
