//! Cases in copy-on-write segments: a clone is a snapshot.

use super::candidates::{Candidates, Scored};
use super::counts::Counts;
use super::found::Found;
use super::gradient::listwise;
use super::params::CaseParams;
use super::probe::Probe;
use super::search::Segments;
use super::segment::{Case, CaseId, Codes, Meta, SEGMENT, Segment};
use crate::error::{Error, Result, check_dim, check_finite};
use crate::item::ItemId;
use crate::kernels;
use crate::metrics::Metrics;
use crate::patterns::index::MAX_DIM;
use rustc_hash::FxHashSet;
use std::sync::{Arc, OnceLock};

/// Greatest weight of one feedback.
pub(super) const MAX_WEIGHT: f32 = 100.0;
/// Oldest cases among which one is chosen for eviction.
const EVICTION_WINDOW: usize = 256;

/// Remembered cases and the rule that ranks by them. Cloning costs O(1) and gives an independent memory that shares all
/// cases; writing copies one segment's byte codes at most.
#[derive(Debug, Clone)]
pub struct CaseMemory {
    pub(super) dim: usize,
    pub(super) params: CaseParams,
    pub(super) seed: u64,
    pub(super) segments: Segments,
    pub(super) len: usize,
    pub(super) nbytes: usize,
    pub(super) counts: Counts,
    pub(super) next_id: CaseId,
    /// The latest time of a case; −∞ before the first. Ages count from here.
    pub(super) clock: f64,
    /// Another one whenever a case goes: while it is the same, cases were only added.
    pub(super) lineage: Arc<()>,
    pub(super) removed: u64,
    pub(super) evicted: u64,
}

/// One remembered case, read-only.
#[derive(Debug, Clone, Copy)]
pub struct CaseView<'a> {
    /// Id.
    pub id: CaseId,
    /// The request, of unit length.
    pub query: &'a [f32],
    /// Items that the feedback was about.
    pub items: &'a [ItemId],
    /// Signed strength of the feedback.
    pub weight: f32,
}

/// One feedback to remember.
#[derive(Debug, Clone)]
pub struct NewCase<'a> {
    /// Items that the feedback is about; duplicates count once.
    pub chosen: &'a [ItemId],
    /// What was ranked: the shown items and strong competitors.
    pub candidates: &'a Candidates<'a>,
    /// Ungated scores of the candidates; `None`: the memory's own.
    pub scores: Option<&'a [f32]>,
    /// Strength; negative for a rejection, which pushes the items away. 0 < |weight| ≤ 100.
    pub weight: f32,
    /// Where the feedback came from.
    pub source: Arc<str>,
    /// Whose feedback it is.
    pub user: Arc<str>,
    /// Seconds since the epoch.
    pub at: f64,
}

impl CaseMemory {
    /// An empty memory for vectors of length `dim`. The rule makes no random choice; `seed` is kept with the state.
    pub fn new(dim: usize, params: CaseParams, seed: u64) -> Result<Self> {
        if !(1..=MAX_DIM).contains(&dim) {
            return Err(Error::config("dim", format!("1 to {MAX_DIM}"), dim));
        }
        params.check()?;
        Ok(Self {
            dim,
            params,
            seed,
            segments: Segments::new(),
            len: 0,
            nbytes: 0,
            counts: Counts::default(),
            next_id: 0,
            clock: f64::NEG_INFINITY,
            lineage: Arc::default(),
            removed: 0,
            evicted: 0,
        })
    }

    /// Length of every vector.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The settings.
    #[must_use]
    pub fn params(&self) -> &CaseParams {
        &self.params
    }

    /// The seed that it was made with.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Number of cases.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True without cases.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of all cases.
    #[must_use]
    pub fn nbytes(&self) -> usize {
        self.nbytes
    }

    /// Finds the nearest cases of `q` (any norm). O(cases·d) over byte codes, O(neighbors·d) in float32.
    pub fn probe(&self, q: &[f32]) -> Result<Probe> {
        check_dim("q", self.dim, q.len())?;
        check_finite("q", q)?;
        Ok(Probe::new(self, q, None))
    }

    /// The same with what an earlier search of the same request found, where that still helps.
    pub fn probe_again(&self, q: &[f32], found: Option<&Found>) -> Result<Probe> {
        check_dim("q", self.dim, q.len())?;
        check_finite("q", q)?;
        Ok(Probe::new(self, q, found))
    }

    /// r(d) of one item.
    #[must_use]
    pub fn recall_of(&self, probe: &Probe, item: &ItemId) -> f32 {
        probe.recall_of(item)
    }

    /// r(d) of each item.
    #[must_use]
    pub fn recall(&self, probe: &Probe, items: &[&ItemId]) -> Vec<f32> {
        items.iter().map(|i| probe.recall_of(i)).collect()
    }

    /// s(d) of each candidate with its parts, into `out`. `base` `None`: the cosine.
    pub fn score(
        &self,
        probe: &Probe,
        candidates: &Candidates<'_>,
        base: Option<&[f32]>,
        out: &mut Scored,
    ) -> Result<()> {
        let n = candidates.len();
        out.base.clear();
        out.numbers.clear();
        match base {
            Some(base) => {
                if base.len() != n {
                    return Err(Error::shape(
                        "base",
                        format!("({n},)"),
                        format!("({},)", base.len()),
                    ));
                }
                check_finite("base", base)?;
                out.base.extend_from_slice(base);
            }
            None => {
                out.base.resize(n, 0.0);
                candidates.add_dots(probe.query(), &mut out.base);
            }
        }
        if !probe.is_empty() {
            out.numbers
                .extend(candidates.ids().iter().map(|id| probe.number(id)));
        }
        self.add_learned(probe, candidates, out);
        Ok(())
    }

    /// s(d) for `reduced`, which is `full` without some of its cases; `scored` is of `full`.
    pub(super) fn score_reduced(
        &self,
        full: &Probe,
        reduced: &Probe,
        candidates: &Candidates<'_>,
        scored: &Scored,
    ) -> Scored {
        if full.len() == reduced.len() && !scored.withheld {
            return scored.clone();
        }
        let mut out = Scored {
            base: scored.base.clone(),
            numbers: scored.numbers.clone(),
            ..Scored::default()
        };
        self.add_learned(reduced, candidates, &mut out);
        out
    }

    fn add_learned(&self, probe: &Probe, candidates: &Candidates<'_>, out: &mut Scored) {
        out.novelty = OnceLock::new();
        out.withheld = false;
        out.scores.clear();
        out.scores.extend_from_slice(&out.base);
        out.recall.clear();
        out.recall.reserve(candidates.len());
        if probe.is_empty() {
            out.recall.resize(candidates.len(), 0.0);
            return;
        }
        candidates.add_dots(probe.delta(), &mut out.scores);
        let credit = probe.credit();
        for (score, number) in out.scores.iter_mut().zip(&out.numbers) {
            let r = credit.of(*number, f64::from(self.params.shrinkage));
            out.recall.push(r);
            *score += self.params.recall_weight * r;
        }
    }

    /// Remembers one feedback. `probe` is of the same request, normally of this very memory.
    pub fn learn(&mut self, probe: &Probe, case: &NewCase<'_>) -> Result<CaseId> {
        check_dim("q", self.dim, probe.query().len())?;
        if !(case.weight.is_finite() && case.weight != 0.0 && case.weight.abs() <= MAX_WEIGHT) {
            return Err(Error::value(
                "weight",
                format!("0 < |weight| <= {MAX_WEIGHT}"),
                case.weight,
            ));
        }
        if !case.at.is_finite() {
            return Err(Error::value("now", "finite seconds", case.at));
        }
        if kernels::norm(probe.query()) == 0.0 {
            return Err(Error::value("q", "a vector with a direction", "a zero vector"));
        }
        let mut own = Scored::default();
        let scores = match case.scores {
            Some(s) => {
                if s.len() != case.candidates.len() {
                    let want = format!("({},)", case.candidates.len());
                    return Err(Error::shape("scores", want, format!("({},)", s.len())));
                }
                check_finite("scores", s)?;
                s
            }
            None => {
                self.score(probe, case.candidates, None, &mut own)?;
                &own.scores
            }
        };
        let mut vectors = Vec::with_capacity(2 * self.dim);
        vectors.extend_from_slice(probe.query());
        vectors.resize(2 * self.dim, 0.0);
        let g = &mut vectors[self.dim..];
        listwise(
            case.chosen,
            case.candidates,
            scores,
            self.params.temperature,
            case.weight,
            g,
        )?;
        let mut items: Vec<ItemId> = Vec::with_capacity(case.chosen.len());
        for item in case.chosen {
            if !items.contains(item) {
                items.push(item.clone());
            }
        }
        let id = self.next_id;
        self.next_id += 1;
        let meta = Meta {
            items: items.into(),
            source: case.source.clone(),
            user: case.user.clone(),
        };
        let case = Case::new(id, vectors.into(), case.weight, case.at, meta);
        let codes = Codes::of(&case);
        self.append(case, &codes);
        self.fit_budget();
        Ok(id)
    }

    pub(super) fn append(&mut self, case: Case, codes: &Codes) {
        self.len += 1;
        self.nbytes += case.nbytes();
        self.clock = self.clock.max(case.at);
        let about = self.counts.add(&case.meta.items);
        match self.segments.back_mut() {
            Some(tail) if tail.len() < SEGMENT => Arc::make_mut(tail).push(case, codes, about),
            _ => {
                let mut fresh = Segment::default();
                fresh.push(case, codes, about);
                self.segments.push_back(Arc::new(fresh));
            }
        }
    }

    /// Forgets cases; afterwards the memory scores as one that never had them. Unknown ids are ignored. O(cases) over ids.
    pub fn remove(&mut self, ids: &[CaseId]) -> usize {
        let gone: FxHashSet<CaseId> = ids.iter().copied().collect();
        let n = self.drop_cases(|c| gone.contains(&c.id));
        if n > 0 {
            // A case that never was has not moved the clock either.
            let times = self.segments.iter().flat_map(|s| &s.cases).map(|c| c.at);
            self.clock = times.fold(f64::NEG_INFINITY, f64::max);
        }
        self.removed += n as u64;
        n
    }

    fn drop_cases(&mut self, gone: impl Fn(&Case) -> bool) -> usize {
        let before = self.len;
        self.lineage = Arc::default();
        let mut kept = Segments::new();
        for segment in std::mem::take(&mut self.segments) {
            let segment = if segment.cases.iter().any(&gone) {
                for case in segment.cases.iter().filter(|c| gone(c)) {
                    self.forget(case);
                }
                Arc::new(segment.filtered(|slot| !gone(&segment.cases[slot])))
            } else {
                segment
            };
            match kept.back_mut() {
                // Small neighbours are joined, so that many removals leave no trail of nearly empty segments.
                Some(last) if last.len() + segment.len() <= SEGMENT => {
                    *last = Arc::new(last.joined(&segment))
                }
                _ if segment.len() == 0 => {}
                _ => kept.push_back(segment),
            }
        }
        self.segments = kept;
        before - self.len
    }

    /// Takes a case that leaves its segment out of the totals.
    fn forget(&mut self, case: &Case) {
        self.len -= 1;
        self.nbytes -= case.nbytes();
        self.counts.remove(&case.meta.items);
    }

    /// Ids of the cases of `user` and of `source` (both where both are given, all where none is), ascending. O(cases).
    #[must_use]
    pub fn cases_of(&self, user: Option<&str>, source: Option<&str>) -> Vec<CaseId> {
        let is = |want: Option<&str>, have: &str| want.is_none_or(|w| w == have);
        self.segments
            .iter()
            .flat_map(|s| &s.cases)
            .filter(|c| is(user, &c.meta.user) && is(source, &c.meta.source))
            .map(|c| c.id)
            .collect()
    }

    /// Evicts until the budget holds: of the oldest cases the one that is least worth, which is one that says little about
    /// an item of which many cases are left. The newest case stays.
    fn fit_budget(&mut self) {
        let Some(max) = self.params.max_bytes else { return };
        while self.nbytes > max && self.len > 1 {
            let Some((s, slot)) = self.least_worth() else {
                return;
            };
            let segment = self.segments[s].clone();
            self.forget(&segment.cases[slot]);
            self.evicted += 1;
            self.lineage = Arc::default();
            if segment.len() > 1 {
                self.segments[s] = Arc::new(segment.filtered(|i| i != slot));
            } else {
                self.segments.remove(s);
            }
        }
    }

    /// Segment and slot of the case with the least √|g| / (cases about its rarest item) among the [`EVICTION_WINDOW`]
    /// oldest, and never the newest; ties to the older. Against dropping the oldest, with room
    /// for 800 cases of Banking77 under skewed traffic: hit@1 .69 → .85 (.92 with all; benches/research/eviction.py).
    fn least_worth(&self) -> Option<(usize, usize)> {
        let oldest = self.segments.iter().enumerate().flat_map(|(s, segment)| {
            segment
                .cases
                .iter()
                .enumerate()
                .map(move |(slot, case)| (s, slot, case))
        });
        let mut worst = (f32::INFINITY, None);
        for (s, slot, case) in oldest.take(EVICTION_WINDOW.min(self.len - 1)) {
            let worth = case.pull.sqrt() / self.counts.rarest(&case.meta.items) as f32;
            if worth < worst.0 {
                worst = (worth, Some((s, slot)));
            }
        }
        worst.1
    }

    /// An item whose id lives only in this process, if there is one: such a memory cannot be written.
    #[must_use]
    pub fn unwritable_id(&self) -> Option<&ItemId> {
        self.segments
            .iter()
            .flat_map(|s| &s.cases)
            .flat_map(|c| c.meta.items.iter())
            .find(|id| id.is_opaque())
    }

    /// All cases, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = CaseView<'_>> {
        self.segments.iter().flat_map(|s| {
            s.cases.iter().enumerate().map(|(slot, c)| CaseView {
                id: c.id,
                query: s.query(slot),
                items: &c.meta.items,
                weight: c.weight,
            })
        })
    }

    /// Counters and sizes.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        vec![
            ("cases", self.len.into()),
            ("learned", self.next_id.into()),
            ("removed", self.removed.into()),
            ("evicted", self.evicted.into()),
            ("items", self.counts.len().into()),
            ("segments", self.segments.len().into()),
            ("nbytes", self.nbytes.into()),
        ]
    }
}
