//! SSD: a scalar transition per head.

use super::sequence;
use crate::attention::threads;
use crate::kernels::real::{Real, decay_step};

/// Operands of SSD: a scalar transition per head, `heads / groups` heads share their maps.
#[derive(Clone, Copy, Debug)]
pub struct Dual<'a, T> {
    /// Sequences.
    pub batch: usize,
    /// Steps.
    pub steps: usize,
    /// Heads.
    pub heads: usize,
    /// Width of a head.
    pub p: usize,
    /// Groups of heads.
    pub groups: usize,
    /// States.
    pub n: usize,
    /// Steps between states that a backward pass keeps.
    pub chunk: usize,
    /// Inputs (batch, steps, heads, p).
    pub x: &'a [T],
    /// Step sizes (batch, steps, heads), positive.
    pub dt: &'a [T],
    /// Transitions (heads), negative.
    pub a: &'a [T],
    /// Input maps (batch, steps, groups, n).
    pub b: &'a [T],
    /// Output maps (batch, steps, groups, n).
    pub c: &'a [T],
    /// Skip (heads).
    pub skip: Option<&'a [T]>,
    /// State at the start (batch, heads, p, n); zeros without.
    pub start: Option<&'a [T]>,
}

impl<T: Real> Dual<'_, T> {
    fn cost(&self) -> usize {
        4 * self.batch * self.steps * self.heads * self.p * self.n
    }

    fn cell(&self) -> usize {
        self.p * self.n
    }

    fn begin(&self, piece: usize) -> Vec<T> {
        match self.start {
            Some(h) => sequence(h, piece, self.cell()).to_vec(),
            None => vec![T::ZERO; self.cell()],
        }
    }

    /// Offsets of step `t` of head `h` of sequence `i`: of dt, of x, and of the maps.
    fn at(&self, i: usize, h: usize, t: usize) -> (usize, usize, usize) {
        let step = i * self.steps + t;
        let head = step * self.heads + h;
        let group = step * self.groups + h / (self.heads / self.groups);
        (head, head * self.p, group * self.n)
    }

    /// One step of one head: h ← e^{dt·A}·h + dt·x⊗B; returns C·h per row where `y` is given.
    fn step(&self, i: usize, head: usize, t: usize, state: &mut [T], mut y: Option<&mut [T]>) {
        let (dt, x, map) = self.at(i, head, t);
        let size = self.dt[dt];
        let decay = (size * self.a[head]).exp();
        let (b, c) = (&self.b[map..map + self.n], &self.c[map..map + self.n]);
        for (row, h) in state.chunks_exact_mut(self.n.max(1)).enumerate() {
            let out = decay_step(h, decay, size * self.x[x + row], b, c);
            if let Some(y) = y.as_deref_mut() {
                y[row] = out;
            }
        }
    }

    /// Outputs (batch, steps, heads, p) and final states (batch, heads, p, n).
    pub fn run(&self, y: &mut [T], state: &mut [T]) {
        let pieces = self.batch * self.heads;
        // Each head writes every `heads`-th row: it fills a buffer of its own, which is spread afterwards.
        let mut rows: Vec<Vec<T>> = vec![vec![T::ZERO; self.steps * self.p]; pieces];
        let work = rows
            .iter_mut()
            .zip(state.chunks_exact_mut(self.cell().max(1)))
            .enumerate()
            .collect();
        threads::share(
            threads::worth(pieces, self.cost()),
            work,
            || (),
            |(piece, (rows, state)): (usize, (&mut Vec<T>, &mut [T])), ()| {
                let (i, head) = (piece / self.heads, piece % self.heads);
                let mut h = self.begin(piece);
                for t in 0..self.steps {
                    let y = &mut rows[t * self.p..(t + 1) * self.p];
                    self.step(i, head, t, &mut h, Some(y));
                    if let Some(skip) = self.skip {
                        let (_, x, _) = self.at(i, head, t);
                        for (y, x) in y.iter_mut().zip(&self.x[x..x + self.p]) {
                            *y += skip[head] * *x;
                        }
                    }
                }
                state.copy_from_slice(&h);
            },
        );
        for (piece, rows) in rows.iter().enumerate() {
            let (i, head) = (piece / self.heads, piece % self.heads);
            for t in 0..self.steps {
                let (_, x, _) = self.at(i, head, t);
                y[x..x + self.p].copy_from_slice(&rows[t * self.p..(t + 1) * self.p]);
            }
        }
    }

    /// Gradients for ∂L/∂y = `dy` and ∂L/∂state = `dstate`, by the reverse-time recurrence.
    #[must_use]
    pub fn vjp(&self, dy: &[T], dstate: &[T]) -> DualGradients<T> {
        let mut g = DualGradients {
            x: vec![T::ZERO; self.x.len()],
            dt: vec![T::ZERO; self.dt.len()],
            a: vec![T::ZERO; self.a.len()],
            b: vec![T::ZERO; self.b.len()],
            c: vec![T::ZERO; self.c.len()],
            skip: vec![T::ZERO; self.heads],
            start: vec![T::ZERO; self.batch * self.heads * self.cell()],
        };
        for piece in 0..self.batch * self.heads {
            self.head_vjp(piece, dy, sequence(dstate, piece, self.cell()), &mut g);
        }
        g
    }

    fn head_vjp(&self, piece: usize, dy: &[T], dstate: &[T], g: &mut DualGradients<T>) {
        let (i, head) = (piece / self.heads, piece % self.heads);
        let (n, cell, chunk) = (self.n.max(1), self.cell(), self.chunk.max(1));
        let mut h = self.begin(piece);
        let mut kept = Vec::new();
        for t in 0..self.steps {
            if t % chunk == 0 {
                kept.push(h.clone());
            }
            self.step(i, head, t, &mut h, None);
        }
        let mut gh = dstate.to_vec();
        for (stretch, start) in kept.iter().enumerate().rev() {
            let first = stretch * chunk;
            let last = (first + chunk).min(self.steps);
            let mut states = start.clone();
            for t in first..last {
                let mut h = states[states.len() - cell..].to_vec();
                self.step(i, head, t, &mut h, None);
                states.extend(h);
            }
            for t in (first..last).rev() {
                let k = t - first;
                let (dt, x, map) = self.at(i, head, t);
                let size = self.dt[dt];
                let decay = (size * self.a[head]).exp();
                let mut through = T::ZERO;
                for (row, gh) in gh.chunks_exact_mut(n).enumerate() {
                    let (input, dy) = (self.x[x + row], dy[x + row]);
                    let before = &states[k * cell + row * n..][..n];
                    let after = &states[(k + 1) * cell + row * n..][..n];
                    let mut into = T::ZERO;
                    for (s, gh) in gh.iter_mut().enumerate() {
                        *gh += dy * self.c[map + s];
                        g.c[map + s] += dy * after[s];
                        g.b[map + s] += *gh * size * input;
                        into += *gh * self.b[map + s];
                        through += *gh * before[s];
                        *gh *= decay;
                    }
                    g.x[x + row] += into * size;
                    g.dt[dt] += into * input;
                    if let Some(skip) = self.skip {
                        g.x[x + row] += dy * skip[head];
                        g.skip[head] += dy * input;
                    }
                }
                g.dt[dt] += through * decay * self.a[head];
                g.a[head] += through * decay * size;
            }
        }
        g.start[piece * cell..(piece + 1) * cell].copy_from_slice(&gh);
    }
}

/// Gradients in the shapes of the operands of [`Dual`].
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "named as the operands")]
pub struct DualGradients<T> {
    pub x: Vec<T>,
    pub dt: Vec<T>,
    pub a: Vec<T>,
    pub b: Vec<T>,
    pub c: Vec<T>,
    pub skip: Vec<T>,
    pub start: Vec<T>,
}
