//! Reading eight weight rows at once and interleaving them: lane `r` of a vector is row `r`.
//!
//! Everything here is inlined into kernels that enable AVX2 and F16C; that they may is the safety condition of all of it,
//! together with the fields' lying within the rows.

use std::arch::x86_64::*;

use super::Rows;

// Vectors are handled in functions, not in closures, which may be left out of line, where they have no vectors.

/// 16 bytes of rows `i` and `i + 4`.
#[inline(always)]
unsafe fn two(rows: &Rows, i: usize, at: usize) -> __m256i {
    // SAFETY: see the module.
    unsafe {
        let low = _mm256_castsi128_si256(_mm_loadu_si128(rows.byte(i, at).cast()));
        _mm256_inserti128_si256::<1>(low, _mm_loadu_si128(rows.byte(i + 4, at).cast()))
    }
}

/// 16 bytes of each row: vector `i` of the result is 32-bit word `i` of each.
#[inline(always)]
pub(super) unsafe fn words16(rows: &Rows, at: usize) -> [__m256i; 4] {
    // SAFETY: see the module.
    unsafe {
        let four = [two(rows, 0, at), two(rows, 1, at), two(rows, 2, at), two(rows, 3, at)];
        let [a, b] = [_mm256_unpacklo_epi32(four[0], four[1]), _mm256_unpackhi_epi32(four[0], four[1])];
        let [c, d] = [_mm256_unpacklo_epi32(four[2], four[3]), _mm256_unpackhi_epi32(four[2], four[3])];
        [_mm256_unpacklo_epi64(a, c), _mm256_unpackhi_epi64(a, c), _mm256_unpacklo_epi64(b, d), _mm256_unpackhi_epi64(b, d)]
    }
}

/// A 32-bit word of each row.
#[inline(always)]
pub(super) unsafe fn word(rows: &Rows, at: usize) -> __m256i {
    // SAFETY: see the module.
    unsafe {
        let w = |i: usize| rows.byte(i, at).cast::<i32>().read_unaligned();
        _mm256_setr_epi32(w(0), w(1), w(2), w(3), w(4), w(5), w(6), w(7))
    }
}

/// An f16 of each row.
#[inline(always)]
pub(super) unsafe fn half(rows: &Rows, at: usize) -> __m256 {
    // SAFETY: see the module.
    unsafe {
        let h = |i: usize| rows.byte(i, at).cast::<i16>().read_unaligned();
        _mm256_cvtph_ps(_mm_setr_epi16(h(0), h(1), h(2), h(3), h(4), h(5), h(6), h(7)))
    }
}

/// The two f16 of each lane: low, high.
#[inline(always)]
pub(super) unsafe fn halves(words: __m256i) -> (__m256, __m256) {
    // SAFETY: see the module.
    unsafe {
        let order = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
        let sorted = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_shuffle_epi8(words, order));
        let (low, high) = (_mm256_castsi256_si128(sorted), _mm256_extracti128_si256::<1>(sorted));
        (_mm256_cvtph_ps(low), _mm256_cvtph_ps(high))
    }
}

/// `(v >> SHIFT) & mask` in each byte; `SHIFT` may be negative.
#[inline(always)]
pub(super) unsafe fn field<const SHIFT: i32>(v: __m256i, mask: u8) -> __m256i {
    // SAFETY: see the module. Bits that come from a neighbouring byte are masked away, `mask` having no bits outside of what
    // the shift leaves of a byte.
    unsafe {
        let shifted = match SHIFT {
            0 => v,
            1.. => _mm256_srl_epi16(v, _mm_cvtsi32_si128(SHIFT)),
            _ => _mm256_sll_epi16(v, _mm_cvtsi32_si128(-SHIFT)),
        };
        _mm256_and_si256(shifted, _mm256_set1_epi8(mask as i8))
    }
}

/// The levels of IQ4_NL and IQ4_XS for the numbers 0..16 in each byte.
#[inline(always)]
pub(super) unsafe fn levels(index: __m256i) -> __m256i {
    // SAFETY: see the module.
    unsafe {
        let table = _mm_loadu_si128(super::super::portable::IQ4.as_ptr().cast());
        _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), index)
    }
}

/// Byte `i` of each lane, unsigned, twice as 16 bits.
#[inline(always)]
pub(super) unsafe fn twice(words: __m256i, i: i8) -> __m256i {
    // SAFETY: see the module.
    unsafe { in_lanes(words, [i, -1, i, -1]) }
}

/// Bytes `i` and `i + 1` of each lane, unsigned, as 16 bits each.
#[inline(always)]
pub(super) unsafe fn pair(words: __m256i, i: i8) -> __m256i {
    // SAFETY: see the module.
    unsafe { in_lanes(words, [i, -1, i + 1, -1]) }
}

/// As [`twice`], signed.
#[inline(always)]
pub(super) unsafe fn twice_signed(words: __m256i, i: i8) -> __m256i {
    // SAFETY: see the module.
    unsafe { _mm256_srai_epi16::<8>(in_lanes(words, [-1, i, -1, i])) }
}

/// As [`pair`], signed.
#[inline(always)]
pub(super) unsafe fn pair_signed(words: __m256i, i: i8) -> __m256i {
    // SAFETY: see the module.
    unsafe { _mm256_srai_epi16::<8>(in_lanes(words, [-1, i, -1, i + 1])) }
}

/// Bytes of each 32-bit lane by their numbers in it; -1 makes a zero.
#[inline(always)]
pub(super) unsafe fn in_lanes(words: __m256i, bytes: [i8; 4]) -> __m256i {
    // SAFETY: see the module.
    unsafe {
        let lane = |base: i32| {
            let byte = |i: usize| if bytes[i] < 0 { 0x80 } else { bytes[i] as u8 + base as u8 };
            i32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)])
        };
        let order = _mm_setr_epi32(lane(0), lane(4), lane(8), lane(12));
        _mm256_shuffle_epi8(words, _mm256_broadcastsi128_si256(order))
    }
}

/// Sums of neighbouring products of unsigned `w` and signed `x`, 16 bits each.
#[inline(always)]
pub(super) unsafe fn unsigned(w: __m256i, x: __m256i) -> __m256i {
    // SAFETY: see the module.
    unsafe { _mm256_maddubs_epi16(w, x) }
}

/// Sums of neighbouring products of signed `w` and signed `x`, 16 bits each: exact for `x` in -127..=127.
#[inline(always)]
pub(super) unsafe fn signed(w: __m256i, x: __m256i) -> __m256i {
    // SAFETY: see the module. At most 2 * 128 * 127 = 32512.
    unsafe { _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w)) }
}

/// 32 bytes.
#[inline(always)]
pub(super) unsafe fn load(at: *const u8) -> __m256i {
    // SAFETY: see the module.
    unsafe { _mm256_loadu_si256(at.cast()) }
}

/// Four bytes of activations in every lane.
#[inline(always)]
pub(super) unsafe fn four(x: *const i8) -> __m256i {
    // SAFETY: see the module.
    unsafe { _mm256_set1_epi32(x.cast::<i32>().read_unaligned()) }
}

/// The same, but the compiler does not know: it would otherwise turn chains of integer additions, which fill the registers
/// just right, into trees, which do not fit.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn as_written(v: __m256i) -> __m256i {
    let mut v = v;
    // SAFETY: no instruction at all.
    unsafe { std::arch::asm!("/* {0} */", inout(ymm_reg) v, options(pure, nomem, nostack, preserves_flags)) };
    v
}
