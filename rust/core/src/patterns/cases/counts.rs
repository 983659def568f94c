//! How many cases there are about each item, and a number in place of its id.

use crate::item::ItemId;
use rustc_hash::FxBuildHasher;

/// What is known of an item with cases.
#[derive(Debug, Clone, Copy)]
struct Entry {
    cases: u32,
    number: u32,
}

/// Which items a case is about, in four bytes: the number of its first item, and whether there are more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Items(u32);

/// Set where a case is about more than one item.
const MORE: u32 = 1 << 31;

impl Items {
    /// Number of the first item.
    pub(super) fn first(self) -> u32 {
        self.0 & !MORE
    }

    /// True if the case is about other items too.
    pub(super) fn has_more(self) -> bool {
        self.0 & MORE != 0
    }
}

/// Case counts and numbers per item; cloning is O(1). Numbers are of one process: they are not stored.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts {
    items: imbl::GenericHashMap<ItemId, Entry, FxBuildHasher, imbl::shared_ptr::DefaultSharedPtr>,
    next: u32,
}

impl Counts {
    /// No item has this number.
    pub(super) const NONE: u32 = MORE;

    /// A case about `items` came.
    pub(super) fn add(&mut self, items: &[ItemId]) -> Items {
        let mut first = Self::NONE;
        for item in items {
            let number = match self.items.get_mut(item) {
                Some(entry) => {
                    entry.cases += 1;
                    entry.number
                }
                None => {
                    let number = self.unused();
                    self.items.insert(item.clone(), Entry { cases: 1, number });
                    number
                }
            };
            if first == Self::NONE {
                first = number;
            }
        }
        Items(first | if items.len() > 1 { MORE } else { 0 })
    }

    fn unused(&mut self) -> u32 {
        let number = self.next;
        // Two billion items that came and went: far beyond the life of a process.
        self.next = (self.next + 1) & !MORE;
        number
    }

    /// A case about `items` went.
    pub(super) fn remove(&mut self, items: &[ItemId]) {
        for item in items {
            match self.items.get_mut(item) {
                Some(entry) if entry.cases > 1 => entry.cases -= 1,
                _ => drop(self.items.remove(item)),
            }
        }
    }

    /// The item's number; [`Self::NONE`] for an item without cases.
    pub(super) fn number(&self, item: &ItemId) -> u32 {
        self.items.get(item).map_or(Self::NONE, |e| e.number)
    }

    /// Least number of cases about any of `items`; 1 for an item without cases.
    pub(super) fn rarest(&self, items: &[ItemId]) -> u32 {
        items
            .iter()
            .filter_map(|i| self.items.get(i))
            .map(|e| e.cases)
            .min()
            .unwrap_or(1)
    }

    /// Number of items with cases.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }
}
