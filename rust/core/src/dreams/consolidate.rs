//! Compaction of memories: near-duplicates merge; under a byte budget the least valuable go, and no region vanishes.

use super::graph::Node;
use crate::error::{Error, Result, check_dim, check_finite, check_number};
use crate::kernels::{self, Panels};
use rustc_hash::{FxHashMap, FxHashSet};

/// Bytes of a memory beside its embedding: id, time, accesses, importance.
const RECORD: usize = 32;
/// Share of the way to 1 that the importance of a strengthened memory goes.
const STRENGTHEN: f64 = 0.1;
/// Memories compared at once.
const BLOCK: usize = 64;

/// Settings of [`Consolidator::consolidate`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Consolidator {
    /// Cosine above which two memories are one.
    pub merge_similarity: f64,
    /// Seconds in which the value of an unused memory halves.
    pub half_life_s: f64,
    /// Bytes that may stay; `None` for no limit.
    pub max_bytes: Option<usize>,
    /// Memories kept so that no region vanishes, by farthest-first traversal; `None` for the square root of what may stay.
    pub coverage: Option<usize>,
}

impl Default for Consolidator {
    fn default() -> Self {
        Self {
            merge_similarity: 0.98,
            half_life_s: 604_800.0,
            max_bytes: None,
            coverage: None,
        }
    }
}

/// A memory that stays.
#[derive(Debug, Clone, PartialEq)]
pub struct Kept {
    /// Its place in the input.
    pub source: usize,
    /// What is known of it now.
    pub node: Node,
    /// Its embedding if others were merged into it.
    pub embedding: Option<Vec<f32>>,
}

/// What a consolidation did.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Consolidation {
    /// What stays, in the order of the input.
    pub kept: Vec<Kept>,
    /// For each memory of the input the place in `kept` of what holds it now; `None` if it was dropped.
    pub place: Vec<Option<usize>>,
    /// Memories whose value reached the threshold.
    pub strengthened: usize,
    /// Memories dropped for the budget.
    pub pruned: usize,
    /// Memories that went into another.
    pub merged: usize,
    /// Bytes of the input.
    pub bytes_before: usize,
    /// Bytes of what stays.
    pub bytes_after: usize,
}

impl Consolidator {
    /// Errors on a setting out of range.
    pub fn check(&self) -> Result<()> {
        if !(self.merge_similarity > 0.0 && self.merge_similarity <= 1.0) {
            return Err(Error::config(
                "merge_similarity",
                "a number in (0, 1]",
                self.merge_similarity,
            ));
        }
        if !(self.half_life_s > 0.0 && self.half_life_s.is_finite()) {
            return Err(Error::config("half_life_s", "a number above 0", self.half_life_s));
        }
        Ok(())
    }

    /// 2^(−age / half-life) · ln(1 + accesses) · importance.
    fn value(&self, node: &Node, now: f64) -> f64 {
        let age = (now - node.timestamp).max(0.0);
        (-age / self.half_life_s).exp2() * (node.access_count as f64).ln_1p() * node.importance
    }

    /// Merges, strengthens and drops. `embeddings` (n, d) row-major; the result does not depend on the order of the input.
    ///
    /// O(n·m·d) for m memories that stay distinct, O(coverage·m·d) for the coverage set.
    pub fn consolidate(
        &self,
        nodes: &[Node],
        embeddings: &[f32],
        d: usize,
        threshold: f64,
        now: f64,
    ) -> Result<Consolidation> {
        self.check()?;
        check_number("threshold", threshold)?;
        check_number("now", now)?;
        check_dim("embeddings", nodes.len() * d, embeddings.len())?;
        check_finite("embeddings", embeddings)?;
        let mut ids = FxHashSet::default();
        for node in nodes {
            node.check()?;
            if !ids.insert(node.id) {
                return Err(Error::value("nodes", "each id once", node.id));
            }
        }
        if nodes.is_empty() {
            return Ok(Consolidation::default());
        }
        let size = RECORD + 4 * d;
        let room = self.max_bytes.map_or(nodes.len(), |b| b / size);
        if room == 0 {
            let wanted = format!("room for one memory ({size} bytes)");
            return Err(Error::value("max_bytes", wanted, self.max_bytes.unwrap_or(0)));
        }
        let mut order: Vec<usize> = (0..nodes.len()).collect();
        let worth: Vec<f64> = nodes.iter().map(|n| self.value(n, now)).collect();
        order.sort_by(|a, b| {
            let (x, y) = (&nodes[*a], &nodes[*b]);
            worth[*b]
                .total_cmp(&worth[*a])
                .then(y.importance.total_cmp(&x.importance))
                .then(y.timestamp.total_cmp(&x.timestamp))
                .then(x.id.cmp(&y.id))
        });
        let groups = self.merge(&order, embeddings, d);
        let mut kept: Vec<Kept> = groups.iter().map(|g| united(g, nodes, embeddings, d)).collect();
        let mut strengthened = 0;
        for k in &mut kept {
            if self.value(&k.node, now) >= threshold {
                k.node.importance += STRENGTHEN * (1.0 - k.node.importance);
                strengthened += 1;
            }
        }
        let distinct = kept.len();
        if distinct > room {
            self.drop_least(&mut kept, embeddings, d, room, now);
        }
        kept.sort_by_key(|k| k.source);
        let by_source: FxHashMap<usize, usize> =
            kept.iter().enumerate().map(|(at, k)| (k.source, at)).collect();
        let mut place = vec![None; nodes.len()];
        for group in &groups {
            for member in group {
                place[*member] = by_source.get(&group[0]).copied();
            }
        }
        Ok(Consolidation {
            place,
            strengthened,
            pruned: distinct - kept.len(),
            merged: nodes.len() - distinct,
            bytes_before: nodes.len() * size,
            bytes_after: kept.len() * size,
            kept,
        })
    }

    /// Groups of memories that are one, each led by its most valuable: a memory joins the leader it is nearest to, or leads.
    fn merge(&self, order: &[usize], embeddings: &[f32], d: usize) -> Vec<Vec<usize>> {
        let mut groups: Vec<Vec<usize>> = Vec::new();
        let mut leaders: Vec<f32> = Vec::new();
        let mut products = Vec::new();
        for block in order.chunks(BLOCK) {
            let units = unit_rows(block, embeddings, d);
            let known = groups.len();
            products.clear();
            products.resize(known * block.len(), 0.0f32);
            if known > 0 && d > 0 {
                Panels::pack(&units, d).products(&leaders, &mut products);
            }
            for (i, source) in block.iter().enumerate() {
                let unit = &units[i * d..(i + 1) * d];
                let mut best = (self.merge_similarity as f32, None);
                for g in 0..groups.len() {
                    let cos = if g < known {
                        products[g * block.len() + i]
                    } else {
                        kernels::dot(unit, &leaders[g * d..(g + 1) * d])
                    };
                    if cos > best.0 {
                        best = (cos, Some(g));
                    }
                }
                match best.1 {
                    Some(g) => groups[g].push(*source),
                    None => {
                        groups.push(vec![*source]);
                        leaders.extend_from_slice(unit);
                    }
                }
            }
        }
        groups
    }

    /// Keeps `room` memories: the coverage set, then the most valuable.
    fn drop_least(&self, kept: &mut Vec<Kept>, embeddings: &[f32], d: usize, room: usize, now: f64) {
        kept.sort_by(|a, b| {
            let (x, y) = (self.value(&a.node, now), self.value(&b.node, now));
            y.total_cmp(&x)
                .then(b.node.importance.total_cmp(&a.node.importance))
                .then(b.node.timestamp.total_cmp(&a.node.timestamp))
                .then(a.node.id.cmp(&b.node.id))
        });
        let sources: Vec<usize> = kept.iter().map(|k| k.source).collect();
        let mut units = unit_rows(&sources, embeddings, d);
        for (k, row) in kept.iter().zip(units.chunks_exact_mut(d.max(1))) {
            if let Some(e) = &k.embedding {
                row.copy_from_slice(e);
                kernels::normalize(row);
            }
        }
        let wanted = self
            .coverage
            .unwrap_or_else(|| (room as f64).sqrt().ceil() as usize);
        let mut stays = farthest_first(&units, kept.len(), d, wanted.min(room));
        let mut count = stays.iter().filter(|s| **s).count();
        for s in &mut stays {
            if count < room && !*s {
                *s = true;
                count += 1;
            }
        }
        let mut stays = stays.into_iter();
        kept.retain(|_| stays.next().unwrap_or(false));
    }
}

fn unit_rows(sources: &[usize], embeddings: &[f32], d: usize) -> Vec<f32> {
    let mut out = Vec::with_capacity(sources.len() * d);
    for s in sources {
        out.extend_from_slice(&embeddings[s * d..(s + 1) * d]);
    }
    for row in out.chunks_exact_mut(d.max(1)) {
        kernels::normalize(row);
    }
    out
}

/// One memory in place of a group: the leader's id, accesses added, the rest weighted by accesses + 1.
fn united(group: &[usize], nodes: &[Node], embeddings: &[f32], d: usize) -> Kept {
    let source = group[0];
    let mut node = nodes[source];
    if group.len() == 1 {
        return Kept {
            source,
            node,
            embedding: None,
        };
    }
    let weight = |i: &usize| nodes[*i].access_count as f64 + 1.0;
    let total: f64 = group.iter().map(weight).sum();
    let mut sum = vec![0.0f64; d];
    node.importance = 0.0;
    node.access_count = 0;
    for i in group {
        let share = weight(i) / total;
        node.importance += share * nodes[*i].importance;
        node.access_count = node.access_count.saturating_add(nodes[*i].access_count);
        node.timestamp = node.timestamp.max(nodes[*i].timestamp);
        for (s, x) in sum.iter_mut().zip(&embeddings[i * d..(i + 1) * d]) {
            *s += share * f64::from(*x);
        }
    }
    node.importance = node.importance.min(1.0);
    Kept {
        source,
        node,
        embedding: Some(sum.into_iter().map(|v| v as f32).collect()),
    }
}

/// Greedy k-centre (Gonzalez 1985) from the first row: each next row is the one farthest from those chosen.
fn farthest_first(units: &[f32], n: usize, d: usize, k: usize) -> Vec<bool> {
    let mut chosen = vec![false; n];
    let mut nearest = vec![f32::NEG_INFINITY; n];
    let mut cosines = vec![0.0f32; n];
    let mut at = 0;
    for _ in 0..k.min(n) {
        chosen[at] = true;
        kernels::gemv(units, d, &units[at * d..(at + 1) * d], &mut cosines);
        let mut next = (f32::INFINITY, at);
        for i in 0..n {
            nearest[i] = nearest[i].max(cosines[i]);
            if !chosen[i] && nearest[i] < next.0 {
                next = (nearest[i], i);
            }
        }
        at = next.1;
    }
    chosen
}

#[cfg(test)]
#[path = "consolidate_tests.rs"]
mod tests;
