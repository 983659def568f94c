//! Loop B, one cycle: patterns from the remembered cases, the slow adapter from their clicks, a gate on held-out clicks.
//!
//! A cycle takes its input under the scope's writer lock and notes that in the journal, works without any lock, and publishes
//! under the lock again. Readers and writers never wait for it. Replay computes the same cycle from the same input.

use super::Engine;
use super::anchors::Anchors;
use super::config::EngineConfig;
use super::event::Event;
use super::items::{IdRef, Item};
use super::learned::Learned;
use super::ledger::Ledger;
use super::listing::Listing;
use super::scope::Scope;
use super::stats::{Running, dcg};
use crate::error::Result;
use crate::item::ItemId;
use crate::kernels;
use crate::lora::{BaseConfig, BaseLora, Batch};
use crate::patterns::bank::{Bank, BankConfig, Outcome};
use crate::rng::{RngExt, stream};
use rustc_hash::FxHashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Clicks that training the slow adapter needs at least.
const ENOUGH_PAIRS: usize = 100;
/// Every fifth case is held out for the gate, every fifth for early stopping.
const FOLDS: u64 = 5;
/// Held-out clicks that are looked at.
const HELD_OUT: usize = 512;
const BATCH: usize = 64;
const MAX_EPOCHS: usize = 20;
const TEMPERATURE: f64 = 0.05;
/// Competitors that a held-out click is ranked against.
const POOL: usize = 256;
/// The configured rate is per entry and step of a long run; a cycle has few steps.
const RATE_FACTOR: f64 = 50.0;

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

/// Input of a cycle, taken at one point of the journal.
pub(super) struct CycleInput {
    learned: Arc<Learned>,
    items: FxHashMap<ItemId, Arc<Item>>,
    anchors: Option<Arc<Anchors>>,
    /// Copies: what a cycle takes in is let go when it publishes, so that one that never does loses nothing.
    traces: Vec<(Vec<f32>, f32)>,
    /// How many traces there were.
    seen: u64,
    /// Seconds since the epoch, from the journal.
    now: i64,
}

/// What a cycle found, to be published.
pub(super) struct CycleResult {
    bank: Option<Bank>,
    banked: u64,
    /// Traces up to this one are in the bank.
    seen: u64,
    base: Option<BaseLora>,
    report: CycleReport,
}

/// A click to learn from: unit query, where the other cases move it, unit vector of the item.
struct Pair<'a> {
    case: u64,
    query: &'a [f32],
    start: Vec<f32>,
    item: &'a ItemId,
    vector: Vec<f32>,
}

impl CycleInput {
    /// The caller holds the ledger.
    fn take(scope: &Scope, ledger: &Ledger, now: f64) -> Self {
        let learned = scope.live.load_full();
        let table = scope.items.read();
        let mut items = FxHashMap::default();
        for case in learned.cases.iter().filter(|c| c.weight > 0.0) {
            for id in case.items {
                if let Some(item) = table.get(IdRef::Other(id)) {
                    items.entry(id.clone()).or_insert_with(|| item.clone());
                }
            }
        }
        drop(table);
        Self::with_items(learned, items, ledger, now)
    }

    /// As [`Self::take`] in another process: the very items that the cycle read there, whatever the table holds by now.
    pub(super) fn retake(scope: &Scope, ledger: &Ledger, now: f64, read: &[u64]) -> Self {
        let table = scope.items.read();
        let items = read.iter().filter_map(|h| table.by_hash(*h));
        let items = items.map(|i| (i.id.clone(), i.clone())).collect();
        drop(table);
        Self::with_items(scope.live.load_full(), items, ledger, now)
    }

    fn with_items(
        learned: Arc<Learned>,
        items: FxHashMap<ItemId, Arc<Item>>,
        ledger: &Ledger,
        now: f64,
    ) -> Self {
        Self {
            learned,
            items,
            anchors: ledger.anchors.clone(),
            traces: ledger.traces.iter().cloned().collect(),
            seen: ledger.traces_seen(),
            now: now as i64,
        }
    }

    /// Content addresses of the items, ascending.
    fn read(&self) -> Vec<u64> {
        let mut out: Vec<u64> = self.items.values().map(|i| i.hash).collect();
        out.sort_unstable();
        out
    }

    fn pairs(&self) -> Result<Vec<Pair<'_>>> {
        let mut out = Vec::new();
        for case in self.learned.cases.iter().filter(|c| c.weight > 0.0) {
            for id in case.items {
                if let Some(item) = self.items.get(id).filter(|i| i.inv_norm > 0.0) {
                    let vector = item.vector.iter().map(|v| v * item.inv_norm).collect();
                    let probe = self.learned.cases.probe(case.query)?.without_case(case.id);
                    out.push(Pair {
                        case: case.id,
                        query: case.query,
                        start: if probe.is_empty() {
                            probe.query()
                        } else {
                            probe.adapted()
                        }
                        .to_vec(),
                        item: id,
                        vector,
                    });
                }
            }
        }
        Ok(out)
    }

    /// The whole cycle: a pure function of the input and the settings.
    pub(super) fn run(&self, scope: &Arc<str>, config: &EngineConfig) -> Result<CycleResult> {
        let started = Instant::now();
        // A scope in which nothing was there to take in stays as it is: whether a cycle passed by must leave no trace.
        let nothing = self.learned.cases.is_empty() && self.traces.is_empty() && self.learned.bank.is_none();
        let bank = if nothing {
            None
        } else {
            Some(self.extract(scope, config)?)
        };
        // The adapter learns what the cases do not say: an adapter that repeats them overshoots where both act.
        let enough = self.items.len() > 1 && config.base_lr > 0.0;
        let pairs = if enough { self.pairs()? } else { Vec::new() };
        let fold = |case: u64| case % FOLDS;
        let train: Vec<&Pair<'_>> = pairs.iter().filter(|p| fold(p.case) > 1).collect();
        let stop: Vec<&Pair<'_>> = pairs
            .iter()
            .filter(|p| fold(p.case) == 1)
            .take(HELD_OUT)
            .collect();
        let gate: Vec<&Pair<'_>> = pairs
            .iter()
            .filter(|p| fold(p.case) == 0)
            .take(HELD_OUT)
            .collect();
        let mut report = CycleReport {
            scope: scope.clone(),
            trajectories: self.learned.cases.len() + self.traces.len(),
            patterns: bank.as_ref().map_or(0, |b| b.patterns().len()),
            trained_on: 0,
            accepted: false,
            reason: format!(
                "{} clicks, {ENOUGH_PAIRS} are needed to train the slow adapter",
                train.len()
            ),
            gain: 0.0,
            interval: (0.0, 0.0),
            elapsed: Duration::ZERO,
        };
        let mut base = None;
        if train.len() >= ENOUGH_PAIRS && config.base_lr > 0.0 {
            let candidate = self.train(&train, &stop, config)?;
            let (gain, interval) = self.compare(&candidate, &gate, config)?;
            report.trained_on = train.len();
            (report.gain, report.interval) = (gain, interval);
            report.accepted = interval.0 > 0.0;
            report.reason = format!(
                "{} of {:+.4} [{:+.4}, {:+.4}] in DCG on {} held-out clicks",
                if report.accepted { "gain" } else { "no sure gain:" },
                gain,
                interval.0,
                interval.1,
                gate.len()
            );
            let spoiled = self.anchor_loss(&candidate)?.filter(|l| *l > config.harm_budget);
            if let Some(loss) = spoiled.filter(|_| report.accepted) {
                report.accepted = false;
                report.reason = format!("{}, but the anchors would lose {loss:.4}", report.reason);
            }
            base = report.accepted.then_some(candidate);
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
            report,
        })
    }

    /// Patterns: clusters of the cases' requests and of the traces, with ids that survive.
    fn extract(&self, scope: &str, config: &EngineConfig) -> Result<Bank> {
        let settings = BankConfig {
            k_clusters: config.pattern_clusters,
            embedding_dim: config.dim,
            max_trajectories: config.capacity,
            quality_threshold: f64::from(config.quality_threshold),
            seed: config.seed,
            ..BankConfig::default()
        };
        let mut bank = match &self.learned.bank {
            Some(bank) => (**bank).clone(),
            None => Bank::new(settings)?,
        };
        for case in self.learned.cases.iter().filter(|c| c.id >= self.learned.banked) {
            let action = case.items.first().map(ToString::to_string);
            bank.add(Outcome {
                embedding: case.query,
                quality: f64::from(0.5 + 0.5 * case.weight.clamp(-1.0, 1.0)),
                action: action.as_deref(),
                scope,
                verdict: None,
            })?;
        }
        for (query, quality) in self.traces.iter().filter(|(q, _)| q.iter().any(|v| *v != 0.0)) {
            bank.add(Outcome {
                embedding: query,
                quality: f64::from(*quality),
                action: None,
                scope,
                verdict: None,
            })?;
        }
        bank.extract(self.now)?;
        Ok(bank)
    }

    /// In-batch InfoNCE (van den Oord 2018) on the clicks, stopped when the held-out loss no longer falls: without that a
    /// slow adapter trained on clicks overfits badly.
    fn train(&self, train: &[&Pair<'_>], stop: &[&Pair<'_>], config: &EngineConfig) -> Result<BaseLora> {
        let settings = BaseConfig {
            learning_rate: f64::from(config.base_lr) * RATE_FACTOR,
            seed: config.seed,
            ..BaseConfig::new(config.dim, config.base_rank, 1)
        };
        let mut current = BaseLora::new(settings)?;
        let mut best = current.clone();
        let mut best_rank = held_out_dcg(&current, stop)?;
        let mut rng = stream(config.seed, 0x6379_636c);
        let mut order: Vec<usize> = (0..train.len()).collect();
        let mut without_gain = 0;
        for _ in 0..MAX_EPOCHS {
            for i in (1..order.len()).rev() {
                order.swap(i, rng.random_range(0..=i));
            }
            for batch in order.chunks(BATCH) {
                // Two clicks on one item would be each other's negatives: one per item and batch.
                let mut seen: Vec<&ItemId> = Vec::new();
                let (mut queries, mut starts, mut positives) = (Vec::new(), Vec::new(), Vec::new());
                for &i in batch {
                    if !seen.contains(&train[i].item) {
                        seen.push(train[i].item);
                        queries.extend_from_slice(train[i].query);
                        starts.extend_from_slice(&train[i].start);
                        positives.extend_from_slice(&train[i].vector);
                    }
                }
                let batch = Batch {
                    queries: &queries,
                    starts: &starts,
                    positives: &positives,
                    negatives: &[],
                    temperature: TEMPERATURE,
                };
                current.train_step(0, &batch, None)?;
            }
            let rank = held_out_dcg(&current, stop)?;
            if rank > best_rank {
                (best_rank, without_gain) = (rank, 0);
                best = current.clone();
            } else {
                without_gain += 1;
            }
            if without_gain == 2 {
                break;
            }
        }
        Ok(best)
    }

    /// What the anchors would lose in DCG against the live state; `None` without anchors.
    fn anchor_loss(&self, candidate: &BaseLora) -> Result<Option<f64>> {
        let Some(anchors) = &self.anchors else {
            return Ok(None);
        };
        let mut next = (*self.learned).clone();
        next.base = Some(Arc::new(candidate.clone()));
        let mut loss = Running::default();
        for i in 0..anchors.len() {
            let listing = Listing::new(anchors.items());
            let candidates = listing.candidates()?;
            let score = |state: &Learned| -> Result<f64> {
                let ranking = state.score(anchors.query(i), &candidates, None)?;
                Ok(dcg(&ranking.learned, &anchors.relevant(i)))
            };
            loss.push(score(&self.learned)? - score(&next)?);
        }
        Ok(Some(loss.mean))
    }

    /// DCG of the held-out clicks among the known items, with the candidate's adapter and with the live one. The click's own
    /// case is taken out, so that the rest of the engine does not simply remember the answer; all others act, recall too, as
    /// they do when it serves.
    fn compare(
        &self,
        candidate: &BaseLora,
        gate: &[&Pair<'_>],
        config: &EngineConfig,
    ) -> Result<(f64, (f64, f64))> {
        let mut pool: Vec<(&ItemId, Vec<f32>)> = Vec::new();
        let mut known: Vec<_> = self.items.iter().collect();
        known.sort_by_key(|(id, _)| (*id).clone());
        let step = known.len().div_ceil(POOL).max(1);
        for (id, item) in known.into_iter().step_by(step) {
            pool.push((id, item.vector.iter().map(|v| v * item.inv_norm).collect()));
        }
        let mut gain = Running::default();
        for pair in gate {
            let probe = self.learned.cases.probe(pair.query)?.without_case(pair.case);
            let w = self.learned.cases.params().recall_weight;
            let recall = |id: &ItemId| w * self.learned.cases.recall_of(&probe, id);
            let remembered = recall(pair.item);
            let others: Vec<f32> = pool.iter().map(|(id, _)| recall(id)).collect();
            let score = |base: Option<&BaseLora>| -> Result<f64> {
                let mut moved = pair.start.clone();
                if let Some(base) = base {
                    let mut delta = vec![0.0; config.dim];
                    base.factors(0)?.delta_into(pair.query, &mut delta)?;
                    kernels::axpy(1.0, &delta, &mut moved);
                }
                let mut scores = vec![kernels::dot(&moved, &pair.vector) + remembered];
                scores.extend(
                    pool.iter()
                        .zip(&others)
                        .filter(|((id, _), _)| *id != pair.item)
                        .map(|((_, v), r)| kernels::dot(&moved, v) + r),
                );
                Ok(dcg(&scores, &[0]))
            };
            gain.push(score(Some(candidate))? - score(self.learned.base.as_deref())?);
        }
        Ok((gain.mean, gain.interval()))
    }
}

/// Mean DCG of held-out clicks among each other's items.
fn held_out_dcg(base: &BaseLora, pairs: &[&Pair<'_>]) -> Result<f64> {
    let mut mean = Running::default();
    let mut out = vec![0.0; pairs.first().map_or(0, |p| p.query.len())];
    for (i, pair) in pairs.iter().enumerate() {
        base.factors(0)?.delta_into(pair.query, &mut out)?;
        kernels::axpy(1.0, &pair.start, &mut out);
        let scores: Vec<f32> = pairs
            .iter()
            .enumerate()
            .map(|(j, p)| {
                if j != i && p.item == pair.item {
                    f32::NEG_INFINITY
                } else {
                    kernels::dot(&out, &p.vector)
                }
            })
            .collect();
        mean.push(dcg(&scores, &[i]));
    }
    Ok(mean.mean)
}

impl Engine {
    /// Runs one background cycle in every scope, on the calling thread. Serving goes on meanwhile. The deadline is looked at
    /// between scopes: within one the work is bounded by its input, so that replay, which has no clock, finds the same.
    pub fn background_learn(&self, deadline: Option<Duration>, now: f64) -> Result<Vec<CycleReport>> {
        self.honour_requests()?;
        let end = deadline.map(|d| Instant::now() + d);
        let mut out = Vec::new();
        for name in self.scope_names() {
            if end.is_some_and(|e| Instant::now() > e) {
                break;
            }
            if let Some(scope) = self.scope(&name) {
                if self.mode().learns() {
                    out.push(self.cycle(&scope, now)?);
                }
            }
        }
        Ok(out)
    }

    fn cycle(&self, scope: &Scope, now: f64) -> Result<CycleReport> {
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
        let result = input.run(&scope.name, &self.config)?;
        let _guard = self.enter()?;
        let mut ledger = scope.ledger.lock();
        let lamport = self.written(self.journal.lock().append(Event::CyclePublish {
            scope: scope.name.clone(),
        }))?;
        Ok(publish(scope, &mut ledger, result, lamport))
    }
}

/// Publishes what a cycle found: a new snapshot that also holds everything learned meanwhile.
pub(super) fn publish(scope: &Scope, ledger: &mut Ledger, result: CycleResult, lamport: u64) -> CycleReport {
    ledger.drop_traces(result.seen);
    let mut next = (*scope.live.load_full()).clone();
    next.bank = result.bank.map(Arc::new);
    next.banked = result.banked;
    if let Some(base) = result.base {
        next.base = Some(Arc::new(base));
    }
    next.version = lamport;
    scope.live.store(Arc::new(next));
    result.report
}
