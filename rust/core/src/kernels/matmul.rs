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

/// `R` rows from row `i` on times `W` registers of columns. One sum per product, over the depth in order: the same bits in
/// every block shape.
#[inline(always)]
unsafe fn block<V: Simd, const R: usize, const W: usize>(p: Product<V::E>, i: usize) {
    let (a, c) = (p.a.add(i * p.lda), p.c.add(i * p.ldc));
    let mut acc = [[V::splat(V::E::ZERO); W]; R];
    if p.add {
        for r in 0..R {
            for w in 0..W {
                acc[r][w] = V::load(c.add(r * p.ldc + w * V::N));
            }
        }
    }
    let mut b = p.b;
    for k in 0..p.depth {
        let mut line = [V::splat(V::E::ZERO); W];
        for w in 0..W {
            line[w] = V::load(b.add(w * V::N));
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
            acc[r][w].store(c.add(r * p.ldc + w * V::N));
        }
    }
}

/// [`block`] of one row and the last `width < N` columns.
#[inline(always)]
unsafe fn corner<V: Simd>(p: Product<V::E>, i: usize) {
    let (a, c) = (p.a.add(i * p.lda), p.c.add(i * p.ldc));
    let mut acc = if p.add {
        V::load_part(c, p.width)
    } else {
        V::splat(V::E::ZERO)
    };
    for k in 0..p.depth {
        acc = V::splat(*a.add(k)).fma(V::load_part(p.b.add(k * p.ldb), p.width), acc);
    }
    acc.store_part(c, p.width);
}

#[inline(always)]
unsafe fn rows<V: Simd, const R: usize, const W: usize>(p: Product<V::E>) {
    let mut i = 0;
    while i + R <= p.n {
        block::<V, R, W>(p, i);
        i += R;
    }
    while i + 2 <= p.n {
        block::<V, 2, W>(p, i);
        i += 2;
    }
    if i < p.n {
        block::<V, 1, W>(p, i);
    }
}

#[inline(always)]
unsafe fn columns<V: Simd>(mut p: Product<V::E>) {
    while p.width >= V::N {
        let w = match (V::WIDE, p.width / V::N) {
            (true, 4..) => {
                rows::<V, 6, 4>(p);
                4
            }
            (true, 3) => {
                rows::<V, 8, 3>(p);
                3
            }
            (true, 2) => {
                rows::<V, 8, 2>(p);
                2
            }
            (false, 2..) => {
                rows::<V, 6, 2>(p);
                2
            }
            _ => {
                rows::<V, 8, 1>(p);
                1
            }
        };
        p.width -= w * V::N;
        p.b = p.b.add(w * V::N);
        p.c = p.c.add(w * V::N);
    }
    if p.width > 0 {
        for i in 0..p.n {
            corner::<V>(p, i);
        }
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
