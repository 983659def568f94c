//! Message passing on graphs: edges sorted by target once, then one pass over the rows, in parallel by rows.
//!
//! Edge e goes from `source` to `target`; node i gathers from the sources of the edges that end in i. Gradients of gathered
//! values run over the same edges grouped by source. Every row is summed in the order of its edges by one thread: the same
//! bits for every number of threads.

pub mod gat;
pub mod gather;
pub mod gatv2;
pub mod sample;
#[cfg(test)]
mod tests;

use std::sync::OnceLock;

/// An edge that names a node out of range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invalid {
    /// Number of the edge.
    pub edge: usize,
    /// The node it names.
    pub node: i64,
}

/// Places of edges grouped by node: those of node v are `start[v]..start[v + 1]`.
#[derive(Debug, Clone)]
struct Groups {
    start: Vec<u32>,
    /// What is stored at each place.
    item: Vec<u32>,
}

impl Groups {
    /// Numbers 0, 1, … grouped by their keys, in order within a group.
    fn new(n: usize, keys: &[u32]) -> Self {
        let mut start = vec![0_u32; n + 1];
        for k in keys {
            start[*k as usize + 1] += 1;
        }
        for v in 0..n {
            start[v + 1] += start[v];
        }
        let mut next = start.clone();
        let mut item = vec![0; keys.len()];
        for (i, k) in keys.iter().enumerate() {
            item[next[*k as usize] as usize] = i as u32;
            next[*k as usize] += 1;
        }
        Self { start, item }
    }

    fn range(&self, v: usize) -> std::ops::Range<usize> {
        self.start[v] as usize..self.start[v + 1] as usize
    }
}

/// A directed graph, its edges sorted by target. A place is the position of an edge in that order.
#[derive(Debug, Clone)]
pub struct Graph {
    n: usize,
    /// Places by target; the item is the number of the edge.
    by_target: Groups,
    /// Source and target of each place.
    source: Vec<u32>,
    target: Vec<u32>,
    /// Places by source.
    by_source: OnceLock<Groups>,
}

/// Sources and targets of the edges without self loops, then one loop per node.
fn with_loops(n: usize, source: &mut Vec<u32>, target: &mut Vec<u32>) {
    let kept: Vec<(u32, u32)> = source
        .iter()
        .zip(target.iter())
        .map(|(s, t)| (*s, *t))
        .filter(|(s, t)| s != t)
        .chain((0..n as u32).map(|v| (v, v)))
        .collect();
    *source = kept.iter().map(|e| e.0).collect();
    *target = kept.iter().map(|e| e.1).collect();
}

impl Graph {
    /// Edges from `source[e]` to `target[e]`, both of one length, among `n` < 2³² nodes. With `loops`, self loops are dropped
    /// and each node gets one, after all other edges.
    pub fn new(n: usize, source: &[i64], target: &[i64], loops: bool) -> Result<Self, Invalid> {
        let check = |(edge, node): (usize, &i64)| match u32::try_from(*node) {
            Ok(v) if (v as usize) < n => Ok(v),
            _ => Err(Invalid { edge, node: *node }),
        };
        let mut from = source
            .iter()
            .enumerate()
            .map(check)
            .collect::<Result<Vec<u32>, _>>()?;
        let mut to = target
            .iter()
            .enumerate()
            .map(check)
            .collect::<Result<Vec<u32>, _>>()?;
        if loops {
            with_loops(n, &mut from, &mut to);
        }
        Ok(Self::sorted(n, &from, &to))
    }

    fn sorted(n: usize, from: &[u32], to: &[u32]) -> Self {
        let by_target = Groups::new(n, to);
        let at = |x: &[u32]| by_target.item.iter().map(|e| x[*e as usize]).collect();
        Self {
            n,
            source: at(from),
            target: at(to),
            by_target,
            by_source: OnceLock::new(),
        }
    }

    /// Number of nodes.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.n
    }

    /// Number of edges.
    #[must_use]
    pub fn edges(&self) -> usize {
        self.source.len()
    }

    /// Number of the edge at each place.
    #[must_use]
    pub fn numbers(&self) -> &[u32] {
        &self.by_target.item
    }

    /// Sources and targets in the order of the edges' numbers.
    #[must_use]
    pub fn list(&self) -> (Vec<i64>, Vec<i64>) {
        let (mut from, mut to) = (vec![0; self.edges()], vec![0; self.edges()]);
        for (place, e) in self.numbers().iter().enumerate() {
            from[*e as usize] = i64::from(self.source[place]);
            to[*e as usize] = i64::from(self.target[place]);
        }
        (from, to)
    }

    /// Number of edges that end in each node.
    pub fn degrees(&self) -> impl Iterator<Item = usize> + '_ {
        (0..self.n).map(|v| self.incoming(v).len())
    }

    fn incoming(&self, v: usize) -> std::ops::Range<usize> {
        self.by_target.range(v)
    }

    /// Places of the edges that leave v.
    fn outgoing(&self, v: usize) -> &[u32] {
        let groups = self.by_source.get_or_init(|| Groups::new(self.n, &self.source));
        &groups.item[groups.range(v)]
    }
}

/// Rows per piece of work.
const ROWS: usize = 128;

/// Nodes in pieces of [`ROWS`], each with its part of `rows`, which has `width` values per node.
fn pieces<T>(rows: &mut [T], width: usize) -> Vec<(usize, &mut [T])> {
    // Without values there is nothing to do for any row.
    rows.chunks_mut(ROWS * width.max(1))
        .enumerate()
        .map(|(i, part)| (i * ROWS, part))
        .collect()
}

/// Values of the places of nodes `first..first + ROWS` for each piece of nodes in order, `width` per place.
fn places<'a, T>(graph: &Graph, mut data: &'a mut [T], width: usize) -> Vec<&'a mut [T]> {
    let mut out = Vec::new();
    let mut first = 0;
    while first < graph.n {
        let last = (first + ROWS).min(graph.n);
        let count = graph.by_target.start[last] - graph.by_target.start[first];
        let (part, rest) = data.split_at_mut(count as usize * width);
        out.push(part);
        data = rest;
        first = last;
    }
    out
}
