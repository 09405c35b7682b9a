//! K formats: super-blocks of 256 weights with integer scales for each 16 or 32.

use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::ops::Range;

use super::super::activations::Words;
use super::super::tiles::{self, Ahead, HALVES};
use super::super::{Job, Matrix};
use super::unpack::{OFFSET_8, Read, Wide, both, byte, byte_signed, eight, field, fields, four, halves, levels_of, pair};
use super::{COLS, Lanes, Rows, Sums};

/// The scales of a super-block of `16 * H` interleaved rows.
#[repr(C, align(64))]
pub(super) struct Scales<const H: usize> {
    /// A group's scale, 32 bits.
    scales: [[__m512i; H]; 16],
    /// Minimums of groups `2 p` and `2 p + 1`, 16 bits each.
    mins: [[__m512i; H]; 8],
    d: [__m512; H],
    dmin: [__m512; H],
}

/// A super-block of `16 * H` interleaved rows.
#[repr(C, align(64))]
pub(super) struct Block<const H: usize> {
    /// Columns `4 k .. 4 k + 4` of each row.
    q: [[__m512i; H]; 64],
    scales: Scales<H>,
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

    /// Interleaves the scales of the super-block at byte `at` into half `h`.
    unsafe fn scales<const N: usize, const H: usize>(rows: &impl Read<N>, at: usize, to: &mut Scales<H>, h: usize);

    /// Interleaves the weights, unsigned, of the super-block at byte `at`, a few columns at a time.
    unsafe fn weights<const N: usize, R: Read<N>>(rows: &R, at: usize, to: &mut impl Sink);
}

/// Where interleaved weights go.
pub(super) trait Sink {
    /// Columns from `col` on, 32 or 16, a multiple of as many. All columns once, in any order. To be inlined as a [`Format`].
    unsafe fn columns(&mut self, col: usize, w: &[__m512i]);
}

/// Into half `h` of a panel.
struct Store<'a, const H: usize> {
    q: &'a mut [[__m512i; H]; 64],
    h: usize,
}

impl<const H: usize> Sink for Store<'_, H> {
    #[inline(always)]
    unsafe fn columns(&mut self, col: usize, w: &[__m512i]) {
        for (to, w) in self.q[col / 4..][..w.len()].iter_mut().zip(w) {
            to[self.h] = *w;
        }
    }
}

/// Times the activations of `C` input rows, at once: weights that meet few rows are not worth storing.
struct Multiply<'a, F, const C: usize> {
    x: Words<C>,
    /// The activations' sums of 16.
    off: [*const i16; C],
    scales: &'a [[__m512i; 1]; 16],
    sums: [[__m512i; 1]; C],
    format: PhantomData<F>,
}

impl<F: Format, const C: usize> Sink for Multiply<'_, F, C> {
    #[inline(always)]
    unsafe fn columns(&mut self, col: usize, w: &[__m512i]) {
        let scale = &self.scales[col * F::GROUPS / 256];
        // SAFETY: see `Rows`; the activations have a super-block's columns.
        unsafe {
            group::<F, 1, C>(w.as_chunks().0, scale, self.x.skip(col), self.off.map(|off| off.add(col / 16)), &mut self.sums)
        };
    }
}

/// Times the activations of one input row, eight weight rows of two lanes each.
struct MultiplyOne<'a, F> {
    x: *const i8,
    off: *const i16,
    scales: &'a [[__m512i; 1]; 16],
    sums: __m512i,
    format: PhantomData<F>,
}

impl<F: Format> Sink for MultiplyOne<'_, F> {
    #[inline(always)]
    unsafe fn columns(&mut self, col: usize, w: &[__m512i]) {
        // An offset is taken off 16 columns at a time.
        let each = if F::GROUPS == 16 || F::OFFSET.is_some() { 16 } else { 32 };
        for (col, w) in (col..).step_by(each).zip(w.chunks(each / 8)) {
            // SAFETY: as above.
            unsafe {
                let mut sums = _mm512_setzero_si512();
                if let Some(offset) = F::OFFSET {
                    let sum = i32::from(*self.off.add(col / 16)) << offset;
                    sums = _mm512_maskz_set1_epi32(0x5555, -sum);
                }
                for (k, w) in w.iter().enumerate() {
                    sums = _mm512_dpbusd_epi32(sums, *w, eight(self.x.add(col + 8 * k)));
                }
                let scale = self.scales[col * F::GROUPS / 256][0];
                self.sums = _mm512_add_epi32(self.sums, _mm512_mullo_epi32(sums, scale));
            }
        }
    }
}

/// [`Tile::few`], of these rows.
///
/// # Safety
/// As there.
#[inline(always)]
unsafe fn multiply<F: Format, const N: usize, const C: usize>(
    job: &Job<'_>,
    rows: &impl Read<N>,
    first: usize,
    sums: &mut Sums<1, C>,
) {
    // SAFETY: any bytes are scales; block `b` lies within each row and within the activations.
    unsafe {
        let (mut scales, mut acc): (Scales<1>, _) = (std::mem::zeroed(), *sums);
        for b in 0..job.matrix.cols() / 256 {
            F::scales(rows, b * F::BYTES, &mut scales, 0);
            let (x, sums) = (job.q256.q.beside(first, b * 256), [[_mm512_setzero_si512(); 1]; C]);
            let off = sums_of(job, &job.q256.sum16, 16, first, b);
            let mut multiply = Multiply::<F, C> { x, off, scales: &scales.scales, sums, format: PhantomData };
            F::weights(rows, b * F::BYTES, &mut multiply);
            settle::<F, 1, C>(job, &scales, &multiply.sums, b, first, &mut acc);
        }
        *sums = acc;
    }
}

/// The sums of whole weight rows `row .. row + 8`, two lanes each, with one input row.
///
/// # Safety
/// As [`Tile::few`].
#[inline(always)]
unsafe fn one<F: Format>(job: &Job<'_>, row: usize, first: usize) -> __m512 {
    let rows = &tiles::Rows::<8>::new(job.matrix, row);
    // SAFETY: any bytes are scales; block `b` lies within each row and within the activations.
    unsafe {
        let (mut scales, mut acc): (Scales<1>, Sums<1, 1>) = std::mem::zeroed();
        for b in 0..job.matrix.cols() / 256 {
            F::scales(rows, b * F::BYTES, &mut scales, 0);
            let [off] = sums_of::<1>(job, &job.q256.sum16, 16, first, b);
            let (x, sums) = (job.q256.q.beside::<1>(first, b * 256).at(0, 0), _mm512_setzero_si512());
            let mut multiply = MultiplyOne::<F> { x, off, scales: &scales.scales, sums, format: PhantomData };
            F::weights(rows, b * F::BYTES, &mut multiply);
            let sums = _mm512_add_epi32(multiply.sums, _mm512_shuffle_epi32::<0xB1>(multiply.sums));
            settle::<F, 1, 1>(job, &scales, &[[sums]], b, first, &mut acc);
        }
        acc[0][0]
    }
}

pub(super) struct Tile<F>(PhantomData<F>);

impl<F: Format> tiles::Tile for Tile<F> {
    type Lanes = Lanes;

    const BLOCK: usize = 256;

    const COLS: usize = COLS;

    type Block = Block<HALVES>;

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn few<const C: usize>(job: &Job<'_>, row: usize, first: usize, sums: &mut Sums<1, C>) {
        if C == 1 {
            // SAFETY: the caller's promises.
            let [a, b] = unsafe { [one::<F>(job, row, first), one::<F>(job, row + 8, first)] };
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            sums[0][0] = _mm512_permutex2var_ps(a, even, b);
            return;
        }
        let rows = Rows::new(job.matrix, row);
        // SAFETY: the caller's promises.
        unsafe {
            // A whole group at a time is fewer multiplications by its scale, but more vectors to hold.
            match C > 4 && F::GROUPS == 8 && F::OFFSET.is_none() {
                true => multiply::<F, 8, C>(job, &Wide(rows), first, sums),
                false => multiply::<F, 4, C>(job, &rows, first, sums),
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn pack(matrix: &Matrix, row: usize, blocks: Range<usize>, panel: &mut [Self::Block], half: usize) {
        let rows = &Wide(Rows::still(matrix, row));
        for (b, block) in blocks.zip(panel) {
            // SAFETY: block `b` lies within each row.
            unsafe {
                F::scales(rows, b * F::BYTES, &mut block.scales, half);
                F::weights(rows, b * F::BYTES, &mut Store { q: &mut block.q, h: half });
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn many<const C: usize>(
        job: &Job<'_>,
        panel: &[Self::Block],
        start: usize,
        first: usize,
        sums: &mut Sums<HALVES, C>,
        ahead: &mut Ahead,
    ) {
        let mut acc = *sums;
        for (b, block) in panel.iter().enumerate() {
            ahead.fetch();
            // SAFETY: the panel's blocks are blocks of the matrix, so the activations have them too.
            unsafe {
                let x = job.q256.q.beside::<C>(first, (start + b) * 256);
                let mut sums = [[_mm512_setzero_si512(); HALVES]; C];
                let words = 64 / F::GROUPS;
                let off = sums_of::<C>(
                    job,
                    if F::GROUPS == 16 { &job.q256.sum16 } else { &job.q256.sum32 },
                    F::GROUPS,
                    first,
                    start + b,
                );
                for (g, scale) in block.scales.scales[..F::GROUPS].iter().enumerate() {
                    let (w, x) = (&block.q[g * words..][..words], x.skip(g * words * 4));
                    group::<F, HALVES, C>(w, scale, x, off.map(|off| off.add(g)), &mut sums);
                }
                settle::<F, HALVES, C>(job, &block.scales, &sums, start + b, first, &mut acc);
            }
        }
        *sums = acc;
    }
}

/// Where the sums of super-block `b` of rows `first..first + C` lie in `sums`, which has `each` of a super-block.
///
/// # Safety
/// There are such rows and super-blocks.
#[inline(always)]
unsafe fn sums_of<const C: usize>(job: &Job<'_>, sums: &[i16], each: usize, first: usize, b: usize) -> [*const i16; C] {
    let blocks = job.matrix.cols() / 256;
    // SAFETY: the caller's promise.
    std::array::from_fn(|c| unsafe { sums.as_ptr().add(((first + c) * blocks + b) * each) })
}

/// Adds the products of a group, or of a part of one, times its scale. `off` are the activations' sums, which an offset of the
/// weights is taken off by.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "the same numbers index several arrays")]
unsafe fn group<F: Format, const H: usize, const C: usize>(
    w: &[[__m512i; H]],
    scale: &[__m512i; H],
    x: Words<C>,
    off: [*const i16; C],
    sums: &mut [[__m512i; H]; C],
) {
    // SAFETY: the caller enables the instructions; `x` has as many columns, `off` is a sum of each row.
    unsafe {
        let mut group = [[_mm512_setzero_si512(); H]; C];
        if let Some(offset) = F::OFFSET {
            for c in 0..C {
                let sum = _mm512_srai_epi32::<16>(_mm512_set1_epi16(*off[c]));
                let shifted = _mm512_sll_epi32(sum, _mm_cvtsi32_si128(offset as i32));
                group[c] = [_mm512_sub_epi32(_mm512_setzero_si512(), shifted); H];
            }
        }
        for (k, w) in w.iter().enumerate() {
            for c in 0..C {
                let x = four(x.at(k, c));
                for h in 0..H {
                    group[c][h] = _mm512_dpbusd_epi32(group[c][h], w[h], x);
                }
            }
        }
        for c in 0..C {
            for h in 0..H {
                sums[c][h] = _mm512_add_epi32(sums[c][h], _mm512_mullo_epi32(group[c][h], scale[h]));
            }
        }
    }
}

/// Adds a super-block's sums to those of the row, and what minimums make.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "the same numbers index several arrays")]
unsafe fn settle<F: Format, const H: usize, const C: usize>(
    job: &Job<'_>,
    scales: &Scales<H>,
    sums: &[[__m512i; H]; C],
    b: usize,
    first: usize,
    acc: &mut Sums<H, C>,
) {
    // SAFETY: the caller enables the instructions, block `b` and rows `first..first + C` exist in the activations.
    unsafe {
        let (x, cols) = (job.q256, job.matrix.cols());
        let of_groups = sums_of::<C>(job, if F::GROUPS == 16 { &x.sum16 } else { &x.sum32 }, F::GROUPS, first, b);
        for c in 0..C {
            let d = _mm512_set1_ps(*x.d.as_ptr().add((first + c) * (cols / 256) + b));
            for h in 0..H {
                acc[c][h] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[c][h]), _mm512_mul_ps(scales.d[h], d), acc[c][h]);
            }
            if F::MIN {
                let mut mins = [_mm512_setzero_si512(); H];
                for (p, min) in scales.mins[..F::GROUPS / 2].iter().enumerate() {
                    let two = four(of_groups[c].add(2 * p).cast());
                    for h in 0..H {
                        mins[h] = _mm512_dpwssd_epi32(mins[h], min[h], two);
                    }
                }
                for h in 0..H {
                    acc[c][h] = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(mins[h]), _mm512_mul_ps(scales.dmin[h], d), acc[c][h]);
                }
            }
        }
    }
}

/// Scales and minimums of Q4_K and Q5_K, which share their first 16 bytes.
#[inline(always)]
unsafe fn six_bits<const N: usize, const H: usize>(rows: &impl Read<N>, at: usize, to: &mut Scales<H>, h: usize) {
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
    unsafe fn scales<const N: usize, const H: usize>(rows: &impl Read<N>, at: usize, to: &mut Scales<H>, h: usize) {
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
    unsafe fn scales<const N: usize, const H: usize>(rows: &impl Read<N>, at: usize, to: &mut Scales<H>, h: usize) {
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
    unsafe fn scales<const N: usize, const H: usize>(rows: &impl Read<N>, at: usize, to: &mut Scales<H>, h: usize) {
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
    unsafe fn scales<const N: usize, const H: usize>(rows: &impl Read<N>, at: usize, to: &mut Scales<H>, h: usize) {
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
    unsafe fn scales<const N: usize, const H: usize>(rows: &impl Read<N>, at: usize, to: &mut Scales<H>, h: usize) {
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
    unsafe fn scales<const N: usize, const H: usize>(rows: &impl Read<N>, at: usize, to: &mut Scales<H>, h: usize) {
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
