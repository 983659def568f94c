//! Distances in the Poincaré ball from inner products, written once over [`Simd`].
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "one contract for the module, stated in `simd`"
)]

use super::exponent::ln_1p;
use super::real::Real;
use super::recurrence::{get, put};
use super::simd::Simd;

/// x ← x + own + squares: ‖q − k‖² from −2q·k, ‖q‖² and ‖k‖². Returns whether one is below `near` times its sum of squares, so
/// that it has lost digits.
#[inline(always)]
pub(super) unsafe fn apart<V: Simd>(
    x: *mut V::E,
    squares: *const V::E,
    n: usize,
    own: V::E,
    near: V::E,
) -> bool {
    let (own, near) = (V::splat(own), V::splat(near));
    // NaN is passed over.
    let mut lost = V::splat(V::E::NEG_INFINITY);
    let mut at = 0;
    while at < n {
        let part = V::N.min(n - at);
        let both: V = own.add(get(squares.add(at), part));
        let v = both.add(get(x.add(at), part));
        put(v, x.add(at), part);
        // Lanes beyond the end hold `own` as their distance, which has lost nothing.
        lost = near.mul(both).sub(v).max(lost);
        at += part;
    }
    lost.largest() > V::E::ZERO
}

/// x ← −p·arcosh(1 + z), z = x·factor·room, or 0 where that is negative; arcosh(1 + z) = ln(1 + y) with y = z + √(z(z + 2)),
/// nowhere with cancellation.
#[inline(always)]
pub(super) unsafe fn distances<V: Simd>(x: *mut V::E, room: *const V::E, n: usize, factor: V::E, p: V::E) {
    let (factor, p) = (V::splat(factor), V::splat(-p));
    let mut at = 0;
    // Two at a time: the steps of one wait for each other.
    while at + 2 * V::N <= n {
        let (a, b) = (x.add(at), x.add(at + V::N));
        let (z, y): (V, V) = (
            factor.mul(V::load(a)).mul(V::load(room.add(at))),
            factor.mul(V::load(b)).mul(V::load(room.add(at + V::N))),
        );
        let [z, y] = arcosh_1p([z, y]);
        p.mul(z).store(a);
        p.mul(y).store(b);
        at += 2 * V::N;
    }
    while at < n {
        let part = V::N.min(n - at);
        let z: V = factor.mul(get(x.add(at), part)).mul(get(room.add(at), part));
        let [z] = arcosh_1p([z]);
        put(p.mul(z), x.add(at), part);
        at += part;
    }
}

/// arcosh(1 + z), 0 for negative z.
#[inline(always)]
unsafe fn arcosh_1p<V: Simd, const W: usize>(mut x: [V; W]) -> [V; W] {
    let (zero, two) = (V::splat(V::E::ZERO), V::splat(V::E::of(2.0)));
    for x in &mut x {
        // The order keeps NaN.
        let z = zero.max(*x);
        *x = z.add(z.mul(z.add(two)).sqrt());
    }
    for x in &mut x {
        *x = ln_1p(*x);
    }
    x
}
