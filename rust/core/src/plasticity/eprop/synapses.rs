//! A matrix of synapses with their eligibilities.

use serde::{Deserialize, Serialize};

/// A synapse matrix (posterior, prior) with what learning needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Synapses {
    pub(super) weight: Vec<f32>,
    /// Eligibility, filtered as the outputs are.
    pub(super) filtered: Vec<f32>,
    pub(super) gradient: Vec<f32>,
    /// Eligibility of the adaptive threshold; empty without adaptation.
    pub(super) adaptive: Vec<f32>,
}

impl Synapses {
    pub(super) fn new(weight: Vec<f32>, adaptive: bool) -> Self {
        let zeros = vec![0.0; weight.len()];
        Self {
            filtered: zeros.clone(),
            adaptive: if adaptive { zeros.clone() } else { Vec::new() },
            gradient: zeros,
            weight,
        }
    }

    pub(super) fn sized(&self, n: usize, adaptive: bool) -> bool {
        let wanted = if adaptive { n } else { 0 };
        self.weight.len() == n
            && self.filtered.len() == n
            && self.gradient.len() == n
            && self.adaptive.len() == wanted
    }

    pub(super) fn parts(&self) -> [&Vec<f32>; 4] {
        [&self.weight, &self.filtered, &self.gradient, &self.adaptive]
    }

    /// One step of the eligibilities: `trace` of the prior neurons, ψ of the posterior ones.
    pub(super) fn follow(&mut self, trace: &[f64], psi: &[f64], kappa: f64, beta: f64, rho: f64) {
        let n = trace.len();
        for (j, psi) in psi.iter().enumerate() {
            let row = j * n..(j + 1) * n;
            let filtered = &mut self.filtered[row.clone()];
            if self.adaptive.is_empty() {
                for (f, x) in filtered.iter_mut().zip(trace) {
                    *f = (kappa * f64::from(*f) + psi * x) as f32;
                }
            } else {
                for ((f, a), x) in filtered.iter_mut().zip(&mut self.adaptive[row]).zip(trace) {
                    let old = f64::from(*a);
                    let e = psi * (x - beta * old);
                    *f = (kappa * f64::from(*f) + e) as f32;
                    *a = (psi * x + (rho - psi * beta) * old) as f32;
                }
            }
        }
    }

    /// gradient += signal_j · filtered.
    pub(super) fn collect(&mut self, signal: &[f64]) {
        let n = self.weight.len() / signal.len();
        let rows = self
            .gradient
            .chunks_exact_mut(n)
            .zip(self.filtered.chunks_exact(n));
        for ((gradient, filtered), l) in rows.zip(signal) {
            for (g, f) in gradient.iter_mut().zip(filtered) {
                *g = (f64::from(*g) + l * f64::from(*f)) as f32;
            }
        }
    }
}
