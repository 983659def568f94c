//! What the router expects of each model on a request.

use super::cases::{Cases, unit};
use super::learner::{Kind, Learner};
use super::near::Screen;
use super::router::Router;
use super::turns::unit_turns;
use crate::error::Result;

/// Width of the kernel over cases, its pseudo-count, and the least weight that is looked at.
const WIDTH: f32 = 0.1;
const KAPPA: f64 = 10.0;
const LEAST: f32 = 1e-3;

/// Expected quality, its standard deviation (for rules that have one) and cost of every model.
pub struct Estimate {
    /// Expected quality; may leave [0, 1] a little.
    pub quality: Vec<f64>,
    /// Empty for rules without one.
    pub sd: Vec<f64>,
    /// Expected cost.
    pub cost: Vec<f64>,
}

impl Router {
    /// What is expected of every model on the request `x`.
    pub fn estimate(&self, x: &[f32]) -> Result<Estimate> {
        self.estimate_unit(&self.request(x)?)
    }

    /// The request as it is remembered: one turn of length one, or several where the rule reads turns.
    pub(super) fn request(&self, x: &[f32]) -> Result<Vec<f32>> {
        let dim = self.settings.dim;
        if self.settings.kind == Kind::FastGrnn {
            unit_turns(dim, x)
        } else {
            unit("embedding", dim, x)
        }
    }

    /// The last turn of a request.
    pub(super) fn last<'a>(&self, turns: &'a [f32]) -> &'a [f32] {
        &turns[turns.len() - self.settings.dim..]
    }

    /// Expected quality before the rule, and local costs if there is a history.
    pub(super) fn base(&self, x: &[f32]) -> (Vec<f64>, Option<Vec<f64>>) {
        match &self.history {
            Some(h) => {
                let (quality, cost) = h.predict(x);
                (quality, Some(cost))
            }
            None => (self.models.iter().map(|m| m.prior).collect(), None),
        }
    }

    pub(super) fn estimate_unit(&self, x: &[f32]) -> Result<Estimate> {
        let (mut quality, local) = self.base(self.last(x));
        let cost = self.costs(local);
        let z = self.learner.read(&self.features, x)?;
        let sd = self.learner.predict(self.settings.kind, &z, &mut quality)?;
        match self.settings.kind {
            Kind::Hybrid => self.add_residual(x, &mut quality),
            Kind::Knn => {
                let s = self.cases.similarities(x);
                for (m, q) in quality.iter_mut().enumerate() {
                    let near = Cases::nearest_mean(self.cases.quality(m), &s, self.settings.k);
                    *q = if near.is_nan() { *q } else { near };
                }
            }
            _ => {}
        }
        Ok(Estimate { quality, sd, cost })
    }

    fn costs(&self, local: Option<Vec<f64>>) -> Vec<f64> {
        let local = local.unwrap_or_default();
        (self.models.iter().enumerate())
            .map(|(a, m)| {
                local
                    .get(a)
                    .copied()
                    .filter(|c| c.is_finite())
                    .unwrap_or(m.mean_cost())
            })
            .collect()
    }

    /// Adds Σ w·(y − linear) / (Σ w + κ) over the cases near `x`, w = exp((s − 1)/τ).
    fn add_residual(&self, x: &[f32], quality: &mut [f64]) {
        let Learner::Linear(linear) = &self.learner else {
            return;
        };
        let least = 1.0 + WIDTH * LEAST.ln();
        let near: Vec<(usize, f64)> = (self.screen.above(self.cases.rows(), x, least).into_iter())
            .map(|(i, s)| (i, f64::from(((s - 1.0) / WIDTH).exp())))
            .collect();
        for (m, q) in quality.iter_mut().enumerate() {
            let (outcomes, offsets) = (self.cases.quality(m), self.cases.offset(m));
            let (mut sum, mut total) = (0.0, KAPPA);
            for &(i, w) in near.iter().filter(|(i, _)| !outcomes[*i].is_nan()) {
                let expected = f64::from(offsets[i]) + linear.predict(m, self.components(i));
                sum += w * (f64::from(outcomes[i]) - expected);
                total += w;
            }
            *q += sum / total;
        }
    }

    fn components(&self, row: usize) -> &[f64] {
        let width = self.features.len() + 1;
        &self.z[row * width..(row + 1) * width]
    }

    /// Notes the components and, for rules that look near, the bytes of row `row`, which is `x`.
    pub(super) fn place_row(&mut self, row: usize, x: &[f32]) {
        let z = self.features.of(x);
        let at = row * z.len();
        if self.z.len() < at + z.len() {
            self.z.resize(at + z.len(), 0.0);
        }
        self.z[at..at + z.len()].copy_from_slice(&z);
        if self.settings.kind == Kind::Hybrid {
            self.screen.place(row, x);
        }
    }

    /// Notes the same of every row.
    pub(super) fn place_rows(&mut self) {
        let d = self.settings.dim;
        let rows = || self.cases.rows().chunks_exact(d);
        self.z = rows().flat_map(|x| self.features.of(x)).collect();
        let mut screen = Screen::default();
        if self.settings.kind == Kind::Hybrid {
            rows().enumerate().for_each(|(i, x)| screen.place(i, x));
        }
        self.screen = screen;
    }
}
