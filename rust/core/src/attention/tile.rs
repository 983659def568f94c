//! Exact softmax attention by tiles: one query tile against one key tile at a time, with running maximum and sum.
//!
//! FlashAttention-2 (Dao 2023, algorithm 1) with the online softmax of Milakov & Gimelshein (2018). Memory beyond the
//! result is O(tile), whatever the number of keys.

use crate::kernels::Aligned;
use crate::kernels::real::{Mat, Real, absorb, exp_minus, inner, matmul, project, scale_by, transpose};
use std::ops::Range;

/// Which keys a query sees, and what is added to its logits.
pub trait Rule<T>: Sync {
    /// Appends the stretches of keys that some of the queries `queries` may see, in ascending order, without overlap.
    fn spans(&self, queries: &[usize], spans: &mut Vec<Span>);

    /// Adds to the logits of query `i` for the keys `first..first + logits.len()`; −∞ where it may not see them. Called only
    /// for spans with [`Span::masked`].
    fn apply(&self, i: usize, first: usize, logits: &mut [T]);
}

/// A stretch of keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First key.
    pub start: usize,
    /// One beyond the last key.
    pub end: usize,
    /// [`Rule::apply`] has something to say here.
    pub masked: bool,
}

/// One head: queries `q` (n, d), keys `k` (m, d), values `v` (m, dv), row-major.
#[derive(Clone, Copy, Debug)]
pub struct Head<'a, T> {
    /// Queries.
    pub q: &'a [T],
    /// Keys.
    pub k: &'a [T],
    /// Values.
    pub v: &'a [T],
    /// Length of queries and keys.
    pub d: usize,
    /// Length of values.
    pub dv: usize,
    /// Factor of the inner products.
    pub scale: T,
}

impl<T: Real> Head<'_, T> {
    /// Number of keys.
    #[must_use]
    pub fn m(&self) -> usize {
        let by_width = |x: &[T], width: usize| x.len().checked_div(width);
        by_width(self.k, self.d)
            .or_else(|| by_width(self.v, self.dv))
            .unwrap_or(0)
    }
}

/// Queries per tile.
pub const BLOCK_Q: usize = 64;
/// Keys per tile.
pub const BLOCK_K: usize = 256;
/// Rows whose logits are made and used while they sit in the first cache level; a multiple of the product's row blocks.
const STRIP: usize = 48;
/// Columns of one packed panel of keys; a multiple of every register length.
pub(super) const PANEL: usize = 64;
/// With fewer queries packing the keys costs more than it saves.
pub(super) const FEW: usize = 4;

/// Keys transposed in panels of 64 columns: the right operand of QKᵀ.
#[derive(Clone, Debug, Default)]
pub struct Packed<T> {
    data: Aligned<T>,
    d: usize,
}

impl<T: Real> Packed<T> {
    /// Packs `k` (m, d).
    #[must_use]
    pub fn new(k: &[T], d: usize, m: usize) -> Self {
        let mut data = Aligned::zeros(m.next_multiple_of(PANEL) * d);
        if d > 0 {
            let panels = data.chunks_exact_mut(PANEL * d);
            for (panel, keys) in panels.zip(k.chunks(PANEL * d)) {
                transpose(keys.len() / d, d, Mat::new(keys, d), panel, PANEL);
            }
        }
        Self { data, d }
    }

    /// out (n, `end - start`) = q (n, d) times the keys `start..end`; rows of out are `ldc` apart.
    pub(super) fn products(
        &self,
        q: Mat<'_, T>,
        n: usize,
        start: usize,
        end: usize,
        out: &mut [T],
        ldc: usize,
    ) {
        let mut at = start;
        while at < end {
            let (panel, first) = (at / PANEL, at % PANEL);
            let width = (PANEL - first).min(end - at);
            let keys = &self.data[panel * PANEL * self.d..];
            let keys = if self.d == 0 { keys } else { &keys[first..] };
            matmul(
                n,
                self.d,
                width,
                q,
                Mat::new(keys, PANEL),
                &mut out[at - start..],
                ldc,
                false,
            );
            at += width;
        }
    }
}

/// Buffers of one thread.
#[derive(Debug, Default)]
pub struct Scratch<T> {
    q: Vec<T>,
    logits: Aligned<T>,
    second: Aligned<T>,
    top: Vec<T>,
    sum: Vec<T>,
    spans: Vec<Span>,
    turned: Aligned<T>,
}

impl<T: Real> Scratch<T> {
    /// Two tiles of `len` values.
    pub(super) fn pair(&mut self, len: usize) -> [&mut [T]; 2] {
        self.logits.grow(len);
        self.second.grow(len);
        [&mut self.logits[..len], &mut self.second[..len]]
    }

    /// The two tiles (n, w) of [`Scratch::pair`], transposed.
    pub(super) fn transposed(&mut self, n: usize, w: usize) -> (&[T], &[T]) {
        self.turned.grow(2 * n * w);
        let (p, ds) = self.turned[..2 * n * w].split_at_mut(n * w);
        for (from, to) in [(&self.logits, &mut *p), (&self.second, &mut *ds)] {
            transpose(n, w, Mat::new(from, w), to, n);
        }
        (p, ds)
    }
}

/// Sizes of a tile.
#[derive(Clone, Copy, Debug)]
pub struct Blocks {
    /// Queries.
    pub q: usize,
    /// Keys.
    pub k: usize,
}

impl Default for Blocks {
    fn default() -> Self {
        Self {
            q: BLOCK_Q,
            k: BLOCK_K,
        }
    }
}

/// Attention of the queries `queries` (row numbers of the head). `out` (`queries.len()`, dv) and `lse`, the natural logarithm of
/// the sum of exponentials, get one row per query. A query without keys gets zeros and −∞.
#[allow(clippy::too_many_arguments, reason = "operands, rule, results, buffers")]
pub fn attend<T: Real, R: Rule<T> + ?Sized>(
    head: &Head<'_, T>,
    keys: Option<&Packed<T>>,
    rule: &R,
    blocks: Blocks,
    queries: &[usize],
    out: &mut [T],
    mut lse: Option<&mut [T]>,
    s: &mut Scratch<T>,
) {
    let dv = head.dv;
    let mut done = 0;
    while done < queries.len() {
        let part = &queries[done..(done + blocks.q).min(queries.len())];
        let rows = &mut out[done * dv..(done + part.len()) * dv];
        tile(head, keys, rule, blocks.k, part, rows, s);
        if let Some(lse) = lse.as_deref_mut() {
            for (l, (top, sum)) in lse[done..].iter_mut().zip(s.top.iter().zip(&s.sum)) {
                *l = if *sum == T::ZERO {
                    T::NEG_INFINITY
                } else {
                    *top + sum.ln()
                };
            }
        }
        done += part.len();
    }
}

/// Whether `n` queries are enough that packed keys pay.
#[must_use]
pub fn packs(n: usize) -> bool {
    n > FEW
}

/// One tile of queries against all their keys. `out` is the running sum of weighted values, divided at the end.
fn tile<T: Real, R: Rule<T> + ?Sized>(
    head: &Head<'_, T>,
    keys: Option<&Packed<T>>,
    rule: &R,
    block: usize,
    queries: &[usize],
    out: &mut [T],
    s: &mut Scratch<T>,
) {
    let (n, d, dv) = (queries.len(), head.d, head.dv);
    s.q.clear();
    for &i in queries {
        s.q.extend_from_slice(&head.q[i * d..(i + 1) * d]);
    }
    scale_by(head.scale, &mut s.q);
    s.spans.clear();
    rule.spans(queries, &mut s.spans);
    let spans = std::mem::take(&mut s.spans);
    let longest = spans
        .iter()
        .map(|x| x.end - x.start)
        .max()
        .unwrap_or(0)
        .min(block);
    let room = STRIP.min(n) * longest;
    s.logits.grow(room);
    out.fill(T::ZERO);
    s.top.clear();
    s.top.resize(n, T::NEG_INFINITY);
    s.sum.clear();
    s.sum.resize(n, T::ZERO);
    let blocks = || {
        spans.iter().flat_map(|span| {
            let ends = move |start: usize| (start..(start + block).min(span.end), span.masked);
            (span.start..span.end).step_by(block).map(ends)
        })
    };
    for (keys_of, masked) in blocks() {
        for first in (0..n).step_by(STRIP) {
            let rows = first..(first + STRIP).min(n);
            strip(
                head,
                keys,
                rule,
                queries,
                rows,
                keys_of.clone(),
                masked,
                false,
                out,
                s,
            );
        }
    }
    // A weight that a mask set to zero must not meet NaN or ∞ among the values: rows where one shows are done again.
    if spans.iter().any(|x| x.masked) && !finite(out) {
        for r in 0..n {
            if finite(&out[r * dv..(r + 1) * dv]) {
                continue;
            }
            out[r * dv..(r + 1) * dv].fill(T::ZERO);
            (s.top[r], s.sum[r]) = (T::NEG_INFINITY, T::ZERO);
            for (keys_of, masked) in blocks() {
                strip(head, keys, rule, queries, r..r + 1, keys_of, masked, true, out, s);
            }
        }
    }
    s.spans = spans;
    if dv > 0 {
        for (row, sum) in out.chunks_exact_mut(dv).zip(&s.sum) {
            if *sum == T::ZERO {
                row.fill(T::ZERO);
            } else {
                scale_by(T::ONE / *sum, row);
            }
        }
    }
}

/// Some rows of a tile against one block of keys: logits, running maximum and sum, weighted values.
#[allow(clippy::too_many_arguments, reason = "operands, ranges, results, buffers")]
fn strip<T: Real, R: Rule<T> + ?Sized>(
    head: &Head<'_, T>,
    keys: Option<&Packed<T>>,
    rule: &R,
    queries: &[usize],
    rows: Range<usize>,
    keys_of: Range<usize>,
    masked: bool,
    careful: bool,
    out: &mut [T],
    s: &mut Scratch<T>,
) {
    let (n, w, d, dv) = (rows.len(), keys_of.len(), head.d, head.dv);
    let (start, end) = (keys_of.start, keys_of.end);
    let q = &s.q[rows.start * d..rows.end * d];
    let logits = &mut s.logits[..n * w];
    match keys {
        Some(keys) => keys.products(Mat::new(q, d), n, start, end, logits, w),
        None => {
            for (r, line) in logits.chunks_exact_mut(w).enumerate() {
                project(&head.k[start * d..end * d], &q[r * d..(r + 1) * d], line);
            }
        }
    }
    let v = &head.v[start * dv..end * dv];
    let out = &mut out[rows.start * dv..rows.end * dv];
    if masked {
        for (line, i) in logits.chunks_exact_mut(w).zip(&queries[rows.clone()]) {
            rule.apply(*i, start, line);
        }
    }
    let (top, sum) = (&mut s.top[rows.clone()], &mut s.sum[rows]);
    let clean;
    let v = if careful {
        clean = seen(logits, v, dv);
        &clean
    } else {
        v
    };
    absorb(logits, top, sum, out);
    matmul(n, w, dv, Mat::new(logits, w), Mat::new(v, dv), out, dv, true);
}

/// No value is NaN or infinite. Without an early exit: that is what vectorises.
pub(super) fn finite<T: Real>(x: &[T]) -> bool {
    x.iter().fold(true, |fine, x| fine & x.is_finite())
}

/// The values of the keys that one query sees, zeros for the others: the same bits in sums, and no 0·NaN.
pub(super) fn seen<T: Real>(logits: &[T], v: &[T], dv: usize) -> Vec<T> {
    let mut out = v.to_vec();
    if dv > 0 {
        for (row, _) in out
            .chunks_exact_mut(dv)
            .zip(logits)
            .filter(|(_, x)| **x == T::NEG_INFINITY)
        {
            row.fill(T::ZERO);
        }
    }
    out
}

/// softmax weights of the queries, (n, m), from their `lse`.
pub fn weights<T: Real, R: Rule<T> + ?Sized>(head: &Head<'_, T>, rule: &R, lse: &[T], out: &mut [T]) {
    let (m, d) = (head.m(), head.d);
    out.fill(T::ZERO);
    let mut spans = Vec::new();
    for (i, (row, lse)) in out.chunks_exact_mut(m.max(1)).zip(lse).enumerate() {
        spans.clear();
        rule.spans(&[i], &mut spans);
        for span in &spans {
            let line = &mut row[span.start..span.end];
            for (x, key) in line.iter_mut().zip(span.start..) {
                *x = inner(&head.q[i * d..(i + 1) * d], &head.k[key * d..(key + 1) * d]) * head.scale;
            }
            if span.masked {
                rule.apply(i, span.start, line);
            }
            if *lse == T::NEG_INFINITY {
                line.fill(T::ZERO);
            } else {
                exp_minus(line, *lse);
            }
        }
    }
}
