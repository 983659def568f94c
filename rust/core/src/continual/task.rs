//! What is remembered of a task: a diagonal Gaussian around its optimum.

use crate::error::{Error, Result, check_dim, check_finite};
use serde::{Deserialize, Serialize};

/// Precision F and centre θ* of one task, or of several merged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Task {
    pub fisher: Vec<f32>,
    pub star: Vec<f32>,
}

impl Task {
    /// Checks both vectors; scales F to mean 1 if wanted.
    pub fn new(mut fisher: Vec<f32>, star: Vec<f32>, normalize: bool) -> Result<Self> {
        check_fisher(&fisher)?;
        check_finite("params", &star)?;
        if normalize {
            let mean = fisher.iter().map(|f| f64::from(*f)).sum::<f64>() / fisher.len() as f64;
            if mean > 0.0 {
                fisher.iter_mut().for_each(|f| *f = (f64::from(*f) / mean) as f32);
            }
        }
        Ok(Self { fisher, star })
    }

    /// Checks decoded state.
    pub fn validate(&self, n: usize) -> Result<()> {
        check_dim("fisher", n, self.fisher.len())?;
        check_dim("params", n, self.star.len())?;
        check_fisher(&self.fisher)?;
        check_finite("params", &self.star)
    }

    /// The product of the Gaussians, oldest first: F = ΣF_t, θ* = ΣF_tθ*_t/ΣF_t, the newest θ* where ΣF = 0. Sums of
    /// quadratics differ from the one quadratic by a constant only: gradients and proximal steps stay as they were.
    pub fn merged(tasks: &[Self]) -> Option<Self> {
        let newest = tasks.last()?;
        let mut out = newest.clone();
        for i in 0..out.fisher.len() {
            let (mut f, mut s) = (0.0f64, 0.0f64);
            for t in tasks {
                f += f64::from(t.fisher[i]);
                s += f64::from(t.fisher[i]) * f64::from(t.star[i]);
            }
            out.fisher[i] = (f as f32).min(f32::MAX);
            if f > 0.0 {
                out.star[i] = (s / f) as f32;
            }
        }
        Some(out)
    }

    /// Σ F(θ − θ*)².
    pub fn distance(&self, theta: &[f32]) -> f64 {
        let mut sum = 0.0;
        for ((f, s), t) in self.fisher.iter().zip(&self.star).zip(theta) {
            let off = f64::from(*t) - f64::from(*s);
            sum += f64::from(*f) * off * off;
        }
        sum
    }
}

fn check_fisher(fisher: &[f32]) -> Result<()> {
    check_finite("fisher", fisher)?;
    match fisher.iter().find(|f| **f < 0.0) {
        Some(f) => Err(Error::value("fisher", "values of 0 or above", f)),
        None => Ok(()),
    }
}
