//! Saving and restoring a pool.

use super::AdapterPool;
use super::entry::{Counters, Entry, Home, PoolConfig};
use crate::codec::{self, Kind};
use crate::error::{Error, Result, check_dim, check_finite};
use crate::lora::micro::MicroLora;
use crate::lora::shared::SharedMicroLora;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

const KIND: Kind = Kind {
    tag: *b"APOL",
    version: 2,
};

#[derive(Serialize, Deserialize)]
struct SavedEntry {
    id: u64,
    centroid: Vec<f32>,
    seen: u64,
    used: u64,
    pinned: bool,
    lora: MicroLora,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    config: PoolConfig,
    entries: Vec<SavedEntry>,
    turn: u64,
    next: u64,
    unreported: Vec<u64>,
    redirects: BTreeMap<u64, u64>,
    together: BTreeMap<(u64, u64), u64>,
    counters: Counters,
}

impl AdapterPool {
    /// Serialises everything, the spilled adapters included.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut entries = Vec::with_capacity(self.entries.len());
        for (id, e) in &self.entries {
            let live = match &e.home {
                Home::Memory(a) => Some(Arc::clone(a)),
                Home::Disk(_, handle) => handle.upgrade(),
            };
            let lora = match (live, &e.home) {
                (Some(a), _) => a.read(MicroLora::clone),
                (None, Home::Disk(path, _)) => self.read_spilled(path)?,
                (None, Home::Memory(a)) => a.read(MicroLora::clone),
            };
            entries.push(SavedEntry {
                id: *id,
                centroid: e.centroid.clone(),
                seen: e.seen,
                used: e.used,
                pinned: e.pinned,
                lora,
            });
        }
        let saved = Saved {
            config: self.config.clone(),
            entries,
            turn: self.turn,
            next: self.next,
            unreported: self.unreported.clone(),
            redirects: self.redirects.clone(),
            together: self.together.clone(),
            counters: self.counters,
        };
        codec::encode(KIND, &saved)
    }

    /// Reads back what [`Self::to_bytes`] wrote. All adapters come to memory; those beyond the budget are spilled, and
    /// without `spill` that is an error, because it would lose them.
    pub fn from_bytes(bytes: &[u8], spill: Option<PathBuf>) -> Result<Self> {
        let saved: Saved = codec::decode(KIND, bytes)?;
        let mut pool = Self::restore(saved).map_err(|e| Error::corrupt("AdapterPool state", e))?;
        if let Some(dir) = &spill {
            fs::create_dir_all(dir).map_err(|e| Error::store("create", dir, e))?;
        } else {
            pool.check_budget(
                pool.memory_bytes(),
                "without a spill directory the saved adapters need",
            )?;
        }
        pool.spill = spill;
        if let Some(budget) = pool.config.memory_budget {
            let (told, counters) = (pool.unreported.clone(), pool.counters);
            pool.evict_to(budget, None)?;
            (pool.unreported, pool.counters) = (told, counters);
        }
        Ok(pool)
    }

    fn restore(saved: Saved) -> Result<Self> {
        let mut pool = Self::new(saved.config, None)?;
        for s in saved.entries {
            s.lora.validate()?;
            check_dim("centroid", pool.config.dim, s.centroid.len())?;
            check_finite("centroid", &s.centroid)?;
            check_dim("adapter", pool.config.dim, s.lora.factors().dim())?;
            check_dim("adapter's rank", pool.config.rank, s.lora.factors().rank())?;
            if s.id >= saved.next || s.used > saved.turn || pool.order.insert(s.used, s.id).is_some() {
                return Err(Error::corrupt("entry", "inconsistent id or turn"));
            }
            let entry = Entry {
                centroid: s.centroid,
                seen: s.seen,
                used: s.used,
                pinned: s.pinned,
                home: Home::Memory(Arc::new(SharedMicroLora::new(s.lora))),
            };
            if pool.entries.insert(s.id, entry).is_some() {
                return Err(Error::corrupt("entry", "an id twice"));
            }
        }
        let known = |id: &u64| pool.entries.contains_key(id);
        let led = |(from, to): (&u64, &u64)| !known(from) && *from < saved.next && known(to);
        let paired = |(a, b): &(u64, u64)| a < b && known(a) && known(b);
        if !saved.redirects.iter().all(led) || !saved.together.keys().all(paired) {
            return Err(Error::corrupt("entry", "an id that leads nowhere"));
        }
        pool.redirects = saved.redirects;
        pool.together = saved.together;
        pool.turn = saved.turn;
        pool.next = saved.next;
        pool.unreported = saved.unreported;
        pool.counters = saved.counters;
        Ok(pool)
    }
}
