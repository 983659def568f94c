//! e-prop: gradients of a recurrent spiking network on a stream, in constant memory (Bellec et al. 2020).
//!
//! Per synapse: weight, filtered eligibility, gradient. Traces of the inputs and the learning signal are per neuron.
//! Adaptive thresholds add one eligibility per synapse.

mod params;
mod state;
mod synapses;

pub use params::{EpropParams, Feedback};

use crate::error::{Error, Result, check_dim, check_finite, check_number};
use crate::metrics::Metrics;
use crate::rng;
use serde::{Deserialize, Serialize};
use synapses::Synapses;

/// Stream of weights and of random feedback.
const STREAM: u64 = 0x6570_7270;

/// What moves: one value per neuron or output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Flow {
    v: Vec<f64>,
    z: Vec<bool>,
    threshold_rise: Vec<f64>,
    y: Vec<f64>,
    trace_in: Vec<f64>,
    trace_rec: Vec<f64>,
    /// Spikes, filtered as the outputs are.
    filtered_z: Vec<f64>,
}

/// Input, recurrent and output weights, each (posterior, prior) row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    /// (n_rec, n_in).
    pub w_in: Vec<f32>,
    /// (n_rec, n_rec).
    pub w_rec: Vec<f32>,
    /// (n_out, n_rec).
    pub w_out: Vec<f32>,
}

/// A recurrent layer of (adaptive) leaky integrate-and-fire neurons with a leaky linear readout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Eprop {
    params: EpropParams,
    input: Synapses,
    recurrent: Synapses,
    out: Vec<f32>,
    out_gradient: Vec<f32>,
    /// Random feedback (n_out, n_rec); empty if it is symmetric.
    broadcast: Vec<f32>,
    flow: Flow,
    steps: u64,
    spikes: u64,
    targets: u64,
    applied: u64,
}

impl Eprop {
    /// With weights ~ N(0, 1/prior), the diagonal of the recurrent ones 0.
    pub fn new(params: EpropParams) -> Result<Self> {
        params.check()?;
        let p = &params;
        let mut rng = rng::stream(p.seed, STREAM);
        let mut draw = |rows: usize, cols: usize| -> Vec<f32> {
            let scale = (cols as f64).sqrt().recip();
            (0..rows * cols)
                .map(|_| (scale * rng::normal(&mut rng)) as f32)
                .collect()
        };
        let (w_in, mut w_rec) = (draw(p.n_rec, p.n_in), draw(p.n_rec, p.n_rec));
        no_self(&mut w_rec, p.n_rec);
        let out = draw(p.n_out, p.n_rec);
        let broadcast = match p.feedback {
            Feedback::Symmetric => Vec::new(),
            Feedback::Random => draw(p.n_out, p.n_rec),
        };
        let adaptive = p.adaptation > 0.0;
        Ok(Self {
            input: Synapses::new(w_in, adaptive),
            recurrent: Synapses::new(w_rec, adaptive),
            out_gradient: vec![0.0; out.len()],
            out,
            broadcast,
            flow: Self::rest(p),
            params,
            steps: 0,
            spikes: 0,
            targets: 0,
            applied: 0,
        })
    }

    fn rest(p: &EpropParams) -> Flow {
        Flow {
            v: vec![0.0; p.n_rec],
            z: vec![false; p.n_rec],
            threshold_rise: vec![0.0; p.n_rec],
            y: vec![0.0; p.n_out],
            trace_in: vec![0.0; p.n_in],
            trace_rec: vec![0.0; p.n_rec],
            filtered_z: vec![0.0; p.n_rec],
        }
    }

    /// The settings.
    #[must_use]
    pub fn params(&self) -> &EpropParams {
        &self.params
    }

    /// The weights.
    #[must_use]
    pub fn weights(&self) -> Weights {
        Weights {
            w_in: self.input.weight.clone(),
            w_rec: self.recurrent.weight.clone(),
            w_out: self.out.clone(),
        }
    }

    /// What [`Self::learn`] gathered since the last [`Self::apply`].
    #[must_use]
    pub fn gradients(&self) -> Weights {
        Weights {
            w_in: self.input.gradient.clone(),
            w_rec: self.recurrent.gradient.clone(),
            w_out: self.out_gradient.clone(),
        }
    }

    /// Replaces the weights; the diagonal of the recurrent ones becomes 0.
    pub fn set_weights(&mut self, mut w: Weights) -> Result<()> {
        let p = &self.params;
        for (name, got, rows, cols) in [
            ("w_in", &w.w_in, p.n_rec, p.n_in),
            ("w_rec", &w.w_rec, p.n_rec, p.n_rec),
            ("w_out", &w.w_out, p.n_out, p.n_rec),
        ] {
            check_dim(name, rows * cols, got.len())?;
            check_finite(name, got)?;
        }
        no_self(&mut w.w_rec, p.n_rec);
        self.input.weight = w.w_in;
        self.recurrent.weight = w.w_rec;
        self.out = w.w_out;
        Ok(())
    }

    /// One step: v = αv + W_in x + W_rec z − v_th z, z = [v > θ], y = κy + W_out z, with θ = v_th + adaptation · a and
    /// a = ρa + z. Follows the eligibilities; O(synapses).
    pub fn forward(&mut self, x: &[f32]) -> Result<Vec<f32>> {
        let p = self.params;
        check_dim("x", p.n_in, x.len())?;
        check_finite("x", x)?;
        let (alpha, kappa, rho) = (decay(p.tau_m), decay(p.tau_out), decay(p.tau_adapt));
        let flow = &mut self.flow;
        let before = flow.z.clone();
        for (t, x) in flow.trace_in.iter_mut().zip(x) {
            *t = alpha * *t + f64::from(*x);
        }
        for (t, z) in flow.trace_rec.iter_mut().zip(&before) {
            *t = alpha * *t + f64::from(*z);
        }
        let mut psi = vec![0.0; p.n_rec];
        for j in 0..p.n_rec {
            let row = &self.input.weight[j * p.n_in..(j + 1) * p.n_in];
            let fed: f64 = row
                .iter()
                .zip(x)
                .map(|(w, x)| f64::from(*w) * f64::from(*x))
                .sum();
            let row = &self.recurrent.weight[j * p.n_rec..(j + 1) * p.n_rec];
            let echoed: f64 = row
                .iter()
                .zip(&before)
                .filter(|(_, z)| **z)
                .map(|(w, _)| f64::from(*w))
                .sum();
            flow.threshold_rise[j] = rho * flow.threshold_rise[j] + f64::from(before[j]);
            flow.v[j] = alpha * flow.v[j] + fed + echoed - p.v_th * f64::from(before[j]);
            let over = flow.v[j] - p.v_th - p.adaptation * flow.threshold_rise[j];
            flow.z[j] = over > 0.0;
            psi[j] = p.gamma / p.v_th * (1.0 - over.abs() / p.v_th).max(0.0);
        }
        for (f, z) in flow.filtered_z.iter_mut().zip(&flow.z) {
            *f = kappa * *f + f64::from(*z);
        }
        for (k, y) in flow.y.iter_mut().enumerate() {
            let row = &self.out[k * p.n_rec..(k + 1) * p.n_rec];
            let sum: f64 = row
                .iter()
                .zip(&flow.z)
                .filter(|(_, z)| **z)
                .map(|(w, _)| f64::from(*w))
                .sum();
            *y = kappa * *y + sum;
        }
        self.input.follow(&flow.trace_in, &psi, kappa, p.adaptation, rho);
        self.recurrent
            .follow(&flow.trace_rec, &psi, kappa, p.adaptation, rho);
        self.steps += 1;
        self.spikes += flow.z.iter().filter(|z| **z).count() as u64;
        Ok(flow.y.iter().map(|y| *y as f32).collect())
    }

    /// Adds the gradient for output errors `error` (n_out).
    fn collect(&mut self, error: &[f64]) {
        let n = self.params.n_rec;
        let back = if self.broadcast.is_empty() {
            &self.out
        } else {
            &self.broadcast
        };
        let mut signal = vec![0.0; n];
        for (row, e) in back.chunks_exact(n).zip(error) {
            for (s, b) in signal.iter_mut().zip(row) {
                *s += e * f64::from(*b);
            }
        }
        self.input.collect(&signal);
        self.recurrent.collect(&signal);
        no_self(&mut self.recurrent.gradient, n);
        for (row, e) in self.out_gradient.chunks_exact_mut(n).zip(error) {
            for (g, f) in row.iter_mut().zip(&self.flow.filtered_z) {
                *g = (f64::from(*g) + e * f) as f32;
            }
        }
    }

    /// Adds the gradient of ½‖y − target‖² at the last step; returns that loss.
    pub fn learn(&mut self, target: &[f32]) -> Result<f64> {
        check_dim("target", self.params.n_out, target.len())?;
        check_finite("target", target)?;
        let error: Vec<f64> = self
            .flow
            .y
            .iter()
            .zip(target)
            .map(|(y, t)| y - f64::from(*t))
            .collect();
        self.collect(&error);
        self.targets += 1;
        Ok(0.5 * error.iter().map(|e| e * e).sum::<f64>())
    }

    /// Steps down the gathered gradient, which is forgotten then. Errors, without a change, where a weight would not be finite.
    pub fn apply(&mut self, learning_rate: Option<f64>) -> Result<()> {
        let rate = learning_rate.unwrap_or(self.params.learning_rate);
        check_number("learning_rate", rate)?;
        if rate < 0.0 {
            return Err(Error::value("learning_rate", "a number of at least 0", rate));
        }
        let step = |w: &[f32], g: &[f32]| -> Vec<f32> {
            let pairs = w.iter().zip(g);
            pairs
                .map(|(w, g)| (f64::from(*w) - rate * f64::from(*g)) as f32)
                .collect()
        };
        let next = Weights {
            w_in: step(&self.input.weight, &self.input.gradient),
            w_rec: step(&self.recurrent.weight, &self.recurrent.gradient),
            w_out: step(&self.out, &self.out_gradient),
        };
        self.set_weights(next)?;
        self.forget_gradients();
        self.applied += 1;
        Ok(())
    }

    fn forget_gradients(&mut self) {
        self.input.gradient.fill(0.0);
        self.recurrent.gradient.fill(0.0);
        self.out_gradient.fill(0.0);
    }

    /// Moves the outputs up along the present eligibilities in proportion to a reward (down for a negative one).
    pub fn update(&mut self, reward: f64) -> Result<()> {
        check_number("reward_signal", reward)?;
        let kept = self.gradients();
        self.forget_gradients();
        self.collect(&vec![-reward; self.params.n_out]);
        let done = self.apply(None);
        self.input.gradient = kept.w_in;
        self.recurrent.gradient = kept.w_rec;
        self.out_gradient = kept.w_out;
        done
    }

    /// Neurons that fired at the last step.
    #[must_use]
    pub fn spikes(&self) -> &[bool] {
        &self.flow.z
    }

    /// Back to rest: membranes, traces, eligibilities, outputs. Weights and gathered gradients stay.
    pub fn reset_state(&mut self) {
        self.flow = Self::rest(&self.params);
        for s in [&mut self.input, &mut self.recurrent] {
            s.filtered.fill(0.0);
            s.adaptive.fill(0.0);
        }
    }

    /// Counters and gauges.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let synapses = self.input.weight.len() + self.recurrent.weight.len();
        let per: usize = 12 + 4 * usize::from(self.params.adaptation > 0.0);
        let rate = self.spikes as f64 / (self.steps.max(1) as f64 * self.params.n_rec as f64);
        vec![
            ("steps", self.steps.into()),
            ("spikes", self.spikes.into()),
            ("spike_rate", rate.into()),
            ("targets", self.targets.into()),
            ("applied", self.applied.into()),
            ("synapse_bytes", (synapses * per + self.out.len() * 8).into()),
        ]
    }
}

fn decay(tau: f64) -> f64 {
    (-1.0 / tau).exp()
}

fn no_self(w: &mut [f32], n: usize) {
    for j in 0..n {
        w[j * n + j] = 0.0;
    }
}
