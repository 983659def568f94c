//! The fast adapter: changes the query vector within the same request.

use super::factors::Factors;
use super::micro_config::{ApplyReport, MicroConfig};
use super::optim::{Optimizer, check_rate};
use super::pending::{Outer, Pending, square};
use super::trust::{self, Anchor, QueryRing};
use crate::codec::{self, Kind};
use crate::error::{Error, Result, check_dim, check_finite};
use crate::metrics::Metrics;
use crate::rng;
use crate::trajectory::LearningSignal;
use serde::{Deserialize, Serialize};

const KIND: Kind = Kind {
    tag: *b"MLRA",
    version: 2,
};

#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Counters {
    accumulated: u64,
    no_direction: u64,
    zero_query: u64,
    applied: u64,
    clipped: u64,
    trust_scaled: u64,
    discarded: u64,
}

/// y = x + s·B(Ax) with its optimiser, pending gradients and trust region.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MicroLora {
    config: MicroConfig,
    factors: Factors,
    optimizer: Optimizer,
    pending: Pending,
    ring: QueryRing,
    anchor: Option<Anchor>,
    counters: Counters,
}

impl MicroLora {
    /// A ~ N(0, 1/d), B = 0: the identity.
    pub fn new(config: MicroConfig) -> Result<Self> {
        config.validate()?;
        let (d, r) = (config.hidden_dim, config.rank);
        let scale = config.scale.unwrap_or_else(|| 1.0 / (r as f32).sqrt());
        let mut rng = rng::stream(config.seed, 0);
        let sd = 1.0 / (d as f64).sqrt();
        let a = (0..r * d).map(|_| (rng::normal(&mut rng) * sd) as f32).collect();
        let optimizer = Optimizer::new(config.rule, 2 * r * d, config.weight_decay, true)?;
        Ok(Self {
            factors: Factors::new(d, r, scale, a, vec![0.0; r * d])?,
            optimizer,
            pending: Pending::default(),
            ring: QueryRing::default(),
            anchor: None,
            counters: Counters::default(),
            config,
        })
    }

    /// How it learns.
    #[must_use]
    pub fn config(&self) -> &MicroConfig {
        &self.config
    }

    /// The factors as they are now.
    #[must_use]
    pub fn factors(&self) -> &Factors {
        &self.factors
    }

    /// True if learning moved the factors since they were given.
    #[must_use]
    pub fn has_moved(&self) -> bool {
        match &self.anchor {
            Some(anchor) => !anchor.is(&self.factors),
            None => !self.factors.is_identity(),
        }
    }

    /// Signals that wait for [`Self::apply`].
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending.count()
    }

    /// Changes s.
    pub fn set_scale(&mut self, scale: f32) -> Result<()> {
        if !scale.is_finite() {
            return Err(Error::value("scale", "a finite number", scale));
        }
        self.factors.set_scale(scale);
        Ok(())
    }

    /// Replaces A `(rank, d)` and B `(d, rank)`. The optimiser starts afresh, what is pending is dropped (it belongs to
    /// the old factors), and the trust region is measured from here.
    pub fn set_factors(&mut self, a: Vec<f32>, b: Vec<f32>) -> Result<()> {
        let f = &self.factors;
        self.factors = Factors::new(f.dim(), f.rank(), f.scale(), a, b)?;
        self.anchor = Anchor::of(&self.factors);
        self.optimizer.reset();
        self.ring.clear();
        self.reset();
        Ok(())
    }

    /// Adds the descent gradient −weight·gradient at `signal.query`; false (and counted) if there is no direction.
    pub fn accumulate(&mut self, signal: &LearningSignal) -> Result<bool> {
        self.accumulate_parts(&signal.query, &signal.gradient, signal.weight)
    }

    /// [`Self::accumulate`] from borrowed parts.
    pub fn accumulate_parts(&mut self, x: &[f32], ascent: &[f32], weight: f64) -> Result<bool> {
        let Some(signal) = self.admit(x, ascent, weight)? else {
            return Ok(false);
        };
        self.pending.add(&signal, self.config.rank);
        Ok(true)
    }

    /// Checks a signal, counts it, and remembers its query; its gradients, or `None` if it has no effect.
    #[inline]
    fn admit<'a>(&mut self, x: &'a [f32], ascent: &'a [f32], weight: f64) -> Result<Option<Outer<'a>>> {
        let d = self.config.hidden_dim;
        check_dim("query_embedding", d, x.len())?;
        check_dim("gradient_estimate", d, ascent.len())?;
        let squares = (square(x), square(ascent));
        if !squares.0.is_finite() {
            check_finite("query_embedding", x)?;
        }
        if !squares.1.is_finite() {
            check_finite("gradient_estimate", ascent)?;
        }
        let weight = weight as f32;
        check_finite("weight", &[weight])?;
        let zero = |square: f64, v: &[f32]| square == 0.0 && v.iter().all(|v| *v == 0.0);
        if weight == 0.0 || zero(squares.1, ascent) {
            self.counters.no_direction += 1;
            return Ok(None);
        }
        if zero(squares.0, x) {
            self.counters.zero_query += 1;
            return Ok(None);
        }
        if self.config.trust_region.is_some() {
            self.ring.push(x, squares.0 as f32);
        }
        self.counters.accumulated += 1;
        let by = self
            .factors
            .project(x, ascent)
            .times(-weight * self.factors.scale());
        Ok(Some(Outer {
            x,
            g: ascent,
            squares,
            by,
        }))
    }

    /// [`Self::accumulate_parts`] and [`Self::apply`] at once; with nothing else pending the same to the bit, without a
    /// copy of the signal.
    pub fn learn_parts(
        &mut self,
        x: &[f32],
        ascent: &[f32],
        weight: f64,
        learning_rate: Option<f64>,
    ) -> Result<ApplyReport> {
        let lr = learning_rate.unwrap_or(self.config.learning_rate);
        check_rate("learning_rate", lr)?;
        if self.pending() > 0 {
            self.accumulate_parts(x, ascent, weight)?;
            return self.apply(Some(lr));
        }
        match self.admit(x, ascent, weight)? {
            Some(signal) => {
                let grad_norm = signal.norm();
                self.step(1, grad_norm, |optimizer, factors, scale| {
                    signal.step(optimizer, factors, lr, scale)
                })
            }
            None => Ok(ApplyReport::default()),
        }
    }

    /// One step with the mean of `count` signals whose sum has length `norm`; `descend` takes it with the sum times the
    /// factor it is given, and returns the squared length of the step.
    fn step(
        &mut self,
        count: usize,
        norm: f64,
        descend: impl FnOnce(&mut Optimizer, &mut Factors, f32) -> f64,
    ) -> Result<ApplyReport> {
        let mean = 1.0 / count as f64;
        let grad_norm = norm * mean;
        if !grad_norm.is_finite() {
            return Err(Error::Learning("the gradient overflowed and was dropped".into()));
        }
        let shrink = self.config.clip_norm.map_or(1.0, |c| (c / grad_norm).min(1.0));
        let moved = descend(&mut self.optimizer, &mut self.factors, (mean * shrink) as f32);
        let trust_scaled = self
            .config
            .trust_region
            .is_some_and(|share| trust::enforce(&mut self.factors, &self.ring, self.anchor.as_ref(), share));
        self.factors.refresh();
        let clipped = shrink < 1.0;
        self.counters.applied += 1;
        self.counters.clipped += u64::from(clipped);
        self.counters.trust_scaled += u64::from(trust_scaled);
        Ok(ApplyReport {
            applied: true,
            count,
            grad_norm,
            step_norm: moved.sqrt(),
            clipped,
            trust_scaled,
        })
    }

    /// One optimiser step with the mean of what is pending; `learning_rate` overrides the configured one.
    pub fn apply(&mut self, learning_rate: Option<f64>) -> Result<ApplyReport> {
        let lr = learning_rate.unwrap_or(self.config.learning_rate);
        check_rate("learning_rate", lr)?;
        if self.pending() == 0 {
            return Ok(ApplyReport::default());
        }
        let mut pending = std::mem::take(&mut self.pending);
        let report = self.step(pending.count(), pending.norm(), |optimizer, factors, scale| {
            pending.step(optimizer, factors, lr, scale)
        });
        // Back with its memory, for the next signal.
        let count = pending.clear();
        self.pending = pending;
        if report.is_err() {
            self.counters.discarded += count as u64;
        }
        report
    }

    /// Drops what is pending.
    pub fn reset(&mut self) {
        self.counters.discarded += self.pending.clear() as u64;
    }

    /// Bytes held, what a mean of several signals needs included.
    #[must_use]
    pub fn nbytes(&self) -> usize {
        let floats = 2 * (self.factors.a.len() + self.factors.b.len()) + 2 * self.config.hidden_dim;
        size_of::<Self>()
            + floats * size_of::<f32>()
            + self.optimizer.nbytes()
            + self.ring.nbytes(self.config.hidden_dim)
            + self.anchor.as_ref().map_or(0, Anchor::nbytes)
    }

    /// Counters and gauges.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let c = &self.counters;
        vec![
            ("pending", self.pending().into()),
            ("accumulated", c.accumulated.into()),
            ("skipped_no_direction", c.no_direction.into()),
            ("skipped_zero_query", c.zero_query.into()),
            ("discarded", c.discarded.into()),
            ("applied", c.applied.into()),
            ("clipped", c.clipped.into()),
            ("trust_scaled", c.trust_scaled.into()),
            ("nbytes", self.nbytes().into()),
        ]
    }

    /// Serialises everything: factors, optimiser, pending gradients, ring, counters.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        codec::encode(KIND, self)
    }

    /// Reads back what [`Self::to_bytes`] wrote; going on from there equals never having stopped, bit for bit.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let this: Self = codec::decode(KIND, bytes)?;
        this.validate()
            .map_err(|e| Error::corrupt("MicroLoRA state", e))?;
        Ok(this)
    }

    /// Checks decoded state, wherever it was embedded.
    pub fn validate(&self) -> Result<()> {
        self.config.validate()?;
        self.factors.validate()?;
        self.optimizer.validate()?;
        let (d, r) = (self.config.hidden_dim, self.config.rank);
        check_dim("hidden_dim", d, self.factors.dim())?;
        check_dim("rank", r, self.factors.rank())?;
        check_dim("optimiser", 2 * r * d, self.optimizer.len())?;
        self.pending.validate(d, r)?;
        self.ring.validate(d)?;
        self.anchor.as_ref().map_or(Ok(()), |a| a.validate(r * d))
    }
}

#[cfg(test)]
#[path = "micro_tests.rs"]
mod tests;
