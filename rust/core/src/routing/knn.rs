//! Quality of each model as the mean over the nearest remembered requests (Li 2025).

use super::cases::{Cases, unit};
use crate::codec::{self, Kind};
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use serde::{Deserialize, Serialize};

const KIND: Kind = Kind {
    tag: *b"KNNR",
    version: 1,
};

/// k nearest neighbours by cosine, per model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KnnRouter {
    k: usize,
    models: usize,
    cases: Cases,
}

/// Errors unless `quality` is finite and in [0, 1].
pub fn check_quality(quality: f64) -> Result<()> {
    crate::error::check_number("quality", quality)?;
    if (0.0..=1.0).contains(&quality) {
        Ok(())
    } else {
        Err(Error::value("quality", "a number in [0, 1]", quality))
    }
}

impl KnnRouter {
    /// An empty memory of at most `capacity` requests.
    pub fn new(models: usize, dim: usize, k: usize, capacity: usize) -> Result<Self> {
        if models == 0 {
            return Err(Error::config("models", "at least one", "none"));
        }
        if k == 0 {
            return Err(Error::config("k", "at least 1", k));
        }
        let cases = Cases::new(models, dim, capacity)?;
        Ok(Self { k, models, cases })
    }

    /// (models, dimension, k, capacity).
    #[must_use]
    pub fn shape(&self) -> (usize, usize, usize, usize) {
        (self.models, self.cases.dim(), self.k, self.cases.capacity())
    }

    /// Remembers how a model did on a request.
    pub fn learn(&mut self, x: &[f32], model: usize, quality: f64) -> Result<()> {
        let x = unit("embedding", self.cases.dim(), x)?;
        crate::error::check_number("quality", quality)?;
        if model >= self.models {
            return Err(Error::value("model", format!("below {}", self.models), model));
        }
        self.cases.learn(&x, model, quality as f32);
        Ok(())
    }

    /// Mean quality of each model's k nearest cases, NaN if it has none. O(cases · (dim + models)).
    pub fn predict(&self, x: &[f32]) -> Result<Vec<f64>> {
        let x = unit("embedding", self.cases.dim(), x)?;
        let s = self.cases.similarities(&x);
        Ok((0..self.models)
            .map(|m| Cases::nearest_mean(self.cases.quality(m), &s, self.k))
            .collect())
    }

    /// Counts.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let outcomes: usize = (0..self.models).map(|m| self.cases.count(m)).sum();
        vec![
            ("cases", self.cases.len().into()),
            ("outcomes", outcomes.into()),
            ("evicted", self.cases.evicted().into()),
        ]
    }

    /// The whole state.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        codec::encode(KIND, self)
    }

    /// The state that [`KnnRouter::to_bytes`] wrote; anything else is refused.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut out: Self = codec::decode(KIND, bytes)?;
        if out.k == 0 || out.models == 0 {
            return Err(Error::corrupt("KnnRouter state", "no models or no neighbours"));
        }
        out.cases.restore(out.models, "KnnRouter state")?;
        Ok(out)
    }
}
