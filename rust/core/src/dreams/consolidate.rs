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
mod tests {
    use super::*;
    use crate::rng::{self, RngExt};

    fn data(n: usize, d: usize) -> (Vec<Node>, Vec<f32>) {
        let mut rng = rng::stream(5, 0);
        let nodes = (0..n as i64)
            .map(|id| Node {
                id,
                timestamp: rng.random::<f64>() * 1e6,
                access_count: rng.random_range(0..50),
                importance: rng.random(),
            })
            .collect();
        let mut x: Vec<f32> = (0..n * d).map(|_| rng::normal(&mut rng) as f32).collect();
        // Every third memory is a near copy of the one before.
        for i in (2..n).step_by(3) {
            for j in 0..d {
                x[i * d + j] = x[(i - 1) * d + j] * 1.5 + 0.01;
            }
        }
        (nodes, x)
    }

    #[test]
    fn order_of_the_input_does_not_matter() {
        let (n, d) = (200, 16);
        let (nodes, x) = data(n, d);
        let c = Consolidator {
            max_bytes: Some(80 * (RECORD + 4 * d)),
            coverage: Some(20),
            ..Consolidator::default()
        };
        let a = c.consolidate(&nodes, &x, d, 0.7, 1e6).unwrap();
        let back: Vec<usize> = (0..n).rev().collect();
        let nodes2: Vec<Node> = back.iter().map(|i| nodes[*i]).collect();
        let x2: Vec<f32> = back.iter().flat_map(|i| x[i * d..(i + 1) * d].to_vec()).collect();
        let b = c.consolidate(&nodes2, &x2, d, 0.7, 1e6).unwrap();
        assert_eq!(a.kept.len(), 80);
        assert!(a.merged >= 60, "{}", a.merged);
        assert_eq!(a.pruned, n - a.merged - 80);
        assert_eq!(a.bytes_after, 80 * (RECORD + 4 * d));
        let by_id = |c: &Consolidation| {
            let mut v: Vec<(Node, Option<Vec<f32>>)> =
                c.kept.iter().map(|k| (k.node, k.embedding.clone())).collect();
            v.sort_by_key(|k| k.0.id);
            v
        };
        assert_eq!(by_id(&a), by_id(&b));
    }

    #[test]
    fn merging_adds_weights() {
        let node = |id, access_count, importance| Node {
            id,
            timestamp: id as f64,
            access_count,
            importance,
        };
        let nodes = [node(1, 3, 1.0), node(2, 1, 0.5), node(3, 0, 0.5)];
        let x = [1.0, 0.0, 0.999, 0.01, 0.0, 1.0];
        let out = Consolidator::default()
            .consolidate(&nodes, &x, 2, 2.0, 3.0)
            .unwrap();
        assert_eq!((out.merged, out.pruned, out.kept.len()), (1, 0, 2));
        let first = &out.kept[0];
        assert_eq!((first.node.id, first.node.access_count), (1, 4));
        assert!((first.node.importance - (4.0 + 2.0 * 0.5) / 6.0).abs() < 1e-12);
        assert_eq!(first.node.timestamp, 2.0);
        assert!((first.embedding.as_ref().unwrap()[1] - 0.02 / 6.0).abs() < 1e-6);
        assert_eq!(out.kept[1].embedding, None);
    }

    /// A far region of worthless memories keeps a member.
    #[test]
    fn no_region_vanishes() {
        let mut nodes = Vec::new();
        let mut x = Vec::new();
        for i in 0..100i64 {
            let far = i >= 95;
            nodes.push(Node {
                id: i,
                timestamp: 0.0,
                access_count: if far { 0 } else { 10 },
                importance: 0.5,
            });
            let t = 0.3 * (i % 50) as f32;
            x.extend(if far {
                [0.02 * t, 0.01, -1.0]
            } else {
                [t.cos(), t.sin(), 0.0]
            });
        }
        let c = Consolidator {
            max_bytes: Some(10 * (RECORD + 12)),
            coverage: Some(6),
            merge_similarity: 1.0,
            ..Consolidator::default()
        };
        let out = c.consolidate(&nodes, &x, 3, 0.7, 0.0).unwrap();
        assert_eq!(out.kept.len(), 10);
        assert!(out.kept.iter().any(|k| k.node.id >= 95));
    }

    #[test]
    fn bad_input_is_refused() {
        let (nodes, x) = data(4, 2);
        let c = Consolidator::default();
        assert!(c.consolidate(&nodes, &x[1..], 2, 0.7, 0.0).is_err());
        assert!(c.consolidate(&nodes, &x, 2, f64::NAN, 0.0).is_err());
        assert!(
            c.consolidate(&[nodes[0], nodes[0]], &x[..4], 2, 0.7, 0.0)
                .is_err()
        );
        let tight = Consolidator {
            max_bytes: Some(8),
            ..c
        };
        assert!(tight.consolidate(&nodes, &x, 2, 0.7, 0.0).is_err());
        let bad = Consolidator {
            half_life_s: 0.0,
            ..c
        };
        assert!(bad.check().is_err());
        assert_eq!(
            c.consolidate(&[], &[], 0, 0.7, 0.0).unwrap(),
            Consolidation::default()
        );
    }
}
