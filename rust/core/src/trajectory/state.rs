//! The saved form of a buffer.

use super::buffer::{BufferStats, Policy, TrajectoryBuffer};
use super::record::Trajectory;
use crate::codec::{self, Kind};
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

const KIND: Kind = Kind {
    tag: *b"TBUF",
    version: 1,
};

/// Settings, counters and records of a [`TrajectoryBuffer`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BufferState {
    capacity: usize,
    policy: Policy,
    max_bytes: Option<usize>,
    seed: u64,
    stats: BufferStats,
    seen: u64,
    /// Oldest first.
    pub items: Vec<Trajectory>,
}

impl BufferState {
    /// Of `buffer`, with its records as `items`.
    pub fn of<T>(buffer: &TrajectoryBuffer<T>, items: Vec<Trajectory>) -> Self {
        Self {
            capacity: buffer.capacity(),
            policy: buffer.policy(),
            max_bytes: buffer.max_bytes(),
            seed: buffer.seed(),
            stats: buffer.stats(),
            seen: buffer.seen(),
            items,
        }
    }

    /// The buffer again; `items` are its records with their sizes.
    pub fn restore<T>(&self, items: impl IntoIterator<Item = (T, usize)>) -> Result<TrajectoryBuffer<T>> {
        let buffer = TrajectoryBuffer::new(self.capacity, self.policy, self.max_bytes, self.seed)?;
        for (item, bytes) in items {
            if !buffer.record(item, bytes) {
                return Err(Error::corrupt(
                    "TrajectoryBuffer",
                    "the records do not fit its limits",
                ));
            }
        }
        if buffer.stats().dropped > 0 {
            return Err(Error::corrupt(
                "TrajectoryBuffer",
                "the records do not fit its limits",
            ));
        }
        buffer.restore_counters(&self.stats, self.seen);
        Ok(buffer)
    }

    /// Serialises.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        codec::encode(KIND, self)
    }

    /// Reads back what [`Self::to_bytes`] wrote.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let this: Self = codec::decode(KIND, bytes)?;
        if this.items.len() > this.capacity {
            return Err(Error::corrupt("TrajectoryBuffer", "more records than capacity"));
        }
        for item in &this.items {
            item.validate()
                .map_err(|e| Error::corrupt("TrajectoryBuffer", e))?;
        }
        Ok(this)
    }
}
