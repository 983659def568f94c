//! S6: a transition per channel and state, step sizes that depend on the input.

use super::sequence;
use crate::attention::threads;
use crate::kernels::real::{Real, gate_silu, selective_scan, softplus};
use std::ops::Range;

/// Steps between the states that a backward pass keeps; those in between are computed again.
const CHECKPOINT: usize = 64;
/// Steps that a forward pass takes at a time, all channels of them, so that the operands stay in the first cache level.
const STRETCH: usize = 16;

/// Operands of a selective scan for `batch` sequences of `steps` steps.
#[derive(Clone, Copy, Debug)]
pub struct Selective<'a, T> {
    /// Sequences.
    pub batch: usize,
    /// Steps.
    pub steps: usize,
    /// Channels.
    pub d: usize,
    /// States per channel.
    pub n: usize,
    /// Inputs (batch, steps, d).
    pub u: &'a [T],
    /// Step sizes (batch, steps, d), before bias and softplus.
    pub delta: &'a [T],
    /// Transitions (d, n), negative.
    pub a: &'a [T],
    /// Input maps (batch, steps, n).
    pub b: &'a [T],
    /// Output maps (batch, steps, n).
    pub c: &'a [T],
    /// Skip (d).
    pub skip: Option<&'a [T]>,
    /// Gate (batch, steps, d).
    pub z: Option<&'a [T]>,
    /// Added to delta (d).
    pub bias: Option<&'a [T]>,
    /// softplus is applied to delta + bias.
    pub softplus: bool,
    /// State at the start (batch, d, n); zeros without.
    pub start: Option<&'a [T]>,
}

/// Rows and columns exchanged: (rows, columns) to (columns, rows).
fn transposed<T: Copy>(x: &[T], rows: usize, columns: usize) -> Vec<T> {
    let mut out = Vec::with_capacity(x.len());
    for c in 0..columns {
        out.extend((0..rows).map(|r| x[r * columns + c]));
    }
    out
}

impl<T: Real> Selective<'_, T> {
    /// Multiply-adds, an exponential counted as eight.
    fn cost(&self) -> usize {
        self.batch * self.steps * self.d * self.n * 12
    }

    /// Δ of the places `at` of one sequence (steps, d): whole steps.
    fn step_sizes(&self, i: usize, at: Range<usize>, out: &mut Vec<T>) {
        out.clear();
        out.extend_from_slice(&sequence(self.delta, i, self.steps * self.d)[at]);
        if let Some(bias) = self.bias {
            for row in out.chunks_exact_mut(self.d.max(1)) {
                for (x, b) in row.iter_mut().zip(bias) {
                    *x += *b;
                }
            }
        }
        if self.softplus {
            softplus(out);
        }
    }

    fn start(&self, i: usize) -> Vec<T> {
        match self.start {
            Some(h) => transposed(sequence(h, i, self.d * self.n), self.d, self.n),
            None => vec![T::ZERO; self.n * self.d],
        }
    }

    /// Outputs (batch, steps, d) and final states (batch, d, n).
    pub fn run(&self, y: &mut [T], state: &mut [T]) {
        let a = transposed(self.a, self.d, self.n);
        let (row, cell) = (self.steps * self.d, self.d * self.n);
        let mut pieces = Vec::with_capacity(self.batch);
        let (mut ys, mut states) = (y, state);
        for i in 0..self.batch {
            let (y, rest) = ys.split_at_mut(row);
            let (state, others) = states.split_at_mut(cell);
            pieces.push((i, y, state));
            (ys, states) = (rest, others);
        }
        threads::share(
            threads::worth(self.batch, self.cost()),
            pieces,
            Vec::new,
            |(i, y, state): (usize, &mut [T], &mut [T]), delta| {
                let (d, n) = (self.d, self.n);
                let mut h = self.start(i);
                let maps = self.steps * n;
                let (u, b, c) = (
                    sequence(self.u, i, row),
                    sequence(self.b, i, maps),
                    sequence(self.c, i, maps),
                );
                for first in (0..self.steps).step_by(STRETCH) {
                    let last = (first + STRETCH).min(self.steps);
                    let (r, m) = (first * d..last * d, first * n..last * n);
                    self.step_sizes(i, r.clone(), delta);
                    let y = &mut y[r.clone()];
                    selective_scan(d, n, &u[r.clone()], delta, &a, &b[m.clone()], &c[m], &mut h, y);
                    self.finish(i, r, y);
                }
                state.copy_from_slice(&transposed(&h, n, d));
            },
        );
    }

    /// Adds the skip and applies the gate to the outputs `y` of the places `at`, whole steps.
    fn finish(&self, i: usize, at: Range<usize>, y: &mut [T]) {
        let (row, d) = (self.steps * self.d, self.d.max(1));
        if let Some(skip) = self.skip {
            let u = &sequence(self.u, i, row)[at.clone()];
            for (y, u) in y.chunks_exact_mut(d).zip(u.chunks_exact(d)) {
                for ((y, u), s) in y.iter_mut().zip(u).zip(skip) {
                    *y += *s * *u;
                }
            }
        }
        if let Some(z) = self.z {
            gate_silu(y, &sequence(z, i, row)[at]);
        }
    }

    /// Gradients for ∂L/∂y = `dy` and ∂L/∂state = `dstate`. Reverse-time recurrence of the adjoint; states are recomputed from one
    /// kept every 64 steps, so memory is O(steps/64·d·n).
    #[must_use]
    pub fn vjp(&self, dy: &[T], dstate: &[T]) -> SelectiveGradients<T> {
        let (row, maps, cell) = (self.steps * self.d, self.steps * self.n, self.d * self.n);
        let zeros = |len: usize| vec![T::ZERO; len];
        let mut parts: Vec<SelectiveGradients<T>> = (0..self.batch)
            .map(|_| SelectiveGradients {
                u: zeros(row),
                delta: zeros(row),
                a: zeros(cell),
                b: zeros(maps),
                c: zeros(maps),
                skip: zeros(self.d),
                z: zeros(row),
                bias: zeros(self.d),
                start: zeros(cell),
            })
            .collect();
        let a = transposed(self.a, self.d, self.n);
        threads::share(
            threads::worth(self.batch, 4 * self.cost()),
            parts.iter_mut().enumerate().collect(),
            || (),
            |(i, g): (usize, &mut SelectiveGradients<T>), ()| {
                self.sequence_vjp(i, &a, sequence(dy, i, row), sequence(dstate, i, cell), g);
            },
        );
        let mut parts = parts.into_iter();
        let Some(mut total) = parts.next() else {
            return SelectiveGradients::default();
        };
        for p in parts {
            for (to, from) in [
                (&mut total.u, p.u),
                (&mut total.delta, p.delta),
                (&mut total.b, p.b),
                (&mut total.c, p.c),
                (&mut total.z, p.z),
                (&mut total.start, p.start),
            ] {
                to.extend(from);
            }
            for (to, from) in [
                (&mut total.a, p.a),
                (&mut total.skip, p.skip),
                (&mut total.bias, p.bias),
            ] {
                for (x, y) in to.iter_mut().zip(from) {
                    *x += y;
                }
            }
        }
        total
    }

    fn sequence_vjp(&self, i: usize, a: &[T], dy: &[T], dstate: &[T], g: &mut SelectiveGradients<T>) {
        let (d, n, steps) = (self.d, self.n, self.steps);
        let (row, maps) = (steps * d, steps * n);
        let u = sequence(self.u, i, row);
        let (b, c) = (sequence(self.b, i, maps), sequence(self.c, i, maps));
        let mut delta = Vec::new();
        self.step_sizes(i, 0..row, &mut delta);
        // Forward once more, keeping a state per stretch, and the outputs before skip and gate.
        let mut plain = vec![T::ZERO; row];
        let mut h = self.start(i);
        let mut kept = Vec::new();
        for first in (0..steps).step_by(CHECKPOINT) {
            kept.push(h.clone());
            let last = (first + CHECKPOINT).min(steps);
            let (r, m) = (first * d..last * d, first * n..last * n);
            selective_scan(
                d,
                n,
                &u[r.clone()],
                &delta[r.clone()],
                a,
                &b[m.clone()],
                &c[m],
                &mut h,
                &mut plain[r],
            );
        }
        let dy = self.through_gate(i, u, &plain, dy, g);
        let mut gh = transposed(dstate, d, n);
        let mut states = Vec::new();
        for (stretch, start) in kept.iter().enumerate().rev() {
            let first = stretch * CHECKPOINT;
            let last = (first + CHECKPOINT).min(steps);
            states.clear();
            states.extend_from_slice(start);
            for t in first..last {
                let mut h = states[states.len() - n * d..].to_vec();
                let mut y = vec![T::ZERO; d];
                let (r, m) = (t * d..(t + 1) * d, t * n..(t + 1) * n);
                selective_scan(
                    d,
                    n,
                    &u[r.clone()],
                    &delta[r],
                    a,
                    &b[m.clone()],
                    &c[m],
                    &mut h,
                    &mut y,
                );
                states.extend(h);
            }
            for t in (first..last).rev() {
                let k = t - first;
                let (before, after) = (
                    &states[k * n * d..(k + 1) * n * d],
                    &states[(k + 1) * n * d..(k + 2) * n * d],
                );
                let r = t * d;
                for s in 0..n {
                    let (mut db, mut dc) = (T::ZERO, T::ZERO);
                    for j in 0..d {
                        let at = s * d + j;
                        let step = delta[r + j];
                        let grad = gh[at] + dy[r + j] * c[t * n + s];
                        dc += dy[r + j] * after[at];
                        db += grad * step * u[r + j];
                        let decay = (step * a[at]).exp();
                        let through = grad * before[at] * decay;
                        g.a[at] += through * step;
                        g.delta[r + j] += through * a[at] + grad * b[t * n + s] * u[r + j];
                        g.u[r + j] += grad * b[t * n + s] * step;
                        gh[at] = grad * decay;
                    }
                    g.b[t * n + s] = db;
                    g.c[t * n + s] = dc;
                }
            }
        }
        g.start = transposed(&gh, n, d);
        g.a = transposed(&g.a, n, d);
        self.through_softplus(i, g);
    }

    /// Undoes gate and skip: returns ∂L/∂(C·h) and sets the gradients of `z`, the skip and part of `u`.
    fn through_gate(
        &self,
        i: usize,
        u: &[T],
        plain: &[T],
        dy: &[T],
        g: &mut SelectiveGradients<T>,
    ) -> Vec<T> {
        let d = self.d.max(1);
        let mut out = dy.to_vec();
        if let Some(z) = self.z {
            for (at, z) in sequence(z, i, u.len()).iter().enumerate() {
                let skip = self.skip.map_or(T::ZERO, |s| s[at % d] * u[at]);
                let sigma = T::ONE / (T::ONE + (-*z).exp());
                g.z[at] = dy[at] * (plain[at] + skip) * sigma * (T::ONE + *z * (T::ONE - sigma));
                out[at] = dy[at] * *z * sigma;
            }
        }
        if let Some(skip) = self.skip {
            for (at, dy) in out.iter().enumerate() {
                g.skip[at % d] += *dy * u[at];
                g.u[at] += *dy * skip[at % d];
            }
        }
        out
    }

    /// ∂L/∂Δ to ∂L/∂delta and ∂L/∂bias.
    fn through_softplus(&self, i: usize, g: &mut SelectiveGradients<T>) {
        let d = self.d.max(1);
        for (at, delta) in sequence(self.delta, i, g.delta.len()).iter().enumerate() {
            if self.softplus {
                let x = *delta + self.bias.map_or(T::ZERO, |b| b[at % d]);
                g.delta[at] *= T::ONE / (T::ONE + (-x).exp());
            }
            g.bias[at % d] += g.delta[at];
        }
    }
}

/// Gradients in the shapes of the operands of [`Selective`].
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "named as the operands")]
pub struct SelectiveGradients<T> {
    pub u: Vec<T>,
    pub delta: Vec<T>,
    pub a: Vec<T>,
    pub b: Vec<T>,
    pub c: Vec<T>,
    pub skip: Vec<T>,
    pub z: Vec<T>,
    pub bias: Vec<T>,
    pub start: Vec<T>,
}
