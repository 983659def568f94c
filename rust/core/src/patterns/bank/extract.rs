//! From cases to patterns: cluster each scope that changed, then carry over what was known about the clusters before.
//!
//! In three steps, so that a caller with a lock holds it only for the first and the last: [`Bank::plan`] copies the
//! cases, [`Plan::run`] clusters them, [`Bank::commit`] matches old and new centroids and replaces the patterns.

use super::matching::best_matching;
use super::pattern::{ActionOutcome, Pattern, Verdict, rank_actions};
use super::region::{Case, Region};
use super::{Bank, BankConfig, weight};
use crate::error::Result;
use crate::kernels::{dot, normalize};
use crate::patterns::kmeans::{self, Algorithm, Metric, Params};
use rustc_hash::FxHashMap;
use std::sync::Arc;

/// A new cluster is an old one if their centroids are more similar than this cosine.
const SAME_COSINE: f32 = 0.9;
/// Cases from which mini-batches are used.
const MINIBATCH: usize = 50_000;

/// Copies of the cases of every scope that changed since the last extraction.
pub struct Plan {
    config: BankConfig,
    epoch: u64,
    scopes: Vec<ScopePlan>,
}

struct ScopePlan {
    scope: Arc<str>,
    version: u64,
    ids: Vec<u64>,
    rows: Vec<f32>,
    weights: Vec<f32>,
}

/// A cluster number for each planned case.
pub struct Clusters {
    epoch: u64,
    scopes: Vec<ScopeClusters>,
}

struct ScopeClusters {
    scope: Arc<str>,
    version: u64,
    label_of: FxHashMap<u64, u32>,
    k: usize,
}

impl Plan {
    /// Clusters by direction, weighted by quality. The same plan gives the same clusters.
    pub fn run(self) -> Result<Clusters> {
        let c = &self.config;
        let mut scopes = Vec::with_capacity(self.scopes.len());
        for s in self.scopes {
            let n = s.ids.len();
            let got = kmeans::kmeans(
                &s.rows,
                c.embedding_dim,
                &Params {
                    weights: Some(&s.weights),
                    max_iterations: c.max_iterations,
                    tol: c.convergence_threshold as f32,
                    metric: Metric::Cosine,
                    algorithm: if n > MINIBATCH {
                        Algorithm::Minibatch
                    } else {
                        Algorithm::Auto
                    },
                    seed: c.seed,
                    ..Params::new(c.k_clusters.min(n / c.min_cluster_size).max(1))
                },
            )?;
            scopes.push(ScopeClusters {
                scope: s.scope,
                version: s.version,
                label_of: s.ids.into_iter().zip(got.labels).collect(),
                k: got.centroids.len() / c.embedding_dim,
            });
        }
        Ok(Clusters {
            epoch: self.epoch,
            scopes,
        })
    }
}

impl Bank {
    /// Copies what an extraction needs. Scopes with fewer than `min_cluster_size` cases are left out and counted.
    pub fn plan(&mut self) -> Plan {
        let mut scopes = Vec::new();
        for (scope, region) in &self.scopes {
            if region.cases.len() < self.config.min_cluster_size {
                self.counters.too_few += 1;
            } else if region.extracted != Some(region.version) {
                let mut weights: Vec<f32> = region.cases.iter().map(|c| weight(c) as f32).collect();
                if weights.iter().all(|w| *w == 0.0) {
                    // Everything has decayed away: what is left counts equally.
                    weights.fill(1.0);
                }
                scopes.push(ScopePlan {
                    scope: scope.clone(),
                    version: region.version,
                    ids: region.cases.iter().map(|c| c.id).collect(),
                    rows: region
                        .cases
                        .iter()
                        .flat_map(|c| c.embedding.iter().copied())
                        .collect(),
                    weights,
                });
            }
        }
        Plan {
            config: self.config.clone(),
            epoch: self.epoch,
            scopes,
        }
    }

    /// Replaces the patterns of the clustered scopes. Cases that came since stay for the next extraction; clusters of a
    /// bank that was cleared since are dropped.
    ///
    /// A new cluster that matches an old pattern (one to one, largest total similarity, cosine above 0.9) keeps its id,
    /// its accesses and its date of birth. An old pattern without a match goes, because its cases are counted by others
    /// now, unless they all left the ring: then the pattern is all that is known of them, and stays.
    pub fn commit(&mut self, clusters: Clusters, now: i64) -> Result<()> {
        if clusters.epoch != self.epoch {
            return Ok(());
        }
        self.counters.extractions += 1;
        for found in clusters.scopes {
            let Some(region) = self.scopes.get_mut(&found.scope) else {
                continue;
            };
            let fresh = summarise(region, &found, &self.config, now);
            self.counters.unclustered = region
                .cases
                .iter()
                .filter(|c| found.label_of.contains_key(&c.id))
                .count() as u64
                - fresh.iter().map(|(p, _)| p.cluster_size).sum::<u64>();
            let (gone, forgotten) = upsert(region, fresh, &self.config, &mut self.next_pattern)?;
            self.counters.superseded += gone;
            self.counters.forgotten += forgotten;
            region.extracted = Some(found.version);
        }
        Ok(())
    }

    /// [`Bank::plan`], [`Plan::run`] and [`Bank::commit`] in one: the patterns of every scope with enough cases, by id.
    pub fn extract(&mut self, now: i64) -> Result<Vec<Pattern>> {
        let clusters = self.plan().run()?;
        self.commit(clusters, now)?;
        Ok(self.extracted())
    }

    /// The patterns of every scope with enough cases for an extraction, by id.
    #[must_use]
    pub fn extracted(&self) -> Vec<Pattern> {
        let regions = self.scopes.values();
        let mut out: Vec<Pattern> = regions
            .filter(|r| r.cases.len() >= self.config.min_cluster_size)
            .flat_map(|r| r.patterns.iter().cloned())
            .collect();
        out.sort_unstable_by_key(|p| p.id);
        out
    }
}

/// Statistics of each cluster that is large enough, with the ids of its cases.
fn summarise(
    region: &Region,
    found: &ScopeClusters,
    config: &BankConfig,
    now: i64,
) -> Vec<(Pattern, Vec<u64>)> {
    let mut members: Vec<Vec<&Case>> = vec![Vec::new(); found.k];
    for c in &region.cases {
        if let Some(label) = found.label_of.get(&c.id) {
            members[*label as usize].push(c);
        }
    }
    members.retain(|m| m.len() >= config.min_cluster_size);
    members
        .into_iter()
        .map(|m| {
            let ids = m.iter().map(|c| c.id).collect();
            (pattern_of(&m, &found.scope, config.embedding_dim, now), ids)
        })
        .collect()
}

/// The pattern of a group of cases, not empty; its id is still to be given.
fn pattern_of(members: &[&Case], scope: &Arc<str>, d: usize, now: i64) -> Pattern {
    let n = members.len() as f64;
    let mut mean = vec![0.0f64; d];
    let mut actions: Vec<ActionOutcome> = Vec::new();
    for c in members {
        for (m, x) in mean.iter_mut().zip(c.embedding.iter()) {
            *m += f64::from(*x) / n;
        }
        let Some(action) = &c.action else { continue };
        match actions.iter_mut().find(|a| a.action == *action) {
            Some(a) => {
                a.count += 1;
                a.mean_quality += (c.quality - a.mean_quality) / a.count as f64;
            }
            None => actions.push(ActionOutcome {
                action: action.clone(),
                count: 1,
                mean_quality: c.quality,
            }),
        }
    }
    rank_actions(&mut actions);
    let avg_quality = members.iter().map(|c| c.quality).sum::<f64>() / n;
    let quality_var = members
        .iter()
        .map(|c| (c.quality - avg_quality).powi(2))
        .sum::<f64>()
        / n;
    Pattern {
        id: 0,
        scope: scope.clone(),
        centroid: mean.into_iter().map(|m| m as f32).collect(),
        cluster_size: members.len() as u64,
        total_weight: members.iter().map(|c| weight(c)).sum(),
        avg_quality,
        quality_var,
        created_at: now,
        last_accessed: now,
        access_count: 0,
        verdict: verdict_of(members, avg_quality),
        actions,
        memo: None,
        merged: 0,
    }
}

/// What most of the judged members say; the mean quality decides where no judge spoke.
fn verdict_of(members: &[&Case], avg_quality: f64) -> Verdict {
    let said: Vec<Verdict> = members.iter().filter_map(|c| c.verdict).collect();
    if said.is_empty() {
        return Verdict::of(avg_quality);
    }
    [Verdict::Success, Verdict::Failure]
        .into_iter()
        .find(|v| 2 * said.iter().filter(|s| *s == v).count() > said.len())
        .unwrap_or(Verdict::Uncertain)
}

fn unit(v: &[f32]) -> Vec<f32> {
    let mut v = v.to_vec();
    normalize(&mut v);
    v
}

/// Puts the fresh patterns in the place of the old ones. Returns how many went because others count their cases now, and
/// how many because there were too many of the past.
fn upsert(
    region: &mut Region,
    fresh: Vec<(Pattern, Vec<u64>)>,
    config: &BankConfig,
    next_id: &mut u64,
) -> Result<(u64, u64)> {
    let mut edges = Vec::new();
    let mut nearest: Vec<Option<(usize, f32)>> = Vec::with_capacity(fresh.len());
    for (row, (p, _)) in fresh.iter().enumerate() {
        let s = region.similarities(&unit(&p.centroid));
        let same = s.iter().enumerate().filter(|(_, s)| **s > SAME_COSINE);
        edges.extend(same.map(|(column, s)| (row, column, f64::from(*s))));
        let best = s.iter().copied().enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
        nearest.push(best);
    }
    let matched = best_matching(fresh.len(), region.patterns.len(), &edges);

    let counted: std::collections::BTreeSet<u64> = region.cases.iter().filter_map(|c| c.member_of).collect();
    region.cases.iter_mut().for_each(|c| c.member_of = None);
    let mut owner: FxHashMap<u64, u64> = FxHashMap::default();
    let mut patterns: Vec<Pattern> = Vec::with_capacity(fresh.len());
    let mut place: FxHashMap<usize, usize> = FxHashMap::default();
    let mut leftover = Vec::new();
    for (row, (mut p, ids)) in fresh.into_iter().enumerate() {
        let Some(column) = matched[row] else {
            leftover.push((row, p, ids));
            continue;
        };
        inherit(&mut p, &region.patterns[column]);
        owner.extend(ids.into_iter().map(|id| (id, p.id)));
        place.insert(column, patterns.len());
        patterns.push(p);
    }
    for (row, mut p, ids) in leftover {
        // What was consolidated stays one: a fresh cluster inside a merged pattern joins its successor.
        let home = nearest[row]
            .filter(|(c, s)| f64::from(*s) > config.merge_similarity && region.patterns[*c].merged > 0)
            .and_then(|(c, _)| place.get(&c));
        match home {
            Some(&at) => {
                let merged = patterns[at].merged;
                patterns[at] = patterns[at].merge(&p)?;
                patterns[at].merged = merged;
                owner.extend(ids.into_iter().map(|id| (id, patterns[at].id)));
            }
            None => {
                p.id = *next_id;
                *next_id += 1;
                owner.extend(ids.into_iter().map(|id| (id, p.id)));
                patterns.push(p);
            }
        }
    }

    let old = std::mem::take(&mut region.patterns);
    let unmatched = old
        .into_iter()
        .enumerate()
        .filter(|(c, _)| !place.contains_key(c));
    let (live, mut past): (Vec<Pattern>, Vec<Pattern>) =
        unmatched.map(|(_, p)| p).partition(|p| counted.contains(&p.id));
    // The past is kept as far as it is as large as the present; what was used last stays.
    past.sort_by_key(|p| std::cmp::Reverse((p.last_accessed, p.id)));
    let forgotten = past.len().saturating_sub(config.k_clusters);
    past.truncate(config.k_clusters);
    patterns.extend(past);
    region.patterns = patterns;
    for c in &mut region.cases {
        c.member_of = owner.get(&c.id).copied();
    }
    region.index();
    Ok((live.len() as u64, forgotten as u64))
}

/// What the same cluster is known by from before.
fn inherit(p: &mut Pattern, old: &Pattern) {
    p.id = old.id;
    p.access_count = old.access_count;
    p.created_at = old.created_at;
    p.last_accessed = old.last_accessed;
    p.merged = old.merged;
    let same = p.cluster_size == old.cluster_size
        && p.avg_quality == old.avg_quality
        && p.verdict == old.verdict
        && dot(&unit(&p.centroid), &unit(&old.centroid)) > 0.999;
    if same {
        p.memo = old.memo.clone();
    }
}
