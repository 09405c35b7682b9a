//! Asking for memory before it is needed, at the pace of the work that is done meanwhile.
//!
//! A processor has room for few misses: while many lines are asked for at once, loads wait that it could have served. The intrinsic
//! does not do for this, as the compiler gathers those of an unrolled loop, moving loads past them; hence assembly.

/// Memory that is fetched from a place on.
pub(crate) struct Pace {
    next: *const u8,
    /// Bytes that were asked for, less those of the lines that were fetched: below zero where a line has more.
    due: isize,
}

impl Pace {
    const LINE: usize = 64;

    /// From `at` on, whatever the address: nothing is read.
    #[inline(always)]
    pub(crate) fn new(at: *const u8) -> Self {
        Self { next: at, due: 0 }
    }

    /// Asks for so many more bytes.
    #[inline(always)]
    pub(crate) fn fetch(&mut self, bytes: usize) {
        self.due += bytes as isize;
        while self.due > 0 {
            first(self.next);
            self.next = self.next.wrapping_add(Self::LINE);
            self.due -= Self::LINE as isize;
        }
    }
}

/// Asks for the line of `at`, into the first-level cache.
#[inline(always)]
pub(crate) fn first<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: fetching reads nothing and faults nowhere.
    unsafe {
        std::arch::asm!("prefetcht0 [{}]", in(reg) at, options(nostack, preserves_flags));
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Asks for the line of `at`, into the second-level cache.
#[inline(always)]
#[cfg(target_arch = "x86_64")]
pub(crate) fn second<T>(at: *const T) {
    // SAFETY: fetching reads nothing and faults nowhere.
    unsafe {
        std::arch::asm!("prefetcht1 [{}]", in(reg) at, options(nostack, preserves_flags));
    }
}
