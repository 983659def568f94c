//! Dreams: walks over the memory graph that now and then jump to something similar and not yet linked.

mod config;
mod state;

pub use config::DreamConfig;

use super::consolidate::{Consolidation, Consolidator};
use super::graph::{Link, MemoryGraph, Node};
use super::jump::{creative_jump, weighted};
use crate::error::{Result, check_number};
use crate::kernels;
use crate::metrics::Metrics;
use crate::rng::{self, ChaCha8Rng, RngExt};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Stream of the walks.
const STREAM: u64 = 0x6472_6561;
/// Cosines between which a pair without an edge is novel.
const NOVEL: std::ops::Range<f64> = 0.3..0.8;
/// Weight of a suggested edge per unit of score.
const SUGGESTED: f64 = 0.1;

/// How good a path is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct DreamScore {
    /// Share of pairs of distinct memories without an edge and with a cosine in (.3, .8).
    pub novelty: f64,
    /// Mean cosine of consecutive memories.
    pub coherence: f64,
    /// Mean importance.
    pub utility: f64,
    /// Weighted sum of the three.
    pub total: f64,
}

/// One dream; the path holds positions.
#[derive(Debug, Clone, PartialEq)]
pub struct Dream {
    /// Counts up from 0.
    pub id: u64,
    /// Positions in the graph, in order.
    pub path: Vec<usize>,
    /// Jumps among the steps.
    pub creative_jumps: usize,
    /// Novelty, coherence, utility, total.
    pub score: DreamScore,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Counts {
    dreams: u64,
    empty: u64,
    jumps: u64,
    suggested: u64,
    confirmed: u64,
    vanished: u64,
}

/// A memory graph and the walks over it.
#[derive(Debug, Clone)]
pub struct DreamEngine {
    config: DreamConfig,
    seed: u64,
    graph: MemoryGraph,
    rng: ChaCha8Rng,
    counts: Counts,
}

impl DreamEngine {
    /// Without memories.
    pub fn new(config: DreamConfig, seed: u64) -> Result<Self> {
        config.check()?;
        Ok(Self {
            config,
            seed,
            graph: MemoryGraph::default(),
            rng: rng::stream(seed, STREAM),
            counts: Counts::default(),
        })
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &DreamConfig {
        &self.config
    }

    /// The seed.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The memories and their edges.
    #[must_use]
    pub fn graph(&self) -> &MemoryGraph {
        &self.graph
    }

    /// Adds a memory, or replaces what is known of one that is there; its edges stay.
    pub fn add_memory_node(&mut self, node: Node, embedding: &[f32]) -> Result<()> {
        self.graph.add_node(node, embedding)
    }

    /// Sets the weight of the edge between two ids.
    pub fn add_edge(&mut self, a: i64, b: i64, weight: f64) -> Result<()> {
        let (a, b) = (self.graph.position(a)?, self.graph.position(b)?);
        self.graph.set_edge(a, b, weight)
    }

    /// Weight between two ids; 0 where there is no edge.
    pub fn weight(&self, a: i64, b: i64) -> Result<f64> {
        Ok(self
            .graph
            .weight(self.graph.position(a)?, self.graph.position(b)?))
    }

    fn random_start(&mut self) -> Option<usize> {
        let n = self.graph.len();
        if self.graph.edge_count() == 0 {
            return None;
        }
        // A few draws usually do; the scan keeps the law uniform over the linked where they are rare.
        for _ in 0..32 {
            let at = self.rng.random_range(0..n);
            if !self.graph.links(at).is_empty() {
                return Some(at);
            }
        }
        let linked: Vec<usize> = (0..n).filter(|at| !self.graph.links(*at).is_empty()).collect();
        Some(linked[self.rng.random_range(0..linked.len())])
    }

    /// One dream from the memory with id `start`, or from a linked one drawn uniformly. Empty if there are fewer than two
    /// memories or the start has no edge.
    pub fn generate_dream(&mut self, start: Option<i64>) -> Result<Dream> {
        let start = match start {
            Some(id) => Some(self.graph.position(id)?).filter(|at| !self.graph.links(*at).is_empty()),
            None => self.random_start(),
        };
        let id = self.counts.dreams;
        self.counts.dreams += 1;
        let Some(start) = start else {
            self.counts.empty += 1;
            return Ok(Dream {
                id,
                path: Vec::new(),
                creative_jumps: 0,
                score: DreamScore::default(),
            });
        };
        let (path, creative_jumps) = self.walk(start);
        self.counts.jumps += creative_jumps as u64;
        let score = self.score(&path);
        Ok(Dream {
            id,
            path,
            creative_jumps,
            score,
        })
    }

    fn walk(&mut self, start: usize) -> (Vec<usize>, usize) {
        let mut path = vec![start];
        let (mut at, mut jumps) = (start, 0);
        while path.len() < self.config.path_length {
            at = if self.rng.random::<f64>() < self.config.restart_prob {
                start
            } else {
                let jump = if self.rng.random::<f64>() < self.config.creative_jump_prob {
                    creative_jump(&self.graph, at, self.config.jump_temperature, &mut self.rng)
                } else {
                    None
                };
                jumps += usize::from(jump.is_some());
                let links: Vec<(usize, f64)> = match jump {
                    Some(j) => vec![(j, 1.0)],
                    None => {
                        let choice = |l: &Link| (l.to as usize, l.weight);
                        self.graph.links(at).iter().map(choice).collect()
                    }
                };
                weighted(&links, &mut self.rng).unwrap_or(start)
            };
            path.push(at);
        }
        (path, jumps)
    }

    fn cosine(&self, a: usize, b: usize) -> f64 {
        f64::from(kernels::dot(self.graph.unit(a), self.graph.unit(b))).clamp(-1.0, 1.0)
    }

    /// Pairs of distinct memories on the path without an edge whose cosine is neither low nor high, and the number of all
    /// pairs.
    fn novel_pairs(&self, path: &[usize]) -> (Vec<(usize, usize)>, usize) {
        let mut distinct = path.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        let mut novel = Vec::new();
        for (i, a) in distinct.iter().enumerate() {
            for b in &distinct[i + 1..] {
                let cos = self.cosine(*a, *b);
                if !self.graph.linked(*a, *b) && cos > NOVEL.start && cos < NOVEL.end {
                    novel.push((*a, *b));
                }
            }
        }
        (novel, distinct.len() * distinct.len().saturating_sub(1) / 2)
    }

    fn score(&self, path: &[usize]) -> DreamScore {
        if path.is_empty() {
            return DreamScore::default();
        }
        let (novel, pairs) = self.novel_pairs(path);
        let novelty = novel.len() as f64 / pairs.max(1) as f64;
        let cosines: f64 = path.windows(2).map(|w| self.cosine(w[0], w[1])).sum();
        let coherence = cosines / (path.len() - 1).max(1) as f64;
        let importance: f64 = path.iter().map(|at| self.graph.node(*at).importance).sum();
        let utility = importance / path.len() as f64;
        let c = &self.config;
        let total = c.novelty_weight * novelty + c.coherence_weight * coherence + c.utility_weight * utility;
        DreamScore {
            novelty,
            coherence,
            utility,
            total,
        }
    }

    fn positions(&self, ids: &[i64]) -> Result<Vec<usize>> {
        ids.iter().map(|id| self.graph.position(*id)).collect()
    }

    /// Score of a path of ids; O(l²·d) for l distinct ones.
    pub fn score_path(&self, ids: &[i64]) -> Result<DreamScore> {
        Ok(self.score(&self.positions(ids)?))
    }

    /// Links the novel pairs of a path with weak edges (0.1 · score) on probation; returns how many. A score of 0 or less
    /// links nothing.
    pub fn integrate(&mut self, ids: &[i64], score: f64) -> Result<usize> {
        check_number("score", score)?;
        let path = self.positions(ids)?;
        if score <= 0.0 {
            return Ok(0);
        }
        let (novel, _) = self.novel_pairs(&path);
        for (a, b) in &novel {
            self.graph
                .set_probationary(*a, *b, SUGGESTED * score, self.config.probation)?;
        }
        self.counts.suggested += novel.len() as u64;
        Ok(novel.len())
    }

    /// Keeps a suggested edge for good; true if it was on probation.
    pub fn confirm(&mut self, a: i64, b: i64) -> Result<bool> {
        let (a, b) = (self.graph.position(a)?, self.graph.position(b)?);
        let kept = self.graph.confirm(a, b);
        self.counts.confirmed += u64::from(kept);
        Ok(kept)
    }

    /// Lets ticks pass; returns the number of suggested edges that vanished.
    pub fn tick(&mut self, n: u64) -> usize {
        let gone = self.graph.tick(n);
        self.counts.vanished += gone as u64;
        gone
    }

    /// Merges, strengthens and drops memories (see [`Consolidator::consolidate`]). Edges follow the memories that were merged,
    /// the stronger where two meet; those of dropped memories go. A suggestion that meets a kept edge is kept.
    pub fn consolidate(&mut self, by: &Consolidator, threshold: f64, now: f64) -> Result<Consolidation> {
        let g = &self.graph;
        let out = by.consolidate(&g.nodes, g.embeddings(), g.dim(), threshold, now)?;
        let mut next = MemoryGraph::default();
        for k in &out.kept {
            let embedding = k.embedding.as_deref().unwrap_or_else(|| g.embedding(k.source));
            next.add_node(k.node, embedding)?;
        }
        let mut merged: BTreeMap<(usize, usize), (f64, Option<u64>)> = BTreeMap::new();
        for a in 0..g.len() {
            for link in g.links(a).iter().filter(|l| l.to as usize > a) {
                let (Some(i), Some(j)) = (out.place[a], out.place[link.to as usize]) else {
                    continue;
                };
                let end = g.probation.get(&(a as u32, link.to)).copied();
                if i != j {
                    let held = merged.entry((i.min(j), i.max(j))).or_insert((link.weight, end));
                    held.0 = held.0.max(link.weight);
                    held.1 = held.1.zip(end).map(|(x, y)| x.max(y));
                }
            }
        }
        for ((a, b), (weight, end)) in merged {
            next.set_edge(a, b, weight)?;
            if let Some(end) = end {
                next.probation.insert((a as u32, b as u32), end);
            }
        }
        next.clock = g.clock;
        self.graph = next;
        Ok(out)
    }

    /// Weights among distinct ids, row-major, for [`super::integration`].
    pub fn induced(&self, ids: &[i64]) -> Result<(Vec<f32>, usize)> {
        let mut at = self.positions(ids)?;
        at.sort_unstable();
        at.dedup();
        let n = at.len();
        let weight = |k: usize| self.graph.weight(at[k / n], at[k % n]) as f32;
        Ok(((0..n * n).map(weight).collect(), n))
    }

    /// Counters and gauges.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let c = &self.counts;
        vec![
            ("nodes", self.graph.len().into()),
            ("edges", self.graph.edge_count().into()),
            ("on_probation", self.graph.probation.len().into()),
            ("dreams", c.dreams.into()),
            ("dreams_empty", c.empty.into()),
            ("creative_jumps", c.jumps.into()),
            ("edges_suggested", c.suggested.into()),
            ("edges_confirmed", c.confirmed.into()),
            ("edges_vanished", c.vanished.into()),
        ]
    }
}
