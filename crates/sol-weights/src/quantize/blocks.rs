//! Formats with blocks of 32 that stand for themselves, eight at a time.

use super::fit::{self, Integers, Levels};
use super::iq4::Iq4;
use super::lanes::{F8, LANES, in_runs, side_by_side};
use super::superblock::half_that_reaches;
use super::weights::{ByMagnitude, Source, Weights};

/// Elements of a block.
pub(super) const LEN: usize = 32;

/// Numbers and weights of up to eight blocks.
pub(super) struct Eight<W> {
    x: [F8; LEN],
    w: W,
}

/// Half precision numbers of eight blocks.
#[derive(Clone, Copy)]
struct Halves([u16; LANES]);

impl Halves {
    #[inline(always)]
    fn nearest(values: F8) -> Self {
        Self(values.to_halves())
    }

    /// As [`half_that_reaches`] with one step.
    #[inline(always)]
    fn that_reach(values: F8) -> Self {
        let mut out = Self::nearest(values);
        let found = out.floats();
        for i in 0..LANES {
            let short = found.0[i].abs() < 0.99 * values.0[i].abs() && found.0[i].abs() < 65504.0;
            out.0[i] += u16::from(short);
        }
        out
    }

    #[inline(always)]
    fn floats(self) -> F8 {
        F8::of_halves(self.0)
    }

    fn bytes(self, lane: usize) -> [u8; 2] {
        self.0[lane].to_le_bytes()
    }
}

/// The levels of eight blocks, numbered from 0.
struct Numbered([F8; LEN]);

impl Numbered {
    /// Element i in the low half of byte i, element i + 16 in its high half.
    #[inline(always)]
    fn nibbles(&self) -> [[u8; LEN / 2]; LANES] {
        let mut bytes = [F8::ZERO; LEN / 2];
        for i in 0..LEN / 2 {
            bytes[i] = self.0[i] + self.0[i + LEN / 2] * F8::all(16.0);
        }
        let mut out = [[0; LEN / 2]; LANES];
        in_runs(&bytes, out.as_flattened_mut());
        out
    }

    /// The fifth bits, which are taken out.
    #[inline(always)]
    fn take_fifths(&mut self) -> [u32; LANES] {
        let mut bits = [0; LANES];
        for i in 0..LEN {
            for lane in 0..LANES {
                let fifth = self.0[i].0[lane] >= 16.0;
                bits[lane] |= u32::from(fifth) << i;
                self.0[i].0[lane] -= if fifth { 16.0 } else { 0.0 };
            }
        }
        bits
    }
}

/// Up to 256 numbers with their weights.
#[inline(always)]
pub(super) fn eight<S: Source>(x: &[f32], w: S) -> Eight<S::Of<LEN>> {
    Eight { x: side_by_side(x), w: w.eight(0) }
}

impl<W: Weights> Eight<W> {
    /// With weights times the magnitudes of the numbers, those in proportion to the largest of the block.
    #[inline(always)]
    pub(super) fn by_magnitude(&self) -> Eight<ByMagnitude<LEN>> {
        let inverse = fit::peak(&self.x).inverse();
        let mut w = [F8::ZERO; LEN];
        for i in 0..LEN {
            w[i] = self.w.at(i) * (self.x[i] * inverse).abs();
        }
        Eight { x: self.x, w: ByMagnitude(w) }
    }

    #[inline(always)]
    fn scaled(&self, levels: impl Levels, index: impl Fn(F8) -> F8, tops: &[f32], rounds: usize) -> (Halves, Numbered) {
        let scales = Halves::that_reach(fit::symmetric(&self.x, &self.w, levels, tops, rounds).scale);
        let inverse = scales.floats().inverse();
        let mut q = [F8::ZERO; LEN];
        for i in 0..LEN {
            q[i] = index(levels.nearest(self.x[i] * inverse));
        }
        (scales, Numbered(q))
    }

    #[inline(always)]
    fn with_low(&self, top: f32, spans: &[(f32, f32)], rounds: usize) -> (Halves, Halves, Numbered) {
        let fit = fit::affine(&self.x, &self.w, top, spans, rounds, false);
        let (scales, lows) = (Halves::that_reach(fit.scale), Halves::nearest(fit.low));
        let inverse = scales.floats().inverse();
        let shift = F8::ZERO - lows.floats() * inverse;
        let mut q = [F8::ZERO; LEN];
        for i in 0..LEN {
            q[i] = (self.x[i] * inverse + shift).clamp(0.0, top).round();
        }
        (scales, lows, Numbered(q))
    }
}

#[inline(always)]
pub(super) fn q4_0(eight: &Eight<impl Weights>, blocks: &mut [[u8; 18]]) {
    const TOPS: [f32; 2] = [-8.0, -8.6];
    let (scales, levels) = eight.scaled(Integers { low: -8.0, high: 7.0 }, |q| q + F8::all(8.0), &TOPS, 0);
    let nibbles = levels.nibbles();
    for (lane, block) in blocks.iter_mut().enumerate() {
        block[..2].copy_from_slice(&scales.bytes(lane));
        block[2..].copy_from_slice(&nibbles[lane]);
    }
}

#[inline(always)]
pub(super) fn iq4_nl(eight: &Eight<impl Weights>, blocks: &mut [[u8; 18]]) {
    let (scales, levels) = eight.scaled(Iq4, Iq4::index, &Iq4::TOPS, 2);
    let nibbles = levels.nibbles();
    for (lane, block) in blocks.iter_mut().enumerate() {
        block[..2].copy_from_slice(&scales.bytes(lane));
        block[2..].copy_from_slice(&nibbles[lane]);
    }
}

#[inline(always)]
pub(super) fn q5_0(eight: &Eight<impl Weights>, blocks: &mut [[u8; 22]]) {
    const TOPS: [f32; 2] = [-16.0, -16.6];
    let (scales, mut levels) = eight.scaled(Integers { low: -16.0, high: 15.0 }, |q| q + F8::all(16.0), &TOPS, 0);
    let (fifths, nibbles) = (levels.take_fifths(), levels.nibbles());
    for (lane, block) in blocks.iter_mut().enumerate() {
        block[..2].copy_from_slice(&scales.bytes(lane));
        block[2..6].copy_from_slice(&fifths[lane].to_le_bytes());
        block[6..].copy_from_slice(&nibbles[lane]);
    }
}

/// How far the first and the last level are tried within the range of the numbers: either end cut off by half a step.
const SPANS: [(f32, f32); 2] = [(0.0, 0.5), (0.5, 0.0)];

#[inline(always)]
pub(super) fn q4_1(eight: &Eight<impl Weights>, blocks: &mut [[u8; 20]]) {
    let (scales, lows, levels) = eight.with_low(15.0, &SPANS, 1);
    let nibbles = levels.nibbles();
    for (lane, block) in blocks.iter_mut().enumerate() {
        block[..2].copy_from_slice(&scales.bytes(lane));
        block[2..4].copy_from_slice(&lows.bytes(lane));
        block[4..].copy_from_slice(&nibbles[lane]);
    }
}

#[inline(always)]
pub(super) fn q5_1(eight: &Eight<impl Weights>, blocks: &mut [[u8; 24]]) {
    let (scales, lows, mut levels) = eight.with_low(31.0, &SPANS, 1);
    let (fifths, nibbles) = (levels.take_fifths(), levels.nibbles());
    for (lane, block) in blocks.iter_mut().enumerate() {
        block[..2].copy_from_slice(&scales.bytes(lane));
        block[2..4].copy_from_slice(&lows.bytes(lane));
        block[4..8].copy_from_slice(&fifths[lane].to_le_bytes());
        block[8..].copy_from_slice(&nibbles[lane]);
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
