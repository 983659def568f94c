//! Which keys a query sees: masks, causal order, windows with global tokens, block layouts.

use super::tile::{PANEL, Rule, Span};
use crate::kernels::real::Real;

/// How queries and keys are lined up in causal order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Causal {
    /// Every query sees every key.
    #[default]
    No,
    /// Query i sees keys j ≤ i.
    TopLeft,
    /// Query i sees keys j ≤ i + m − n: the last query sees all keys.
    BottomRight,
}

impl Causal {
    /// One beyond the last key that query `i` of `n` sees among `m`.
    #[must_use]
    pub fn end(self, i: usize, n: usize, m: usize) -> usize {
        match self {
            Self::No => m,
            Self::TopLeft => (i + 1).min(m),
            Self::BottomRight => (i + 1 + m).saturating_sub(n).min(m),
        }
    }
}

/// A mask (n, m); rows or columns that are the same for all queries or keys have stride 0.
#[derive(Clone, Copy, Debug)]
pub enum Mask<'a, T> {
    /// No mask.
    None,
    /// True: attend.
    Bool(&'a [bool], [usize; 2]),
    /// Added to the logits.
    Float(&'a [T], [usize; 2]),
}

/// Mask and causal order of one head.
#[derive(Clone, Copy, Debug)]
pub struct Dense<'a, T> {
    /// Number of queries.
    pub n: usize,
    /// Number of keys.
    pub m: usize,
    /// Order.
    pub causal: Causal,
    /// Mask.
    pub mask: Mask<'a, T>,
}

impl<T: Real> Rule<T> for Dense<'_, T> {
    fn spans(&self, queries: &[usize], spans: &mut Vec<Span>) {
        let masked = !matches!(self.mask, Mask::None);
        let ends = queries.iter().map(|&i| self.causal.end(i, self.n, self.m));
        let (low, high) = ends.fold((usize::MAX, 0), |(low, high), e| (low.min(e), high.max(e)));
        // Cut where the keys' panels are cut: whole registers on both sides.
        let low = if low < high { low / PANEL * PANEL } else { high };
        if low > 0 {
            spans.push(Span {
                start: 0,
                end: low,
                masked,
            });
        }
        if high > low {
            spans.push(Span {
                start: low,
                end: high,
                masked: true,
            });
        }
    }

    fn apply(&self, i: usize, first: usize, logits: &mut [T]) {
        match self.mask {
            Mask::None => {}
            Mask::Bool(mask, [row, column]) => {
                for (x, j) in logits.iter_mut().zip(first..) {
                    if !mask[i * row + j * column] {
                        *x = T::NEG_INFINITY;
                    }
                }
            }
            Mask::Float(mask, [row, column]) => {
                for (x, j) in logits.iter_mut().zip(first..) {
                    let add = mask[i * row + j * column];
                    // Set, not added: NaN − ∞ would be NaN.
                    *x = if add == T::NEG_INFINITY { add } else { *x + add };
                }
            }
        }
        let end = self.causal.end(i, self.n, self.m);
        if end < first + logits.len() {
            logits[end.saturating_sub(first)..].fill(T::NEG_INFINITY);
        }
    }
}

/// Keys within `window` of the query, plus global tokens that see and are seen by all (Longformer, Beltagy et al. 2020, §3).
#[derive(Clone, Debug)]
pub struct LocalGlobal {
    n: usize,
    window: usize,
    /// Sorted, no duplicates.
    global: Vec<usize>,
    causal: bool,
    local_only: bool,
}

impl LocalGlobal {
    /// `global`: token numbers below `n`, in any order.
    #[must_use]
    pub fn new(n: usize, window: usize, mut global: Vec<usize>, causal: bool) -> Self {
        global.sort_unstable();
        global.dedup();
        Self {
            n,
            window,
            global,
            causal,
            local_only: false,
        }
    }

    /// The same for queries that are not global: a tile that holds a global one stays narrow, and that one's row is wrong.
    #[must_use]
    pub fn local_only(&self) -> Self {
        Self {
            local_only: true,
            ..self.clone()
        }
    }

    /// Pairs of query and key, at most.
    #[must_use]
    pub fn seen(&self) -> usize {
        let window = self.window.saturating_mul(2).saturating_add(1).min(self.n);
        self.n * (window + 2 * self.global.len()).min(self.n)
    }

    /// The tokens that see everything, sorted.
    #[must_use]
    pub fn global(&self) -> &[usize] {
        &self.global
    }

    fn is_global(&self, i: usize) -> bool {
        !self.local_only && self.global.binary_search(&i).is_ok()
    }
}

impl<T: Real> Rule<T> for LocalGlobal {
    fn spans(&self, queries: &[usize], spans: &mut Vec<Span>) {
        let [first, .., last] = *queries else {
            if let [i] = *queries {
                Rule::<T>::spans(self, &[i, i], spans);
            }
            return;
        };
        let end = if self.causal { last + 1 } else { self.n };
        let push = |spans: &mut Vec<Span>, start: usize, stop: usize| match spans.last_mut() {
            Some(s) if s.end >= start => s.end = s.end.max(stop),
            _ if start < stop => spans.push(Span {
                start,
                end: stop,
                masked: true,
            }),
            _ => {}
        };
        if queries.iter().any(|&i| self.is_global(i)) {
            push(spans, 0, end);
            return;
        }
        let low = first.saturating_sub(self.window);
        let high = last.saturating_add(self.window + 1).min(end);
        let before = self.global.partition_point(|&g| g < low);
        for &g in &self.global[..before] {
            push(spans, g, (g + 1).min(end));
        }
        push(spans, low, high);
        for &g in &self.global[before..] {
            push(spans, g.min(end), (g + 1).min(end));
        }
    }

    fn apply(&self, i: usize, first: usize, logits: &mut [T]) {
        let stop = first + logits.len();
        if !self.is_global(i) {
            let low = i.saturating_sub(self.window).clamp(first, stop);
            let high = (i + self.window + 1).clamp(low, stop);
            for range in [first..low, high..stop] {
                let mut at = range.start;
                let from = self.global.partition_point(|&g| g < range.start);
                for &g in self.global[from..].iter().take_while(|&&g| g < range.end) {
                    logits[at - first..g - first].fill(T::NEG_INFINITY);
                    at = g + 1;
                }
                logits[at - first..range.end - first].fill(T::NEG_INFINITY);
            }
        }
        if self.causal && i + 1 < stop {
            logits[(i + 1).saturating_sub(first)..].fill(T::NEG_INFINITY);
        }
    }
}

/// Blocks of keys that a block of queries sees (Child et al. 2019).
#[derive(Clone, Copy, Debug)]
pub struct BlockSparse<'a> {
    /// Number of tokens.
    pub n: usize,
    /// Tokens per block.
    pub block: usize,
    /// (blocks, blocks), true: attend; row = query block.
    pub layout: &'a [bool],
    /// Within allowed blocks, only keys j ≤ i.
    pub causal: bool,
}

impl<T: Real> Rule<T> for BlockSparse<'_> {
    /// All queries of a tile must lie in one block.
    fn spans(&self, queries: &[usize], spans: &mut Vec<Span>) {
        let (Some(first), Some(last)) = (queries.first(), queries.last()) else {
            return;
        };
        let blocks = self.n.div_ceil(self.block);
        let row = first / self.block;
        debug_assert_eq!(row, last / self.block, "a tile spans two blocks of queries");
        for (c, on) in self.layout[row * blocks..(row + 1) * blocks].iter().enumerate() {
            if !*on || (self.causal && c > row) {
                continue;
            }
            let (start, end) = (c * self.block, ((c + 1) * self.block).min(self.n));
            let masked = self.causal && c == row;
            match spans.last_mut() {
                Some(s) if s.end == start && s.masked == masked => s.end = end,
                _ => spans.push(Span { start, end, masked }),
            }
        }
    }

    fn apply(&self, i: usize, first: usize, logits: &mut [T]) {
        if i + 1 < first + logits.len() {
            logits[(i + 1).saturating_sub(first)..].fill(T::NEG_INFINITY);
        }
    }
}
