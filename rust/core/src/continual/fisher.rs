//! Fisher information from per-sample gradients.

use crate::error::{Result, check_finite};

/// Diagonal of the empirical Fisher information: the mean of the squares of per-sample gradients `(n, p)`; zeros for n = 0.
pub fn estimate_fisher(gradients: &[f32], p: usize) -> Result<Vec<f64>> {
    check_finite("per_sample_gradients", gradients)?;
    let mut sums = vec![0.0f64; p];
    let rows = gradients.chunks_exact(p.max(1));
    let n = rows.len();
    for row in rows {
        for (s, g) in sums.iter_mut().zip(row) {
            *s += f64::from(*g) * f64::from(*g);
        }
    }
    sums.iter_mut().for_each(|s| *s /= n.max(1) as f64);
    Ok(sums)
}
