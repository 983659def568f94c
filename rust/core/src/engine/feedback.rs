//! Loop A: an outcome comes in, is made durable, and the next snapshot is published, on the caller's thread.

use super::anchors::Anchors;
use super::event::{DecisionId, Event, FeedbackEvent, TraceEvent};
use super::items::IdRef;
use super::learned::Learned;
use super::ledger::{Ledger, Verdict};
use super::listing::{Judgement, Listing};
use super::pending::{DecisionRecord, Known};
use super::scope::Scope;
use super::{Engine, Mode};
use crate::error::{Error, Result, check_dim, check_finite};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// One outcome.
#[derive(Debug, Clone, Copy)]
pub struct Feedback<'a> {
    /// The decision.
    pub decision: DecisionId,
    /// Items and rewards in [−1, 1].
    pub rewards: &'a [(IdRef<'a>, f32)],
    /// Row-major vectors of the judged items, needed only for items that this scope never ranked.
    pub vectors: Option<&'a [f32]>,
    /// Quality in [0, 1] of the whole answer.
    pub quality: Option<f32>,
    /// Who says so.
    pub source: &'a str,
    /// On whose behalf; empty if unknown.
    pub user: &'a str,
    /// Seconds since the epoch.
    pub now: f64,
}

/// The decision ranked under a state that was live before the scope's lock was taken: writers of one scope search side by
/// side, and under the lock there is little left to do.
pub(super) struct Ahead {
    live: Arc<Learned>,
    known: Known,
}

impl Ahead {
    fn new(scope: &Scope, record: &DecisionRecord) -> Result<Self> {
        let live = scope.live.load_full();
        let mut known = record.known(&live);
        if known.ranking.is_none() {
            let listing = Listing::new(&record.items);
            let ranking = live.score_again(record, &listing.candidates()?, known.found.as_deref())?;
            known = Known {
                found: ranking.probe.found().cloned(),
                ranking: Some(ranking),
            };
        }
        Ok(Self { live, known })
    }

    /// What of it holds under `live`.
    fn under(self, live: &Arc<Learned>) -> Known {
        let same = Arc::ptr_eq(&self.live, live);
        Known {
            ranking: self.known.ranking.filter(|_| same),
            found: self.known.found,
        }
    }
}

/// What became of a feedback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Durable and learned from.
    Learned,
    /// Durable, not learned from (observe mode, over a cap, or too late).
    Recorded,
    /// The same feedback was here before; nothing changed.
    Duplicate,
    /// Mode off: nothing was recorded.
    Ignored,
}

impl Engine {
    /// Takes an outcome. When this returns `Learned` or `Recorded`, a killed process keeps it (if durable).
    pub fn feedback(&self, f: &Feedback<'_>) -> Result<Outcome> {
        check_feedback(f)?;
        self.honour_requests()?;
        let _guard = self.enter()?;
        let mode = self.mode();
        if mode == Mode::Off {
            return Ok(Outcome::Ignored);
        }
        let record = self.decision(f.decision)?;
        let scope = self.scope_or_new(&record.scope)?;
        let record = self.with_judged_items(&scope, record, f)?;
        self.counters.feedback.fetch_add(1, Ordering::Relaxed);
        let event = FeedbackEvent {
            decision: f.decision,
            scope: scope.name.clone(),
            rewards: f
                .rewards
                .iter()
                .map(|(id, r)| judged(&record, *id).map(|p| (record.items[p].hash, *r)))
                .collect::<Result<_>>()?,
            quality: f.quality,
            source: f.source.into(),
            user: f.user.into(),
            learn: mode.learns(),
            now: f.now,
        };
        let ahead = mode.learns().then(|| Ahead::new(&scope, &record).ok()).flatten();
        let mut ledger = scope.ledger.lock();
        if ledger.is_duplicate(&event) {
            ledger.duplicates += 1;
            return Ok(Outcome::Duplicate);
        }
        let lamport = {
            let mut journal = self.journal.lock();
            let mut events = Vec::with_capacity(2);
            let first = record.claim_journaling();
            if first {
                events.push(Event::Decision(record.event()));
            }
            events.push(Event::Feedback(event.clone()));
            match self.written(journal.append_all(events)) {
                Ok(lamport) => lamport,
                Err(e) => {
                    if first {
                        record.unclaim_journaling();
                    }
                    return Err(e);
                }
            }
        };
        record.answer();
        let verdict = ledger.admit(&event, record.now, &self.config);
        if !event.learn || verdict != Verdict::Learn {
            self.counters.recorded_only.fetch_add(1, Ordering::Relaxed);
            return Ok(Outcome::Recorded);
        }
        let former = self.learn_from(&scope, &ledger, &record, &event, lamport, ahead)?;
        drop(ledger);
        // What nobody reads any more is taken apart while others learn.
        drop(former);
        self.counters.learned.fetch_add(1, Ordering::Relaxed);
        Ok(Outcome::Learned)
    }

    /// Takes a finished trace: any other kind of request, with its steps.
    pub fn trace(&self, mut t: TraceEvent) -> Result<Outcome> {
        check_trace(&t, self.config.dim)?;
        self.honour_requests()?;
        let _guard = self.enter()?;
        let mode = self.mode();
        if mode == Mode::Off {
            return Ok(Outcome::Ignored);
        }
        t.learn = mode.learns();
        let scope = self.scope_or_new(&t.scope)?;
        let mut ledger = scope.ledger.lock();
        let lamport = self.written(self.journal.lock().append(Event::Trace(t.clone())))?;
        self.counters.feedback.fetch_add(1, Ordering::Relaxed);
        if self.apply_trace(&scope, &mut ledger, &t, lamport)? {
            self.counters.learned.fetch_add(1, Ordering::Relaxed);
            Ok(Outcome::Learned)
        } else {
            self.counters.recorded_only.fetch_add(1, Ordering::Relaxed);
            Ok(Outcome::Recorded)
        }
    }

    /// The instant step of a trace; replay comes through here too. True if it was learned from.
    pub(super) fn apply_trace(
        &self,
        scope: &Scope,
        ledger: &mut Ledger,
        t: &TraceEvent,
        lamport: u64,
    ) -> Result<bool> {
        if ledger.within_caps(&t.user, &t.source, t.now, &self.config) != Verdict::Learn || !t.learn {
            return Ok(false);
        }
        let trust = self.config.source_trust.get(&*t.source).copied().unwrap_or(1.0);
        let mut next = (*scope.live.load_full()).clone();
        next.learn_trace(t, trust, &self.config, ledger.anchors.as_deref(), lamport)?;
        ledger.keep_trace(&t.query, t.quality, self.config.capacity);
        scope.live.store(Arc::new(next));
        Ok(true)
    }

    /// Sets the anchors of a scope: requests with known answers that are never learned from. Whatever acts is held back as
    /// soon as it surely loses more than the harm budget on them. An empty set takes the anchors away.
    pub fn set_anchors(&self, scope: &str, anchors: Anchors) -> Result<()> {
        let _guard = self.enter()?;
        let anchors = Arc::new(anchors.prepared(self.config.dim)?);
        let scope = self.scope_or_new(scope)?;
        let mut ledger = scope.ledger.lock();
        let lamport = self.written(self.journal.lock().append(Event::Anchors {
            scope: scope.name.clone(),
            anchors: anchors.clone(),
        }))?;
        self.apply_anchors(&scope, &mut ledger, anchors, lamport)
    }

    /// Replay comes through here too.
    pub(super) fn apply_anchors(
        &self,
        scope: &Scope,
        ledger: &mut Ledger,
        anchors: Arc<Anchors>,
        lamport: u64,
    ) -> Result<()> {
        ledger.anchors = (!anchors.is_empty()).then_some(anchors);
        let mut next = (*scope.live.load_full()).clone();
        next.guard(ledger.anchors.as_deref(), &self.config)?;
        next.version = lamport;
        scope.live.store(Arc::new(next));
        Ok(())
    }

    /// The instant step; returns the state that it replaced. The caller holds the scope's ledger; replay comes through here
    /// too.
    pub(super) fn learn_from(
        &self,
        scope: &Scope,
        ledger: &Ledger,
        record: &DecisionRecord,
        e: &FeedbackEvent,
        lamport: u64,
        ahead: Option<Ahead>,
    ) -> Result<Arc<Learned>> {
        let mut rewards = Vec::with_capacity(e.rewards.len());
        for (hash, reward) in &e.rewards {
            if let Some(p) = record.items.iter().position(|i| i.hash == *hash) {
                rewards.push((p, *reward));
            }
        }
        if rewards.len() != e.rewards.len() {
            return Err(Error::Learning(format!(
                "{}: a judged item is not known any more",
                e.decision
            )));
        }
        let judgement = Judgement {
            rewards: &rewards,
            quality: e.quality,
            trust: self.config.source_trust.get(&*e.source).copied().unwrap_or(1.0),
            source: &e.source,
            user: &e.user,
            now: e.now,
        };
        let live = scope.live.load_full();
        let mut next = (*live).clone();
        next.learn(
            record,
            ahead.map_or_else(Known::default, |a| a.under(&live)),
            &judgement,
            &self.config,
            ledger.anchors.as_deref(),
            lamport,
        )?;
        drop(live);
        Ok(scope.live.swap(Arc::new(next)))
    }

    /// The decision: from memory, else from the journals of all writers.
    pub(super) fn decision(&self, id: DecisionId) -> Result<Arc<DecisionRecord>> {
        if let Some(record) = self.pending.lock().get(id) {
            return Ok(record);
        }
        self.take_in()?;
        if let Some(record) = self.pending.lock().get(id) {
            return Ok(record);
        }
        self.find_in_history(id)?.ok_or_else(|| {
            Error::Learning(format!(
                "decision {id}: unknown here; it was never made, was forgotten, or its engine had no store"
            ))
        })
    }

    /// The record with every judged item among its candidates: feedback may name an item that was not ranked.
    fn with_judged_items(
        &self,
        scope: &Scope,
        record: Arc<DecisionRecord>,
        f: &Feedback<'_>,
    ) -> Result<Arc<DecisionRecord>> {
        let missing: Vec<usize> = (0..f.rewards.len())
            .filter(|&i| judged(&record, f.rewards[i].0).is_err())
            .collect();
        if missing.is_empty() {
            return Ok(record);
        }
        let dim = self.config.dim;
        let ids: Vec<IdRef<'_>> = missing.iter().map(|&i| f.rewards[i].0).collect();
        let rows: Option<Vec<f32>> = match f.vectors {
            Some(v) => {
                check_dim("vectors", f.rewards.len() * dim, v.len())?;
                check_finite("vectors", v)?;
                Some(
                    missing
                        .iter()
                        .flat_map(|&i| v[i * dim..(i + 1) * dim].iter().copied())
                        .collect(),
                )
            }
            None => None,
        };
        let request = super::Request {
            scope: &scope.name,
            query: &record.query,
            ids: &ids,
            vectors: rows.as_deref(),
            scores: None,
            k: 0,
            user: "",
            now: f.now,
        };
        let extra = self.intern(scope, &request)?;
        // The extended candidates are journaled as the same decision again; replay takes the last one.
        let mut event = record.event();
        let mut items = record.items.clone();
        for item in extra {
            if let Some(base) = &mut event.base {
                // The application gave this item no score: it ranked below all that it listed.
                let lowest = base.iter().copied().fold(f32::INFINITY, f32::min);
                base.push(if lowest.is_finite() { lowest } else { 0.0 });
            }
            event.items.push(item.hash);
            items.push(item);
        }
        let extended = Arc::new(DecisionRecord::new(event, items, false));
        self.pending.lock().insert(extended.clone());
        Ok(extended)
    }
}

/// Position of a judged id among the candidates.
fn judged(record: &DecisionRecord, id: IdRef<'_>) -> Result<usize> {
    let same = |item: &crate::item::ItemId| match (id, item) {
        (IdRef::Int(a), crate::item::ItemId::Int(b)) => a == *b,
        (IdRef::Str(a), crate::item::ItemId::Str(b)) => *a == **b,
        (IdRef::Other(a), b) => a == b,
        _ => false,
    };
    record.items.iter().position(|i| same(&i.id)).ok_or_else(|| {
        Error::value(
            "chosen",
            "an item of the decision",
            format!("{} in decision {}", id.owned(), record.id),
        )
    })
}

fn check_trace(t: &TraceEvent, dim: usize) -> Result<()> {
    check_dim("x", dim, t.query.len())?;
    check_finite("x", &t.query)?;
    for step in &t.steps {
        check_dim("activations", dim, step.activations.len())?;
        check_finite("activations", &step.activations)?;
        check_finite("attention_weights", &step.attention_weights)?;
        if !step.reward.is_finite() {
            return Err(Error::value("reward", "a finite number", step.reward));
        }
    }
    if !(0.0..=1.0).contains(&t.quality) {
        return Err(Error::value("quality", "a number in [0, 1]", t.quality));
    }
    if !t.now.is_finite() {
        return Err(Error::value("now", "finite seconds", t.now));
    }
    Ok(())
}

fn check_feedback(f: &Feedback<'_>) -> Result<()> {
    for (id, r) in f.rewards {
        if !(r.is_finite() && (-1.0..=1.0).contains(r)) {
            return Err(Error::value(
                "rewards",
                "numbers in [-1, 1]",
                format!("{r} for {}", id.owned()),
            ));
        }
    }
    if let Some(q) = f.quality {
        if !(0.0..=1.0).contains(&q) {
            return Err(Error::value("quality", "a number in [0, 1]", q));
        }
    }
    if f.rewards.is_empty() && f.quality.is_none() {
        return Err(Error::value(
            "feedback",
            "chosen, rewards or quality",
            "none of them",
        ));
    }
    if !f.now.is_finite() {
        return Err(Error::value("now", "finite seconds", f.now));
    }
    Ok(())
}
