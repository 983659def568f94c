//! Gradients of the fast adapter: those of one signal are outer products and stay so, more are summed up.

use super::factors::Factors;
use super::optim::Optimizer;
use crate::error::{Error, Result, check_dim, check_finite};
use crate::kernels::descent::Gradient;
use crate::kernels::{self, Projections};
use serde::{Deserialize, Serialize};

/// The gradients of one signal, ∂A = bg·xᵀ and ∂B = g·axᵀ, never written down.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outer<'a> {
    pub x: &'a [f32],
    pub g: &'a [f32],
    /// ‖x‖² and ‖g‖².
    pub squares: (f64, f64),
    /// Ax and Bᵀg with the signal's weight and the adapter's scale.
    pub by: Projections,
}

/// ‖x‖², also where it leaves single precision; infinite or NaN only if a value of `x` is.
pub(super) fn square(x: &[f32]) -> f64 {
    let s = f64::from(kernels::dot(x, x));
    if s.is_finite() {
        s
    } else {
        x.iter().map(|v| f64::from(*v).powi(2)).sum()
    }
}

impl Outer<'_> {
    /// Joint length of both gradients: of an outer product it is the product of the lengths.
    pub(super) fn norm(&self) -> f64 {
        let pair = |v: [f32; 2]| f64::from(v[0]).powi(2) + f64::from(v[1]).powi(2);
        (pair(self.by.bg) * self.squares.0 + pair(self.by.ax) * self.squares.1).sqrt()
    }

    /// One step with the gradients times `scale`; its squared length.
    pub(super) fn step(&self, optimizer: &mut Optimizer, factors: &mut Factors, lr: f64, scale: f32) -> f64 {
        let Projections { ax, bg } = self.by;
        let (a, b) = (&mut factors.a[..], &mut factors.b[..]);
        let row = |r: usize| Gradient::Vector(bg[r], self.x);
        if a.len() == self.x.len() {
            return optimizer.step(
                lr,
                scale,
                &mut [(a, row(0)), (b, Gradient::Vector(ax[0], self.g))],
            );
        }
        let (a0, a1) = a.split_at_mut(self.x.len());
        let columns = Gradient::Pairs(ax, self.g);
        optimizer.step(lr, scale, &mut [(a0, row(0)), (a1, row(1)), (b, columns)])
    }
}

/// What waits for the step. One signal is kept as it is; with the second one the sum of all is written down.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Pending {
    count: usize,
    x: Vec<f32>,
    g: Vec<f32>,
    squares: (f64, f64),
    by: Projections,
    sum_a: Vec<f32>,
    sum_b: Vec<f32>,
}

impl Pending {
    /// Signals.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn add(&mut self, signal: &Outer<'_>, rank: usize) {
        if self.count == 0 {
            self.x.extend_from_slice(signal.x);
            self.g.extend_from_slice(signal.g);
            (self.squares, self.by) = (signal.squares, signal.by);
        } else {
            if self.count == 1 {
                let n = rank * self.x.len();
                self.sum_a.resize(n, 0.0);
                self.sum_b.resize(n, 0.0);
                kernels::low_rank_update(&self.x, &self.g, &self.by, rank, &mut self.sum_a, &mut self.sum_b);
                self.forget_signal();
            }
            kernels::low_rank_update(
                signal.x,
                signal.g,
                &signal.by,
                rank,
                &mut self.sum_a,
                &mut self.sum_b,
            );
        }
        self.count += 1;
    }

    fn signal(&self) -> Outer<'_> {
        Outer {
            x: &self.x,
            g: &self.g,
            squares: self.squares,
            by: self.by,
        }
    }

    /// Joint length of the sum of all gradients.
    pub(super) fn norm(&self) -> f64 {
        if self.count == 1 {
            self.signal().norm()
        } else {
            let dot = |v: &[f32]| kernels::dot(v, v);
            f64::from(dot(&self.sum_a) + dot(&self.sum_b)).sqrt()
        }
    }

    /// One step with the sum of all gradients times `scale`; its squared length.
    pub(super) fn step(&self, optimizer: &mut Optimizer, factors: &mut Factors, lr: f64, scale: f32) -> f64 {
        if self.count == 1 {
            return self.signal().step(optimizer, factors, lr, scale);
        }
        let (a, b) = (
            Gradient::Vector(1.0, &self.sum_a),
            Gradient::Vector(1.0, &self.sum_b),
        );
        optimizer.step(lr, scale, &mut [(&mut factors.a[..], a), (&mut factors.b[..], b)])
    }

    fn forget_signal(&mut self) {
        self.x.clear();
        self.g.clear();
        self.squares = (0.0, 0.0);
        self.by = Projections::default();
    }

    /// Drops everything but the memory; how many signals that were.
    pub(super) fn clear(&mut self) -> usize {
        self.forget_signal();
        self.sum_a.clear();
        self.sum_b.clear();
        std::mem::take(&mut self.count)
    }

    /// Checks decoded state.
    pub(super) fn validate(&self, d: usize, rank: usize) -> Result<()> {
        let signal = if self.count == 1 { d } else { 0 };
        let sums = if self.count > 1 { rank * d } else { 0 };
        check_dim("pending query", signal, self.x.len())?;
        check_dim("pending gradient", signal, self.g.len())?;
        check_dim("pending A", sums, self.sum_a.len())?;
        check_dim("pending B", sums, self.sum_b.len())?;
        let by = [self.by.ax, self.by.bg];
        for values in [&self.x, &self.g, &self.sum_a, &self.sum_b, by.as_flattened()] {
            check_finite("pending signals", values)?;
        }
        // Another tier sums in another order.
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-4 * b;
        if !(near(self.squares.0, square(&self.x)) && near(self.squares.1, square(&self.g))) {
            return Err(Error::corrupt("pending signals", "lengths of other vectors"));
        }
        if rank == 1 && (self.by.ax[1] != 0.0 || self.by.bg[1] != 0.0) {
            return Err(Error::corrupt("pending signals", "two projections at rank 1"));
        }
        Ok(())
    }
}
