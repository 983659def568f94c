//! What a history with every model's outcome says of a request: ridge, kernel residual and Nyström Gaussian process.
//!
//! The coefficients come from a fit outside; here is what a decision reads.

use crate::error::{Error, Result, check_dim, check_finite};
use crate::kernels;
use serde::{Deserialize, Serialize};

/// Width of the residual's kernel, its pseudo-count, and how many neighbours it sees.
const TAU: f32 = 0.2;
const KAPPA: f64 = 5.0;
const NEIGHBOURS: usize = 100;
/// Width of the process's kernel.
const WIDTH: f32 = 0.4;

/// Coefficients of a fitted history of n requests, m models and l landmarks in d dimensions. Matrices are row-major.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// Unit rows (n · d), leave-one-out residuals of the ridge (n · m), costs (n · m).
    pub rows: Vec<f32>,
    /// See `rows`.
    pub residuals: Vec<f32>,
    /// See `rows`; empty if costs are unknown.
    pub costs: Vec<f32>,
    /// Ridge coefficients (m · d) and intercepts (m).
    pub ridge: Vec<f32>,
    /// See `ridge`.
    pub intercept: Vec<f32>,
    /// Landmarks (l · d), their coefficients (l · m), and the process's mean (m).
    pub landmarks: Vec<f32>,
    /// See `landmarks`.
    pub process: Vec<f32>,
    /// See `landmarks`.
    pub mean: Vec<f32>,
    /// Neighbours over which costs are averaged.
    pub cost_neighbours: usize,
}

impl History {
    /// Errors unless all sizes agree with `dim` and `models` and all values are finite.
    pub fn check(&self, dim: usize, models: usize) -> Result<()> {
        let n = self.rows.len() / dim.max(1);
        let l = self.landmarks.len() / dim.max(1);
        if n == 0 {
            return Err(Error::shape("rows", "at least one row", "none"));
        }
        for (name, expected, v) in [
            ("rows", n * dim, &self.rows),
            ("residuals", n * models, &self.residuals),
            (
                "costs",
                if self.costs.is_empty() { 0 } else { n * models },
                &self.costs,
            ),
            ("ridge", models * dim, &self.ridge),
            ("intercept", models, &self.intercept),
            ("landmarks", l * dim, &self.landmarks),
            ("process", l * models, &self.process),
            ("mean", models, &self.mean),
        ] {
            check_dim(name, expected, v.len())?;
            check_finite(name, v)?;
        }
        if self.cost_neighbours == 0 {
            return Err(Error::value("cost_neighbours", "at least 1", 0));
        }
        Ok(())
    }

    /// Quality of each model at the unit vector `x`, and its local cost (NaN if unknown). O((n + l) · (d + m)).
    #[must_use]
    pub fn predict(&self, x: &[f32]) -> (Vec<f64>, Vec<f64>) {
        let (d, m) = (x.len(), self.mean.len());
        let mut s = vec![0.0; self.rows.len() / d];
        kernels::gemv(&self.rows, d, x, &mut s);
        let near = kernels::top_k(&s, NEIGHBOURS.max(self.cost_neighbours).min(s.len()));
        let top = near.first().map_or(0.0, |i| s[*i]);
        let mut ridge = vec![0.0; m];
        kernels::gemv(&self.ridge, d, x, &mut ridge);
        let mut total = 0.0;
        let mut local = vec![0.0f64; m];
        for &i in near.iter().take(NEIGHBOURS) {
            let w = f64::from(((s[i] - top) / TAU).exp());
            total += w;
            for (l, r) in local.iter_mut().zip(&self.residuals[i * m..(i + 1) * m]) {
                *l += w * f64::from(*r);
            }
        }
        let mut k = vec![0.0; self.landmarks.len() / d];
        kernels::gemv(&self.landmarks, d, x, &mut k);
        k.iter_mut().for_each(|v| *v = (*v - 1.0) / WIDTH);
        kernels::exp(&mut k);
        let mut process = self.mean.clone();
        for (k, row) in k.iter().zip(self.process.chunks_exact(m)) {
            kernels::axpy(*k, row, &mut process);
        }
        let quality = (0..m)
            .map(|a| {
                let linear = f64::from(ridge[a] + self.intercept[a]) + local[a] / (total + KAPPA);
                0.5 * (linear + f64::from(process[a]))
            })
            .collect();
        (quality, self.local_costs(&near, m))
    }

    fn local_costs(&self, near: &[usize], m: usize) -> Vec<f64> {
        if self.costs.is_empty() {
            return vec![f64::NAN; m];
        }
        let near = &near[..self.cost_neighbours.min(near.len())];
        let mut out = vec![0.0; m];
        for i in near {
            for (o, c) in out.iter_mut().zip(&self.costs[i * m..(i + 1) * m]) {
                *o += f64::from(*c) / near.len() as f64;
            }
        }
        out
    }

    /// One more model, of which the history knows nothing but a quality and a price.
    pub fn add_model(&mut self, quality: f64, price: f64) {
        let m = self.mean.len();
        let d = self.ridge.len() / m.max(1);
        let widen = |v: &mut Vec<f32>, value: f32| {
            *v = v
                .chunks_exact(m)
                .flat_map(|row| row.iter().copied().chain([value]))
                .collect();
        };
        widen(&mut self.residuals, 0.0);
        widen(&mut self.process, 0.0);
        widen(&mut self.costs, price as f32);
        self.ridge.resize((m + 1) * d, 0.0);
        self.intercept.push(quality as f32);
        self.mean.push(quality as f32);
    }
}
