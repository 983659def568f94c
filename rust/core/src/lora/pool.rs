//! One small adapter per task, inside a byte budget.

use super::micro::{MicroConfig, MicroLora};
use super::shared::SharedMicroLora;
use crate::codec::{self, Kind};
use crate::error::{Error, Result, check_dim, check_finite};
use crate::kernels;
use crate::metrics::Metrics;
use crate::rng::{self, RngExt};
use crate::store::atomic;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

const KIND: Kind = Kind {
    tag: *b"APOL",
    version: 1,
};

/// How an [`AdapterPool`] is bounded and makes adapters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PoolConfig {
    /// Length of task embeddings and of the adapters' vectors.
    pub dim: usize,
    /// Rank of the adapters.
    pub rank: usize,
    /// Most bytes in memory.
    pub memory_budget: Option<usize>,
    /// Cosine from which a task counts as known.
    pub similarity: f64,
    /// Seed of the adapters.
    pub seed: u64,
}

impl PoolConfig {
    fn validate(&self) -> Result<()> {
        MicroLora::new(self.adapter(0)).map_err(|e| match e {
            Error::Config {
                name: "hidden_dim",
                expected,
                got,
            } => Error::config("dim", expected, got),
            other => other,
        })?;
        if !(-1.0..=1.0).contains(&self.similarity) {
            return Err(Error::config(
                "similarity",
                "a cosine in [-1, 1]",
                self.similarity,
            ));
        }
        if self.memory_budget == Some(0) {
            return Err(Error::config("memory_budget", "at least 1, or none", 0));
        }
        Ok(())
    }

    fn adapter(&self, id: u64) -> MicroConfig {
        let mut config = MicroConfig::new(self.dim, self.rank);
        config.seed = rng::stream(self.seed, id).random();
        config
    }
}

#[derive(Debug)]
enum Home {
    Memory(Arc<SharedMicroLora>),
    /// On disk; the handle finds the adapter again if somebody still uses it.
    Disk(PathBuf, Weak<SharedMicroLora>),
}

#[derive(Debug)]
struct Entry {
    centroid: Vec<f32>,
    seen: u64,
    /// Turn of the last use.
    used: u64,
    pinned: bool,
    home: Home,
}

impl Entry {
    /// What the entry costs besides its adapter.
    fn fixed(&self) -> usize {
        size_of::<Self>() + self.centroid.len() * size_of::<f32>()
    }

    fn nbytes(&self) -> usize {
        let adapter = match &self.home {
            Home::Memory(a) => a.read(MicroLora::nbytes),
            Home::Disk(..) => 0,
        };
        self.fixed() + adapter
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Counters {
    created: u64,
    reused: u64,
    evicted: u64,
    spilled: u64,
    reloaded: u64,
}

/// Adapters by nearest task centroid; the least recently used ones leave memory first.
#[derive(Debug)]
pub struct AdapterPool {
    config: PoolConfig,
    spill: Option<PathBuf>,
    /// Part of the spill files' names, so that two pools may share a directory.
    nonce: u64,
    entries: BTreeMap<u64, Entry>,
    /// Ids by turn of last use.
    order: BTreeMap<u64, u64>,
    turn: u64,
    next: u64,
    /// Evicted since the caller last asked.
    unreported: Vec<u64>,
    counters: Counters,
}

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
    counters: Counters,
}

fn nonce() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |t| t.as_nanos() as u64);
    now ^ (u64::from(std::process::id()) << 40) ^ NEXT.fetch_add(1, Relaxed)
}

impl AdapterPool {
    /// An empty pool. With `spill`, adapters that leave memory go to files in that directory; without, they are dropped.
    pub fn new(config: PoolConfig, spill: Option<PathBuf>) -> Result<Self> {
        config.validate()?;
        if let Some(dir) = &spill {
            fs::create_dir_all(dir).map_err(|e| Error::store("create", dir, e))?;
        }
        Ok(Self {
            config,
            spill,
            nonce: nonce(),
            entries: BTreeMap::new(),
            order: BTreeMap::new(),
            turn: 0,
            next: 0,
            unreported: Vec::new(),
            counters: Counters::default(),
        })
    }

    /// Configuration.
    #[must_use]
    pub fn config(&self) -> &PoolConfig {
        &self.config
    }

    /// The adapter of the nearest task if its cosine reaches the threshold, else a new one; O(n·d).
    pub fn select(&mut self, task: &[f32]) -> Result<(u64, Arc<SharedMicroLora>)> {
        check_dim("task_embedding", self.config.dim, task.len())?;
        check_finite("task_embedding", task)?;
        let norm = f64::from(kernels::norm(task));
        if norm == 0.0 {
            return Err(Error::value("task_embedding", "a vector other than zero", "zero"));
        }
        let mut best: Option<(f64, u64)> = None;
        for (id, e) in &self.entries {
            let len = f64::from(kernels::norm(&e.centroid));
            let cos = f64::from(kernels::dot(&e.centroid, task)) / (norm * len);
            if len > 0.0 && cos >= self.config.similarity && best.is_none_or(|b| cos > b.0) {
                best = Some((cos, *id));
            }
        }
        let (id, adapter) = match best {
            Some((_, id)) => {
                let adapter = self.fetch(id)?;
                self.counters.reused += 1;
                (id, adapter)
            }
            None => self.create(task.len())?,
        };
        if let Some(e) = self.entries.get_mut(&id) {
            e.seen += 1;
            let share = 1.0 / e.seen as f32;
            for (c, x) in e.centroid.iter_mut().zip(task) {
                *c += (x - *c) * share;
            }
        }
        Ok((id, adapter))
    }

    fn create(&mut self, d: usize) -> Result<(u64, Arc<SharedMicroLora>)> {
        let id = self.next;
        let adapter = Arc::new(SharedMicroLora::new(MicroLora::new(self.config.adapter(id))?));
        let entry = Entry {
            centroid: vec![0.0; d],
            seen: 0,
            used: 0,
            pinned: false,
            home: Home::Memory(Arc::clone(&adapter)),
        };
        self.make_room(entry.nbytes(), id)?;
        self.next += 1;
        self.entries.insert(id, entry);
        self.touch(id);
        self.counters.created += 1;
        Ok((id, adapter))
    }

    /// The adapter `id`, brought back to memory if it was spilled; `None` if the pool does not have it.
    pub fn get(&mut self, id: u64) -> Result<Option<Arc<SharedMicroLora>>> {
        if self.entries.contains_key(&id) {
            self.fetch(id).map(Some)
        } else {
            Ok(None)
        }
    }

    /// Brings a known adapter to memory and makes it the most recently used.
    fn fetch(&mut self, id: u64) -> Result<Arc<SharedMicroLora>> {
        let (adapter, file) = match self.entries.get(&id).map(|e| &e.home) {
            Some(Home::Memory(a)) => (Arc::clone(a), None),
            Some(Home::Disk(path, handle)) => {
                let adapter = match handle.upgrade() {
                    // Somebody kept using it after it was spilled: theirs is the newer one.
                    Some(a) => a,
                    None => Arc::new(SharedMicroLora::new(self.read_spilled(path)?)),
                };
                (adapter, Some(path.clone()))
            }
            None => return Err(Error::value("id", "an adapter of this pool", id)),
        };
        if let Some(file) = file {
            self.make_room(adapter.read(MicroLora::nbytes), id)?;
            if let Some(e) = self.entries.get_mut(&id) {
                e.home = Home::Memory(Arc::clone(&adapter));
            }
            atomic::remove_if_there(&file)?;
            self.counters.reloaded += 1;
        }
        self.touch(id);
        Ok(adapter)
    }

    fn read_spilled(&self, path: &Path) -> Result<MicroLora> {
        let bytes = fs::read(path).map_err(|e| Error::store("read", path, e))?;
        let lora = MicroLora::from_bytes(&bytes)?;
        check_dim("spilled adapter", self.config.dim, lora.factors().dim())?;
        check_dim("spilled adapter's rank", self.config.rank, lora.factors().rank())?;
        Ok(lora)
    }

    fn touch(&mut self, id: u64) {
        if let Some(e) = self.entries.get_mut(&id) {
            self.order.remove(&e.used);
            self.turn += 1;
            e.used = self.turn;
            self.order.insert(self.turn, id);
        }
    }

    /// Keeps an adapter in memory. Errors if the pinned ones alone would exceed the budget.
    pub fn pin(&mut self, id: u64) -> Result<bool> {
        let Some(e) = self.entries.get(&id) else {
            return Ok(false);
        };
        if e.pinned {
            return Ok(true);
        }
        let size = match &e.home {
            Home::Memory(_) => 0,
            Home::Disk(path, _) => fs::metadata(path).map_or(0, |m| m.len() as usize),
        };
        let pinned = self.pinned_bytes() + e.nbytes() + size;
        self.check_budget(pinned, "the pinned adapters alone would need")?;
        self.fetch(id)?;
        if let Some(e) = self.entries.get_mut(&id) {
            e.pinned = true;
        }
        Ok(true)
    }

    /// Lets an adapter be evicted again; false if the pool does not have it.
    pub fn unpin(&mut self, id: u64) -> bool {
        self.entries.get_mut(&id).map(|e| e.pinned = false).is_some()
    }

    fn pinned_bytes(&self) -> usize {
        self.entries
            .values()
            .filter(|e| e.pinned)
            .map(Entry::nbytes)
            .sum()
    }

    fn check_budget(&self, needed: usize, what: &str) -> Result<()> {
        match self.config.memory_budget {
            Some(budget) if needed > budget => Err(Error::Capacity {
                name: "memory_budget",
                limit: format!("{what} {needed} bytes"),
                got: format!("a budget of {budget}"),
            }),
            _ => Ok(()),
        }
    }

    /// Evicts until `needed` more bytes fit; `keep` stays. Nothing is evicted if that cannot succeed.
    fn make_room(&mut self, needed: usize, keep: u64) -> Result<()> {
        let Some(budget) = self.config.memory_budget else {
            return Ok(());
        };
        // What cannot leave: pinned adapters, and the centroids of spilled ones.
        let fixed: usize = self
            .entries
            .iter()
            .filter(|(id, _)| **id != keep)
            .map(|(_, e)| match (e.pinned, self.spill.is_some()) {
                (true, _) => e.nbytes(),
                (false, true) => e.fixed(),
                (false, false) => 0,
            })
            .sum();
        self.check_budget(fixed + needed, "this adapter and what cannot be evicted need")?;
        self.evict_to(budget.saturating_sub(needed), Some(keep))
    }

    fn evict_to(&mut self, limit: usize, keep: Option<u64>) -> Result<()> {
        let mut held = self.memory_bytes();
        while held > limit {
            let victim = self.order.values().copied().find(|id| {
                let e = &self.entries[id];
                Some(*id) != keep && !e.pinned && matches!(e.home, Home::Memory(_))
            });
            let Some(id) = victim else { break };
            held -= self.evict(id)?;
        }
        Ok(())
    }

    /// Takes one adapter out of memory; returns the bytes freed.
    fn evict(&mut self, id: u64) -> Result<usize> {
        let Some(e) = self.entries.get_mut(&id) else {
            return Ok(0);
        };
        let before = e.nbytes();
        let freed = match (&self.spill, &e.home) {
            (_, Home::Disk(..)) => return Ok(0),
            (Some(dir), Home::Memory(adapter)) => {
                let name = blake3::hash(format!("{}/{id}", self.nonce).as_bytes()).to_hex();
                let path = dir.join(format!("{}.sona", &name[..32]));
                let bytes = adapter.read(MicroLora::to_bytes)?;
                atomic::replace(&path, |w| {
                    w.write_all(&bytes).map_err(|e| Error::store("write", &path, e))
                })?;
                e.home = Home::Disk(path, Arc::downgrade(adapter));
                self.counters.spilled += 1;
                before - e.nbytes()
            }
            (None, Home::Memory(_)) => {
                self.order.remove(&e.used);
                self.entries.remove(&id);
                before
            }
        };
        self.unreported.push(id);
        self.counters.evicted += 1;
        Ok(freed)
    }

    /// Evicts the least recently used adapters until the budget holds; returns all ids that left memory since the last
    /// call, those evicted by [`Self::select`] included.
    pub fn prune_lru(&mut self) -> Result<Vec<u64>> {
        if let Some(budget) = self.config.memory_budget {
            self.evict_to(budget, None)?;
        }
        Ok(std::mem::take(&mut self.unreported))
    }

    /// Ids that can be selected or got, ascending.
    #[must_use]
    pub fn ids(&self) -> Vec<u64> {
        self.entries.keys().copied().collect()
    }

    /// Number of adapters, spilled ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes that the pool keeps in memory.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.entries.values().map(Entry::nbytes).sum()
    }

    /// Counters and gauges.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let c = &self.counters;
        let resident = self
            .entries
            .values()
            .filter(|e| matches!(e.home, Home::Memory(_)));
        vec![
            ("adapters", self.len().into()),
            ("resident", resident.count().into()),
            (
                "pinned",
                self.entries.values().filter(|e| e.pinned).count().into(),
            ),
            ("memory_bytes", self.memory_bytes().into()),
            ("created", c.created.into()),
            ("reused", c.reused.into()),
            ("evicted", c.evicted.into()),
            ("spilled", c.spilled.into()),
            ("reloaded", c.reloaded.into()),
        ]
    }

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
        pool.turn = saved.turn;
        pool.next = saved.next;
        pool.unreported = saved.unreported;
        pool.counters = saved.counters;
        Ok(pool)
    }
}

impl Drop for AdapterPool {
    fn drop(&mut self) {
        for e in self.entries.values() {
            if let Home::Disk(path, _) = &e.home {
                // Nothing can be done about a file that stays, and its name is never used again.
                let _ = atomic::remove_if_there(path);
            }
        }
    }
}

#[cfg(test)]
#[path = "pool_tests.rs"]
mod tests;
