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
    let (zero, two) = (V::splat(V::E::ZERO), V::splat(V::E::of(2.0)));
    let (factor, p) = (V::splat(factor), V::splat(-p));
    let mut at = 0;
    while at < n {
        let part = V::N.min(n - at);
        let z: V = factor.mul(get(x.add(at), part)).mul(get(room.add(at), part));
        // The order keeps NaN.
        let z = zero.max(z);
        let out = p.mul(ln_1p(z.add(z.mul(z.add(two)).sqrt())));
        put(out, x.add(at), part);
        at += part;
    }
}
