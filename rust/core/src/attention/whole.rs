//! Attention that needs whole rows of weights at a time: the difference of two softmax maps, and distances in the ball.
//!
//! A few queries against all keys they may see: memory beyond the result is O(m), in time the same as by tiles.

use super::heads::Heads;
use super::tile::{Blocks, Head, Packed, Rule, Span, finite, seen};
use super::{threads, tile_split};
use crate::kernels::Aligned;
use crate::kernels::real::{
    Mat, Real, absorb, add_scaled, ball_distances, inner, matmul, project, scale_by, squared_distances,
};
use crate::kernels::split;

/// Queries at a time; a multiple of the product's row blocks.
const ROWS: usize = 24;
/// Queries per piece of work.
const CHUNK: usize = 96;

/// Buffers of one thread.
struct Rows<T> {
    queries: Vec<usize>,
    q: Vec<T>,
    spans: Vec<Span>,
    logits: [Aligned<T>; 2],
    top: Vec<T>,
    sum: [Vec<T>; 2],
}

impl<T: Real> Rows<T> {
    fn new() -> Self {
        Self {
            queries: Vec::new(),
            q: Vec::new(),
            spans: Vec::new(),
            logits: Default::default(),
            top: Vec::new(),
            sum: [Vec::new(), Vec::new()],
        }
    }

    /// Takes the queries `first..first + n`; returns one beyond the last key that any of them may see.
    fn take<R: Rule<T>>(&mut self, rule: &R, first: usize, n: usize) -> usize {
        self.queries.clear();
        self.queries.extend(first..first + n);
        self.spans.clear();
        rule.spans(&self.queries, &mut self.spans);
        self.spans.last().map_or(0, |s| s.end)
    }

    /// Logits of the queries for the first `w` keys: scaled products, through `shape` row by row, under the rule.
    fn logits<R: Rule<T>>(
        &mut self,
        which: usize,
        head: &Head<'_, T>,
        keys: &Packed<T>,
        rule: &R,
        w: usize,
        shape: impl Fn(usize, &mut [T]),
    ) {
        let (n, d, first) = (self.queries.len(), head.d, self.queries[0]);
        self.q.clear();
        self.q.extend_from_slice(&head.q[first * d..(first + n) * d]);
        scale_by(head.scale, &mut self.q);
        let logits = &mut self.logits[which];
        logits.grow(n * w);
        let logits = &mut logits[..n * w];
        keys.products(Mat::new(&self.q, d), n, 0, w, logits, w);
        for (line, i) in logits.chunks_exact_mut(w.max(1)).zip(&self.queries) {
            shape(*i, line);
            for span in self.spans.iter().filter(|s| s.masked) {
                rule.apply(*i, span.start, &mut line[span.start..span.end]);
            }
        }
    }

    /// Turns the logits into weights relative to the largest of each row; their sums are kept.
    fn weigh(&mut self, which: usize, w: usize) {
        let n = self.queries.len();
        self.top.clear();
        self.top.resize(n, T::NEG_INFINITY);
        self.sum[which].clear();
        self.sum[which].resize(n, T::ZERO);
        absorb(
            &mut self.logits[which][..n * w],
            &mut self.top,
            &mut self.sum[which],
            &mut [],
        );
    }
}

/// Rows that are not finite.
fn spoilt<T: Real>(out: &[T], dv: usize) -> Vec<usize> {
    let rows = out.chunks_exact(dv).enumerate();
    rows.filter(|(_, row)| !finite(row)).map(|(r, _)| r).collect()
}

/// Calls `work(head, first query, its rows of the result, buffers)` for pieces of all heads.
fn share<T: Real>(
    heads: &Heads<'_, T>,
    cost: usize,
    rows: usize,
    out: &mut [T],
    work: impl Fn(usize, usize, &mut [T], &mut Rows<T>) + Sync,
) {
    let (n, dv) = (heads.n, heads.dv);
    if n == 0 || dv == 0 || heads.is_empty() {
        return;
    }
    let mut pieces = Vec::with_capacity(heads.len() * n.div_ceil(CHUNK));
    for (b, out) in out.chunks_exact_mut(n * dv).enumerate() {
        for (i, out) in out.chunks_mut(CHUNK * dv).enumerate() {
            pieces.push((b, i * CHUNK, out));
        }
    }
    threads::share(
        threads::worth(pieces.len(), cost),
        pieces,
        Rows::new,
        |(b, first, out): (usize, usize, &mut [T]), buffers| {
            for (i, out) in out.chunks_mut(rows * dv).enumerate() {
                work(b, first + i * rows, out, buffers);
            }
        },
    );
}

/// Keys of every stored array, packed.
fn packed<T: Real>(heads: &Heads<'_, T>) -> Vec<Packed<T>> {
    let len = heads.m * heads.d;
    let stored = heads.k_of.iter().max().map_or(0, |top| top + 1);
    (0..stored)
        .map(|i| Packed::new(&heads.k[i * len..(i + 1) * len], heads.d, heads.m))
        .collect()
}

/// (softmax of the first heads − `lam[b]`·softmax of the second)·V: one product with the values for both (Ye et al. 2024). The two
/// share sizes, values and order.
pub fn differential<T: Real, R: Rule<T>>(
    first: &Heads<'_, T>,
    second: &Heads<'_, T>,
    lam: &[T],
    rule: impl Fn(usize) -> R + Sync,
    out: &mut [T],
) {
    let (n, dv) = (first.n, first.dv);
    if split::available::<T>() && tile_split::pays(n, first.d, dv) {
        // There the softmax costs more than the products: two passes by tiles beat one product with the values.
        let mut other = vec![T::ZERO; out.len()];
        let blocks = Blocks::default();
        for (heads, out) in [(first, &mut *out), (second, &mut other[..])] {
            heads.attend(&rule, blocks, 4 * blocks.q, heads.cost(), out, None);
        }
        for (b, (out, other)) in out.chunks_mut(n * dv).zip(other.chunks(n * dv)).enumerate() {
            add_scaled(-lam[b], other, out);
        }
        return;
    }
    let keys = [packed(first), packed(second)];
    share(first, 2 * first.cost(), ROWS, out, |b, at, out, rows| {
        let rule = rule(b);
        let heads = [first.head(b), second.head(b)];
        let (n, v) = (out.len() / dv, heads[0].v);
        let w = rows.take(&rule, at, n);
        let combine = |rows: &mut Rows<T>| {
            let over = |x: T, sum: T| if sum == T::ZERO { T::ZERO } else { x / sum };
            let [p, other] = &mut rows.logits;
            for r in 0..n {
                let line = &mut p[r * w..(r + 1) * w];
                scale_by(over(T::ONE, rows.sum[0][r]), line);
                add_scaled(-over(lam[b], rows.sum[1][r]), &other[r * w..(r + 1) * w], line);
            }
        };
        let look = |rows: &mut Rows<T>, which: usize| {
            rows.logits(
                which,
                &heads[which],
                &keys[which][first.k_of[b]],
                &rule,
                w,
                |_, _| (),
            );
        };
        for which in 0..2 {
            look(rows, which);
            rows.weigh(which, w);
        }
        combine(rows);
        matmul(
            n,
            w,
            dv,
            Mat::new(&rows.logits[0], w),
            Mat::new(v, dv),
            out,
            dv,
            false,
        );
        if rows.spans.iter().all(|s| !s.masked) || finite(out) {
            return;
        }
        // A key that the mask hides must not meet NaN or ∞ among the values.
        look(rows, 0);
        look(rows, 1);
        let v = |r: &usize| seen(&rows.logits[0][r * w..(r + 1) * w], &v[..w * dv], dv);
        let again: Vec<(usize, Vec<T>)> = spoilt(out, dv).into_iter().map(|r| (r, v(&r))).collect();
        rows.weigh(0, w);
        rows.weigh(1, w);
        combine(rows);
        for (r, v) in again {
            let (p, row) = (
                &rows.logits[0][r * w..(r + 1) * w],
                &mut out[r * dv..(r + 1) * dv],
            );
            matmul(1, w, dv, Mat::new(p, w), Mat::new(&v, dv), row, dv, false);
        }
    });
}

/// The Poincaré ball of curvature −c.
#[derive(Clone, Copy, Debug)]
pub struct Ball<T> {
    /// Minus the curvature.
    pub c: T,
    /// Factor of the distances.
    pub beta: T,
    /// Largest norm; points beyond it are moved there.
    pub limit: T,
    /// Distances whose square is below this part of the squared norms are computed from the difference.
    pub near: T,
}

impl<T: Real> Ball<T> {
    fn inside(&self, x: &[T], d: usize) -> Vec<T> {
        let mut out = x.to_vec();
        for row in out.chunks_exact_mut(d.max(1)) {
            let norm = inner(row, row).sqrt();
            if norm > self.limit {
                scale_by(self.limit / norm, row);
            }
        }
        out
    }

    /// Attention with logits −β·distance, values by the Möbius gyromidpoint ½ ⊗ (Σ w λ v / Σ w (λ − 1)), λ = 2/(1 − c‖v‖²). The
    /// scale of the heads is not used.
    pub fn attend<R: Rule<T>>(&self, heads: &Heads<'_, T>, rule: impl Fn(usize) -> R + Sync, out: &mut [T]) {
        let (d, dv, m) = (heads.d, heads.dv, heads.m);
        let [q, k, v] = [(heads.q, d), (heads.k, d), (heads.v, dv)].map(|(x, width)| self.inside(x, width));
        let squares =
            |x: &[T], width: usize| -> Vec<T> { x.chunks_exact(width.max(1)).map(|x| inner(x, x)).collect() };
        let (qq, kk) = (squares(&q, d), squares(&k, d));
        let two = T::ONE + T::ONE;
        let room = |x: &T| T::ONE / (T::ONE - self.c * *x);
        let rk: Vec<T> = kk.iter().map(room).collect();
        let lambda: Vec<T> = squares(&v, dv).iter().map(|x| two * room(x)).collect();
        let mut weighted = v;
        for (row, lambda) in weighted.chunks_exact_mut(dv.max(1)).zip(&lambda) {
            scale_by(*lambda, row);
        }
        let excess: Vec<T> = lambda.iter().map(|x| *x - T::ONE).collect();
        let inside = Heads {
            q: &q,
            k: &k,
            v: &weighted,
            scale: -two,
            ..*heads
        };
        let keys = packed(&inside);
        let power = self.beta / self.c.sqrt();
        share(&inside, 2 * heads.cost(), ROWS, out, |b, at, out, rows| {
            let (rule, head) = (rule(b), inside.head(b));
            let n = out.len() / dv;
            let w = rows.take(&rule, at, n);
            let stored = inside.k_of[b];
            let (kk, rk) = (&kk[stored * m..][..w], &rk[stored * m..][..w]);
            let qq = &qq[inside.q_of[b] * heads.n..];
            let excess = &excess[inside.v_of[b] * m..][..w];
            let shape = |i: usize, line: &mut [T]| {
                let q = &head.q[i * d..(i + 1) * d];
                let factor = two * self.c * room(&qq[i]);
                for (part, x) in line.chunks_mut(64).enumerate() {
                    let kk = &kk[part * 64..][..x.len()];
                    if !squared_distances(x, kk, qq[i], self.near) {
                        continue;
                    }
                    for (j, x) in x.iter_mut().enumerate() {
                        if *x < self.near * (qq[i] + kk[j]) {
                            let k = &head.k[(part * 64 + j) * d..][..d];
                            *x = q.iter().zip(k).map(|(a, b)| (*a - *b) * (*a - *b)).sum();
                        }
                    }
                }
                ball_distances(line, rk, factor, power);
            };
            rows.logits(0, &head, &keys[stored], &rule, w, shape);
            let masked = rows.spans.iter().any(|s| s.masked);
            rows.weigh(0, w);
            let p = &rows.logits[0][..n * w];
            matmul(n, w, dv, Mat::new(p, w), Mat::new(head.v, dv), out, dv, false);
            let mut sums = [T::ZERO; ROWS];
            project(p, excess, &mut sums[..n]);
            if masked && !finite(out) {
                rows.logits(0, &head, &keys[stored], &rule, w, shape);
                let clean = |r: usize| {
                    let logits = &rows.logits[0][r * w..(r + 1) * w];
                    (r, seen(logits, &head.v[..w * dv], dv), seen(logits, excess, 1))
                };
                let again: Vec<_> = spoilt(out, dv).into_iter().map(clean).collect();
                rows.weigh(0, w);
                for (r, v, excess) in again {
                    let (p, row) = (
                        &rows.logits[0][r * w..(r + 1) * w],
                        &mut out[r * dv..(r + 1) * dv],
                    );
                    matmul(1, w, dv, Mat::new(p, w), Mat::new(&v, dv), row, dv, false);
                    sums[r] = inner(p, &excess);
                }
            }
            for (row, sum) in out.chunks_exact_mut(dv).zip(&sums) {
                if *sum == T::ZERO {
                    row.fill(T::ZERO);
                    continue;
                }
                scale_by(T::ONE / *sum, row);
                let left = T::ONE - self.c * inner(row, row);
                // NaN stays.
                let root = if left < T::ZERO { T::ZERO } else { left }.sqrt();
                scale_by(T::ONE / (T::ONE + root), row);
            }
        });
    }
}
