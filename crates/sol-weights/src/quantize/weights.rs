//! What squared errors are multiplied with: a number for each element, or nothing, which costs nothing.

use super::TILE;
use super::lanes::{F8, side_by_side};

/// The weights of eight blocks or groups, side by side.
pub(super) trait Weights: Copy {
    /// Whether the largest number is one that matters, so that scales are to be looked for near where it is not cut off.
    const PEAKS_MATTER: bool;

    /// Those of element i of each.
    fn at(&self, i: usize) -> F8;
}

/// The weights of a tile.
pub(super) trait Source: Copy {
    /// Those of eight runs of N elements.
    type Of<const N: usize>: Weights;

    /// Those of the eight runs that begin at an element.
    fn eight<const N: usize>(self, at: usize) -> Self::Of<N>;
}

/// All weigh alike.
#[derive(Clone, Copy)]
pub(super) struct Alike;

impl Weights for Alike {
    const PEAKS_MATTER: bool = true;

    #[inline(always)]
    fn at(&self, _: usize) -> F8 {
        F8::all(1.0)
    }
}

impl Source for Alike {
    type Of<const N: usize> = Self;

    #[inline(always)]
    fn eight<const N: usize>(self, _: usize) -> Self {
        self
    }
}

/// Weights with the magnitudes of the numbers among their factors.
#[derive(Clone, Copy)]
pub(super) struct ByMagnitude<const N: usize>(pub(super) [F8; N]);

impl<const N: usize> Weights for ByMagnitude<N> {
    const PEAKS_MATTER: bool = true;

    #[inline(always)]
    fn at(&self, i: usize) -> F8 {
        self.0[i]
    }
}

impl<const N: usize> Weights for [F8; N] {
    const PEAKS_MATTER: bool = false;

    #[inline(always)]
    fn at(&self, i: usize) -> F8 {
        self[i]
    }
}

impl Source for &[f32; TILE] {
    type Of<const N: usize> = [F8; N];

    #[inline(always)]
    fn eight<const N: usize>(self, at: usize) -> [F8; N] {
        side_by_side(&self[at..])
    }
}
