//! Exponential, softmax and log-sum-exp, written once over [`Simd`].
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "one contract for the module, stated in `simd`"
)]

use super::real::Real;
use super::rows;
use super::simd::Simd;
use num_traits::Float;

/// e^x within 1.1 units in the last place; NaN stays NaN, overflow is ∞, underflow runs through the denormals to 0.
///
/// x = n·ln 2 + r with |r| ≤ ln 2 / 2, ln 2 in two parts (Cody & Waite 1980), e^r by its Taylor–Chebyshev polynomial of
/// degree 6 (coefficients of Cephes `expf`).
#[inline(always)]
pub(super) unsafe fn exp_single<V: Simd<E = f32>>(x: V) -> V {
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

/// [`exp_single`] in double precision, within 2 units in the last place: the Taylor polynomial of degree 13, whose error for
/// |r| ≤ ln 2 / 2 is below 5e-18; the two parts of ln 2 are those of fdlibm.
#[inline(always)]
pub(super) unsafe fn exp_double<V: Simd<E = f64>>(x: V) -> V {
    let x = V::splat(-746.0).max(V::splat(710.0).min(x));
    let n = x.mul(V::splat(std::f64::consts::LOG2_E)).round();
    let r = n.fma(V::splat(-6.931_471_803_691_238e-1), x);
    let r = n.fma(V::splat(-1.908_214_929_270_587_7e-10), r);
    let mut p = V::splat(1.0 / 6_227_020_800.0);
    for factorial in [
        479_001_600.0,
        39_916_800.0,
        3_628_800.0,
        362_880.0,
        40_320.0,
        5_040.0,
        720.0,
        120.0,
        24.0,
        6.0,
        2.0,
    ] {
        p = p.fma(r, V::splat(1.0 / factorial));
    }
    let p = p.fma(r.mul(r), r).add(V::splat(1.0));
    p.pow2(n)
}

/// e^x for x ≤ 0 as 2ⁿ·2^{−g}, g = n − x·log₂e with |g| ≤ ½, both factors in one fused step: two thirds of the instructions of
/// [`exp_single`]. The error of log₂e as a float32 grows with |x|: 3e-7 at −20.
#[inline(always)]
pub(super) unsafe fn decay_single<V: Simd<E = f32>>(x: V) -> V {
    let (p, n) = decay_factors(V::splat(-104.0).max(x));
    p.pow2(n)
}

/// 2^{−g} and n of [`decay_single`].
#[inline(always)]
pub(super) unsafe fn decay_factors<V: Simd<E = f32>>(x: V) -> (V, V) {
    let n = x.mul(V::splat(std::f32::consts::LOG2_E)).round();
    let g = x.fma(V::splat(-std::f32::consts::LOG2_E), n);
    (exp2_fraction(g), n)
}

/// [`exp_double`]: in double precision there is nothing to save.
#[inline(always)]
pub(super) unsafe fn decay_double<V: Simd<E = f64>>(x: V) -> V {
    exp_double(x)
}

/// 2^x, in single precision to a few units in the last place; NaN stays NaN, overflow is ∞.
#[inline(always)]
pub(super) unsafe fn exp2<V: Simd>(x: V) -> V {
    if size_of::<V::E>() != 4 {
        return x.mul(V::splat(V::E::of(std::f64::consts::LN_2))).exp();
    }
    // The order keeps NaN.
    let x = V::splat(V::E::of(-150.0)).max(V::splat(V::E::of(150.0)).min(x));
    let n = x.round();
    exp2_fraction(n.sub(x)).pow2(n)
}

/// 2^{−g} for |g| ≤ ½: the polynomial of Cephes `exp2f`.
#[inline(always)]
unsafe fn exp2_fraction<V: Simd>(g: V) -> V {
    let mut p = V::splat(V::E::of(1.535_336_2e-4));
    for c in [
        -1.339_887_5e-3,
        9.618_437e-3,
        -5.550_332_5e-2,
        2.402_264_7e-1,
        -6.931_472e-1,
        1.0,
    ] {
        p = p.fma(g, V::splat(V::E::of(c)));
    }
    p
}

/// ln(1 + y) for y ≥ 0, nowhere with cancellation.
///
/// With 1 + r = (1 + y)·2^{−e} between √½ and √2 it is e·ln 2 + ln(1 + r), r = y·2^{−e} − (1 − 2^{−e}). In single precision the
/// polynomial of Cephes `logf`, in double precision 11 terms of 2·artanh(r/(2 + r)) = 2·Σ s^{2k+1}/(2k + 1), s² ≤ .03.
#[inline(always)]
pub(super) unsafe fn ln_1p<V: Simd>(y: V) -> V {
    let (zero, one) = (V::splat(V::E::ZERO), V::splat(V::E::ONE));
    let e = one
        .add(y)
        .mul(V::splat(V::E::of(std::f64::consts::SQRT_2)))
        .exponent();
    let scale = one.pow2(zero.sub(e));
    let r = y.fma(scale, scale.sub(one));
    let log = if size_of::<V::E>() == 4 {
        let mut p = V::splat(V::E::of(7.037_683_6e-2));
        for c in [
            -1.151_461e-1,
            1.167_699_9e-1,
            -1.242_014_1e-1,
            1.424_932_3e-1,
            -1.666_805_8e-1,
            2.000_071_5e-1,
            -2.499_999_4e-1,
            3.333_333_1e-1,
        ] {
            p = p.fma(r, V::splat(V::E::of(c)));
        }
        let square = r.mul(r);
        p.mul(r).sub(V::splat(V::E::of(0.5))).fma(square, r)
    } else {
        let s = r.div(V::splat(V::E::of(2.0)).add(r));
        let square = s.mul(s);
        let mut sum = V::splat(V::E::of(1.0 / 21.0));
        for k in (0..10).rev() {
            sum = sum.fma(square, V::splat(V::E::of(1.0 / f64::from(2 * k + 1))));
        }
        s.add(s).mul(sum)
    };
    e.fma(V::splat(V::E::of(std::f64::consts::LN_2)), log)
}

#[inline(always)]
pub(super) unsafe fn exp<V: Simd>(x: *mut V::E, n: usize) {
    let mut i = 0;
    while i + V::N <= n {
        V::load(x.add(i)).exp().store(x.add(i));
        i += V::N;
    }
    if i < n {
        V::load_part(x.add(i), n - i).exp().store_part(x.add(i), n - i);
    }
}

/// Largest element; −∞ for none. NaN is passed over where a number follows it in its lane.
#[inline(always)]
pub(super) unsafe fn largest<V: Simd>(x: *const V::E, n: usize) -> V::E {
    let mut m = [V::splat(V::E::NEG_INFINITY); 4];
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

/// x ← e^{x − shift} for x ≤ shift; returns the sum.
#[inline(always)]
pub(super) unsafe fn decays<V: Simd>(x: *mut V::E, n: usize, shift: V::E) -> V::E {
    let shift = V::splat(shift);
    let mut sum = [V::splat(V::E::ZERO); 4];
    let mut i = 0;
    while i + 4 * V::N <= n {
        for (j, s) in sum.iter_mut().enumerate() {
            let p = x.add(i + j * V::N);
            let e = V::load(p).sub(shift).decay();
            *s = s.add(e);
            e.store(p);
        }
        i += 4 * V::N;
    }
    while i + V::N <= n {
        let e = V::load(x.add(i)).sub(shift).decay();
        sum[0] = sum[0].add(e);
        e.store(x.add(i));
        i += V::N;
    }
    if i < n {
        let m = n - i;
        V::load_part(x.add(i), m)
            .sub(shift)
            .decay()
            .store_part(x.add(i), m);
        sum[1] = sum[1].add(V::load_part(x.add(i), m));
    }
    sum[0].add(sum[1]).add(sum[2].add(sum[3])).sum()
}

/// Running softmax of some rows: logits in, weights out.
#[derive(Clone, Copy)]
pub(super) struct Absorb<T> {
    pub rows: usize,
    pub width: usize,
    /// (rows, width), overwritten.
    pub logits: *mut T,
    /// (rows), largest logit so far.
    pub top: *mut T,
    /// (rows), sum of weights so far.
    pub sum: *mut T,
    /// (rows, dv), sums of weighted values so far.
    pub acc: *mut T,
    pub dv: usize,
}

/// The online softmax (Milakov & Gimelshein 2018) of each row: logits become weights relative to the new maximum, what was summed
/// before fades to it.
#[inline(always)]
pub(super) unsafe fn absorb<V: Simd>(a: Absorb<V::E>) {
    for r in 0..a.rows {
        let line = a.logits.add(r * a.width);
        let (top, sum) = (&mut *a.top.add(r), &mut *a.sum.add(r));
        let new = top.max(largest::<V>(line, a.width));
        // −∞ so far: any finite shift keeps e^{−∞} = 0. NaN stays in the logits.
        let shift = if new == V::E::NEG_INFINITY {
            V::E::ZERO
        } else {
            new
        };
        let fresh = decays::<V>(line, a.width, shift);
        if *sum != V::E::ZERO && new != *top {
            let fade = (*top - shift).exp();
            *sum *= fade;
            rows::scale::<V>(fade, a.acc.add(r * a.dv), a.dv);
        }
        *sum += fresh;
        *top = new;
    }
}

/// x ← e^{(x − shift)·factor} where `STORE`; returns the sum.
#[inline(always)]
pub(super) unsafe fn shifted_exp<V: Simd, const STORE: bool>(
    x: *mut V::E,
    n: usize,
    shift: V::E,
    factor: V::E,
) -> V::E {
    let (shift, factor) = (V::splat(shift), V::splat(factor));
    let mut sum = [V::splat(V::E::ZERO); 2];
    let mut i = 0;
    while i + 2 * V::N <= n {
        for (j, s) in sum.iter_mut().enumerate() {
            let p = x.add(i + j * V::N);
            let e = V::load(p).sub(shift).mul(factor).exp();
            *s = s.add(e);
            if STORE {
                e.store(p);
            }
        }
        i += 2 * V::N;
    }
    if i + V::N <= n {
        let e = V::load(x.add(i)).sub(shift).mul(factor).exp();
        sum[0] = sum[0].add(e);
        if STORE {
            e.store(x.add(i));
        }
        i += V::N;
    }
    let mut total = sum[0].add(sum[1]).sum();
    if i < n {
        // Through memory, so that the lanes beyond the end do not enter the sum.
        let mut tail = [V::E::ZERO; 16];
        let m = n - i;
        let e = V::load_part(x.add(i), m).sub(shift).mul(factor).exp();
        e.store_part(tail.as_mut_ptr(), m);
        for (j, e) in tail.iter().enumerate().take(m) {
            total += *e;
            if STORE {
                *x.add(i + j) = *e;
            }
        }
    }
    total
}

#[inline(always)]
pub(super) unsafe fn softmax<V: Simd>(x: *mut V::E, n: usize, temperature: V::E) {
    let sum = shifted_exp::<V, true>(x, n, largest::<V>(x, n), V::E::ONE / temperature);
    rows::scale::<V>(V::E::ONE / sum, x, n);
}

#[inline(always)]
pub(super) unsafe fn log_sum_exp<V: Simd>(x: *const V::E, n: usize) -> V::E {
    let top = largest::<V>(x, n);
    if top.is_infinite() {
        return top;
    }
    top + shifted_exp::<V, false>(x.cast_mut(), n, top, V::E::ONE).ln()
}
