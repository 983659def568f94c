//! [`super::tile`] for processors that multiply split numbers: products from tiles of bfloat16 parts, the rest as there.
//!
//! All queries of a piece take turns with a block of keys, so that keys and values come once per piece from the far caches.

use super::tile::{self, Blocks, Head, Rule, Scratch, Span};
use crate::kernels::real::{Real, scale_by};
use crate::kernels::split::{DEPTH, Engine, Left, Right, SIDE};

/// Queries whose logits are made and used while they sit in the nearest caches.
const STRIP: usize = 4 * SIDE;
/// Queries below which packing costs more than it saves, and widths below which a tile is mostly padding.
const FEW: usize = SIDE;
const NARROW: usize = 8;

/// Whether splitting pays for `n` queries of width `d` and values of width `dv`.
#[must_use]
pub(super) fn pays(n: usize, d: usize, dv: usize) -> bool {
    n >= FEW && d >= NARROW && dv >= NARROW
}

/// Keys and values of one head in parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts<'a, T> {
    pub engine: &'a Engine,
    pub keys: &'a Right<T>,
    pub values: &'a Right<T>,
}

/// Some queries of a piece and what is known of them so far.
#[derive(Debug)]
struct Strip<T> {
    /// Where they begin among the queries of the piece.
    first: usize,
    q: Left<T>,
    /// The queries could be split.
    tame: bool,
    spans: Vec<Span>,
    top: [T; STRIP],
    sum: [T; STRIP],
    /// Sums of weighted values, rows and columns in whole blocks; of no use before the first keys.
    acc: Vec<T>,
    begun: bool,
}

/// Buffers of one thread.
#[derive(Debug)]
pub(super) struct Strips<T> {
    strips: Vec<Strip<T>>,
    q: Vec<T>,
    logits: Vec<T>,
    weights: Left<T>,
}

impl<T> Default for Strips<T> {
    fn default() -> Self {
        Self {
            strips: Vec::new(),
            q: Vec::new(),
            logits: Vec::new(),
            weights: Left::default(),
        }
    }
}

/// [`super::tile::attend`] with keys and values in parts. Queries that cannot be split go there.
#[allow(clippy::too_many_arguments, reason = "operands, rule, results, buffers")]
pub(super) fn attend<T: Real, R: Rule<T> + ?Sized>(
    head: &Head<'_, T>,
    parts: Parts<'_, T>,
    rule: &R,
    blocks: Blocks,
    queries: &[usize],
    out: &mut [T],
    mut lse: Option<&mut [T]>,
    s: &mut Strips<T>,
    scratch: &mut Scratch<T>,
) {
    let (d, dv) = (head.d, head.dv);
    let block = blocks.k.next_multiple_of(DEPTH);
    let wide = dv.next_multiple_of(SIDE);
    let count = queries.len().div_ceil(STRIP);
    s.strips.truncate(count);
    s.strips.resize_with(count, || Strip {
        first: 0,
        q: Left::default(),
        tame: false,
        spans: Vec::new(),
        top: [T::ZERO; STRIP],
        sum: [T::ZERO; STRIP],
        acc: Vec::new(),
        begun: false,
    });
    for (i, (strip, of)) in s.strips.iter_mut().zip(queries.chunks(STRIP)).enumerate() {
        strip.first = i * STRIP;
        strip.spans.clear();
        s.q.clear();
        of.iter()
            .for_each(|&i| s.q.extend_from_slice(&head.q[i * d..(i + 1) * d]));
        scale_by(head.scale, &mut s.q);
        strip.tame = strip.q.fill(&s.q, d);
        if strip.tame {
            rule.spans(of, &mut strip.spans);
        }
        strip.top = [T::NEG_INFINITY; STRIP];
        strip.sum = [T::ZERO; STRIP];
        strip.begun = false;
        strip.acc.resize(of.len().next_multiple_of(SIDE) * wide, T::ZERO);
    }
    let last = |strip: &Strip<T>| strip.spans.last().map_or(0, |x| x.end);
    let m = s.strips.iter().map(last).max().unwrap_or(0);
    let longest = m.next_multiple_of(DEPTH).min(block);
    s.logits
        .resize(STRIP.min(queries.len().next_multiple_of(SIDE)) * longest, T::ZERO);
    for at in (0..m).step_by(block) {
        for strip in &mut s.strips {
            let of = &queries[strip.first..(strip.first + STRIP).min(queries.len())];
            for i in 0..strip.spans.len() {
                let span = strip.spans[i];
                let (start, end) = (span.start.max(at), span.end.min(at + block));
                if start < end {
                    let cut = Span { start, end, ..span };
                    strip.meet(parts, rule, of, cut, wide, &mut s.logits, &mut s.weights);
                }
            }
        }
    }
    for strip in &s.strips {
        let end = (strip.first + STRIP).min(queries.len());
        if !strip.tame {
            let (of, rows) = (&queries[strip.first..end], &mut out[strip.first * dv..end * dv]);
            let lse = lse.as_deref_mut().map(|lse| &mut lse[strip.first..end]);
            tile::attend(head, None, rule, blocks, of, rows, lse, scratch);
            continue;
        }
        let rows = out[strip.first * dv..end * dv].chunks_exact_mut(dv);
        for (r, row) in rows.enumerate() {
            if strip.sum[r] == T::ZERO {
                row.fill(T::ZERO);
            } else {
                row.copy_from_slice(&strip.acc[r * wide..r * wide + dv]);
                scale_by(T::ONE / strip.sum[r], row);
            }
            if let Some(lse) = lse.as_deref_mut() {
                let sum = strip.sum[r];
                lse[strip.first + r] = if sum == T::ZERO {
                    T::NEG_INFINITY
                } else {
                    strip.top[r] + sum.ln()
                };
            }
        }
    }
}

impl<T: Real> Strip<T> {
    /// The online softmax goes on over the keys of `span`: logits, running maximum and sum, weighted values.
    #[allow(clippy::too_many_arguments, reason = "operands, ranges, buffers")]
    fn meet<R: Rule<T> + ?Sized>(
        &mut self,
        parts: Parts<'_, T>,
        rule: &R,
        queries: &[usize],
        span: Span,
        wide: usize,
        logits: &mut [T],
        weights: &mut Left<T>,
    ) {
        // Whole groups of keys; those outside the span are masked.
        let (from, to) = (span.start / DEPTH * DEPTH, span.end.next_multiple_of(DEPTH));
        let w = to - from;
        let n = queries.len();
        let columns = from / SIDE..(to / SIDE).min(parts.keys.columns());
        let depth = 0..parts.keys.groups();
        parts
            .keys
            .product(parts.engine, &self.q, columns, depth, logits, w, false);
        if span.masked || w > span.end - span.start {
            for (line, i) in logits.chunks_exact_mut(w).zip(queries) {
                line[..span.start - from].fill(T::NEG_INFINITY);
                line[span.end - from..].fill(T::NEG_INFINITY);
                if span.masked {
                    rule.apply(*i, span.start, &mut line[span.start - from..span.end - from]);
                }
            }
        }
        weights.absorb(
            &logits[..n * w],
            w,
            &mut self.top[..n],
            &mut self.sum[..n],
            &mut self.acc[..n * wide],
        );
        let columns = 0..wide / SIDE;
        let groups = from / DEPTH..to / DEPTH;
        parts.values.product(
            parts.engine,
            weights,
            columns,
            groups,
            &mut self.acc,
            wide,
            self.begun,
        );
        self.begun = true;
    }
}
