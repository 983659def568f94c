//! Attention that needs whole rows of weights at a time: the difference of two softmax maps.
//!
//! A few queries against all keys they may see: memory beyond the result is O(m), in time the same as by tiles.

use super::heads::Heads;
use super::tile::{Blocks, Head, Packed, Rule, Span, finite, seen};
use super::{threads, tile_split};
use crate::kernels::Aligned;
use crate::kernels::real::{Mat, Real, absorb, add_scaled, matmul, scale_by};
use crate::kernels::split;

/// Queries at a time; a multiple of the product's row blocks.
pub(super) const ROWS: usize = 24;
/// Queries per piece of work.
const CHUNK: usize = 96;

/// Buffers of one thread.
pub(super) struct Rows<T> {
    queries: Vec<usize>,
    q: Vec<T>,
    pub spans: Vec<Span>,
    pub logits: [Aligned<T>; 2],
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
    pub fn take<R: Rule<T>>(&mut self, rule: &R, first: usize, n: usize) -> usize {
        self.queries.clear();
        self.queries.extend(first..first + n);
        self.spans.clear();
        rule.spans(&self.queries, &mut self.spans);
        self.spans.last().map_or(0, |s| s.end)
    }

    /// Logits of the queries for the first `w` keys: scaled products, through `shape` row by row, under the rule.
    pub fn logits<R: Rule<T>>(
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
    pub fn weigh(&mut self, which: usize, w: usize) {
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
pub(super) fn spoilt<T: Real>(out: &[T], dv: usize) -> Vec<usize> {
    let rows = out.chunks_exact(dv).enumerate();
    rows.filter(|(_, row)| !finite(row)).map(|(r, _)| r).collect()
}

/// Calls `work(head, first query, its rows of the result, buffers)` for pieces of all heads.
pub(super) fn share<T: Real>(
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
pub(super) fn packed<T: Real>(heads: &Heads<'_, T>) -> Vec<Packed<T>> {
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
