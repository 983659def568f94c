//! Reasoning bank: many outcomes in, few reusable patterns out, per scope.
//!
//! Cases go into a ring of bounded size. An extraction clusters each scope's cases (spherical k-means, weighted by quality)
//! and matches the clusters with the patterns of before, so ids and access counts survive and nothing is counted twice.
//! Failures are kept: they tell what to avoid. Same calls, same bits; a clone is independent.

mod config;
mod consolidate;
mod extract;
mod matching;
mod memory_item;
mod pattern;
mod region;
#[cfg(test)]
mod tests;

pub use config::BankConfig;
pub use consolidate::REGION_COSINE;
pub use extract::{Clusters, Plan};
pub use memory_item::{MemoryItem, template};
pub use pattern::{ActionOutcome, Memo, Pattern, Verdict, decay_factor, wilson_lower_bound};

use crate::codec::{self, Kind};
use crate::error::{Error, Result, check_dim, check_finite, check_number};
use crate::kernels::normalize;
use crate::metrics::Metrics;
use region::{Case, Region};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const KIND: Kind = Kind {
    tag: *b"BANK",
    version: 1,
};

/// The scope of requests that name none.
pub const DEFAULT_SCOPE: &str = "default";
/// Added to every quality, so that failures have a weight too.
const EPSILON: f64 = 0.05;

/// What a case counts in the clustering.
fn weight(case: &Case) -> f64 {
    (case.quality + EPSILON) * case.freshness
}

/// A case to add: how a request turned out.
#[derive(Debug, Clone, Copy)]
pub struct Outcome<'a> {
    /// The request, `embedding_dim` values, not all zero.
    pub embedding: &'a [f32],
    /// In `[0, 1]`.
    pub quality: f64,
    /// What was done, if it has a name.
    pub action: Option<&'a str>,
    /// Whose it is.
    pub scope: &'a str,
    /// What the caller's judge said; `None`: the default thresholds decide.
    pub verdict: Option<Verdict>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Counters {
    evicted: u64,
    removed: u64,
    extractions: u64,
    too_few: u64,
    unclustered: u64,
    superseded: u64,
    forgotten: u64,
    merged: u64,
    pruned: u64,
    queries: u64,
    zero_queries: u64,
}

/// The bank. See the module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Bank {
    config: BankConfig,
    scopes: BTreeMap<Arc<str>, Region>,
    next_case: u64,
    next_pattern: u64,
    /// Grows when everything is cleared.
    epoch: u64,
    /// Grows with every change of cases.
    clock: u64,
    counters: Counters,
    /// Scopes by number of cases: who gives way when the ring is full.
    #[serde(skip)]
    sizes: BTreeSet<(usize, Arc<str>)>,
}

impl Bank {
    /// An empty bank.
    pub fn new(config: BankConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            config,
            scopes: BTreeMap::new(),
            next_case: 0,
            next_pattern: 0,
            epoch: 0,
            clock: 0,
            counters: Counters::default(),
            sizes: BTreeSet::new(),
        })
    }

    /// What it was built from.
    #[must_use]
    pub fn config(&self) -> &BankConfig {
        &self.config
    }

    /// Remembers a case and returns its id. In a full bank the oldest case of the scope with most cases gives way, so no
    /// scope can crowd out another. O(d + log scopes).
    pub fn add(&mut self, outcome: Outcome<'_>) -> Result<u64> {
        check_dim("embedding", self.config.embedding_dim, outcome.embedding.len())?;
        check_finite("embedding", outcome.embedding)?;
        if outcome.embedding.iter().all(|v| *v == 0.0) {
            return Err(Error::value(
                "embedding",
                "a vector with a direction",
                "zeros only",
            ));
        }
        check_number("quality", outcome.quality)?;
        if !(0.0..=1.0).contains(&outcome.quality) {
            return Err(Error::value("quality", "a number in [0, 1]", outcome.quality));
        }
        let id = self.next_case;
        self.next_case += 1;
        let scope: Arc<str> = match self.scopes.get_key_value(outcome.scope) {
            Some((name, _)) => name.clone(),
            None => outcome.scope.into(),
        };
        self.change(&scope, |region| {
            region.cases.push_back(Case {
                id,
                embedding: outcome.embedding.into(),
                quality: outcome.quality,
                action: outcome.action.map(Into::into),
                verdict: outcome.verdict,
                freshness: 1.0,
                member_of: None,
            });
        });
        if self.case_count() > self.config.max_trajectories
            && let Some((_, largest)) = self.sizes.last().cloned()
        {
            self.change(&largest, |region| {
                region.cases.pop_front();
            });
            self.counters.evicted += 1;
        }
        Ok(id)
    }

    /// Changes the cases of a scope and keeps the books; a scope without cases and patterns goes.
    fn change<T>(&mut self, scope: &Arc<str>, f: impl FnOnce(&mut Region) -> T) -> T {
        let region = self.scopes.entry(scope.clone()).or_default();
        let before = region.cases.len();
        let out = f(region);
        let after = region.cases.len();
        if after != before {
            self.clock += 1;
            region.version = self.clock;
            self.sizes.remove(&(before, scope.clone()));
        }
        if after > 0 {
            self.sizes.insert((after, scope.clone()));
        } else if region.patterns.is_empty() {
            self.scopes.remove(scope);
        }
        out
    }

    /// Cases held over all scopes.
    #[must_use]
    pub fn case_count(&self) -> usize {
        (self.next_case - self.counters.evicted - self.counters.removed) as usize
    }

    /// Forgets cases, and takes what they contributed out of their patterns. Returns how many were there.
    pub fn remove(&mut self, ids: &[u64]) -> usize {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        let names: Vec<Arc<str>> = self.scopes.keys().cloned().collect();
        let mut removed = 0;
        for name in names {
            removed += self.change(&name, |region| region.remove(&ids));
        }
        self.counters.removed += removed as u64;
        removed
    }

    /// All patterns, by id.
    #[must_use]
    pub fn patterns(&self) -> Vec<&Pattern> {
        let mut out: Vec<&Pattern> = self.scopes.values().flat_map(|r| &r.patterns).collect();
        out.sort_unstable_by_key(|p| p.id);
        out
    }

    /// The pattern with this id.
    #[must_use]
    pub fn get(&self, id: u64) -> Option<&Pattern> {
        self.scopes.values().find_map(|r| {
            let at = r.patterns.binary_search_by_key(&id, |p| p.id).ok()?;
            Some(&r.patterns[at])
        })
    }

    /// The `k` patterns of `scope` most similar to `query` that `admit` lets through, best first, ties by id. Nothing is
    /// counted. A zero query is similar to nothing. O(patterns · d).
    pub fn nearest(
        &self,
        query: &[f32],
        k: usize,
        scope: &str,
        admit: impl Fn(&Pattern) -> bool,
    ) -> Result<Vec<(&Pattern, f32)>> {
        check_dim("query", self.config.embedding_dim, query.len())?;
        check_finite("query", query)?;
        let Some(region) = self.scopes.get(scope) else {
            return Ok(Vec::new());
        };
        let mut q = query.to_vec();
        if normalize(&mut q) == 0.0 {
            return Ok(Vec::new());
        }
        let found = region.nearest(&q, k, admit);
        Ok(found
            .into_iter()
            .map(|(at, s)| (&region.patterns[at], s))
            .collect())
    }

    /// What worked for requests like `query`: the `k` most similar patterns of `scope` of at least the configured
    /// quality, best first. Each counts an access at second `now`.
    pub fn find(&mut self, query: &[f32], k: usize, scope: &str, now: i64) -> Result<Vec<(Pattern, f32)>> {
        let threshold = self.config.quality_threshold;
        self.look_up(query, k, scope, now, |p| p.avg_quality >= threshold)
    }

    /// Advice for `query`: the `k` most similar patterns of `scope` in words, failures as what to avoid. Each counts an
    /// access at second `now`.
    pub fn recall(
        &mut self,
        query: &[f32],
        k: usize,
        scope: &str,
        include_failures: bool,
        now: i64,
    ) -> Result<Vec<MemoryItem>> {
        let found = self.look_up(query, k, scope, now, |p| {
            include_failures || p.verdict != Verdict::Failure
        })?;
        Ok(found
            .into_iter()
            .map(|(p, similarity)| MemoryItem {
                pattern: p.id,
                memo: p.memo.clone().unwrap_or_else(|| template(&p)),
                verdict: p.verdict,
                embedding: p.centroid,
                similarity,
            })
            .collect())
    }

    fn look_up(
        &mut self,
        query: &[f32],
        k: usize,
        scope: &str,
        now: i64,
        admit: impl Fn(&Pattern) -> bool,
    ) -> Result<Vec<(Pattern, f32)>> {
        let found: Vec<(u64, f32)> = self
            .nearest(query, k, scope, admit)?
            .into_iter()
            .map(|(p, s)| (p.id, s))
            .collect();
        self.counters.queries += 1;
        self.counters.zero_queries += u64::from(query.iter().all(|v| *v == 0.0));
        let Some(region) = self.scopes.get_mut(scope) else {
            return Ok(Vec::new());
        };
        Ok(found
            .into_iter()
            .filter_map(|(id, s)| {
                let at = region.patterns.binary_search_by_key(&id, |p| p.id).ok()?;
                region.touch(at, now);
                Some((region.patterns[at].clone(), s))
            })
            .collect())
    }

    /// Keeps what a distiller made of a pattern, until its statistics change. False if the pattern is gone.
    pub fn set_memo(&mut self, id: u64, memo: Memo) -> bool {
        let patterns = self.scopes.values_mut().flat_map(|r| &mut r.patterns);
        for p in patterns {
            if p.id == id {
                p.memo = Some(memo);
                return true;
            }
        }
        false
    }

    /// Forgets cases, patterns and scopes; configuration and counters stay.
    pub fn clear(&mut self) {
        self.counters.removed += self.case_count() as u64;
        self.scopes.clear();
        self.sizes.clear();
        self.epoch += 1;
    }

    /// Multiplies the weight of all evidence, patterns and cases, by `factor` per day.
    pub fn decay(&mut self, factor: f64, days: f64) -> Result<()> {
        decay_factor(factor, days)?;
        self.scopes.values_mut().try_for_each(|r| r.decay(factor, days))
    }

    /// Merges patterns of one scope that are more similar than `threshold` (default: the configured one), the most
    /// similar first; success and failure stay apart. Returns the number of merges.
    pub fn merge_similar(&mut self, threshold: Option<f64>) -> Result<usize> {
        let threshold = threshold.unwrap_or(self.config.merge_similarity);
        check_number("threshold", threshold)?;
        if !(-1.0..=1.0).contains(&threshold) {
            return Err(Error::value("threshold", "a cosine in [-1, 1]", threshold));
        }
        let mut merges = 0;
        for region in self.scopes.values_mut() {
            merges += region.merge_similar(threshold)?;
        }
        self.counters.merged += merges as u64;
        Ok(merges)
    }

    /// Drops patterns of mean quality below `min_quality` with fewer than `min_accesses` accesses, the worst first, but
    /// never the only pattern of a region (no other within cosine 0.7). Returns how many went.
    pub fn prune(&mut self, min_quality: f64, min_accesses: u64) -> usize {
        let regions = self.scopes.values_mut();
        let pruned = regions.map(|r| r.prune(min_quality, min_accesses)).sum();
        self.counters.pruned += pruned as u64;
        pruned
    }

    /// Counts and sizes.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let c = &self.counters;
        vec![
            ("cases", self.case_count().into()),
            ("patterns", self.patterns().len().into()),
            ("scopes", self.scopes.len().into()),
            ("added", self.next_case.into()),
            ("evicted", c.evicted.into()),
            ("removed", c.removed.into()),
            ("extractions", c.extractions.into()),
            ("skipped_too_few_cases", c.too_few.into()),
            ("unclustered_cases", c.unclustered.into()),
            ("superseded_patterns", c.superseded.into()),
            ("forgotten_patterns", c.forgotten.into()),
            ("merged_patterns", c.merged.into()),
            ("pruned_patterns", c.pruned.into()),
            ("queries", c.queries.into()),
            ("zero_queries", c.zero_queries.into()),
        ]
    }

    /// The whole state.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        codec::encode(KIND, self)
    }

    /// The state that [`Bank::to_bytes`] wrote; anything else is refused.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let bank: Self = codec::decode(KIND, bytes)?;
        bank.restored()
    }

    /// Checks decoded state and rebuilds what is derived. Call it after deserialising a bank as part of something else.
    pub fn restored(mut self) -> Result<Self> {
        let fail = |reason: &str| Err(Error::corrupt("reasoning bank", reason));
        self.config
            .validate()
            .map_err(|e| Error::corrupt("reasoning bank", e))?;
        let mut held = 0u64;
        let mut ids = BTreeSet::new();
        for region in self.scopes.values_mut() {
            region.check(&self.config, self.next_case, self.next_pattern)?;
            region.index();
            held += region.cases.len() as u64;
            if !region.patterns.iter().all(|p| ids.insert(p.id)) {
                return fail("two patterns of one id");
            }
        }
        let gone = self.counters.evicted.checked_add(self.counters.removed);
        if gone.and_then(|g| g.checked_add(held)) != Some(self.next_case) {
            return fail("counters that do not add up");
        }
        if held > self.config.max_trajectories as u64 {
            return fail("more cases than its configuration allows");
        }
        for (scope, region) in &self.scopes {
            if region.patterns.iter().any(|p| p.scope != *scope) {
                return fail("a pattern of another scope");
            }
            if !region.cases.is_empty() {
                self.sizes.insert((region.cases.len(), scope.clone()));
            }
        }
        Ok(self)
    }
}
