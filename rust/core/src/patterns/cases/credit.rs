//! Recall: which items similar requests chose.

use crate::item::ItemId;
use rustc_hash::FxHashMap;

/// Σ m_k b_k per item over the neighbours, and the mass that normalises it.
#[derive(Debug)]
pub(super) struct Credit<'a> {
    by_item: FxHashMap<&'a ItemId, f64>,
    mass: f64,
}

impl<'a> Credit<'a> {
    /// From (items, signed weight · b) of each neighbour.
    pub(super) fn new(cases: impl Iterator<Item = (&'a [ItemId], f64)>) -> Self {
        let mut by_item = FxHashMap::with_capacity_and_hasher(cases.size_hint().0 * 2, Default::default());
        let mut mass = 0.0;
        for (items, b) in cases {
            mass += b.max(0.0);
            for item in items {
                *by_item.entry(item).or_insert(0.0) += b.max(0.0);
            }
        }
        Self { by_item, mass }
    }

    /// r(d) in 0..=1.
    pub(super) fn of(&self, item: &ItemId, shrinkage: f64) -> f32 {
        self.by_item
            .get(item)
            .map_or(0.0, |b| (b / (self.mass + shrinkage)) as f32)
    }
}
