//! Training through quantisation: what runs is the quantised adapter, what learns is the float one behind it.
//!
//! The straight-through estimator (Bengio et al. 2013): gradients are taken at the decoded factors and applied to the
//! full-precision ones, so that many small steps add up to a step of the code.

use super::factors::Factors;
use super::micro_config::{ApplyReport, MicroConfig};
use super::optim::{Optimizer, check_rate};
use super::quantized::QuantizedMicroLora;
use crate::codec::{self, Kind};
use crate::error::{Error, Result, check_dim, check_finite};
use crate::kernels;
use crate::kernels::descent::Gradient;
use crate::lora::micro::MicroLora;
use crate::metrics::Metrics;
use serde::{Deserialize, Serialize};

const KIND: Kind = Kind {
    tag: *b"QAWR",
    version: 1,
};

/// A float adapter that is trained through its quantised form.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct QuantAware {
    config: MicroConfig,
    bits: u8,
    block: usize,
    master: Factors,
    coded: QuantizedMicroLora,
    decoded: Factors,
    optimizer: Optimizer,
    sum_a: Vec<f32>,
    sum_b: Vec<f32>,
    pending: usize,
    applied: u64,
    skipped: u64,
}

impl QuantAware {
    /// Starts from the factors of `lora`, with its rule, rate, decay and clipping; the trust region is not used.
    pub fn new(lora: &MicroLora, bits: u8, scheme: &str, block: usize) -> Result<Self> {
        let master = lora.factors().clone();
        let coded = QuantizedMicroLora::new(&master, bits, scheme, block)?;
        let n = master.a().len();
        let config = lora.config().clone();
        Ok(Self {
            optimizer: Optimizer::new(config.rule, 2 * n, config.weight_decay, true)?,
            decoded: coded.dequantize()?,
            sum_a: vec![0.0; n],
            sum_b: vec![0.0; n],
            pending: 0,
            applied: 0,
            skipped: 0,
            config,
            bits,
            block,
            master,
            coded,
        })
    }

    /// How it learns.
    #[must_use]
    pub fn config(&self) -> &MicroConfig {
        &self.config
    }

    /// The full-precision factors.
    #[must_use]
    pub fn master(&self) -> &Factors {
        &self.master
    }

    /// What runs.
    #[must_use]
    pub fn quantized(&self) -> &QuantizedMicroLora {
        &self.coded
    }

    /// The factors that the codes stand for.
    #[must_use]
    pub fn decoded(&self) -> &Factors {
        &self.decoded
    }

    /// Signals that wait for [`Self::apply`].
    #[must_use]
    pub fn pending(&self) -> usize {
        self.pending
    }

    /// Adds the descent gradient −weight·ascent at the quantised adapter; false (and counted) without a direction.
    pub fn accumulate_parts(&mut self, x: &[f32], ascent: &[f32], weight: f64) -> Result<bool> {
        let d = self.config.hidden_dim;
        check_dim("query_embedding", d, x.len())?;
        check_dim("gradient_estimate", d, ascent.len())?;
        check_finite("query_embedding", x)?;
        check_finite("gradient_estimate", ascent)?;
        let weight = weight as f32;
        check_finite("weight", &[weight])?;
        let nothing = |v: &[f32]| v.iter().all(|v| *v == 0.0);
        if weight == 0.0 || nothing(ascent) || nothing(x) {
            self.skipped += 1;
            return Ok(false);
        }
        self.decoded
            .add_gradients(x, ascent, -weight, &mut self.sum_a, &mut self.sum_b);
        self.pending += 1;
        Ok(true)
    }

    /// One step of the float factors with the mean of what is pending, then quantises anew.
    pub fn apply(&mut self, learning_rate: Option<f64>) -> Result<ApplyReport> {
        let lr = learning_rate.unwrap_or(self.config.learning_rate);
        check_rate("learning_rate", lr)?;
        if self.pending == 0 {
            return Ok(ApplyReport::default());
        }
        let count = std::mem::take(&mut self.pending);
        let mean = 1.0 / count as f64;
        let square = |v: &[f32]| f64::from(kernels::dot(v, v));
        let grad_norm = (square(&self.sum_a) + square(&self.sum_b)).sqrt() * mean;
        if !grad_norm.is_finite() {
            self.clear();
            return Err(Error::Learning(
                "the accumulated gradient overflowed and was dropped".into(),
            ));
        }
        let shrink = self.config.clip_norm.map_or(1.0, |c| (c / grad_norm).min(1.0));
        let moved = self.optimizer.step(
            lr,
            (mean * shrink) as f32,
            &mut [
                (&mut self.master.a[..], Gradient::Vector(1.0, &self.sum_a)),
                (&mut self.master.b[..], Gradient::Vector(1.0, &self.sum_b)),
            ],
        );
        self.clear();
        self.master.refresh();
        let scheme = self.coded.scheme();
        self.coded = QuantizedMicroLora::new(&self.master, self.bits, scheme, self.block)?;
        self.decoded = self.coded.dequantize()?;
        self.applied += 1;
        Ok(ApplyReport {
            applied: true,
            count,
            grad_norm,
            step_norm: moved.sqrt(),
            clipped: shrink < 1.0,
            trust_scaled: false,
        })
    }

    fn clear(&mut self) {
        self.sum_a.fill(0.0);
        self.sum_b.fill(0.0);
    }

    /// Counters and gauges.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        vec![
            ("pending", self.pending.into()),
            ("applied", self.applied.into()),
            ("skipped", self.skipped.into()),
            ("quantized_nbytes", self.coded.nbytes().into()),
        ]
    }

    /// Serialises everything.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        codec::encode(KIND, self)
    }

    /// Reads back what [`Self::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let this: Self = codec::decode(KIND, bytes)?;
        this.validate()
            .map_err(|e| Error::corrupt("QuantAwareMicroLoRA state", e))?;
        Ok(this)
    }

    fn validate(&self) -> Result<()> {
        MicroLora::new(self.config.clone())?;
        self.master.validate()?;
        self.optimizer.validate()?;
        let n = self.config.hidden_dim * self.config.rank;
        check_dim("factors", n, self.master.a().len())?;
        check_dim("dimension", self.config.hidden_dim, self.master.dim())?;
        check_dim("optimiser", 2 * n, self.optimizer.len())?;
        check_dim("pending A", n, self.sum_a.len())?;
        check_dim("pending B", n, self.sum_b.len())?;
        check_finite("pending A", &self.sum_a)?;
        check_finite("pending B", &self.sum_b)?;
        let coded = QuantizedMicroLora::new(&self.master, self.bits, self.coded.scheme(), self.block)?;
        if coded == self.coded && coded.dequantize()? == self.decoded {
            Ok(())
        } else {
            Err(Error::corrupt("codes", "of other factors"))
        }
    }
}
