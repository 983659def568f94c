//! The slow adapter: one pair of factors per layer, trained in the background and exportable.

use super::base_config::BaseConfig;
use super::factors::Factors;
use super::micro::MicroLora;
use super::optim::Optimizer;
use super::svd::{Merged, merge_products, rearranged};
use crate::codec::{self, Kind};
use crate::error::{Error, Result, check_dim, check_finite};
use crate::kernels;
use crate::metrics::Metrics;
use crate::rng::{self, RngExt};
use serde::{Deserialize, Serialize};

const KIND: Kind = Kind {
    tag: *b"BLRA",
    version: 1,
};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Layer {
    pub factors: Factors,
    pub optimizer: Optimizer,
}

#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Counters {
    pub steps: u64,
    pub rows: u64,
    pub skipped_no_contrast: u64,
    pub merges: u64,
}

/// y = x + (α/r)·B(Ax) for each layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BaseLora {
    config: BaseConfig,
    alpha: f64,
    pub(super) layers: Vec<Layer>,
    pub(super) counters: Counters,
}

impl BaseLora {
    /// A is Kaiming-uniform with a = √5, that is uniform in ±1/√d (He 2015; Hu 2021); B = 0.
    pub fn new(config: BaseConfig) -> Result<Self> {
        config.validate()?;
        let (d, r) = (config.hidden_dim, config.rank);
        let alpha = config.alpha.unwrap_or(r as f64);
        let bound = 1.0 / (d as f64).sqrt();
        let mut layers = Vec::new();
        for layer in 0..config.num_layers {
            let mut rng = rng::stream(config.seed, layer as u64);
            let a = (0..r * d)
                .map(|_| ((2.0 * rng.random::<f64>() - 1.0) * bound) as f32)
                .collect();
            layers.push(Layer {
                factors: Factors::new(d, r, config.scale(alpha), a, vec![0.0; r * d])?,
                optimizer: Optimizer::new(config.rule, 2 * r * d, config.weight_decay, true)?,
            });
        }
        Ok(Self {
            config,
            alpha,
            layers,
            counters: Counters::default(),
        })
    }

    /// Shape and learning.
    #[must_use]
    pub fn config(&self) -> &BaseConfig {
        &self.config
    }

    /// α.
    #[must_use]
    pub fn alpha(&self) -> f64 {
        self.alpha
    }

    /// Changes α, and with it the scale of every layer.
    pub fn set_alpha(&mut self, alpha: f64) -> Result<()> {
        if !alpha.is_finite() {
            return Err(Error::value("alpha", "a finite number", alpha));
        }
        self.alpha = alpha;
        let scale = self.config.scale(alpha);
        for layer in &mut self.layers {
            layer.factors.set_scale(scale);
        }
        Ok(())
    }

    fn check(&self, layer: usize) -> Result<()> {
        if layer < self.layers.len() {
            Ok(())
        } else {
            Err(Error::value(
                "layer_idx",
                format!("0 to {}", self.layers.len() - 1),
                layer,
            ))
        }
    }

    /// The factors of a layer.
    pub fn factors(&self, layer: usize) -> Result<&Factors> {
        self.check(layer)?;
        Ok(&self.layers[layer].factors)
    }

    /// Replaces A `(rank, d)` and B `(d, rank)` of a layer; its optimiser starts afresh.
    pub fn set_factors(&mut self, layer: usize, a: Vec<f32>, b: Vec<f32>) -> Result<()> {
        let f = self.factors(layer)?;
        let new = Factors::new(f.dim(), f.rank(), f.scale(), a, b)?;
        let layer = &mut self.layers[layer];
        layer.factors = new;
        layer.optimizer.reset();
        Ok(())
    }

    /// All parameters of a layer: A, then B, row-major.
    pub fn theta(&self, layer: usize) -> Result<Vec<f32>> {
        let f = self.factors(layer)?;
        Ok([f.a(), f.b()].concat())
    }

    /// Overwrites all parameters of a layer and keeps the optimiser's state: what a proximal pull does after a step.
    pub fn set_theta(&mut self, layer: usize, theta: &[f32]) -> Result<()> {
        let n = self.factors(layer)?.a().len();
        check_dim("theta", 2 * n, theta.len())?;
        check_finite("theta", theta)?;
        let f = &mut self.layers[layer].factors;
        f.a.copy_from_slice(&theta[..n]);
        f.b.copy_from_slice(&theta[n..]);
        f.refresh();
        Ok(())
    }

    /// (α/r)·BA of a layer, `(d, d)` row-major.
    pub fn delta_weight(&self, layer: usize) -> Result<Vec<f32>> {
        let d = self.factors(layer)?.dim();
        self.merge_weights(&vec![0.0; d * d], layer)
    }

    /// W + (α/r)·BA for W `(d, d)` row-major.
    pub fn merge_weights(&self, w: &[f32], layer: usize) -> Result<Vec<f32>> {
        let f = self.factors(layer)?;
        let d = f.dim();
        check_dim("W", d * d, w.len())?;
        check_finite("W", w)?;
        let mut out = w.to_vec();
        for (row, b) in out.chunks_exact_mut(d).zip(f.b().chunks_exact(f.rank())) {
            for (b, a) in b.iter().zip(f.a().chunks_exact(d)) {
                kernels::axpy(f.scale() * b, a, row);
            }
        }
        Ok(out)
    }

    /// Replaces a layer's delta by the best rank-r approximation of it plus the delta of `other`; returns the relative
    /// error. Components that the sum does not need keep their row of A and a zero column of B, so that they can still
    /// learn. The layer's optimiser starts afresh, because the factors have new axes.
    pub fn merge_factors(&mut self, layer: usize, other: &Factors) -> Result<f64> {
        let f = self.factors(layer)?;
        check_dim("hidden_dim", f.dim(), other.dim())?;
        let merged = merge_products(&[(1.0, f), (1.0, other)], f.rank())?;
        self.hold(layer, &merged)?;
        Ok(merged.relative_error)
    }

    /// As [`Self::merge_factors`], and the fast adapter keeps what the rank cannot hold: both together move every input as
    /// they did before. The optimisers of both start afresh.
    pub fn absorb(&mut self, layer: usize, micro: &mut MicroLora) -> Result<()> {
        let f = self.factors(layer)?;
        check_dim("hidden_dim", f.dim(), micro.factors().dim())?;
        let (first, rest) = rearranged(f, micro.factors())?;
        let (a, b) = rest.fitted(micro.factors())?;
        self.hold(layer, &first)?;
        micro.set_factors(a, b)
    }

    fn hold(&mut self, layer: usize, merged: &Merged) -> Result<()> {
        let (a, b) = merged.fitted(self.factors(layer)?)?;
        self.set_factors(layer, a, b)?;
        self.counters.merges += 1;
        Ok(())
    }

    /// Bytes held.
    #[must_use]
    pub fn nbytes(&self) -> usize {
        let layer = |l: &Layer| {
            size_of::<Layer>()
                + (l.factors.a.len() + l.factors.b.len()) * size_of::<f32>()
                + l.optimizer.nbytes()
        };
        size_of::<Self>() + self.layers.iter().map(layer).sum::<usize>()
    }

    /// Counters and gauges.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let c = &self.counters;
        vec![
            ("steps", c.steps.into()),
            ("rows", c.rows.into()),
            ("skipped_no_contrast", c.skipped_no_contrast.into()),
            ("merges", c.merges.into()),
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
        this.validate().map_err(|e| Error::corrupt("BaseLoRA state", e))?;
        Ok(this)
    }

    /// Checks decoded state, wherever it was embedded.
    pub fn validate(&self) -> Result<()> {
        self.config.validate()?;
        check_dim("layers", self.config.num_layers, self.layers.len())?;
        if !self.alpha.is_finite() {
            return Err(Error::value("alpha", "a finite number", self.alpha));
        }
        for layer in &self.layers {
            layer.factors.validate()?;
            layer.optimizer.validate()?;
            check_dim("hidden_dim", self.config.hidden_dim, layer.factors.dim())?;
            check_dim("rank", self.config.rank, layer.factors.rank())?;
            check_dim("optimiser", 2 * layer.factors.a.len(), layer.optimizer.len())?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "base_tests.rs"]
mod tests;
