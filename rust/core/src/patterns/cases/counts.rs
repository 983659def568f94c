//! How many cases there are about each item.

use crate::item::ItemId;
use rustc_hash::FxBuildHasher;

/// Case counts per item; cloning is O(1).
#[derive(Debug, Clone, Default)]
pub(super) struct Counts(
    imbl::GenericHashMap<ItemId, u32, FxBuildHasher, imbl::shared_ptr::DefaultSharedPtr>,
);

impl Counts {
    /// A case about `items` came.
    pub(super) fn add(&mut self, items: &[ItemId]) {
        for item in items {
            match self.0.get_mut(item) {
                Some(n) => *n += 1,
                None => drop(self.0.insert(item.clone(), 1)),
            }
        }
    }

    /// A case about `items` went.
    pub(super) fn remove(&mut self, items: &[ItemId]) {
        for item in items {
            match self.0.get_mut(item) {
                Some(n) if *n > 1 => *n -= 1,
                _ => drop(self.0.remove(item)),
            }
        }
    }

    /// Least number of cases about any of `items`; 1 for an item without cases.
    pub(super) fn rarest(&self, items: &[ItemId]) -> u32 {
        items
            .iter()
            .filter_map(|i| self.0.get(i))
            .min()
            .copied()
            .unwrap_or(1)
    }

    /// Number of items with cases.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
