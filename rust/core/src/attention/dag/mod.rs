//! Directed acyclic graphs of work: an edge (u, v) says that u is done before v. What each mechanism scores is in its module.
//!
//! Parallel edges are one for everything but volumes, which add.

pub mod branches;
pub mod closure;
pub mod cone;
pub mod connectivity;
pub mod critical;
pub mod cut;
mod dominators;
mod flow;
pub mod lorentz;
mod matching;
#[cfg(test)]
mod tests;
pub mod topological;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Why a list of edges is no graph for us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Invalid {
    /// This edge names a node out of range.
    Node {
        /// Number of the edge.
        edge: usize,
        /// The node it names.
        node: i64,
    },
    /// Nodes that lead to each other in this order, and the last to the first.
    Cycle(Vec<usize>),
}

/// Neighbours of every node, distinct and increasing.
#[derive(Debug, Clone)]
pub(crate) struct Adjacency {
    start: Vec<u32>,
    item: Vec<u32>,
}

impl Adjacency {
    pub(crate) fn of(&self, v: usize) -> &[u32] {
        &self.item[self.start[v] as usize..self.start[v + 1] as usize]
    }

    /// Groups pairs (key, item) by key; within a key the order stays.
    fn group(n: usize, pairs: impl Iterator<Item = (u32, u32)> + Clone) -> Self {
        let mut start = vec![0_u32; n + 1];
        for (key, _) in pairs.clone() {
            start[key as usize + 1] += 1;
        }
        for v in 0..n {
            start[v + 1] += start[v];
        }
        let mut next = start.clone();
        let mut item = vec![0; start[n] as usize];
        for (key, x) in pairs {
            item[next[key as usize] as usize] = x;
            next[key as usize] += 1;
        }
        Self { start, item }
    }

    fn pairs(&self) -> impl Iterator<Item = (u32, u32)> + Clone + '_ {
        (0..self.start.len() - 1).flat_map(|v| self.of(v).iter().map(move |w| (v as u32, *w)))
    }

    /// Every pair turned round: keys become items, increasing.
    fn reversed(&self) -> Self {
        Self::group(self.start.len() - 1, self.pairs().map(|(v, w)| (w, v)))
    }

    /// Neighbours that stand next to each other twice are kept once.
    fn distinct(mut self) -> Self {
        let mut kept = 0;
        for v in 0..self.start.len() - 1 {
            let (from, to) = (self.start[v] as usize, self.start[v + 1] as usize);
            self.start[v] = kept as u32;
            for at in from..to {
                let x = self.item[at];
                if kept == self.start[v] as usize || self.item[kept - 1] != x {
                    self.item[kept] = x;
                    kept += 1;
                }
            }
        }
        if let Some(last) = self.start.last_mut() {
            *last = kept as u32;
        }
        self.item.truncate(kept);
        self
    }
}

/// A graph without cycles, the cost of its nodes and the volume of its edges.
#[derive(Debug, Clone)]
pub struct Dag {
    n: usize,
    edges: Vec<[u32; 2]>,
    cost: Vec<f64>,
    volume: Vec<f64>,
    successors: Adjacency,
    predecessors: Adjacency,
    order: Vec<u32>,
}

impl Dag {
    /// A graph of `n` nodes. The caller has checked that there is one cost per node and one volume per edge, and that there
    /// are fewer than 2³² nodes and edges.
    pub fn new(n: usize, edges: &[[i64; 2]], cost: Vec<f64>, volume: Vec<f64>) -> Result<Self, Invalid> {
        assert!(
            cost.len() == n && volume.len() == edges.len(),
            "one cost per node, one volume per edge"
        );
        let mut checked = Vec::with_capacity(edges.len());
        for (edge, pair) in edges.iter().enumerate() {
            for node in *pair {
                if usize::try_from(node).is_ok_and(|v| v < n) {
                    continue;
                }
                return Err(Invalid::Node { edge, node });
            }
            checked.push([pair[0] as u32, pair[1] as u32]);
        }
        if let Some([v, _]) = checked.iter().find(|[u, v]| u == v) {
            return Err(Invalid::Cycle(vec![*v as usize]));
        }
        let by_target = Adjacency::group(n, checked.iter().map(|[u, v]| (*v, *u)));
        let successors = by_target.reversed().distinct();
        let predecessors = successors.reversed();
        let order = order(n, &successors, &predecessors)?;
        Ok(Self {
            n,
            edges: checked,
            cost,
            volume,
            successors,
            predecessors,
            order,
        })
    }

    /// Number of nodes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.n
    }

    /// Whether there are no nodes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.n == 0
    }

    /// Every node after its predecessors; of those available, the smallest first.
    #[must_use]
    pub fn order(&self) -> &[u32] {
        &self.order
    }

    fn after(&self, v: usize) -> impl Iterator<Item = usize> + '_ {
        self.successors.of(v).iter().map(|w| *w as usize)
    }

    fn before(&self, v: usize) -> impl Iterator<Item = usize> + '_ {
        self.predecessors.of(v).iter().map(|u| *u as usize)
    }

    fn forward(&self) -> impl DoubleEndedIterator<Item = usize> + '_ {
        self.order.iter().map(|v| *v as usize)
    }
}

fn order(n: usize, successors: &Adjacency, predecessors: &Adjacency) -> Result<Vec<u32>, Invalid> {
    let mut waiting: Vec<usize> = (0..n).map(|v| predecessors.of(v).len()).collect();
    let mut ready: BinaryHeap<Reverse<u32>> = (0..n as u32)
        .filter(|v| waiting[*v as usize] == 0)
        .map(Reverse)
        .collect();
    let mut order = Vec::with_capacity(n);
    while let Some(Reverse(v)) = ready.pop() {
        order.push(v);
        for w in successors.of(v as usize) {
            waiting[*w as usize] -= 1;
            if waiting[*w as usize] == 0 {
                ready.push(Reverse(*w));
            }
        }
    }
    match waiting.iter().position(|left| *left > 0) {
        None => Ok(order),
        Some(start) => Err(Invalid::Cycle(cycle(start, &waiting, predecessors))),
    }
}

/// A cycle among the nodes that still wait: each waits for another of them, so walking back must come round.
fn cycle(start: usize, waiting: &[usize], predecessors: &Adjacency) -> Vec<usize> {
    let mut seen = vec![usize::MAX; waiting.len()];
    let mut walk = Vec::new();
    let mut v = start;
    while seen[v] == usize::MAX {
        seen[v] = walk.len();
        walk.push(v);
        match predecessors.of(v).iter().find(|u| waiting[**u as usize] > 0) {
            Some(u) => v = *u as usize,
            None => break,
        }
    }
    let mut round = walk.split_off(seen[v]);
    round.reverse();
    round
}

/// x / Σx, or `otherwise()` where the sum is 0.
fn normalised(mut x: Vec<f64>, otherwise: impl FnOnce() -> Vec<f64>) -> Vec<f64> {
    let largest = x.iter().fold(0.0_f64, |a, b| a.max(*b));
    if largest == 0.0 {
        return otherwise();
    }
    // Dividing by the largest first keeps the sum finite.
    let total: f64 = x.iter().map(|v| v / largest).sum();
    for v in &mut x {
        *v = *v / largest / total;
    }
    x
}

/// 1/n everywhere.
fn uniform(n: usize) -> Vec<f64> {
    vec![1.0 / n as f64; n]
}
