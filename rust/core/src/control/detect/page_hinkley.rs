//! The Page–Hinkley test with forgetting (Page 1954; Gama et al. 2014, §3): a change of the mean.

use super::{Counts, Detector, not_negative, positive};
use crate::codec::Kind;
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use serde::{Deserialize, Serialize};

/// Which change raises an alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// A rise.
    Up,
    /// A fall.
    Down,
    /// Either.
    Both,
}

impl Direction {
    /// "up", "down" or "both".
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "up" => Ok(Self::Up),
            "down" => Ok(Self::Down),
            "both" => Ok(Self::Both),
            other => Err(Error::config("mode", "\"up\", \"down\" or \"both\"", other)),
        }
    }
}

/// Alarms when the sum of deviations from the running mean leaves its lowest (or highest) value by more than `threshold`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PageHinkley {
    delta: f64,
    threshold: f64,
    alpha: f64,
    min_instances: u64,
    direction: Direction,
    n: u64,
    mean: f64,
    up: f64,
    lowest: f64,
    down: f64,
    highest: f64,
    counts: Counts,
}

impl PageHinkley {
    /// `delta` is the change that does not matter; `alpha` in (0, 1] forgets.
    pub fn new(
        delta: f64,
        threshold: f64,
        alpha: f64,
        min_instances: u64,
        direction: Direction,
    ) -> Result<Self> {
        not_negative("delta", delta)?;
        positive("threshold", threshold)?;
        if !(alpha > 0.0 && alpha <= 1.0) {
            return Err(Error::config("alpha", "a number in (0, 1]", alpha));
        }
        Ok(Self {
            delta,
            threshold,
            alpha,
            min_instances,
            direction,
            n: 0,
            mean: 0.0,
            up: 0.0,
            lowest: f64::INFINITY,
            down: 0.0,
            highest: f64::NEG_INFINITY,
            counts: Counts::default(),
        })
    }

    fn start_anew(&mut self) {
        self.n = 0;
        self.mean = 0.0;
        self.up = 0.0;
        self.lowest = f64::INFINITY;
        self.down = 0.0;
        self.highest = f64::NEG_INFINITY;
    }

    /// How far the sums have left their extremes, the larger of those that count.
    #[must_use]
    pub fn score(&self) -> f64 {
        if self.n == 0 {
            return 0.0;
        }
        let (up, down) = (self.up - self.lowest, self.highest - self.down);
        match self.direction {
            Direction::Up => up,
            Direction::Down => down,
            Direction::Both => up.max(down),
        }
    }
}

impl Detector for PageHinkley {
    const KIND: Kind = Kind {
        tag: *b"PAGH",
        version: 1,
    };

    fn update(&mut self, x: f64) -> bool {
        if !self.counts.enter(x) {
            return false;
        }
        self.n += 1;
        self.mean += (x - self.mean) / self.n as f64;
        self.up = self.alpha * self.up + (x - self.mean - self.delta);
        self.down = self.alpha * self.down + (x - self.mean + self.delta);
        self.lowest = self.lowest.min(self.up);
        self.highest = self.highest.max(self.down);
        let alarm = self.n >= self.min_instances && self.score() > self.threshold;
        if alarm {
            self.start_anew();
        }
        self.counts.leave(alarm)
    }

    fn metrics(&self) -> Metrics {
        let mut out = self.counts.metrics();
        out.extend([("score", self.score().into()), ("mean", self.mean.into())]);
        out
    }

    fn is_valid(&self) -> bool {
        let fresh = Self::new(
            self.delta,
            self.threshold,
            self.alpha,
            self.min_instances,
            self.direction,
        )
        .is_ok();
        let sums = [self.mean, self.up, self.down].iter().all(|x| x.is_finite());
        let extremes = self.n == 0 || (self.lowest.is_finite() && self.highest.is_finite());
        fresh && sums && extremes && !self.lowest.is_nan() && !self.highest.is_nan()
    }
}
