//! The byte budget: who leaves memory, the files they go to, and how one that is still in use comes back.

use super::AdapterPool;
use super::entry::Home;
use crate::error::{Error, Result, check_dim};
use crate::lora::micro::MicroLora;
use crate::lora::shared::Recall;
use crate::store::atomic;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Part of the spill files' names, different for every pool.
pub(super) fn nonce() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |t| t.as_nanos() as u64);
    now ^ (u64::from(std::process::id()) << 40) ^ NEXT.fetch_add(1, Relaxed)
}

impl AdapterPool {
    /// Takes back adapters that somebody went on training after they were spilled: their files are out of date.
    pub(super) fn take_back(&mut self) -> Result<()> {
        let returned = std::mem::take(&mut *self.returned.lock());
        if returned.is_empty() {
            return Ok(());
        }
        let mut stale = Vec::new();
        for (id, adapter) in returned {
            let Some(e) = self.entries.get_mut(&id) else {
                continue;
            };
            if let Home::Disk(path, _) = &e.home {
                stale.push(path.clone());
                e.home = Home::Memory(adapter);
                self.counters.reloaded += 1;
                self.touch(id);
            }
        }
        for path in stale {
            atomic::remove_if_there(&path)?;
        }
        match self.config.memory_budget {
            Some(budget) => self.evict_to(budget, None),
            None => Ok(()),
        }
    }

    pub(super) fn read_spilled(&self, path: &Path) -> Result<MicroLora> {
        let bytes = fs::read(path).map_err(|e| Error::store("read", path, e))?;
        let lora = MicroLora::from_bytes(&bytes)?;
        check_dim("spilled adapter", self.config.dim, lora.factors().dim())?;
        check_dim("spilled adapter's rank", self.config.rank, lora.factors().rank())?;
        Ok(lora)
    }

    pub(super) fn check_budget(&self, needed: usize, what: &str) -> Result<()> {
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
    pub(super) fn make_room(&mut self, needed: usize, keep: u64) -> Result<()> {
        let Some(budget) = self.config.memory_budget else {
            return Ok(());
        };
        // What cannot leave: pinned adapters, and the centroids of spilled ones.
        let fixed: usize = self
            .entries
            .iter()
            .map(|(id, e)| match (e.pinned, self.spill.is_some()) {
                _ if *id == keep => e.fixed(),
                (true, _) => e.nbytes(),
                (false, true) => e.fixed(),
                (false, false) => 0,
            })
            .sum();
        self.check_budget(fixed + needed, "this adapter and what cannot be evicted need")?;
        self.evict_to(budget.saturating_sub(needed), Some(keep))
    }

    pub(super) fn evict_to(&mut self, limit: usize, keep: Option<u64>) -> Result<()> {
        let mut held = self.memory_bytes();
        while held > limit {
            let victim = self.order.values().copied().find(|id| {
                let e = &self.entries[id];
                Some(*id) != keep && !e.pinned && matches!(e.home, Home::Memory(_))
            });
            let Some(id) = victim else { break };
            // An adapter may grow in somebody's hands while this runs.
            held = held.saturating_sub(self.evict(id)?);
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
                let bytes = adapter.leave(Recall::new(id, adapter, &self.returned))?;
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
                self.unpair(id);
                self.redirects.retain(|_, to| *to != id);
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
        self.take_back()?;
        if let Some(budget) = self.config.memory_budget {
            self.evict_to(budget, None)?;
        }
        Ok(std::mem::take(&mut self.unreported))
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
