//! How the inner loops of attention read each format of the cache.

use half::f16;

use crate::q8::{self, Side};
use crate::tile::{Cached, convert};

/// A format of the cache, and whether it is read as it is.
pub(crate) trait Reading {
    /// What the loops read.
    type Number: Cached;

    /// Keys or values of one head of one block, if need be in `buffer`.
    fn tile<'a>(stored: &'a [u8], side: Side, buffer: &'a mut Vec<f32>) -> &'a [Self::Number];

    /// What is wanted next: where it is read as it is, to be fetched on the way; else fetched now, where that pays.
    fn ahead(stored: &[u8]) -> Option<&[Self::Number]>;
}

/// In place.
pub(crate) struct AsIs<T>(std::marker::PhantomData<T>);

impl<T: Cached> Reading for AsIs<T> {
    type Number = T;

    fn tile<'a>(stored: &'a [u8], _: Side, _: &'a mut Vec<f32>) -> &'a [T] {
        bytemuck::cast_slice(stored)
    }

    fn ahead(stored: &[u8]) -> Option<&[T]> {
        Some(bytemuck::cast_slice(stored))
    }
}

/// Half precision, made floats.
pub(crate) struct Halves;

impl Reading for Halves {
    type Number = f32;

    fn tile<'a>(stored: &'a [u8], _: Side, buffer: &'a mut Vec<f32>) -> &'a [f32] {
        let halves: &[f16] = bytemuck::cast_slice(stored);
        buffer.resize(halves.len(), 0.0);
        convert(halves, buffer);
        buffer
    }

    fn ahead(_: &[u8]) -> Option<&[f32]> {
        None
    }
}

/// 8-bit numbers with scales, made floats.
pub(crate) struct Scaled;

impl Reading for Scaled {
    type Number = f32;

    fn tile<'a>(stored: &'a [u8], side: Side, buffer: &'a mut Vec<f32>) -> &'a [f32] {
        q8::floats(stored, side, buffer);
        buffer
    }

    fn ahead(stored: &[u8]) -> Option<&[f32]> {
        fetch(stored);
        None
    }
}

/// Asks for the lines that these bytes lie in.
fn fetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(64) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: fetching reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}
