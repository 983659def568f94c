//! One-shot association: the smallest change of weights after which a pattern gives its target.

use crate::codec::{self, Kind};
use crate::error::{Error, Result, check_dim, check_finite};
use crate::metrics::Metrics;
use serde::{Deserialize, Serialize};

const KIND: Kind = Kind {
    tag: *b"BTSL",
    version: 1,
};
/// Most weights.
const LIMIT: usize = 1 << 28;

/// A linear layer that learns each association at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BtspLayer {
    n_in: usize,
    n_out: usize,
    window_ms: f64,
    seed: u64,
    weights: Vec<f32>,
    stored: u64,
    outside: u64,
}

impl BtspLayer {
    /// With weights of 0.
    pub fn new(n_in: usize, n_out: usize, window_ms: f64, seed: u64) -> Result<Self> {
        for (name, n) in [("n_in", n_in), ("n_out", n_out)] {
            if n == 0 {
                return Err(Error::config(name, "at least 1", n));
            }
        }
        if n_in.checked_mul(n_out).is_none_or(|n| n > LIMIT) {
            return Err(Error::config(
                "n_in",
                format!("at most {LIMIT} weights"),
                format!("{n_in} times {n_out}"),
            ));
        }
        if !(window_ms > 0.0 && window_ms.is_finite()) {
            return Err(Error::config("window_ms", "a time above 0", window_ms));
        }
        Ok(Self {
            n_in,
            n_out,
            window_ms,
            seed,
            weights: vec![0.0; n_in * n_out],
            stored: 0,
            outside: 0,
        })
    }

    /// Inputs.
    #[must_use]
    pub fn n_in(&self) -> usize {
        self.n_in
    }

    /// Outputs.
    #[must_use]
    pub fn n_out(&self) -> usize {
        self.n_out
    }

    /// Longest lag between pattern and target.
    #[must_use]
    pub fn window_ms(&self) -> f64 {
        self.window_ms
    }

    /// The seed.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// (n_out, n_in).
    #[must_use]
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    fn row_dot(row: &[f32], x: &[f32]) -> f64 {
        row.iter()
            .zip(x)
            .map(|(w, x)| f64::from(*w) * f64::from(*x))
            .sum()
    }

    /// W·x.
    pub fn forward(&self, pattern: &[f32]) -> Result<Vec<f32>> {
        check_dim("pattern", self.n_in, pattern.len())?;
        check_finite("pattern", pattern)?;
        let rows = self.weights.chunks_exact(self.n_in);
        Ok(rows.map(|row| Self::row_dot(row, pattern) as f32).collect())
    }

    /// W ← W + (t − Wx)xᵀ/‖x‖²: afterwards the pattern gives the target. Farther apart in time than the window, nothing is
    /// learned; returns whether something was.
    pub fn one_shot_associate(&mut self, pattern: &[f32], target: &[f32], lag_ms: f64) -> Result<bool> {
        check_dim("pattern", self.n_in, pattern.len())?;
        check_dim("target", self.n_out, target.len())?;
        check_finite("pattern", pattern)?;
        check_finite("target", target)?;
        crate::error::check_number("lag_ms", lag_ms)?;
        let size = Self::row_dot(pattern, pattern);
        if size == 0.0 {
            return Err(Error::value("pattern", "a value other than 0", "all zeros"));
        }
        if lag_ms.abs() > self.window_ms {
            self.outside += 1;
            return Ok(false);
        }
        let mut next = self.weights.clone();
        for (row, t) in next.chunks_exact_mut(self.n_in).zip(target) {
            let step = (f64::from(*t) - Self::row_dot(row, pattern)) / size;
            for (w, x) in row.iter_mut().zip(pattern) {
                *w = (f64::from(*w) + step * f64::from(*x)) as f32;
            }
        }
        check_finite("weights after the step", &next)?;
        self.weights = next;
        self.stored += 1;
        Ok(true)
    }

    /// Counters and gauges.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        vec![
            ("stored", self.stored.into()),
            ("outside_window", self.outside.into()),
            ("weight_bytes", (self.weights.len() * 4).into()),
        ]
    }

    /// The whole state.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        codec::encode(KIND, self)
    }

    /// Reads back what [`Self::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let bad = |e: Error| Error::corrupt("BTSPLayer state", e);
        let this: Self = codec::decode(KIND, bytes)?;
        check_finite("weights", &this.weights).map_err(bad)?;
        let sized = this.n_in.checked_mul(this.n_out) == Some(this.weights.len());
        let sane = this.n_in > 0 && this.n_out > 0 && this.window_ms > 0.0 && this.window_ms.is_finite();
        if sized && sane {
            Ok(this)
        } else {
            Err(Error::corrupt("BTSPLayer state", "sizes that do not agree"))
        }
    }
}
