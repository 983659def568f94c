//! Gradients of tiled attention: weights are computed again from the saved log-sum-exp, tile by tile.
//!
//! FlashAttention-2 (Dao 2023, algorithm 2): with P the weights, D = rowsum(dO ∘ O) and dS = P ∘ (dO·Vᵀ − D):
//! dV = Pᵀ·dO, dQ = scale·dS·K, dK = scale·dSᵀ·Q, and dS is the gradient of what a float mask adds.

use super::tile::{BLOCK_K, Head, Packed, Rule, Scratch};
use crate::kernels::real::{Mat, Real, exp_minus, inner, matmul, scale_by};

/// Gradients of one head.
#[derive(Clone, Debug, Default)]
pub struct Gradients<T> {
    /// (n, d)
    pub q: Vec<T>,
    /// (m, d)
    pub k: Vec<T>,
    /// (m, dv)
    pub v: Vec<T>,
    /// Like the float mask; empty without.
    pub mask: Vec<T>,
    strides: [usize; 2],
}

impl<T: Real> Gradients<T> {
    /// Zeros of these lengths.
    pub fn reset(&mut self, q: usize, k: usize, v: usize, mask: usize, strides: [usize; 2]) {
        for (data, len) in [
            (&mut self.q, q),
            (&mut self.k, k),
            (&mut self.v, v),
            (&mut self.mask, mask),
        ] {
            data.clear();
            data.resize(len, T::ZERO);
        }
        self.strides = strides;
    }
}

/// Adds the gradients of one head to `g`. Queries are taken `chunk` at a time, and no tile reaches across a cut.
#[allow(clippy::too_many_arguments, reason = "operands, results, gradients")]
pub fn attend_vjp<T: Real, R: Rule<T> + ?Sized>(
    head: &Head<'_, T>,
    rule: &R,
    chunk: usize,
    out: &[T],
    lse: &[T],
    dout: &[T],
    g: &mut Gradients<T>,
    s: &mut Scratch<T>,
) {
    let (d, dv) = (head.d, head.dv);
    let keys = Packed::new(head.k, d, head.m());
    let values = Packed::new(head.v, dv, head.m());
    let mut queries = Vec::new();
    for first in (0..lse.len()).step_by(chunk) {
        queries.clear();
        queries.extend(first..(first + chunk).min(lse.len()));
        let n = queries.len();
        let (dout, out) = (&dout[first * dv..][..n * dv], &out[first * dv..][..n * dv]);
        let delta: Vec<T> = dout
            .chunks_exact(dv.max(1))
            .zip(out.chunks_exact(dv.max(1)))
            .map(|(a, b)| inner(a, b))
            .collect();
        let q = &head.q[first * d..][..n * d];
        let mut spans = Vec::new();
        rule.spans(&queries, &mut spans);
        for span in &spans {
            for start in (span.start..span.end).step_by(BLOCK_K) {
                let end = (start + BLOCK_K).min(span.end);
                let w = end - start;
                let [p, ds] = s.pair(n * w);
                keys.products(Mat::new(q, d), n, start, end, p, w);
                values.products(Mat::new(dout, dv), n, start, end, ds, w);
                for r in 0..n {
                    let (p, ds) = (&mut p[r * w..(r + 1) * w], &mut ds[r * w..(r + 1) * w]);
                    scale_by(head.scale, p);
                    if span.masked {
                        rule.apply(queries[r], start, p);
                    }
                    let lse = lse[first + r];
                    if lse == T::NEG_INFINITY {
                        p.fill(T::ZERO);
                        ds.fill(T::ZERO);
                        continue;
                    }
                    exp_minus(p, lse);
                    let delta = delta.get(r).copied().unwrap_or(T::ZERO);
                    for (s, p) in ds.iter_mut().zip(&*p) {
                        *s = *p * (*s - delta);
                    }
                    if !g.mask.is_empty() {
                        let [row, column] = g.strides;
                        for (s, j) in ds.iter().zip(start..) {
                            g.mask[queries[r] * row + j * column] += *s;
                        }
                    }
                    scale_by(head.scale, ds);
                }
                let k = &head.k[start * d..end * d];
                matmul(
                    n,
                    w,
                    d,
                    Mat::new(ds, w),
                    Mat::new(k, d),
                    &mut g.q[first * d..][..n * d],
                    d,
                    true,
                );
                let (p, ds) = s.transposed(n, w);
                matmul(
                    w,
                    n,
                    d,
                    Mat::new(ds, n),
                    Mat::new(q, d),
                    &mut g.k[start * d..end * d],
                    d,
                    true,
                );
                matmul(
                    w,
                    n,
                    dv,
                    Mat::new(p, n),
                    Mat::new(dout, dv),
                    &mut g.v[start * dv..end * dv],
                    dv,
                    true,
                );
            }
        }
    }
}
