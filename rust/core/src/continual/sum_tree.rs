//! Sums and minima of priorities over slots, both in O(log n) per change (Schaul et al. 2016, appendix B.2.1).

/// A binary tree over slots. Each inner node is computed from its two children, so that errors never add up.
#[derive(Debug, Clone, Default)]
pub(super) struct SumTree {
    leaves: usize,
    /// (sum, least positive value) per node; the root at 1, the leaves from `leaves` on.
    nodes: Vec<(f64, f64)>,
}

const EMPTY: (f64, f64) = (0.0, f64::INFINITY);

fn join(a: (f64, f64), b: (f64, f64)) -> (f64, f64) {
    (a.0 + b.0, a.1.min(b.1))
}

impl SumTree {
    /// Sum of all.
    pub fn total(&self) -> f64 {
        self.nodes.get(1).map_or(0.0, |n| n.0)
    }

    /// Least positive value; infinite without one.
    pub fn least(&self) -> f64 {
        self.nodes.get(1).map_or(f64::INFINITY, |n| n.1)
    }

    /// Value of a slot.
    pub fn get(&self, slot: usize) -> f64 {
        if slot < self.leaves {
            self.nodes[self.leaves + slot].0
        } else {
            0.0
        }
    }

    /// Sets the value of a slot; 0 takes it out.
    pub fn set(&mut self, slot: usize, value: f64) {
        if slot >= self.leaves {
            self.grow(slot + 1);
        }
        let mut at = self.leaves + slot;
        self.nodes[at] = if value > 0.0 { (value, value) } else { EMPTY };
        while at > 1 {
            at /= 2;
            self.nodes[at] = join(self.nodes[2 * at], self.nodes[2 * at + 1]);
        }
    }

    fn grow(&mut self, slots: usize) {
        let leaves = slots.next_power_of_two();
        let mut nodes = vec![EMPTY; 2 * leaves];
        nodes[leaves..leaves + self.leaves].copy_from_slice(self.nodes.get(self.leaves..).unwrap_or(&[]));
        for at in (1..leaves).rev() {
            nodes[at] = join(nodes[2 * at], nodes[2 * at + 1]);
        }
        (self.leaves, self.nodes) = (leaves, nodes);
    }

    /// Smallest slot whose running sum exceeds `mass`; the last positive one where rounding leaves none. 0 if empty.
    pub fn find(&self, mut mass: f64) -> usize {
        let mut at = 1;
        while at < self.leaves {
            let (left, right) = (self.nodes[2 * at].0, self.nodes[2 * at + 1].0);
            if mass < left || right <= 0.0 {
                at *= 2;
            } else {
                mass -= left;
                at = 2 * at + 1;
            }
        }
        at.saturating_sub(self.leaves)
    }

    /// Bytes held.
    pub fn nbytes(&self) -> usize {
        self.nodes.len() * size_of::<(f64, f64)>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_a_running_sum(
            changes in prop::collection::vec((0usize..40, 0u32..9), 1..120),
            u in 0.0f64..1.0,
        ) {
            let (mut tree, mut plain) = (SumTree::default(), vec![0.0f64; 40]);
            for (slot, value) in changes {
                tree.set(slot, f64::from(value));
                plain[slot] = f64::from(value);
            }
            let total: f64 = plain.iter().sum();
            prop_assert_eq!(tree.total(), total);
            let least = plain.iter().copied().filter(|v| *v > 0.0).fold(f64::INFINITY, f64::min);
            prop_assert_eq!(tree.least(), least);
            let mut sum = 0.0;
            let want = plain.iter().position(|v| { sum += v; sum > u * total });
            if let Some(want) = want {
                prop_assert_eq!(tree.find(u * total), want);
            }
            // Past the end by rounding: still a slot that holds something.
            if total > 0.0 {
                prop_assert!(plain[tree.find(total * 1.001)] > 0.0);
            }
        }
    }
}
