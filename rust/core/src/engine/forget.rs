//! Forgetting for good: users and sources leave the journal, the snapshots and what was learned.

use super::Engine;
use super::event::Event;
use super::items::Item;
use super::journal::Positions;
use super::pending::DecisionRecord;
use super::requests::Request;
use super::tombstone::{Target, Tombstone};
use crate::error::{Error, Result};
use rustc_hash::FxHashSet;
use std::sync::{Arc, PoisonError};

/// What a removal did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Journal events that are gone.
    pub events: u64,
    /// Decisions that are gone.
    pub decisions: u64,
    /// Cases that the learned state held before and after.
    pub cases_before: u64,
    /// See `cases_before`.
    pub cases_after: u64,
    /// Living writers that share the directory and must remove their part themselves.
    pub alive: Vec<u32>,
}

impl Engine {
    /// Removes every trace of a user: decisions made for them or judged by them, the feedback, and what was learned from it.
    /// The learned state is rebuilt from the remaining events; snapshots that knew the user are deleted. Living writers that
    /// share the directory do the same at their next call. O(journal).
    pub fn forget(&self, user: &str) -> Result<Removed> {
        if user.is_empty() {
            return Err(Error::value("user", "a user's id", "an empty string"));
        }
        self.remove_and_ask(Target::user(user))
    }

    /// Removes all feedback of a source and what was learned from it; decisions stay. O(journal).
    pub fn purge(&self, source: &str) -> Result<Removed> {
        self.remove_and_ask(Target::source(source))
    }

    fn remove_and_ask(&self, target: Target) -> Result<Removed> {
        self.honour_requests()?;
        let (out, tombstone) = self.remove(Tombstone::new(target, u64::MAX))?;
        if let Some(requests) = self.requests.as_ref().filter(|_| !out.alive.is_empty()) {
            let _guard = self.enter()?;
            requests.lock().ask(&tombstone, out.alive.clone())?;
        }
        Ok(out)
    }

    /// Takes out of this writer's log what another writer was asked to forget. Cheap while nobody asks.
    pub(super) fn honour_requests(&self) -> Result<()> {
        let Some(requests) = &self.requests else {
            return Ok(());
        };
        let (own, waiting) = {
            // No lock is held while the process forks.
            let _guard = self.gate.read().unwrap_or_else(PoisonError::into_inner);
            let own = self.journal.lock().worker();
            let mut requests = requests.lock();
            if self.is_closed() || !requests.changed() {
                return Ok(());
            }
            (own, requests.list()?)
        };
        for request in waiting.into_iter().filter(|r| r.waiting.contains(&own)) {
            self.honour(&request)?;
        }
        Ok(())
    }

    /// At opening: requests that nobody who lives will honour, and those that others have yet to.
    pub(super) fn honour_for_the_dead(&self, requests: &[Request]) -> Result<()> {
        requests.iter().try_for_each(|r| self.honour(r))
    }

    fn honour(&self, request: &Request) -> Result<()> {
        let (out, _) = self.remove((*request.tombstone).clone())?;
        let _guard = self.enter()?;
        let own = self.journal.lock().worker();
        let writers: Vec<u32> = request
            .waiting
            .iter()
            .copied()
            .filter(|w| *w == own || !out.alive.contains(w))
            .collect();
        match &self.requests {
            Some(requests) => requests.lock().confirm(request, &writers),
            None => Ok(()),
        }
    }

    /// Writers that have yet to confirm that they forgot, over all requests.
    pub(super) fn forgets_waiting(&self) -> usize {
        let requests = self.requests.as_ref().map(|r| r.lock().list());
        let requests = requests.and_then(Result::ok).unwrap_or_default();
        requests.iter().map(|r| r.waiting.len()).sum()
    }

    /// Returns what was done, and the tombstone with the decisions that it took.
    fn remove(&self, mut tombstone: Tombstone) -> Result<(Removed, Tombstone)> {
        // Nobody else reads or writes meanwhile.
        let _no_cycle = self.between_cycles();
        let _alone = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        if self.is_closed() {
            return Err(Error::Learning("the engine is closed".into()));
        }
        self.take_in()?;
        let cases = |e: &Self| {
            e.scopes
                .load()
                .values()
                .map(|s| s.live.load().cases.len() as u64)
                .sum()
        };
        let mut out = Removed {
            cases_before: cases(self),
            ..Removed::default()
        };
        let mut journal = self.journal.lock();
        if tombstone.until() == u64::MAX {
            tombstone = Tombstone::new(*tombstone.target(), journal.lamport());
        }
        for s in journal.history(&Positions::new())? {
            tombstone.mark(&s?.stamped);
        }
        let mut used: FxHashSet<u64> = FxHashSet::default();
        let mut inhabited: FxHashSet<Arc<str>> = FxHashSet::default();
        for s in journal.history(&Positions::new())? {
            let s = s?;
            if tombstone.hides(&s.stamped) {
                continue;
            }
            match &s.stamped.event {
                Event::Decision(d) => {
                    used.extend(&d.items);
                    inhabited.insert(d.scope.clone());
                }
                Event::Trace(t) => drop(inhabited.insert(t.scope.clone())),
                Event::Anchors { scope, .. } => drop(inhabited.insert(scope.clone())),
                _ => {}
            }
        }
        // A scope in which nothing is left is gone altogether, with its cycles and its name.
        let empty = |e: &Event| match e {
            Event::CycleStart { scope, .. }
            | Event::CyclePublish { scope }
            | Event::CycleCut { scope, .. }
            | Event::Rollback {
                scope: Some(scope), ..
            } => !inhabited.contains(scope),
            _ => false,
        };
        let stays = |r: &DecisionRecord| !tombstone.takes(r.id) && !tombstone.target().is_user(&r.user);
        let durable = journal.is_durable();
        if !durable {
            self.pending
                .lock()
                .iter()
                .filter(|r| stays(r))
                .for_each(|r| used.extend(r.items.iter().map(|i| i.hash)));
        }
        // First: a process killed in between must not find a snapshot that knows more than the journal.
        if let Some(store) = &self.snapshots {
            for version in store.versions()? {
                store.remove(version)?;
            }
        }
        let (events, alive) = journal.rewrite(|s| match &s.stamped.event {
            Event::Item { id, vector, .. } => used.contains(&Item::new(id.clone(), vector).hash),
            other => !tombstone.hides(&s.stamped) && !empty(other),
        })?;
        if !alive.is_empty() {
            // A living writer's log still holds its part; it must not come back from there.
            journal.hide(Arc::new(tombstone.clone()));
        }
        drop(journal);
        (out.events, out.alive, out.decisions) = (events, alive, tombstone.decisions() as u64);
        self.pending.lock().retain(stays);
        let rebuilt = self.rebuilt(None, empty)?;
        for scope in rebuilt.scopes.load().values() {
            scope.items.write().retain(|i| used.contains(&i.hash));
            scope.items.write().evict_to(self.config.item_bytes);
        }
        self.scopes.store(rebuilt.scopes.load_full());
        // What other writers' cycles had read goes with the rest.
        *self.open_cycles.lock() = std::mem::take(&mut *rebuilt.open_cycles.lock());
        out.cases_after = cases(self);
        let mut journal = self.journal.lock();
        let positions = journal.end_positions()?;
        journal.follow(&positions)?;
        drop(journal);
        self.snapshot_to_disk()?;
        Ok((out, tombstone))
    }
}
