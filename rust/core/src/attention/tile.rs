//! Exact softmax attention by tiles: one query tile against one key tile at a time, with running maximum and sum.
//!
//! FlashAttention-2 (Dao 2023, algorithm 1) with the online softmax of Milakov & Gimelshein (2018). Memory beyond the
//! result is O(tile), whatever the number of keys.

use crate::kernels::real::{Mat, Real, add_scaled, exp_minus, inner, largest, matmul, project, scale_by};

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
/// Columns of one packed panel of keys; a multiple of every register length.
const PANEL: usize = 64;
/// With fewer queries packing the keys costs more than it saves.
const FEW: usize = 4;

/// Keys transposed in panels of 64 columns: the right operand of QKᵀ.
#[derive(Clone, Debug, Default)]
pub struct Packed<T> {
    data: Vec<T>,
    d: usize,
}

impl<T: Real> Packed<T> {
    /// Packs `k` (m, d).
    #[must_use]
    pub fn new(k: &[T], d: usize, m: usize) -> Self {
        let mut data = vec![T::ZERO; m.next_multiple_of(PANEL) * d];
        for (panel, keys) in data
            .chunks_exact_mut((PANEL * d).max(1))
            .zip(k.chunks((PANEL * d).max(1)))
        {
            // Eight keys at a time: whole parts of a cache line are written together.
            for (group, keys) in keys.chunks(8 * d).enumerate() {
                let n = keys.len() / d;
                for c in 0..d {
                    let line = &mut panel[c * PANEL + group * 8..][..n];
                    for (j, x) in line.iter_mut().enumerate() {
                        *x = keys[j * d + c];
                    }
                }
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
            let (panel, offset) = (at / PANEL, at % PANEL);
            let width = (PANEL - offset).min(end - at);
            let keys = &self.data[panel * PANEL * self.d..(panel + 1) * PANEL * self.d];
            let keys = if self.d == 0 { keys } else { &keys[offset..] };
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
    acc: Vec<T>,
    logits: Vec<T>,
    top: Vec<T>,
    sum: Vec<T>,
    spans: Vec<Span>,
    turned: Vec<T>,
}

impl<T: Real> Scratch<T> {
    /// Two tiles of `len` values.
    pub(super) fn pair(&mut self, len: usize) -> [&mut [T]; 2] {
        self.logits.resize(len.max(self.logits.len()), T::ZERO);
        self.acc.resize(len.max(self.acc.len()), T::ZERO);
        [&mut self.logits[..len], &mut self.acc[..len]]
    }

    /// The two tiles (n, w) of [`Scratch::pair`], transposed.
    pub(super) fn transposed(&mut self, n: usize, w: usize) -> (&[T], &[T]) {
        self.turned.resize((2 * n * w).max(self.turned.len()), T::ZERO);
        let (p, ds) = self.turned[..2 * n * w].split_at_mut(n * w);
        for (from, to) in [(&self.logits, &mut *p), (&self.acc, &mut *ds)] {
            for (r, line) in from[..n * w].chunks_exact(w.max(1)).enumerate() {
                for (j, x) in line.iter().enumerate() {
                    to[j * n + r] = *x;
                }
            }
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
        s.q.extend(head.q[i * d..(i + 1) * d].iter().map(|x| *x * head.scale));
    }
    s.acc.clear();
    s.acc.resize(n * dv, T::ZERO);
    s.top.clear();
    s.top.resize(n, T::NEG_INFINITY);
    s.sum.clear();
    s.sum.resize(n, T::ZERO);
    s.logits.resize(n * block, T::ZERO);
    s.spans.clear();
    rule.spans(queries, &mut s.spans);
    for span in std::mem::take(&mut s.spans) {
        let mut start = span.start;
        while start < span.end {
            let end = (start + block).min(span.end);
            let w = end - start;
            let logits = &mut s.logits[..n * w];
            match keys {
                Some(keys) => keys.products(Mat::new(&s.q, d), n, start, end, logits, w),
                None => {
                    for (q, line) in s.q.chunks_exact(d.max(1)).zip(logits.chunks_exact_mut(w)) {
                        project(&head.k[start * d..end * d], q, line);
                    }
                }
            }
            let v = &head.v[start * dv..end * dv];
            let clean = !span.masked || v.iter().all(|x| x.is_finite());
            for (r, line) in logits.chunks_exact_mut(w).enumerate() {
                if span.masked {
                    rule.apply(queries[r], start, line);
                }
                let top = s.top[r].max(largest(line));
                // −∞ so far: any finite shift keeps e^{−∞} = 0. NaN stays in the logits.
                let shift = if top == T::NEG_INFINITY { T::ZERO } else { top };
                if !clean {
                    spread(
                        line,
                        v,
                        dv,
                        &mut s.acc[r * dv..(r + 1) * dv],
                        &mut s.sum[r],
                        s.top[r],
                        shift,
                    );
                    s.top[r] = top;
                    continue;
                }
                let fresh = exp_minus(line, shift);
                if s.sum[r] != T::ZERO && top != s.top[r] {
                    let fade = (s.top[r] - shift).exp();
                    s.sum[r] *= fade;
                    scale_by(fade, &mut s.acc[r * dv..(r + 1) * dv]);
                }
                s.sum[r] += fresh;
                s.top[r] = top;
            }
            if clean {
                matmul(
                    n,
                    w,
                    dv,
                    Mat::new(logits, w),
                    Mat::new(v, dv),
                    &mut s.acc,
                    dv,
                    true,
                );
            }
            start = end;
        }
    }
    for (r, row) in out.chunks_exact_mut(dv.max(1)).enumerate() {
        let sum = s.sum[r];
        if sum == T::ZERO {
            row.fill(T::ZERO);
        } else {
            row.copy_from_slice(&s.acc[r * dv..(r + 1) * dv]);
            scale_by(T::ONE / sum, row);
        }
    }
}

/// One row of the product with values that are not all finite: a weight that a mask set to zero must not meet them, for
/// 0·NaN is NaN.
fn spread<T: Real>(line: &mut [T], v: &[T], dv: usize, acc: &mut [T], sum: &mut T, before: T, shift: T) {
    if *sum != T::ZERO {
        let fade = (before - shift).exp();
        *sum *= fade;
        scale_by(fade, acc);
    }
    for (x, v) in line.iter().zip(v.chunks_exact(dv.max(1))) {
        if *x != T::NEG_INFINITY {
            let w = (*x - shift).exp();
            *sum += w;
            add_scaled(w, v, acc);
        }
    }
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
