//! What one node of a graph does with the rows of its neighbours, written once over [`Simd`]: one call per node, not per edge.
//!
//! Rows are of `heads` heads of `width` values; numbers per edge are stored (edges, heads).
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "one contract for the module, stated in `simd`"
)]

use super::real::Real;
use super::rows;
use super::simd::Simd;

/// Rows `near[e]` of `rows`, each of `heads · width` values.
#[derive(Clone, Copy)]
pub struct Near<'a, T> {
    pub(super) rows: &'a [T],
    pub(super) near: &'a [u32],
    pub(super) heads: usize,
    pub(super) width: usize,
}

impl<'a, T: Real> Near<'a, T> {
    /// Panics where a number is beyond the rows.
    #[must_use]
    pub fn new(rows: &'a [T], near: &'a [u32], heads: usize, width: usize) -> Self {
        let there = rows.len() / (heads * width).max(1);
        assert!(
            near.iter().all(|j| (*j as usize) < there),
            "neighbours: a number is beyond the rows"
        );
        Self {
            rows,
            near,
            heads,
            width,
        }
    }

    /// Panics unless there is a number per edge and head, and a value per head and column.
    pub(super) fn check(&self, per_edge: &[T], own: &[T]) {
        assert!(
            per_edge.len() == self.near.len() * self.heads && own.len() == self.heads * self.width,
            "neighbours: expected (edges, heads) and (heads * width) values"
        );
    }

    #[inline(always)]
    unsafe fn row(&self, j: u32) -> *const T {
        self.rows.as_ptr().add(j as usize * self.heads * self.width)
    }
}

/// out (heads·width) += Σ alpha[e, h]·row.
#[inline(always)]
pub(super) unsafe fn weighted<V: Simd>(x: Near<'_, V::E>, alpha: &[V::E], out: &mut [V::E]) {
    let out = out.as_mut_ptr();
    for (e, j) in x.near.iter().enumerate() {
        let row = x.row(*j);
        for h in 0..x.heads {
            let at = h * x.width;
            rows::axpy::<V>(
                *alpha.get_unchecked(e * x.heads + h),
                row.add(at),
                out.add(at),
                x.width,
            );
        }
    }
}

/// out[e, h] = the products of the heads of `own` with those of the row.
#[inline(always)]
pub(super) unsafe fn products<V: Simd>(x: Near<'_, V::E>, own: &[V::E], out: &mut [V::E]) {
    for (e, j) in x.near.iter().enumerate() {
        let row = x.row(*j);
        for h in 0..x.heads {
            let at = h * x.width;
            *out.get_unchecked_mut(e * x.heads + h) =
                rows::dot::<V>(row.add(at), own.as_ptr().add(at), x.width);
        }
    }
}

/// LeakyReLU, NaN kept.
#[inline(always)]
unsafe fn leaky<V: Simd>(z: V, slope: V) -> V {
    let zero = V::splat(V::E::ZERO);
    zero.min(z).fma(slope, zero.max(z))
}

#[inline(always)]
unsafe fn get<V: Simd>(p: *const V::E, at: usize, n: usize) -> V {
    if n - at >= V::N {
        V::load(p.add(at))
    } else {
        V::load_part(p.add(at), n - at)
    }
}

/// out[e, h] = Σ att·LeakyReLU(row + own) over the values of head h.
#[inline(always)]
pub(super) unsafe fn scores<V: Simd>(
    x: Near<'_, V::E>,
    own: &[V::E],
    att: &[V::E],
    slope: V::E,
    out: &mut [V::E],
) {
    let slope = V::splat(slope);
    for (e, j) in x.near.iter().enumerate() {
        for h in 0..x.heads {
            let at = h * x.width;
            let (l, r, a) = (x.row(*j).add(at), own.as_ptr().add(at), att.as_ptr().add(at));
            let mut sum = V::splat(V::E::ZERO);
            let mut i = 0;
            while i < x.width {
                // Lanes beyond the end are zero.
                let z = get::<V>(l, i, x.width).add(get(r, i, x.width));
                sum = get::<V>(a, i, x.width).fma(leaky(z, slope), sum);
                i += V::N;
            }
            *out.get_unchecked_mut(e * x.heads + h) = sum.sum();
        }
    }
}

/// out (heads·width) += Σ `alpha[e, h]`·row of edge e. Panics if sizes differ.
pub fn weighted_rows<T: Real>(x: Near<'_, T>, alpha: &[T], out: &mut [T]) {
    x.check(alpha, out);
    // SAFETY: sizes checked, numbers by `Near::new`; the table is this processor's.
    unsafe { (T::kernels().weighted)(x, alpha, out) }
}

/// `out[e, h]` = inner product of head h of `own` and of the row of edge e. Panics if sizes differ.
pub fn row_products<T: Real>(x: Near<'_, T>, own: &[T], out: &mut [T]) {
    x.check(out, own);
    // SAFETY: as in `weighted_rows`.
    unsafe { (T::kernels().products)(x, own, out) }
}

/// `out[e, h]` = Σ att·LeakyReLU(row of edge e + own) over head h. Panics if sizes differ.
pub fn row_scores<T: Real>(x: Near<'_, T>, own: &[T], att: &[T], slope: T, out: &mut [T]) {
    x.check(out, own);
    x.check(out, att);
    // SAFETY: as in `weighted_rows`.
    unsafe { (T::kernels().scores)(x, own, att, slope, out) }
}
