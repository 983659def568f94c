//! Kernels of [`super::split`] on AVX-512 registers and AMX tiles.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "one contract for the module: a processor with AVX-512 and AMX, pointers valid for what is touched"
)]
#![allow(
    clippy::needless_range_loop,
    reason = "the same index walks registers and memory"
)]

use super::amx;
use super::avx512::F32x16;
use super::simd::Simd;
use super::split::{Absorb, DEPTH, LINES, Line, SIDE, Source, SplitTable, TAME, Tiles};
use super::{exponent, rows};
use std::arch::x86_64::*;

pub(super) static TABLE: SplitTable<f32> = SplitTable {
    left,
    turned,
    upright,
    multiply,
    absorb,
    multiply_absorb,
};

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
unsafe fn cut_off(x: __m512) -> [__m512i; 3] {
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
unsafe fn by_turns([ah, am, al]: [__m512i; 3], [bh, bm, bl]: [__m512i; 3]) -> [__m512i; 3] {
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
unsafe fn put(tile: *mut Line, line: usize, [high, middle, low]: [__m512i; 3]) {
    let p = tile.add(line);
    _mm512_store_si512(p.cast(), high);
    _mm512_store_si512(p.add(SIDE).cast(), middle);
    _mm512_store_si512(p.add(2 * SIDE).cast(), low);
}

#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn left(from: Source<f32>, to: *mut Line) -> bool {
    let groups = from.columns.div_ceil(DEPTH);
    let mut most = _mm512_setzero_si512();
    for r in 0..from.rows {
        let row = from.x.add(r * from.stride);
        for g in 0..groups {
            let a = some(row, g * DEPTH, from.columns);
            let b = some(row, g * DEPTH + 16, from.columns);
            most = magnitude(magnitude(most, a), b);
            let tile = to.add((r / SIDE * groups + g) * LINES);
            put(tile, r % SIDE, pairs(a, b));
        }
    }
    tame(most)
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
unsafe fn turned(from: Source<f32>, to: *mut Line) -> bool {
    let groups = from.columns.div_ceil(DEPTH);
    let mut most = _mm512_setzero_si512();
    let zero = F32x16::splat(0.0);
    for block in 0..from.rows.div_ceil(SIDE) {
        for g in 0..groups {
            let tile = to.add((block * groups + g) * LINES);
            for r in 0..SIDE {
                let row = block * SIDE + r;
                let (mut a, mut b) = (_mm512_setzero_ps(), _mm512_setzero_ps());
                if row < from.rows {
                    let row = from.x.add(row * from.stride);
                    a = some(row, g * DEPTH, from.columns);
                    b = some(row, g * DEPTH + 16, from.columns);
                }
                most = magnitude(magnitude(most, a), b);
                put(tile, r, pairs(a, b));
            }
            // In place: sixteen registers hold one part.
            for p in 0..3 {
                let lines = tile.add(p * SIDE).cast::<f32>();
                let mut r = [zero; SIDE];
                for i in 0..SIDE {
                    r[i] = F32x16::load(lines.add(i * 16));
                }
                let r = turn(r);
                for i in 0..SIDE {
                    r[i].store(lines.add(i * 16));
                }
            }
        }
    }
    tame(most)
}

#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn upright(from: Source<f32>, to: *mut Line) -> bool {
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

/// Groups of the depth at a time: what the blocks of rows and columns share meanwhile stays in the first cache level.
const NEAR: usize = 4;

/// Bytes between rows of a tile in memory.
const STRIDE: usize = 64;

/// Asks for a sixth of the tiles at `x`. All at once they would keep the tiles at hand waiting.
#[inline(always)]
unsafe fn ahead<const N: usize>(x: *const Line, step: usize, sixth: usize) {
    for n in 0..N {
        for line in 0..LINES / 6 {
            _mm_prefetch::<_MM_HINT_T0>(x.wrapping_add(n * step + sixth * (LINES / 6) + line).cast());
        }
    }
}

/// `R` row blocks times `W` column blocks, one or two each: registers 0 to 3 sum, 4 and 5 hold A, 6 and 7 hold B.
#[inline(always)]
unsafe fn block<const R: usize, const W: usize>(
    t: &Tiles<f32>,
    row: usize,
    column: usize,
    next: *const Line,
    beside: &mut impl Beside,
) {
    let ldc = t.ldc * 4;
    let c00 = t.c.add((row * t.ldc + column) * SIDE);
    let (c01, c10) = (c00.wrapping_add(SIDE), c00.wrapping_add(SIDE * t.ldc));
    let c11 = c10.wrapping_add(SIDE);
    if t.add {
        amx::load!(0, c00, ldc);
        if W == 2 {
            amx::load!(1, c01, ldc);
        }
        if R == 2 {
            amx::load!(2, c10, ldc);
        }
        if R * W == 4 {
            amx::load!(3, c11, ldc);
        }
    } else {
        amx::zero!(0);
        amx::zero!(1);
        amx::zero!(2);
        amx::zero!(3);
    }
    let mut a = t.a.add(row * t.a_row);
    let mut b = t.b.add(column * t.b_column);
    macro_rules! left {
        ($p:expr) => {
            amx::load!(4, a.add($p * SIDE), STRIDE);
            if R == 2 {
                amx::load!(5, a.add(t.a_row + $p * SIDE), STRIDE);
            }
        };
    }
    macro_rules! right {
        ($p:expr) => {
            amx::load!(6, b.add($p * SIDE), STRIDE);
            if W == 2 {
                amx::load!(7, b.add(t.b_column + $p * SIDE), STRIDE);
            }
        };
    }
    let (mut a_next, mut b_next) = (a, b);
    macro_rules! products {
        ($sixth:literal) => {
            ahead::<W>(b_next, t.b_column, $sixth);
            ahead::<R>(a_next, t.a_row, $sixth);
            amx::multiply!(0, 4, 6);
            if W == 2 {
                amx::multiply!(1, 4, 7);
            }
            if R == 2 {
                amx::multiply!(2, 5, 6);
            }
            if R * W == 4 {
                amx::multiply!(3, 5, 7);
            }
            beside.work();
        };
    }
    for g in 0..t.groups {
        // The next tiles come from a farther cache.
        let last = g + 1 == t.groups;
        b_next = if last { next } else { b.add(t.b_group) };
        a_next = a.wrapping_add(LINES);
        // Small products first; each step changes one operand.
        left!(0);
        right!(2);
        products!(0);
        right!(1);
        products!(1);
        left!(1);
        products!(2);
        right!(0);
        products!(3);
        left!(2);
        products!(4);
        left!(0);
        products!(5);
        a = a.add(LINES);
        b = b.add(t.b_group);
    }
    amx::store!(0, c00, ldc);
    if W == 2 {
        amx::store!(1, c01, ldc);
    }
    if R == 2 {
        amx::store!(2, c10, ldc);
    }
    if R * W == 4 {
        amx::store!(3, c11, ldc);
    }
}

/// Vector work between the products of tiles: the processor does both at once as long as they alternate closely.
trait Beside {
    unsafe fn work(&mut self);
}

struct Nothing;

impl Beside for Nothing {
    #[inline(always)]
    unsafe fn work(&mut self) {}
}

/// The online softmax, stretch by stretch.
struct Softmax {
    a: Absorb<f32>,
    /// Groups of 32 weights at each call.
    pace: usize,
    row: usize,
    group: usize,
    /// Of the row at hand.
    top: f32,
    shift: f32,
    sums: [F32x16; 2],
}

impl Softmax {
    #[inline(always)]
    unsafe fn new(a: Absorb<f32>, calls: usize) -> Self {
        Self {
            pace: (a.rows * (a.width / DEPTH)).div_ceil(calls.max(1)),
            a,
            row: 0,
            group: 0,
            top: 0.0,
            shift: 0.0,
            sums: [F32x16::splat(0.0); 2],
        }
    }

    /// The maximum of the row.
    #[inline(always)]
    unsafe fn begin(&mut self) {
        let a = &self.a;
        let top = *a.top.add(self.row);
        let line = a.logits.add(self.row * a.width);
        self.top = top.max(exponent::largest::<F32x16>(line, a.width));
        // −∞ so far: any finite shift keeps e^{−∞} = 0. NaN stays in the logits.
        self.shift = if self.top == f32::NEG_INFINITY {
            0.0
        } else {
            self.top
        };
        self.sums = [F32x16::splat(0.0); 2];
    }

    /// Weights of `count` groups of the row.
    #[inline(always)]
    unsafe fn weights(&mut self, count: usize) {
        let a = &self.a;
        let s = F32x16::splat(self.shift);
        let line = a.logits.add(self.row * a.width);
        let out = a.out.add(self.row / SIDE * a.out_row);
        let mut sums = self.sums;
        for g in self.group..self.group + count {
            let p = line.add(g * DEPTH);
            let x = F32x16::load(p).sub(s).decay();
            let y = F32x16::load(p.add(16)).sub(s).decay();
            sums = [sums[0].add(x), sums[1].add(y)];
            put(
                out.add(g * LINES),
                self.row % SIDE,
                by_turns(cut_off(x.0), cut_off(y.0)),
            );
        }
        self.sums = sums;
        self.group += count;
    }

    /// The sum of the row; what was summed before fades to the new maximum.
    #[inline(always)]
    unsafe fn end(&mut self) {
        let (a, r) = (&self.a, self.row);
        let (top, sum) = (&mut *a.top.add(r), &mut *a.sum.add(r));
        if *sum != 0.0 && self.top != *top {
            let fade = (*top - self.shift).exp();
            *sum *= fade;
            rows::scale::<F32x16>(fade, a.acc.add(r * a.dv), a.dv);
        }
        *sum += self.sums[0].add(self.sums[1]).sum();
        *top = self.top;
        self.row += 1;
        self.group = 0;
    }

    #[inline(always)]
    unsafe fn advance(&mut self, mut count: usize) {
        let groups = self.a.width / DEPTH;
        while count > 0 && self.row < self.a.rows {
            if self.group == 0 {
                self.begin();
            }
            let now = count.min(groups - self.group);
            self.weights(now);
            count -= now;
            if self.group == groups {
                self.end();
            }
        }
    }
}

impl Beside for Softmax {
    #[inline(always)]
    unsafe fn work(&mut self) {
        self.advance(self.pace);
    }
}

unsafe fn multiply(t: Tiles<f32>) {
    blocks(t, &mut Nothing);
}

#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn absorb(a: Absorb<f32>) {
    Softmax::new(a, 1).advance(usize::MAX);
}

#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn multiply_absorb(products: &[Tiles<f32>], a: Absorb<f32>) {
    const STEPS: usize = 6;
    let calls = |t: &Tiles<f32>| t.rows.div_ceil(2) * t.columns.div_ceil(2) * t.groups * STEPS;
    let mut softmax = Softmax::new(a, products.iter().map(calls).sum());
    for t in products {
        blocks(*t, &mut softmax);
    }
    softmax.advance(usize::MAX);
}

#[inline(always)]
unsafe fn blocks(t: Tiles<f32>, beside: &mut impl Beside) {
    for g in (0..t.groups.max(1)).step_by(NEAR) {
        let part = Tiles {
            a: t.a.add(g * LINES),
            b: t.b.add(g * t.b_group),
            groups: NEAR.min(t.groups - g),
            add: t.add || g > 0,
            ..t
        };
        near_blocks(part, beside);
    }
}

#[inline(always)]
unsafe fn near_blocks(t: Tiles<f32>, beside: &mut impl Beside) {
    let mut column = 0;
    while column < t.columns {
        let two = column + 2 <= t.columns;
        let mut row = 0;
        while row < t.rows {
            let pair = row + 2 <= t.rows;
            // The next rows meet the same columns, after the last ones come the next columns.
            let end = row + if pair { 2 } else { 1 } >= t.rows;
            let next =
                t.b.wrapping_add(if end { column + 2 } else { column } * t.b_column);
            match (pair, two) {
                (true, true) => block::<2, 2>(&t, row, column, next, beside),
                (true, false) => block::<2, 1>(&t, row, column, next, beside),
                (false, true) => block::<1, 2>(&t, row, column, next, beside),
                (false, false) => block::<1, 1>(&t, row, column, next, beside),
            }
            row += if pair { 2 } else { 1 };
        }
        column += if two { 2 } else { 1 };
    }
}
