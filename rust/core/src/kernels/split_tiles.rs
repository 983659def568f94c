//! Kernels of [`super::split`] on AVX-512 registers and AMX tiles.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "one contract for the module: a processor with AVX-512 and AMX, pointers valid for what is touched"
)]

use super::amx;
use super::avx512::F32x16;
use super::exponent;
use super::simd::Simd;
use super::split::{Absorb, DEPTH, LINES, Line, SIDE, Source, SplitTable, Tiles};
use super::split_parts::{Cut, by_turns, cut_off, left, put, turned, upright};
use std::arch::x86_64::*;

pub(super) static TABLE: SplitTable<f32> = SplitTable {
    left,
    turned,
    upright,
    multiply,
    multiply_left,
    absorb,
    multiply_absorb,
};

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

/// `R` row blocks times `W` column blocks, one or two each, or three times one: registers 0 to 3 sum, 4 and 5 hold A, 6 and 7
/// hold B. Of three row blocks the third has what a second column block would have: 1 sums and 7 holds A.
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
    let c20 = c10.wrapping_add(SIDE * t.ldc);
    if t.add {
        amx::load!(0, c00, ldc);
        if W == 2 {
            amx::load!(1, c01, ldc);
        }
        if R >= 2 {
            amx::load!(2, c10, ldc);
        }
        if R * W == 4 {
            amx::load!(3, c11, ldc);
        }
        if R == 3 {
            amx::load!(1, c20, ldc);
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
            if R >= 2 {
                amx::load!(5, a.add(t.a_row + $p * SIDE), STRIDE);
            }
            if R == 3 {
                amx::load!(7, a.add(2 * t.a_row + $p * SIDE), STRIDE);
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
    let (mut a_next, mut b_next);
    macro_rules! products {
        ($sixth:literal) => {
            ahead::<W>(b_next, t.b_column, $sixth);
            ahead::<R>(a_next, t.a_row, $sixth);
            amx::multiply!(0, 4, 6);
            if W == 2 {
                amx::multiply!(1, 4, 7);
            }
            if R >= 2 {
                amx::multiply!(2, 5, 6);
            }
            if R * W == 4 {
                amx::multiply!(3, 5, 7);
            }
            if R == 3 {
                amx::multiply!(1, 7, 6);
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
    if R >= 2 {
        amx::store!(2, c10, ldc);
    }
    if R * W == 4 {
        amx::store!(3, c11, ldc);
    }
    if R == 3 {
        amx::store!(1, c20, ldc);
    }
}

/// Vector work between the products of tiles: the processor does both at once as long as they alternate closely.
trait Beside {
    unsafe fn work(&mut self);
}

/// Rows of blocks that are multiplied three at a time, not two: the last ones of an odd number. One alone would leave its sums
/// waiting for each other.
fn three(rows: usize) -> usize {
    if rows % 2 == 1 && rows > 1 { 3 } else { 0 }
}

/// Calls of [`Beside::work`] during a product.
fn calls(t: &Tiles<f32>) -> usize {
    const STEPS: usize = 6;
    let three = three(t.rows);
    let pairs = (t.rows - three).div_ceil(2) * t.columns.div_ceil(2);
    (pairs + three / 3 * t.columns) * t.groups * STEPS
}

/// How much of some work is due at each of a number of calls.
struct Pace {
    /// Per call, and so far, in units of 2⁻¹⁶.
    step: usize,
    due: usize,
}

impl Pace {
    fn new(work: usize, calls: usize) -> Self {
        Self {
            step: (work << 16).div_ceil(calls.max(1)),
            due: 0,
        }
    }

    #[inline(always)]
    fn next(&mut self) -> usize {
        self.due += self.step;
        let now = self.due >> 16;
        self.due &= 0xffff;
        now
    }
}

struct Nothing;

impl Beside for Nothing {
    #[inline(always)]
    unsafe fn work(&mut self) {}
}

/// The online softmax, stretch by stretch.
struct Softmax {
    a: Absorb<f32>,
    /// Of groups of 32 weights.
    pace: Pace,
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
            pace: Pace::new(a.rows * (a.width / DEPTH), calls),
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

    /// The sum of the row; what was summed before has to fade to the new maximum.
    #[inline(always)]
    unsafe fn end(&mut self) {
        let (a, r) = (&self.a, self.row);
        let (top, sum) = (&mut *a.top.add(r), &mut *a.sum.add(r));
        let mut fade = 1.0;
        if *sum != 0.0 && self.top != *top {
            fade = (*top - self.shift).exp();
            *sum *= fade;
        }
        *a.fade.add(r) = fade;
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
        let now = self.pace.next();
        self.advance(now);
    }
}

/// Rows cut for the next product.
struct Cutting {
    cut: Cut,
    pace: Pace,
}

impl Beside for Cutting {
    #[inline(always)]
    unsafe fn work(&mut self) {
        self.cut.advance(self.pace.next());
    }
}

unsafe fn multiply(t: Tiles<f32>) {
    blocks(t, &mut Nothing);
}

#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn multiply_left(t: Tiles<f32>, from: Source<f32>, to: *mut Line) -> bool {
    let cut = Cut::new(from, to);
    let pace = Pace::new(cut.len(), calls(&t));
    let mut cutting = Cutting { cut, pace };
    blocks(t, &mut cutting);
    cutting.cut.advance(usize::MAX);
    cutting.cut.tame()
}

#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn absorb(a: Absorb<f32>) {
    Softmax::new(a, 1).advance(usize::MAX);
}

#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn multiply_absorb(products: &[Tiles<f32>], a: Absorb<f32>) {
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
    let paired = t.rows - three(t.rows);
    let mut column = 0;
    while column < t.columns {
        let two = column + 2 <= t.columns;
        let mut row = 0;
        while row < paired {
            let pair = row + 2 <= paired;
            // The next rows meet the same columns, after the last ones come the next columns.
            let end = row + if pair { 2 } else { 1 } >= paired;
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
    if paired < t.rows {
        for column in 0..t.columns {
            let next = t.b.wrapping_add((column + 1) * t.b_column);
            block::<3, 1>(&t, paired, column, next, beside);
        }
    }
}
