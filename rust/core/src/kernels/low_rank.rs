//! The adapter's kernels: y = x + s·B(Ax) for rank 1 and 2, written once over [`Lanes`].
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "one contract for the module, stated in `lanes`"
)]

use super::aligned::Aligned;
use super::lanes::Lanes;
use super::rows::{axpy, dot, row_sums};
use super::scalar::Projections;

#[inline(always)]
unsafe fn apply1<V: Lanes>(x: *const f32, a: *const f32, b: *const f32, s: f32, out: *mut f32, d: usize) {
    let h = V::splat(s * dot::<V>(a, x, d));
    let mut i = 0;
    while i + V::N <= d {
        V::load(b.add(i)).fma(h, V::load(x.add(i))).store(out.add(i));
        i += V::N;
    }
    if i < d {
        let m = d - i;
        V::load_part(b.add(i), m)
            .fma(h, V::load_part(x.add(i), m))
            .store_part(out.add(i), m);
    }
}

/// The two columns of `b` (d, 2) for rows `i..i + m`, `m < N`.
#[inline(always)]
pub(super) unsafe fn columns<V: Lanes>(b: *const f32, i: usize, m: usize) -> (V, V) {
    let p = b.add(2 * i);
    if 2 * m >= V::N {
        V::deinterleave(V::load(p), V::load_part(p.add(V::N), 2 * m - V::N))
    } else {
        V::deinterleave(V::load_part(p, 2 * m), V::splat(0.0))
    }
}

#[inline(always)]
unsafe fn apply2<V: Lanes>(x: *const f32, a: *const f32, b: *const f32, s: f32, out: *mut f32, d: usize) {
    let [h0, h1] = row_sums::<V, 2>([a, a.add(d)], x, d);
    let (h0, h1) = (V::splat(s * h0.sum()), V::splat(s * h1.sum()));
    let mut i = 0;
    while i + V::N <= d {
        let (b0, b1) = V::deinterleave(V::load(b.add(2 * i)), V::load(b.add(2 * i + V::N)));
        b1.fma(h1, b0.fma(h0, V::load(x.add(i)))).store(out.add(i));
        i += V::N;
    }
    if i < d {
        let m = d - i;
        let (b0, b1) = columns::<V>(b, i, m);
        b1.fma(h1, b0.fma(h0, V::load_part(x.add(i), m)))
            .store_part(out.add(i), m);
    }
}

/// Lengths are checked: `a` and `b` hold `rank * d`, `out` holds `d`.
#[inline(always)]
pub(super) unsafe fn apply<V: Lanes>(
    x: &[f32],
    a: *const f32,
    b: *const f32,
    rank: usize,
    s: f32,
    out: *mut f32,
) {
    let d = x.len();
    match rank {
        1 => apply1::<V>(x.as_ptr(), a, b, s, out, d),
        2 => apply2::<V>(x.as_ptr(), a, b, s, out, d),
        _ => {
            // Any other rank: the activations in blocks of 16, so that nothing is allocated.
            std::ptr::copy_nonoverlapping(x.as_ptr(), out, d);
            let mut from = 0;
            while from < rank {
                let mut h = [0.0f32; 16];
                let width = (rank - from).min(16);
                for (j, h) in h.iter_mut().enumerate().take(width) {
                    *h = s * dot::<V>(a.add((from + j) * d), x.as_ptr(), d);
                }
                for i in 0..d {
                    *out.add(i) += dot::<V>(b.add(i * rank + from), h.as_ptr(), width);
                }
                from += width;
            }
        }
    }
}

/// [`apply2`] with `bt` the transpose (2, d) of B: the same operations in the same order.
#[inline(always)]
unsafe fn apply2_transposed<V: Lanes>(
    x: *const f32,
    a: *const f32,
    bt: *const f32,
    s: f32,
    out: *mut f32,
    d: usize,
) {
    let [h0, h1] = row_sums::<V, 2>([a, a.add(d)], x, d);
    let (h0, h1) = (V::splat(s * h0.sum()), V::splat(s * h1.sum()));
    let bt1 = bt.add(d);
    let mut i = 0;
    while i + V::N <= d {
        let y = V::load(bt.add(i)).fma(h0, V::load(x.add(i)));
        V::load(bt1.add(i)).fma(h1, y).store(out.add(i));
        i += V::N;
    }
    if i < d {
        let m = d - i;
        let y = V::load_part(bt.add(i), m).fma(h0, V::load_part(x.add(i), m));
        V::load_part(bt1.add(i), m).fma(h1, y).store_part(out.add(i), m);
    }
}

/// Rows of `x` (n, d), each as [`apply`] does it, so that a batch equals its single calls bit for bit.
#[inline(always)]
pub(super) unsafe fn apply_rows<V: Lanes>(
    x: &[f32],
    d: usize,
    a: &[f32],
    b: &[f32],
    rank: usize,
    s: f32,
    out: *mut f32,
) {
    let n = x.len().checked_div(d).unwrap_or(0);
    let mut i = 0;
    // From a few rows on it pays to transpose B and to put both factors on cache lines.
    if rank == 2 && n >= 8 {
        let a = Aligned::from(a);
        let mut bt = Aligned::zeros(2 * d);
        let (b0, b1) = bt.split_at_mut(d);
        for (b, (b0, b1)) in b.chunks_exact(2).zip(b0.iter_mut().zip(b1)) {
            (*b0, *b1) = (b[0], b[1]);
        }
        while i < n {
            let row = x.as_ptr().add(i * d);
            apply2_transposed::<V>(row, a.as_ptr(), bt.as_ptr(), s, out.add(i * d), d);
            i += 1;
        }
    }
    while i < n {
        let row = &x[i * d..(i + 1) * d];
        apply::<V>(row, a.as_ptr(), b.as_ptr(), rank, s, out.add(i * d));
        i += 1;
    }
}

/// Ax and Bᵀg for rank 1 or 2.
#[inline(always)]
pub(super) unsafe fn project<V: Lanes>(
    x: &[f32],
    g: *const f32,
    a: *const f32,
    b: *const f32,
    rank: usize,
) -> Projections {
    let (x, d) = (x.as_ptr(), x.len());
    if rank == 1 {
        return Projections {
            ax: [dot::<V>(a, x, d), 0.0],
            bg: [dot::<V>(b, g, d), 0.0],
        };
    }
    let [h0, h1] = row_sums::<V, 2>([a, a.add(d)], x, d);
    let mut u = [[V::splat(0.0); 2]; 2];
    let mut i = 0;
    while i + 2 * V::N <= d {
        for (j, u) in u.iter_mut().enumerate() {
            let at = i + j * V::N;
            let (b0, b1) = V::deinterleave(V::load(b.add(2 * at)), V::load(b.add(2 * at + V::N)));
            let g = V::load(g.add(at));
            *u = [b0.fma(g, u[0]), b1.fma(g, u[1])];
        }
        i += 2 * V::N;
    }
    while i < d {
        let m = (d - i).min(V::N);
        let (g, (b0, b1)) = if m == V::N {
            let pair = V::deinterleave(V::load(b.add(2 * i)), V::load(b.add(2 * i + V::N)));
            (V::load(g.add(i)), pair)
        } else {
            (V::load_part(g.add(i), m), columns::<V>(b, i, m))
        };
        u[0] = [b0.fma(g, u[0][0]), b1.fma(g, u[0][1])];
        i += m;
    }
    Projections {
        ax: [h0.sum(), h1.sum()],
        bg: [u[0][0].add(u[1][0]).sum(), u[0][1].add(u[1][1]).sum()],
    }
}

/// da[r] += bg[r]·x and db[·, r] += ax[r]·g.
#[inline(always)]
pub(super) unsafe fn update<V: Lanes>(
    x: &[f32],
    g: *const f32,
    by: &Projections,
    rank: usize,
    da: *mut f32,
    db: *mut f32,
) {
    let (x, d) = (x.as_ptr(), x.len());
    if rank == 1 {
        axpy::<V>(by.bg[0], x, da, d);
        return axpy::<V>(by.ax[0], g, db, d);
    }
    let (p0, p1) = (V::splat(by.bg[0]), V::splat(by.bg[1]));
    let q = V::alternate(by.ax[0], by.ax[1]);
    let da1 = da.add(d);
    let mut i = 0;
    while i + V::N <= d {
        let v = V::load(x.add(i));
        v.fma(p0, V::load(da.add(i))).store(da.add(i));
        v.fma(p1, V::load(da1.add(i))).store(da1.add(i));
        let (lo, hi) = V::load(g.add(i)).twice();
        let to = db.add(2 * i);
        lo.fma(q, V::load(to)).store(to);
        hi.fma(q, V::load(to.add(V::N))).store(to.add(V::N));
        i += V::N;
    }
    if i < d {
        let m = d - i;
        let v = V::load_part(x.add(i), m);
        v.fma(p0, V::load_part(da.add(i), m)).store_part(da.add(i), m);
        v.fma(p1, V::load_part(da1.add(i), m)).store_part(da1.add(i), m);
        let (lo, hi) = V::load_part(g.add(i), m).twice();
        let to = db.add(2 * i);
        if 2 * m >= V::N {
            lo.fma(q, V::load(to)).store(to);
            let to = to.add(V::N);
            hi.fma(q, V::load_part(to, 2 * m - V::N))
                .store_part(to, 2 * m - V::N);
        } else {
            lo.fma(q, V::load_part(to, 2 * m)).store_part(to, 2 * m);
        }
    }
}
