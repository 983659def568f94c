//! How the fast adapter learns, and what a step of it reports.

use super::optim::{Rule, check_rate};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Largest dimension that state may claim.
pub(super) const MAX_DIM: usize = 1 << 24;

/// How a [`super::MicroLora`] learns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MicroConfig {
    /// Length d of the vectors.
    pub hidden_dim: usize,
    /// 1 or 2.
    pub rank: usize,
    /// s; `None`: 1/√rank.
    pub scale: Option<f32>,
    /// Step size of [`super::MicroLora::apply`].
    pub learning_rate: f64,
    /// Update rule.
    pub rule: Rule,
    /// Decoupled decay of both factors.
    pub weight_decay: f64,
    /// Joint bound of the gradient's length.
    pub clip_norm: Option<f64>,
    /// Largest share of a recent query's length by which learning may move its output.
    pub trust_region: Option<f64>,
    /// Seed of A.
    pub seed: u64,
}

impl MicroConfig {
    /// The public defaults.
    #[must_use]
    pub fn new(hidden_dim: usize, rank: usize) -> Self {
        Self {
            hidden_dim,
            rank,
            scale: None,
            learning_rate: 0.002,
            rule: Rule::AdamW {
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
            },
            weight_decay: 1e-4,
            clip_norm: Some(1.0),
            trust_region: Some(0.1),
            seed: 0,
        }
    }

    pub(super) fn validate(&self) -> Result<()> {
        if !(1..=MAX_DIM).contains(&self.hidden_dim) {
            return Err(Error::config(
                "hidden_dim",
                format!("1 to {MAX_DIM}"),
                self.hidden_dim,
            ));
        }
        if !(1..=2).contains(&self.rank) {
            return Err(Error::config("rank", "1 or 2", self.rank));
        }
        if let Some(s) = self.scale.filter(|s| !s.is_finite()) {
            return Err(Error::config("scale", "a finite number", s));
        }
        check_rate("learning_rate", self.learning_rate)
            .map_err(|_| Error::config("learning_rate", "a finite number, 0 or above", self.learning_rate))?;
        for (name, v) in [("clip_norm", self.clip_norm), ("trust_region", self.trust_region)] {
            if let Some(v) = v.filter(|v| !(v.is_finite() && *v > 0.0)) {
                return Err(Error::config(name, "a finite number above 0, or none", v));
            }
        }
        Ok(())
    }
}

/// What one [`super::MicroLora::apply`] did.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ApplyReport {
    /// False if nothing was pending.
    pub applied: bool,
    /// Signals in the mean.
    pub count: usize,
    /// Length of the mean gradient of both factors, before clipping.
    pub grad_norm: f64,
    /// Length of the step, decay included, before the trust region.
    pub step_norm: f64,
    /// The gradient was scaled down to `clip_norm`.
    pub clipped: bool,
    /// The trust region scaled the adapter back.
    pub trust_scaled: bool,
}
