//! Products and sums of rows in either precision, written once over [`Simd`].
//!
//! One order of summation everywhere: four partial sums over strides of `4 N`, whole registers left over go to sums 0, 1, 2,
//! the last partial register to sum 3.
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

/// Register sums of `R` rows against `q`.
#[inline(always)]
pub(super) unsafe fn row_sums<V: Simd, const R: usize>(
    rows: [*const V::E; R],
    q: *const V::E,
    n: usize,
) -> [V; R] {
    let zero = V::splat(V::E::ZERO);
    let mut acc = [[zero; 4]; R];
    let mut i = 0;
    while i + 4 * V::N <= n {
        for j in 0..4 {
            let at = i + j * V::N;
            let x = V::load(q.add(at));
            for r in 0..R {
                acc[r][j] = V::load(rows[r].add(at)).fma(x, acc[r][j]);
            }
        }
        i += 4 * V::N;
    }
    for j in 0..3 {
        if i + V::N <= n {
            let x = V::load(q.add(i));
            for r in 0..R {
                acc[r][j] = V::load(rows[r].add(i)).fma(x, acc[r][j]);
            }
            i += V::N;
        }
    }
    if i < n {
        let x = V::load_part(q.add(i), n - i);
        for r in 0..R {
            acc[r][3] = V::load_part(rows[r].add(i), n - i).fma(x, acc[r][3]);
        }
    }
    // No closure here: it would not take on the caller's target features.
    let mut out = [zero; R];
    for r in 0..R {
        let a = acc[r];
        out[r] = a[0].add(a[1]).add(a[2].add(a[3]));
    }
    out
}

#[inline(always)]
pub(super) unsafe fn dot<V: Simd>(a: *const V::E, b: *const V::E, n: usize) -> V::E {
    let [s] = row_sums::<V, 1>([a], b, n);
    s.sum()
}

#[inline(always)]
pub(super) unsafe fn axpy<V: Simd>(alpha: V::E, x: *const V::E, y: *mut V::E, n: usize) {
    let s = V::splat(alpha);
    let mut i = 0;
    while i + V::N <= n {
        s.fma(V::load(x.add(i)), V::load(y.add(i))).store(y.add(i));
        i += V::N;
    }
    if i < n {
        let m = n - i;
        s.fma(V::load_part(x.add(i), m), V::load_part(y.add(i), m))
            .store_part(y.add(i), m);
    }
}

/// x ← αx.
#[inline(always)]
pub(super) unsafe fn scale<V: Simd>(alpha: V::E, x: *mut V::E, n: usize) {
    let s = V::splat(alpha);
    let mut i = 0;
    while i + V::N <= n {
        V::load(x.add(i)).mul(s).store(x.add(i));
        i += V::N;
    }
    if i < n {
        V::load_part(x.add(i), n - i).mul(s).store_part(x.add(i), n - i);
    }
}

/// Rows to be divided, `stride` numbers apart, each by its own number.
#[derive(Clone, Copy)]
pub(super) struct Quotient<T> {
    pub x: *const T,
    pub stride: usize,
    pub by: *const T,
    pub rows: usize,
    /// Numbers of a row of the result.
    pub n: usize,
    pub out: *mut T,
}

/// out ← x / by, zero where `by` is.
#[inline(always)]
pub(super) unsafe fn divide<V: Simd>(q: Quotient<V::E>) {
    for r in 0..q.rows {
        let (x, out, by) = (q.x.add(r * q.stride), q.out.add(r * q.n), *q.by.add(r));
        // A row may hold anything where it counts for nothing.
        let nothing = by == V::E::ZERO;
        let part = V::splat(if nothing { V::E::ZERO } else { V::E::ONE / by });
        let mut i = 0;
        while i + V::N <= q.n {
            let y = V::load(x.add(i)).mul(part);
            if nothing { part } else { y }.store(out.add(i));
            i += V::N;
        }
        if i < q.n {
            let y = V::load_part(x.add(i), q.n - i).mul(part);
            if nothing { part } else { y }.store_part(out.add(i), q.n - i);
        }
    }
}

/// Rows of `n` numbers at `x`, `stride` apart, become `value`.
#[inline(always)]
pub(super) unsafe fn fill<V: Simd>(x: *mut V::E, rows: usize, stride: usize, n: usize, value: V::E) {
    let v = V::splat(value);
    for r in 0..rows {
        let row = x.add(r * stride);
        let mut i = 0;
        while i + V::N <= n {
            v.store(row.add(i));
            i += V::N;
        }
        if i < n {
            v.store_part(row.add(i), n - i);
        }
    }
}

/// The values of a row that are not zero, and their columns; returns how many. There is room for all.
#[inline(always)]
pub(super) unsafe fn nonzero<V: Simd>(
    x: *const V::E,
    n: usize,
    columns: *mut u32,
    values: *mut V::E,
) -> usize {
    let mut count = 0;
    let mut i = 0;
    while i < n {
        let end = n.min(i + 64);
        let mut there = 0;
        let mut j = i;
        while j < end {
            let some = if end - j >= V::N {
                V::load(x.add(j))
            } else {
                V::load_part(x.add(j), end - j)
            };
            there |= some.present() << (j - i);
            j += V::N;
        }
        while there != 0 {
            let at = i + there.trailing_zeros() as usize;
            *columns.add(count) = at as u32;
            *values.add(count) = *x.add(at);
            count += 1;
            there &= there - 1;
        }
        i = end;
    }
    count
}

/// out[i] = rowᵢ·x, the bits of [`dot`].
#[inline(always)]
pub(super) unsafe fn project<V: Simd>(rows: *const V::E, x: *const V::E, d: usize, out: &mut [V::E]) {
    let n = out.len();
    let row = |i: usize| rows.wrapping_add(i * d);
    let mut i = 0;
    while i + 4 <= n {
        let sums = row_sums::<V, 4>([row(i), row(i + 1), row(i + 2), row(i + 3)], x, d);
        for r in 0..4 {
            out[i + r] = sums[r].sum();
        }
        i += 4;
    }
    while i < n {
        out[i] = dot::<V>(row(i), x, d);
        i += 1;
    }
}
