//! What leaving the default has cost so far, and what it may still cost.
//!
//! A setting other than the default is tried only while what it may lose fits into `share` of the time that the default
//! would have taken so far, what earlier tries lost or won included (conservative exploration: Wu et al. 2016, Kazerouni
//! et al. 2017).

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Milliseconds, summed over all runs of settings.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Ledger {
    /// What the default took or would have taken.
    pub reference: f64,
    /// What was lost by leaving it; negative: won.
    pub lost: f64,
    pub runs: u64,
    pub away: u64,
}

impl Ledger {
    /// What the next run may lose where the default would take `reference`.
    pub(super) fn left(&self, share: f64, reference: f64) -> f64 {
        share * (self.reference + reference) - self.lost
    }

    pub(super) fn add(&mut self, reference: f64, taken: f64, away: bool) {
        self.runs += 1;
        self.reference += reference;
        if away {
            self.away += 1;
            self.lost += taken - reference;
        }
    }

    pub(super) fn validate(&self) -> Result<()> {
        if self.reference.is_finite() && self.reference >= 0.0 && self.lost.is_finite() {
            Ok(())
        } else {
            Err(Error::corrupt("ledger", "not sums of times"))
        }
    }
}
