//! Decayed mean and variance per arm.

use serde::{Deserialize, Serialize};

/// n ← decay·n + weight, and Σ weight·x, Σ weight·x² likewise, for a fixed number of arms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Running {
    pub n: f64,
    pub sum: Vec<f64>,
    pub squares: Vec<f64>,
}

impl Running {
    pub(super) fn new(arms: usize) -> Self {
        Self {
            n: 0.0,
            sum: vec![0.0; arms],
            squares: vec![0.0; arms],
        }
    }

    pub(super) fn add(&mut self, x: &[f64], weight: f64, decay: f64) {
        self.n = decay * self.n + weight;
        for ((s, s2), x) in self.sum.iter_mut().zip(&mut self.squares).zip(x) {
            *s = decay * *s + weight * x;
            *s2 = decay * *s2 + weight * x * x;
        }
    }

    /// 0 before the first number.
    pub(super) fn mean(&self, arm: usize) -> f64 {
        if self.n > 0.0 { self.sum[arm] / self.n } else { 0.0 }
    }

    /// (E[x²] − E[x]²)/n, floored at 0.
    pub(super) fn variance_of_mean(&self, arm: usize) -> f64 {
        if self.n > 0.0 {
            (self.squares[arm] / self.n - self.mean(arm).powi(2)).max(0.0) / self.n
        } else {
            0.0
        }
    }

    /// True if decoded bytes can be what this type writes.
    pub(super) fn is_valid(&self, arms: usize) -> bool {
        let finite = |x: &[f64]| x.len() == arms && x.iter().all(|v| v.is_finite());
        self.n.is_finite() && self.n >= 0.0 && finite(&self.sum) && finite(&self.squares)
    }
}

/// Σ 1/log2(1 + rank) over the positions `wanted`, not cut off. rank = 1 + the others that do not score strictly lower:
/// ties and NaN are worst.
pub(super) fn dcg(scores: &[f32], wanted: &[usize]) -> f64 {
    wanted
        .iter()
        .map(|&j| {
            // A sum of integers of the floats' width: eight at a time.
            let lower: u32 = scores.iter().map(|s| u32::from(*s < scores[j])).sum();
            1.0 / (1.0 + (scores.len() - lower as usize) as f64).log2()
        })
        .sum()
}
