//! Prioritised experience replay (Schaul et al. 2016): which slot to keep, which to draw, how much it counts.
//!
//! The items themselves are the caller's, by slot.

use super::replay_config::{KeepPolicy, ReplayConfig};
use super::sum_tree::SumTree;
use crate::codec::{self, Kind};
use crate::error::{Error, Result, check_number};
use crate::metrics::Metrics;
use crate::rng::{RngExt, stream};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

const KIND: Kind = Kind {
    tag: *b"PRPL",
    version: 1,
};
/// Largest p, so that the sum over all slots stays finite.
const MAX_MASS: f64 = 1e280;
/// Most items of one draw.
const MAX_BATCH: usize = 1 << 24;
/// Streams of the reservoir; those below are for batches.
const RESERVOIR: u64 = 1 << 63;

/// An item in saved state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SavedItem {
    /// A number.
    Int(i64),
    /// Text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// Anything else, as its owner wrote it.
    Dumped(Vec<u8>),
}

/// What [`PriorityReplay::add`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// Where the item is now; `None` if it was not kept.
    pub slot: Option<usize>,
    /// Slots whose former item is gone. The new item's own slot may be among them.
    pub evicted: Vec<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Counters {
    added: u64,
    evicted: u64,
    refused: u64,
    sampled: u64,
    batches: u64,
    updated: u64,
}

/// Priorities by slot.
#[derive(Debug, Clone)]
pub struct PriorityReplay {
    config: ReplayConfig,
    tree: SumTree,
    /// Bytes per slot; `None` where it is empty.
    sizes: Vec<Option<usize>>,
    /// Filled slots, oldest first.
    order: VecDeque<usize>,
    /// Empty slots below `sizes.len()`, last emptied last.
    free: Vec<usize>,
    bytes: usize,
    /// Largest priority so far.
    largest: Option<f64>,
    counters: Counters,
}

#[derive(Serialize, Deserialize)]
struct Image {
    config: ReplayConfig,
    /// p of each slot; 0 where it is empty.
    masses: Vec<f64>,
    sizes: Vec<Option<usize>>,
    order: Vec<usize>,
    free: Vec<usize>,
    largest: Option<f64>,
    counters: Counters,
    /// By slot.
    items: Vec<Option<SavedItem>>,
}

impl PriorityReplay {
    /// Empty.
    pub fn new(config: ReplayConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            config,
            tree: SumTree::default(),
            sizes: Vec::new(),
            order: VecDeque::new(),
            free: Vec::new(),
            bytes: 0,
            largest: None,
            counters: Counters::default(),
        })
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &ReplayConfig {
        &self.config
    }

    /// Items held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// True without items.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Slots in use or used before.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.sizes.len()
    }

    fn mass(&self, name: &'static str, priority: f64) -> Result<f64> {
        check_number(name, priority)?;
        let p = (priority.abs() + self.config.eps).powf(self.config.alpha);
        if p > 0.0 && p <= MAX_MASS {
            Ok(p)
        } else {
            Err(Error::value(
                name,
                format!("0 < (|priority| + eps)**alpha <= {MAX_MASS:e}"),
                p,
            ))
        }
    }

    /// Takes in an item of `bytes`; `None`: with the largest priority so far, so that it is seen at least once.
    pub fn add(&mut self, priority: Option<f64>, bytes: usize) -> Result<Added> {
        let raw = priority.map_or_else(|| self.largest.unwrap_or(1.0), f64::abs);
        let mass = self.mass("priority", raw)?;
        if let Some(limit) = self.config.max_bytes.filter(|m| bytes > *m) {
            return Err(Error::Capacity {
                name: "item",
                limit: format!("at most {limit} bytes (max_bytes)"),
                got: format!("{bytes}"),
            });
        }
        self.counters.added += 1;
        let mut evicted = Vec::new();
        let crowded = |s: &Self| {
            s.len() >= s.config.capacity || s.config.max_bytes.is_some_and(|m| s.bytes + bytes > m)
        };
        if crowded(self) {
            let mut rng = stream(self.config.seed, RESERVOIR | self.counters.added);
            if self.config.policy == KeepPolicy::Reservoir
                && rng.random_range(0..self.counters.added) >= self.len() as u64
            {
                self.counters.refused += 1;
                return Ok(Added { slot: None, evicted });
            }
            while crowded(self) {
                let place = match self.config.policy {
                    KeepPolicy::Oldest => 0,
                    KeepPolicy::Reservoir => rng.random_range(0..self.len()),
                };
                if let Some(slot) = self.order.remove(place) {
                    self.bytes -= self.sizes[slot].take().unwrap_or(0);
                    self.tree.set(slot, 0.0);
                    self.free.push(slot);
                    evicted.push(slot);
                }
            }
            self.counters.evicted += evicted.len() as u64;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.sizes.push(None);
            self.sizes.len() - 1
        });
        self.sizes[slot] = Some(bytes);
        self.order.push_back(slot);
        self.bytes += bytes;
        self.tree.set(slot, mass);
        self.largest = Some(self.largest.unwrap_or(0.0).max(raw));
        Ok(Added {
            slot: Some(slot),
            evicted,
        })
    }

    fn held(&self) -> Result<()> {
        if self.is_empty() {
            return Err(Error::value("buffer", "at least one item", "an empty one"));
        }
        Ok(())
    }

    fn filled(&self, slot: usize) -> Result<()> {
        match self.sizes.get(slot) {
            Some(Some(_)) => Ok(()),
            _ => Err(Error::value("indices", "slots that hold an item", slot)),
        }
    }

    /// Slots drawn with replacement, in proportion to p.
    pub fn sample(&mut self, n: usize) -> Result<Vec<usize>> {
        self.held()?;
        if n > MAX_BATCH {
            return Err(Error::Capacity {
                name: "batch_size",
                limit: format!("at most {MAX_BATCH}"),
                got: n.to_string(),
            });
        }
        let mut rng = stream(self.config.seed, self.counters.batches);
        self.counters.batches += 1;
        self.counters.sampled += n as u64;
        let total = self.tree.total();
        Ok((0..n)
            .map(|_| self.tree.find(rng.random::<f64>() * total))
            .collect())
    }

    /// p/Σp per slot; 0 where it is empty.
    #[must_use]
    pub fn probabilities(&self) -> Vec<f64> {
        let total = self.tree.total();
        (0..self.slots()).map(|s| self.tree.get(s) / total).collect()
    }

    /// (n·P)^−β, divided by the largest over the buffer.
    pub fn weights(&self, slots: &[usize], beta: Option<f64>) -> Result<Vec<f64>> {
        let beta = beta.unwrap_or(self.config.beta);
        check_number("beta", beta)?;
        if beta < 0.0 {
            return Err(Error::value("beta", "0 or above", beta));
        }
        slots.iter().try_for_each(|s| self.filled(*s))?;
        let least = self.tree.least();
        Ok(slots
            .iter()
            .map(|s| (least / self.tree.get(*s)).powf(beta))
            .collect())
    }

    /// Smallest slot whose cumulated probability exceeds `u` in [0, 1).
    pub fn locate(&self, u: f64) -> Result<usize> {
        if !(0.0..1.0).contains(&u) {
            return Err(Error::value("u", "a number in [0, 1)", u));
        }
        self.held()?;
        Ok(self.tree.find(u * self.tree.total()))
    }

    /// New priorities |error| of some slots; a slot named twice keeps the last.
    pub fn update(&mut self, slots: &[usize], errors: &[f64]) -> Result<()> {
        if slots.len() != errors.len() {
            return Err(Error::Dimension {
                name: "td_errors",
                expected: slots.len(),
                got: errors.len(),
            });
        }
        slots.iter().try_for_each(|s| self.filled(*s))?;
        let masses = errors
            .iter()
            .map(|e| self.mass("td_errors", *e))
            .collect::<Result<Vec<_>>>()?;
        for (slot, mass) in slots.iter().zip(masses) {
            self.tree.set(*slot, mass);
        }
        let most = errors.iter().map(|e| e.abs()).fold(0.0, f64::max);
        self.largest = Some(self.largest.unwrap_or(0.0).max(most));
        self.counters.updated += slots.len() as u64;
        Ok(())
    }

    /// Bytes of the items as told, and of the tree.
    #[must_use]
    pub fn nbytes(&self) -> usize {
        let slot = size_of::<Option<usize>>() + 2 * size_of::<usize>();
        size_of::<Self>() + self.bytes + self.tree.nbytes() + self.slots() * slot
    }

    /// Counters and gauges.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let c = &self.counters;
        vec![
            ("items", self.len().into()),
            ("added", c.added.into()),
            ("evicted", c.evicted.into()),
            ("refused", c.refused.into()),
            ("sampled", c.sampled.into()),
            ("updated", c.updated.into()),
            ("item_bytes", self.bytes.into()),
            ("nbytes", self.nbytes().into()),
        ]
    }

    /// Serialises everything, with the items by slot.
    pub fn to_bytes(&self, items: Vec<Option<SavedItem>>) -> Result<Vec<u8>> {
        codec::encode(
            KIND,
            &Image {
                config: self.config.clone(),
                masses: (0..self.slots()).map(|s| self.tree.get(s)).collect(),
                sizes: self.sizes.clone(),
                order: self.order.iter().copied().collect(),
                free: self.free.clone(),
                largest: self.largest,
                counters: self.counters,
                items,
            },
        )
    }

    /// Reads back what [`Self::to_bytes`] wrote, and the items by slot.
    pub fn from_bytes(bytes: &[u8]) -> Result<(Self, Vec<Option<SavedItem>>)> {
        let mut image: Image = codec::decode(KIND, bytes)?;
        let items = std::mem::take(&mut image.items);
        let fits = items.len() == image.sizes.len()
            && items
                .iter()
                .zip(&image.sizes)
                .all(|(i, s)| i.is_some() == s.is_some());
        if !fits {
            return Err(Error::corrupt(
                "PriorityReplayBuffer state",
                "items and slots do not fit",
            ));
        }
        let this = image
            .restore()
            .map_err(|e| Error::corrupt("PriorityReplayBuffer state", e))?;
        Ok((this, items))
    }
}

impl Image {
    fn restore(self) -> Result<PriorityReplay> {
        let mut out = PriorityReplay::new(self.config)?;
        let slots = self.sizes.len();
        let mut seen = vec![false; slots];
        let mut once = |s: &usize, filled: bool| {
            let fresh = seen.get_mut(*s).is_some_and(|s| !std::mem::replace(s, true));
            fresh && self.sizes[*s].is_some() == filled
        };
        let whole = self.masses.len() == slots
            && slots <= out.config.capacity
            && self.order.len() + self.free.len() == slots
            && self.order.iter().all(|s| once(s, true))
            && self.free.iter().all(|s| once(s, false))
            && (self.masses.iter().zip(&self.sizes))
                .all(|(m, s)| *m >= 0.0 && *m <= MAX_MASS && (*m > 0.0) == s.is_some())
            && self.largest.is_none_or(|l| l.is_finite() && l >= 0.0)
            && (self.largest.is_some() || slots == 0);
        let bytes = self
            .sizes
            .iter()
            .flatten()
            .try_fold(0usize, |sum, s| sum.checked_add(*s));
        let Some(bytes) = bytes.filter(|_| whole) else {
            return Err(Error::Learning("slots, sizes and masses do not fit".into()));
        };
        // The slot of the highest number first: the tree grows once.
        for (slot, mass) in self.masses.iter().enumerate().rev() {
            out.tree.set(slot, *mass);
        }
        out.sizes = self.sizes;
        out.order = self.order.into();
        out.free = self.free;
        out.bytes = bytes;
        out.largest = self.largest;
        out.counters = self.counters;
        Ok(out)
    }
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
