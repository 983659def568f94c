//! The adapter's kernels: y = x + s·B(Ax) for rank 1 and 2, written once over [`Lanes`].
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "one contract for the module, stated in `lanes`"
)]

use super::dense::{dot, row_sums};
use super::lanes::Lanes;

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
