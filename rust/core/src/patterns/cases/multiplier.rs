//! The multiplier gate: one factor for everything learned, with an arm that does nothing.

use super::running::Running;

const FACTORS: [f32; 5] = [0.0, 0.25, 0.5, 1.0, 1.5];
const THRESHOLDS: [Option<f32>; 6] = [None, Some(0.4), Some(0.5), Some(0.6), Some(0.7), Some(0.8)];
/// Number of arms.
pub(super) const ARMS: usize = FACTORS.len() * THRESHOLDS.len();
/// m = 1, θ = .5: in use before anything is known.
pub(super) const FIRST: usize = 3 * THRESHOLDS.len() + 2;

/// m·σ((c1 − θ)/.05); the factor alone without a threshold.
pub(super) fn factor(arm: usize, nearest: f32) -> f32 {
    let m = FACTORS[arm / THRESHOLDS.len()];
    match THRESHOLDS[arm % THRESHOLDS.len()] {
        None => m,
        Some(theta) => m / (1.0 + (-(nearest - theta) / 0.05).exp()),
    }
}

/// The arm of largest (1 − ν)·DCG as is + ν·DCG removed, the first on ties.
pub(super) fn choose(as_is: &Running, removed: &Running, nu: f64) -> usize {
    let merit = |a: usize| (1.0 - nu) * as_is.mean(a) + nu * removed.mean(a);
    (1..ARMS).fold(0, |best, a| if merit(a) > merit(best) { a } else { best })
}
