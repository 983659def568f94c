//! [`super::tile`] for processors that multiply split numbers: products from tiles of bfloat16 parts, the rest as there.
//!
//! All queries of a piece take turns with a block of keys, so that keys and values come once per piece from the far caches, and
//! pieces follow one another without a gap.

use super::cuts::{Cuts, STRIP};
use super::parted::Queries;
use super::tile::{Blocks, Rule, Span};
use crate::kernels::Aligned;
use crate::kernels::real::{Real, divide_rows, fill_columns, scale_rows};
use crate::kernels::split::{DEPTH, Engine, Left, Online, Piece, Products, RightRef, SIDE};
use std::ops::Range;

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

/// Pieces that may be in work at the same time: the softmax of a strip is behind its logits, and its values are behind that.
const BEHIND: usize = 3;

/// Some queries, keys and values of one head in parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Parts<'a, T> {
    pub queries: Queries<'a, T>,
    pub keys: RightRef<'a, T>,
    pub values: RightRef<'a, T>,
}

/// Queries of one head to be attended, and where the results go.
#[derive(Debug)]
pub(super) struct Work<'a, T, R> {
    /// Number of the head.
    pub head: usize,
    pub parts: Parts<'a, T>,
    pub rule: R,
    /// Row numbers of the head.
    pub queries: &'a [usize],
    /// One row per query.
    pub out: &'a mut [T],
    pub lse: Option<&'a mut [T]>,
}

impl<T: Real, R> Work<'_, T, R> {
    fn cuts(&self) -> Cuts {
        self.parts.queries.cuts(self.queries.len())
    }
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
    /// Place of the piece among those in work, and the strip in it.
    place: usize,
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
    /// Of each piece in work.
    strips: [Vec<Strip<T>>; BEHIND],
    /// Sums of weighted values of each strip, rows and columns in whole blocks.
    sums: [Vec<Aligned<T>>; BEHIND],
    /// Of the meeting at hand, and of the one before.
    logits: [Aligned<T>; 2],
    /// Of the one before, and of the one before that.
    weights: [Left<T>; 2],
}

impl<T> Default for Strips<T> {
    fn default() -> Self {
        Self {
            strips: Default::default(),
            sums: Default::default(),
            logits: Default::default(),
            weights: Default::default(),
        }
    }
}

/// [`super::tile::attend`] of several pieces with operands in parts. Each begins while the one before is still in work, so that
/// the processor always has products to make beside a softmax; the results do not depend on what is beside them. Queries that
/// cannot be split go to `whole`, with the piece that they are of and their place in it.
pub(super) fn attend<'a, T: Real, R: Rule<T>>(
    engine: &Engine,
    pieces: impl Iterator<Item = Work<'a, T, R>>,
    dv: usize,
    blocks: Blocks,
    s: &mut Strips<T>,
    mut whole: impl FnMut(&mut Work<'a, T, R>, Range<usize>),
) {
    let mut flow = Flow {
        engine,
        works: [const { None }; BEHIND],
        turns: Default::default(),
        dv,
        wide: dv.next_multiple_of(SIDE),
        block: blocks.k.next_multiple_of(DEPTH),
        s,
    };
    let mut place = 0;
    for work in pieces {
        flow.finish(place, &mut whole);
        flow.begin(place, work);
        place = (place + 1) % BEHIND;
    }
    for _ in 0..BEHIND {
        flow.finish(place, &mut whole);
        place = (place + 1) % BEHIND;
    }
}

/// Pieces in work.
struct Flow<'a, 's, T, R> {
    engine: &'s Engine,
    works: [Option<Work<'a, T, R>>; BEHIND],
    /// Meetings: the one whose logits come next, the one whose softmax does, the one whose values do.
    turns: [Meeting; 3],
    dv: usize,
    /// Width of the sums.
    wide: usize,
    /// Keys per meeting.
    block: usize,
    s: &'s mut Strips<T>,
}

impl<'a, T: Real, R: Rule<T>> Flow<'a, '_, T, R> {
    /// Sends a piece through the turns; its last meetings stay in them.
    fn begin(&mut self, place: usize, work: Work<'a, T, R>) {
        let cuts = work.cuts();
        self.s.begin(place, &work, self.wide);
        self.works[place] = Some(work);
        let count = cuts.len();
        let last = |strip: &Strip<T>| strip.spans.last().map_or(0, |x| x.end);
        let m = self.s.strips[place][..count].iter().map(last).max().unwrap_or(0);
        // Several strips take turns with the same keys; a single one goes its own way.
        let turn = if count > 1 { self.block } else { m.max(1) };
        for at in (0..m).step_by(turn) {
            for strip in 0..count {
                let n = cuts.strip(strip).len();
                for i in 0..self.s.strips[place][strip].spans.len() {
                    let span = self.s.strips[place][strip].spans[i];
                    let (start, end) = (span.start.max(at), span.end.min(at + turn));
                    for start in (start..end).step_by(self.block) {
                        let end = (start + self.block).min(end);
                        let width = self.turns[0].width;
                        if width > 0 && width + (end - start) > self.block {
                            self.advance();
                        }
                        let next = &mut self.turns[0];
                        (next.place, next.strip, next.n) = (place, strip, n);
                        next.add(Span { start, end, ..span });
                    }
                }
                if self.turns[0].width > 0 {
                    self.advance();
                }
            }
        }
    }

    /// Writes the results of a piece.
    fn finish(&mut self, place: usize, whole: &mut impl FnMut(&mut Work<'a, T, R>, Range<usize>)) {
        while self.turns.iter().any(|x| x.width > 0 && x.place == place) {
            self.advance();
        }
        let Some(mut work) = self.works[place].take() else {
            return;
        };
        let (dv, wide) = (self.dv, self.wide);
        let cuts = work.cuts();
        for i in 0..cuts.len() {
            let strip = &self.s.strips[place][i];
            let of = cuts.strip(i);
            if !strip.tame {
                whole(&mut work, of);
                continue;
            }
            let out = &mut work.out[of.start * dv..of.end * dv];
            divide_rows(&self.s.sums[place][i], wide, &strip.sum[..of.len()], out);
            if let Some(lse) = work.lse.as_deref_mut() {
                let known = strip.top.iter().zip(&strip.sum);
                for (lse, (top, sum)) in lse[of].iter_mut().zip(known) {
                    *lse = if *sum == T::ZERO {
                        T::NEG_INFINITY
                    } else {
                        *top + sum.ln()
                    };
                }
            }
        }
    }

    /// Logits of the first meeting and values of the third; meanwhile logits of the second become weights. Then each is one
    /// further, and the first is empty.
    fn advance(&mut self) {
        let [look, weigh, gather] = &self.turns;
        let mut products = Products::default();
        let [logits, ready] = &mut self.s.logits;
        let [weights, of] = &mut self.s.weights;
        if look.width > 0
            && let Some(Work { parts, .. }) = &self.works[look.place]
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
        if gather.width > 0
            && let Some(Work { parts, .. }) = &self.works[gather.place]
        {
            let strip = &mut self.s.strips[gather.place][gather.strip];
            let sums = &mut self.s.sums[gather.place][gather.strip];
            let wide = self.wide;
            if strip.begun {
                scale_rows(&strip.fade[..gather.n], &mut sums[..gather.n * wide]);
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
            let step = self.s.strips[weigh.place][weigh.strip].step(weigh, ready);
            products.run_beside(self.engine, weights, step);
        } else {
            products.run(self.engine);
        }
        if let Some(work) = &self.works[look.place] {
            self.s.mask(work, look);
        }
        self.s.logits.swap(0, 1);
        self.s.weights.swap(0, 1);
        self.turns.rotate_right(1);
        self.turns[0].clear();
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
        self.strips.iter_mut().for_each(|x| x.truncate(KEPT));
        self.sums.iter_mut().for_each(|x| x.truncate(KEPT));
    }

    /// Nothing is known of the queries yet.
    fn begin<R: Rule<T>>(&mut self, place: usize, work: &Work<'_, T, R>, wide: usize) {
        let cuts = work.cuts();
        let count = cuts.len();
        let (strips, sums) = (&mut self.strips[place], &mut self.sums[place]);
        let more = count.max(strips.len());
        sums.resize_with(more, Aligned::default);
        strips.resize_with(more, || Strip {
            tame: false,
            spans: Vec::new(),
            top: [T::ZERO; STRIP],
            sum: [T::ZERO; STRIP],
            fade: [T::ONE; STRIP],
            begun: false,
        });
        for (i, (strip, sums)) in strips.iter_mut().zip(sums).take(count).enumerate() {
            let of = &work.queries[cuts.strip(i)];
            strip.spans.clear();
            strip.tame = work.parts.queries.strip(i).is_some();
            if strip.tame {
                work.rule.spans(of, &mut strip.spans);
            }
            strip.top = [T::NEG_INFINITY; STRIP];
            strip.sum = [T::ZERO; STRIP];
            strip.begun = false;
            sums.grow(of.len().next_multiple_of(SIDE) * wide);
        }
    }

    /// Hides the keys outside the spans and what the rule hides.
    fn mask<R: Rule<T>>(&mut self, work: &Work<'_, T, R>, now: &Meeting) {
        if now.width == 0 {
            return;
        }
        let queries = &work.queries[work.cuts().strip(now.strip)];
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
            let logits = &mut self.logits[0];
            for hidden in [
                *column..column + span.start - from,
                column + span.end - from..column + to - from,
            ] {
                fill_columns(
                    &mut logits[..queries.len() * now.width],
                    now.width,
                    hidden,
                    T::NEG_INFINITY,
                );
            }
            if span.masked {
                for (line, i) in logits.chunks_exact_mut(now.width).zip(queries) {
                    let line = &mut line[*column..column + to - from];
                    work.rule
                        .apply(*i, span.start, &mut line[span.start - from..span.end - from]);
                }
            }
        }
    }
}
