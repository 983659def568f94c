//! Fewer patterns that say the same: merging what is alike, pruning what is bad and unused.

use super::pattern::{Pattern, Verdict};
use super::region::Region;
use crate::error::Result;
use rustc_hash::FxHashMap;

/// Patterns whose centroids are closer than this cosine lie in one region.
pub const REGION_COSINE: f32 = 0.7;

/// One says do, the other avoid: they are never one pattern.
fn opposed(a: &Pattern, b: &Pattern) -> bool {
    use Verdict::{Failure, Success};
    matches!((a.verdict, b.verdict), (Success, Failure) | (Failure, Success))
}

/// The most similar later pattern of each pattern, as long as both are alive (nearest-neighbour array of agglomerative
/// clustering: O(n) memory, one scan per pattern whose neighbour changed).
struct Neighbours {
    alive: Vec<bool>,
    best: Vec<(f32, usize)>,
}

impl Neighbours {
    fn new(region: &Region) -> Self {
        let n = region.patterns.len();
        let mut all = Self {
            alive: vec![true; n],
            best: vec![(f32::NEG_INFINITY, 0); n],
        };
        for i in 0..n {
            all.scan(region, i);
        }
        all
    }

    fn scan(&mut self, region: &Region, i: usize) {
        let s = region.similarities(region.direction(i));
        self.best[i] = (f32::NEG_INFINITY, 0);
        for (j, s) in s.into_iter().enumerate().skip(i + 1) {
            if self.alive[j] && s > self.best[i].0 && !opposed(&region.patterns[i], &region.patterns[j]) {
                self.best[i] = (s, j);
            }
        }
    }

    /// The most similar pair that is more similar than `threshold`.
    fn closest(&self, threshold: f32) -> Option<(usize, usize)> {
        let mut found: Option<(f32, usize, usize)> = None;
        for (i, (s, j)) in self.best.iter().enumerate() {
            if self.alive[i] && *s > threshold && found.is_none_or(|(best, ..)| *s > best) {
                found = Some((*s, i, *j));
            }
        }
        found.map(|(_, i, j)| (i, j))
    }

    /// `gone` is part of `kept` now.
    fn merged(&mut self, region: &Region, kept: usize, gone: usize) {
        self.alive[gone] = false;
        self.scan(region, kept);
        let s = region.similarities(region.direction(kept));
        for (i, similarity) in s.iter().enumerate().take(gone) {
            if !self.alive[i] || i == kept {
                continue;
            }
            let (best, at) = self.best[i];
            if at == gone || at == kept {
                self.scan(region, i);
            } else if i < kept && *similarity > best && !opposed(&region.patterns[i], &region.patterns[kept])
            {
                self.best[i] = (*similarity, kept);
            }
        }
    }
}

impl Region {
    /// Merges the most similar pair, as long as one is more similar than `threshold`; success and failure stay apart.
    pub(super) fn merge_similar(&mut self, threshold: f64) -> Result<usize> {
        let mut neighbours = Neighbours::new(self);
        let mut home: FxHashMap<u64, u64> = FxHashMap::default();
        while let Some((kept, gone)) = neighbours.closest(threshold as f32) {
            let merged = self.patterns[kept].merge(&self.patterns[gone])?;
            home.insert(self.patterns[gone].id, merged.id);
            self.replace(kept, merged);
            neighbours.merged(self, kept, gone);
        }
        for case in &mut self.cases {
            while let Some(to) = case.member_of.and_then(|id| home.get(&id)) {
                case.member_of = Some(*to);
            }
        }
        self.patterns.retain(|p| !home.contains_key(&p.id));
        self.index();
        Ok(home.len())
    }

    /// Drops patterns that are bad and unused, the worst first, but never the last one of its region.
    pub(super) fn prune(&mut self, min_quality: f64, min_accesses: u64) -> usize {
        let mut order: Vec<usize> = (0..self.patterns.len())
            .filter(|&i| self.patterns[i].should_prune(min_quality, min_accesses))
            .collect();
        order.sort_by(|&a, &b| {
            let (a, b) = (&self.patterns[a], &self.patterns[b]);
            a.avg_quality.total_cmp(&b.avg_quality).then(a.id.cmp(&b.id))
        });
        let mut kept = vec![true; self.patterns.len()];
        for i in order {
            let near = self.similarities(self.direction(i));
            kept[i] = !(0..kept.len()).any(|j| j != i && kept[j] && near[j] > REGION_COSINE);
        }
        let before = self.patterns.len();
        let mut kept = kept.into_iter();
        self.patterns.retain(|_| kept.next().unwrap_or(true));
        self.disown();
        self.index();
        before - self.patterns.len()
    }
}
