//! Exponentially weighted moving average and variance (Roberts 1959; West 1979 for the variance).

use super::{Counts, Detector, not_negative, positive};
use crate::codec::Kind;
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use serde::{Deserialize, Serialize};

/// Alarms on a value that lies far from the running mean, in running standard deviations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ewma {
    alpha: f64,
    threshold: f64,
    warmup: u64,
    initial_variance: f64,
    mean: f64,
    variance: f64,
    score: f64,
    counts: Counts,
}

impl Ewma {
    /// `alpha` in (0, 1]; scores of the first `warmup + 1` values are 0.
    pub fn new(alpha: f64, threshold: f64, warmup: u64, initial_variance: f64) -> Result<Self> {
        if !(alpha > 0.0 && alpha <= 1.0) {
            return Err(Error::config("alpha", "a number in (0, 1]", alpha));
        }
        positive("threshold", threshold)?;
        not_negative("initial_variance", initial_variance)?;
        Ok(Self {
            alpha,
            threshold,
            warmup,
            initial_variance,
            mean: 0.0,
            variance: initial_variance,
            score: 0.0,
            counts: Counts::default(),
        })
    }

    /// Deviation of the latest value in standard deviations.
    #[must_use]
    pub fn score(&self) -> f64 {
        self.score
    }

    /// The running mean.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.mean
    }

    /// The running standard deviation.
    #[must_use]
    pub fn std(&self) -> f64 {
        self.variance.sqrt()
    }
}

impl Detector for Ewma {
    const KIND: Kind = Kind {
        tag: *b"EWMA",
        version: 1,
    };

    fn update(&mut self, x: f64) -> bool {
        let index = self.counts.seen;
        if !self.counts.enter(x) {
            return false;
        }
        if index == 0 {
            self.mean = x;
        }
        let d = x - self.mean;
        self.score = if index <= self.warmup {
            0.0
        } else {
            d.abs() / (self.variance + 1e-12).sqrt()
        };
        self.mean += self.alpha * d;
        self.variance = (1.0 - self.alpha) * (self.variance + self.alpha * d * d);
        // A square that overflows would make every later score 0.
        self.variance = self.variance.min(f64::MAX);
        self.counts.leave(self.score > self.threshold)
    }

    fn metrics(&self) -> Metrics {
        let mut out = self.counts.metrics();
        out.extend([
            ("score", self.score.into()),
            ("mean", self.mean.into()),
            ("std", self.std().into()),
        ]);
        out
    }

    fn is_valid(&self) -> bool {
        let fresh = Self::new(self.alpha, self.threshold, self.warmup, self.initial_variance).is_ok();
        fresh
            && self.mean.is_finite()
            && self.variance.is_finite()
            && self.variance >= 0.0
            && self.score >= 0.0
    }
}
