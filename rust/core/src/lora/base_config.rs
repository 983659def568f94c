//! Shape and learning of the slow adapter.

use super::micro_config::MAX_DIM;
use super::optim::{Rule, check_rate};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Values in all factors together that state or a constructor may ask for (4 GB).
const MAX_VALUES: usize = 1 << 30;

/// How a [`super::BaseLora`] is shaped and learns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BaseConfig {
    /// Length d of the vectors.
    pub hidden_dim: usize,
    /// Rank r.
    pub rank: usize,
    /// Number of layers.
    pub num_layers: usize,
    /// α; `None`: r.
    pub alpha: Option<f64>,
    /// Scale α/√r (Kalajdzievski 2023) instead of α/r.
    pub use_rslora: bool,
    /// Step size of [`super::BaseLora::train_step`].
    pub learning_rate: f64,
    /// Update rule.
    pub rule: Rule,
    /// Decoupled decay of both factors.
    pub weight_decay: f64,
    /// Seed of the A's.
    pub seed: u64,
}

impl BaseConfig {
    /// The public defaults.
    #[must_use]
    pub fn new(hidden_dim: usize, rank: usize, num_layers: usize) -> Self {
        Self {
            hidden_dim,
            rank,
            num_layers,
            alpha: None,
            use_rslora: false,
            learning_rate: 1e-4,
            rule: Rule::AdamW {
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
            },
            weight_decay: 1e-4,
            seed: 0,
        }
    }

    pub(super) fn validate(&self) -> Result<()> {
        for (name, v) in [
            ("hidden_dim", self.hidden_dim),
            ("rank", self.rank),
            ("num_layers", self.num_layers),
        ] {
            if !(1..=MAX_DIM).contains(&v) {
                return Err(Error::config(name, format!("1 to {MAX_DIM}"), v));
            }
        }
        let values = 2u128 * self.hidden_dim as u128 * self.rank as u128 * self.num_layers as u128;
        if values > MAX_VALUES as u128 {
            return Err(Error::config(
                "hidden_dim · rank · num_layers",
                "a smaller adapter",
                values,
            ));
        }
        if let Some(a) = self.alpha.filter(|a| !a.is_finite()) {
            return Err(Error::config("alpha", "a finite number", a));
        }
        check_rate("learning_rate", self.learning_rate)
            .map_err(|_| Error::config("learning_rate", "a finite number, 0 or above", self.learning_rate))
    }

    pub(super) fn scale(&self, alpha: f64) -> f32 {
        let r = self.rank as f64;
        (alpha / if self.use_rslora { r.sqrt() } else { r }) as f32
    }
}
