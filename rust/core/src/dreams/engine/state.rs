//! A dream engine as bytes.

use super::{Counts, DreamConfig, DreamEngine};
use crate::codec::{self, Kind};
use crate::dreams::graph::Node;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

const KIND: Kind = Kind {
    tag: *b"DREM",
    version: 1,
};

impl DreamEngine {
    /// The whole state; what follows is what would have followed.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let g = &self.graph;
        let mut edges = Vec::with_capacity(g.edge_count());
        for a in 0..g.len() {
            let up = g.links(a).iter().filter(|l| l.to as usize > a);
            edges.extend(up.map(|l| (a as u32, l.to, l.weight)));
        }
        let state = State {
            config: self.config,
            seed: self.seed,
            word: self.rng.get_word_pos(),
            nodes: g.nodes.clone(),
            embeddings: (0..g.len()).flat_map(|i| g.embedding(i).to_vec()).collect(),
            edges,
            probation: g.probation.iter().map(|((a, b), t)| (*a, *b, *t)).collect(),
            clock: g.clock,
            counts: self.counts,
        };
        codec::encode(KIND, &state)
    }

    /// Reads back what [`Self::to_bytes`] wrote; anything else is refused.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let state: State = codec::decode(KIND, bytes)?;
        let bad = |e: Error| Error::corrupt("DreamEngine state", e);
        let wrong = |reason: &str| Err(Error::corrupt("DreamEngine state", reason));
        let mut out = Self::new(state.config, state.seed).map_err(bad)?;
        let n = state.nodes.len();
        if n == 0 && !state.embeddings.is_empty() {
            return wrong("embeddings without memories");
        }
        let d = state.embeddings.len().checked_div(n).unwrap_or(0);
        if d * n != state.embeddings.len() {
            return wrong("embeddings of different lengths");
        }
        for (i, node) in state.nodes.into_iter().enumerate() {
            out.graph
                .add_node(node, &state.embeddings[i * d..(i + 1) * d])
                .map_err(bad)?;
        }
        if out.graph.len() != n {
            return wrong("an id twice");
        }
        let known = |a: u32, b: u32| a < b && (b as usize) < n;
        for (a, b, weight) in state.edges {
            if !known(a, b) || out.graph.linked(a as usize, b as usize) {
                return wrong("an edge that cannot be");
            }
            out.graph.set_edge(a as usize, b as usize, weight).map_err(bad)?;
        }
        for (a, b, end) in state.probation {
            if !known(a, b) || !out.graph.linked(a as usize, b as usize) || end <= state.clock {
                return wrong("a probation that cannot be");
            }
            out.graph.probation.insert((a, b), end);
        }
        out.graph.clock = state.clock;
        out.rng.set_word_pos(state.word);
        out.counts = state.counts;
        Ok(out)
    }
}

#[derive(Serialize, Deserialize)]
struct State {
    config: DreamConfig,
    seed: u64,
    word: u128,
    nodes: Vec<Node>,
    embeddings: Vec<f32>,
    edges: Vec<(u32, u32, f64)>,
    probation: Vec<(u32, u32, u64)>,
    clock: u64,
    counts: Counts,
}
