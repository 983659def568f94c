//! EWC++ in figures and as bytes.

use super::{BoundaryDetector, Ewc};
use crate::codec::{self, Kind};
use crate::error::{Error, Result, check_dim, check_finite, check_number};
use crate::metrics::Metrics;

const KIND: Kind = Kind {
    tag: *b"EWCP",
    version: 1,
};

impl Ewc {
    /// Bytes held.
    #[must_use]
    pub fn nbytes(&self) -> usize {
        let vectors = 2 * self.tasks.len() + 2 * usize::from(self.pooled.is_some());
        let values = vectors * self.config.param_count + self.theta.len() + self.running.len();
        size_of::<Self>()
            + values * size_of::<f32>()
            + self.boundary.as_ref().map_or(0, BoundaryDetector::nbytes)
    }

    /// Counters and gauges.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let c = &self.counters;
        vec![
            ("tasks", self.tasks.len().into()),
            ("tasks_started", c.tasks.into()),
            ("tasks_ignored", c.tasks_ignored.into()),
            ("merges", c.merges.into()),
            ("samples", self.samples.into()),
            ("samples_total", c.samples.into()),
            ("boundaries", c.boundaries.into()),
            ("lambda", self.lambda.into()),
            ("nbytes", self.nbytes().into()),
        ]
    }

    /// Serialises everything.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        codec::encode(KIND, self)
    }

    /// Reads back what [`Self::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut this: Self = codec::decode(KIND, bytes)?;
        this.validate().map_err(|e| Error::corrupt("EWC state", e))?;
        this.pool();
        Ok(this)
    }

    fn validate(&self) -> Result<()> {
        self.config.validate()?;
        check_number("lambda", self.lambda)?;
        let n = self.config.param_count;
        for (name, x) in [("params", &self.theta[..]), ("fisher", &self.running[..])] {
            if !x.is_empty() {
                check_dim(name, n, x.len())?;
                check_finite(name, x)?;
            }
        }
        let fits = self.lambda >= 0.0
            && self.tasks.len() <= self.config.max_tasks
            && self.running.iter().all(|f| *f >= 0.0)
            && (self.samples == 0) == self.running.is_empty();
        if !fits {
            return Err(Error::Learning("impossible counts or values".into()));
        }
        self.tasks.iter().try_for_each(|t| t.validate(n))?;
        match &self.boundary {
            Some(b) => b.validate(n),
            None => Ok(()),
        }
    }
}
