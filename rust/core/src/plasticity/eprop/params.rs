//! Settings of an e-prop layer.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Most synapses of a matrix.
const LIMIT: usize = 1 << 28;

/// How errors come back to the neurons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Feedback {
    /// Along the output weights.
    Symmetric,
    /// Along fixed random weights.
    Random,
}

/// Settings of [`Eprop`]; times in steps.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct EpropParams {
    /// Inputs.
    pub n_in: usize,
    /// Neurons.
    pub n_rec: usize,
    /// Outputs.
    pub n_out: usize,
    /// Decay of the membrane.
    pub tau_m: f64,
    /// Decay of the outputs.
    pub tau_out: f64,
    /// Threshold.
    pub v_th: f64,
    /// Height of the pseudo-derivative.
    pub gamma: f64,
    /// Step size.
    pub learning_rate: f64,
    /// Rise of a neuron's threshold by its own spike; 0: none.
    pub adaptation: f64,
    /// Decay of that rise.
    pub tau_adapt: f64,
    /// How errors come back.
    pub feedback: Feedback,
    /// Seed of weights and random feedback.
    pub seed: u64,
}

impl EpropParams {
    pub(super) fn check(&self) -> Result<()> {
        for (name, n) in [("n_in", self.n_in), ("n_rec", self.n_rec), ("n_out", self.n_out)] {
            if n == 0 || n.checked_mul(self.n_rec).is_none_or(|m| m > LIMIT) {
                return Err(Error::config(
                    name,
                    format!("1 or more, {LIMIT} synapses at most"),
                    n,
                ));
            }
        }
        let times = [
            ("tau_m", self.tau_m),
            ("tau_out", self.tau_out),
            ("tau_adapt", self.tau_adapt),
            ("v_th", self.v_th),
        ];
        for (name, v) in times {
            if !(v > 0.0 && v.is_finite()) {
                return Err(Error::config(name, "a number above 0", v));
            }
        }
        let rates = [
            ("gamma", self.gamma),
            ("learning_rate", self.learning_rate),
            ("adaptation", self.adaptation),
        ];
        for (name, v) in rates {
            if !(v >= 0.0 && v.is_finite()) {
                return Err(Error::config(name, "a number of at least 0", v));
            }
        }
        Ok(())
    }
}
