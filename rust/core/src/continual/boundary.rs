//! When did the task change? Page–Hinkley over the direction of the gradients.

use super::check_gradient;
use super::config::MAX_PARAMS;
use crate::codec::{self, Kind};
use crate::control::detect::{Detector, Direction, PageHinkley};
use crate::error::{Error, Result, check_dim, check_finite, check_number};
use crate::kernels;
use crate::metrics::Metrics;
use serde::{Deserialize, Serialize};

const KIND: Kind = Kind {
    tag: *b"BDRY",
    version: 1,
};
/// Share of the Page–Hinkley sum that each step keeps.
const FORGET: f64 = 0.9999;

/// Settings of a [`BoundaryDetector`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BoundaryConfig {
    /// Length of the gradients.
    pub dim: usize,
    /// Share of the mean gradient that each step keeps.
    pub ema: f64,
    /// Steps that only build the mean gradient.
    pub burn_in: u64,
    /// Rise of the cosine distance that is tolerated.
    pub delta: f64,
    /// Sum of rises that raises the alarm.
    pub threshold: f64,
    /// Steps after the burn-in before an alarm.
    pub min_run: u64,
}

impl BoundaryConfig {
    /// The public defaults.
    #[must_use]
    pub fn new(dim: usize) -> Self {
        Self {
            dim,
            ema: 0.95,
            burn_in: 60,
            delta: 0.01,
            threshold: 2.0,
            min_run: 50,
        }
    }

    fn validate(&self) -> Result<()> {
        if !(1..=MAX_PARAMS).contains(&self.dim) {
            return Err(Error::config("dim", format!("1 to {MAX_PARAMS}"), self.dim));
        }
        if !(0.0..1.0).contains(&self.ema) {
            return Err(Error::config("ema", "a number in [0, 1)", self.ema));
        }
        if !(self.delta.is_finite() && self.delta >= 0.0) {
            return Err(Error::config("delta", "a finite number, 0 or above", self.delta));
        }
        if !(self.threshold.is_finite() && self.threshold > 0.0) {
            return Err(Error::config(
                "threshold",
                "a finite number above 0",
                self.threshold,
            ));
        }
        Ok(())
    }
}

/// Watches the cosine distance of each gradient to the exponential mean of those before it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BoundaryDetector {
    config: BoundaryConfig,
    mean: Vec<f32>,
    test: PageHinkley,
    steps: u64,
    total: u64,
    alarms: u64,
    distance: f64,
}

impl BoundaryDetector {
    /// At its beginning.
    pub fn new(config: BoundaryConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            mean: vec![0.0; config.dim],
            test: PageHinkley::new(
                config.delta,
                config.threshold,
                FORGET,
                config.min_run,
                Direction::Up,
            )?,
            config,
            steps: 0,
            total: 0,
            alarms: 0,
            distance: 0.0,
        })
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &BoundaryConfig {
        &self.config
    }

    /// Takes in a gradient; true on an alarm, after which everything starts anew.
    pub fn update(&mut self, gradient: &[f32]) -> Result<bool> {
        check_dim("gradient", self.config.dim, gradient.len())?;
        check_gradient("gradient", gradient)?;
        let cosine = f64::from(kernels::dot(gradient, &self.mean))
            / (f64::from(kernels::norm(gradient)) * f64::from(kernels::norm(&self.mean)) + 1e-12);
        self.distance = 1.0 - cosine;
        kernels::scale(self.config.ema as f32, &mut self.mean);
        kernels::axpy((1.0 - self.config.ema) as f32, gradient, &mut self.mean);
        let fired = self.steps >= self.config.burn_in && self.test.update(self.distance);
        self.steps += 1;
        self.total += 1;
        if fired {
            self.alarms += 1;
            self.steps = 0;
            self.mean.fill(0.0);
        }
        Ok(fired)
    }

    /// Bytes held.
    #[must_use]
    pub fn nbytes(&self) -> usize {
        size_of::<Self>() + self.mean.len() * size_of::<f32>()
    }

    /// Counters and gauges.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        vec![
            ("steps", self.total.into()),
            ("alarms", self.alarms.into()),
            ("distance", self.distance.into()),
            ("nbytes", self.nbytes().into()),
        ]
    }

    /// Serialises everything.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        codec::encode(KIND, self)
    }

    /// Reads back what [`Self::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let this: Self = codec::decode(KIND, bytes)?;
        this.validate(this.config.dim)
            .map_err(|e| Error::corrupt("BoundaryDetector state", e))?;
        Ok(this)
    }

    /// Checks decoded state, wherever it was embedded.
    pub(super) fn validate(&self, dim: usize) -> Result<()> {
        self.config.validate()?;
        check_dim("dim", dim, self.config.dim)?;
        check_dim("mean", dim, self.mean.len())?;
        check_finite("mean", &self.mean)?;
        check_number("distance", self.distance)?;
        if self.test.is_valid() {
            Ok(())
        } else {
            Err(Error::Learning("the test's sums are not finite".into()))
        }
    }
}
