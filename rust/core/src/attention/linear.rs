//! Attention in linear time through feature maps (Katharopoulos et al. 2020), with the positive random features of FAVOR+
//! (Choromanski et al. 2021).
//!
//! All keys are condensed to one value per feature. With FAVOR+ that is itself softmax attention, each direction a query with
//! logits Ω·k − ‖k‖²/2: its running maximum makes every feature relative to its largest key, so nothing overflows and no
//! denominator vanishes. A query then attends the features, with what they are relative to added to its logits.

use super::heads::Heads;
use super::threads;
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
                    for (line, total) in turned.chunks_exact(w).zip(&mut state.total) {
                        *total += line.iter().copied().sum::<T>();
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
fn half_squares<T: Real>(k: &[T], d: usize, scale: T, out: &mut [T]) {
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
mod tests {
    use super::*;

    fn values(len: usize, seed: u64) -> Vec<f64> {
        let mut x = seed;
        (0..len)
            .map(|_| {
                x = x
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (x >> 33) as f64 / (1u64 << 30) as f64 - 1.0
            })
            .collect()
    }

    /// Quadratic form: weights Σ_r φ_r(q)·φ_r(k), normalised.
    fn plain(
        n: usize,
        d: usize,
        dv: usize,
        x: [&[f64]; 3],
        phi: impl Fn(&[f64]) -> Vec<f64>,
        causal: bool,
    ) -> Vec<f64> {
        let [q, k, v] = x;
        let mut out = vec![0.0; n * dv];
        for i in 0..n {
            let fq = phi(&q[i * d..(i + 1) * d]);
            let mut sum = 0.0;
            for j in 0..if causal { i + 1 } else { n } {
                let fk = phi(&k[j * d..(j + 1) * d]);
                let w: f64 = fq.iter().zip(&fk).map(|(a, b)| a * b).sum();
                sum += w;
                for c in 0..dv {
                    out[i * dv + c] += w * v[j * dv + c];
                }
            }
            out[i * dv..(i + 1) * dv].iter_mut().for_each(|x| *x /= sum);
        }
        out
    }

    #[test]
    fn agrees_with_the_quadratic_form() {
        let (d, dv, f, scale) = (5, 3, 11, 0.7);
        let omega = values(f * d, 4);
        for n in [1, 2, 63, 64, 65, 130] {
            let (q, k, v) = (values(n * d, 1), values(n * d, 2), values(n * dv, 3));
            let heads = Heads {
                q: &q[..],
                k: &k,
                v: &v,
                n,
                m: n,
                d,
                dv,
                scale,
                q_of: &[0],
                k_of: &[0],
                v_of: &[0],
            };
            let favor = |x: &[f64]| -> Vec<f64> {
                let half: f64 = x.iter().map(|x| 0.5 * (scale * x).powi(2)).sum();
                let direction = |w: &[f64]| w.iter().zip(x).map(|(a, b)| a * b * scale).sum::<f64>();
                omega.chunks(d).map(|w| (direction(w) - half).exp()).collect()
            };
            let elu = |x: &[f64]| -> Vec<f64> {
                x.iter()
                    .map(|x| {
                        if *x > 0.0 {
                            scale * x + 1.0
                        } else {
                            (scale * x).exp()
                        }
                    })
                    .collect()
            };
            let relu = |x: &[f64]| -> Vec<f64> { x.iter().map(|x| (scale * x).max(0.0) + 0.1).collect() };
            for causal in [false, true] {
                let x = [&q[..], &k, &v];
                for (features, want) in [
                    (
                        Features::Favor {
                            omega: &omega,
                            eps: 0.0,
                        },
                        plain(n, d, dv, x, favor, causal),
                    ),
                    (Features::Elu, plain(n, d, dv, x, elu, causal)),
                    (Features::Relu { eps: 0.1 }, plain(n, d, dv, x, relu, causal)),
                ] {
                    let mut out = vec![0.0; n * dv];
                    let call = Linear {
                        heads,
                        features,
                        causal,
                    };
                    call.run(&mut out);
                    for (a, b) in out.iter().zip(&want) {
                        assert!(
                            (a - b).abs() < 1e-12,
                            "{features:?} n {n} causal {causal}: {a} against {b}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn keys_of_any_size_neither_overflow_nor_vanish() {
        let k = [400.0f32, -400.0, 3.0, 4.0];
        let (q, v, omega) = ([300.0f32, -300.0], [1.0f32, 2.0], [1.0f32, -1.0, 0.5, 0.5]);
        let heads = Heads {
            q: &q[..],
            k: &k,
            v: &v,
            n: 1,
            m: 2,
            d: 2,
            dv: 1,
            scale: 1.0,
            q_of: &[0],
            k_of: &[0],
            v_of: &[0],
        };
        let features = Features::Favor {
            omega: &omega,
            eps: 0.0,
        };
        let mut out = [0.0];
        let call = Linear {
            heads,
            features,
            causal: false,
        };
        call.run(&mut out);
        assert!((1.0..=2.0).contains(&out[0]), "{}", out[0]);
    }
}
