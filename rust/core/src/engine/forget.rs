//! Forgetting for good: users and sources leave the journal, the snapshots and what was learned.

use super::Engine;
use super::event::{DecisionId, Event};
use super::items::Item;
use super::journal::Positions;
use super::pending::DecisionRecord;
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
    /// The learned state is rebuilt from the remaining events; snapshots that knew the user are deleted. O(journal).
    pub fn forget(&self, user: &str) -> Result<Removed> {
        if user.is_empty() {
            return Err(Error::value("user", "a user's id", "an empty string"));
        }
        self.remove(
            |e, bad| match e {
                Event::Decision(d) => &*d.user == user || bad.contains(&d.id),
                Event::Feedback(f) => &*f.user == user || bad.contains(&f.decision),
                Event::Trace(t) => &*t.user == user,
                Event::Item { .. }
                | Event::Anchors { .. }
                | Event::CycleStart { .. }
                | Event::CyclePublish { .. }
                | Event::Rollback { .. } => false,
            },
            |e| match e {
                Event::Decision(d) if &*d.user == user => Some(d.id),
                Event::Feedback(f) if &*f.user == user => Some(f.decision),
                Event::Decision(_)
                | Event::Feedback(_)
                | Event::Trace(_)
                | Event::Item { .. }
                | Event::Anchors { .. }
                | Event::CycleStart { .. }
                | Event::CyclePublish { .. }
                | Event::Rollback { .. } => None,
            },
            |r| &*r.user == user,
        )
    }

    /// Removes all feedback of a source and what was learned from it; decisions stay. O(journal).
    pub fn purge(&self, source: &str) -> Result<Removed> {
        self.remove(
            |e, _| match e {
                Event::Feedback(f) => &*f.source == source,
                Event::Trace(t) => &*t.source == source,
                _ => false,
            },
            |_| None,
            |_| false,
        )
    }

    fn remove(
        &self,
        gone: impl Fn(&Event, &FxHashSet<DecisionId>) -> bool,
        marks: impl Fn(&Event) -> Option<DecisionId>,
        pending_gone: impl Fn(&DecisionRecord) -> bool,
    ) -> Result<Removed> {
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
        let mut bad = FxHashSet::default();
        for s in journal.history(&Positions::new())? {
            bad.extend(marks(&s?.stamped.event));
        }
        let mut used: FxHashSet<u64> = FxHashSet::default();
        let mut inhabited: FxHashSet<Arc<str>> = FxHashSet::default();
        for s in journal.history(&Positions::new())? {
            let event = s?.stamped.event;
            if gone(&event, &bad) {
                continue;
            }
            match &event {
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
            | Event::Rollback {
                scope: Some(scope), ..
            } => !inhabited.contains(scope),
            _ => false,
        };
        let stays = |r: &DecisionRecord| !bad.contains(&r.id) && !pending_gone(r);
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
            other => !gone(other, &bad) && !empty(other),
        })?;
        drop(journal);
        (out.events, out.alive, out.decisions) = (events, alive, bad.len() as u64);
        self.pending.lock().retain(stays);
        // A living writer's log still holds its part; it must not come back from there.
        let rebuilt = self.rebuilt(None, |e| gone(e, &bad) || empty(e))?;
        for scope in rebuilt.scopes.load().values() {
            scope.items.write().retain(|i| used.contains(&i.hash));
            scope.items.write().evict_to(self.config.item_bytes);
        }
        self.scopes.store(rebuilt.scopes.load_full());
        out.cases_after = cases(self);
        let mut journal = self.journal.lock();
        let positions = journal.end_positions()?;
        journal.follow(&positions)?;
        drop(journal);
        self.snapshot_to_disk()?;
        Ok(out)
    }
}
