//! Settings of dreams.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Settings of dreams.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct DreamConfig {
    /// Memories on a path.
    pub path_length: usize,
    /// Chance of a jump at a step that does not restart.
    pub creative_jump_prob: f64,
    /// Chance of a return to the start.
    pub restart_prob: f64,
    /// Weight of novelty in the score.
    pub novelty_weight: f64,
    /// Weight of coherence.
    pub coherence_weight: f64,
    /// Weight of utility.
    pub utility_weight: f64,
    /// T of exp(cos / T).
    pub jump_temperature: f64,
    /// Ticks after which an unconfirmed suggestion goes.
    pub probation: u64,
}

impl Default for DreamConfig {
    fn default() -> Self {
        Self {
            path_length: 15,
            creative_jump_prob: 0.3,
            restart_prob: 0.1,
            novelty_weight: 0.3,
            coherence_weight: 0.4,
            utility_weight: 0.3,
            jump_temperature: 0.2,
            probation: 100,
        }
    }
}

impl DreamConfig {
    /// Errors on a setting out of range.
    pub fn check(&self) -> Result<()> {
        if !(2..=10_000).contains(&self.path_length) {
            return Err(Error::config("path_length", "2 to 10000", self.path_length));
        }
        for (name, p) in [
            ("creative_jump_prob", self.creative_jump_prob),
            ("restart_prob", self.restart_prob),
        ] {
            if !(0.0..=1.0).contains(&p) {
                return Err(Error::config(name, "a probability", p));
            }
        }
        for (name, w) in [
            ("novelty_weight", self.novelty_weight),
            ("coherence_weight", self.coherence_weight),
            ("utility_weight", self.utility_weight),
        ] {
            if !(w >= 0.0 && w.is_finite()) {
                return Err(Error::config(name, "a number of at least 0", w));
            }
        }
        if !(self.jump_temperature > 0.0 && self.jump_temperature.is_finite()) {
            return Err(Error::config(
                "jump_temperature",
                "a number above 0",
                self.jump_temperature,
            ));
        }
        if self.probation == 0 {
            return Err(Error::config("probation", "at least 1 tick", 0));
        }
        Ok(())
    }
}
