//! Dense kernels of the hot path. Each function has a scalar reference in [`scalar`]; slices of unequal length panic in
//! debug builds and are cut to the shorter one otherwise, so check lengths at the boundary.

pub mod scalar;

pub use scalar::{axpy, dot, dot_i8, gemv, gemv_i8, low_rank_apply, norm, scale, softmax, squared_l2};

/// Scales `x` to unit length and returns its former norm; a zero vector stays zero.
pub fn normalize(x: &mut [f32]) -> f32 {
    let n = norm(x);
    if n > 0.0 {
        scale(1.0 / n, x);
    }
    n
}

/// Positions of the `k` largest values, best first, ties by position.
#[must_use]
pub fn top_k(values: &[f32], k: usize) -> Vec<usize> {
    scalar::top_k(values, k)
}
