//! Recall: which items similar requests chose, and which they rejected.

use super::counts::Counts;

/// Σ m_k b_k per item over the neighbours, and the masses that normalise it.
#[derive(Debug, Clone)]
pub(super) struct Credit {
    /// Item numbers with their sums, found by linear probing; a power of two of places, half of them empty.
    places: Vec<(u32, f64)>,
    chosen: f64,
    rejected: f64,
}

impl Credit {
    /// With room for `items`.
    pub(super) fn with_room(items: usize) -> Self {
        Self {
            places: vec![(Counts::NONE, 0.0); (2 * items).next_power_of_two().max(2)],
            chosen: 0.0,
            rejected: 0.0,
        }
    }

    /// A neighbour has the signed weight m·b.
    pub(super) fn weigh(&mut self, b: f64) {
        self.chosen += b.max(0.0);
        self.rejected += (-b).max(0.0);
    }

    /// It is about this item.
    pub(super) fn add(&mut self, number: u32, b: f64) {
        let at = self.place(number);
        self.places[at].0 = number;
        self.places[at].1 += b;
    }

    /// Where an item is, or would be.
    fn place(&self, number: u32) -> usize {
        let mask = self.places.len() - 1;
        let mut at = number.wrapping_mul(0x9e37_79b1) as usize & mask;
        while self.places[at].0 != number && self.places[at].0 != Counts::NONE {
            at = (at + 1) & mask;
        }
        at
    }

    /// r(d): the item's net credit over the mass of its own sign. In 0..=1 for what was chosen, below 0 and down to −1 for
    /// what was rejected more than chosen. A rejection takes credit from its item and from no other.
    pub(super) fn of(&self, number: u32, shrinkage: f64) -> f32 {
        let net = if number == Counts::NONE {
            0.0
        } else {
            self.places[self.place(number)].1
        };
        let mass = if net >= 0.0 { self.chosen } else { self.rejected };
        (net / (mass + shrinkage)) as f32
    }
}
