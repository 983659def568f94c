//! Minimum cuts: where to divide a flow of data, and where to run each piece of work.

use super::flow::{Network, Scale, UNLIMITED};
use super::{Dag, normalised, uniform};

/// The minimum cut nearest to the source.
#[derive(Debug, Clone)]
pub struct Cut {
    /// Volume that crosses.
    pub value: f64,
    /// Nodes on the side of the source.
    pub side: Vec<bool>,
    /// Numbers of the edges that cross.
    pub edges: Vec<usize>,
}

/// Minimum cut between `source` and `sink`; `None`: all nodes that begin, or end, a path of at least one edge.
#[must_use]
pub fn minimum(dag: &Dag, source: Option<usize>, sink: Option<usize>) -> Cut {
    let n = dag.len();
    let (first, last) = (source.unwrap_or(n), sink.unwrap_or(n + 1));
    let scale = Scale::of(dag.volume.iter().copied());
    let mut network = Network::new(n + 2);
    for ([u, v], volume) in dag.edges.iter().zip(&dag.volume) {
        network.connect(*u as usize, *v as usize, scale.integer(*volume), 0);
    }
    for v in 0..n {
        let (begins, ends) = (dag.predecessors.of(v).is_empty(), dag.successors.of(v).is_empty());
        // A given end of the cut is not tied to the other end.
        if source.is_none() && begins && !ends && v != last {
            network.connect(n, v, UNLIMITED, 0);
        }
        if sink.is_none() && ends && !begins && v != first {
            network.connect(v, n + 1, UNLIMITED, 0);
        }
    }
    let mut side = network.cut(first, last);
    side.truncate(n);
    let crosses = |e: &usize| side[dag.edges[*e][0] as usize] && !side[dag.edges[*e][1] as usize];
    let edges: Vec<usize> = (0..dag.edges.len()).filter(crosses).collect();
    Cut {
        value: edges.iter().map(|e| dag.volume[*e]).sum(),
        side,
        edges,
    }
}

/// Volume of cut edges at each node, plus `floor` times the volume of all edges there; uniform where that is 0.
#[must_use]
pub fn scores(dag: &Dag, cut: &Cut, floor: f64) -> Vec<f64> {
    let mut s = vec![0.0; dag.len()];
    let mut add = |e: usize, factor: f64| {
        for v in dag.edges[e] {
            s[v as usize] += factor * dag.volume[e];
        }
    };
    for e in &cut.edges {
        add(*e, 1.0);
    }
    for e in 0..dag.edges.len() {
        add(e, floor);
    }
    normalised(s, || uniform(dag.len()))
}

/// Stone's placement (1977) on two sites: the assignment (`true` = second site) of least cost of running plus volume sent
/// between the sites, and that cost.
#[must_use]
pub fn placement(dag: &Dag, first: &[f64], second: &[f64]) -> (Vec<bool>, f64) {
    let n = dag.len();
    let all = first.iter().chain(second).chain(&dag.volume);
    let scale = Scale::of(all.copied());
    let mut network = Network::new(n + 2);
    for v in 0..n {
        // Cut off from the first site, a node runs on the second, and the other way round.
        network.connect(n, v, scale.integer(second[v]), 0);
        network.connect(v, n + 1, scale.integer(first[v]), 0);
    }
    for ([u, v], volume) in dag.edges.iter().zip(&dag.volume) {
        let volume = scale.integer(*volume);
        network.connect(*u as usize, *v as usize, volume, volume);
    }
    let reached = network.cut(n, n + 1);
    let site: Vec<bool> = reached[..n].iter().map(|r| !r).collect();
    let running: f64 = (0..n).map(|v| if site[v] { second[v] } else { first[v] }).sum();
    let sent: f64 = dag
        .edges
        .iter()
        .zip(&dag.volume)
        .filter(|([u, v], _)| site[*u as usize] != site[*v as usize])
        .map(|(_, volume)| volume)
        .sum();
    (site, running + sent)
}
