//! Attention in linear time through feature maps (Katharopoulos et al. 2020), with the positive random features of FAVOR+
//! (Choromanski et al. 2021).
//!
//! All keys are condensed to one value per feature. With FAVOR+ that is itself softmax attention, each direction a query with
//! logits Ω·k − ‖k‖²/2: its running maximum makes every feature relative to its largest key, so nothing overflows and no
//! denominator vanishes. A query then attends the features, with what they are relative to added to its logits.

use super::heads::Heads;
use super::{linear_tiles, threads};
use crate::kernels::real::{
    Mat, Real, absorb, elu_plus_one, exp_minus, inner, largest, matmul, project, scale_by, transpose,
};

/// What maps queries and keys to features.
#[derive(Clone, Copy, Debug)]
pub enum Features<'a, T> {
    /// exp(Ωx − ‖x‖²/2) for directions Ω (f, d). With `eps` above 0 it is added to features that are relative to the largest
    /// product of all keys.
    Favor {
        /// Ω.
        omega: &'a [T],
        /// Added to the exponentials.
        eps: T,
    },
    /// elu(x) + 1.
    Elu,
    /// max(x, 0) + eps.
    Relu {
        /// Added to the features.
        eps: T,
    },
}

/// Queries or keys at a time.
const BLOCK: usize = 64;

/// The keys of one head, condensed.
#[derive(Clone, Debug)]
struct State<T> {
    /// (f, dv): sums of weighted values.
    values: Vec<T>,
    /// (f): sums of weights.
    total: Vec<T>,
    /// (f): what the weights are relative to; FAVOR+ only.
    top: Vec<T>,
}

/// Linear attention of one set of heads; `heads.scale` multiplies queries and keys.
#[derive(Clone, Copy, Debug)]
pub struct Linear<'a, T> {
    /// Operands.
    pub heads: Heads<'a, T>,
    /// Feature map.
    pub features: Features<'a, T>,
    /// Query i sees keys j ≤ i.
    pub causal: bool,
}

impl<T: Real> Linear<'_, T> {
    /// Number of features.
    fn width(&self) -> usize {
        match self.features {
            Features::Favor { omega, .. } => omega.len().checked_div(self.heads.d).unwrap_or(0),
            _ => self.heads.d,
        }
    }

    /// Writes `out` (heads, n, dv). Memory beyond it: O(f·dv) per head.
    pub fn run(&self, out: &mut [T]) {
        let h = &self.heads;
        let (n, dv, f) = (h.n, h.dv, self.width());
        if h.is_empty() || n == 0 || dv == 0 {
            return;
        }
        let cost = h.len() * (n + h.m) * f * (h.d + dv);
        if self.causal {
            let pieces = out.chunks_exact_mut(n * dv).enumerate().collect();
            let work = |(b, out): (usize, &mut [T]), (): &mut ()| self.causal(b, out);
            threads::share(threads::worth(h.len(), cost), pieces, || (), work);
            return;
        }
        if let Features::Favor { omega, eps } = self.features
            && eps == T::ZERO
            && linear_tiles::pays(h, f)
        {
            linear_tiles::attend(h, omega, out);
            return;
        }
        let mut states: Vec<Option<State<T>>> = vec![None; h.len()];
        threads::share(
            threads::worth(h.len(), cost),
            states.iter_mut().enumerate().collect(),
            || (),
            |(b, slot): (usize, &mut Option<State<T>>), ()| *slot = Some(self.condense(b)),
        );
        let directions = self.directions();
        let chunk = 16 * BLOCK;
        let mut pieces = Vec::with_capacity(h.len() * n.div_ceil(chunk));
        for ((b, out), state) in out.chunks_exact_mut(n * dv).enumerate().zip(&states) {
            for (i, out) in out.chunks_mut(chunk * dv).enumerate() {
                pieces.push((b, i * chunk, out, state));
            }
        }
        threads::share(
            threads::worth(pieces.len(), cost),
            pieces,
            || (),
            |(b, first, out, state): (usize, usize, &mut [T], &Option<State<T>>), ()| {
                if let Some(state) = state {
                    self.read(b, first, &directions, state, out);
                }
            },
        );
    }

    /// Ωᵀ (d, f); empty for the other maps.
    fn directions(&self) -> Vec<T> {
        let (d, f) = (self.heads.d, self.width());
        match self.features {
            Features::Favor { omega, .. } => {
                let mut out = vec![T::ZERO; d * f];
                transpose(f, d, Mat::new(omega, d), &mut out, f);
                out
            }
            _ => Vec::new(),
        }
    }

    fn empty(&self) -> State<T> {
        let f = self.width();
        State {
            values: vec![T::ZERO; f * self.heads.dv],
            total: vec![T::ZERO; f],
            top: vec![T::NEG_INFINITY; f],
        }
    }

    /// All keys of head `b`.
    fn condense(&self, b: usize) -> State<T> {
        let head = self.heads.head(b);
        let (d, dv, f, m) = (head.d, head.dv, self.width(), head.m());
        let mut state = self.empty();
        let mut turned = vec![T::ZERO; d * BLOCK];
        let mut logits = vec![T::ZERO; f * BLOCK];
        let mut bias = [T::ZERO; BLOCK];
        let (ones, mut sums) = ([T::ONE; BLOCK], vec![T::ZERO; d]);
        let highest = match self.features {
            Features::Favor { eps, omega } if eps > T::ZERO => self.highest(head.k, omega),
            _ => T::ZERO,
        };
        for first in (0..m).step_by(BLOCK) {
            let w = BLOCK.min(m - first);
            let keys = &head.k[first * d..(first + w) * d];
            let values = Mat::new(&head.v[first * dv..(first + w) * dv], dv);
            let turned = &mut turned[..d * w];
            transpose(w, d, Mat::new(keys, d), turned, w);
            scale_by(head.scale, turned);
            match self.features {
                Features::Favor { omega, eps } => {
                    let logits = &mut logits[..f * w];
                    matmul(f, d, w, Mat::new(omega, d), Mat::new(turned, w), logits, w, false);
                    half_squares(keys, d, head.scale, &mut bias);
                    for line in logits.chunks_exact_mut(w) {
                        for (x, half) in line.iter_mut().zip(&bias) {
                            *x -= *half;
                        }
                    }
                    if eps > T::ZERO {
                        for (line, total) in logits.chunks_exact_mut(w).zip(&mut state.total) {
                            exp_minus(line, highest);
                            for x in line {
                                *x += eps;
                                *total += *x;
                            }
                        }
                    } else {
                        absorb(logits, &mut state.top, &mut state.total, &mut state.values);
                    }
                    matmul(f, w, dv, Mat::new(logits, w), values, &mut state.values, dv, true);
                }
                _ => {
                    self.activate(turned);
                    project(turned, &ones[..w], &mut sums);
                    for (total, sum) in state.total.iter_mut().zip(&sums) {
                        *total += *sum;
                    }
                    matmul(d, w, dv, Mat::new(turned, w), values, &mut state.values, dv, true);
                }
            }
        }
        if !matches!(self.features, Features::Favor { eps, .. } if eps == T::ZERO) {
            state.top.fill(T::ZERO);
        }
        state
    }

    /// The largest product of all keys and directions.
    fn highest(&self, k: &[T], omega: &[T]) -> T {
        let d = self.heads.d;
        let directions = self.directions();
        let f = omega.len() / d.max(1);
        let mut products = vec![T::ZERO; BLOCK * f];
        let mut top = T::NEG_INFINITY;
        for keys in k.chunks((BLOCK * d).max(1)) {
            let w = keys.len() / d.max(1);
            let products = &mut products[..w * f];
            matmul(
                w,
                d,
                f,
                Mat::new(keys, d),
                Mat::new(&directions, f),
                products,
                f,
                false,
            );
            top = top.max(largest(products));
        }
        top * self.heads.scale
    }

    fn activate(&self, x: &mut [T]) {
        match self.features {
            Features::Elu => elu_plus_one(x),
            Features::Relu { eps } => {
                for x in x {
                    // NaN stays.
                    *x = if *x <= T::ZERO { eps } else { *x + eps };
                }
            }
            Features::Favor { .. } => {}
        }
    }

    /// Features of some queries, (rows, f), each row up to a factor of its own unless `eps` forbids it.
    fn look(&self, q: &[T], directions: &[T], state: &State<T>, weights: &mut [T]) {
        let (d, f, scale) = (self.heads.d, self.width(), self.heads.scale);
        let rows = weights.len() / f.max(1);
        match self.features {
            Features::Favor { eps, .. } => {
                matmul(
                    rows,
                    d,
                    f,
                    Mat::new(q, d),
                    Mat::new(directions, f),
                    weights,
                    f,
                    false,
                );
                for (r, line) in weights.chunks_exact_mut(f).enumerate() {
                    for (x, top) in line.iter_mut().zip(&state.top) {
                        *x = *x * scale + *top;
                    }
                    let top = largest(line);
                    let top = if top.is_finite() { top } else { T::ZERO };
                    if eps > T::ZERO {
                        let q = &q[r * d..(r + 1) * d];
                        let half = T::of(0.5) * scale * scale * inner(q, q);
                        line.iter_mut().for_each(|x| *x -= half);
                        exp_minus(line, top);
                        line.iter_mut().for_each(|x| *x += eps);
                    } else {
                        exp_minus(line, top);
                    }
                }
            }
            _ => {
                weights.copy_from_slice(q);
                scale_by(scale, weights);
                self.activate(weights);
            }
        }
    }

    /// Queries from `first` on of head `b`.
    fn read(&self, b: usize, first: usize, directions: &[T], state: &State<T>, out: &mut [T]) {
        let head = self.heads.head(b);
        let (d, dv, f) = (head.d, head.dv, self.width());
        let mut weights = vec![T::ZERO; BLOCK * f];
        let mut sums = [T::ZERO; BLOCK];
        let rows = out.len() / dv;
        for (i, out) in out.chunks_mut(BLOCK * dv).enumerate() {
            let at = first + i * BLOCK;
            let w = BLOCK.min(rows - i * BLOCK);
            let weights = &mut weights[..w * f];
            self.look(&head.q[at * d..(at + w) * d], directions, state, weights);
            matmul(
                w,
                f,
                dv,
                Mat::new(weights, f),
                Mat::new(&state.values, dv),
                out,
                dv,
                false,
            );
            project(weights, &state.total, &mut sums[..w]);
            for (row, sum) in out.chunks_exact_mut(dv).zip(&sums) {
                divide(row, *sum);
            }
        }
    }

    /// Head `b` token by token: each key enters the state before its query reads it, so a later key changes nothing.
    fn causal(&self, b: usize, out: &mut [T]) {
        let head = self.heads.head(b);
        let (d, dv, f) = (head.d, head.dv, self.width());
        let directions = self.directions();
        let mut state = self.empty();
        if !matches!(self.features, Features::Favor { .. }) {
            state.top.fill(T::ZERO);
        }
        let mut weights = vec![T::ZERO; f];
        let mut half = [T::ZERO];
        for (i, row) in out.chunks_exact_mut(dv).enumerate() {
            let (q, k) = (&head.q[i * d..(i + 1) * d], &head.k[i * d..(i + 1) * d]);
            let v = Mat::new(&head.v[i * dv..(i + 1) * dv], dv);
            if let Features::Favor { .. } = self.features {
                matmul(
                    1,
                    d,
                    f,
                    Mat::new(k, d),
                    Mat::new(&directions, f),
                    &mut weights,
                    f,
                    false,
                );
                half_squares(k, d, head.scale, &mut half);
                for (r, x) in weights.iter_mut().enumerate() {
                    *x = *x * head.scale - half[0];
                    let top = &mut state.top[r];
                    // A new largest key: what was summed before fades to it.
                    if *x > *top {
                        let fade = (*top - *x).exp();
                        state.total[r] *= fade;
                        scale_by(fade, &mut state.values[r * dv..(r + 1) * dv]);
                        *top = *x;
                    }
                    *x -= *top;
                }
                exp_minus(&mut weights, T::ZERO);
            } else {
                self.look(k, &directions, &state, &mut weights);
            }
            for (total, x) in state.total.iter_mut().zip(&weights) {
                *total += *x;
            }
            matmul(f, 1, dv, Mat::new(&weights, 1), v, &mut state.values, dv, true);
            self.look(q, &directions, &state, &mut weights);
            matmul(
                1,
                f,
                dv,
                Mat::new(&weights, f),
                Mat::new(&state.values, dv),
                row,
                dv,
                false,
            );
            divide(row, inner(&weights, &state.total));
        }
    }
}

/// ‖scale·k‖²/2 of each row of `k`.
pub(super) fn half_squares<T: Real>(k: &[T], d: usize, scale: T, out: &mut [T]) {
    let factor = T::of(0.5) * scale * scale;
    for (x, k) in out.iter_mut().zip(k.chunks_exact(d.max(1))) {
        *x = factor * inner(k, k);
    }
}

/// row / by, zero where `by` is.
fn divide<T: Real>(row: &mut [T], by: T) {
    if by == T::ZERO {
        row.fill(T::ZERO);
    } else {
        scale_by(T::ONE / by, row);
    }
}

#[cfg(test)]
#[path = "linear_tests.rs"]
mod tests;
