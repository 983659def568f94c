//! Best-first search on one layer of the graph, with memory that is reused between searches.

use super::flat::ByteQuery;
use super::graph::Graph;
use super::params::Metric;
use super::rows::Rows;
use crate::kernels;
use std::cell::RefCell;

/// What distances are measured from. Smaller is closer; under every metric, distances from different points compare.
pub(super) enum Probe<'a> {
    Values(&'a [f32]),
    Codes {
        codes: &'a [i8],
        scale: f32,
        squared_norm: f32,
    },
}

impl<'a> Probe<'a> {
    /// A stored row, in the precision the graph reads.
    pub fn row(rows: &'a Rows, position: u32) -> Self {
        let (p, d) = (position as usize, rows.params.dim);
        match &rows.codes {
            None => Self::Values(rows.row(p)),
            Some(c) => Self::Codes {
                codes: &c.bytes[p * d..(p + 1) * d],
                scale: c.scale[p],
                squared_norm: c.squared_norm.get(p).copied().unwrap_or(0.0),
            },
        }
    }

    /// A prepared query; `bytes` holds its codes where the graph reads codes.
    pub fn query(query: &'a [f32], bytes: Option<&'a ByteQuery>) -> Self {
        match bytes {
            None => Self::Values(query),
            Some(b) => Self::Codes {
                codes: &b.codes,
                scale: b.scale,
                squared_norm: kernels::dot(query, query),
            },
        }
    }

    /// Distances to the rows at `nodes`, into `out`.
    pub fn distances(&self, rows: &Rows, nodes: &[usize], out: &mut Vec<f32>) {
        let d = rows.params.dim;
        let euclidean = rows.params.metric == Metric::Euclidean;
        out.clear();
        out.resize(nodes.len(), f32::INFINITY);
        match (self, &rows.codes) {
            (
                Self::Codes {
                    codes,
                    scale,
                    squared_norm,
                },
                Some(stored),
            ) => {
                // Link lists fit one block; longer lists come from building.
                let mut dots = [0i32; BLOCK];
                for (nodes, out) in nodes.chunks(BLOCK).zip(out.chunks_mut(BLOCK)) {
                    let dots = &mut dots[..nodes.len()];
                    kernels::gather_dot_i8(&stored.bytes, d, nodes, codes, dots);
                    for ((o, dot), &v) in out.iter_mut().zip(dots).zip(nodes) {
                        let product = scale * stored.scale[v] * *dot as f32;
                        *o = if euclidean {
                            squared_norm + stored.squared_norm[v] - 2.0 * product
                        } else {
                            -product
                        };
                    }
                }
            }
            (Self::Codes { .. }, None) => {}
            (Self::Values(x), _) if euclidean => kernels::gather_squared_l2(&rows.data, d, nodes, x, out),
            (Self::Values(x), _) => {
                kernels::gather_dot(&rows.data, d, nodes, x, out);
                for o in out {
                    *o = -*o;
                }
            }
        }
    }
}

/// Products at a time.
const BLOCK: usize = 64;

/// A node met by a search.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    pub distance: f32,
    pub node: u32,
    expanded: bool,
}

impl Candidate {
    pub fn new(distance: f32, node: u32) -> Self {
        Self {
            distance,
            node,
            expanded: false,
        }
    }
}

/// One bit per node, cleared by undoing the marks that were set: no cost that grows with the index.
#[derive(Default)]
struct Visited {
    bits: Vec<u64>,
    marked: Vec<u32>,
}

impl Visited {
    fn start(&mut self, nodes: usize) {
        for &v in &self.marked {
            self.bits[v as usize / 64] = 0;
        }
        self.marked.clear();
        if self.bits.len() * 64 < nodes {
            self.bits.resize(nodes.div_ceil(64), 0);
        }
    }

    /// Marks `v`; true if it was new.
    fn insert(&mut self, v: u32) -> bool {
        let (word, bit) = (&mut self.bits[v as usize / 64], 1u64 << (v % 64));
        let new = *word & bit == 0;
        if new {
            *word |= bit;
            self.marked.push(v);
        }
        new
    }
}

/// Working memory of one thread's searches.
#[derive(Default)]
pub(super) struct Scratch {
    visited: Visited,
    /// The closest nodes found so far, nearest first.
    pub pool: Vec<Candidate>,
    fresh: Vec<usize>,
    distances: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Runs `f` with this thread's working memory. No lock is involved, so a fork cannot leave one held.
pub(super) fn with_scratch<T>(f: impl FnOnce(&mut Scratch) -> T) -> T {
    SCRATCH.with_borrow_mut(f)
}

impl Scratch {
    /// Starts from one node.
    pub fn seed(&mut self, rows: &Rows, probe: &Probe<'_>, node: u32) {
        probe.distances(rows, &[node as usize], &mut self.distances);
        self.pool.clear();
        self.pool.push(Candidate::new(self.distances[0], node));
    }

    /// Keeps the best `n` of the pool and forgets which were expanded: the start on the next layer down.
    pub fn restart(&mut self, n: usize) {
        self.pool.truncate(n);
        for c in &mut self.pool {
            c.expanded = false;
        }
    }

    /// Algorithm 2 of Malkov & Yashunin (2018): widens the pool on `level` until its `width` nearest are all expanded.
    ///
    /// The paper's two heaps are one sorted array: a candidate that has left the nearest `width` would never be expanded.
    pub fn search_layer(
        &mut self,
        graph: &Graph,
        rows: &Rows,
        probe: &Probe<'_>,
        level: usize,
        width: usize,
    ) {
        self.visited.start(graph.len());
        for c in &self.pool {
            self.visited.insert(c.node);
        }
        let mut at = 0;
        while at < self.pool.len() {
            if self.pool[at].expanded {
                at += 1;
                continue;
            }
            self.pool[at].expanded = true;
            self.fresh.clear();
            for &v in graph.links(level, self.pool[at].node) {
                if self.visited.insert(v) {
                    self.fresh.push(v as usize);
                }
            }
            // Most likely the next to be expanded, unless something nearer is found now.
            if let Some(next) = self.pool[at..].iter().find(|c| !c.expanded) {
                graph.prefetch(level, next.node);
            }
            probe.distances(rows, &self.fresh, &mut self.distances);
            let mut first = at + 1;
            for (&node, &distance) in self.fresh.iter().zip(&self.distances) {
                if self.pool.len() >= width {
                    if self.pool.last().is_some_and(|worst| distance >= worst.distance) {
                        continue;
                    }
                    self.pool.pop();
                }
                let place = self.pool.partition_point(|c| c.distance <= distance);
                self.pool.insert(place, Candidate::new(distance, node as u32));
                first = first.min(place);
            }
            at = first;
        }
    }
}
