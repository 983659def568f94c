//! Two-sided cumulative sums (Page 1954): small shifts that last.

use super::{Counts, Detector, not_negative, positive};
use crate::codec::Kind;
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use serde::{Deserialize, Serialize};

/// Alarms when standardised deviations beyond `k`, summed up, exceed `h` on one side.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cusum {
    mean: f64,
    std: f64,
    k: f64,
    h: f64,
    up: f64,
    down: f64,
    counts: Counts,
}

impl Cusum {
    /// `mean` and `std` of the normal state; `k` is slack and `h` the threshold, both in standard deviations.
    pub fn new(mean: f64, std: f64, k: f64, h: f64) -> Result<Self> {
        if !mean.is_finite() {
            return Err(Error::config("mean", "a finite number", mean));
        }
        positive("std", std)?;
        not_negative("k", k)?;
        positive("h", h)?;
        Ok(Self {
            mean,
            std,
            k,
            h,
            up: 0.0,
            down: 0.0,
            counts: Counts::default(),
        })
    }

    /// The larger of the two sums.
    #[must_use]
    pub fn score(&self) -> f64 {
        self.up.max(self.down)
    }
}

impl Detector for Cusum {
    const KIND: Kind = Kind {
        tag: *b"CUSM",
        version: 1,
    };

    fn update(&mut self, x: f64) -> bool {
        if !self.counts.enter(x) {
            return false;
        }
        let z = (x - self.mean) / self.std;
        self.up = (self.up + z - self.k).max(0.0);
        self.down = (self.down - z - self.k).max(0.0);
        let alarm = self.up > self.h || self.down > self.h;
        if alarm {
            self.up = 0.0;
            self.down = 0.0;
        }
        self.counts.leave(alarm)
    }

    fn metrics(&self) -> Metrics {
        let mut out = self.counts.metrics();
        out.extend([("up", self.up.into()), ("down", self.down.into())]);
        out
    }

    fn is_valid(&self) -> bool {
        Self::new(self.mean, self.std, self.k, self.h).is_ok() && self.up >= 0.0 && self.down >= 0.0
    }
}
