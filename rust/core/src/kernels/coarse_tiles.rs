//! Kernels of [`super::coarse`] on AVX-512 registers and AMX tiles.
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
use super::coarse::{Coarse, CoarseTable, GROUP};
use super::nearest::{Lines, Nearest, Sink, TILE};
use super::simd::Simd;
use super::split::{DEPTH, SIDE};
use super::split_parts::{pairs, some, turn};
use std::arch::x86_64::*;
use std::mem::MaybeUninit;

pub(super) static TABLE: CoarseTable = CoarseTable {
    columns,
    rows,
    nearest,
    scores,
};

/// Floats of 16 rows in one part.
const PART: usize = SIDE * SIDE;
/// Rows of a block of scores.
const ROWS: usize = 2 * SIDE;
/// Bytes between rows of a tile in memory.
const STRIDE: usize = 64;

#[inline(always)]
unsafe fn cut<const COLUMNS: bool>(rows: &[&[f32]], d: usize, to: *mut f32) {
    for g in 0..d.div_ceil(DEPTH) {
        let mut parts = [[F32x16::splat(0.0); SIDE]; 2];
        for (r, row) in rows.iter().enumerate().take(SIDE) {
            let a = some(row.as_ptr(), g * DEPTH, d);
            let b = some(row.as_ptr(), g * DEPTH + 16, d);
            let [high, middle, _] = pairs(a, b);
            parts[0][r] = F32x16(_mm512_castsi512_ps(high));
            parts[1][r] = F32x16(_mm512_castsi512_ps(middle));
        }
        for (p, part) in parts.into_iter().enumerate() {
            let part = if COLUMNS { turn(part) } else { part };
            for i in 0..SIDE {
                part[i].store(to.add(g * GROUP + p * PART + i * 16));
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn columns(rows: &[&[f32]], d: usize, to: *mut f32) {
    cut::<true>(rows, d, to);
}

#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn rows(rows: &[&[f32]], d: usize, to: *mut f32) {
    cut::<false>(rows, d, to);
}

#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn nearest(sites: &Coarse, tile: &[f32], mut out: &mut Nearest) {
    scan(sites, tile, &mut out);
}

#[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn scores(sites: &Coarse, tile: &[f32], out: &mut [f32], stride: usize) {
    scan(sites, tile, &mut Lines { out, stride });
}

/// Two blocks of products, one of which is written while the other is read.
#[repr(C, align(64))]
struct Products([f32; 2 * ROWS * TILE]);

/// What is left to take of a block of products: some rows after each group of the next block, so that tiles and vectors work
/// at the same time.
struct Waiting<'s, S> {
    sink: &'s mut S,
    products: *const f32,
    half_norms: &'s [f32],
    row: usize,
    end: usize,
    first: usize,
}

/// Rows that go to a sink at a time.
const STEP: usize = 4;

impl<S: Sink> Waiting<'_, S> {
    #[inline(always)]
    unsafe fn take<const R: usize>(&mut self) {
        let mut scores = [[F32x16::splat(0.0); 2]; R];
        for r in 0..R {
            let p = self.products.add((self.row + r) * TILE);
            let half = F32x16::splat(*self.half_norms.get_unchecked(self.first + self.row + r));
            scores[r] = [F32x16::load(p).sub(half), F32x16::load(p.add(16)).sub(half)];
        }
        self.sink.take::<F32x16, R>(scores, self.first + self.row, 0);
        self.row += R;
    }

    #[inline(always)]
    unsafe fn advance(&mut self, until: usize) {
        let until = until.min(self.end);
        while self.row + STEP <= until {
            self.take::<STEP>();
        }
        if until == self.end {
            while self.row < until {
                self.take::<1>();
            }
        }
    }
}

#[inline(always)]
unsafe fn scan(sites: &Coarse, tile: &[f32], sink: &mut impl Sink) {
    let (k, groups) = (sites.half_norms.len(), sites.d.div_ceil(DEPTH));
    let mut products = MaybeUninit::<Products>::uninit();
    let buffer = products.as_mut_ptr().cast::<f32>();
    let mut waiting = Waiting {
        sink,
        products: buffer,
        half_norms: &sites.half_norms,
        row: 0,
        end: 0,
        first: 0,
    };
    // Tiles mostly follow one another in memory: all blocks together fetch the next one.
    let side = groups * GROUP;
    let mut next = Next {
        line: tile.as_ptr().wrapping_add(2 * side),
        count: (2 * side / 16).div_ceil(k.div_ceil(ROWS) * groups * 3).max(1),
    };
    for (turn, first) in (0..k).step_by(ROWS).enumerate() {
        let a = sites.data.as_ptr().add(first / SIDE * groups * GROUP);
        let c = buffer.add(turn % 2 * ROWS * TILE);
        if first + SIDE < k {
            block::<2, _>(a, tile.as_ptr(), groups, c, &mut next, &mut waiting);
        } else {
            block::<1, _>(a, tile.as_ptr(), groups, c, &mut next, &mut waiting);
        }
        waiting.products = c;
        (waiting.row, waiting.end, waiting.first) = (0, ROWS.min(k - first), first);
    }
    waiting.advance(ROWS);
}

/// What is read after this tile, and how many lines of it are asked for at each step.
struct Next {
    line: *const f32,
    count: usize,
}

impl Next {
    #[inline(always)]
    unsafe fn fetch(&mut self) {
        for _ in 0..self.count {
            _mm_prefetch::<_MM_HINT_T1>(self.line.cast());
            self.line = self.line.wrapping_add(16);
        }
    }
}

/// `R` blocks of 16 centroids times two of 16 points: registers 0 to 3 sum, 4 and 5 hold centroids, 6 and 7 points.
#[inline(always)]
unsafe fn block<const R: usize, S: Sink>(
    a: *const f32,
    b: *const f32,
    groups: usize,
    c: *mut f32,
    next: &mut Next,
    waiting: &mut Waiting<'_, S>,
) {
    const LDC: usize = TILE * 4;
    let side = groups * GROUP;
    let (mut a, mut b) = (a, b);
    let pace = ROWS.div_ceil(groups).next_multiple_of(STEP);
    amx::zero!(0);
    amx::zero!(1);
    if R == 2 {
        amx::zero!(2);
        amx::zero!(3);
    }
    macro_rules! left {
        ($p:expr) => {
            amx::load!(4, a.add($p * PART), STRIDE);
            if R == 2 {
                amx::load!(5, a.add(side + $p * PART), STRIDE);
            }
        };
    }
    macro_rules! right {
        ($p:expr) => {
            amx::load!(6, b.add($p * PART), STRIDE);
            amx::load!(7, b.add(side + $p * PART), STRIDE);
        };
    }
    macro_rules! products {
        () => {
            next.fetch();
            amx::multiply!(0, 4, 6);
            amx::multiply!(1, 4, 7);
            if R == 2 {
                amx::multiply!(2, 5, 6);
                amx::multiply!(3, 5, 7);
            }
        };
    }
    for g in 0..groups {
        // Small products first; each step changes one operand.
        left!(0);
        right!(1);
        products!();
        right!(0);
        products!();
        left!(1);
        products!();
        a = a.add(GROUP);
        b = b.add(GROUP);
        waiting.advance((g + 1) * pace);
    }
    waiting.advance(ROWS);
    amx::store!(0, c, LDC);
    amx::store!(1, c.add(SIDE), LDC);
    if R == 2 {
        amx::store!(2, c.add(SIDE * TILE), LDC);
        amx::store!(3, c.add(SIDE * TILE + SIDE), LDC);
    }
}
