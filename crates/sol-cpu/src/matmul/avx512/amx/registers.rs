//! The tile registers and what is done with them, in assembly, as the compiler's functions for it are not stable.
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18, "Programming with Intel AMX".

use std::arch::asm;
use std::arch::x86_64::*;

/// Whether this process may use them: the machine has tiles and products of 8-bit numbers, and the system lets it.
pub(in crate::matmul) fn available() -> bool {
    const TILE_INT8: u32 = 1 << 24 | 1 << 25;
    let features = __cpuid_count(7, 0).edx;
    features & TILE_INT8 == TILE_INT8 && permitted()
}

/// Linux keeps room for a thread's tiles only where a process has asked for it.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_int = 18;
    // SAFETY: it takes two numbers. Where it is not known, or refused, it says so.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// Bytes of a row of a tile.
pub(super) const ROW: usize = 64;

/// A tile of 32-bit sums, a row an input row.
#[repr(C, align(64))]
pub(super) struct Sums([[u8; ROW]; 16]);

impl Sums {
    /// The sums of an input row.
    ///
    /// # Safety
    /// The machine has AVX-512.
    #[inline(always)]
    pub(super) unsafe fn row(&self, row: usize) -> __m512i {
        // SAFETY: 64 bytes, of such alignment.
        unsafe { _mm512_load_si512(self.0[row].as_ptr().cast()) }
    }
}

/// The shapes of the registers, as `ldtilecfg` reads them.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes_of_row: [u16; 16],
    rows: [u8; 16],
}

/// Registers of weights.
const WEIGHTS: [usize; 2] = [6, 7];

/// The registers are in use while this lives. Registers 0 to 3 are for sums, of 16 input rows by 16 weight rows, 32 bits each; 4 and 5
/// for input rows; 6 and 7 for weights.
pub(super) struct Registers(());

impl Registers {
    /// For products of so many 8-bit columns at a time, at most [`ROW`].
    ///
    /// # Safety
    /// They are [`available`], and this thread has no others.
    pub(super) unsafe fn new(columns: usize) -> Self {
        let mut shapes = Shapes { palette: 1, start_row: 0, reserved: [0; 14], bytes_of_row: [0; 16], rows: [0; 16] };
        shapes.bytes_of_row[..8].fill(ROW as u16);
        shapes.rows[..8].fill(16);
        shapes.bytes_of_row[4..6].fill(columns as u16);
        for i in WEIGHTS {
            shapes.rows[i] = columns as u8 / 4;
        }
        // SAFETY: the caller's promise.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const shapes, options(nostack, preserves_flags, readonly)) };
        Self(())
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        // SAFETY: there are registers. What is left in them would have to be saved whenever the system switches threads.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
    }
}

// The compiler never keeps anything in these registers, so that what one of the following leaves there the next ones find.

/// # Safety
/// There are [`Registers`], as in all of the following.
#[inline(always)]
pub(super) unsafe fn zero<const SUMS: usize>() {
    // SAFETY: the caller's promise.
    unsafe { asm!("tilezero tmm{}", const SUMS, options(nostack, preserves_flags)) };
}

/// # Safety
/// There is a tile, of rows that are `stride` bytes apart.
#[inline(always)]
pub(super) unsafe fn load<const TO: usize>(tile: *const i8, stride: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("tileloadd tmm{}, [{} + {}]", const TO, in(reg) tile, in(reg) stride, options(nostack, preserves_flags, readonly))
    };
}

/// # Safety
/// As above.
#[inline(always)]
pub(super) unsafe fn store<const SUMS: usize>(to: &mut Sums) {
    // SAFETY: the caller's promise.
    unsafe { asm!("tilestored [{} + {}], tmm{}", in(reg) to, in(reg) ROW, const SUMS, options(nostack, preserves_flags)) };
}

/// Adds the products of input rows and weights, both signed or, if `unsigned`, weights not.
///
/// # Safety
/// As above.
#[inline(always)]
pub(super) unsafe fn add<const SUMS: usize, const X: usize, const W: usize>(unsigned: bool) {
    // SAFETY: the caller's promise.
    unsafe {
        match unsigned {
            false => asm!("tdpbssd tmm{}, tmm{}, tmm{}", const SUMS, const X, const W, options(nostack, preserves_flags)),
            true => asm!("tdpbsud tmm{}, tmm{}, tmm{}", const SUMS, const X, const W, options(nostack, preserves_flags)),
        }
    }
}
