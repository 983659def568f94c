//! Histories, and models that come or change.

use super::history::History;
use super::router::{MAX_MODELS, Model, Router, TRIAL};
use super::state::{check_price, price_rank};
use crate::error::{Error, Result, check_number};

impl Router {
    /// What a full history says becomes what is expected before anything is learned; the cases stay.
    pub fn set_history(&mut self, history: History, means: &[(f64, f64, f64)]) -> Result<()> {
        history.check(self.settings.dim, self.models.len())?;
        crate::error::check_dim("means", self.models.len(), means.len())?;
        for (m, (quality, cost, n)) in self.models.iter_mut().zip(means) {
            m.quality = (quality * n, *n);
            if cost.is_finite() {
                m.cost = (cost * n, *n);
            }
            m.prior = *quality;
        }
        self.history = Some(history);
        for row in 0..self.cases.len() {
            let offset = self.base(self.cases.row(row)).0;
            for (m, offset) in offset.iter().enumerate() {
                if !self.cases.quality(m)[row].is_nan() {
                    self.cases.set_offset(row, m, *offset as f32);
                }
            }
        }
        let features = self.features.clone();
        self.replay(features)
    }

    /// Calibrates a model's guard with predictions and outcomes that it was not fitted on: rows (gap to the reference,
    /// loss, predicted − observed).
    pub fn calibrate(&mut self, model: usize, rows: &[(f64, f64, f64)]) -> Result<()> {
        for (gap, loss, residual) in rows {
            for v in [gap, loss, residual] {
                check_number("calibration", *v)?;
            }
            self.models[model]
                .guard
                .add(*gap, loss.clamp(0.0, 1.0), 1.0, *residual);
        }
        Ok(())
    }

    /// One more model. It starts above its price's prior and beside the best, and is tried without the guard 40 times.
    pub fn add_model(&mut self, price: f64) -> Result<()> {
        check_price(price)?;
        if self.models.len() >= MAX_MODELS {
            return Err(Error::value(
                "models",
                format!("at most {MAX_MODELS}"),
                self.models.len() + 1,
            ));
        }
        let best = self.models.iter().map(Model::mean_quality).fold(0.0, f64::max);
        let mut prices: Vec<f64> = self.models.iter().map(|m| m.price).collect();
        prices.push(price);
        let rank = price_rank(&prices, prices.len() - 1);
        let mut model = Model::new(price, best.max(0.55 + 0.35 * rank), self.settings.alpha);
        model.trial = TRIAL;
        if let Some(h) = &mut self.history {
            h.add_model(model.prior, price);
        }
        self.models.push(model);
        self.cases.add_model();
        self.learner.add_arm();
        Ok(())
    }

    /// Forgets all outcomes of a model, for instance because its provider changed it; it is tried anew.
    pub fn reset_model(&mut self, model: usize) -> Result<()> {
        if model >= self.models.len() {
            return Err(Error::value("model", "a known model", model));
        }
        let old = &self.models[model];
        let mut fresh = Model::new(old.price, old.prior, self.settings.alpha);
        fresh.trial = TRIAL;
        self.models[model] = fresh;
        self.cases.clear_model(model);
        self.learner.clear_arm(model);
        Ok(())
    }
}
