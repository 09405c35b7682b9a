//! The sixteen uneven levels of IQ4_NL and IQ4_XS.

use super::fit::Levels;
use super::lanes::F8;
use crate::dequantize::IQ4_LEVELS;

/// Numbers to their nearest level.
#[derive(Clone, Copy)]
pub(super) struct Iq4;

/// Between each level and the next: the middle, and the step.
const BETWEEN: [(f32, f32); 15] = {
    let mut between = [(0.0, 0.0); 15];
    let mut i = 0;
    while i < 15 {
        let (low, high) = (IQ4_LEVELS[i] as f32, IQ4_LEVELS[i + 1] as f32);
        between[i] = ((low + high) / 2.0, high - low);
        i += 1;
    }
    between
};

impl Iq4 {
    /// Where the number of the largest magnitude is tried.
    pub(super) const TOPS: [f32; 10] = [-127.0, -121.0, -115.0, -108.0, -101.0, 97.0, 104.0, 111.0, 118.0, -134.0];

    /// The number of a level.
    #[inline(always)]
    pub(super) fn index(level: F8) -> F8 {
        let mut index = F8::ZERO;
        for (middle, _) in BETWEEN {
            index = index + F8::all(middle).less(level, F8::all(1.0), F8::ZERO);
        }
        index
    }
}

impl Levels for Iq4 {
    #[inline(always)]
    fn nearest(self, x: F8) -> F8 {
        let mut level = F8::all(IQ4_LEVELS[0] as f32);
        for (middle, step) in BETWEEN {
            level = level + F8::all(middle).less(x, F8::all(step), F8::ZERO);
        }
        level
    }
}
