//! Reading sixteen weight rows at once and interleaving them: lane `r` of a vector is row `r`; or eight, of two lanes each.
//!
//! Everything here is inlined into kernels that enable AVX-512; that they may is the safety condition of all of it, together
//! with the fields' lying within the rows.

use std::arch::x86_64::*;

use super::super::tiles;
use super::Rows;

// Vectors are handled in functions, not in closures, which may be left out of line, where they have no vectors.

/// Weight rows that are read together: each has the same number of a vector's lanes. Sixteen rows fetch the next ones, unless they are
/// [`still`](tiles::Rows::still).
pub(super) trait Fields {
    /// 16 bytes of each row: all lanes of a row have 32-bit word `i` of them in vector `i`.
    unsafe fn words(&self, at: usize) -> [__m512i; 4];

    /// A 32-bit word of each row, in all of its lanes.
    unsafe fn word(&self, at: usize) -> __m512i;

    /// An f16 of each row, in all of its lanes.
    unsafe fn half(&self, at: usize) -> __m512;
}

/// The same rows' bytes in `N` vectors.
pub(super) trait Read<const N: usize>: Fields {
    /// Bytes of each row that [`Read::bytes`] reads.
    const WIDTH: usize;

    /// [`Read::WIDTH`] bytes of each row, in order: its lanes of a vector have one `N`-th of them.
    unsafe fn bytes(&self, at: usize) -> [__m512i; N];
}

impl Fields for Rows {
    #[inline(always)]
    unsafe fn words(&self, at: usize) -> [__m512i; 4] {
        // SAFETY: see the module.
        unsafe { words16(self, at) }
    }

    #[inline(always)]
    unsafe fn word(&self, at: usize) -> __m512i {
        // SAFETY: see the module.
        unsafe { word(self, at) }
    }

    #[inline(always)]
    unsafe fn half(&self, at: usize) -> __m512 {
        // SAFETY: see the module.
        unsafe { half(self, at) }
    }
}

impl Read<4> for Rows {
    const WIDTH: usize = 16;

    #[inline(always)]
    unsafe fn bytes(&self, at: usize) -> [__m512i; 4] {
        // SAFETY: see the module.
        unsafe { words16(self, at) }
    }
}

impl Read<8> for Rows {
    const WIDTH: usize = 32;

    #[inline(always)]
    unsafe fn bytes(&self, at: usize) -> [__m512i; 8] {
        self.prefetch(at, 32);
        // SAFETY: see the module.
        unsafe {
            let ([a, b, c, d], [e, f, g, h]) = (columns4(self, 0, at), columns4(self, 8, at));
            [
                _mm512_shuffle_i64x2::<0x88>(a, e),
                _mm512_shuffle_i64x2::<0x88>(b, f),
                _mm512_shuffle_i64x2::<0x88>(c, g),
                _mm512_shuffle_i64x2::<0x88>(d, h),
                _mm512_shuffle_i64x2::<0xDD>(a, e),
                _mm512_shuffle_i64x2::<0xDD>(b, f),
                _mm512_shuffle_i64x2::<0xDD>(c, g),
                _mm512_shuffle_i64x2::<0xDD>(d, h),
            ]
        }
    }
}

/// Row `r` has lanes `2 r` and `2 r + 1`: fewer streams of memory, and fewer shuffles, for one input row.
impl Read<4> for tiles::Rows<8> {
    const WIDTH: usize = 32;

    #[inline(always)]
    unsafe fn bytes(&self, at: usize) -> [__m512i; 4] {
        // SAFETY: see the module.
        unsafe {
            let [a, b] = [beside::<8, 2>(self, 0, at), beside::<8, 2>(self, 1, at)];
            let [c, d] = [beside::<8, 2>(self, 4, at), beside::<8, 2>(self, 5, at)];
            let [a, b] = [_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b)];
            let [c, d] = [_mm512_unpacklo_epi64(c, d), _mm512_unpackhi_epi64(c, d)];
            [
                _mm512_shuffle_i64x2::<0x88>(a, c),
                _mm512_shuffle_i64x2::<0x88>(b, d),
                _mm512_shuffle_i64x2::<0xDD>(a, c),
                _mm512_shuffle_i64x2::<0xDD>(b, d),
            ]
        }
    }
}

impl Fields for tiles::Rows<8> {
    #[inline(always)]
    unsafe fn words(&self, at: usize) -> [__m512i; 4] {
        // SAFETY: see the module.
        unsafe {
            let [a, b] = [every_other(self, 0, at), every_other(self, 1, at)];
            let [a, c] = [_mm512_unpacklo_epi32(a, a), _mm512_unpackhi_epi32(a, a)];
            let [b, d] = [_mm512_unpacklo_epi32(b, b), _mm512_unpackhi_epi32(b, b)];
            [_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b), _mm512_unpacklo_epi64(c, d), _mm512_unpackhi_epi64(c, d)]
        }
    }

    #[inline(always)]
    unsafe fn word(&self, at: usize) -> __m512i {
        // SAFETY: see the module.
        unsafe {
            let words: [i32; 8] = std::array::from_fn(|r| self.byte(r, at).cast::<i32>().read_unaligned());
            let words = _mm512_cvtepu32_epi64(_mm256_loadu_si256(words.as_ptr().cast()));
            _mm512_or_si512(words, _mm512_slli_epi64::<32>(words))
        }
    }

    #[inline(always)]
    unsafe fn half(&self, at: usize) -> __m512 {
        // SAFETY: see the module.
        unsafe {
            let words = _mm256_cvtepu16_epi32(half8(self, 0, at));
            _mm512_cvtph_ps(_mm256_or_si256(words, _mm256_slli_epi32::<16>(words)))
        }
    }
}

/// 32 bytes of eight rows from `i` on: each four lanes of vector `j` are 32-bit word `j` of four rows, 4 + `j` of the same, and
/// so for the other four.
#[inline(always)]
unsafe fn columns4(rows: &Rows, i: usize, at: usize) -> [__m512i; 4] {
    // SAFETY: see the module.
    unsafe {
        let [a, b] = [beside::<16, 4>(rows, i, at), beside::<16, 4>(rows, i + 1, at)];
        let [c, d] = [beside::<16, 4>(rows, i + 2, at), beside::<16, 4>(rows, i + 3, at)];
        let [a, b] = [_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b)];
        let [c, d] = [_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d)];
        [_mm512_unpacklo_epi64(a, c), _mm512_unpackhi_epi64(a, c), _mm512_unpacklo_epi64(b, d), _mm512_unpackhi_epi64(b, d)]
    }
}

/// 32 bytes of rows `i` and `i + FAR`.
#[inline(always)]
unsafe fn beside<const N: usize, const FAR: usize>(rows: &tiles::Rows<N>, i: usize, at: usize) -> __m512i {
    // SAFETY: see the module.
    unsafe {
        let v = _mm512_castsi256_si512(_mm256_loadu_si256(rows.byte(i, at).cast()));
        _mm512_inserti64x4::<1>(v, _mm256_loadu_si256(rows.byte(i + FAR, at).cast()))
    }
}

/// 16 bytes of rows `i`, `i + 2`, `i + 4` and `i + 6`.
#[inline(always)]
unsafe fn every_other(rows: &tiles::Rows<8>, i: usize, at: usize) -> __m512i {
    // SAFETY: see the module.
    unsafe {
        let v = _mm512_castsi128_si512(_mm_loadu_si128(rows.byte(i, at).cast()));
        let v = _mm512_inserti32x4::<1>(v, _mm_loadu_si128(rows.byte(i + 2, at).cast()));
        let v = _mm512_inserti32x4::<2>(v, _mm_loadu_si128(rows.byte(i + 4, at).cast()));
        _mm512_inserti32x4::<3>(v, _mm_loadu_si128(rows.byte(i + 6, at).cast()))
    }
}

/// 16 bytes of rows `i`, `i + 4`, `i + 8` and `i + 12`.
#[inline(always)]
unsafe fn quad(rows: &Rows, i: usize, at: usize) -> __m512i {
    // SAFETY: see the module.
    unsafe {
        let v = _mm512_castsi128_si512(_mm_loadu_si128(rows.byte(i, at).cast()));
        let v = _mm512_inserti32x4::<1>(v, _mm_loadu_si128(rows.byte(i + 4, at).cast()));
        let v = _mm512_inserti32x4::<2>(v, _mm_loadu_si128(rows.byte(i + 8, at).cast()));
        _mm512_inserti32x4::<3>(v, _mm_loadu_si128(rows.byte(i + 12, at).cast()))
    }
}

/// A 32-bit word of each of four rows.
#[inline(always)]
unsafe fn word4(rows: &Rows, i: usize, at: usize) -> __m128i {
    let mut w = [0i32; 4];
    for (r, w) in (i..).zip(&mut w) {
        // SAFETY: see the module.
        *w = unsafe { rows.byte(r, at).cast::<i32>().read_unaligned() };
    }
    // SAFETY: see the module.
    unsafe { _mm_setr_epi32(w[0], w[1], w[2], w[3]) }
}

/// 16 bits of each of eight rows.
#[inline(always)]
unsafe fn half8<const N: usize>(rows: &tiles::Rows<N>, i: usize, at: usize) -> __m128i {
    let mut h = [0i16; 8];
    for (r, h) in (i..).zip(&mut h) {
        // SAFETY: see the module.
        *h = unsafe { rows.byte(r, at).cast::<i16>().read_unaligned() };
    }
    // SAFETY: see the module.
    unsafe { _mm_setr_epi16(h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7]) }
}

/// 16 bytes of each row: vector `i` of the result is 32-bit word `i` of each. The next rows are fetched, unless
/// the rows are [`still`](Rows::still).
#[inline(always)]
pub(super) unsafe fn words16(rows: &Rows, at: usize) -> [__m512i; 4] {
    rows.prefetch(at, 16);
    // SAFETY: see the module.
    unsafe { transpose(rows, at) }
}

/// As [`words16`], with nothing fetched.
#[inline(always)]
pub(super) unsafe fn transpose(rows: &Rows, at: usize) -> [__m512i; 4] {
    // SAFETY: see the module.
    unsafe {
        let four = [quad(rows, 0, at), quad(rows, 1, at), quad(rows, 2, at), quad(rows, 3, at)];
        let [a, b] = [_mm512_unpacklo_epi32(four[0], four[1]), _mm512_unpackhi_epi32(four[0], four[1])];
        let [c, d] = [_mm512_unpacklo_epi32(four[2], four[3]), _mm512_unpackhi_epi32(four[2], four[3])];
        [_mm512_unpacklo_epi64(a, c), _mm512_unpackhi_epi64(a, c), _mm512_unpacklo_epi64(b, d), _mm512_unpackhi_epi64(b, d)]
    }
}

/// A 32-bit word of each row.
#[inline(always)]
pub(super) unsafe fn word(rows: &Rows, at: usize) -> __m512i {
    // SAFETY: see the module.
    unsafe {
        rows.prefetch(at, 4);
        let v = _mm512_castsi128_si512(word4(rows, 0, at));
        let v = _mm512_inserti32x4::<1>(v, word4(rows, 4, at));
        let v = _mm512_inserti32x4::<2>(v, word4(rows, 8, at));
        _mm512_inserti32x4::<3>(v, word4(rows, 12, at))
    }
}

/// An f16 of each row.
#[inline(always)]
pub(super) unsafe fn half(rows: &Rows, at: usize) -> __m512 {
    // SAFETY: see the module.
    unsafe {
        rows.prefetch(at, 2);
        let v = _mm256_castsi128_si256(half8(rows, 0, at));
        _mm512_cvtph_ps(_mm256_inserti128_si256::<1>(v, half8(rows, 8, at)))
    }
}

/// The two f16 of each lane: low, high.
#[inline(always)]
pub(super) unsafe fn halves(words: __m512i) -> (__m512, __m512) {
    // SAFETY: see the module.
    unsafe {
        let low = _mm512_cvtepi32_epi16(words);
        let high = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(words));
        (_mm512_cvtph_ps(low), _mm512_cvtph_ps(high))
    }
}

/// `(v >> SHIFT) & mask` in each byte; `SHIFT` may be negative.
#[inline(always)]
pub(super) unsafe fn field<const SHIFT: i32>(v: __m512i, mask: u8) -> __m512i {
    // SAFETY: see the module. Bits that come from a neighbouring byte are masked away, `mask` having no bits outside of what
    // the shift leaves of a byte.
    unsafe {
        let shifted = match SHIFT {
            0 => v,
            1.. => _mm512_srl_epi16(v, _mm_cvtsi32_si128(SHIFT)),
            _ => _mm512_sll_epi16(v, _mm_cvtsi32_si128(-SHIFT)),
        };
        _mm512_and_si512(shifted, _mm512_set1_epi8(mask as i8))
    }
}

/// [`field`] of each.
#[inline(always)]
pub(super) unsafe fn fields<const SHIFT: i32, const N: usize>(mut v: [__m512i; N], mask: u8) -> [__m512i; N] {
    for v in &mut v {
        // SAFETY: see the module.
        *v = unsafe { field::<SHIFT>(*v, mask) };
    }
    v
}

/// Low and high bits together.
#[inline(always)]
pub(super) unsafe fn both<const N: usize>(mut a: [__m512i; N], b: [__m512i; N]) -> [__m512i; N] {
    for (a, b) in a.iter_mut().zip(b) {
        // SAFETY: see the module.
        *a = unsafe { _mm512_or_si512(*a, b) };
    }
    a
}

/// What signed bytes are given to be unsigned: [`levels_of`] and [`unsigned`] do.
pub(super) const OFFSET_8: u32 = 7;

/// Signed bytes plus `1 << OFFSET_8`.
#[inline(always)]
pub(super) unsafe fn unsigned(v: __m512i) -> __m512i {
    // SAFETY: see the module.
    unsafe { _mm512_xor_si512(v, _mm512_set1_epi8(i8::MIN)) }
}

/// The levels of IQ4_NL and IQ4_XS for the numbers 0..16 in each byte, plus `1 << OFFSET_8`.
#[inline(always)]
unsafe fn levels(index: __m512i) -> __m512i {
    // SAFETY: see the module.
    unsafe {
        let table = _mm_loadu_si128(super::super::portable::IQ4.as_ptr().cast());
        _mm512_shuffle_epi8(unsigned(_mm512_broadcast_i32x4(table)), index)
    }
}

/// [`levels`] of each.
#[inline(always)]
pub(super) unsafe fn levels_of<const N: usize>(mut v: [__m512i; N]) -> [__m512i; N] {
    for v in &mut v {
        // SAFETY: see the module.
        *v = unsafe { levels(*v) };
    }
    v
}

/// Byte `i` of each lane.
#[inline(always)]
pub(super) unsafe fn byte(words: __m512i, i: u32) -> __m512i {
    // SAFETY: see the module.
    unsafe { _mm512_and_si512(_mm512_srl_epi32(words, _mm_cvtsi32_si128(8 * i as i32)), _mm512_set1_epi32(255)) }
}

/// Byte `i` of each lane, signed.
#[inline(always)]
pub(super) unsafe fn byte_signed(words: __m512i, i: u32) -> __m512i {
    // SAFETY: see the module.
    unsafe { _mm512_srai_epi32::<24>(_mm512_sll_epi32(words, _mm_cvtsi32_si128(24 - 8 * i as i32))) }
}

/// Bytes `i` and `i + 1` of each lane, unsigned, as 16 bits each.
#[inline(always)]
pub(super) unsafe fn pair(words: __m512i, i: i8) -> __m512i {
    // SAFETY: see the module.
    unsafe { in_lanes(words, [i, -1, i + 1, -1]) }
}

/// Bytes of each 32-bit lane by their numbers in it; -1 makes a zero.
#[inline(always)]
pub(super) unsafe fn in_lanes(words: __m512i, bytes: [i8; 4]) -> __m512i {
    // SAFETY: see the module.
    unsafe {
        let lane = |base: i32| {
            let byte = |i: usize| if bytes[i] < 0 { 0x80 } else { bytes[i] as u8 + base as u8 };
            i32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)])
        };
        let order = _mm_setr_epi32(lane(0), lane(4), lane(8), lane(12));
        _mm512_shuffle_epi8(words, _mm512_broadcast_i32x4(order))
    }
}

/// Eight bytes of activations in every two lanes.
#[inline(always)]
pub(super) unsafe fn eight(x: *const i8) -> __m512i {
    // SAFETY: see the module.
    unsafe { _mm512_set1_epi64(x.cast::<i64>().read_unaligned()) }
}

/// Four bytes of activations, or two sums of them, in every lane.
#[inline(always)]
pub(super) unsafe fn four(x: *const i8) -> __m512i {
    // SAFETY: see the module.
    unsafe { _mm512_set1_epi32(x.cast::<i32>().read_unaligned()) }
}
