//! What squared errors are multiplied with: a number for each element, or nothing, which costs nothing.

use super::TILE;
use super::lanes::{F8, side_by_side};

/// The weights of eight blocks or groups, side by side.
pub(super) trait Weights: Copy {
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

impl<const N: usize> Weights for [F8; N] {
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
