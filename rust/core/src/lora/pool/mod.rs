//! One small adapter per task, inside a byte budget.

mod batch;
mod entry;
mod eviction;
mod merging;
mod state;

pub use batch::Grouped;
pub use entry::PoolConfig;
pub use merging::Merge;

use super::micro::MicroLora;
use super::shared::{Returned, SharedMicroLora};
use crate::error::{Error, Result, check_dim, check_finite};
use crate::kernels;
use crate::metrics::Metrics;
use crate::store::atomic;
use entry::{Counters, Entry, Home};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

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
    /// Spilled adapters that somebody has trained since.
    returned: Arc<Returned>,
    /// Evicted since the caller last asked.
    unreported: Vec<u64>,
    /// Where the ids of merged adapters lead.
    redirects: BTreeMap<u64, u64>,
    /// How often two adapters, the older first, were both near enough to a task.
    together: BTreeMap<(u64, u64), u64>,
    counters: Counters,
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
            nonce: eviction::nonce(),
            entries: BTreeMap::new(),
            order: BTreeMap::new(),
            turn: 0,
            next: 0,
            returned: Arc::default(),
            unreported: Vec::new(),
            redirects: BTreeMap::new(),
            together: BTreeMap::new(),
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
        self.take_back()?;
        let norm = f64::from(kernels::norm(task));
        if norm == 0.0 {
            return Err(Error::value("task_embedding", "a vector other than zero", "zero"));
        }
        if let Some(similarity) = self.config.merge_similarity {
            if (self.counters.reused + 1).is_multiple_of(merging::EVERY) {
                self.merge(similarity, merging::TOGETHER)?;
            }
        }
        let mut best: Option<(f64, u64)> = None;
        let mut second: Option<(f64, u64)> = None;
        for (id, e) in &self.entries {
            let len = f64::from(kernels::norm(&e.centroid));
            let cos = f64::from(kernels::dot(&e.centroid, task)) / (norm * len);
            if len > 0.0 && cos >= self.config.similarity {
                if best.is_none_or(|b| cos > b.0) {
                    second = best.replace((cos, *id));
                } else if second.is_none_or(|b| cos > b.0) {
                    second = Some((cos, *id));
                }
            }
        }
        let (id, adapter) = match best {
            Some((_, id)) => {
                let adapter = self.fetch(id)?;
                self.counters.reused += 1;
                if let Some((_, other)) = second.filter(|(_, other)| self.entries.contains_key(other)) {
                    self.fired(id, other);
                }
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

    /// The adapter `id`, brought back to memory if it was spilled, or the one it was merged into; `None` if the pool does
    /// not have it.
    pub fn get(&mut self, id: u64) -> Result<Option<Arc<SharedMicroLora>>> {
        self.take_back()?;
        let id = self.resolve(id);
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
            adapter.stay();
            atomic::remove_if_there(&file)?;
            self.counters.reloaded += 1;
        }
        self.touch(id);
        Ok(adapter)
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
        self.take_back()?;
        let id = self.resolve(id);
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
        let id = self.resolve(id);
        self.entries.get_mut(&id).map(|e| e.pinned = false).is_some()
    }

    fn pinned_bytes(&self) -> usize {
        self.entries
            .values()
            .filter(|e| e.pinned)
            .map(Entry::nbytes)
            .sum()
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
        // The list is copied: an adapter's writer holds its own lock while it enters the list.
        let returned: Vec<_> = self.returned.lock().clone();
        let outside = returned.iter().filter_map(|(id, adapter)| {
            let spilled = matches!(self.entries.get(id)?.home, Home::Disk(..));
            spilled.then(|| adapter.read(MicroLora::nbytes))
        });
        self.entries.values().map(Entry::nbytes).sum::<usize>() + outside.sum::<usize>()
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
            ("merged", c.merged.into()),
            ("pairs", self.together.len().into()),
        ]
    }
}

#[cfg(test)]
mod tests;
