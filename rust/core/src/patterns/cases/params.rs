//! Settings of a case memory.

use super::aging::check_half_life;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Widths, weights and sizes of the rule. The defaults are those of the published figures.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct CaseParams {
    /// Step size η of the kernel adapter, ≥ 0.
    pub eta: f32,
    /// Kernel width h_a of the adapter (in cosine), > 0.
    pub adapt_width: f32,
    /// Temperature τ of the listwise softmax, > 0.
    pub temperature: f32,
    /// Weight w of recall in the score, ≥ 0.
    pub recall_weight: f32,
    /// Kernel width h_r of recall, > 0.
    pub recall_width: f32,
    /// Shrinkage κ of recall toward 0, > 0.
    pub shrinkage: f32,
    /// Nearest cases that count, ≥ 1.
    pub neighbors: usize,
    /// Bytes of all cases. Beyond it, of the oldest cases those go that say little about an item of which many cases are
    /// left. `None`: unbounded.
    pub max_bytes: Option<usize>,
    /// Days in which what a case counts halves, > 0. `None`: cases do not age. Not in the first layout of a memory.
    #[serde(skip)]
    pub half_life_days: Option<f64>,
}

impl Default for CaseParams {
    fn default() -> Self {
        Self {
            eta: 0.6,
            adapt_width: 0.2,
            temperature: 0.1,
            recall_weight: 0.2,
            recall_width: 0.05,
            shrinkage: 0.001,
            neighbors: 128,
            max_bytes: None,
            half_life_days: None,
        }
    }
}

impl CaseParams {
    /// Errors at the first field that is out of range.
    pub fn check(&self) -> Result<()> {
        let positive = [
            ("adapt_width", self.adapt_width),
            ("temperature", self.temperature),
            ("recall_width", self.recall_width),
            ("shrinkage", self.shrinkage),
        ];
        for (name, v) in positive {
            if !(v.is_finite() && v > 0.0) {
                return Err(Error::config(name, "a finite number > 0", v));
            }
        }
        for (name, v) in [("eta", self.eta), ("recall_weight", self.recall_weight)] {
            if !(v.is_finite() && v >= 0.0) {
                return Err(Error::config(name, "a finite number >= 0", v));
            }
        }
        if self.neighbors == 0 {
            return Err(Error::config("neighbors", "at least 1", 0));
        }
        if self.max_bytes == Some(0) {
            return Err(Error::config("max_bytes", "at least 1, or None", 0));
        }
        if let Some(days) = self.half_life_days {
            check_half_life("half_life_days", days)?;
        }
        Ok(())
    }
}
