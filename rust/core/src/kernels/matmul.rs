//! Matrix multiplication C = A·B on small blocks that sit in cache: the register-blocked core of attention and batch scans.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "one contract for the module, stated in `simd`"
)]
#![allow(
    clippy::needless_range_loop,
    reason = "the same index walks several register arrays"
)]

use super::real::Real;
use super::simd::Simd;

/// Lines of B per pass: 128 lines of 64 floats fit in the first cache level.
const DEPTH: usize = 128;

/// Operands of one product, all row-major; `lda`, `ldb` and `ldc` are the distances between rows.
#[derive(Clone, Copy)]
pub(super) struct Product<T> {
    pub n: usize,
    pub width: usize,
    pub depth: usize,
    pub a: *const T,
    pub lda: usize,
    pub b: *const T,
    pub ldb: usize,
    pub c: *mut T,
    pub ldc: usize,
    /// C ← C + A·B instead of C ← A·B.
    pub add: bool,
}

/// Loads the `j`-th of `W` registers, of which only the last may be partial, with `part` lanes.
#[inline(always)]
unsafe fn get<V: Simd, const W: usize, const PART: bool>(p: *const V::E, j: usize, part: usize) -> V {
    if PART && j + 1 == W {
        V::load_part(p.add(j * V::N), part)
    } else {
        V::load(p.add(j * V::N))
    }
}

/// `R` rows from row `i` on times `W` registers of columns, the last of them with `part` lanes where `PART`. One sum per
/// product, over the depth in order: the same bits in every block shape.
#[inline(always)]
unsafe fn block<V: Simd, const R: usize, const W: usize, const PART: bool>(
    p: Product<V::E>,
    i: usize,
    part: usize,
) {
    let (a, c) = (p.a.add(i * p.lda), p.c.add(i * p.ldc));
    let mut acc = [[V::splat(V::E::ZERO); W]; R];
    if p.add {
        for r in 0..R {
            for w in 0..W {
                acc[r][w] = get::<V, W, PART>(c.add(r * p.ldc), w, part);
            }
        }
    }
    let mut b = p.b;
    for k in 0..p.depth {
        let mut line = [V::splat(V::E::ZERO); W];
        for w in 0..W {
            line[w] = get::<V, W, PART>(b, w, part);
        }
        for r in 0..R {
            let x = V::splat(*a.add(r * p.lda + k));
            for w in 0..W {
                acc[r][w] = x.fma(line[w], acc[r][w]);
            }
        }
        b = b.add(p.ldb);
    }
    for r in 0..R {
        for w in 0..W {
            let to = c.add(r * p.ldc + w * V::N);
            if PART && w + 1 == W {
                acc[r][w].store_part(to, part);
            } else {
                acc[r][w].store(to);
            }
        }
    }
}

#[inline(always)]
unsafe fn rows<V: Simd, const R: usize, const W: usize, const PART: bool>(p: Product<V::E>, part: usize) {
    let mut i = 0;
    while i + R <= p.n {
        block::<V, R, W, PART>(p, i, part);
        i += R;
    }
    if i + 4 <= p.n {
        block::<V, 4, W, PART>(p, i, part);
        i += 4;
    }
    if i + 2 <= p.n {
        block::<V, 2, W, PART>(p, i, part);
        i += 2;
    }
    if i < p.n {
        block::<V, 1, W, PART>(p, i, part);
    }
}

/// Columns in groups of as many registers as fit, the last register of the last group partial where `width` is no multiple.
#[inline(always)]
unsafe fn columns<V: Simd>(mut p: Product<V::E>) {
    while p.width > 0 {
        let left = p.width.div_ceil(V::N);
        let w = if V::WIDE { left.min(4) } else { left.min(2) };
        let part = p.width.min(w * V::N) - (w - 1) * V::N;
        match (V::WIDE, w, part == V::N) {
            (true, 4, true) => rows::<V, 6, 4, false>(p, part),
            (true, 4, false) => rows::<V, 6, 4, true>(p, part),
            (true, 3, true) => rows::<V, 8, 3, false>(p, part),
            (true, 3, false) => rows::<V, 8, 3, true>(p, part),
            (true, 2, true) => rows::<V, 8, 2, false>(p, part),
            (true, 2, false) => rows::<V, 8, 2, true>(p, part),
            (false, 2, true) => rows::<V, 6, 2, false>(p, part),
            (false, 2, false) => rows::<V, 6, 2, true>(p, part),
            (_, _, true) => rows::<V, 8, 1, false>(p, part),
            (_, _, false) => rows::<V, 8, 1, true>(p, part),
        }
        let done = p.width.min(w * V::N);
        p.width -= done;
        p.b = p.b.add(done);
        p.c = p.c.add(done);
    }
}

/// C (n, width) ← A (n, depth) · B (depth, width), plus C itself where `add` is set.
#[inline(always)]
pub(super) unsafe fn multiply<V: Simd>(p: Product<V::E>) {
    if p.depth == 0 {
        if !p.add {
            for i in 0..p.n {
                for j in 0..p.width {
                    *p.c.add(i * p.ldc + j) = V::E::ZERO;
                }
            }
        }
        return;
    }
    let mut k = 0;
    while k < p.depth {
        columns::<V>(Product {
            depth: DEPTH.min(p.depth - k),
            a: p.a.add(k),
            b: p.b.add(k * p.ldb),
            add: p.add || k > 0,
            ..p
        });
        k += DEPTH;
    }
}
