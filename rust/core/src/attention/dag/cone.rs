//! What a node depends on, or what depends on it, weighted by distance.

use super::Dag;

/// Which part of the cone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Ancestors.
    Past,
    /// Descendants.
    Future,
    /// Both.
    Both,
}

/// How far apart two nodes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Edges on the shortest path.
    Hops,
    /// Least sum of node costs on a path, the node itself not counted.
    Cost,
}

/// Distance of every node of the cone of `node`, infinite outside.
fn distance(dag: &Dag, node: usize, direction: Direction, metric: Metric) -> Vec<f64> {
    let weight = |v: usize| match metric {
        Metric::Hops => 1.0,
        Metric::Cost => dag.cost[v],
    };
    let alone = || {
        let mut d = vec![f64::INFINITY; dag.len()];
        d[node] = 0.0;
        d
    };
    let (mut past, mut future) = (alone(), alone());
    let nearest = |d: &[f64], of: &[u32]| of.iter().map(|u| d[*u as usize]).fold(f64::INFINITY, f64::min);
    if direction != Direction::Future {
        for u in dag.forward().rev().skip_while(|v| *v != node).skip(1) {
            past[u] = weight(u) + nearest(&past, dag.successors.of(u));
        }
    }
    if direction != Direction::Past {
        for w in dag.forward().skip_while(|v| *v != node).skip(1) {
            future[w] = weight(w) + nearest(&future, dag.predecessors.of(w));
        }
    }
    // A node is on one side at most: the other distance is infinite.
    past.iter().zip(&future).map(|(a, b)| a.min(*b)).collect()
}

/// decay^distance · evidence on the cone of `node`, normalised (uniform on the cone where there is no evidence), and the
/// distances, infinite outside the cone.
#[must_use]
pub fn scores(
    dag: &Dag,
    node: usize,
    direction: Direction,
    metric: Metric,
    decay: f64,
    evidence: Option<&[f64]>,
) -> (Vec<f64>, Vec<f64>) {
    let distance = distance(dag, node, direction, metric);
    let weight = |v: usize| evidence.map_or(1.0, |e| e[v]);
    let inside = |v: &usize| distance[*v].is_finite();
    // Logarithms: neither far evidence nor huge evidence leaves the range of f64.
    let log = |v: usize| {
        if distance[v] == 0.0 {
            weight(v).ln()
        } else {
            distance[v] * decay.ln() + weight(v).ln()
        }
    };
    let top = (0..dag.len())
        .filter(inside)
        .map(log)
        .fold(f64::NEG_INFINITY, f64::max);
    let mut s = vec![0.0; dag.len()];
    for v in (0..dag.len()).filter(inside) {
        s[v] = if top == f64::NEG_INFINITY {
            1.0
        } else {
            (log(v) - top).exp()
        };
    }
    let total: f64 = s.iter().sum();
    for x in &mut s {
        *x /= total;
    }
    (s, distance)
}
