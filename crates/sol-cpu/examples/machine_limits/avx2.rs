//! The measurements. Their loops are in assembly, so that what is counted is what runs: a compiler would move a product of
//! two constants out of its loop.

use std::arch::asm;
use std::fs::File;
use std::sync::{Barrier, Mutex};
use std::time::Instant;

use memmap2::{Advice, Mmap, MmapMut, MmapOptions};
use sol_cpu::matmul::Isa;

use super::{Limit, Limits, Options};

/// Memory that is read: far more than any cache holds.
const BYTES: usize = 1 << 30;

/// Read by one turn of [`read`]'s loop.
const STRIDE: usize = 256;

/// What a mapped file is read of, at most.
const MOST_OF_FILE: usize = 2 << 30;

/// Turns of an arithmetic loop in a pass: some 50 ms.
const TURNS: u64 = 6_000_000;

pub(super) fn measure(options: &Options) -> Result<Limits, String> {
    if !is_x86_feature_detected!("avx2") || !is_x86_feature_detected!("fma") {
        return Err("this processor has no AVX2 with FMA, which these measurements are written in".into());
    }
    let mut bench = Bench { options, figures: Vec::new() };
    let huge = {
        let memory = filled(Advice::HugePage)?;
        let share = huge_share(memory.len());
        bench.reading("read_2m", "memory on 2 MB pages, read", &memory);
        share
    };
    bench.reading("read_4k", "memory on 4 KB pages, read", &filled(Advice::NoHugePage)?);
    if let Some(path) = &options.file {
        let wrong = |e: std::io::Error| format!("{path}: {e}");
        let file = File::open(path).map_err(wrong)?;
        // SAFETY: as everywhere weights are mapped: nobody writes to a model's file while it is in use.
        let map = unsafe { Mmap::map(&file) }.map_err(wrong)?;
        bench.reading("read_file", "mapped file, read", &map[..map.len().min(MOST_OF_FILE)]);
    }
    let mut counting = |name, what, unit, operations, turns: unsafe fn(u64)| {
        // SAFETY: the features that the loops need were found above.
        bench.counting(name, what, unit, operations, |n| unsafe { turns(n) });
    };
    counting("f32_fma", "32-bit floats, multiply-add", "GFLOP/s", 2 * 8 * 12, f32_fma);
    counting("int8", "8-bit integers, maddubs + madd + add", "GOP/s", 2 * 32 * 12, int8);
    counting("int4", "4-bit by 8-bit, maddubs + add, widened once in 8", "GOP/s", 2 * 32 * 16, int4);
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
        counting("f32_fma512", "32-bit floats, multiply-add, AVX-512", "GFLOP/s", 2 * 16 * 12, f32_fma512);
        counting("vnni512", "8-bit integers, dpbusd, AVX-512 VNNI", "GOP/s", 2 * 64 * 12, vnni512);
    }
    // Whoever asks which instruction sets there are has asked the system for tiles, too.
    if Isa::available().iter().any(|isa| isa.name() == "AMX") {
        counting("amx", "8-bit integers, tdpbssd, AMX", "GOP/s", 2 * 16 * 16 * 64 / 8, amx);
    }
    Ok(Limits { figures: bench.figures, huge })
}

struct Bench<'a> {
    options: &'a Options,
    figures: Vec<Limit>,
}

impl Bench<'_> {
    /// Bandwidth in GB/s; each thread reads a part of its own from end to end.
    fn reading(&mut self, name: &'static str, what: &'static str, memory: &[u8]) {
        self.figure(name, what, "GB/s", |thread, threads| {
            let part = memory.len() / threads / STRIDE * STRIDE;
            read(&memory[thread * part..][..part]);
            part as f64
        });
    }

    /// Speed of a loop of which a turn counts for `operations`.
    fn counting(
        &mut self,
        name: &'static str,
        what: &'static str,
        unit: &'static str,
        operations: u64,
        turns: impl Fn(u64) + Sync,
    ) {
        self.figure(name, what, unit, |_, _| {
            turns(TURNS);
            (operations * TURNS) as f64
        });
    }

    /// Runs `work(thread, threads)`, which says how much it did, on one thread and on all.
    fn figure(&mut self, name: &'static str, what: &'static str, unit: &'static str, work: impl Fn(usize, usize) -> f64 + Sync) {
        let mut counts = vec![1, self.options.threads];
        counts.dedup();
        for threads in counts {
            let barrier = Barrier::new(threads);
            // Passes by threads: start, end, amount.
            let times = Mutex::new(vec![Vec::new(); self.options.passes + 1]);
            std::thread::scope(|scope| {
                for thread in 0..threads {
                    let (barrier, times, work, passes) = (&barrier, &times, &work, self.options.passes);
                    scope.spawn(move || {
                        stay_on(thread, threads);
                        for pass in 0..=passes {
                            barrier.wait();
                            let start = Instant::now();
                            let amount = work(thread, threads);
                            let end = Instant::now();
                            times.lock().expect("no thread panics")[pass].push((start, end, amount));
                        }
                    });
                }
            });
            // The first pass warms up.
            let passes = times.into_inner().expect("no thread panics").into_iter().skip(1);
            let samples = passes.filter_map(|threads| {
                let start = threads.iter().map(|t| t.0).min()?;
                let end = threads.iter().map(|t| t.1).max()?;
                let amount: f64 = threads.iter().map(|t| t.2).sum();
                Some(amount / (end - start).as_secs_f64() / 1e9)
            });
            let limit = Limit { name, what, unit, threads, samples: samples.collect() };
            self.figures.push(limit);
        }
    }
}

/// Keeps this thread on the processor of its number among those allowed, where each can have one of its own: the system may
/// leave two threads on one for the length of a pass.
fn stay_on(thread: usize, threads: usize) {
    // SAFETY: a set of processors is an array of bits, for which zeros are valid; the calls read and write within it.
    unsafe {
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        let size = size_of::<libc::cpu_set_t>();
        if libc::sched_getaffinity(0, size, &mut allowed) != 0 {
            return;
        }
        let all: Vec<usize> = (0..8 * size).filter(|cpu| libc::CPU_ISSET(*cpu, &allowed)).collect();
        if threads <= all.len() {
            let mut own: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(all[thread * all.len() / threads], &mut own);
            // Where it is refused, the system chooses as before.
            libc::sched_setaffinity(0, size, &own);
        }
    }
}

/// Memory of [`BYTES`] bytes in pages of the advised size.
fn filled(pages: Advice) -> Result<MmapMut, String> {
    let mut memory = MmapOptions::new().len(BYTES).map_anon().map_err(|e| format!("no {BYTES} bytes of memory: {e}"))?;
    // A kernel without huge pages refuses the advice; what pages there are is looked up later.
    let _ = memory.advise(pages);
    // Pages are given when they are written; equal bytes would do, but pages of zeros alone may be shared.
    memory.chunks_mut(4096).zip(1u64..).for_each(|(page, i)| page[..8].copy_from_slice(&i.to_ne_bytes()));
    Ok(memory)
}

/// Share of `len` bytes that this process has in huge pages.
fn huge_share(len: usize) -> f64 {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("AnonHugePages:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    (kilobytes.unwrap_or(0.0) * 1024.0 / len as f64).min(1.0)
}

/// Loads every byte of memory whose length is a multiple of [`STRIDE`], in order.
fn read(memory: &[u8]) {
    if memory.len() < STRIDE {
        return;
    }
    // SAFETY: reads from the start of `memory` up to its end only, in whole strides.
    unsafe {
        asm!(
            "2:",
            "vpor ymm0, ymm0, [{at}]",
            "vpor ymm1, ymm1, [{at} + 32]",
            "vpor ymm2, ymm2, [{at} + 64]",
            "vpor ymm3, ymm3, [{at} + 96]",
            "vpor ymm4, ymm4, [{at} + 128]",
            "vpor ymm5, ymm5, [{at} + 160]",
            "vpor ymm6, ymm6, [{at} + 192]",
            "vpor ymm7, ymm7, [{at} + 224]",
            "add {at}, 256",
            "cmp {at}, {end}",
            "jb 2b",
            at = inout(reg) memory.as_ptr() => _,
            end = in(reg) memory.as_ptr().wrapping_add(memory.len()),
            out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _,
            out("ymm4") _, out("ymm5") _, out("ymm6") _, out("ymm7") _,
            options(nostack, readonly),
        );
    }
}

/// A loop over registers alone: `$body` `turns` times, all vector registers zero before.
macro_rules! registers {
    ($turns:expr, $($body:expr),+ $(,)?) => {
        asm!(
            "vzeroall",
            // Halves, as floats and as integers some number or other, in 13, 14 and 15.
            "mov {bits:e}, 0x3f000000",
            "vmovd xmm15, {bits:e}",
            "vpbroadcastd ymm15, xmm15",
            "vmovdqa ymm14, ymm15",
            "vmovdqa ymm13, ymm15",
            "2:",
            $($body,)+
            "dec {turns}",
            "jnz 2b",
            turns = inout(reg) $turns => _,
            bits = out(reg) _,
            out("ymm0") _, out("ymm1") _, out("ymm2") _, out("ymm3") _, out("ymm4") _, out("ymm5") _, out("ymm6") _,
            out("ymm7") _, out("ymm8") _, out("ymm9") _, out("ymm10") _, out("ymm11") _, out("ymm12") _, out("ymm13") _,
            out("ymm14") _, out("ymm15") _,
            options(nostack, nomem),
        )
    };
}

/// 12 multiply-adds of 8 floats a turn: 12 sums hide a latency of up to 6 cycles at two a cycle.
#[target_feature(enable = "avx2,fma")]
fn f32_fma(turns: u64) {
    // SAFETY: touches registers only; `turns` is at least 1.
    unsafe {
        registers!(
            turns.max(1),
            "vfmadd231ps ymm0, ymm14, ymm15",
            "vfmadd231ps ymm1, ymm14, ymm15",
            "vfmadd231ps ymm2, ymm14, ymm15",
            "vfmadd231ps ymm3, ymm14, ymm15",
            "vfmadd231ps ymm4, ymm14, ymm15",
            "vfmadd231ps ymm5, ymm14, ymm15",
            "vfmadd231ps ymm6, ymm14, ymm15",
            "vfmadd231ps ymm7, ymm14, ymm15",
            "vfmadd231ps ymm8, ymm14, ymm15",
            "vfmadd231ps ymm9, ymm14, ymm15",
            "vfmadd231ps ymm10, ymm14, ymm15",
            "vfmadd231ps ymm11, ymm14, ymm15",
        );
    }
}

/// 32 multiply-adds of bytes into 32 bits; the product's register is free again at once.
macro_rules! dot {
    ($product:literal, $sum:literal) => {
        concat!(
            "vpmaddubsw ",
            $product,
            ", ymm14, ymm15\n",
            "vpmaddwd ",
            $product,
            ", ",
            $product,
            ", ymm13\n",
            "vpaddd ",
            $sum,
            ", ",
            $sum,
            ", ",
            $product
        )
    };
}

/// 12 times 32 multiply-adds a turn, in 36 instructions on 6 products and 6 sums.
#[target_feature(enable = "avx2")]
fn int8(turns: u64) {
    // SAFETY: touches registers only; `turns` is at least 1.
    unsafe {
        registers!(
            turns.max(1),
            dot!("ymm0", "ymm6"),
            dot!("ymm1", "ymm7"),
            dot!("ymm2", "ymm8"),
            dot!("ymm3", "ymm9"),
            dot!("ymm4", "ymm10"),
            dot!("ymm5", "ymm11"),
            dot!("ymm0", "ymm6"),
            dot!("ymm1", "ymm7"),
            dot!("ymm2", "ymm8"),
            dot!("ymm3", "ymm9"),
            dot!("ymm4", "ymm10"),
            dot!("ymm5", "ymm11"),
        );
    }
}

/// The first of 8 products for each of two sums of 16 bits.
macro_rules! first {
    ($a:literal, $b:literal) => {
        concat!("vpmaddubsw ", $a, ", ymm14, ymm15\n", "vpmaddubsw ", $b, ", ymm14, ymm15")
    };
}

/// A later product for each of two sums: products of 4-bit weights leave room for 8 in 16 bits.
macro_rules! more {
    ($a:literal, $b:literal, $p:literal, $q:literal) => {
        concat!(
            "vpmaddubsw ",
            $p,
            ", ymm14, ymm15\n",
            "vpmaddubsw ",
            $q,
            ", ymm14, ymm15\n",
            "vpaddw ",
            $a,
            ", ",
            $a,
            ", ",
            $p,
            "\n",
            "vpaddw ",
            $b,
            ", ",
            $b,
            ", ",
            $q
        )
    };
}

/// Widens a sum of 16 bits and adds it to one of 32.
macro_rules! widen {
    ($a:literal, $sum:literal) => {
        concat!("vpmaddwd ", $a, ", ", $a, ", ymm13\n", "vpaddd ", $sum, ", ", $sum, ", ", $a)
    };
}

/// 16 times 32 multiply-adds a turn, in 34 instructions: two sums of 8.
#[target_feature(enable = "avx2")]
fn int4(turns: u64) {
    // SAFETY: touches registers only; `turns` is at least 1.
    unsafe {
        registers!(
            turns.max(1),
            first!("ymm0", "ymm1"),
            more!("ymm0", "ymm1", "ymm2", "ymm3"),
            more!("ymm0", "ymm1", "ymm4", "ymm5"),
            more!("ymm0", "ymm1", "ymm6", "ymm7"),
            more!("ymm0", "ymm1", "ymm8", "ymm9"),
            more!("ymm0", "ymm1", "ymm2", "ymm3"),
            more!("ymm0", "ymm1", "ymm4", "ymm5"),
            more!("ymm0", "ymm1", "ymm6", "ymm7"),
            widen!("ymm0", "ymm10"),
            widen!("ymm1", "ymm11"),
        );
    }
}

/// As [`registers`], twelve times one instruction with sums in `zmm0` to `zmm11` and both factors in `zmm14` and `zmm15`.
macro_rules! wide_registers {
    ($turns:expr, $instruction:literal) => {
        asm!(
            "vzeroall",
            "mov {bits:e}, 0x3f000000",
            "vpbroadcastd zmm15, {bits:e}",
            "vmovdqa64 zmm14, zmm15",
            "2:",
            concat!($instruction, " zmm0, zmm14, zmm15"),
            concat!($instruction, " zmm1, zmm14, zmm15"),
            concat!($instruction, " zmm2, zmm14, zmm15"),
            concat!($instruction, " zmm3, zmm14, zmm15"),
            concat!($instruction, " zmm4, zmm14, zmm15"),
            concat!($instruction, " zmm5, zmm14, zmm15"),
            concat!($instruction, " zmm6, zmm14, zmm15"),
            concat!($instruction, " zmm7, zmm14, zmm15"),
            concat!($instruction, " zmm8, zmm14, zmm15"),
            concat!($instruction, " zmm9, zmm14, zmm15"),
            concat!($instruction, " zmm10, zmm14, zmm15"),
            concat!($instruction, " zmm11, zmm14, zmm15"),
            "dec {turns}",
            "jnz 2b",
            turns = inout(reg) $turns => _,
            bits = out(reg) _,
            out("zmm0") _, out("zmm1") _, out("zmm2") _, out("zmm3") _, out("zmm4") _, out("zmm5") _, out("zmm6") _,
            out("zmm7") _, out("zmm8") _, out("zmm9") _, out("zmm10") _, out("zmm11") _, out("zmm12") _, out("zmm13") _,
            out("zmm14") _, out("zmm15") _,
            options(nostack, nomem),
        )
    };
}

/// 12 multiply-adds of 16 floats a turn.
#[target_feature(enable = "avx512f")]
fn f32_fma512(turns: u64) {
    // SAFETY: touches registers only; `turns` is at least 1.
    unsafe { wide_registers!(turns.max(1), "vfmadd231ps") };
}

/// 12 times 64 multiply-adds of bytes into 32 bits a turn.
#[target_feature(enable = "avx512f,avx512vnni")]
fn vnni512(turns: u64) {
    // SAFETY: touches registers only; `turns` is at least 1.
    unsafe { wide_registers!(turns.max(1), "vpdpbusd") };
}

/// Products of whole tiles, one in every eight turns, in four sums.
fn amx(turns: u64) {
    /// As `ldtilecfg` reads it: palette 1; eight registers of 16 rows of 64 bytes.
    #[repr(C, align(64))]
    struct Shapes([u8; 64]);
    let mut shapes = Shapes([0; 64]);
    shapes.0[0] = 1;
    for i in 0..8 {
        shapes.0[16 + 2 * i] = 64;
        shapes.0[48 + i] = 16;
    }
    // SAFETY: touches tile registers only, which there are.
    unsafe {
        asm!(
            "ldtilecfg [{shapes}]",
            "2:",
            "tdpbssd tmm0, tmm4, tmm5",
            "tdpbssd tmm1, tmm4, tmm5",
            "tdpbssd tmm2, tmm4, tmm5",
            "tdpbssd tmm3, tmm4, tmm5",
            "dec {turns}",
            "jnz 2b",
            "tilerelease",
            shapes = in(reg) &raw const shapes,
            turns = inout(reg) (turns / 32).max(1) => _,
            options(nostack, readonly),
        )
    };
}
