//! How a query engine learns.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Longest vectors.
const LONGEST_DIM: usize = 1 << 16;

/// How a [`DagEngine`] learns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DagConfig {
    /// Length of vectors.
    pub dim: usize,
    /// Rank of the operators' adapters.
    pub rank: usize,
    /// Runs kept for patterns.
    pub capacity: usize,
    /// Strength with which adapters hold on to what they learned.
    pub ewc_lambda: f64,
    /// Share of the default's time that trying other settings may lose.
    pub regret_budget: f64,
    /// Seed of every random choice.
    pub seed: u64,
}

impl DagConfig {
    pub(super) fn validate(&self) -> Result<()> {
        if !(1..=LONGEST_DIM).contains(&self.dim) {
            return Err(Error::config("dim", format!("1 to {LONGEST_DIM}"), self.dim));
        }
        if self.capacity == 0 {
            return Err(Error::config("capacity", "at least 1", 0));
        }
        for (name, value) in [
            ("ewc_lambda", self.ewc_lambda),
            ("regret_budget", self.regret_budget),
        ] {
            if !(value.is_finite() && value >= 0.0) {
                return Err(Error::config(name, "a finite number of at least 0", value));
            }
        }
        Ok(())
    }
}
