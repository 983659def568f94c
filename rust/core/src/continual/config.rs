//! How elastic weight consolidation behaves.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Most parameters (4 GB per vector).
pub(super) const MAX_PARAMS: usize = 1 << 28;
/// Most tasks held apart.
const MAX_TASKS: usize = 1 << 16;

/// Settings of an [`super::Ewc`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EwcConfig {
    /// Length of every vector.
    pub param_count: usize,
    /// Tasks that are held apart; beyond, the two oldest merge.
    pub max_tasks: usize,
    /// λ to begin with. It is taken as it is; the range below applies to changes.
    pub initial_lambda: f64,
    /// Share of the running Fisher information that one sample leaves.
    pub fisher_ema_decay: f64,
    /// Threshold of the task-boundary detector.
    pub boundary_threshold: f64,
    /// Least λ that a change may lead to.
    pub min_lambda: f64,
    /// Largest λ that a change may lead to.
    pub max_lambda: f64,
    /// Scale each task's Fisher information to mean 1, so that λ means the same for every model.
    pub normalize_fisher: bool,
}

impl EwcConfig {
    /// The public defaults.
    #[must_use]
    pub fn new(param_count: usize) -> Self {
        Self {
            param_count,
            max_tasks: 10,
            initial_lambda: 1000.0,
            fisher_ema_decay: 0.999,
            boundary_threshold: 2.0,
            min_lambda: 100.0,
            max_lambda: 10_000.0,
            normalize_fisher: true,
        }
    }

    /// Errors where a field is out of range.
    pub fn validate(&self) -> Result<()> {
        if !(1..=MAX_PARAMS).contains(&self.param_count) {
            return Err(Error::config(
                "param_count",
                format!("1 to {MAX_PARAMS}"),
                self.param_count,
            ));
        }
        if !(1..=MAX_TASKS).contains(&self.max_tasks) {
            return Err(Error::config(
                "max_tasks",
                format!("1 to {MAX_TASKS}"),
                self.max_tasks,
            ));
        }
        for (name, v) in [
            ("initial_lambda", self.initial_lambda),
            ("min_lambda", self.min_lambda),
            ("max_lambda", self.max_lambda),
        ] {
            if !(v.is_finite() && v >= 0.0) {
                return Err(Error::config(name, "a finite number, 0 or above", v));
            }
        }
        if self.min_lambda > self.max_lambda {
            let wanted = format!("at most max_lambda ({})", self.max_lambda);
            return Err(Error::config("min_lambda", wanted, self.min_lambda));
        }
        if !(0.0..1.0).contains(&self.fisher_ema_decay) {
            return Err(Error::config(
                "fisher_ema_decay",
                "a number in [0, 1)",
                self.fisher_ema_decay,
            ));
        }
        if !(self.boundary_threshold.is_finite() && self.boundary_threshold > 0.0) {
            let wanted = "a finite number above 0";
            return Err(Error::config(
                "boundary_threshold",
                wanted,
                self.boundary_threshold,
            ));
        }
        Ok(())
    }
}
