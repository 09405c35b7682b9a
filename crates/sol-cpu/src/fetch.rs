//! Asking for memory before it is needed, at the pace of the work that is done meanwhile.
//!
//! A processor has room for few misses: while many lines are asked for at once, loads wait that it could have served. The intrinsic
//! does not do for this, as the compiler gathers those of an unrolled loop, moving loads past them; hence assembly.

/// Where a line is to be kept.
#[derive(Clone, Copy)]
pub(crate) enum Cache {
    First,
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "nothing is fetched"))]
    Second,
}

impl Cache {
    /// Where weights that come from memory are to be kept: whatever was faster on such a processor. Intel's keeps a place in the
    /// first-level cache from the asking to the coming of a line, and has few of them.
    pub(crate) fn of_weights() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::__cpuid;
            use std::sync::OnceLock;
            static FOUND: OnceLock<Cache> = OnceLock::new();
            *FOUND.get_or_init(|| {
                let vendor = __cpuid(0);
                let intel = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat() == b"GenuineIntel";
                if intel { Self::Second } else { Self::First }
            })
        }
        #[cfg(not(target_arch = "x86_64"))]
        Self::First
    }

    /// Asks for the line of `at`, about here.
    #[inline(always)]
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn line<T>(self, at: *const T) {
        use std::arch::x86_64::{_MM_HINT_T0, _MM_HINT_T1, _mm_prefetch};
        // SAFETY: fetching reads nothing and faults nowhere.
        unsafe {
            match self {
                Self::First => _mm_prefetch::<_MM_HINT_T0>(at.cast()),
                Self::Second => _mm_prefetch::<_MM_HINT_T1>(at.cast()),
            }
        }
    }

    /// Asks for the line of `at`, exactly here.
    #[inline(always)]
    pub(crate) fn line_now<T>(self, at: *const T) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        unsafe {
            match self {
                Self::First => std::arch::asm!("prefetcht0 [{}]", in(reg) at, options(nostack, preserves_flags)),
                Self::Second => std::arch::asm!("prefetcht1 [{}]", in(reg) at, options(nostack, preserves_flags)),
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = at;
    }
}

/// Weights that are fetched from a place on.
pub(crate) struct Pace {
    next: *const u8,
    cache: Cache,
    /// Bytes that were asked for, less those of the lines that were fetched: below zero where a line has more.
    due: isize,
}

impl Pace {
    const LINE: usize = 64;

    /// From `at` on, whatever the address: nothing is read.
    #[inline(always)]
    pub(crate) fn new(at: *const u8, cache: Cache) -> Self {
        Self { next: at, cache, due: 0 }
    }

    /// Asks for so many more bytes.
    #[inline(always)]
    pub(crate) fn fetch(&mut self, bytes: usize) {
        self.due += bytes as isize;
        while self.due > 0 {
            self.cache.line_now(self.next);
            self.next = self.next.wrapping_add(Self::LINE);
            self.due -= Self::LINE as isize;
        }
    }
}
