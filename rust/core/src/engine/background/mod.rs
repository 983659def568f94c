//! Loop B, one cycle: patterns from the remembered cases, the slow adapter from their clicks, a gate on held-out clicks.
//!
//! What the fast adapter learned from traces goes into the slow one when a cycle publishes; the two together are then what they
//! were before.
//!
//! A cycle takes its input under the scope's writer lock and notes that in the journal, works without any lock, and publishes
//! under the lock again. Readers and writers never wait for it. Replay computes the same cycle from the same input; where
//! time cut its training short, the journal says after how many steps.

mod gate;
mod input;
mod train;

pub(super) use input::CycleInput;
pub(super) use train::Limit;

use super::Engine;
use super::config::EngineConfig;
use super::event::Event;
use super::learned::Learned;
use super::ledger::Ledger;
use super::scope::Scope;
use crate::error::Result;
use crate::lora::BaseLora;
use crate::patterns::bank::Bank;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Clicks that training the slow adapter needs at least.
const ENOUGH_PAIRS: usize = 100;

/// What a background cycle did in one scope.
#[derive(Debug, Clone, PartialEq)]
pub struct CycleReport {
    /// Scope.
    pub scope: Arc<str>,
    /// Trajectories taken in: cases and traces.
    pub trajectories: usize,
    /// Patterns after the cycle.
    pub patterns: usize,
    /// Clicks that the slow adapter was trained on.
    pub trained_on: usize,
    /// Whether the slow adapter was published.
    pub accepted: bool,
    /// Why, in words.
    pub reason: String,
    /// Gain in DCG on the held-out clicks over the live adapter.
    pub gain: f64,
    /// Its 95 % interval.
    pub interval: (f64, f64),
    /// Time.
    pub elapsed: Duration,
}

/// What a cycle found, to be published.
pub(super) struct CycleResult {
    bank: Option<Arc<Bank>>,
    banked: u64,
    /// Traces up to this one are in the bank.
    seen: u64,
    base: Option<Arc<BaseLora>>,
    /// Steps after which the deadline ended the training.
    cut: Option<u64>,
    report: CycleReport,
}

impl CycleInput {
    /// The whole cycle: a pure function of the input, the settings and the number of training steps.
    pub(super) fn run(&self, scope: &Arc<str>, config: &EngineConfig, limit: Limit) -> Result<CycleResult> {
        let started = Instant::now();
        // A scope in which nothing was there to take in stays as it is: whether a cycle passed by must leave no trace.
        let nothing = self.learned.cases.is_empty() && self.traces.is_empty() && self.learned.bank.is_none();
        let bank = if nothing {
            None
        } else {
            Some(Arc::new(self.extract(scope, config)?))
        };
        let mut report = CycleReport {
            scope: scope.clone(),
            trajectories: self.learned.cases.len() + self.traces.len(),
            patterns: bank.as_ref().map_or(0, |b| b.patterns().len()),
            trained_on: 0,
            accepted: false,
            reason: format!("too few clicks, {ENOUGH_PAIRS} are needed to train the slow adapter"),
            gain: 0.0,
            interval: (0.0, 0.0),
            elapsed: Duration::ZERO,
        };
        let (mut base, mut cut) = (None, None);
        // The adapter learns what the cases do not say: an adapter that repeats them overshoots where both act.
        if self.items.len() > 1 && config.base_lr > 0.0 && self.learned.cases.len() >= ENOUGH_PAIRS {
            let pairs = self.pairs(config)?;
            if pairs.known < ENOUGH_PAIRS {
                report.reason = format!(
                    "{} clicks, {ENOUGH_PAIRS} are needed to train the slow adapter",
                    pairs.known
                );
            } else {
                let trained = self.train(&pairs.train, &pairs.stop, config, limit)?;
                cut = trained.cut;
                let (gain, interval) = self.compare(&trained.base, &pairs.gate, config)?;
                report.trained_on = pairs.train.len();
                (report.gain, report.interval) = (gain, interval);
                report.accepted = interval.0 > 0.0;
                report.reason = format!(
                    "{} of {:+.4} [{:+.4}, {:+.4}] in DCG on {} held-out clicks{}",
                    if report.accepted { "gain" } else { "no sure gain:" },
                    gain,
                    interval.0,
                    interval.1,
                    pairs.gate.len(),
                    cut.map_or_else(String::new, |n| format!("; out of time after {n} steps"))
                );
                let spoiled = self
                    .anchor_loss(&trained.base)?
                    .filter(|l| report.accepted && *l > config.harm_budget);
                if let Some(loss) = spoiled {
                    report.accepted = false;
                    report.reason = format!("{}, but the anchors would lose {loss:.4}", report.reason);
                }
                base = report.accepted.then(|| Arc::new(trained.base));
            }
        }
        report.elapsed = started.elapsed();
        let banked = self
            .learned
            .cases
            .iter()
            .last()
            .map_or(self.learned.banked, |c| c.id + 1);
        Ok(CycleResult {
            bank,
            banked,
            seen: self.seen,
            base,
            cut,
            report,
        })
    }
}

impl Engine {
    /// Runs one background cycle in every scope, on the calling thread. Serving goes on meanwhile. Past the deadline no
    /// scope and no training step is begun; the next call begins with the scope that this one did not reach.
    pub fn background_learn(&self, deadline: Option<Duration>, now: f64) -> Result<Vec<CycleReport>> {
        self.honour_requests()?;
        let end = deadline.map(|d| Instant::now() + d);
        let limit = end.map_or(Limit::None, Limit::Until);
        let mut names = self.scope_names();
        if let Some(first) = self.next_scope.lock().take() {
            let at = names.partition_point(|n| *n < first);
            let count = names.len();
            names.rotate_left(at % count.max(1));
        }
        let mut out = Vec::new();
        for name in names {
            if end.is_some_and(|e| Instant::now() > e) {
                *self.next_scope.lock() = Some(name);
                break;
            }
            if let Some(scope) = self.scope(&name) {
                if self.mode().learns() {
                    out.push(self.cycle(&scope, now, limit)?);
                }
            }
        }
        Ok(out)
    }

    /// As [`Self::background_learn`] for one scope; nothing if it is unknown.
    pub fn background_learn_in(
        &self,
        scope: &str,
        deadline: Option<Duration>,
        now: f64,
    ) -> Result<Option<CycleReport>> {
        self.honour_requests()?;
        let limit = deadline.map_or(Limit::None, |d| Limit::Until(Instant::now() + d));
        match self.scope(scope).filter(|_| self.mode().learns()) {
            Some(scope) => self.cycle(&scope, now, limit).map(Some),
            None => Ok(None),
        }
    }

    fn cycle(&self, scope: &Scope, now: f64, limit: Limit) -> Result<CycleReport> {
        // One cycle of a scope at a time, and none while a snapshot of the engine is taken.
        let _one = self.between_cycles();
        let input = {
            let _guard = self.enter()?;
            let ledger = scope.ledger.lock();
            let input = CycleInput::take(scope, &ledger, now);
            self.written(self.journal.lock().append(Event::CycleStart {
                scope: scope.name.clone(),
                now,
                items: input.read(),
            }))?;
            input
        };
        let result = input.run(&scope.name, &self.config, limit)?;
        let _guard = self.enter()?;
        let mut ledger = scope.ledger.lock();
        let end = match result.cut {
            None => Event::CyclePublish {
                scope: scope.name.clone(),
            },
            Some(steps) => Event::CycleCut {
                scope: scope.name.clone(),
                steps,
            },
        };
        let next = result.onto(&scope.live.load(), &self.config)?;
        let lamport = self.written(self.journal.lock().append(end))?;
        publish(scope, &mut ledger, result.seen, next, lamport);
        Ok(result.report)
    }
}

impl CycleResult {
    /// The live state with what the cycle found, and with the fast adapter merged into the slow one.
    pub(super) fn onto(&self, live: &Learned, config: &EngineConfig) -> Result<Learned> {
        let mut next = live.clone();
        next.bank = self.bank.clone();
        next.banked = self.banked;
        if let Some(base) = &self.base {
            next.base = Some(base.clone());
        }
        let Some(micro) = next.micro.as_mut().filter(|m| m.has_moved()) else {
            return Ok(next);
        };
        let mut base = match &next.base {
            Some(base) => (**base).clone(),
            None => train::untrained(config)?,
        };
        base.absorb(0, Arc::make_mut(micro))?;
        next.base = Some(Arc::new(base));
        Ok(next)
    }

    /// Traces up to this one are in the bank.
    pub(super) fn seen(&self) -> u64 {
        self.seen
    }
}

/// Publishes the state after a cycle, which also holds everything learned meanwhile, and lets go of the traces that are in it.
pub(super) fn publish(scope: &Scope, ledger: &mut Ledger, seen: u64, mut next: Learned, lamport: u64) {
    ledger.drop_traces(seen);
    next.version = lamport;
    scope.live.store(Arc::new(next));
}
