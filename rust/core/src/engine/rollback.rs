//! Earlier versions: brought back from the journal.

use super::Engine;
use super::event::Event;
use super::journal::Positions;
use super::learned::Learned;
use super::replay::{Replay, States};
use crate::error::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Engine {
    pub(super) fn states(&self) -> States {
        self.scopes
            .load()
            .iter()
            .map(|(name, s)| (name.clone(), s.live.load_full()))
            .collect()
    }

    /// Makes the states of version `to` live; a scope that did not exist then is untrained.
    pub(super) fn put_back(&self, only: Option<&str>, to: u64, states: &States) -> Result<()> {
        for (name, scope) in self.scopes.load().iter() {
            if only.is_some_and(|o| o != &**name) {
                continue;
            }
            let state = match states.get(name) {
                Some(state) if to > 0 => state.clone(),
                _ => Arc::new(Learned::new(&self.config)?),
            };
            scope.live.store(state);
        }
        Ok(())
    }

    /// An engine in memory that went through the journal, up to and including version `until`, except for what `skip` says.
    pub(super) fn rebuilt(&self, until: Option<u64>, skip: impl Fn(&Event) -> bool) -> Result<Self> {
        let shadow = Self::in_memory(self.config.clone())?;
        let journal = self.journal.lock();
        if !journal.is_durable() {
            // A memory journal holds no item vectors: they are still here.
            for (name, scope) in self.scopes.load().iter() {
                let copy = shadow.scope_or_new(name)?;
                let mut table = copy.items.write();
                for item in scope.items.read().iter() {
                    table.insert(item.clone());
                }
            }
            if journal.sizes().1 > 0 && until.is_some() {
                let limit = "versions whose events are still in the journal (journal_bytes)".to_owned();
                return Err(Error::Capacity {
                    name: "version",
                    limit,
                    got: "one whose events were dropped".into(),
                });
            }
        }
        let mut replay = Replay::scan(journal.history(&Positions::new())?)?;
        for s in journal.history(&Positions::new())? {
            let s = s?;
            if until.is_some_and(|u| s.stamped.lamport > u) {
                break;
            }
            if !skip(&s.stamped.event) {
                shadow.replay_one(s, &mut replay)?;
            }
        }
        self.counters.rebuilt.fetch_add(1, Ordering::Relaxed);
        Ok(shadow)
    }

    pub(super) fn learned_at(&self, version: u64) -> Result<States> {
        if version == 0 {
            Ok(States::default())
        } else {
            Ok(self.rebuilt(Some(version), |_| false)?.states())
        }
    }

    /// Goes back to `version` in one scope or in all; 0 is the untrained state. What was learned since stays in the journal,
    /// so that a later version can be brought back too. O(journal), except for version 0.
    pub fn rollback(&self, scope: Option<&str>, version: u64) -> Result<()> {
        self.honour_requests()?;
        let _guard = self.enter()?;
        if let Some(name) = scope {
            if self.scope(name).is_none() {
                return Err(Error::Scope {
                    scope: name.into(),
                    reason: "nothing was recorded in it".into(),
                });
            }
        }
        let newest = self.journal.lock().lamport();
        if version > newest {
            return Err(Error::value("version", format!("0 to {newest}"), version));
        }
        let states = self.learned_at(version)?;
        let names = self.scope_names();
        let scopes: Vec<_> = names
            .iter()
            .filter(|n| scope.is_none_or(|s| s == &***n))
            .filter_map(|n| self.scope(n))
            .collect();
        let _writers: Vec<_> = scopes.iter().map(|s| s.ledger.lock()).collect();
        self.written(self.journal.lock().append(Event::Rollback {
            scope: scope.map(Into::into),
            to: version,
        }))?;
        self.put_back(scope, version, &states)
    }
}
