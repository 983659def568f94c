//! Signed-byte products, written once over [`Bytes`]. Integers: every order of summation gives the same result.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "one contract for the module, stated in `lanes`"
)]

use super::lanes::{Bytes, Lanes, prefetch_row};

#[inline(always)]
unsafe fn row_sums<B: Bytes, const R: usize>(rows: [*const i8; R], q: *const i8, n: usize) -> [B::Acc; R] {
    let mut acc = [B::zero(); R];
    let mut i = 0;
    while i + B::N <= n {
        let x = B::load(q.add(i));
        for r in 0..R {
            acc[r] = B::mac(acc[r], B::load(rows[r].add(i)), x);
        }
        i += B::N;
    }
    if i < n {
        let x = B::load_part(q.add(i), n - i);
        for r in 0..R {
            acc[r] = B::mac(acc[r], B::load_part(rows[r].add(i), n - i), x);
        }
    }
    acc
}

/// What [`Bytes::mac`] adds beyond the products, for the whole of `q`.
#[inline(always)]
unsafe fn bias<B: Bytes>(q: *const i8, n: usize) -> i32 {
    let mut acc = B::zero();
    let mut i = 0;
    while i + B::N <= n {
        acc = B::bias(acc, B::load(q.add(i)));
        i += B::N;
    }
    if i < n {
        acc = B::bias(acc, B::load_part(q.add(i), n - i));
    }
    B::sum(acc)
}

#[inline(always)]
pub(super) unsafe fn dot<B: Bytes>(a: *const i8, b: *const i8, n: usize) -> i32 {
    let [s] = row_sums::<B, 1>([a], b, n);
    B::sum(s).wrapping_sub(bias::<B>(b, n))
}

#[inline(always)]
pub(super) unsafe fn gemv<B: Bytes>(rows: *const i8, d: usize, q: *const i8, out: &mut [i32]) {
    let bias = bias::<B>(q, d);
    let mut p = rows;
    let mut four = out.chunks_exact_mut(4);
    for o in &mut four {
        let s = B::sums4(row_sums::<B, 4>([p, p.add(d), p.add(2 * d), p.add(3 * d)], q, d));
        for (o, s) in o.iter_mut().zip(s) {
            *o = s.wrapping_sub(bias);
        }
        p = p.add(4 * d);
    }
    for o in four.into_remainder() {
        let [s] = row_sums::<B, 1>([p], q, d);
        *o = B::sum(s).wrapping_sub(bias);
        p = p.add(d);
    }
}

/// q = round(x / s) with s = max|x| / 127; returns s, and 1 for a row of zeros.
#[inline(always)]
pub(super) unsafe fn quantize<V: Lanes>(x: *const f32, q: *mut i8, n: usize) -> f32 {
    let mut m = [V::splat(0.0); 2];
    let mut i = 0;
    while i + 2 * V::N <= n {
        for (j, m) in m.iter_mut().enumerate() {
            *m = V::load(x.add(i + j * V::N)).abs().max(*m);
        }
        i += 2 * V::N;
    }
    while i < n {
        let w = (n - i).min(V::N);
        let v = if w == V::N {
            V::load(x.add(i))
        } else {
            V::load_part(x.add(i), w)
        };
        m[0] = v.abs().max(m[0]);
        i += w;
    }
    let s = super::scalar::byte_scale(m[0].max(m[1]).largest());
    let (step, limit) = (V::splat(s), V::splat(127.0));
    let low = V::splat(-127.0);
    i = 0;
    while i < n {
        let w = (n - i).min(V::N);
        let v = if w == V::N {
            V::load(x.add(i))
        } else {
            V::load_part(x.add(i), w)
        };
        v.div(step).min(limit).max(low).store_i8(q.add(i), w);
        i += w;
    }
    s
}

/// Bit `i` is set where `x[i] >= bar`, for up to 64 sums.
#[inline(always)]
pub(super) unsafe fn reach<B: Bytes>(x: *const i32, n: usize, bar: i32) -> u64 {
    let lanes = B::N / 4;
    let mut bits = 0;
    let mut i = 0;
    while i + lanes <= n {
        bits |= u64::from(B::at_least(x.add(i), bar)) << i;
        i += lanes;
    }
    while i < n {
        bits |= u64::from(*x.add(i) >= bar) << i;
        i += 1;
    }
    bits
}

/// Rows whose cache lines are on their way while four are summed.
const AHEAD: usize = 8;

/// The rows come from anywhere in memory.
#[inline(always)]
pub(super) unsafe fn gather_dot<B: Bytes>(
    rows: *const i8,
    d: usize,
    index: &[usize],
    q: *const i8,
    out: &mut [i32],
) {
    for i in index.iter().take(AHEAD) {
        prefetch_row(rows.add(i * d), d);
    }
    let bias = bias::<B>(q, d);
    let (i4, i1) = index.as_chunks::<4>();
    let (o4, o1) = out.as_chunks_mut::<4>();
    for (b, (i, o)) in i4.iter().zip(o4).enumerate() {
        for next in index.iter().skip(4 * b + AHEAD).take(4) {
            prefetch_row(rows.add(next * d), d);
        }
        let s = B::sums4(row_sums::<B, 4>(i.map(|i| rows.wrapping_add(i * d)), q, d));
        for (o, s) in o.iter_mut().zip(s) {
            *o = s.wrapping_sub(bias);
        }
    }
    for (i, o) in i1.iter().zip(o1) {
        let [s] = row_sums::<B, 1>([rows.add(i * d)], q, d);
        *o = B::sum(s).wrapping_sub(bias);
    }
}
