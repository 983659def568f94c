//! Numbers cut into the parts of [`super::split`], and matrices into tiles of them, on AVX-512 registers.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "one contract for the module: a processor with AVX-512, pointers valid for what is touched"
)]
#![allow(
    clippy::needless_range_loop,
    reason = "the same index walks registers and memory"
)]

use super::avx512::F32x16;
use super::simd::Simd;
use super::split::{DEPTH, LINES, Line, SIDE, Source, TAME};
use std::arch::x86_64::*;

/// High, middle and low part, each a float whose lower half is zero unless it lies below the normal numbers; the sum is `x`.
#[inline(always)]
unsafe fn parts(x: __m512) -> [__m512i; 3] {
    // Rounded to the nearest: half the error of cutting off, and the rest may have either sign.
    let high = round(x);
    let rest = _mm512_sub_ps(x, _mm512_castsi512_ps(high));
    let middle = round(rest);
    let low = _mm512_sub_ps(rest, _mm512_castsi512_ps(middle));
    [high, middle, _mm512_castps_si512(low)]
}

/// To 8 significant bits.
#[inline(always)]
unsafe fn round(x: __m512) -> __m512i {
    let up = _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000));
    _mm512_and_si512(up, _mm512_set1_epi32(0xffff_0000u32.cast_signed()))
}

/// [`parts`] of numbers that are not negative, cut off instead of rounded: less work, and the sum is still `x`.
#[inline(always)]
pub(super) unsafe fn cut_off(x: __m512) -> [__m512i; 3] {
    let upper = _mm512_set1_epi32(0xffff_0000u32.cast_signed());
    let high = _mm512_and_si512(_mm512_castps_si512(x), upper);
    let rest = _mm512_sub_ps(x, _mm512_castsi512_ps(high));
    let middle = _mm512_and_si512(_mm512_castps_si512(rest), upper);
    let low = _mm512_sub_ps(rest, _mm512_castsi512_ps(middle));
    [high, middle, _mm512_castps_si512(low)]
}

/// Two registers of numbers to the pairs (aᵢ, bᵢ) of each part: depths i and i + 16 of a group sit side by side. Every operand
/// is laid out so; the order within a group does not matter as long as both sides agree.
#[inline(always)]
pub(super) unsafe fn pairs(a: __m512, b: __m512) -> [__m512i; 3] {
    by_turns(parts(a), parts(b))
}

#[inline(always)]
pub(super) unsafe fn by_turns([ah, am, al]: [__m512i; 3], [bh, bm, bl]: [__m512i; 3]) -> [__m512i; 3] {
    [side_by_side(ah, bh), side_by_side(am, bm), side_by_side(al, bl)]
}

/// The upper halves of `a` and `b`. Lower halves are not always zero: a low part below the normal numbers has bits there.
#[inline(always)]
unsafe fn side_by_side(a: __m512i, b: __m512i) -> __m512i {
    const A_OR_B_AND_C: i32 = 0xf8;
    let upper = _mm512_set1_epi32(0xffff_0000u32.cast_signed());
    _mm512_ternarylogic_epi32::<A_OR_B_AND_C>(_mm512_srli_epi32::<16>(a), b, upper)
}

/// Sixteen values of a row of `columns` from column `at` on, zeros beyond its end.
#[inline(always)]
pub(super) unsafe fn some(row: *const f32, at: usize, columns: usize) -> __m512 {
    let left = columns.saturating_sub(at).min(16);
    _mm512_maskz_loadu_ps(((1u32 << left) - 1) as __mmask16, row.wrapping_add(at))
}

/// The larger magnitude, as bits: NaN and infinity are above all numbers.
#[inline(always)]
unsafe fn magnitude(most: __m512i, x: __m512) -> __m512i {
    let bits = _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(i32::MAX));
    _mm512_max_epu32(most, bits)
}

#[inline(always)]
unsafe fn tame(most: __m512i) -> bool {
    _mm512_reduce_max_epu32(most) < TAME.to_bits()
}

#[inline(always)]
pub(super) unsafe fn put(tile: *mut Line, line: usize, [high, middle, low]: [__m512i; 3]) {
    let p = tile.add(line);
    _mm512_store_si512(p.cast(), high);
    _mm512_store_si512(p.add(SIDE).cast(), middle);
    _mm512_store_si512(p.add(2 * SIDE).cast(), low);
}

/// Rows on their way to a left operand.
pub(super) struct Cut {
    from: Source<f32>,
    to: *mut Line,
    groups: usize,
    row: usize,
    group: usize,
    most: __m512i,
}

impl Cut {
    #[inline(always)]
    pub unsafe fn new(from: Source<f32>, to: *mut Line) -> Self {
        Self {
            from,
            to,
            groups: from.columns.div_ceil(DEPTH),
            row: 0,
            group: 0,
            most: _mm512_setzero_si512(),
        }
    }

    /// Lines that there are to write, each in three parts.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.from.rows.next_multiple_of(SIDE) * self.groups
    }

    /// Writes the next `count` of them, or those that are left.
    #[inline(always)]
    pub unsafe fn advance(&mut self, mut count: usize) {
        let scale = _mm512_set1_ps(self.from.scale);
        while count > 0 && self.row < self.from.rows.next_multiple_of(SIDE) {
            let now = count.min(self.groups - self.group);
            // Zeros fill up the last block.
            let inside = self.row < self.from.rows;
            let columns = if inside { self.from.columns } else { 0 };
            let row = self.from.x.wrapping_add(self.row * self.from.stride);
            let tiles = self.to.add(self.row / SIDE * self.groups * LINES);
            for g in self.group..self.group + now {
                let a = _mm512_mul_ps(some(row, g * DEPTH, columns), scale);
                let b = _mm512_mul_ps(some(row, g * DEPTH + 16, columns), scale);
                self.most = magnitude(magnitude(self.most, a), b);
                put(tiles.add(g * LINES), self.row % SIDE, pairs(a, b));
            }
            count -= now;
            self.group += now;
            if self.group == self.groups {
                self.group = 0;
                self.row += 1;
            }
        }
    }

    /// Whether all that was written is tame.
    #[inline(always)]
    pub unsafe fn tame(&self) -> bool {
        tame(self.most)
    }
}

#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn left(from: Source<f32>, to: *mut Line) -> bool {
    let mut cut = Cut::new(from, to);
    cut.advance(usize::MAX);
    cut.tame()
}

/// Rows to columns.
#[inline(always)]
pub(super) unsafe fn turn(mut r: [F32x16; SIDE]) -> [F32x16; SIDE] {
    for _ in 0..4 {
        let mut next = r;
        for i in 0..SIDE / 2 {
            (next[2 * i], next[2 * i + 1]) = r[i].interleave(r[i + SIDE / 2]);
        }
        r = next;
    }
    r
}

#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn turned(from: Source<f32>, to: *mut Line) -> bool {
    let groups = from.columns.div_ceil(DEPTH);
    let mut most = _mm512_setzero_si512();
    for block in 0..from.rows.div_ceil(SIDE) {
        for g in 0..groups {
            let mut half = |at: usize| {
                let mut r = [F32x16::splat(0.0); SIDE];
                for i in 0..SIDE.min(from.rows - block * SIDE) {
                    r[i].0 = some(from.x.add((block * SIDE + i) * from.stride), at, from.columns);
                    most = magnitude(most, r[i].0);
                }
                turn(r)
            };
            let (a, b) = (half(g * DEPTH), half(g * DEPTH + 16));
            let tile = to.add((block * groups + g) * LINES);
            for i in 0..SIDE {
                put(tile, i, pairs(a[i].0, b[i].0));
            }
        }
    }
    tame(most)
}

#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) unsafe fn upright(from: Source<f32>, to: *mut Line) -> bool {
    let blocks = from.columns.div_ceil(SIDE);
    let mut most = _mm512_setzero_si512();
    for g in 0..from.rows.div_ceil(DEPTH) {
        for i in 0..SIDE {
            let rows = [g * DEPTH + i, g * DEPTH + 16 + i];
            for c in 0..blocks {
                let mut pair = [_mm512_setzero_ps(); 2];
                for j in 0..2 {
                    if rows[j] < from.rows {
                        pair[j] = some(from.x.add(rows[j] * from.stride), c * SIDE, from.columns);
                    }
                    most = magnitude(most, pair[j]);
                }
                let tile = to.add((g * blocks + c) * LINES);
                put(tile, i, pairs(pair[0], pair[1]));
            }
        }
    }
    tame(most)
}
