//! Training of the FastGRNN cell: back-propagation through time in float64, AdamW (Loshchilov & Hutter 2019).

use super::fastgrnn::{Factor, FastGrnn, Head, Map, sigmoid};
use crate::error::{Error, Result, check_dim, check_finite, check_number};
use crate::rng::{self, RngExt};

/// How [`FastGrnn::fit`] trains.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FitOptions {
    /// Passes over the sequences.
    pub epochs: usize,
    /// Sequences per step.
    pub batch_size: usize,
    /// Step size of AdamW.
    pub learning_rate: f64,
    /// Decoupled decay of matrices.
    pub weight_decay: f64,
    /// Bound on the norm of a batch's mean gradient.
    pub clip_norm: f64,
    /// Cross-entropy on σ of the read-out; otherwise squared error on the read-out.
    pub logistic: bool,
    /// Order of the sequences, and the read-out's first weights.
    pub seed: u64,
}

/// Where each part lies in the flat parameter vector.
pub(super) struct Layout {
    n_in: usize,
    hidden: usize,
    outputs: usize,
    rank_w: Option<usize>,
    rank_u: Option<usize>,
    logistic: bool,
}

/// Offsets of a matrix: one factor, or left and right.
#[derive(Clone, Copy)]
struct At {
    left: usize,
    right: Option<(usize, usize)>,
    rows: usize,
    cols: usize,
}

impl Layout {
    fn of(cell: &FastGrnn, outputs: usize, logistic: bool) -> Self {
        let (rank_w, rank_u) = cell.ranks();
        Self {
            n_in: cell.n_in,
            hidden: cell.n_hidden,
            outputs,
            rank_w,
            rank_u,
            logistic,
        }
    }

    fn matrix(start: usize, rows: usize, cols: usize, rank: Option<usize>) -> (At, usize) {
        let right = rank.map(|r| (start + rows * r, r));
        let size = rank.map_or(rows * cols, |r| r * (rows + cols));
        let at = At {
            left: start,
            right,
            rows,
            cols,
        };
        (at, start + size)
    }

    /// (W, U, start of the biases, start of ζ, start of the read-out, length).
    fn parts(&self) -> (At, At, usize, usize, usize, usize) {
        let (w, next) = Self::matrix(0, self.hidden, self.n_in, self.rank_w);
        let (u, biases) = Self::matrix(next, self.hidden, self.hidden, self.rank_u);
        let gates = biases + 2 * self.hidden;
        let head = gates + 2;
        (w, u, biases, gates, head, head + self.outputs * (self.hidden + 1))
    }
}

fn multiply(theta: &[f64], rows: usize, cols: usize, start: usize, x: &[f64]) -> Vec<f64> {
    let m = &theta[start..start + rows * cols];
    m.chunks_exact(cols)
        .map(|row| row.iter().zip(x).map(|(a, b)| a * b).sum())
        .collect()
}

fn multiply_transposed(theta: &[f64], rows: usize, cols: usize, start: usize, y: &[f64]) -> Vec<f64> {
    let mut out = vec![0.0; cols];
    for (row, y) in theta[start..start + rows * cols].chunks_exact(cols).zip(y) {
        for (o, a) in out.iter_mut().zip(row) {
            *o += a * y;
        }
    }
    out
}

fn add_outer(grad: &mut [f64], start: usize, y: &[f64], x: &[f64]) {
    for (i, y) in y.iter().enumerate() {
        let at = start + i * x.len();
        for (g, x) in grad[at..at + x.len()].iter_mut().zip(x) {
            *g += y * x;
        }
    }
}

impl At {
    fn apply(&self, theta: &[f64], x: &[f64]) -> Vec<f64> {
        match self.right {
            None => multiply(theta, self.rows, self.cols, self.left, x),
            Some((right, r)) => {
                let inner = multiply(theta, r, self.cols, right, x);
                multiply(theta, self.rows, r, self.left, &inner)
            }
        }
    }

    /// Adds the gradient for ∂L/∂(Mx) = `dy`, returns ∂L/∂x if wanted.
    fn back(&self, theta: &[f64], x: &[f64], dy: &[f64], grad: &mut [f64], through: bool) -> Vec<f64> {
        match self.right {
            None => {
                add_outer(grad, self.left, dy, x);
                if through {
                    multiply_transposed(theta, self.rows, self.cols, self.left, dy)
                } else {
                    Vec::new()
                }
            }
            Some((right, r)) => {
                let inner = multiply(theta, r, self.cols, right, x);
                add_outer(grad, self.left, dy, &inner);
                let d_inner = multiply_transposed(theta, self.rows, r, self.left, dy);
                add_outer(grad, right, &d_inner, x);
                if through {
                    multiply_transposed(theta, r, self.cols, right, &d_inner)
                } else {
                    Vec::new()
                }
            }
        }
    }
}

/// Loss of one sequence (mean over the outputs whose target is not NaN); adds its gradient to `grad`.
pub(super) fn loss_and_gradient(
    layout: &Layout,
    theta: &[f64],
    x: &[f64],
    target: &[f64],
    grad: &mut [f64],
) -> f64 {
    let (w, u, biases, gates, head, _) = layout.parts();
    let n = layout.hidden;
    let (open, leak) = (sigmoid(theta[gates]), sigmoid(theta[gates + 1]));
    // Forward; z, c and the state before are kept per step.
    let mut h = vec![0.0; n];
    let mut tape: Vec<(Vec<f64>, Vec<f64>, Vec<f64>)> = Vec::new();
    for x in x.chunks_exact(layout.n_in) {
        let (p, q) = (w.apply(theta, x), u.apply(theta, &h));
        let before = h.clone();
        let (mut z, mut c) = (vec![0.0; n], vec![0.0; n]);
        for i in 0..n {
            let s = p[i] + q[i];
            z[i] = sigmoid(s + theta[biases + i]);
            c[i] = (s + theta[biases + n + i]).tanh();
            h[i] = (open * (1.0 - z[i]) + leak) * c[i] + z[i] * before[i];
        }
        tape.push((z, c, before));
    }
    let bias = head + layout.outputs * n;
    let out = multiply(theta, layout.outputs, n, head, &h);
    let known = target.iter().filter(|t| !t.is_nan()).count();
    let share = 1.0 / known.max(1) as f64;
    let mut loss = 0.0;
    let mut d_out = vec![0.0; layout.outputs];
    for j in 0..layout.outputs {
        let v = out[j] + theta[bias + j];
        if target[j].is_nan() {
            continue;
        }
        if layout.logistic {
            // Cross-entropy as softplus(v) − y·v, stable for both signs.
            loss += share * (v.max(0.0) + (-v.abs()).exp().ln_1p() - target[j] * v);
            d_out[j] = share * (sigmoid(v) - target[j]);
        } else {
            loss += share * 0.5 * (v - target[j]).powi(2);
            d_out[j] = share * (v - target[j]);
        }
        grad[bias + j] += d_out[j];
    }
    add_outer(grad, head, &d_out, &h);
    let mut dh = multiply_transposed(theta, layout.outputs, n, head, &d_out);
    for (x, (z, c, before)) in x.chunks_exact(layout.n_in).zip(&tape).rev() {
        let mut dp = vec![0.0; n];
        for i in 0..n {
            let dz = dh[i] * (before[i] - open * c[i]) * z[i] * (1.0 - z[i]);
            let dc = dh[i] * (open * (1.0 - z[i]) + leak) * (1.0 - c[i] * c[i]);
            grad[gates] += dh[i] * (1.0 - z[i]) * c[i] * open * (1.0 - open);
            grad[gates + 1] += dh[i] * c[i] * leak * (1.0 - leak);
            grad[biases + i] += dz;
            grad[biases + n + i] += dc;
            dp[i] = dz + dc;
            dh[i] *= z[i];
        }
        w.back(theta, x, &dp, grad, false);
        for (d, more) in dh.iter_mut().zip(u.back(theta, before, &dp, grad, true)) {
            *d += more;
        }
    }
    loss
}

impl FastGrnn {
    fn flat(&self, head: &Head) -> Vec<f64> {
        let factors = self.w.iter().chain(&self.u).flat_map(|f| &f.w);
        let biases = self.bias_gate.iter().chain(&self.bias_update);
        let cell = factors.chain(biases).map(|v| f64::from(*v));
        let read = head.map.w.iter().chain(&head.bias).map(|v| f64::from(*v));
        cell.chain([self.zeta, self.nu]).chain(read).collect()
    }

    fn unflat(&mut self, theta: &[f64], mut head: Head) {
        let mut rest = theta.iter();
        let fill = |v: &mut [f32], rest: &mut std::slice::Iter<'_, f64>| {
            for (v, t) in v.iter_mut().zip(rest) {
                *v = *t as f32;
            }
        };
        let maps: [&mut Map; 2] = [&mut self.w, &mut self.u];
        for factor in maps.into_iter().flatten() {
            fill(&mut factor.w, &mut rest);
        }
        fill(&mut self.bias_gate, &mut rest);
        fill(&mut self.bias_update, &mut rest);
        self.zeta = rest.next().copied().unwrap_or(self.zeta);
        self.nu = rest.next().copied().unwrap_or(self.nu);
        fill(&mut head.map.w, &mut rest);
        fill(&mut head.bias, &mut rest);
        self.head = Some(head);
    }

    /// Trains cell and read-out on sequences (each T · n_in) and targets (each of the same length). Returns the mean loss
    /// of each pass, measured while it learned. Continues from the present weights; nothing changes on an error.
    pub fn fit(&mut self, sequences: &[Vec<f32>], targets: &[Vec<f32>], o: FitOptions) -> Result<Vec<f64>> {
        for t in targets {
            check_finite("targets", t)?;
        }
        self.fit_known(sequences, targets, o)
    }

    /// [`FastGrnn::fit`] where a target that is NaN is not known, and not trained on.
    pub(super) fn fit_known(
        &mut self,
        sequences: &[Vec<f32>],
        targets: &[Vec<f32>],
        o: FitOptions,
    ) -> Result<Vec<f64>> {
        self.check_fit(sequences, targets, o)?;
        let Some(outputs) = targets.first().map(Vec::len) else {
            return Ok(Vec::new());
        };
        let mut rng = rng::stream(o.seed, 1);
        let n = self.n_hidden;
        let keep = |h: &&Head| h.map.rows == outputs && h.logistic == o.logistic;
        let head = self.head.as_ref().filter(keep).cloned().unwrap_or_else(|| {
            let sd = 1.0 / (n as f64).sqrt();
            let w = (0..outputs * n).map(|_| (sd * rng::normal(&mut rng)) as f32);
            Head {
                map: Factor::new(outputs, n, w.collect()),
                bias: vec![0.0; outputs],
                logistic: o.logistic,
            }
        });
        let layout = Layout::of(self, outputs, o.logistic);
        let (_, _, biases, _, read, len) = layout.parts();
        let mut theta = self.flat(&head);
        let (mut first, mut second) = (vec![0.0; len], vec![0.0; len]);
        let wide = |v: &[Vec<f32>]| -> Vec<Vec<f64>> {
            v.iter()
                .map(|s| s.iter().map(|x| f64::from(*x)).collect())
                .collect()
        };
        let (sequences, targets) = (wide(sequences), wide(targets));
        let mut order: Vec<usize> = (0..sequences.len()).collect();
        let mut losses = Vec::with_capacity(o.epochs);
        let mut step = 0i32;
        for _ in 0..o.epochs {
            for i in (1..order.len()).rev() {
                order.swap(i, rng.random_range(0..=i));
            }
            let mut total = 0.0;
            for batch in order.chunks(o.batch_size) {
                let mut grad = vec![0.0; len];
                for &i in batch {
                    total += loss_and_gradient(&layout, &theta, &sequences[i], &targets[i], &mut grad);
                }
                let norm = grad.iter().map(|g| g * g).sum::<f64>().sqrt() / batch.len() as f64;
                if !norm.is_finite() {
                    return Err(Error::Learning(
                        "the gradient overflowed: lower the learning rate".into(),
                    ));
                }
                let scale = (o.clip_norm / norm.max(1e-300)).min(1.0) / batch.len() as f64;
                step = step.saturating_add(1);
                let (fix1, fix2) = (1.0 - 0.9f64.powi(step), 1.0 - 0.999f64.powi(step));
                for i in 0..len {
                    let g = grad[i] * scale;
                    first[i] = 0.9 * first[i] + 0.1 * g;
                    second[i] = 0.999 * second[i] + 0.001 * g * g;
                    let matrix = i < biases || (read..read + outputs * n).contains(&i);
                    if matrix {
                        theta[i] *= 1.0 - o.learning_rate * o.weight_decay;
                    }
                    theta[i] -= o.learning_rate * (first[i] / fix1) / ((second[i] / fix2).sqrt() + 1e-8);
                }
            }
            losses.push(total / sequences.len() as f64);
        }
        if !theta
            .iter()
            .all(|t| t.is_finite() && t.abs() < f64::from(f32::MAX))
        {
            return Err(Error::Learning(
                "a weight overflowed: lower the learning rate".into(),
            ));
        }
        self.unflat(&theta, head);
        self.steps = self.steps.saturating_add(step.unsigned_abs().into());
        Ok(losses)
    }

    fn check_fit(&self, sequences: &[Vec<f32>], targets: &[Vec<f32>], o: FitOptions) -> Result<()> {
        if self.is_quantized() {
            return Err(Error::value(
                "fit",
                "a cell that is not quantised",
                "an int8 cell",
            ));
        }
        check_dim("targets", sequences.len(), targets.len())?;
        let outputs = targets.first().map_or(1, Vec::len);
        if outputs == 0 {
            return Err(Error::shape("targets", "at least one column", "none"));
        }
        for (s, t) in sequences.iter().zip(targets) {
            if s.is_empty() || !s.len().is_multiple_of(self.n_in) {
                return Err(Error::Dimension {
                    name: "sequences",
                    expected: self.n_in,
                    got: s.len(),
                });
            }
            check_finite("sequences", s)?;
            check_dim("targets", outputs, t.len())?;
            if o.logistic && t.iter().any(|t| *t < 0.0 || *t > 1.0) {
                return Err(Error::value(
                    "targets",
                    "numbers in [0, 1] for the logistic loss",
                    "others",
                ));
            }
        }
        let positive = |name, v: f64| {
            check_number(name, v)?;
            if v > 0.0 {
                Ok(())
            } else {
                Err(Error::value(name, "a number above 0", v))
            }
        };
        positive("learning_rate", o.learning_rate)?;
        positive("clip_norm", o.clip_norm)?;
        check_number("weight_decay", o.weight_decay)?;
        if o.weight_decay < 0.0 || o.batch_size == 0 {
            return Err(Error::value(
                "weight_decay, batch_size",
                "0 or above; 1 or above",
                o.weight_decay,
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_are_those_of_finite_differences() {
        for (rank_w, rank_u, logistic) in [
            (None, None, true),
            (Some(2), Some(1), true),
            (Some(1), None, false),
        ] {
            let cell = FastGrnn::new(4, 3, rank_w, rank_u, (0.7, -1.5), 3).unwrap();
            let layout = Layout::of(&cell, 2, logistic);
            let len = layout.parts().5;
            let mut rng = rng::stream(5, 0);
            let mut draw = |n: usize| -> Vec<f64> { (0..n).map(|_| rng::normal(&mut rng)).collect() };
            let (mut theta, x) = (draw(len), draw(4 * 5));
            let target = [0.3, 0.9];
            let mut grad = vec![0.0; len];
            loss_and_gradient(&layout, &theta, &x, &target, &mut grad);
            let mut sink = vec![0.0; len];
            for i in 0..len {
                let (at, step) = (theta[i], 1e-6);
                let mut loss = |v: f64| {
                    theta[i] = v;
                    loss_and_gradient(&layout, &theta, &x, &target, &mut sink)
                };
                let slope = (loss(at + step) - loss(at - step)) / (2.0 * step);
                theta[i] = at;
                assert!(
                    (slope - grad[i]).abs() < 1e-7 * (1.0 + slope.abs()),
                    "parameter {i}: {slope} against {}",
                    grad[i]
                );
            }
        }
    }
}
