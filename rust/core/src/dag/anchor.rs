//! What an operator's adapter must not forget: online EWC on its factors (Schwarz et al. 2018).

use crate::error::{Error, Result, check_dim, check_finite};
use crate::lora::Factors;
use serde::{Deserialize, Serialize};

/// Weight of the past in the running Fisher information.
const DECAY: f64 = 0.9;

/// The factors after the last cycle, and how much each of their values mattered.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Anchor {
    star: Vec<f32>,
    fisher: Vec<f32>,
    cycles: u64,
}

/// A then B.
fn flat(f: &Factors) -> impl Iterator<Item = f32> + '_ {
    f.a().iter().chain(f.b()).copied()
}

impl Anchor {
    /// The factors nearest to `f` under the penalty: θ = (θ′ + ρFθ*)/(1 + ρF) with ρ = learning rate · steps · λ. `None`
    /// before the first cycle.
    pub(super) fn pull(&self, f: &Factors, rho: f64) -> Option<(Vec<f32>, Vec<f32>)> {
        if self.star.is_empty() || rho == 0.0 {
            return None;
        }
        let mut a: Vec<f32> = flat(f)
            .zip(self.star.iter().zip(&self.fisher))
            .map(|(v, (star, fisher))| {
                let hold = rho * f64::from(*fisher);
                ((f64::from(v) + hold * f64::from(*star)) / (1.0 + hold)) as f32
            })
            .collect();
        let b = a.split_off(f.a().len());
        Some((a, b))
    }

    /// Ends a cycle: remembers `f`, and the mean of the squared gradients (`square`: their sum over `samples`).
    pub(super) fn hold(&mut self, f: &Factors, square: &[f64], samples: usize) {
        self.star = flat(f).collect();
        let decay = if self.cycles == 0 { 0.0 } else { DECAY };
        self.fisher.resize(square.len(), 0.0);
        for (old, s) in self.fisher.iter_mut().zip(square) {
            let new = s / samples.max(1) as f64;
            *old = (decay * f64::from(*old) + (1.0 - decay) * new) as f32;
        }
        self.cycles += 1;
    }

    pub(super) fn validate(&self, len: usize) -> Result<()> {
        if self.cycles == 0 && self.star.is_empty() && self.fisher.is_empty() {
            return Ok(());
        }
        check_dim("anchor", len, self.star.len())?;
        check_dim("Fisher information", len, self.fisher.len())?;
        check_finite("anchor", &self.star)?;
        check_finite("Fisher information", &self.fisher)?;
        if self.fisher.iter().all(|v| *v >= 0.0) {
            Ok(())
        } else {
            Err(Error::corrupt("Fisher information", "below zero"))
        }
    }
}
