//! What can run side by side: incomparable nodes, the width, and the branches between forks and joins.
//!
//! Dilworth 1950 (width), Graham 1969 and Brent 1974 (work and span). Shares in proportion to work minimise the longest
//! work / share of malleable branches.

use super::closure::{Bits, ancestors, descendants, ones};
use super::dominators::immediate_post_dominators;
use super::{Dag, matching, normalised, uniform};

/// One branch between a fork and its join.
#[derive(Debug, Clone)]
pub struct Branch {
    /// Node where it leaves.
    pub fork: usize,
    /// Node where it ends; `None`: the virtual sink.
    pub join: Option<usize>,
    /// Its nodes, increasing.
    pub nodes: Vec<usize>,
    /// Sum of costs.
    pub work: f64,
    /// Costliest path.
    pub span: f64,
    /// How long it waits for the longest branch of the fork.
    pub wait: f64,
    /// Share of the fork's workers.
    pub share: f64,
}

/// Parallelism of a graph.
#[derive(Debug, Clone)]
pub struct Parallel {
    /// Attention: cost times concurrent cost.
    pub scores: Vec<f64>,
    /// Most nodes of which none reaches another.
    pub width: usize,
    /// Sum of costs.
    pub work: f64,
    /// Costliest path.
    pub span: f64,
    /// By fork, then smallest node.
    pub branches: Vec<Branch>,
}

/// Work, span, width, scores and branches.
#[must_use]
pub fn analyse(dag: &Dag) -> Parallel {
    let n = dag.len();
    let (down, up) = (descendants(dag), ancestors(dag));
    let everything: Vec<usize> = dag.forward().collect();
    let mut finish = vec![0.0; n];
    Parallel {
        scores: scores(dag, &down, &up),
        width: n - matching::largest(&down, n),
        work: dag.cost.iter().sum(),
        span: span(dag, &everything, &mut finish),
        branches: branches(dag, &down, &up),
    }
}

/// cost · cost of all incomparable nodes; without any ∝ cost, without cost uniform.
fn scores(dag: &Dag, down: &Bits, up: &Bits) -> Vec<f64> {
    let n = dag.len();
    let mut s = vec![0.0; n];
    let mut beside = vec![0; n.div_ceil(64)];
    for v in 0..n {
        for ((word, a), b) in beside.iter_mut().zip(down.row(v)).zip(up.row(v)) {
            *word = !(a | b);
        }
        beside[v / 64] &= !(1 << (v % 64));
        if !n.is_multiple_of(64) {
            beside[n / 64] &= (1 << (n % 64)) - 1;
        }
        let concurrent: f64 = ones(&beside).map(|u| dag.cost[u]).sum();
        s[v] = dag.cost[v] * concurrent;
    }
    normalised(s, || normalised(dag.cost.clone(), || uniform(n)))
}

/// Costliest path within `nodes`, which stand in topological order. `finish` is 0 everywhere, before and after.
fn span(dag: &Dag, nodes: &[usize], finish: &mut [f64]) -> f64 {
    let mut longest = 0.0_f64;
    for v in nodes {
        // What is not among the nodes finishes at 0.
        let before = dag.before(*v).map(|u| finish[u]).fold(0.0, f64::max);
        finish[*v] = before + dag.cost[*v];
        longest = longest.max(finish[*v]);
    }
    for v in nodes {
        finish[*v] = 0.0;
    }
    longest
}

fn branches(dag: &Dag, down: &Bits, up: &Bits) -> Vec<Branch> {
    let n = dag.len();
    let join_of = immediate_post_dominators(dag);
    let mut place = vec![0; n];
    for (i, v) in dag.forward().enumerate() {
        place[v] = i;
    }
    let mut finish = vec![0.0; n];
    let mut out = Vec::new();
    for fork in (0..n).filter(|v| dag.successors.of(*v).len() >= 2) {
        let join = Some(join_of[fork] as usize).filter(|j| *j < n);
        let mut between = down.row(fork).to_vec();
        if let Some(j) = join {
            for (a, b) in between.iter_mut().zip(up.row(j)) {
                *a &= b;
            }
        }
        let parts = components(dag, between);
        if parts.len() < 2 {
            continue;
        }
        let first = out.len();
        for nodes in parts {
            let mut ordered = nodes.clone();
            ordered.sort_unstable_by_key(|v| place[*v]);
            out.push(Branch {
                fork,
                join,
                work: nodes.iter().map(|v| dag.cost[*v]).sum(),
                span: span(dag, &ordered, &mut finish),
                nodes,
                wait: 0.0,
                share: 0.0,
            });
        }
        divide(&mut out[first..]);
    }
    out
}

/// Waits and shares of the branches of one fork.
fn divide(branches: &mut [Branch]) {
    let longest = branches.iter().map(|b| b.span).fold(0.0, f64::max);
    let shares = normalised(branches.iter().map(|b| b.work).collect(), || {
        uniform(branches.len())
    });
    for (b, share) in branches.iter_mut().zip(shares) {
        b.wait = longest - b.span;
        b.share = share;
    }
}

/// Weakly connected components of the nodes set in `left`, by smallest node; nodes increasing.
fn components(dag: &Dag, mut left: Vec<u64>) -> Vec<Vec<usize>> {
    let mut parts = Vec::new();
    let mut at = 0;
    while at < left.len() {
        if left[at] == 0 {
            at += 1;
            continue;
        }
        let start = at * 64 + left[at].trailing_zeros() as usize;
        left[at] &= left[at] - 1;
        let mut part = vec![start];
        let mut head = 0;
        while head < part.len() {
            let v = part[head];
            head += 1;
            for w in dag.successors.of(v).iter().chain(dag.predecessors.of(v)) {
                let (word, bit) = (*w as usize / 64, 1 << (w % 64));
                if left[word] & bit != 0 {
                    left[word] &= !bit;
                    part.push(*w as usize);
                }
            }
        }
        part.sort_unstable();
        parts.push(part);
    }
    parts
}
