//! The tile registers and what is done with them, in assembly, as the compiler's functions for it are not stable.
//!
//! Registers 0 to 3 are sums: 16 input rows by 16 weight rows of 32 bits. Registers 4 and 7 are input rows, 5 and 6 are weights.
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18, "Programming with Intel AMX".

use std::arch::asm;

/// Whether this process may use them: the machine has tiles, products of 8-bit numbers and of bf16, and the system lets it.
pub(in crate::matmul) fn available() -> bool {
    const TILE_BF16_INT8: u32 = 1 << 24 | 1 << 22 | 1 << 25;
    let features = std::arch::x86_64::__cpuid_count(7, 0).edx;
    features & TILE_BF16_INT8 == TILE_BF16_INT8 && permitted()
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

/// Bytes of a whole tile, and of a row of one.
pub(super) const BYTES: usize = 1024;
pub(super) const ROW: usize = 64;

/// A tile of 32-bit sums, a row an input row.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Sums(pub(super) [[u8; ROW]; 16]);

impl Sums {
    pub(super) const ZERO: Self = Self([[0; ROW]; 16]);
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

/// The registers are in use while this lives.
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
        for i in [4, 7] {
            shapes.bytes_of_row[i] = columns as u16;
        }
        for i in [5, 6] {
            shapes.rows[i] = columns as u8 / 4;
        }
        // SAFETY: the caller's promise.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const shapes, options(nostack, preserves_flags, readonly));
        }
        Self(())
    }
}

impl Drop for Registers {
    fn drop(&mut self) {
        // SAFETY: there are registers. What is left in them would have to be saved whenever the system switches threads.
        unsafe { asm!("tilerelease", options(nostack, preserves_flags, nomem)) };
    }
}

/// `asm!` that may change all tile registers. `{row}` is [`ROW`].
macro_rules! tiles {
    ($($template:expr),* ; $($operands:tt)*) => {
        asm!(
            $($template,)* $($operands)*, row = in(reg) ROW,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _, out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack)
        )
    };
}

/// Products of 256 columns with `2 * 16` weight rows, each weight given as two numbers whose products are summed apart. `sums`: of
/// the first sixteen weight rows' first and second numbers, then of the other sixteen's.
///
/// # Safety
/// [`Registers`] for 64 columns. `x` are four tiles that are `step` bytes apart; `w` sixteen, in the order of `sums`, four of each;
/// `sums` four. The 4 KB at `next` are fetched meanwhile.
#[inline(always)]
pub(super) unsafe fn products256(x: *const i8, step: usize, w: *const u8, sums: *mut Sums, next: *const i8) {
    macro_rules! fetch {
        ($($at:literal)*) => {
            concat!($("prefetcht0 [{next} + ", $at, "]\n",)*)
        };
    }
    macro_rules! columns64 {
        ($x:literal, $a:literal $b:literal $c:literal $d:literal) => {
            concat!(
                "tileloadd ", $x, ", [{x} + {row}]\n",
                "tileloadd tmm5, [{w} + {row} + ", $a, "]\n",
                "tileloadd tmm6, [{w} + {row} + ", $b, "]\n",
                "tdpbssd tmm0, ", $x, ", tmm5\n",
                fetch!(0 64 128 192),
                "tdpbssd tmm1, ", $x, ", tmm6\n",
                fetch!(256 320 384 448),
                "tileloadd tmm5, [{w} + {row} + ", $c, "]\n",
                "tileloadd tmm6, [{w} + {row} + ", $d, "]\n",
                "tdpbssd tmm2, ", $x, ", tmm5\n",
                fetch!(512 576 640 704),
                "tdpbssd tmm3, ", $x, ", tmm6\n",
                fetch!(768 832 896 960),
                "add {x}, {step}\n",
                "add {next}, 1024\n",
            )
        };
    }
    // SAFETY: the caller's promises.
    unsafe {
        tiles!(
            "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
            columns64!("tmm4", 0 4096 8192 12288),
            columns64!("tmm7", 1024 5120 9216 13312),
            columns64!("tmm4", 2048 6144 10240 14336),
            columns64!("tmm7", 3072 7168 11264 15360),
            "tilestored [{sums} + {row}], tmm0",
            "tilestored [{sums} + {row} + 1024], tmm1",
            "tilestored [{sums} + {row} + 2048], tmm2",
            "tilestored [{sums} + {row} + 3072], tmm3";
            x = inout(reg) x => _, next = inout(reg) next => _, step = in(reg) step, w = in(reg) w, sums = in(reg) sums
        );
    }
}

/// Products of 32 bf16 columns with two times sixteen weight rows, as f32.
///
/// # Safety
/// [`Registers`] for 64 columns of 8 bits. `x` is a tile; `w` and `sums` are two.
#[inline(always)]
pub(super) unsafe fn products_bf16(x: *const u8, w: *const u8, sums: *mut Sums) {
    // SAFETY: the caller's promises.
    unsafe {
        tiles!(
            "tilezero tmm0", "tilezero tmm1",
            "tileloadd tmm4, [{x} + {row}]",
            "tileloadd tmm5, [{w} + {row}]",
            "tileloadd tmm6, [{w} + {row} + 1024]",
            "tdpbf16ps tmm0, tmm4, tmm5",
            "tdpbf16ps tmm1, tmm4, tmm6",
            "tilestored [{sums} + {row}], tmm0",
            "tilestored [{sums} + {row} + 1024], tmm1";
            x = in(reg) x, w = in(reg) w, sums = in(reg) sums
        );
    }
}

/// Products of 32 columns with two times sixteen weight rows.
///
/// # Safety
/// [`Registers`] for 32 columns. `x` is a tile, of rows of 32 bytes; `w` are two, of half the rows; `sums` two.
#[inline(always)]
pub(super) unsafe fn products32(x: *const i8, w: *const u8, sums: *mut Sums) {
    // SAFETY: the caller's promises.
    unsafe {
        tiles!(
            "tilezero tmm0", "tilezero tmm1",
            "tileloadd tmm4, [{x} + {columns}]",
            "tileloadd tmm5, [{w} + {row}]",
            "tileloadd tmm6, [{w} + {row} + 512]",
            "tdpbssd tmm0, tmm4, tmm5",
            "tdpbssd tmm1, tmm4, tmm6",
            "tilestored [{sums} + {row}], tmm0",
            "tilestored [{sums} + {row} + 1024], tmm1";
            x = in(reg) x, columns = in(reg) 32usize, w = in(reg) w, sums = in(reg) sums
        );
    }
}
