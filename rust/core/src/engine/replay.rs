//! Everything that goes back to the journal: opening, other writers' events, rollback, forgetting.

use super::Engine;
use super::background;
use super::event::{DecisionEvent, DecisionId, Event};
use super::items::Item;
use super::journal::{History, Journal, Positions, Sourced};
use super::learned::Learned;
use super::ledger::Verdict;
use super::pending::DecisionRecord;
use crate::error::{Error, Result};
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
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

/// Learned states by scope at one version.
type States = FxHashMap<Arc<str>, Arc<Learned>>;

/// What a replay keeps at hand: decisions that still await feedback events, and states that a later rollback asks for.
#[derive(Default)]
struct Replay {
    awaited: FxHashMap<DecisionId, u32>,
    held: FxHashMap<DecisionId, Arc<DecisionRecord>>,
    rollback_targets: BTreeMap<u64, Option<States>>,
}

impl Replay {
    /// First pass: what the second will need.
    fn scan(history: History) -> Result<Self> {
        let mut out = Self::default();
        for s in history {
            match s?.stamped.event {
                Event::Feedback(f) => *out.awaited.entry(f.decision).or_default() += 1,
                Event::Rollback { to, .. } => drop(out.rollback_targets.insert(to, None)),
                _ => {}
            }
        }
        Ok(out)
    }
}

impl Engine {
    /// At opening: the latest usable snapshot, then the journal's tail.
    pub(super) fn restore(&self) -> Result<()> {
        let positions = self.load_snapshot()?;
        let mut journal = self.journal.lock();
        let mut replay = Replay::scan(journal.history(&positions)?)?;
        if !replay.rollback_targets.is_empty() && !positions.is_empty() {
            // A rollback may reach behind the snapshot: start over from the first event.
            self.scopes.store(Arc::default());
            replay = Replay::scan(journal.history(&Positions::new())?)?;
            self.replay_all(&mut journal, &Positions::new(), &mut replay)?;
        } else {
            self.fetch_awaited(&journal, &positions, &mut replay)?;
            self.replay_all(&mut journal, &positions, &mut replay)?;
        }
        for name in self.scope_names() {
            if let Some(scope) = self.scope(&name) {
                scope.items.write().evict_to(self.config.item_bytes);
            }
        }
        Ok(())
    }

    /// Decisions from before `positions` that the tail gives feedback to.
    fn fetch_awaited(&self, journal: &Journal, positions: &Positions, replay: &mut Replay) -> Result<()> {
        if positions.is_empty() || replay.awaited.is_empty() {
            return Ok(());
        }
        let before = |s: &Sourced| positions.get(&s.worker).is_some_and(|p| s.seq < *p);
        for s in journal.history(&Positions::new())? {
            let s = s?;
            if !before(&s) {
                continue;
            }
            if let Event::Decision(d) = s.stamped.event {
                if replay.awaited.contains_key(&d.id) {
                    if let Some(record) = self.resolve(d)? {
                        replay.held.insert(record.id, Arc::new(record));
                    }
                }
            }
        }
        Ok(())
    }

    fn replay_all(&self, journal: &mut Journal, from: &Positions, replay: &mut Replay) -> Result<()> {
        let mut reached = from.clone();
        for s in journal.history(from)? {
            let s = s?;
            journal.witness(s.stamped.lamport);
            reached.insert(s.worker, s.seq + 1);
            self.replay_one(s, replay)?;
        }
        reached.insert(journal.worker(), journal.next_seq());
        journal.follow(&reached)
    }

    /// Applies one event; learning comes through the same step as live feedback.
    fn replay_one(&self, s: Sourced, replay: &mut Replay) -> Result<()> {
        let lamport = s.stamped.lamport;
        if let Some((_, saved)) = replay
            .rollback_targets
            .range_mut(..lamport)
            .rev()
            .find(|(_, saved)| saved.is_none())
        {
            *saved = Some(self.states());
        }
        match s.stamped.event {
            Event::Item { scope, id, vector } => {
                let scope = self.scope_or_new(&scope)?;
                scope.items.write().insert(Arc::new(Item::new(id, &vector)));
            }
            Event::Decision(d) => {
                self.scope_or_new(&d.scope)?;
                if let Some(record) = self.resolve(d)? {
                    let record = Arc::new(record);
                    if replay.awaited.contains_key(&record.id) {
                        replay.held.insert(record.id, record.clone());
                    }
                    self.pending.lock().insert(record);
                }
            }
            Event::Feedback(f) => {
                let held = replay.held.get(&f.decision).cloned();
                let Some(record) = held.or_else(|| self.pending.lock().get(f.decision)) else {
                    self.counters.orphans.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                };
                if let Some(left) = replay.awaited.get_mut(&f.decision) {
                    *left = left.saturating_sub(1);
                    if *left == 0 {
                        replay.held.remove(&f.decision);
                    }
                }
                let scope = self.scope_or_new(&f.scope)?;
                let mut ledger = scope.ledger.lock();
                if ledger.admit(&f, &self.config) == Verdict::Learn && f.learn {
                    self.learn_from(&scope, &record, &f, lamport)?;
                }
            }
            Event::Trace(t) => {
                let scope = self.scope_or_new(&t.scope)?;
                let mut ledger = scope.ledger.lock();
                self.apply_trace(&scope, &mut ledger, &t, lamport)?;
            }
            Event::CycleStart { scope, now } => {
                let scope = self.scope_or_new(&scope)?;
                let mut ledger = scope.ledger.lock();
                let mut open = self.open_cycles.lock();
                if let Some(unfinished) = open.remove(&scope.name) {
                    // Its process ended before it could publish: the next cycle takes in what that one had taken.
                    for trace in unfinished.traces.into_iter().rev() {
                        ledger.traces.push_front(trace);
                    }
                }
                let input = self.begin_cycle(&scope, &mut ledger, now);
                open.insert(scope.name.clone(), input);
            }
            Event::CyclePublish { scope } => {
                let scope = self.scope_or_new(&scope)?;
                let input = self.open_cycles.lock().remove(&scope.name);
                if let Some(input) = input {
                    let result = input.run(&scope.name, &self.config)?;
                    let _ledger = scope.ledger.lock();
                    background::publish(&scope, result, lamport);
                }
            }
            Event::Rollback { scope, to } => {
                let states = replay.rollback_targets.get(&to).cloned().flatten();
                self.put_back(scope.as_deref(), to, &states.unwrap_or_default())?;
            }
        }
        Ok(())
    }

    fn states(&self) -> States {
        self.scopes
            .load()
            .iter()
            .map(|(name, s)| (name.clone(), s.live.load_full()))
            .collect()
    }

    /// Makes the states of version `to` live; a scope that did not exist then is untrained.
    fn put_back(&self, only: Option<&str>, to: u64, states: &States) -> Result<()> {
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

    /// A journaled decision with its items; `None` (counted) if one of them is not known any more.
    fn resolve(&self, event: DecisionEvent) -> Result<Option<DecisionRecord>> {
        let scope = self.scope_or_new(&event.scope)?;
        let table = scope.items.read();
        let items: Option<Vec<Arc<Item>>> = event.items.iter().map(|h| table.by_hash(*h).cloned()).collect();
        if items.is_none() {
            self.counters.orphans.fetch_add(1, Ordering::Relaxed);
        }
        Ok(items.map(|items| DecisionRecord::new(event, items, true)))
    }

    /// Takes in what other writers of the directory appended since the last call. Returns the number of events.
    pub fn refresh(&self) -> Result<usize> {
        let _guard = self.enter()?;
        self.take_in()
    }

    pub(super) fn take_in(&self) -> Result<usize> {
        let events = self.journal.lock().poll()?;
        let n = events.len();
        let mut replay = Replay::default();
        for s in events {
            if let Event::Feedback(f) = &s.stamped.event {
                if self.pending.lock().get(f.decision).is_none() {
                    if let Some(record) = self.find_in_history(f.decision)? {
                        replay.held.insert(record.id, record);
                    }
                }
            }
            if let Event::Rollback { to, .. } = s.stamped.event {
                let states = self.learned_at(to)?;
                replay.rollback_targets.insert(to, Some(states));
            }
            self.replay_one(s, &mut replay)?;
        }
        Ok(n)
    }

    /// A decision that memory let go of, from the journals. O(journal).
    pub(super) fn find_in_history(&self, id: DecisionId) -> Result<Option<Arc<DecisionRecord>>> {
        let journal = self.journal.lock();
        let mut found = None;
        for s in journal.history(&Positions::new())? {
            if let Event::Decision(d) = s?.stamped.event {
                if d.id == id {
                    found = Some(d);
                }
            }
        }
        let Some(event) = found else { return Ok(None) };
        let scope = self.scope_or_new(&event.scope)?;
        let missing: FxHashSet<u64> = {
            let table = scope.items.read();
            event
                .items
                .iter()
                .copied()
                .filter(|h| table.by_hash(*h).is_none())
                .collect()
        };
        if !missing.is_empty() {
            for s in journal.history(&Positions::new())? {
                if let Event::Item {
                    scope: name,
                    id,
                    vector,
                } = s?.stamped.event
                {
                    if *name == *event.scope {
                        let item = Item::new(id, &vector);
                        if missing.contains(&item.hash) {
                            scope.items.write().insert(Arc::new(item));
                        }
                    }
                }
            }
        }
        drop(journal);
        let record = self.resolve(event)?.map(Arc::new);
        if let Some(r) = &record {
            self.pending.lock().insert(r.clone());
        }
        Ok(record)
    }

    /// An engine in memory that went through the journal, up to and including version `until`, except for what `skip` says.
    fn rebuilt(&self, until: Option<u64>, skip: impl Fn(&Event) -> bool) -> Result<Self> {
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

    fn learned_at(&self, version: u64) -> Result<States> {
        if version == 0 {
            Ok(States::default())
        } else {
            Ok(self.rebuilt(Some(version), |_| false)?.states())
        }
    }

    /// Goes back to `version` in one scope or in all; 0 is the untrained state. What was learned since stays in the journal,
    /// so that a later version can be brought back too. O(journal), except for version 0.
    pub fn rollback(&self, scope: Option<&str>, version: u64) -> Result<()> {
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
