//! How the queries of a piece of work are shared out among strips.

use crate::kernels::split::SIDE;
use std::ops::Range;

/// Queries at most whose logits are made and used while they sit in the nearest caches.
pub(super) const STRIP: usize = 4 * SIDE;

/// Into which strips queries are cut: blocks of [`SIDE`], shared out evenly, because sums of a single block would wait for each
/// other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cuts {
    queries: usize,
    strips: usize,
}

impl Cuts {
    /// For the queries of a piece of work, `alone` if only pieces of the same head are beside it. Then the strips are small: the first
    /// products of a call have no softmax beside them, nor the last, and are soon over.
    pub fn new(queries: usize, alone: bool) -> Self {
        let blocks = queries.div_ceil(SIDE);
        let strips = if alone {
            (blocks / 2).max(blocks.min(1))
        } else {
            blocks.div_ceil(STRIP / SIDE)
        };
        Self { queries, strips }
    }

    pub fn len(self) -> usize {
        self.strips
    }

    /// The queries of strip `i`. What is left over goes to the strips after the first.
    pub fn strip(self, i: usize) -> Range<usize> {
        let blocks = self.queries.div_ceil(SIDE);
        let (each, more) = (blocks / self.strips, blocks % self.strips);
        let first = |i: usize| {
            let more = if i == self.strips {
                more
            } else {
                more.min(i.saturating_sub(1))
            };
            SIDE * (each * i + more)
        };
        first(i)..first(i + 1).min(self.queries)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strips_cover_the_queries_and_none_has_a_single_block_among_others() {
        for (queries, alone) in (0..700).flat_map(|n| [(n, false), (n, true)]) {
            let cuts = Cuts::new(queries, alone);
            let mut next = 0;
            for i in 0..cuts.len() {
                let of = cuts.strip(i);
                assert!(
                    of.start == next && of.len() <= STRIP && !of.is_empty(),
                    "{queries}: {of:?}"
                );
                assert!(cuts.len() == 1 || of.len() > SIDE, "{queries}: {of:?}");
                next = of.end;
            }
            assert_eq!(next, queries);
        }
    }
}
