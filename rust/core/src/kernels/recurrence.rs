//! Diagonal linear recurrences and the activations around them, written once over [`Simd`].
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "one contract for the module, stated in `simd`"
)]

use super::real::Real;
use super::simd::Simd;

/// Operands of one selective scan; `d` channels, `n` states, `steps` steps, all row-major.
#[derive(Clone, Copy)]
pub(super) struct Scan<T> {
    pub steps: usize,
    pub d: usize,
    pub n: usize,
    /// (steps, d)
    pub u: *const T,
    /// (steps, d), after softplus.
    pub delta: *const T,
    /// (n, d): the transition of each channel, transposed.
    pub a: *const T,
    /// (steps, n)
    pub b: *const T,
    /// (steps, n)
    pub c: *const T,
    /// (n, d): the state, read and written.
    pub h: *mut T,
    /// (steps, d), overwritten.
    pub y: *mut T,
}

#[inline(always)]
unsafe fn get<V: Simd>(p: *const V::E, part: usize) -> V {
    if part == V::N {
        V::load(p)
    } else {
        V::load_part(p, part)
    }
}

#[inline(always)]
unsafe fn put<V: Simd>(v: V, p: *mut V::E, part: usize) {
    if part == V::N {
        v.store(p);
    } else {
        v.store_part(p, part);
    }
}

/// h ← e^{ΔA}·h + Δu·B, y = C·h, channels in lanes, time in the inner loop: one exponential per channel, state and step.
#[inline(always)]
pub(super) unsafe fn scan<V: Simd>(s: Scan<V::E>) {
    let mut at = 0;
    while at < s.d {
        let part = V::N.min(s.d - at);
        for t in 0..s.steps {
            let row = t * s.d + at;
            let delta: V = get(s.delta.add(row), part);
            let input = delta.mul(get(s.u.add(row), part));
            let mut y = [V::splat(V::E::ZERO); 2];
            for k in 0..s.n {
                let state = s.h.add(k * s.d + at);
                let decay = delta.mul(get(s.a.add(k * s.d + at), part)).exp();
                let gain = V::splat(*s.b.add(t * s.n + k));
                let h = decay.fma(get(state, part), input.mul(gain));
                put(h, state, part);
                let c = V::splat(*s.c.add(t * s.n + k));
                y[k % 2] = h.fma(c, y[k % 2]);
            }
            put(y[0].add(y[1]), s.y.add(row), part);
        }
        at += part;
    }
}

/// h ← decay·h + gain·b; returns h·c.
#[inline(always)]
pub(super) unsafe fn decay_step<V: Simd>(
    h: *mut V::E,
    decay: V::E,
    gain: V::E,
    b: *const V::E,
    c: *const V::E,
    n: usize,
) -> V::E {
    let (decay, gain) = (V::splat(decay), V::splat(gain));
    let mut y = V::splat(V::E::ZERO);
    let mut at = 0;
    while at < n {
        let part = V::N.min(n - at);
        let state = h.add(at);
        let next = decay.fma(get(state, part), gain.mul(get(b.add(at), part)));
        put(next, state, part);
        y = next.fma(get(c.add(at), part), y);
        at += part;
    }
    y.sum()
}

/// ln(1 + e^x) = max(x, 0) + ln(1 + e^{−|x|}), the logarithm by its series 2·artanh(z/(2 + z)) = 2·Σ s^{2k+1}/(2k + 1), s ≤ 1/3:
/// 17 terms reach double precision.
#[inline(always)]
pub(super) unsafe fn softplus<V: Simd>(x: *mut V::E, n: usize) {
    let (zero, two) = (V::splat(V::E::ZERO), V::splat(V::E::of(2.0)));
    let terms: usize = if size_of::<V::E>() == 4 { 8 } else { 17 };
    let mut at = 0;
    while at < n {
        let part = V::N.min(n - at);
        let v: V = get(x.add(at), part);
        // The order keeps NaN.
        let up = zero.max(v);
        let z = v.min(zero.sub(v)).exp();
        let s = z.div(two.add(z));
        let square = s.mul(s);
        let mut sum = V::splat(V::E::of(1.0 / (2 * terms - 1) as f64));
        for k in (1..terms).rev() {
            sum = sum.fma(square, V::splat(V::E::of(1.0 / (2 * k - 1) as f64)));
        }
        put(two.mul(s).fma(sum, up), x.add(at), part);
        at += part;
    }
}

/// y ← y·z/(1 + e^{−z}).
#[inline(always)]
pub(super) unsafe fn gate_silu<V: Simd>(y: *mut V::E, z: *const V::E, n: usize) {
    let (zero, one) = (V::splat(V::E::ZERO), V::splat(V::E::ONE));
    let mut at = 0;
    while at < n {
        let part = V::N.min(n - at);
        let v: V = get(z.add(at), part);
        let silu = v.div(one.add(zero.sub(v).exp()));
        put(silu.mul(get(y.add(at), part)), y.add(at), part);
        at += part;
    }
}

/// x ← elu(x) + 1: x + 1 above 0, e^x below.
#[inline(always)]
pub(super) unsafe fn elu_plus_one<V: Simd>(x: *mut V::E, n: usize) {
    let zero = V::splat(V::E::ZERO);
    let mut at = 0;
    while at < n {
        let part = V::N.min(n - at);
        let v: V = get(x.add(at), part);
        // The order keeps NaN.
        put(zero.max(v).add(zero.min(v).decay()), x.add(at), part);
        at += part;
    }
}

/// x ← −p·arcosh(1 + x) for x ≥ 0, arcosh(1 + x) = ln(1 + y) with y = x + √(x(x + 2)), nowhere with cancellation.
///
/// With e = ⌊log₂(1 + y)⌋: ln(1 + y) = e·ln 2 + ln(1 + r), r = y·2^{−e} − (1 − 2^{−e}) in 0..1, the logarithm by the series of
/// [`softplus`].
#[inline(always)]
pub(super) unsafe fn arcosh<V: Simd>(x: *mut V::E, n: usize, p: V::E) {
    let (zero, one, two) = (V::splat(V::E::ZERO), V::splat(V::E::ONE), V::splat(V::E::of(2.0)));
    let (p, ln2) = (V::splat(-p), V::splat(V::E::of(std::f64::consts::LN_2)));
    let terms: usize = if size_of::<V::E>() == 4 { 8 } else { 17 };
    let mut at = 0;
    while at < n {
        let part = V::N.min(n - at);
        let v: V = get(x.add(at), part);
        let y = v.add(v.mul(v.add(two)).sqrt());
        let e = one.add(y).exponent();
        let scale = one.pow2(zero.sub(e));
        let r = y.fma(scale, scale.sub(one));
        let s = r.div(two.add(r));
        let square = s.mul(s);
        let mut sum = V::splat(V::E::of(1.0 / (2 * terms - 1) as f64));
        for k in (1..terms).rev() {
            sum = sum.fma(square, V::splat(V::E::of(1.0 / (2 * k - 1) as f64)));
        }
        let log = e.fma(ln2, two.mul(s).mul(sum));
        put(p.mul(log), x.add(at), part);
        at += part;
    }
}
