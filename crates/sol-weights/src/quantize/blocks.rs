//! Formats with blocks of 32 that stand for themselves, eight at a time.

use half::f16;

use super::fit::{self, Integers, Levels};
use super::iq4::Iq4;
use super::lanes::{F8, LANES, in_runs, side_by_side};
use super::superblock::{half_that_reaches, nearest_half};
use super::weights::{Source, Weights};

/// Elements of a block.
pub(super) const LEN: usize = 32;

/// Numbers and weights of up to eight blocks.
pub(super) struct Eight<W> {
    x: [F8; LEN],
    w: W,
}

/// What is stored of eight blocks.
struct Stored {
    scales: [f16; LANES],
    /// What is added.
    lows: [f16; LANES],
    /// The number of each element's level above the lowest.
    levels: [[u8; LEN]; LANES],
}

fn halves(values: F8) -> [f16; LANES] {
    values.0.map(nearest_half)
}

fn scales(values: F8) -> [f16; LANES] {
    values.0.map(|scale| half_that_reaches(scale, 1.0))
}

fn floats(values: [f16; LANES]) -> F8 {
    F8(values.map(f16::to_f32))
}

/// Up to 256 numbers with their weights.
#[inline(always)]
pub(super) fn eight<S: Source>(x: &[f32], w: S) -> Eight<S::Of<LEN>> {
    Eight { x: side_by_side(x), w: w.eight(0) }
}

impl<W: Weights> Eight<W> {
    #[inline(always)]
    fn scaled(&self, levels: impl Levels, index: impl Fn(F8) -> F8, tops: &[f32], rounds: usize) -> Stored {
        let scales = scales(fit::symmetric(&self.x, &self.w, levels, tops, rounds).scale);
        let inverse = floats(scales).inverse();
        let mut q = [F8::ZERO; LEN];
        for i in 0..LEN {
            q[i] = index(levels.nearest(self.x[i] * inverse));
        }
        Stored { scales, lows: [f16::ZERO; LANES], levels: runs(&q) }
    }

    #[inline(always)]
    fn with_low(&self, top: f32, spans: &[(f32, f32)], rounds: usize) -> Stored {
        let fit = fit::affine(&self.x, &self.w, top, spans, rounds, false);
        let (scales, lows) = (scales(fit.scale), halves(fit.low));
        let (inverse, low) = (floats(scales).inverse(), floats(lows));
        let mut q = [F8::ZERO; LEN];
        for i in 0..LEN {
            q[i] = ((self.x[i] - low) * inverse).clamp(0.0, top).round();
        }
        Stored { scales, lows, levels: runs(&q) }
    }
}

#[inline(always)]
fn runs(q: &[F8; LEN]) -> [[u8; LEN]; LANES] {
    let mut levels = [[0; LEN]; LANES];
    in_runs(q, levels.as_flattened_mut());
    levels
}

/// Element i in the low half of byte i, element i + 16 in its high half.
#[inline(always)]
fn nibbles(levels: &[u8; LEN], out: &mut [u8]) {
    for (i, byte) in out.iter_mut().enumerate().take(16) {
        *byte = levels[i] & 0x0F | levels[i + 16] << 4;
    }
}

/// The fifth bits.
#[inline(always)]
fn fifths(levels: &[u8; LEN]) -> [u8; 4] {
    let mut bits = 0u32;
    for (i, level) in levels.iter().enumerate() {
        bits |= u32::from(level >> 4) << i;
    }
    bits.to_le_bytes()
}

#[inline(always)]
pub(super) fn q4_0(eight: &Eight<impl Weights>, blocks: &mut [[u8; 18]]) {
    const TOPS: [f32; 4] = [-8.0, -7.3, -8.6, 7.5];
    let found = eight.scaled(Integers { low: -8.0, high: 7.0 }, |q| q + F8::all(8.0), &TOPS, 1);
    for (lane, block) in blocks.iter_mut().enumerate() {
        block[..2].copy_from_slice(&found.scales[lane].to_le_bytes());
        nibbles(&found.levels[lane], &mut block[2..]);
    }
}

#[inline(always)]
pub(super) fn iq4_nl(eight: &Eight<impl Weights>, blocks: &mut [[u8; 18]]) {
    let found = eight.scaled(Iq4, Iq4::index, &Iq4::TOPS, 2);
    for (lane, block) in blocks.iter_mut().enumerate() {
        block[..2].copy_from_slice(&found.scales[lane].to_le_bytes());
        nibbles(&found.levels[lane], &mut block[2..]);
    }
}

#[inline(always)]
pub(super) fn q5_0(eight: &Eight<impl Weights>, blocks: &mut [[u8; 22]]) {
    const TOPS: [f32; 4] = [-16.0, -15.4, -16.5, 15.4];
    let found = eight.scaled(Integers { low: -16.0, high: 15.0 }, |q| q + F8::all(16.0), &TOPS, 1);
    for (lane, block) in blocks.iter_mut().enumerate() {
        block[..2].copy_from_slice(&found.scales[lane].to_le_bytes());
        block[2..6].copy_from_slice(&fifths(&found.levels[lane]));
        nibbles(&found.levels[lane], &mut block[6..]);
    }
}

#[inline(always)]
pub(super) fn q4_1(eight: &Eight<impl Weights>, blocks: &mut [[u8; 20]]) {
    const SPANS: [(f32, f32); 4] = [(0.0, 0.0), (0.3, 0.3), (0.0, 0.6), (0.6, 0.0)];
    let found = eight.with_low(15.0, &SPANS, 1);
    for (lane, block) in blocks.iter_mut().enumerate() {
        block[..2].copy_from_slice(&found.scales[lane].to_le_bytes());
        block[2..4].copy_from_slice(&found.lows[lane].to_le_bytes());
        nibbles(&found.levels[lane], &mut block[4..]);
    }
}

#[inline(always)]
pub(super) fn q5_1(eight: &Eight<impl Weights>, blocks: &mut [[u8; 24]]) {
    const SPANS: [(f32, f32); 4] = [(0.0, 0.0), (0.3, 0.3), (0.0, 0.6), (0.6, 0.0)];
    let found = eight.with_low(31.0, &SPANS, 1);
    for (lane, block) in blocks.iter_mut().enumerate() {
        block[..2].copy_from_slice(&found.scales[lane].to_le_bytes());
        block[2..4].copy_from_slice(&found.lows[lane].to_le_bytes());
        block[4..8].copy_from_slice(&fifths(&found.levels[lane]));
        nibbles(&found.levels[lane], &mut block[8..]);
    }
}

/// The largest number gets 127: with so many levels no other scale is worth a search.
#[inline(always)]
pub(super) fn q8_0(x: &[f32; LEN], block: &mut [u8; 34]) {
    let mut peaks = F8::ZERO;
    for run in x.as_chunks::<LANES>().0 {
        peaks = peaks.max(F8(*run).abs());
    }
    let peak = peaks.0.into_iter().fold(0f32, |a, b| if b > a { b } else { a });
    let scale = half_that_reaches(peak, 127.0);
    let inverse = F8::all(scale.to_f32()).inverse();
    block[..2].copy_from_slice(&scale.to_le_bytes());
    for (bytes, run) in block[2..].as_chunks_mut::<LANES>().0.iter_mut().zip(x.as_chunks::<LANES>().0) {
        *bytes = (F8(*run) * inverse).clamp(-127.0, 127.0).bytes();
    }
}
