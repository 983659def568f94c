//! How close a graph is to falling apart, in one number.

/// clip(max(1 − λ/δ, 1 − λ/λ̄), 0, 1): how far the minimum cut `lambda` lies below the least degree δ and below its own running
/// mean λ̄. A divisor of 0 counts as no tension.
#[must_use]
pub fn tension(lambda: f64, min_degree: f64, lambda_ewma: f64) -> f64 {
    let below = |reference: f64| {
        if reference > 0.0 && reference.is_finite() && lambda.is_finite() {
            1.0 - lambda / reference
        } else {
            0.0
        }
    };
    below(min_degree).max(below(lambda_ewma)).clamp(0.0, 1.0)
}
