//! Scores by depth: attention to early (or late) work.

use super::{Dag, normalised};

/// Which end of the graph has level 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Nodes without predecessors.
    Sources,
    /// Nodes without successors.
    Sinks,
}

/// Edges on the longest path from a source, or to a sink, of every node.
#[must_use]
pub fn levels(dag: &Dag, from: Side) -> Vec<u32> {
    let mut level = vec![0; dag.len()];
    match from {
        Side::Sources => {
            for v in dag.forward() {
                level[v] = dag.before(v).map(|u| level[u] + 1).max().unwrap_or(0);
            }
        }
        Side::Sinks => {
            for v in dag.forward().rev() {
                level[v] = dag.after(v).map(|w| level[w] + 1).max().unwrap_or(0);
            }
        }
    }
    level
}

/// decay^level, normalised, and the levels.
#[must_use]
pub fn scores(dag: &Dag, decay: f64, from: Side) -> (Vec<f64>, Vec<u32>) {
    let level = levels(dag, from);
    let raw = level.iter().map(|l| decay.powf(f64::from(*l))).collect();
    // Some node has level 0, so the sum is at least 1 unless there is no node.
    (normalised(raw, Vec::new), level)
}
