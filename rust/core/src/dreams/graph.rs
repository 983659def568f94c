//! Memories and the undirected, weighted edges between them; new edges may be on probation.

use crate::error::{Error, Result, check_dim, check_finite, check_number};
use crate::kernels;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What is known of a memory beside its embedding.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// The caller's number for it.
    pub id: i64,
    /// Seconds.
    pub timestamp: f64,
    /// How often it was used.
    pub access_count: u64,
    /// In `[0, 1]`.
    pub importance: f64,
}

impl Node {
    /// Errors on a number that is not finite, or an importance outside `[0, 1]`.
    pub fn check(&self) -> Result<()> {
        check_number("timestamp", self.timestamp)?;
        check_number("importance", self.importance)?;
        if (0.0..=1.0).contains(&self.importance) {
            return Ok(());
        }
        Err(Error::config("importance", "a number in [0, 1]", self.importance))
    }
}

/// One end of an edge.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// Position of the other end.
    pub to: u32,
    /// More than 0.
    pub weight: f64,
}

/// Memories by position, in the order in which they came.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MemoryGraph {
    pub(super) nodes: Vec<Node>,
    dim: usize,
    /// Embeddings as they came, `n · dim`.
    raw: Vec<f32>,
    /// The same at unit length; zero stays zero.
    unit: Vec<f32>,
    place: FxHashMap<i64, u32>,
    /// Sorted by `to`.
    links: Vec<Vec<Link>>,
    edges: usize,
    /// Positions (smaller first) of an edge on probation → tick at which it goes.
    pub(super) probation: BTreeMap<(u32, u32), u64>,
    pub(super) clock: u64,
}

impl MemoryGraph {
    /// Number of memories.
    #[must_use]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// No memories.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Length of the embeddings; 0 before the first.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Number of edges.
    #[must_use]
    pub fn edge_count(&self) -> usize {
        self.edges
    }

    /// The memory at a position.
    #[must_use]
    pub fn node(&self, at: usize) -> &Node {
        &self.nodes[at]
    }

    /// Its embedding as it came.
    #[must_use]
    pub fn embedding(&self, at: usize) -> &[f32] {
        &self.raw[at * self.dim..(at + 1) * self.dim]
    }

    /// All embeddings as they came, `n · dim`.
    #[must_use]
    pub fn embeddings(&self) -> &[f32] {
        &self.raw
    }

    /// Its embedding at unit length.
    #[must_use]
    pub fn unit(&self, at: usize) -> &[f32] {
        &self.unit[at * self.dim..(at + 1) * self.dim]
    }

    /// All embeddings at unit length, `n · dim`.
    #[must_use]
    pub fn units(&self) -> &[f32] {
        &self.unit
    }

    /// Position of the memory with this id.
    pub fn position(&self, id: i64) -> Result<usize> {
        match self.place.get(&id) {
            Some(at) => Ok(*at as usize),
            None => Err(Error::value("id", "the id of a memory in the graph", id)),
        }
    }

    /// Neighbours of a position, sorted.
    #[must_use]
    pub fn links(&self, at: usize) -> &[Link] {
        &self.links[at]
    }

    /// Adds a memory, or replaces what is known of one that is there; its edges stay.
    pub fn add_node(&mut self, node: Node, embedding: &[f32]) -> Result<()> {
        node.check()?;
        if embedding.is_empty() {
            return Err(Error::shape("embedding", "at least one value", "none"));
        }
        if !self.nodes.is_empty() {
            check_dim("embedding", self.dim, embedding.len())?;
        }
        check_finite("embedding", embedding)?;
        let mut unit = embedding.to_vec();
        kernels::normalize(&mut unit);
        if let Some(at) = self.place.get(&node.id) {
            let at = *at as usize;
            let row = at * self.dim..(at + 1) * self.dim;
            self.nodes[at] = node;
            self.raw[row.clone()].copy_from_slice(embedding);
            self.unit[row].copy_from_slice(&unit);
            return Ok(());
        }
        let Ok(at) = u32::try_from(self.nodes.len()) else {
            return Err(Error::Capacity {
                name: "memories",
                limit: format!("at most {}", u32::MAX),
                got: self.nodes.len().to_string(),
            });
        };
        self.dim = embedding.len();
        self.place.insert(node.id, at);
        self.nodes.push(node);
        self.raw.extend_from_slice(embedding);
        self.unit.extend_from_slice(&unit);
        self.links.push(Vec::new());
        Ok(())
    }

    /// Weight between two positions; 0 where there is no edge.
    #[must_use]
    pub fn weight(&self, a: usize, b: usize) -> f64 {
        let links = &self.links[a];
        links
            .binary_search_by_key(&(b as u32), |l| l.to)
            .map_or(0.0, |i| links[i].weight)
    }

    /// There is an edge.
    #[must_use]
    pub fn linked(&self, a: usize, b: usize) -> bool {
        self.links[a].binary_search_by_key(&(b as u32), |l| l.to).is_ok()
    }

    /// Sets the weight of an edge between two different positions; it is on probation no longer.
    pub fn set_edge(&mut self, a: usize, b: usize, weight: f64) -> Result<()> {
        check_number("weight", weight)?;
        if weight <= 0.0 {
            return Err(Error::value("weight", "a number above 0", weight));
        }
        if a == b {
            return Err(Error::value(
                "b",
                "another memory than a",
                "the same one".to_owned(),
            ));
        }
        for (from, to) in [(a, b), (b, a)] {
            let link = Link {
                to: to as u32,
                weight,
            };
            match self.links[from].binary_search_by_key(&link.to, |l| l.to) {
                Ok(i) => self.links[from][i] = link,
                Err(i) => {
                    self.links[from].insert(i, link);
                    self.edges += usize::from(from < to);
                }
            }
        }
        self.probation.remove(&key(a, b));
        Ok(())
    }

    /// Adds an edge that vanishes after `ticks` unless it is confirmed.
    pub fn set_probationary(&mut self, a: usize, b: usize, weight: f64, ticks: u64) -> Result<()> {
        self.set_edge(a, b, weight)?;
        self.probation.insert(key(a, b), self.clock.saturating_add(ticks));
        Ok(())
    }

    /// Edges as ids, weight and whether they are on probation, each once.
    #[must_use]
    pub fn edges(&self) -> Vec<(i64, i64, f64, bool)> {
        let mut out = Vec::with_capacity(self.edges);
        for a in 0..self.len() {
            for link in self.links[a].iter().filter(|l| l.to as usize > a) {
                let b = link.to as usize;
                let open = self.probation.contains_key(&key(a, b));
                out.push((self.nodes[a].id, self.nodes[b].id, link.weight, open));
            }
        }
        out
    }

    /// Keeps an edge for good; true if it was on probation.
    pub fn confirm(&mut self, a: usize, b: usize) -> bool {
        self.probation.remove(&key(a, b)).is_some()
    }

    /// Lets `n` ticks pass and removes the edges whose probation is over; returns how many those were.
    pub fn tick(&mut self, n: u64) -> usize {
        self.clock = self.clock.saturating_add(n);
        let clock = self.clock;
        let over: Vec<(u32, u32)> = self
            .probation
            .iter()
            .filter(|(_, end)| **end <= clock)
            .map(|(k, _)| *k)
            .collect();
        for (a, b) in &over {
            self.probation.remove(&(*a, *b));
            for (from, to) in [(*a, *b), (*b, *a)] {
                self.links[from as usize].retain(|l| l.to != to);
            }
            self.edges -= 1;
        }
        over.len()
    }
}

fn key(a: usize, b: usize) -> (u32, u32) {
    (a.min(b) as u32, a.max(b) as u32)
}
