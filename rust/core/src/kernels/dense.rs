//! Vector and matrix-vector kernels, written once over [`Lanes`].
//!
//! One order of summation everywhere, that of [`super::rows`]: `dot`, `gemv`, `gather_dot` and the scans agree bit for bit,
//! wherever a row lies.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "one contract for the module, stated in `lanes`"
)]
#![allow(
    clippy::needless_range_loop,
    reason = "the same index walks several register arrays"
)]

use super::lanes::{Lanes, prefetch_row};
use super::rows::{dot, row_sums};

#[inline(always)]
unsafe fn dot4<V: Lanes>(rows: [*const f32; 4], q: *const f32, n: usize) -> [f32; 4] {
    if V::WIDE {
        V::sums4(row_sums::<V, 4>(rows, q, n))
    } else {
        let [a, b] = row_sums::<V, 2>([rows[0], rows[1]], q, n);
        let [c, d] = row_sums::<V, 2>([rows[2], rows[3]], q, n);
        V::sums4([a, b, c, d])
    }
}

#[inline(always)]
pub(super) unsafe fn squared_l2<V: Lanes>(a: *const f32, b: *const f32, n: usize) -> f32 {
    let mut acc = [V::splat(0.0); 4];
    let mut i = 0;
    while i + 4 * V::N <= n {
        for (j, s) in acc.iter_mut().enumerate() {
            let at = i + j * V::N;
            let t = V::load(a.add(at)).sub(V::load(b.add(at)));
            *s = t.fma(t, *s);
        }
        i += 4 * V::N;
    }
    for s in acc.iter_mut().take(3) {
        if i + V::N <= n {
            let t = V::load(a.add(i)).sub(V::load(b.add(i)));
            *s = t.fma(t, *s);
            i += V::N;
        }
    }
    if i < n {
        let t = V::load_part(a.add(i), n - i).sub(V::load_part(b.add(i), n - i));
        acc[3] = t.fma(t, acc[3]);
    }
    acc[0].add(acc[1]).add(acc[2].add(acc[3])).sum()
}

#[inline(always)]
pub(super) unsafe fn all_finite<V: Lanes>(x: *const f32, n: usize) -> bool {
    // A finite value times zero is ±0, anything else is NaN: sums of such products are zero or NaN.
    let zero = V::splat(0.0);
    let mut acc = [zero; 4];
    let mut i = 0;
    while i + 4 * V::N <= n {
        for (j, s) in acc.iter_mut().enumerate() {
            *s = V::load(x.add(i + j * V::N)).fma(zero, *s);
        }
        i += 4 * V::N;
    }
    while i + V::N <= n {
        acc[0] = V::load(x.add(i)).fma(zero, acc[0]);
        i += V::N;
    }
    if i < n {
        acc[1] = V::load_part(x.add(i), n - i).fma(zero, acc[1]);
    }
    acc[0].add(acc[1]).add(acc[2].add(acc[3])).finite()
}

#[inline(always)]
pub(super) unsafe fn gemv<V: Lanes>(rows: *const f32, d: usize, q: *const f32, out: &mut [f32]) {
    let mut p = rows;
    let mut four = out.chunks_exact_mut(4);
    for o in &mut four {
        let s = dot4::<V>([p, p.add(d), p.add(2 * d), p.add(3 * d)], q, d);
        o.copy_from_slice(&s);
        p = p.add(4 * d);
    }
    for o in four.into_remainder() {
        *o = dot::<V>(p, q, d);
        p = p.add(d);
    }
}

#[inline(always)]
pub(super) unsafe fn gather_dot<V: Lanes>(
    rows: *const f32,
    d: usize,
    index: &[usize],
    q: *const f32,
    out: &mut [f32],
) {
    let (i4, i1) = index.as_chunks::<4>();
    let (o4, o1) = out.as_chunks_mut::<4>();
    for (b, (i, o)) in i4.iter().zip(o4).enumerate() {
        for next in index.iter().skip(4 * b + 4).take(4) {
            prefetch_row(rows.add(next * d), 4 * d);
        }
        *o = dot4::<V>(i.map(|i| rows.wrapping_add(i * d)), q, d);
    }
    for (i, o) in i1.iter().zip(o1) {
        *o = dot::<V>(rows.add(i * d), q, d);
    }
}

#[inline(always)]
pub(super) unsafe fn gather_squared_l2<V: Lanes>(
    rows: *const f32,
    d: usize,
    index: &[usize],
    q: *const f32,
    out: &mut [f32],
) {
    for (n, (i, o)) in index.iter().zip(out).enumerate() {
        if let Some(next) = index.get(n + 2) {
            prefetch_row(rows.add(next * d), 4 * d);
        }
        *o = squared_l2::<V>(q, rows.add(i * d), d);
    }
}

/// Adds `Σ wᵢ rowᵢ` to `W` registers of `out` at column `at`; the last register holds `part` lanes if `part > 0`.
#[inline(always)]
unsafe fn weighted_columns<V: Lanes, const W: usize>(
    rows: *const f32,
    d: usize,
    index: &[usize],
    w: &[f32],
    out: *mut f32,
    at: usize,
) {
    let mut acc = [V::splat(0.0); W];
    for (j, a) in acc.iter_mut().enumerate() {
        *a = V::load(out.add(at + j * V::N));
    }
    for (i, w) in index.iter().zip(w) {
        let p = rows.add(i * d + at);
        let s = V::splat(*w);
        for (j, a) in acc.iter_mut().enumerate() {
            *a = V::load(p.add(j * V::N)).fma(s, *a);
        }
    }
    for (j, a) in acc.iter().enumerate() {
        a.store(out.add(at + j * V::N));
    }
}

#[inline(always)]
pub(super) unsafe fn weighted_sum_rows<V: Lanes>(
    rows: *const f32,
    d: usize,
    index: &[usize],
    w: &[f32],
    out: *mut f32,
) {
    let mut at = 0;
    while at + 8 * V::N <= d {
        weighted_columns::<V, 8>(rows, d, index, w, out, at);
        at += 8 * V::N;
    }
    while at + V::N <= d {
        weighted_columns::<V, 1>(rows, d, index, w, out, at);
        at += V::N;
    }
    if at < d {
        let m = d - at;
        let mut acc = V::load_part(out.add(at), m);
        for (i, w) in index.iter().zip(w) {
            acc = V::load_part(rows.add(i * d + at), m).fma(V::splat(*w), acc);
        }
        acc.store_part(out.add(at), m);
    }
}

/// Bit `i` is set where `x[i] >= bars[i]`, or `>= bars[0]` if there is one bar; up to 64 values.
#[inline(always)]
pub(super) unsafe fn reach<V: Lanes>(x: &[f32], bars: &[f32]) -> u64 {
    let (n, each) = (x.len(), bars.len() > 1);
    let (x, bars) = (x.as_ptr(), bars.as_ptr());
    let one = V::splat(*bars);
    let mut bits = 0;
    let mut i = 0;
    while i + V::N <= n {
        let bar = if each { V::load(bars.add(i)) } else { one };
        bits |= u64::from(V::load(x.add(i)).at_least(bar)) << i;
        i += V::N;
    }
    while i < n {
        let bar = *bars.add(if each { i } else { 0 });
        bits |= u64::from(*x.add(i) >= bar) << i;
        i += 1;
    }
    bits
}

/// out[j] ← the largest of out[j] and x[j], x[j + m], x[j + 2m], … over whole rows of m = `out.len()`, a multiple of the register;
/// NaN is passed over. Returns whether there is no NaN in all of x.
#[inline(always)]
pub(super) unsafe fn maxima<V: Lanes>(x: &[f32], out: &mut [f32]) -> bool {
    let all = (1u32 << (V::N - 1) << 1).wrapping_sub(1);
    debug_assert!(out.len().is_multiple_of(V::N));
    let (width, out) = (out.len(), out.as_mut_ptr());
    let (n, x) = (x.len(), x.as_ptr());
    let mut ordered = all;
    let mut at = 0;
    while width > 0 && at + width <= n {
        let mut j = 0;
        while j < width {
            let v = V::load(x.add(at + j));
            ordered &= v.at_least(v);
            v.max(V::load(out.add(j))).store(out.add(j));
            j += V::N;
        }
        at += width;
    }
    while at + V::N <= n {
        let v = V::load(x.add(at));
        ordered &= v.at_least(v);
        at += V::N;
    }
    let mut rest = true;
    while at < n {
        rest &= !(*x.add(at)).is_nan();
        at += 1;
    }
    rest && ordered == all
}
