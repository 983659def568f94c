//! Recall: which items similar requests chose, and which they rejected.

use crate::item::ItemId;
use rustc_hash::FxHashMap;

/// Σ m_k b_k per item over the neighbours, and the masses that normalise it.
#[derive(Debug)]
pub(super) struct Credit<'a> {
    by_item: FxHashMap<&'a ItemId, f64>,
    chosen: f64,
    rejected: f64,
}

impl<'a> Credit<'a> {
    /// From (items, m·b) of each neighbour.
    pub(super) fn new(cases: impl Iterator<Item = (&'a [ItemId], f64)>) -> Self {
        let mut by_item = FxHashMap::with_capacity_and_hasher(cases.size_hint().0, Default::default());
        let (mut chosen, mut rejected) = (0.0, 0.0);
        for (items, b) in cases {
            chosen += b.max(0.0);
            rejected += (-b).max(0.0);
            for item in items {
                *by_item.entry(item).or_insert(0.0) += b;
            }
        }
        Self {
            by_item,
            chosen,
            rejected,
        }
    }

    /// r(d): the item's net credit over the mass of its own sign. In 0..=1 for what was chosen, below 0 and down to −1 for
    /// what was rejected more than chosen. A rejection takes credit from its item and from no other.
    pub(super) fn of(&self, item: &ItemId, shrinkage: f64) -> f32 {
        let net = self.by_item.get(item).copied().unwrap_or(0.0);
        let mass = if net >= 0.0 { self.chosen } else { self.rejected };
        (net / (mass + shrinkage)) as f32
    }
}
