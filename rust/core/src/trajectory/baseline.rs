//! The running mean of rewards that a reward is judged against.

use crate::codec::{self, Kind};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

const KIND: Kind = Kind {
    tag: *b"RBSL",
    version: 1,
};

/// Exponential moving average with bias correction (Kingma & Ba 2015, §3). Read it *before* the new reward enters,
/// otherwise the reward is compared with itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RewardBaseline {
    beta: f64,
    initial: f64,
    mean: f64,
    count: u64,
}

impl RewardBaseline {
    /// `beta` in `[0, 1)`; `initial` is what [`Self::read`] says before the first reward.
    pub fn new(beta: f64, initial: f64) -> Result<Self> {
        if !(0.0..1.0).contains(&beta) {
            return Err(Error::config("beta", "a number in [0, 1)", beta));
        }
        if !initial.is_finite() {
            return Err(Error::config("initial", "a finite number", initial));
        }
        Ok(Self {
            beta,
            initial,
            mean: 0.0,
            count: 0,
        })
    }

    /// The current baseline.
    #[must_use]
    pub fn read(&self) -> f64 {
        if self.count == 0 {
            return self.initial;
        }
        // The exponent saturates long after beta^n has become 0.
        let n = i32::try_from(self.count).unwrap_or(i32::MAX);
        self.mean / (1.0 - self.beta.powi(n))
    }

    /// Lets one reward in.
    pub fn update(&mut self, reward: f64) -> Result<()> {
        if !reward.is_finite() {
            return Err(Error::NotFinite {
                name: "reward",
                index: 0,
                value: reward as f32,
            });
        }
        self.mean = self.beta * self.mean + (1.0 - self.beta) * reward;
        self.count += 1;
        Ok(())
    }

    /// Rewards seen.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Serialises.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        codec::encode(KIND, self)
    }

    /// Reads back what [`Self::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let this: Self = codec::decode(KIND, bytes)?;
        if (0.0..1.0).contains(&this.beta) && this.initial.is_finite() && this.mean.is_finite() {
            Ok(this)
        } else {
            Err(Error::corrupt("RewardBaseline", "values out of range"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bias_correction_makes_the_first_reads_plain_means() {
        let mut b = RewardBaseline::new(0.99, 0.5).unwrap();
        assert_eq!(b.read(), 0.5);
        b.update(0.9).unwrap();
        assert!((b.read() - 0.9).abs() < 1e-12);
        b.update(0.1).unwrap();
        let want = (0.99 * 0.9 + 0.1) / 1.99;
        assert!((b.read() - want).abs() < 1e-12);
        assert!(b.update(f64::NAN).is_err());
        assert_eq!(RewardBaseline::from_bytes(&b.to_bytes().unwrap()).unwrap(), b);
        assert!(RewardBaseline::new(1.0, 0.5).is_err());
    }
}
