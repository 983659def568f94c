//! From the journal to the state: opening, and other writers' events.

use super::Engine;
use super::background::{self, Limit};
use super::event::{DecisionEvent, DecisionId, Event};
use super::items::Item;
use super::journal::{History, Journal, Positions, Sourced};
use super::learned::Learned;
use super::ledger::Verdict;
use super::pending::DecisionRecord;
use crate::error::Result;
use rustc_hash::{FxHashMap, FxHashSet};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Learned states by scope at one version.
pub(super) type States = FxHashMap<Arc<str>, Arc<Learned>>;

/// What a replay keeps at hand: decisions that still await feedback events, and states that a later rollback asks for.
#[derive(Default)]
pub(super) struct Replay {
    awaited: FxHashMap<DecisionId, u32>,
    held: FxHashMap<DecisionId, Arc<DecisionRecord>>,
    rollback_targets: BTreeMap<u64, Option<States>>,
    /// The first pass met the end of a cycle, but not its beginning.
    headless_cycle: bool,
}

impl Replay {
    /// First pass: what the second will need.
    pub(super) fn scan(history: History) -> Result<Self> {
        let mut out = Self::default();
        let mut begun = FxHashSet::default();
        for s in history {
            let Sourced { stamped, worker, .. } = s?;
            match stamped.event {
                Event::Feedback(f) => *out.awaited.entry(f.decision).or_default() += 1,
                Event::Rollback { to, .. } => drop(out.rollback_targets.insert(to, None)),
                Event::CycleStart { scope, .. } => drop(begun.insert((scope, worker))),
                Event::CyclePublish { scope } | Event::CycleCut { scope, .. } => {
                    out.headless_cycle |= !begun.remove(&(scope, worker));
                }
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
        let reaches_back = !replay.rollback_targets.is_empty() || replay.headless_cycle;
        if reaches_back && !positions.is_empty() {
            // A rollback, or a cycle, may need what was before the snapshot: start over from the first event.
            self.scopes.store(Arc::default());
            replay = Replay::scan(journal.history(&Positions::new())?)?;
            self.replay_all(&mut journal, &Positions::new(), &mut replay)?;
        } else {
            self.fetch_awaited(&journal, &positions, &mut replay)?;
            self.replay_all(&mut journal, &positions, &mut replay)?;
        }
        self.evict_items();
        Ok(())
    }

    /// Replay keeps all items at hand while it runs; this makes room afterwards.
    pub(super) fn evict_items(&self) {
        for scope in self.scopes.load().values() {
            scope.items.write().evict_to(self.config.item_bytes);
        }
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
    pub(super) fn replay_one(&self, s: Sourced, replay: &mut Replay) -> Result<()> {
        let (lamport, worker) = (s.stamped.lamport, s.worker);
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
            Event::Encoder(encoder) => drop(self.encoder.lock().get_or_insert(encoder)),
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
                record.answer();
                let scope = self.scope_or_new(&f.scope)?;
                let mut ledger = scope.ledger.lock();
                if ledger.admit(&f, record.now, &self.config) == Verdict::Learn && f.learn {
                    self.learn_from(&scope, &ledger, &record, &f, lamport, None)?;
                }
            }
            Event::Trace(t) => {
                let scope = self.scope_or_new(&t.scope)?;
                let mut ledger = scope.ledger.lock();
                self.apply_trace(&scope, &mut ledger, &t, lamport)?;
            }
            Event::CycleStart { scope, now, items } => {
                let scope = self.scope_or_new(&scope)?;
                let input = background::CycleInput::retake(&scope, &scope.ledger.lock(), now, &items);
                self.open_cycles
                    .lock()
                    .insert((scope.name.clone(), worker), input);
            }
            Event::CyclePublish { scope } => self.end_cycle(&scope, worker, lamport, Limit::None)?,
            Event::CycleCut { scope, steps } => {
                self.end_cycle(&scope, worker, lamport, Limit::Steps(steps))?;
            }
            Event::Anchors { scope, anchors } => {
                let anchors = Arc::new((*anchors).clone().prepared(self.config.dim)?);
                let scope = self.scope_or_new(&scope)?;
                let mut ledger = scope.ledger.lock();
                self.apply_anchors(&scope, &mut ledger, anchors, lamport)?;
            }
            Event::Rollback { scope, to } => {
                let states = replay.rollback_targets.get(&to).cloned().flatten();
                self.put_back(scope.as_deref(), to, &states.unwrap_or_default())?;
            }
        }
        Ok(())
    }

    fn end_cycle(&self, scope: &str, worker: u32, lamport: u64, limit: Limit) -> Result<()> {
        let scope = self.scope_or_new(scope)?;
        // Without an input: another writer was in the middle of its cycle when this one opened from a snapshot. What it found
        // is there at the next opening.
        let input = self.open_cycles.lock().remove(&(scope.name.clone(), worker));
        if let Some(input) = input {
            let result = input.run(&scope.name, &self.config, limit)?;
            let mut ledger = scope.ledger.lock();
            let next = result.onto(&scope.live.load(), &self.config)?;
            background::publish(&scope, &mut ledger, result.seen(), next, lamport);
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
        self.honour_requests()?;
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
        if n > 0 {
            self.evict_items();
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
        let mut known: FxHashMap<u64, Arc<Item>> = {
            let table = scope.items.read();
            let items = event.items.iter().filter_map(|h| table.by_hash(*h));
            items.map(|i| (i.hash, i.clone())).collect()
        };
        if event.items.iter().any(|h| !known.contains_key(h)) {
            // Not into the table: what it holds is what requests brought, in their order.
            for s in journal.history(&Positions::new())? {
                if let Event::Item {
                    scope: name,
                    id,
                    vector,
                } = s?.stamped.event
                {
                    let item = Item::new(id, &vector);
                    if *name == *event.scope && event.items.contains(&item.hash) {
                        known.insert(item.hash, Arc::new(item));
                    }
                }
            }
        }
        drop(journal);
        let items: Option<Vec<_>> = event.items.iter().map(|h| known.get(h).cloned()).collect();
        let record = items.map(|items| Arc::new(DecisionRecord::new(event, items, true)));
        if let Some(r) = &record {
            self.pending.lock().insert(r.clone());
        }
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{EngineConfig, TraceEvent};
    use crate::store::Fsync;
    use std::path::Path;

    fn open(root: &Path) -> Engine {
        let config = EngineConfig {
            dim: 4,
            pattern_clusters: 3,
            ..EngineConfig::new(4)
        };
        Engine::open(config, root, Fsync::None).unwrap()
    }

    fn trace(engine: &Engine, n: u8) {
        let event = TraceEvent {
            scope: "default".into(),
            query: vec![1.0, f32::from(n), f32::from(n % 3), -1.0],
            steps: Vec::new(),
            quality: 0.9,
            source: "".into(),
            user: "".into(),
            learn: true,
            now: 1e6,
        };
        engine.trace(event).unwrap();
    }

    #[test]
    fn a_cycle_that_never_ended_takes_nothing_with_it() {
        let dir = tempfile::tempdir().unwrap();
        let engine = open(dir.path());
        (0..20).for_each(|n| trace(&engine, n));
        // As if the process had been killed in the middle of a cycle.
        let begun = Event::CycleStart {
            scope: "default".into(),
            now: 1e6,
            items: Vec::new(),
        };
        engine.journal.lock().append(begun).unwrap();
        drop(engine);
        let engine = open(dir.path());
        (20..30).for_each(|n| trace(&engine, n));
        engine.background_learn(None, 1e6).unwrap();
        let (live, patterns) = (
            engine.digest("default").unwrap(),
            engine.scope("default").unwrap(),
        );
        assert!(
            patterns
                .live
                .load()
                .bank
                .as_ref()
                .is_some_and(|b| !b.patterns().is_empty())
        );
        engine.close().unwrap();
        assert_eq!(open(dir.path()).digest("default").unwrap(), live);
        std::fs::remove_dir_all(dir.path().join("snapshots")).unwrap();
        assert_eq!(open(dir.path()).digest("default").unwrap(), live);
    }
}
