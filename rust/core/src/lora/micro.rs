//! The fast adapter: changes the query vector within the same request.

use super::factors::Factors;
use super::optim::{Optimizer, Rule, check_rate};
use super::trust::{self, Anchor, QueryRing};
use crate::codec::{self, Kind};
use crate::error::{Error, Result, check_dim, check_finite};
use crate::kernels;
use crate::metrics::Metrics;
use crate::rng;
use crate::trajectory::LearningSignal;
use serde::{Deserialize, Serialize};

const KIND: Kind = Kind {
    tag: *b"MLRA",
    version: 1,
};
/// Largest dimension that state may claim.
pub(super) const MAX_DIM: usize = 1 << 24;

/// How a [`MicroLora`] learns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MicroConfig {
    /// Length d of the vectors.
    pub hidden_dim: usize,
    /// 1 or 2.
    pub rank: usize,
    /// s; `None`: 1/√rank.
    pub scale: Option<f32>,
    /// Step size of [`MicroLora::apply`].
    pub learning_rate: f64,
    /// Update rule.
    pub rule: Rule,
    /// Decoupled decay of both factors.
    pub weight_decay: f64,
    /// Joint bound of the gradient's length.
    pub clip_norm: Option<f64>,
    /// Largest share of a recent query's length by which learning may move its output.
    pub trust_region: Option<f64>,
    /// Seed of A.
    pub seed: u64,
}

impl MicroConfig {
    /// The public defaults.
    #[must_use]
    pub fn new(hidden_dim: usize, rank: usize) -> Self {
        Self {
            hidden_dim,
            rank,
            scale: None,
            learning_rate: 0.002,
            rule: Rule::AdamW {
                beta1: 0.9,
                beta2: 0.999,
                eps: 1e-8,
            },
            weight_decay: 1e-4,
            clip_norm: Some(1.0),
            trust_region: Some(0.1),
            seed: 0,
        }
    }

    fn validate(&self) -> Result<()> {
        if !(1..=MAX_DIM).contains(&self.hidden_dim) {
            return Err(Error::config(
                "hidden_dim",
                format!("1 to {MAX_DIM}"),
                self.hidden_dim,
            ));
        }
        if !(1..=2).contains(&self.rank) {
            return Err(Error::config("rank", "1 or 2", self.rank));
        }
        if let Some(s) = self.scale.filter(|s| !s.is_finite()) {
            return Err(Error::config("scale", "a finite number", s));
        }
        check_rate("learning_rate", self.learning_rate)
            .map_err(|_| Error::config("learning_rate", "a finite number, 0 or above", self.learning_rate))?;
        for (name, v) in [("clip_norm", self.clip_norm), ("trust_region", self.trust_region)] {
            if let Some(v) = v.filter(|v| !(v.is_finite() && *v > 0.0)) {
                return Err(Error::config(name, "a finite number above 0, or none", v));
            }
        }
        Ok(())
    }
}

/// What one [`MicroLora::apply`] did.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct ApplyReport {
    /// False if nothing was pending.
    pub applied: bool,
    /// Signals in the mean.
    pub count: usize,
    /// Length of the mean gradient of both factors, before clipping.
    pub grad_norm: f64,
    /// Length of the optimiser's step, before the trust region and without what decay alone takes away in
    /// [`MicroLora::learn_parts`].
    pub step_norm: f64,
    /// The gradient was scaled down to `clip_norm`.
    pub clipped: bool,
    /// The trust region scaled the adapter back.
    pub trust_scaled: bool,
}

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
    grad_a: Vec<f32>,
    grad_b: Vec<f32>,
    pending: usize,
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
            grad_a: vec![0.0; r * d],
            grad_b: vec![0.0; r * d],
            pending: 0,
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

    /// Signals that wait for [`Self::apply`].
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending
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
        let Some(weight) = self.admit(x, ascent, weight)? else {
            return Ok(false);
        };
        self.factors
            .add_gradients(x, ascent, -weight, &mut self.grad_a, &mut self.grad_b);
        self.pending += 1;
        Ok(true)
    }

    /// Checks a signal, counts it, and remembers its query; its weight, or `None` if it has no effect.
    fn admit(&mut self, x: &[f32], ascent: &[f32], weight: f64) -> Result<Option<f32>> {
        let d = self.config.hidden_dim;
        check_dim("query_embedding", d, x.len())?;
        check_dim("gradient_estimate", d, ascent.len())?;
        check_finite("query_embedding", x)?;
        check_finite("gradient_estimate", ascent)?;
        let weight = weight as f32;
        check_finite("weight", &[weight])?;
        if weight == 0.0 || ascent.iter().all(|g| *g == 0.0) {
            self.counters.no_direction += 1;
            return Ok(None);
        }
        let square = kernels::dot(x, x);
        if square == 0.0 && x.iter().all(|v| *v == 0.0) {
            self.counters.zero_query += 1;
            return Ok(None);
        }
        if self.config.trust_region.is_some() {
            self.ring.push(x, square);
        }
        self.counters.accumulated += 1;
        Ok(Some(weight))
    }

    /// [`Self::accumulate_parts`] and [`Self::apply`] at once. With plain gradient descent and nothing else pending the
    /// step goes straight into the factors: the gradients ∂A = s·(Bᵀg)xᵀ and ∂B = s·g(Ax)ᵀ are never written down, and
    /// their lengths are products of lengths.
    pub fn learn_parts(
        &mut self,
        x: &[f32],
        ascent: &[f32],
        weight: f64,
        learning_rate: Option<f64>,
    ) -> Result<ApplyReport> {
        let lr = learning_rate.unwrap_or(self.config.learning_rate);
        check_rate("learning_rate", lr)?;
        let plain = matches!(self.config.rule, Rule::Sgd { momentum: 0.0 });
        if self.pending > 0 || !plain {
            self.accumulate_parts(x, ascent, weight)?;
            return self.apply(Some(lr));
        }
        let Some(weight) = self.admit(x, ascent, weight)? else {
            return Ok(ApplyReport::default());
        };
        let f = &mut self.factors;
        let by = f.project(x, ascent).times(-weight * f.scale());
        let squares = |v: [f32; 2]| f64::from(v[0]).powi(2) + f64::from(v[1]).powi(2);
        let (xx, gg) = (kernels::dot(x, x), kernels::dot(ascent, ascent));
        let grad_norm = (squares(by.bg) * f64::from(xx) + squares(by.ax) * f64::from(gg)).sqrt();
        if !grad_norm.is_finite() {
            return Err(Error::Learning("the gradient overflowed and was dropped".into()));
        }
        let shrink = self.config.clip_norm.map_or(1.0, |c| (c / grad_norm).min(1.0));
        let decay = lr * self.config.weight_decay;
        if decay > 0.0 {
            kernels::scale((1.0 - decay) as f32, &mut f.a);
            kernels::scale((1.0 - decay) as f32, &mut f.b);
        }
        kernels::low_rank_update(
            x,
            ascent,
            &by.times(-(lr * shrink) as f32),
            self.config.rank,
            &mut f.a,
            &mut f.b,
        );
        self.optimizer.count_step();
        Ok(self.conclude(1, grad_norm, lr * shrink * grad_norm, shrink < 1.0))
    }

    /// Trust region, counters and report after a step.
    fn conclude(&mut self, count: usize, grad_norm: f64, step_norm: f64, clipped: bool) -> ApplyReport {
        let trust_scaled = self
            .config
            .trust_region
            .is_some_and(|share| trust::enforce(&mut self.factors, &self.ring, self.anchor.as_ref(), share));
        self.factors.refresh();
        self.counters.applied += 1;
        self.counters.clipped += u64::from(clipped);
        self.counters.trust_scaled += u64::from(trust_scaled);
        ApplyReport {
            applied: true,
            count,
            grad_norm,
            step_norm,
            clipped,
            trust_scaled,
        }
    }

    /// One optimiser step with the mean of what is pending; `learning_rate` overrides the configured one.
    pub fn apply(&mut self, learning_rate: Option<f64>) -> Result<ApplyReport> {
        let lr = learning_rate.unwrap_or(self.config.learning_rate);
        check_rate("learning_rate", lr)?;
        if self.pending == 0 {
            return Ok(ApplyReport::default());
        }
        let mean = 1.0 / self.pending as f64;
        let squares = kernels::dot(&self.grad_a, &self.grad_a) + kernels::dot(&self.grad_b, &self.grad_b);
        let grad_norm = f64::from(squares).sqrt() * mean;
        if !grad_norm.is_finite() {
            self.reset();
            return Err(Error::Learning(
                "the accumulated gradient overflowed and was dropped".into(),
            ));
        }
        let shrink = self.config.clip_norm.map_or(1.0, |c| (c / grad_norm).min(1.0));
        let moved = self.optimizer.step(
            lr,
            (mean * shrink) as f32,
            &mut [
                (self.factors.a.as_mut_slice(), self.grad_a.as_slice()),
                (self.factors.b.as_mut_slice(), self.grad_b.as_slice()),
            ],
        );
        let report = self.conclude(self.pending, grad_norm, moved.sqrt(), shrink < 1.0);
        self.clear_pending();
        Ok(report)
    }

    fn clear_pending(&mut self) {
        self.grad_a.fill(0.0);
        self.grad_b.fill(0.0);
        self.pending = 0;
    }

    /// Drops what is pending.
    pub fn reset(&mut self) {
        self.counters.discarded += self.pending as u64;
        self.clear_pending();
    }

    /// Bytes held.
    #[must_use]
    pub fn nbytes(&self) -> usize {
        let floats = 2 * (self.factors.a.len() + self.factors.b.len());
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
            ("pending", self.pending.into()),
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
        check_dim("pending A", r * d, self.grad_a.len())?;
        check_dim("pending B", r * d, self.grad_b.len())?;
        check_finite("pending A", &self.grad_a)?;
        check_finite("pending B", &self.grad_b)?;
        self.ring.validate(d)?;
        self.anchor.as_ref().map_or(Ok(()), |a| a.validate(r * d))
    }
}

#[cfg(test)]
#[path = "micro_tests.rs"]
mod tests;
