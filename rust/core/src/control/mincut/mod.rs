//! The exact global minimum cut of a graph whose edges change.
//!
//! Kept are the value λ and one side S of a minimum cut. An edge that changes by δ touches only cuts that part its ends:
//!
//! - heavier, not across S: nothing changes; S is as light as before and nothing got lighter;
//! - lighter, across S: λ falls by δ and S stays, because no cut lost more;
//! - lighter, not across S: only cuts between its ends got lighter; one maximum flow between them, stopped at λ, decides;
//! - heavier, across S: other cuts may be lighter now; computed anew, with λ as a floor that no cut is below.
//!
//! "Compute anew when the edge crosses S" alone is wrong: it misses the third case.

mod global;
mod graph;
#[cfg(test)]
mod tests;

pub use global::{Cut, Weighted, certificate, minimum_cut};

use crate::codec::{self, Kind};
use crate::error::{Error, Result, check_number};
use crate::metrics::Metrics;
use global::root;
use graph::Graph;
use serde::{Deserialize, Serialize};

const KIND: Kind = Kind {
    tag: *b"MCUT",
    version: 1,
};

/// Most nodes; every node costs some 100 bytes.
pub const MAX_NODES: usize = 1 << 24;

/// How often each way of keeping the cut was taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Updates that cost O(1).
    pub unchanged: u64,
    /// Updates that took a maximum flow.
    pub flow: u64,
    /// Updates after which the cut was computed anew.
    pub recompute: u64,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct MinCut {
    graph: Graph,
    value: f64,
    /// A minimum side while the graph is connected.
    side: Vec<bool>,
    /// Edges across the side: at 0 the graph is in pieces, whatever rounding says of the value.
    across: usize,
    /// Pieces of the graph, kept while edges only come.
    parent: Vec<u32>,
    pieces: usize,
    stale: bool,
    stats: Stats,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    /// In their own order: sums and ties hang on it.
    rows: Weighted,
    value: f64,
    side: Vec<bool>,
    stats: Stats,
}

impl MinCut {
    /// A graph of `n` nodes without edges.
    pub fn new(n: usize) -> Result<Self> {
        if n > MAX_NODES {
            return Err(Error::Capacity {
                name: "n",
                limit: format!("at most {MAX_NODES} nodes"),
                got: n.to_string(),
            });
        }
        Ok(Self {
            graph: Graph::new(n),
            value: if n < 2 { f64::INFINITY } else { 0.0 },
            side: vec![false; n],
            across: 0,
            parent: (0..n as u32).collect(),
            pieces: n,
            stale: false,
            stats: Stats::default(),
        })
    }

    /// Nodes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.graph.len()
    }

    /// Whether there are no nodes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Edges.
    #[must_use]
    pub fn edge_count(&self) -> usize {
        self.graph.edges()
    }

    /// Weight of an edge, 0 if there is none.
    pub fn weight(&self, u: usize, v: usize) -> Result<f64> {
        let (u, v) = self.ends(u, v)?;
        Ok(self.graph.weight(u, v))
    }

    /// Weight of the lightest cut; infinite for fewer than two nodes.
    #[must_use]
    pub fn value(&self) -> f64 {
        self.value
    }

    /// Least weight of all edges of one node; infinite without nodes.
    #[must_use]
    pub fn min_degree(&self) -> f64 {
        (0..self.len() as u32)
            .map(|v| self.graph.degree(v))
            .fold(f64::INFINITY, f64::min)
    }

    /// Counters of the updates.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.stats
    }

    fn ends(&self, u: usize, v: usize) -> Result<(u32, u32)> {
        for (name, x) in [("u", u), ("v", v)] {
            if x >= self.len() {
                return Err(Error::value(name, format!("a node below {}", self.len()), x));
            }
        }
        if u == v {
            return Err(Error::value("v", "another node than u", v));
        }
        Ok((u as u32, v as u32))
    }

    /// Sets the weight of an edge, 0 to take it out; returns the new value of the minimum cut.
    pub fn set_edge(&mut self, u: usize, v: usize, weight: f64) -> Result<f64> {
        check_number("weight", weight)?;
        if weight < 0.0 {
            return Err(Error::value("weight", "a number of at least 0", weight));
        }
        let (u, v) = self.ends(u, v)?;
        let before = self.graph.weight(u, v);
        if weight == before {
            self.stats.unchanged += 1;
            return Ok(self.value);
        }
        self.graph.set(u, v, weight);
        let (came, went) = (before == 0.0, weight == 0.0);
        if self.pieces > 1 {
            self.in_pieces(u, v, came, went);
            return Ok(self.value);
        }
        let crosses = self.side[u as usize] != self.side[v as usize];
        match (weight > before, crosses) {
            (true, false) => self.stats.unchanged += 1,
            (false, true) => {
                self.stats.unchanged += 1;
                self.across -= usize::from(went);
                self.value = (self.value - (before - weight)).max(0.0);
                if self.across == 0 {
                    self.came_apart();
                }
            }
            (false, false) => {
                self.stats.flow += 1;
                let (flow, side) = self.graph.flow(u, v, self.value);
                if let (Some(side), true) = (side, flow < self.value) {
                    self.take(flow, |s| side.iter().for_each(|v| s[*v as usize] = true));
                }
            }
            (true, true) => {
                self.across += usize::from(came);
                let floor = self.value;
                let known = Cut {
                    value: floor + (weight - before),
                    side: std::mem::take(&mut self.side),
                };
                self.recompute(Some(known), floor);
            }
        }
        Ok(self.value)
    }

    /// An update of a graph in pieces: its minimum cut is 0 until edges join all of them.
    fn in_pieces(&mut self, u: u32, v: u32, came: bool, went: bool) {
        self.stale |= went;
        if came && self.stale {
            self.count_pieces();
        } else if came {
            let (a, b) = (root(&mut self.parent, u), root(&mut self.parent, v));
            if a != b {
                self.parent[a as usize] = b;
                self.pieces -= 1;
            }
        }
        if self.pieces == 1 {
            self.recompute(None, 0.0);
        } else {
            self.stats.unchanged += 1;
        }
    }

    fn count_pieces(&mut self) {
        let n = self.len() as u32;
        self.parent = (0..n).collect();
        self.pieces = 0;
        let mut known = vec![false; n as usize];
        for v in 0..n {
            if !known[v as usize] {
                self.pieces += 1;
                for w in self.graph.component(v) {
                    known[w as usize] = true;
                    self.parent[w as usize] = v;
                }
            }
        }
        self.stale = false;
    }

    fn came_apart(&mut self) {
        self.value = 0.0;
        self.side.fill(false);
        self.count_pieces();
    }

    /// A new minimum cut.
    fn take(&mut self, value: f64, mark: impl FnOnce(&mut [bool])) {
        self.side.fill(false);
        mark(&mut self.side);
        self.value = value;
        self.across = self.across_edges().count();
        if self.across == 0 {
            self.came_apart();
        }
    }

    fn recompute(&mut self, known: Option<Cut>, floor: f64) {
        self.stats.recompute += 1;
        let cut = self.lightest(known, floor);
        self.side = vec![false; self.len()];
        self.take(cut.value, |s| s.copy_from_slice(&cut.side));
    }

    /// The lightest cut, on the certificate where that is sparser.
    fn lightest(&self, known: Option<Cut>, floor: f64) -> Cut {
        // A node whose edges weigh no more than the floor is a minimum cut already: no certificate is needed to see it.
        let bound = known
            .as_ref()
            .map_or(f64::INFINITY, |c| c.value)
            .min(self.min_degree());
        let graph = self.graph.weighted();
        let total: f64 = graph.iter().flatten().map(|(_, w)| w).sum::<f64>() / 2.0;
        // The certificate is one visit itself: it pays where it drops most of the weight.
        let sparse = if bound > floor && total > 4.0 * bound * (self.len() - 1) as f64 {
            // Cuts that are as light as the bound must stay below k.
            certificate(&graph, bound * (1.0 + 1e-9) + f64::MIN_POSITIVE)
        } else {
            graph
        };
        minimum_cut(sparse, known, floor)
    }

    /// One side of a minimum cut: the one of fewer nodes; a whole piece if the graph is in pieces; nothing below two nodes.
    pub fn partition(&mut self) -> Vec<u32> {
        let n = self.len();
        if n < 2 {
            return Vec::new();
        }
        if self.pieces > 1 {
            let piece = self.graph.component(0);
            if 2 * piece.len() <= n {
                return piece;
            }
            let inside: std::collections::HashSet<u32> = piece.into_iter().collect();
            let other = (0..n as u32).find(|v| !inside.contains(v)).unwrap_or(0);
            return self.graph.component(other);
        }
        let inside = self.side.iter().filter(|s| **s).count();
        let wanted = 2 * inside <= n;
        (0..n as u32)
            .filter(|v| self.side[*v as usize] == wanted)
            .collect()
    }

    /// Weight across the cut over the weight of the lighter side's edges; 0 where that side has none.
    pub fn conductance(&mut self) -> f64 {
        let side = self.partition();
        let inside: f64 = side.iter().map(|v| self.graph.degree(*v)).sum();
        let all: f64 = (0..self.len() as u32).map(|v| self.graph.degree(v)).sum();
        let volume = inside.min(all - inside);
        if volume > 0.0 && self.value.is_finite() {
            self.value / volume
        } else {
            0.0
        }
    }

    /// Sizes and counters.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        vec![
            ("nodes", self.len().into()),
            ("edges", self.edge_count().into()),
            ("value", self.value.into()),
            ("unchanged", self.stats.unchanged.into()),
            ("flow", self.stats.flow.into()),
            ("recompute", self.stats.recompute.into()),
        ]
    }

    /// Serialises.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let saved = Saved {
            rows: self.graph.weighted(),
            value: self.value,
            side: self.side.clone(),
            stats: self.stats,
        };
        codec::encode(KIND, &saved)
    }

    /// Reads back what [`Self::to_bytes`] wrote. The cut is checked against the edges.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let saved: Saved = codec::decode(KIND, bytes)?;
        let corrupt = |why: &str| Error::corrupt("MinCut", why);
        let n = saved.rows.len();
        if saved.side.len() != n || n > MAX_NODES {
            return Err(corrupt("side and nodes differ"));
        }
        let mut this = Self::new(n)?;
        this.graph = Graph::from_rows(&saved.rows).ok_or_else(|| corrupt("edges that cannot be"))?;
        this.count_pieces();
        if n >= 2 && this.pieces == 1 {
            let cut = this.lightest(None, 0.0);
            if !saved.value.is_finite() || (cut.value - saved.value).abs() > 1e-6 * (1.0 + cut.value) {
                return Err(corrupt("the cut is not the minimum"));
            }
            this.side = saved.side;
            this.value = saved.value;
            this.across = this.across_edges().count();
            if this.across == 0 || !this.weighs(saved.value) {
                return Err(corrupt("the side is not the cut"));
            }
        }
        this.stats = saved.stats;
        Ok(this)
    }

    fn across_edges(&self) -> impl Iterator<Item = f64> + '_ {
        (0..self.len() as u32)
            .filter(|v| self.side[*v as usize])
            .flat_map(|v| {
                self.graph
                    .neighbours(v)
                    .filter(|(w, _)| !self.side[*w as usize])
                    .map(|(_, weight)| weight)
            })
    }

    fn weighs(&self, value: f64) -> bool {
        (self.across_edges().sum::<f64>() - value).abs() <= 1e-6 * (1.0 + value)
    }
}
