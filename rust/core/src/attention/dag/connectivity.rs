//! Global minimum cut of the graph with its directions forgotten.

use super::Dag;
use crate::control::mincut::{Weighted, minimum_cut};

/// Least volume whose removal parts the graph; 0 if it is in pieces already or has fewer than two nodes.
#[must_use]
pub fn global_minimum_cut(dag: &Dag) -> f64 {
    if dag.len() < 2 {
        return 0.0;
    }
    let mut graph: Weighted = vec![Vec::new(); dag.len()];
    for ([u, v], volume) in dag.edges.iter().zip(&dag.volume) {
        if *volume > 0.0 {
            graph[*u as usize].push((*v, *volume));
            graph[*v as usize].push((*u, *volume));
        }
    }
    minimum_cut(graph, None, 0.0).value
}
