//! How a replay buffer keeps and draws.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Most slots.
const MAX_SLOTS: usize = 1 << 28;

/// Which item gives way in a full buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeepPolicy {
    /// The oldest.
    Oldest,
    /// A random one, or the new one: what is kept is a uniform sample of all that came (Vitter 1985, algorithm R).
    Reservoir,
}

impl KeepPolicy {
    /// From its public name.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "oldest" => Ok(Self::Oldest),
            "reservoir" => Ok(Self::Reservoir),
            _ => Err(Error::config(
                "policy",
                "\"oldest\" or \"reservoir\"",
                format!("{name:?}"),
            )),
        }
    }

    /// The public name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Oldest => "oldest",
            Self::Reservoir => "reservoir",
        }
    }
}

/// Settings of a [`PriorityReplay`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplayConfig {
    /// Slots.
    pub capacity: usize,
    /// How much priorities matter; 0: uniform.
    pub alpha: f64,
    /// How much importance weights correct; 1: fully.
    pub beta: f64,
    /// Added to each priority.
    pub eps: f64,
    /// Bytes of all items together.
    pub max_bytes: Option<usize>,
    /// Which item gives way.
    pub policy: KeepPolicy,
    /// Seed of draws and of the reservoir.
    pub seed: u64,
}

impl ReplayConfig {
    /// The public defaults.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            alpha: 0.6,
            beta: 0.4,
            eps: 1e-6,
            max_bytes: None,
            policy: KeepPolicy::Oldest,
            seed: 0,
        }
    }

    pub(super) fn validate(&self) -> Result<()> {
        if !(1..=MAX_SLOTS).contains(&self.capacity) {
            return Err(Error::config(
                "capacity",
                format!("1 to {MAX_SLOTS}"),
                self.capacity,
            ));
        }
        for (name, v) in [("alpha", self.alpha), ("beta", self.beta)] {
            if !(v.is_finite() && v >= 0.0) {
                return Err(Error::config(name, "a finite number, 0 or above", v));
            }
        }
        if !(self.eps.is_finite() && self.eps > 0.0) {
            return Err(Error::config("eps", "a finite number above 0", self.eps));
        }
        Ok(())
    }
}
