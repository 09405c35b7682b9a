//! Products of K formats: super-blocks of 256 weights with integer scales for each 16 or 32.

use std::arch::x86_64::*;
use std::marker::PhantomData;
use std::ops::Range;

use super::super::activations::Words;
use super::super::tiles::{self, Ahead, HALVES};
use super::super::{Job, Matrix};
use super::k_formats::{Format, Scales, Sink};
use super::unpack::{Read, eight, four};
use super::{COLS, Lanes, Rows, Sums};
use crate::fetch::Pace;

/// A super-block of `16 * H` interleaved rows.
#[repr(C, align(64))]
pub(super) struct Block<const H: usize> {
    /// Columns `4 k .. 4 k + 4` of each row.
    q: [[__m512i; H]; 64],
    scales: Scales<H>,
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

/// Times the activations of `C` input rows, at once: weights that meet few rows are not worth storing. Columns that are handed on
/// together are of one group, and of one sum of activations where there is an offset.
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
        debug_assert!(w.len() == 4 || w.len() == 8 && F::AT_ONCE == 32);
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
    ahead: &'a mut Pace,
    format: PhantomData<F>,
}

impl<F: Format> Sink for MultiplyOne<'_, F> {
    #[inline(always)]
    unsafe fn columns(&mut self, col: usize, w: &[__m512i]) {
        for (col, w) in (col..).step_by(F::AT_ONCE).zip(w.chunks(F::AT_ONCE / 8)) {
            self.ahead.fetch(8 * F::BYTES * F::AT_ONCE / 256);
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
            let mut to = Multiply::<F, C> { x, off, scales: &scales.scales, sums, format: PhantomData };
            F::weights(rows, b * F::BYTES, &mut to);
            settle::<F, 1, C>(job, &scales, &to.sums, b, first, &mut acc);
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
    let mut ahead = rows.ahead();
    // SAFETY: any bytes are scales; block `b` lies within each row and within the activations.
    unsafe {
        let (mut scales, mut acc): (Scales<1>, Sums<1, 1>) = std::mem::zeroed();
        for b in 0..job.matrix.cols() / 256 {
            F::scales(rows, b * F::BYTES, &mut scales, 0);
            let [off] = sums_of::<1>(job, &job.q256.sum16, 16, first, b);
            let (x, sums) = (job.q256.q.beside::<1>(first, b * 256).at(0, 0), _mm512_setzero_si512());
            let mut to = MultiplyOne::<F> { x, off, scales: &scales.scales, sums, ahead: &mut ahead, format: PhantomData };
            F::weights(rows, b * F::BYTES, &mut to);
            let sums = _mm512_add_epi32(to.sums, _mm512_shuffle_epi32::<0xB1>(to.sums));
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
        let rows = &Rows::new(job.matrix, row);
        // SAFETY: the caller's promises.
        unsafe {
            // A whole group at a time is fewer multiplications by its scale, but more vectors to hold.
            match C > 4 && F::AT_ONCE == 32 {
                true => multiply::<F, 8, C>(job, rows, first, sums),
                false => multiply::<F, 4, C>(job, rows, first, sums),
            }
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    unsafe fn pack(matrix: &Matrix, row: usize, blocks: Range<usize>, panel: &mut [Self::Block], half: usize) {
        let rows = &Rows::still(matrix, row);
        for (b, block) in blocks.zip(panel) {
            // SAFETY: block `b` lies within each row.
            unsafe {
                F::scales(rows, b * F::BYTES, &mut block.scales, half);
                F::weights::<8, _>(rows, b * F::BYTES, &mut Store { q: &mut block.q, h: half });
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
            ahead.fetch(1);
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
pub(super) unsafe fn settle<F: Format, const H: usize, const C: usize>(
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
