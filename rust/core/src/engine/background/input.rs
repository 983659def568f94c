//! What a cycle reads, and the clicks that it learns from.

use super::super::anchors::Anchors;
use super::super::config::EngineConfig;
use super::super::items::{IdRef, Item};
use super::super::learned::Learned;
use super::super::ledger::Ledger;
use super::super::scope::Scope;
use crate::error::Result;
use crate::item::ItemId;
use crate::patterns::bank::{Bank, BankConfig, Outcome};
use crate::rng::{RngExt, stream};
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// Every fifth case is held out for the gate, every fifth for early stopping.
const FOLDS: u64 = 5;
/// Clicks that are looked at in each of the two.
const HELD_OUT: usize = 512;
/// Clicks that a cycle trains on at the most, drawn evenly from all that are remembered: the time that it takes is bounded.
const MOST_PAIRS: usize = 2048;

/// Input of a cycle, taken at one point of the journal.
pub(in super::super) struct CycleInput {
    pub(super) learned: Arc<Learned>,
    pub(super) items: FxHashMap<ItemId, Arc<Item>>,
    pub(super) anchors: Option<Arc<Anchors>>,
    /// Copies: what a cycle takes in is let go when it publishes, so that one that never does loses nothing.
    pub(super) traces: Vec<(Vec<f32>, f32)>,
    /// How many traces there were.
    pub(super) seen: u64,
    /// Seconds since the epoch, from the journal.
    now: i64,
}

/// A click to learn from: unit query, where everything but the slow adapter moves it, unit vector of the item.
pub(super) struct Pair<'a> {
    pub case: u64,
    pub query: &'a [f32],
    pub start: Vec<f32>,
    pub item: &'a ItemId,
    pub vector: Vec<f32>,
}

/// The clicks of a cycle by their use.
pub(super) struct Pairs<'a> {
    pub train: Vec<Pair<'a>>,
    pub stop: Vec<Pair<'a>>,
    pub gate: Vec<Pair<'a>>,
    /// Clicks that there were to train on.
    pub known: usize,
}

/// A click before its request was looked up.
struct Click<'a> {
    case: u64,
    query: &'a [f32],
    item: &'a ItemId,
    found: &'a Arc<Item>,
}

impl CycleInput {
    /// The caller holds the ledger.
    pub(super) fn take(scope: &Scope, ledger: &Ledger, now: f64) -> Self {
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
    pub(in super::super) fn retake(scope: &Scope, ledger: &Ledger, now: f64, read: &[u64]) -> Self {
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
    pub(super) fn read(&self) -> Vec<u64> {
        let mut out: Vec<u64> = self.items.values().map(|i| i.hash).collect();
        out.sort_unstable();
        out
    }

    /// The clicks, each with where the rest of the engine moves its request.
    pub(super) fn pairs(&self, config: &EngineConfig) -> Result<Pairs<'_>> {
        let mut folds: [Vec<Click<'_>>; FOLDS as usize] = std::array::from_fn(|_| Vec::new());
        for case in self.learned.cases.iter().filter(|c| c.weight > 0.0) {
            for item in case.items {
                if let Some(found) = self.items.get(item).filter(|i| i.inv_norm > 0.0) {
                    folds[(case.id % FOLDS) as usize].push(Click {
                        case: case.id,
                        query: case.query,
                        item,
                        found,
                    });
                }
            }
        }
        let [mut gate, mut stop, rest @ ..] = folds;
        gate.truncate(HELD_OUT);
        stop.truncate(HELD_OUT);
        let mut train: Vec<Click<'_>> = rest.into_iter().flatten().collect();
        train.sort_by_key(|c| c.case);
        let known = train.len();
        if known > MOST_PAIRS {
            let mut rng = stream(config.seed, 0x7265_706c);
            for i in 0..MOST_PAIRS {
                train.swap(i, rng.random_range(i..known));
            }
            train.truncate(MOST_PAIRS);
        }
        Ok(Pairs {
            train: self.looked_up(&train)?,
            stop: self.looked_up(&stop)?,
            gate: self.looked_up(&gate)?,
            known,
        })
    }

    fn looked_up<'a>(&self, clicks: &[Click<'a>]) -> Result<Vec<Pair<'a>>> {
        clicks
            .iter()
            .map(|c| {
                let probe = self.learned.cases.probe(c.query)?.without_case(c.case);
                let mut start = if probe.is_empty() {
                    probe.query()
                } else {
                    probe.adapted()
                }
                .to_vec();
                self.learned.add_fast(c.query, &mut start)?;
                Ok(Pair {
                    case: c.case,
                    query: c.query,
                    start,
                    item: c.item,
                    vector: c.found.vector.iter().map(|v| v * c.found.inv_norm).collect(),
                })
            })
            .collect()
    }

    /// Patterns: clusters of the cases' requests and of the traces, with ids that survive.
    pub(super) fn extract(&self, scope: &str, config: &EngineConfig) -> Result<Bank> {
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
}
