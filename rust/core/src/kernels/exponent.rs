//! Exponential, softmax and log-sum-exp, written once over [`Lanes`].
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "one contract for the module, stated in `lanes`"
)]

use super::lanes::Lanes;

/// e^x within 1.1 units in the last place; NaN stays NaN, overflow is ∞, underflow runs through the denormals to 0.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2, ln 2 in two parts (Cody & Waite 1980), e^r by its Taylor–Chebyshev polynomial of
/// degree 6 (coefficients of Cephes `expf`).
#[inline(always)]
unsafe fn exp1<V: Lanes>(x: V) -> V {
    // Beyond these the result is 0 or ∞ already, and n stays in the range of `pow2`. The order keeps NaN.
    let x = V::splat(-104.0).max(V::splat(89.0).min(x));
    let n = x.mul(V::splat(std::f32::consts::LOG2_E)).round();
    let r = n.fma(V::splat(-0.693_359_4), x);
    let r = n.fma(V::splat(2.121_944_4e-4), r);
    let mut p = V::splat(1.987_569_1e-4);
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p.fma(r, V::splat(c));
    }
    let p = p.fma(r.mul(r), r).add(V::splat(1.0));
    p.pow2(n)
}

#[inline(always)]
pub(super) unsafe fn exp<V: Lanes>(x: *mut f32, n: usize) {
    let mut i = 0;
    while i + V::N <= n {
        exp1(V::load(x.add(i))).store(x.add(i));
        i += V::N;
    }
    if i < n {
        exp1(V::load_part(x.add(i), n - i)).store_part(x.add(i), n - i);
    }
}

/// Largest element; −∞ for none. NaN is passed over where a number follows it in its lane.
#[inline(always)]
pub(super) unsafe fn largest<V: Lanes>(x: *const f32, n: usize) -> f32 {
    let mut m = [V::splat(f32::NEG_INFINITY); 4];
    let mut i = 0;
    while i + 4 * V::N <= n {
        for (j, m) in m.iter_mut().enumerate() {
            *m = V::load(x.add(i + j * V::N)).max(*m);
        }
        i += 4 * V::N;
    }
    while i + V::N <= n {
        m[0] = V::load(x.add(i)).max(m[0]);
        i += V::N;
    }
    let mut top = m[0].max(m[1]).max(m[2].max(m[3])).largest();
    while i < n {
        top = top.max(*x.add(i));
        i += 1;
    }
    top
}

/// x ← e^{(x − shift)·factor}; returns the sum.
#[inline(always)]
unsafe fn shifted_exp<V: Lanes, const STORE: bool>(x: *mut f32, n: usize, shift: f32, factor: f32) -> f32 {
    let (shift, factor) = (V::splat(shift), V::splat(factor));
    let mut sum = [V::splat(0.0); 2];
    let mut i = 0;
    while i + 2 * V::N <= n {
        for (j, s) in sum.iter_mut().enumerate() {
            let p = x.add(i + j * V::N);
            let e = exp1(V::load(p).sub(shift).mul(factor));
            *s = s.add(e);
            if STORE {
                e.store(p);
            }
        }
        i += 2 * V::N;
    }
    if i + V::N <= n {
        let e = exp1(V::load(x.add(i)).sub(shift).mul(factor));
        sum[0] = sum[0].add(e);
        if STORE {
            e.store(x.add(i));
        }
        i += V::N;
    }
    let mut total = sum[0].add(sum[1]).sum();
    if i < n {
        // Through memory, so that the lanes beyond the end do not enter the sum.
        let mut tail = [0.0f32; 16];
        let m = n - i;
        exp1(V::load_part(x.add(i), m).sub(shift).mul(factor)).store_part(tail.as_mut_ptr(), m);
        for (j, e) in tail.iter().enumerate().take(m) {
            total += e;
            if STORE {
                *x.add(i + j) = *e;
            }
        }
    }
    total
}

#[inline(always)]
pub(super) unsafe fn softmax<V: Lanes>(x: *mut f32, n: usize, temperature: f32) {
    let sum = shifted_exp::<V, true>(x, n, largest::<V>(x, n), 1.0 / temperature);
    super::dense::scale::<V>(1.0 / sum, x, n);
}

#[inline(always)]
pub(super) unsafe fn log_sum_exp<V: Lanes>(x: *const f32, n: usize) -> f32 {
    let top = largest::<V>(x, n);
    if top.is_infinite() {
        return top;
    }
    top + shifted_exp::<V, false>(x.cast_mut(), n, top, 1.0).ln()
}
