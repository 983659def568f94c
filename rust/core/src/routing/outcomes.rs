//! What an outcome changes: budget, circuit, guard, calibration, cases and the rule of prediction.

use super::cases::unit;
use super::features::{Features, MAX_ROWS};
use super::knn::check_quality;
use super::learner::{Kind, Learner};
use super::router::{CALIBRATION, FIRST_FIT, Router};
use super::state::check_price;
use crate::error::{Error, Result, check_number};

impl Router {
    /// The outcome of decision `id`: true if it was learned, false if it was known or given up. `error`: the call failed,
    /// which counts against the model's circuit and is not learned.
    pub fn feedback(
        &mut self,
        id: u64,
        quality: f64,
        cost: Option<f64>,
        latency_ms: Option<f64>,
        error: bool,
        now: f64,
    ) -> Result<bool> {
        check_quality(quality)?;
        check_number("now", now)?;
        for (name, v) in [("cost", cost), ("latency_ms", latency_ms)] {
            let v = v.unwrap_or(0.0);
            check_number(name, v)?;
            if v < 0.0 {
                return Err(Error::value(name, "0 or above", v));
            }
        }
        if id >= self.next_id {
            return Err(Error::Scope {
                scope: format!("r-{id}"),
                reason: "no such decision".into(),
            });
        }
        let Some(p) = self.pending.remove(&id) else {
            self.counts.duplicates += 1;
            return Ok(false);
        };
        let paid = cost.unwrap_or(p.cost);
        if let Some(shared) = &self.budget {
            shared.0.lock().correct(paid - p.cost);
        }
        if let Some(pacer) = p.tenant.as_ref().and_then(|t| self.tenants.get_mut(t)) {
            pacer.correct(paid - p.cost);
        }
        let m = &mut self.models[p.model];
        if let Some(ms) = latency_ms {
            m.latency_ms = (m.latency_ms.0 + ms, m.latency_ms.1 + 1.0);
        }
        if error {
            m.errors = m.errors.saturating_add(1);
            if m.errors >= self.settings.breaker.0 {
                m.open_until = now + self.settings.breaker.1;
            }
            self.counts.errors += 1;
            return Ok(false);
        }
        m.errors = 0;
        m.open_until = f64::NEG_INFINITY;
        let y = self.settings.corrected(quality);
        let lost = (p.reference - y).clamp(0.0, 1.0);
        let loss = if p.away && lost > self.settings.epsilon {
            lost
        } else {
            0.0
        };
        m.guard.add(
            p.reference - p.expected,
            loss,
            (1.0 / p.propensity).min(20.0),
            p.expected - y,
        );
        self.score(p.expected, y);
        self.absorb(&p.x, p.model, y, cost)?;
        Ok(true)
    }

    fn score(&mut self, expected: f64, observed: f64) {
        if self.scores.len() == CALIBRATION {
            self.scores.remove(0);
        }
        self.scores.push((expected, observed));
        self.scored += 1;
        if self.scores.len() >= 30 && self.scored.is_multiple_of(1 + self.scores.len() as u64 / 50) {
            let rows: Vec<_> = self.scores.iter().map(|(e, y)| (*e, *y, 1.0)).collect();
            self.knots = super::calibration::isotonic(&rows);
        }
    }

    /// An outcome that no decision stands behind: a log, a test set, another system.
    pub fn learn(&mut self, x: &[f32], model: usize, quality: f64, cost: Option<f64>) -> Result<()> {
        let x = self.request(x)?;
        check_quality(quality)?;
        check_price(cost.unwrap_or(0.0))?;
        if model >= self.models.len() {
            return Err(Error::value("model", "a known model", model));
        }
        let y = self.settings.corrected(quality);
        let all: Vec<usize> = (0..self.models.len()).collect();
        let reference = self.reference(&all);
        let expected = self.estimate_unit(&x)?.quality;
        // The reference's own outcome on the same request, if it is known.
        let single = x.len() == self.settings.dim;
        let known = (single.then(|| self.cases.outcome(&x, reference)).flatten()).map(f64::from);
        let lost = (known.unwrap_or(expected[reference]) - y).clamp(0.0, 1.0);
        let loss = match known {
            _ if model == reference || lost <= self.settings.epsilon => 0.0,
            Some(_) => 1.0,
            None => lost,
        };
        let guard = &mut self.models[model].guard;
        guard.add(
            expected[reference] - expected[model],
            loss,
            1.0,
            expected[model] - y,
        );
        self.absorb(&x, model, y, cost)
    }

    fn absorb(&mut self, x: &[f32], model: usize, y: f64, cost: Option<f64>) -> Result<()> {
        let turn = self.last(x);
        let offset = self.base(turn).0[model];
        let (row, new) = self.cases.learn(turn, model, y as f32);
        self.cases.set_offset(row, model, offset as f32);
        let m = &mut self.models[model];
        m.outcomes = m.outcomes.saturating_add(1);
        m.quality = (m.quality.0 + y, m.quality.1 + 1.0);
        if let Some(c) = cost {
            m.cost = (m.cost.0 + c, m.cost.1 + 1.0);
        }
        self.time = self.time.saturating_add(1);
        self.counts.outcomes += 1;
        let n = self.cases.len();
        let fixed = self.fixed_features || self.settings.kind == Kind::FastGrnn;
        let due = new && !fixed && n >= FIRST_FIT && (n / FIRST_FIT).is_power_of_two();
        let due = due && n.is_multiple_of(FIRST_FIT) && (n / FIRST_FIT).ilog2().is_multiple_of(2);
        if due && self.cases.evicted() == 0 {
            return self.refit_features();
        }
        self.place_row(row, turn);
        let z = self.learner.read(&self.features, x)?;
        let (decay, now) = (self.settings.decay(), self.time as f64);
        let pair = (y, f64::from(offset as f32));
        self.learner.update(model, x, &z, pair, decay, now)
    }

    /// Trains the cell on conversations whose quality by every model is known (n · models), with each model's mean (quality,
    /// cost) over them.
    pub fn fit_turns(
        &mut self,
        conversations: &[Vec<f32>],
        quality: &[f32],
        means: &[(f64, f64)],
    ) -> Result<()> {
        let m = self.models.len();
        crate::error::check_dim("quality", conversations.len() * m, quality.len())?;
        crate::error::check_dim("means", m, means.len())?;
        for q in quality {
            check_quality(f64::from(*q))?;
        }
        let turns = (conversations.iter().map(|x| self.request(x))).collect::<Result<Vec<_>>>()?;
        let Learner::Turns(learner) = &mut self.learner else {
            return Err(Error::value(
                "fit_turns",
                "predictor=\"fastgrnn\"",
                self.settings.kind.name(),
            ));
        };
        let targets: Vec<Vec<f32>> = quality.chunks_exact(m).map(<[f32]>::to_vec).collect();
        learner.train(&turns, &targets, 30)?;
        let n = conversations.len() as f64;
        for (model, (quality, cost)) in self.models.iter_mut().zip(means) {
            model.quality = (quality * n, n);
            model.prior = *quality;
            if cost.is_finite() {
                model.cost = (cost * n, n);
            }
            model.outcomes = model.outcomes.saturating_add(conversations.len() as u64);
        }
        Ok(())
    }

    fn refit_features(&mut self) -> Result<()> {
        let n = self.cases.len().min(MAX_ROWS);
        let rows = &self.cases.rows()[(self.cases.len() - n) * self.settings.dim..];
        let features = Features::fit(rows, self.settings.dim);
        self.counts.refits += 1;
        self.replay(features)
    }

    /// Components of requests, from embeddings without outcomes (n · dim); what was learned is learned again on them.
    pub fn fit_features(&mut self, rows: &[f32]) -> Result<()> {
        let d = self.settings.dim;
        let unit: Vec<f32> = (rows.chunks_exact(d))
            .map(|x| unit("embeddings", d, x))
            .collect::<Result<Vec<_>>>()?
            .concat();
        let last = unit.len().saturating_sub(MAX_ROWS * d);
        self.fixed_features = true;
        self.replay(Features::fit(&unit[last..], d))
    }

    /// Starts the rule again on `features` and shows it every case.
    pub(super) fn replay(&mut self, features: Features) -> Result<()> {
        self.features = features;
        if matches!(self.learner, Learner::Turns(_)) {
            // It reads turns, not components, and has its own memory.
            self.place_rows();
            return Ok(());
        }
        let (kind, dim) = (self.settings.kind, self.settings.dim);
        let mut learner = Learner::new(kind, self.models.len(), dim, self.features.len())?;
        let mut now = 0.0;
        for row in self.cases.in_order() {
            let x = self.cases.row(row);
            let z = self.features.of(x);
            for m in 0..self.models.len() {
                let (y, offset) = (self.cases.quality(m)[row], self.cases.offset(m)[row]);
                if !y.is_nan() {
                    now += 1.0;
                    let pair = (f64::from(y), f64::from(offset));
                    learner.update(m, x, &z, pair, self.settings.decay(), now)?;
                }
            }
        }
        self.time = self.time.max(now as u64);
        self.learner = learner;
        self.place_rows();
        Ok(())
    }
}
