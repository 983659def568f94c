//! What one scope remembers: its cases and its patterns.

use super::config::BankConfig;
use super::pattern::{Pattern, Verdict, decay_factor};
use crate::error::{Error, Result};
use crate::kernels::{gemv, normalize, top_k};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::sync::Arc;

/// One remembered request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Case {
    pub(super) id: u64,
    pub(super) embedding: Arc<[f32]>,
    pub(super) quality: f64,
    pub(super) action: Option<Arc<str>>,
    /// What a judge of the caller's said; `None`: the default thresholds decide.
    pub(super) verdict: Option<Verdict>,
    /// Product of the decay factors since it came.
    pub(super) freshness: f64,
    /// The pattern that counts it.
    pub(super) member_of: Option<u64>,
}

/// Cases and patterns of one scope.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Region {
    /// Oldest first.
    pub(super) cases: VecDeque<Case>,
    /// By id.
    pub(super) patterns: Vec<Pattern>,
    /// Changes whenever the cases do.
    pub(super) version: u64,
    /// The version that the patterns were extracted from.
    pub(super) extracted: Option<u64>,
    /// Unit centroids, row by row.
    #[serde(skip)]
    directions: Vec<f32>,
}

impl Region {
    /// Recomputes what is derived from the patterns.
    pub(super) fn index(&mut self) {
        self.patterns.sort_unstable_by_key(|p| p.id);
        self.directions.clear();
        for p in &self.patterns {
            let start = self.directions.len();
            self.directions.extend_from_slice(&p.centroid);
            normalize(&mut self.directions[start..]);
        }
    }

    /// Puts another pattern in the place of the `i`th, which has its id.
    pub(super) fn replace(&mut self, i: usize, p: Pattern) {
        let d = p.centroid.len();
        let direction = &mut self.directions[i * d..(i + 1) * d];
        direction.copy_from_slice(&p.centroid);
        normalize(direction);
        self.patterns[i] = p;
    }

    /// Cosine of the unit vector `q` with every pattern.
    pub(super) fn similarities(&self, q: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; self.patterns.len()];
        gemv(&self.directions, q.len(), q, &mut out);
        out
    }

    pub(super) fn direction(&self, i: usize) -> &[f32] {
        let d = self.patterns[i].centroid.len();
        &self.directions[i * d..(i + 1) * d]
    }

    /// The `k` patterns most similar to the unit vector `q` that `admit` lets through: `(position, cosine)`, best first,
    /// ties by id.
    pub(super) fn nearest(&self, q: &[f32], k: usize, admit: impl Fn(&Pattern) -> bool) -> Vec<(usize, f32)> {
        let all = self.similarities(q);
        let admitted: Vec<usize> = (0..all.len()).filter(|&i| admit(&self.patterns[i])).collect();
        let scores: Vec<f32> = admitted.iter().map(|&i| all[i]).collect();
        let best = top_k(&scores, k.min(scores.len()));
        best.into_iter().map(|i| (admitted[i], scores[i])).collect()
    }

    pub(super) fn touch(&mut self, at: usize, now: i64) {
        let p = &mut self.patterns[at];
        p.access_count += 1;
        p.last_accessed = p.last_accessed.max(now);
    }

    /// Removes the cases `ids` (sorted), and what they contributed to patterns; a pattern without members goes too.
    pub(super) fn remove(&mut self, ids: &[u64]) -> usize {
        let before = self.cases.len();
        let patterns = &mut self.patterns;
        self.cases.retain(|case| {
            let goes = ids.binary_search(&case.id).is_ok();
            if goes
                && let Some(p) = case
                    .member_of
                    .and_then(|id| patterns.iter_mut().find(|p| p.id == id))
            {
                subtract(p, case);
            }
            !goes
        });
        let removed = before - self.cases.len();
        if removed > 0 {
            self.patterns.retain(|p| p.cluster_size > 0);
            self.index();
        }
        removed
    }

    pub(super) fn decay(&mut self, factor: f64, days: f64) -> Result<()> {
        let by = decay_factor(factor, days)?;
        self.patterns.iter_mut().for_each(|p| p.total_weight *= by);
        self.cases.iter_mut().for_each(|c| c.freshness *= by);
        Ok(())
    }

    /// Cases of patterns that are gone belong to none.
    pub(super) fn disown(&mut self) {
        let patterns = &self.patterns;
        for c in &mut self.cases {
            if c.member_of.is_some_and(|id| patterns.iter().all(|p| p.id != id)) {
                c.member_of = None;
            }
        }
    }

    /// Errors if decoded bytes hold what no bank could have written.
    pub(super) fn check(&self, config: &BankConfig, next_case: u64, next_pattern: u64) -> Result<()> {
        let fail = |reason: &str| Err(Error::corrupt("reasoning bank", reason));
        let vector = |v: &[f32]| v.len() == config.embedding_dim && v.iter().all(|x| x.is_finite());
        let share = |x: f64| (0.0..=1.0).contains(&x);
        let weight = |x: f64| x.is_finite() && x >= 0.0;
        for (i, c) in self.cases.iter().enumerate() {
            if !vector(&c.embedding) || c.embedding.iter().all(|x| *x == 0.0) {
                return fail("a case's embedding");
            }
            if !share(c.quality) || !weight(c.freshness) {
                return fail("a case's quality or weight");
            }
            if c.id >= next_case || (i > 0 && self.cases[i - 1].id >= c.id) {
                return fail("case ids out of order");
            }
        }
        for (i, p) in self.patterns.iter().enumerate() {
            let actions = p.actions.iter().all(|a| a.mean_quality.is_finite());
            if !vector(&p.centroid) || !actions || p.cluster_size == 0 || p.cluster_size > 1 << 53 {
                return fail("a pattern's centroid, size or actions");
            }
            if !share(p.avg_quality) || !weight(p.quality_var) || !weight(p.total_weight) {
                return fail("a pattern's statistics");
            }
            if p.id >= next_pattern || (i > 0 && self.patterns[i - 1].id >= p.id) {
                return fail("pattern ids out of order");
            }
        }
        Ok(())
    }
}

/// Takes one member out of a pattern's statistics.
fn subtract(p: &mut Pattern, case: &Case) {
    let n = p.cluster_size as f64;
    p.cluster_size -= 1;
    p.memo = None;
    p.total_weight = (p.total_weight - super::weight(case)).max(0.0);
    if let Some(action) = &case.action
        && let Some(at) = p.actions.iter().position(|a| a.action == *action)
    {
        let a = &mut p.actions[at];
        if a.count <= 1 {
            p.actions.remove(at);
        } else {
            let count = a.count as f64;
            a.mean_quality = ((count * a.mean_quality - case.quality) / (count - 1.0)).clamp(0.0, 1.0);
            a.count -= 1;
        }
    }
    if p.cluster_size == 0 {
        return;
    }
    let left = n - 1.0;
    for (c, x) in p.centroid.iter_mut().zip(case.embedding.iter()) {
        *c = ((n * f64::from(*c) - f64::from(*x)) / left) as f32;
    }
    let second = n * (p.quality_var + p.avg_quality * p.avg_quality) - case.quality * case.quality;
    p.avg_quality = ((n * p.avg_quality - case.quality) / left).clamp(0.0, 1.0);
    p.quality_var = (second / left - p.avg_quality * p.avg_quality).max(0.0);
}
