//! Edges between items that were retrieved together.

use crate::codec::{self, Kind};
use crate::error::{Error, Result};
use crate::item::ItemId;
use crate::metrics::Metrics;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

const KIND: Kind = Kind {
    tag: *b"EDGW",
    version: 1,
};

/// Undirected weights between item ids. Changes wait until [`EdgeWeights::commit`].
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct EdgeWeights {
    weights: BTreeMap<(ItemId, ItemId), f64>,
    pending: BTreeMap<(ItemId, ItemId), f64>,
    commits: u64,
}

impl EdgeWeights {
    /// Without edges.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn key(a: &ItemId, b: &ItemId) -> (ItemId, ItemId) {
        if a <= b {
            (a.clone(), b.clone())
        } else {
            (b.clone(), a.clone())
        }
    }

    /// Lets (quality − 0.5)·2·scale wait for each unordered pair of distinct items; O(n²).
    pub fn update_from_signal(&mut self, items: &[ItemId], quality: f64, scale: f64) -> Result<()> {
        for (name, v) in [("quality", quality), ("scale", scale)] {
            if !v.is_finite() {
                return Err(Error::NotFinite {
                    name,
                    index: 0,
                    value: v as f32,
                });
            }
        }
        let change = (quality - 0.5) * 2.0 * scale;
        let mut distinct = items.to_vec();
        distinct.sort();
        distinct.dedup();
        for (i, a) in distinct.iter().enumerate() {
            for b in &distinct[i + 1..] {
                *self.pending.entry(Self::key(a, b)).or_insert(0.0) += change;
            }
        }
        Ok(())
    }

    /// Adds what waits to the weights; returns how many edges it touched.
    pub fn commit(&mut self) -> usize {
        let pending = std::mem::take(&mut self.pending);
        let touched = pending.len();
        for (key, change) in pending {
            *self.weights.entry(key).or_insert(0.0) += change;
        }
        self.commits += 1;
        touched
    }

    /// Committed weight; 0 where there is no edge.
    #[must_use]
    pub fn get(&self, a: &ItemId, b: &ItemId) -> f64 {
        self.weights.get(&Self::key(a, b)).copied().unwrap_or(0.0)
    }

    /// Number of committed edges.
    #[must_use]
    pub fn len(&self) -> usize {
        self.weights.len()
    }

    /// True if nothing was committed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.weights.is_empty()
    }

    /// Counters and gauges.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        vec![
            ("edges", self.weights.len().into()),
            ("pending", self.pending.len().into()),
            ("commits", self.commits.into()),
        ]
    }

    /// Serialises; ids that live only in this process cannot be.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        codec::encode(KIND, self).map_err(|e| {
            let wanted = "int, str, bytes or tuples of those, to be written";
            Error::value("item_ids", wanted, e)
        })
    }

    /// Reads back what [`Self::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let this: Self = codec::decode(KIND, bytes)?;
        let fine = |m: &BTreeMap<(ItemId, ItemId), f64>| m.iter().all(|(k, v)| k.0 < k.1 && v.is_finite());
        if fine(&this.weights) && fine(&this.pending) {
            Ok(this)
        } else {
            Err(Error::corrupt(
                "EdgeWeights state",
                "an edge out of order or a weight not finite",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_wait_for_the_commit() {
        let mut e = EdgeWeights::new();
        let ids: Vec<ItemId> = [3, 1, 2, 1].into_iter().map(ItemId::from).collect();
        e.update_from_signal(&ids, 1.0, 0.01).unwrap();
        e.update_from_signal(&ids[..2], 0.0, 0.01).unwrap();
        assert_eq!(e.get(&1.into(), &2.into()), 0.0);
        assert_eq!(e.commit(), 3);
        assert!((e.get(&2.into(), &1.into()) - 0.01).abs() < 1e-15);
        assert_eq!(e.get(&3.into(), &1.into()), 0.0);
        assert_eq!(e.len(), 3);
        assert_eq!(e.commit(), 0);
        assert!(e.update_from_signal(&ids, f64::NAN, 0.01).is_err());
        assert_eq!(EdgeWeights::from_bytes(&e.to_bytes().unwrap()).unwrap(), e);
        assert!(EdgeWeights::from_bytes(b"rubbish").is_err());
    }
}
