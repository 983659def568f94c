//! How much of what is shown has been clicked before: near 0 in an open item set, near 1 in a closed one.

use serde::{Deserialize, Serialize};

/// Decayed mean of the share of shown places that items with clicks took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Coverage {
    known: f64,
    n: f64,
}

impl Coverage {
    pub(super) fn add(&mut self, share: f64, decay: f64) {
        self.known = decay * self.known + share;
        self.n = decay * self.n + 1.0;
    }

    pub(super) fn mean(self) -> f64 {
        if self.n > 0.0 { self.known / self.n } else { 0.0 }
    }

    /// True if decoded bytes can be what this type writes.
    pub(super) fn is_valid(self) -> bool {
        self.n.is_finite() && self.n >= 0.0 && (0.0..=self.n).contains(&self.known)
    }
}
