//! [`super::tile`] for processors that multiply split numbers: products from tiles of bfloat16 parts, the rest as there.
//!
//! All queries of a piece take turns with a block of keys, so that keys and values come once per piece from the far caches.

use super::parted::Queries;
use super::tile::{self, Blocks, Head, Rule, Scratch, Span};
use crate::kernels::Aligned;
use crate::kernels::real::{Real, scale_by};
use crate::kernels::split::{DEPTH, Engine, Left, Online, Piece, Products, RightRef, SIDE};

/// Queries whose logits are made and used while they sit in the nearest caches.
pub(super) const STRIP: usize = 4 * SIDE;
/// Strips that stay with the thread.
const KEPT: usize = 8;
/// Queries below which packing costs more than it saves, and widths below which a tile is mostly padding.
const FEW: usize = SIDE;
const NARROW: usize = 8;

/// Whether splitting pays for `n` queries of width `d` and values of width `dv`.
#[must_use]
pub(super) fn pays(n: usize, d: usize, dv: usize) -> bool {
    n >= FEW && d >= NARROW && dv >= NARROW
}

/// Some queries, keys and values of one head in parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts<'a, T> {
    pub engine: &'a Engine,
    pub queries: Queries<'a, T>,
    pub keys: RightRef<'a, T>,
    pub values: RightRef<'a, T>,
    /// Length of values.
    pub dv: usize,
}

/// Some queries of a piece and what is known of them so far.
#[derive(Debug)]
struct Strip<T> {
    /// The queries could be split.
    tame: bool,
    spans: Vec<Span>,
    top: [T; STRIP],
    sum: [T; STRIP],
    /// What the latest maximum makes of the sums of values before it.
    fade: [T; STRIP],
    /// There are such sums.
    begun: bool,
}

/// Keys that a strip meets, in whole groups.
#[derive(Clone, Debug)]
struct Stretch {
    from: usize,
    to: usize,
    /// Column of its logits.
    column: usize,
    span: Span,
}

/// A strip and the keys it meets: some stretches, side by side in one table of logits.
#[derive(Debug, Default)]
struct Meeting {
    strip: usize,
    /// Queries.
    n: usize,
    /// Keys.
    width: usize,
    stretches: Vec<Stretch>,
}

impl Meeting {
    fn clear(&mut self) {
        self.width = 0;
        self.stretches.clear();
    }

    fn add(&mut self, span: Span) {
        let (from, to) = (span.start / DEPTH * DEPTH, span.end.next_multiple_of(DEPTH));
        self.stretches.push(Stretch {
            from,
            to,
            column: self.width,
            span,
        });
        self.width += to - from;
    }
}

/// Buffers of one thread.
#[derive(Debug)]
pub(super) struct Strips<T> {
    strips: Vec<Strip<T>>,
    /// Sums of weighted values of each strip, rows and columns in whole blocks.
    sums: Vec<Aligned<T>>,
    /// Of the meeting at hand, and of the one before.
    logits: [Aligned<T>; 2],
    /// Of the one before, and of the one before that.
    weights: [Left<T>; 2],
}

impl<T> Default for Strips<T> {
    fn default() -> Self {
        Self {
            strips: Vec::new(),
            sums: Vec::new(),
            logits: Default::default(),
            weights: Default::default(),
        }
    }
}

/// [`super::tile::attend`] with operands in parts. Queries that cannot be split go there, with the numbers themselves.
#[allow(clippy::too_many_arguments, reason = "operands, rule, results, buffers")]
pub(super) fn attend<'h, T: Real + 'h, R: Rule<T> + ?Sized>(
    parts: Parts<'_, T>,
    head: impl Fn() -> Head<'h, T>,
    rule: &R,
    blocks: Blocks,
    queries: &[usize],
    out: &mut [T],
    mut lse: Option<&mut [T]>,
    s: &mut Strips<T>,
    scratch: &mut Scratch<T>,
) {
    let dv = parts.dv;
    let block = blocks.k.next_multiple_of(DEPTH);
    let wide = dv.next_multiple_of(SIDE);
    s.begin(parts.queries, rule, queries, wide);
    let count = queries.len().div_ceil(STRIP);
    let last = |strip: &Strip<T>| strip.spans.last().map_or(0, |x| x.end);
    let m = s.strips[..count].iter().map(last).max().unwrap_or(0);
    let room = STRIP.min(queries.len().next_multiple_of(SIDE)) * m.next_multiple_of(DEPTH).min(block);
    for logits in &mut s.logits {
        logits.grow(room);
    }
    // Several strips take turns with the same keys; a single one goes its own way.
    let turn = if count > 1 { block } else { m.max(1) };
    let mut turns = <[Meeting; 3]>::default();
    for at in (0..m).step_by(turn) {
        for strip in 0..count {
            let n = STRIP.min(queries.len() - strip * STRIP);
            for i in 0..s.strips[strip].spans.len() {
                let span = s.strips[strip].spans[i];
                let (start, end) = (span.start.max(at), span.end.min(at + turn));
                for start in (start..end).step_by(block) {
                    let end = (start + block).min(end);
                    if turns[0].width > 0 && turns[0].width + (end - start) > block {
                        s.advance(parts, rule, queries, &mut turns, wide);
                    }
                    (turns[0].strip, turns[0].n) = (strip, n);
                    turns[0].add(Span { start, end, ..span });
                }
            }
            if turns[0].width > 0 {
                s.advance(parts, rule, queries, &mut turns, wide);
            }
        }
    }
    while turns.iter().any(|x| x.width > 0) {
        s.advance(parts, rule, queries, &mut turns, wide);
    }
    for (i, strip) in s.strips[..count].iter().enumerate() {
        let first = i * STRIP;
        let end = (first + STRIP).min(queries.len());
        if !strip.tame {
            let (of, rows) = (&queries[first..end], &mut out[first * dv..end * dv]);
            let lse = lse.as_deref_mut().map(|lse| &mut lse[first..end]);
            tile::attend(&head(), None, rule, blocks, of, rows, lse, scratch);
            continue;
        }
        let rows = out[first * dv..end * dv].chunks_exact_mut(dv);
        for (r, row) in rows.enumerate() {
            if strip.sum[r] == T::ZERO {
                row.fill(T::ZERO);
            } else {
                let part = T::ONE / strip.sum[r];
                for (to, x) in row.iter_mut().zip(&s.sums[i][r * wide..]) {
                    *to = *x * part;
                }
            }
            if let Some(lse) = lse.as_deref_mut() {
                let sum = strip.sum[r];
                lse[first + r] = if sum == T::ZERO {
                    T::NEG_INFINITY
                } else {
                    strip.top[r] + sum.ln()
                };
            }
        }
    }
}

impl<T: Real> Strip<T> {
    /// The online softmax goes on over the keys of a meeting.
    fn step<'a>(&'a mut self, of: &Meeting, logits: &'a [T]) -> Online<'a, T> {
        Online {
            logits,
            width: of.width,
            top: &mut self.top[..of.n],
            sum: &mut self.sum[..of.n],
            fade: &mut self.fade[..of.n],
        }
    }
}

impl<T: Real> Strips<T> {
    /// Gives back what only a long list of queries needs.
    pub fn shrink(&mut self) {
        self.strips.truncate(KEPT);
        self.sums.truncate(KEPT);
    }

    /// Nothing is known of the queries yet.
    fn begin<R: Rule<T> + ?Sized>(
        &mut self,
        parts: Queries<'_, T>,
        rule: &R,
        queries: &[usize],
        wide: usize,
    ) {
        let count = queries.len().div_ceil(STRIP);
        let more = count.max(self.strips.len());
        self.sums.resize_with(more, Aligned::default);
        self.strips.resize_with(more, || Strip {
            tame: false,
            spans: Vec::new(),
            top: [T::ZERO; STRIP],
            sum: [T::ZERO; STRIP],
            fade: [T::ONE; STRIP],
            begun: false,
        });
        let strips = self.strips.iter_mut().zip(&mut self.sums);
        for (i, ((strip, sums), of)) in strips.zip(queries.chunks(STRIP)).enumerate() {
            strip.spans.clear();
            strip.tame = parts.strip(i).is_some();
            if strip.tame {
                rule.spans(of, &mut strip.spans);
            }
            strip.top = [T::NEG_INFINITY; STRIP];
            strip.sum = [T::ZERO; STRIP];
            strip.begun = false;
            sums.grow(of.len().next_multiple_of(SIDE) * wide);
        }
    }

    /// Logits of the first meeting and values of the third; meanwhile logits of the second become weights. Then each is one
    /// further, and the first is empty.
    fn advance<R: Rule<T> + ?Sized>(
        &mut self,
        parts: Parts<'_, T>,
        rule: &R,
        queries: &[usize],
        turns: &mut [Meeting; 3],
        wide: usize,
    ) {
        let [look, weigh, gather] = &*turns;
        let mut products = Products::default();
        let [logits, ready] = &mut self.logits;
        let [weights, of] = &mut self.weights;
        if look.width > 0
            && let Some(of) = parts.queries.strip(look.strip)
        {
            logits.grow(look.n.next_multiple_of(SIDE) * look.width);
            let keys = parts.keys;
            let pieces = look.stretches.iter().map(|x| Piece {
                of: 0..keys.groups(),
                columns: x.from / SIDE..(x.to / SIDE).min(keys.columns()),
                groups: 0..keys.groups(),
                at: x.column,
                add: false,
            });
            products.push(keys, of, pieces, logits, look.width);
        }
        if gather.width > 0 {
            let (strip, sums) = (&mut self.strips[gather.strip], &mut self.sums[gather.strip]);
            for (row, fade) in sums.chunks_exact_mut(wide).zip(&strip.fade[..gather.n]) {
                if strip.begun && *fade != T::ONE {
                    scale_by(*fade, row);
                }
            }
            let begun = std::mem::replace(&mut strip.begun, true);
            let pieces = gather.stretches.iter().enumerate().map(|(i, x)| Piece {
                of: x.column / DEPTH..(x.column + x.to - x.from) / DEPTH,
                columns: 0..wide / SIDE,
                groups: x.from / DEPTH..x.to / DEPTH,
                at: 0,
                add: begun || i > 0,
            });
            products.push(parts.values, of.view(), pieces, sums, wide);
        }
        if weigh.width > 0 {
            let step = self.strips[weigh.strip].step(weigh, ready);
            products.run_beside(parts.engine, weights, step);
        } else {
            products.run(parts.engine);
        }
        self.mask(rule, queries, look);
        self.logits.swap(0, 1);
        self.weights.swap(0, 1);
        turns.rotate_right(1);
        turns[0].clear();
    }

    /// Hides the keys outside the spans and what the rule hides.
    fn mask<R: Rule<T> + ?Sized>(&mut self, rule: &R, queries: &[usize], now: &Meeting) {
        let queries = &queries[now.strip * STRIP..][..now.n];
        for Stretch {
            from,
            to,
            column,
            span,
        } in &now.stretches
        {
            if !span.masked && to - from == span.end - span.start {
                continue;
            }
            for (line, i) in self.logits[0].chunks_exact_mut(now.width).zip(queries) {
                let line = &mut line[*column..column + to - from];
                line[..span.start - from].fill(T::NEG_INFINITY);
                line[span.end - from..].fill(T::NEG_INFINITY);
                if span.masked {
                    rule.apply(*i, span.start, &mut line[span.start - from..span.end - from]);
                }
            }
        }
    }
}
