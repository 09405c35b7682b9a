//! How the super-blocks of K formats are read: 256 weights with integer scales for each 16 or 32.

use std::arch::x86_64::*;

use super::unpack::{Fields, OFFSET_8, Read, both, byte, byte_signed, field, fields, halves, levels_of, pair};

/// The scales of a super-block of interleaved rows: of `H` vectors of them.
#[repr(C, align(64))]
pub(super) struct Scales<const H: usize> {
    /// A group's scale, 32 bits.
    pub(super) scales: [[__m512i; H]; 16],
    /// Minimums of groups `2 p` and `2 p + 1`, 16 bits each.
    pub(super) mins: [[__m512i; H]; 8],
    pub(super) d: [__m512; H],
    pub(super) dmin: [__m512; H],
}

/// How a format's super-blocks are read. All functions are to be inlined into kernels that enable AVX-512.
pub(super) trait Format {
    /// Of a super-block.
    const BYTES: usize;
    /// 8 of 32 weights or 16 of 16.
    const GROUPS: usize;
    /// The logarithm of what weights are too large by.
    const OFFSET: Option<u32> = None;
    /// Whether there are minimums.
    const MIN: bool = false;
    /// Columns whose products are added up before they meet their scale: a group, or what has a sum of activations of its own.
    const AT_ONCE: usize = if Self::GROUPS == 16 || Self::OFFSET.is_some() { 16 } else { 32 };

    /// Interleaves the scales of the super-block at byte `at` into half `h`.
    unsafe fn scales<const H: usize>(rows: &impl Fields, at: usize, to: &mut Scales<H>, h: usize);

    /// Interleaves the weights, unsigned, of the super-block at byte `at`, a few columns at a time.
    unsafe fn weights<const N: usize, R: Read<N>>(rows: &R, at: usize, to: &mut impl Sink);
}

/// Where interleaved weights go.
pub(super) trait Sink {
    /// Columns from `col` on, 32 or 16, a multiple of as many. All columns once, in any order. To be inlined as a [`Format`].
    unsafe fn columns(&mut self, col: usize, w: &[__m512i]);
}

/// Scales and minimums of Q4_K and Q5_K, which share their first 16 bytes.
#[inline(always)]
unsafe fn six_bits<const H: usize>(rows: &impl Fields, at: usize, to: &mut Scales<H>, h: usize) {
    // SAFETY: the caller's promises.
    unsafe {
        let [dd, a, b, c] = rows.words(at);
        (to.d[h], to.dmin[h]) = halves(dd);
        let scales = [field::<0>(a, 63), _mm512_or_si512(field::<0>(c, 15), field::<2>(a, 0x30))];
        let mins = [field::<0>(b, 63), _mm512_or_si512(field::<4>(c, 15), field::<2>(b, 0x30))];
        for g in 0..8 {
            to.scales[g][h] = byte(scales[g / 4], g as u32 % 4);
        }
        for p in 0..4 {
            to.mins[p][h] = pair(mins[p / 2], p as i8 % 2 * 2);
        }
    }
}

/// Signed scales for each 16 weights.
#[inline(always)]
unsafe fn signed_scales<const H: usize>(scales: [__m512i; 4], to: &mut Scales<H>, h: usize) {
    for g in 0..16 {
        // SAFETY: the caller's promises.
        to.scales[g][h] = unsafe { byte_signed(scales[g / 4], g as u32 % 4) };
    }
}

pub(super) struct Q4K;

impl Format for Q4K {
    const BYTES: usize = 144;
    const GROUPS: usize = 8;
    const MIN: bool = true;

    #[inline(always)]
    unsafe fn scales<const H: usize>(rows: &impl Fields, at: usize, to: &mut Scales<H>, h: usize) {
        // SAFETY: the caller's promises.
        unsafe { six_bits(rows, at, to, h) };
    }

    #[inline(always)]
    unsafe fn weights<const N: usize, R: Read<N>>(rows: &R, at: usize, to: &mut impl Sink) {
        for i in 0..128 / R::WIDTH {
            let byte = i * R::WIDTH;
            // SAFETY: the caller's promises.
            unsafe {
                let (v, col) = (rows.bytes(at + 16 + byte), byte / 32 * 64 + byte % 32);
                to.columns(col, &fields::<0, _>(v, 15));
                to.columns(col + 32, &fields::<4, _>(v, 15));
            }
        }
    }
}

pub(super) struct Q5K;

impl Format for Q5K {
    const BYTES: usize = 176;
    const GROUPS: usize = 8;
    const MIN: bool = true;

    #[inline(always)]
    unsafe fn scales<const H: usize>(rows: &impl Fields, at: usize, to: &mut Scales<H>, h: usize) {
        // SAFETY: the caller's promises.
        unsafe { six_bits(rows, at, to, h) };
    }

    #[inline(always)]
    unsafe fn weights<const N: usize, R: Read<N>>(rows: &R, at: usize, to: &mut impl Sink) {
        for i in 0..32 / R::WIDTH {
            let byte = i * R::WIDTH;
            // SAFETY: the caller's promises.
            unsafe {
                // Bit g of each byte is the fifth bit of group g.
                let mut high = rows.bytes(at + 16 + byte);
                for two in 0..4 {
                    let (v, col) = (rows.bytes(at + 48 + 32 * two + byte), 64 * two + byte);
                    to.columns(col, &both(fields::<0, _>(v, 15), fields::<-4, _>(high, 16)));
                    to.columns(col + 32, &both(fields::<4, _>(v, 15), fields::<-3, _>(high, 16)));
                    for high in &mut high {
                        *high = _mm512_srli_epi16::<2>(*high);
                    }
                }
            }
        }
    }
}

pub(super) struct Q6K;

impl Format for Q6K {
    const BYTES: usize = 210;
    const GROUPS: usize = 16;
    const OFFSET: Option<u32> = Some(5);

    #[inline(always)]
    unsafe fn scales<const H: usize>(rows: &impl Fields, at: usize, to: &mut Scales<H>, h: usize) {
        // SAFETY: the caller's promises.
        unsafe {
            signed_scales(rows.words(at + 192), to, h);
            to.d[h] = rows.half(at + 208);
        }
    }

    #[inline(always)]
    unsafe fn weights<const N: usize, R: Read<N>>(rows: &R, at: usize, to: &mut impl Sink) {
        for i in 0..64 / R::WIDTH {
            let (half, byte) = (i * R::WIDTH / 32, i * R::WIDTH % 32);
            // SAFETY: the caller's promises.
            unsafe {
                let (high, col) = (rows.bytes(at + 128 + 32 * half + byte), 128 * half + byte);
                let a = rows.bytes(at + 64 * half + byte);
                to.columns(col, &both(fields::<0, _>(a, 15), fields::<-4, _>(high, 48)));
                to.columns(col + 64, &both(fields::<4, _>(a, 15), fields::<0, _>(high, 48)));
                let b = rows.bytes(at + 64 * half + 32 + byte);
                to.columns(col + 32, &both(fields::<0, _>(b, 15), fields::<-2, _>(high, 48)));
                to.columns(col + 96, &both(fields::<4, _>(b, 15), fields::<2, _>(high, 48)));
            }
        }
    }
}

pub(super) struct Q2K;

impl Format for Q2K {
    const BYTES: usize = 84;
    const GROUPS: usize = 16;
    const MIN: bool = true;

    #[inline(always)]
    unsafe fn scales<const H: usize>(rows: &impl Fields, at: usize, to: &mut Scales<H>, h: usize) {
        // SAFETY: the caller's promises.
        unsafe {
            let both = rows.words(at);
            (to.d[h], to.dmin[h]) = halves(rows.word(at + 80));
            for g in 0..16 {
                to.scales[g][h] = byte(field::<0>(both[g / 4], 15), g as u32 % 4);
            }
            for p in 0..8 {
                to.mins[p][h] = pair(field::<4>(both[p / 2], 15), p as i8 % 2 * 2);
            }
        }
    }

    #[inline(always)]
    unsafe fn weights<const N: usize, R: Read<N>>(rows: &R, at: usize, to: &mut impl Sink) {
        for i in 0..64 / R::WIDTH {
            let byte = i * R::WIDTH;
            // SAFETY: the caller's promises.
            unsafe {
                let (v, col) = (rows.bytes(at + 16 + byte), byte / 32 * 128 + byte % 32);
                to.columns(col, &fields::<0, _>(v, 3));
                to.columns(col + 32, &fields::<2, _>(v, 3));
                to.columns(col + 64, &fields::<4, _>(v, 3));
                to.columns(col + 96, &fields::<6, _>(v, 3));
            }
        }
    }
}

pub(super) struct Q3K;

impl Format for Q3K {
    const BYTES: usize = 110;
    const GROUPS: usize = 16;
    const OFFSET: Option<u32> = Some(2);

    #[inline(always)]
    unsafe fn scales<const H: usize>(rows: &impl Fields, at: usize, to: &mut Scales<H>, h: usize) {
        // SAFETY: the caller's promises.
        unsafe {
            let (a, b, c) = (rows.word(at + 96), rows.word(at + 100), rows.word(at + 104));
            let mut scales = [
                _mm512_or_si512(field::<0>(a, 15), field::<-4>(c, 48)),
                _mm512_or_si512(field::<0>(b, 15), field::<-2>(c, 48)),
                _mm512_or_si512(field::<4>(a, 15), field::<0>(c, 48)),
                _mm512_or_si512(field::<4>(b, 15), field::<2>(c, 48)),
            ];
            for scale in &mut scales {
                *scale = _mm512_sub_epi8(*scale, _mm512_set1_epi8(32));
            }
            signed_scales(scales, to, h);
            to.d[h] = rows.half(at + 108);
        }
    }

    #[inline(always)]
    unsafe fn weights<const N: usize, R: Read<N>>(rows: &R, at: usize, to: &mut impl Sink) {
        for i in 0..32 / R::WIDTH {
            let byte = i * R::WIDTH;
            // SAFETY: the caller's promises.
            unsafe {
                // Bit g of each byte is the third bit of group g of 32.
                let mut high = rows.bytes(at + byte);
                for half in 0..2 {
                    let (v, col) = (rows.bytes(at + 32 + 32 * half + byte), 128 * half + byte);
                    to.columns(col, &both(fields::<0, _>(v, 3), fields::<-2, _>(high, 4)));
                    to.columns(col + 32, &both(fields::<2, _>(v, 3), fields::<-1, _>(high, 4)));
                    to.columns(col + 64, &both(fields::<4, _>(v, 3), fields::<0, _>(high, 4)));
                    to.columns(col + 96, &both(fields::<6, _>(v, 3), fields::<1, _>(high, 4)));
                    for high in &mut high {
                        *high = _mm512_srli_epi16::<4>(*high);
                    }
                }
            }
        }
    }
}

pub(super) struct Iq4Xs;

impl Format for Iq4Xs {
    const BYTES: usize = 136;
    const GROUPS: usize = 8;
    const OFFSET: Option<u32> = Some(OFFSET_8);

    #[inline(always)]
    unsafe fn scales<const H: usize>(rows: &impl Fields, at: usize, to: &mut Scales<H>, h: usize) {
        // SAFETY: the caller's promises.
        unsafe {
            let (first, low) = (rows.word(at), rows.word(at + 4));
            to.d[h] = halves(first).0;
            for g in 0..8 {
                // Four bits of group g at 4 g of one word, two at 16 + 2 g of the other.
                let low = _mm512_and_si512(_mm512_srl_epi32(low, _mm_cvtsi32_si128(4 * g)), _mm512_set1_epi32(15));
                let high = _mm512_and_si512(_mm512_srl_epi32(first, _mm_cvtsi32_si128(16 + 2 * g)), _mm512_set1_epi32(3));
                let scale = _mm512_or_si512(low, _mm512_slli_epi32::<4>(high));
                to.scales[g as usize][h] = _mm512_sub_epi32(scale, _mm512_set1_epi32(32));
            }
        }
    }

    #[inline(always)]
    unsafe fn weights<const N: usize, R: Read<N>>(rows: &R, at: usize, to: &mut impl Sink) {
        for i in 0..128 / R::WIDTH {
            let byte = i * R::WIDTH;
            // SAFETY: the caller's promises.
            unsafe {
                let v = rows.bytes(at + 8 + byte);
                let (low, high) = (levels_of(fields::<0, _>(v, 15)), levels_of(fields::<4, _>(v, 15)));
                // A group of 32 columns has 16 bytes.
                let vectors = N * 16 / R::WIDTH;
                for j in 0..R::WIDTH / 16 {
                    to.columns(2 * byte + 32 * j, &low[j * vectors..][..vectors]);
                    to.columns(2 * byte + 32 * j + 16, &high[j * vectors..][..vectors]);
                }
            }
        }
    }
}
