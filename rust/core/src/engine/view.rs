//! What the engine says about itself: metrics, reports, explanations.

use super::event::DecisionId;
use super::learned::Learned;
use super::ledger::SourceCount;
use super::listing::Listing;
use super::stats::Progress;
use super::{Engine, Mode};
use crate::error::{Result, check_dim, check_finite};
use crate::item::ItemId;
use crate::metrics::Metrics;
use crate::patterns::bank::Pattern;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

/// Figures of one scope.
#[derive(Debug, Clone)]
pub struct ScopeReport {
    /// Name.
    pub name: Arc<str>,
    /// Version of the live state.
    pub version: u64,
    /// Test-then-learn figures.
    pub progress: Progress,
    /// Cases and their bytes.
    pub cases: Metrics,
    /// Item gate.
    pub gate: Metrics,
    /// What the harm budget measures and holds back.
    pub harm: Metrics,
    /// Item vectors known, and their bytes.
    pub items: (usize, usize),
    /// Feedback by source.
    pub sources: BTreeMap<String, SourceCount>,
    /// Feedback that came twice.
    pub duplicates: u64,
}

/// One shown item of an explained decision.
#[derive(Debug, Clone)]
pub struct ExplainedItem {
    /// Id.
    pub id: ItemId,
    /// The application's score.
    pub base: f32,
    /// What the kernel adapter adds.
    pub adapter: f32,
    /// What recall adds.
    pub recall: f32,
    /// What the item gate adds or takes, the adapters add and the harm budget holds back.
    pub gate: f32,
    /// Their sum.
    pub score: f32,
}

/// Why a decision looks as it does.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// Scope.
    pub scope: Arc<str>,
    /// Version that decided.
    pub version: u64,
    /// Version that explains: the live one.
    pub explained_by: u64,
    /// Whether what was learned acted.
    pub acted: bool,
    /// Shown items, in their order.
    pub items: Vec<ExplainedItem>,
    /// Nearest cases: id and cosine.
    pub cases: Vec<(u64, f32)>,
    /// Arm of the item gate: β and λ.
    pub gate_arm: (f64, f64),
}

/// The gate's figures, and the share of choices that are taken for stray clicks.
fn gate_metrics(live: &Learned) -> Metrics {
    let mut out = live.gate.metrics();
    out.push(("stray_share", live.strays.share().into()));
    out
}

impl Engine {
    /// Counters and sizes.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let _guard = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        let get = |c: &AtomicU64| c.load(Ordering::Relaxed);
        let c = &self.counters;
        let (journal_bytes, journal_dropped, truncated) = self.journal.lock().sizes();
        let (waiting, waiting_bytes, evicted, censored) = {
            let p = self.pending.lock();
            (
                p.len(),
                p.nbytes(),
                p.evicted(),
                p.censored(self.config.decision_ttl_s),
            )
        };
        let scopes = self.scopes.load();
        let sum = |f: &dyn Fn(&super::Scope) -> usize| scopes.values().map(|s| f(s)).sum::<usize>();
        vec![
            ("adapted", get(&c.adapted).into()),
            ("ranked", get(&c.ranked).into()),
            ("feedback", get(&c.feedback).into()),
            ("learned", get(&c.learned).into()),
            ("recorded_only", get(&c.recorded_only).into()),
            (
                "duplicates",
                scopes
                    .values()
                    .map(|s| s.ledger.lock().duplicates)
                    .sum::<u64>()
                    .into(),
            ),
            (
                "expired",
                scopes
                    .values()
                    .map(|s| s.ledger.lock().sources.values().map(|c| c.expired).sum::<u64>())
                    .sum::<u64>()
                    .into(),
            ),
            ("failed_writes", get(&c.failed_writes).into()),
            ("orphans", get(&c.orphans).into()),
            ("rebuilt", get(&c.rebuilt).into()),
            ("scopes", scopes.len().into()),
            ("cases", sum(&|s| s.live.load().cases.len()).into()),
            ("case_bytes", sum(&|s| s.live.load().cases.nbytes()).into()),
            (
                "held_back",
                sum(&|s| usize::from(s.live.load().harm.multiplier() < 1.0)).into(),
            ),
            ("items", sum(&|s| s.items.read().len()).into()),
            ("item_bytes", sum(&|s| s.items.read().nbytes()).into()),
            (
                "items_evicted",
                scopes
                    .values()
                    .map(|s| s.items.read().evicted())
                    .sum::<u64>()
                    .into(),
            ),
            ("pending", waiting.into()),
            ("pending_bytes", waiting_bytes.into()),
            ("pending_expired", evicted.into()),
            ("censored", censored.into()),
            ("forgets_waiting", self.forgets_waiting().into()),
            ("journal_bytes", journal_bytes.into()),
            ("journal_dropped", journal_dropped.into()),
            ("journal_truncated_bytes", truncated.into()),
        ]
    }

    /// Figures of every scope, by name.
    #[must_use]
    pub fn report(&self) -> Vec<ScopeReport> {
        let _guard = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        self.scope_names()
            .into_iter()
            .filter_map(|name| self.scope(&name))
            .map(|scope| {
                let live = scope.live.load_full();
                let ledger = scope.ledger.lock();
                let items = scope.items.read();
                ScopeReport {
                    name: scope.name.clone(),
                    version: live.version,
                    progress: live.progress.clone(),
                    cases: live.cases.metrics(),
                    gate: gate_metrics(&live),
                    harm: live.harm.metrics(),
                    items: (items.len(), items.nbytes()),
                    sources: ledger.sources.clone(),
                    duplicates: ledger.duplicates,
                }
            })
            .collect()
    }

    /// Base and learned parts of each shown score, and the cases behind them, under the live state.
    pub fn explain(&self, id: DecisionId) -> Result<Explanation> {
        let _guard = self.enter()?;
        let record = self.decision(id)?;
        let scope = self.scope_or_new(&record.scope)?;
        let live = scope.live.load_full();
        let listing = Listing::new(&record.items);
        let ranking = live.score(&record.query, &listing.candidates()?, record.base.as_deref())?;
        let w = live.cases.params().recall_weight;
        let items = record
            .shown
            .iter()
            .map(|&p| p as usize)
            .map(|p| {
                let (base, plain, score) = (
                    ranking.scored.base[p],
                    ranking.scored.scores[p],
                    ranking.learned[p],
                );
                let recall = w * ranking.scored.recall[p];
                let (id, adapter, gate) = (record.items[p].id.clone(), plain - base - recall, score - plain);
                ExplainedItem {
                    id,
                    base,
                    adapter,
                    recall,
                    gate,
                    score,
                }
            })
            .collect();
        Ok(Explanation {
            scope: record.scope.clone(),
            version: record.version,
            explained_by: live.version,
            acted: record.acted && self.mode() != Mode::Off,
            items,
            cases: ranking.probe.neighbors().take(10).collect(),
            gate_arm: (live.gate.beta(), live.gate.lambda()),
        })
    }

    /// Patterns of the last background cycle that are most like the query, best first. O(patterns · d).
    pub fn find_patterns(&self, scope: &str, query: &[f32], k: usize) -> Result<Vec<(Pattern, f32)>> {
        check_dim("x", self.config.dim, query.len())?;
        check_finite("x", query)?;
        let Some(bank) = self.scope(scope).and_then(|s| s.live.load().bank.clone()) else {
            return Ok(Vec::new());
        };
        let found = bank.nearest(query, k, scope, |_| true)?;
        Ok(found.into_iter().map(|(p, s)| (p.clone(), s)).collect())
    }

    /// Logical time of the last event in the journal: the version to come back to with `rollback`.
    #[must_use]
    pub fn version(&self) -> u64 {
        let _guard = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        self.journal.lock().lamport()
    }
}
