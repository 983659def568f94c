//! Training of the slow adapter: in-batch InfoNCE, one optimiser step at a time, and what each sample asks for.

use super::base::{BaseLora, Layer};
use super::contrastive::in_batch;
use super::optim::check_rate;
use crate::error::{Error, Result, check_dim, check_finite};
use crate::kernels;
use crate::kernels::descent::Gradient;

/// Rows to train on: row i of each belongs to row i of the others.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// What the layer reads, `(n, d)`.
    pub queries: &'a [f32],
    /// What its delta is added to, `(n, d)`; mostly the queries themselves.
    pub starts: &'a [f32],
    /// What each output shall pick, `(n, d)`.
    pub positives: &'a [f32],
    /// More rows that nobody shall pick, `(m, d)`.
    pub negatives: &'a [f32],
    /// Divides the cosines.
    pub temperature: f64,
}

impl Batch<'_> {
    fn check(&self, d: usize) -> Result<()> {
        if !(self.temperature.is_finite() && self.temperature > 0.0) {
            return Err(Error::value(
                "temperature",
                "a finite number above 0",
                self.temperature,
            ));
        }
        check_dim("positives", self.queries.len(), self.positives.len())?;
        check_dim("starts", self.queries.len(), self.starts.len())?;
        for (name, x) in [
            ("queries", self.queries),
            ("starts", self.starts),
            ("positives", self.positives),
            ("negatives", self.negatives),
        ] {
            if !x.len().is_multiple_of(d) {
                return Err(Error::shape(
                    name,
                    format!("(n, {d})"),
                    format!("{} values", x.len()),
                ));
            }
            check_finite(name, x)?;
        }
        Ok(())
    }

    /// Rows without anything to be told apart from teach nothing.
    fn has_contrast(&self, d: usize) -> bool {
        let n = self.queries.len() / d;
        n > 1 || (n == 1 && !self.negatives.is_empty())
    }
}

impl BaseLora {
    /// One optimiser step on the mean in-batch InfoNCE loss; returns the loss before it. Without a contrast (no rows, or
    /// one row and no negatives) nothing happens and 0 is returned.
    pub fn train_step(&mut self, layer: usize, batch: &Batch<'_>, learning_rate: Option<f64>) -> Result<f64> {
        let d = self.factors(layer)?.dim();
        let lr = learning_rate.unwrap_or(self.config().learning_rate);
        check_rate("learning_rate", lr)?;
        batch.check(d)?;
        if !batch.has_contrast(d) {
            self.counters.skipped_no_contrast += 1;
            return Ok(0.0);
        }
        let (loss, grad) = self.loss(layer, batch)?;
        let Layer { factors, optimizer } = &mut self.layers[layer];
        let size = factors.a.len();
        let (mut da, mut db) = (vec![0.0; size], vec![0.0; size]);
        for (x, g) in batch.queries.chunks_exact(d).zip(grad.chunks_exact(d)) {
            factors.add_gradients(x, g, 1.0, &mut da, &mut db);
        }
        if !(loss.is_finite() && kernels::all_finite(&da) && kernels::all_finite(&db)) {
            return Err(Error::Learning(
                "the gradient overflowed; nothing was changed".into(),
            ));
        }
        optimizer.step(
            lr,
            1.0,
            &mut [
                (factors.a.as_mut_slice(), Gradient::Vector(1.0, &da)),
                (factors.b.as_mut_slice(), Gradient::Vector(1.0, &db)),
            ],
        );
        factors.refresh();
        self.counters.steps += 1;
        self.counters.rows += (batch.queries.len() / d) as u64;
        Ok(loss)
    }

    /// Loss, and its gradient with respect to the outputs.
    fn loss(&self, layer: usize, batch: &Batch<'_>) -> Result<(f64, Vec<f32>)> {
        let factors = self.factors(layer)?;
        let mut outputs = vec![0.0; batch.queries.len()];
        factors.forward_rows(batch.queries, &mut outputs)?;
        if !std::ptr::eq(batch.starts, batch.queries) {
            for ((o, q), s) in outputs.iter_mut().zip(batch.queries).zip(batch.starts) {
                *o += s - q;
            }
        }
        let (d, tau) = (factors.dim(), batch.temperature);
        Ok(in_batch(&outputs, batch.positives, batch.negatives, d, tau))
    }

    /// The gradient of each row's own loss with respect to all parameters of a layer (A, then B), `(n, 2·rank·d)`: what
    /// Fisher information is made of. Zeros without a contrast.
    pub fn sample_gradients(&self, layer: usize, batch: &Batch<'_>) -> Result<Vec<f32>> {
        let factors = self.factors(layer)?;
        let (d, size) = (factors.dim(), factors.a.len());
        batch.check(d)?;
        let n = batch.queries.len() / d;
        let mut out = vec![0.0; n * 2 * size];
        if !batch.has_contrast(d) {
            return Ok(out);
        }
        let (_, grad) = self.loss(layer, batch)?;
        let rows = batch.queries.chunks_exact(d).zip(grad.chunks_exact(d));
        for ((x, g), row) in rows.zip(out.chunks_exact_mut(2 * size)) {
            // An output enters its own row's loss only, and the mean divided by n.
            let (da, db) = row.split_at_mut(size);
            factors.add_gradients(x, g, n as f32, da, db);
        }
        check_finite("gradients", &out)?;
        Ok(out)
    }
}
