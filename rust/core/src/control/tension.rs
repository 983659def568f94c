//! How close a graph is to falling apart, in one number.

use crate::error::{Result, check_number};

/// clip(max(1 − λ/δ, 1 − λ/λ̄), 0, 1): how far the minimum cut `lambda` lies below the least degree δ and below its own running
/// mean λ̄. A divisor of 0 counts as no tension, and so does an infinite number: the cut of fewer than two nodes. NaN is an
/// error.
pub fn tension(lambda: f64, min_degree: f64, lambda_ewma: f64) -> Result<f64> {
    for (name, v) in [
        ("lambda_", lambda),
        ("min_degree", min_degree),
        ("lambda_ewma", lambda_ewma),
    ] {
        if v.is_nan() {
            check_number(name, v)?;
        }
    }
    let below = |reference: f64| {
        if reference > 0.0 && reference.is_finite() && lambda.is_finite() {
            1.0 - lambda / reference
        } else {
            0.0
        }
    };
    Ok(below(min_degree).max(below(lambda_ewma)).clamp(0.0, 1.0))
}
