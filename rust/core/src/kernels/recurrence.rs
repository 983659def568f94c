//! Diagonal linear recurrences and the activations around them, written once over [`Simd`].
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "one contract for the module, stated in `simd`"
)]

use super::exponent;
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
pub(super) unsafe fn get<V: Simd>(p: *const V::E, part: usize) -> V {
    if part == V::N {
        V::load(p)
    } else {
        V::load_part(p, part)
    }
}

#[inline(always)]
pub(super) unsafe fn put<V: Simd>(v: V, p: *mut V::E, part: usize) {
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
    while at + V::N <= s.d {
        channels::<V, true>(s, at);
        at += V::N;
    }
    if at < s.d {
        channels::<V, false>(s, at);
    }
}

/// The channels from `at` on: one register of them, a whole one where `WHOLE`.
#[inline(always)]
unsafe fn channels<V: Simd, const WHOLE: bool>(s: Scan<V::E>, at: usize) {
    let part = if WHOLE { V::N } else { s.d - at };
    let log2e = V::splat(V::E::of(std::f64::consts::LOG2_E));
    for t in 0..s.steps {
        let row = t * s.d + at;
        let delta: V = get(s.delta.add(row), part);
        let input = delta.mul(get(s.u.add(row), part));
        let rate = delta.mul(log2e);
        let (b, c) = (s.b.add(t * s.n), s.c.add(t * s.n));
        // Two sums, so that additions do not wait for each other.
        let (mut even, mut odd) = (V::splat(V::E::ZERO), V::splat(V::E::ZERO));
        let mut k = 0;
        while k + 2 <= s.n {
            even = cell(s, at, part, k, rate, input.mul(V::splat(*b.add(k)))).fma(V::splat(*c.add(k)), even);
            let next = k + 1;
            odd = cell(s, at, part, next, rate, input.mul(V::splat(*b.add(next))))
                .fma(V::splat(*c.add(next)), odd);
            k += 2;
        }
        if k < s.n {
            even = cell(s, at, part, k, rate, input.mul(V::splat(*b.add(k)))).fma(V::splat(*c.add(k)), even);
        }
        put(even.add(odd), s.y.add(row), part);
    }
}

/// State k of some channels one step on: h ← 2^{rate·A}·h + gain.
#[inline(always)]
unsafe fn cell<V: Simd>(s: Scan<V::E>, at: usize, part: usize, k: usize, rate: V, gain: V) -> V {
    let state = s.h.add(k * s.d + at);
    let decay = exponent::exp2(rate.mul(get(s.a.add(k * s.d + at), part)));
    let h = decay.fma(get(state, part), gain);
    put(h, state, part);
    h
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

/// x ← ln(1 + x) for x ≥ 0.
#[inline(always)]
pub(super) unsafe fn ln_1p<V: Simd>(x: *mut V::E, n: usize) {
    let mut at = 0;
    while at < n {
        let part = V::N.min(n - at);
        put(exponent::ln_1p::<V>(get(x.add(at), part)), x.add(at), part);
        at += part;
    }
}

/// ln(1 + e^x) = max(x, 0) + ln(1 + e^{−|x|}).
#[inline(always)]
pub(super) unsafe fn softplus<V: Simd>(x: *mut V::E, n: usize) {
    let zero = V::splat(V::E::ZERO);
    let mut at = 0;
    while at < n {
        let part = V::N.min(n - at);
        let v: V = get(x.add(at), part);
        // The order keeps NaN.
        let log = exponent::ln_1p(v.min(zero.sub(v)).exp());
        put(zero.max(v).add(log), x.add(at), part);
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

/// p ← (open·(1 − z) + leak)·c with z = σ(p + gate), c = tanh(p + update), the biases repeating.
///
/// With G = e^{−(p + gate)} and C = e^{−2(p + update)} it is (open·G + leak·(1 + G))·(1 − C) / ((1 + G)(1 + C)): one division.
#[inline(always)]
pub(super) unsafe fn gates<V: Simd>(p: &mut [V::E], gate: &[V::E], update: &[V::E], open: V::E, leak: V::E) {
    let (n, period) = (p.len(), gate.len());
    let (p, gate, update) = (p.as_mut_ptr(), gate.as_ptr(), update.as_ptr());
    let one = V::splat(V::E::ONE);
    // Beyond it both factors have reached their limits, and their product stays a number.
    let most = V::splat(V::E::of(40.0));
    let (leak, both) = (V::splat(leak), V::splat(open + leak));
    let minus_two = V::splat(V::E::of(-2.0));
    let (mut at, mut bias) = (0, 0);
    while at < n {
        let part = V::N.min(n - at);
        let v: V = get(p.add(at), part);
        // The order keeps NaN.
        let g = V::splat(V::E::ZERO).sub(v.add(V::load(gate.add(bias))));
        let g = most.min(g).exp();
        let c = v.add(V::load(update.add(bias))).mul(minus_two);
        let c = most.min(c).exp();
        let top = g.fma(both, leak).mul(one.sub(c));
        put(top.div(one.add(g).mul(one.add(c))), p.add(at), part);
        at += part;
        bias += V::N;
        if bias == period {
            bias = 0;
        }
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
