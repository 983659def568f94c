//! Critical paths, hard and soft.
//!
//! Kelley & Walker 1959 (critical path method); the soft version is the log-sum-exp dynamic programme of Mensch & Blondel
//! 2018: the probability of a node is the derivative of the soft makespan by its cost.

use super::{Dag, normalised};

/// Times and probabilities of every node.
#[derive(Debug, Clone)]
pub struct Critical {
    /// Attention.
    pub scores: Vec<f64>,
    /// That a Gibbs-random path from a source to a sink passes here.
    pub probability: Vec<f64>,
    /// probability · cost: first-order gain of making the node faster.
    pub saving: Vec<f64>,
    /// How much later the node may finish without delaying the end.
    pub slack: Vec<f64>,
    /// Longest path before the node.
    pub earliest_start: Vec<f64>,
    /// Cost of the longest path.
    pub makespan: f64,
    /// τ·log-sum-exp of path cost / τ over all paths.
    pub soft_makespan: f64,
    /// The nodes of one longest path, in order.
    pub path: Vec<usize>,
}

/// Log-sum-exp; −∞ for none.
fn log_sum_exp(x: impl Iterator<Item = f64> + Clone) -> f64 {
    let top = x.clone().fold(f64::NEG_INFINITY, f64::max);
    if top == f64::NEG_INFINITY {
        return top;
    }
    top + x.map(|v| (v - top).exp()).sum::<f64>().ln()
}

/// Finish of the longest path to each node, and length of the longest path from each node on, both with the node itself.
fn hard(dag: &Dag) -> (Vec<f64>, Vec<f64>) {
    let (mut finish, mut tail) = (dag.cost.clone(), dag.cost.clone());
    for v in dag.forward() {
        finish[v] += dag.before(v).map(|u| finish[u]).fold(0.0, f64::max);
    }
    for v in dag.forward().rev() {
        tail[v] += dag.after(v).map(|w| tail[w]).fold(0.0, f64::max);
    }
    (finish, tail)
}

/// The same with log-sum-exp in place of the maximum, in units of τ.
fn soft(dag: &Dag, tau: f64) -> (Vec<f64>, Vec<f64>) {
    let scaled: Vec<f64> = dag.cost.iter().map(|w| w / tau).collect();
    let (mut f, mut b) = (scaled.clone(), scaled);
    for v in dag.forward() {
        if !dag.predecessors.of(v).is_empty() {
            f[v] += log_sum_exp(dag.predecessors.of(v).iter().map(|u| f[*u as usize]));
        }
    }
    for v in dag.forward().rev() {
        if !dag.successors.of(v).is_empty() {
            b[v] += log_sum_exp(dag.successors.of(v).iter().map(|w| b[*w as usize]));
        }
    }
    (f, b)
}

/// The sink that finishes last and, back from it, the predecessors that finish last.
fn path(dag: &Dag, finish: &[f64]) -> Vec<usize> {
    let latest = |a: usize, b: usize| if finish[b] > finish[a] { b } else { a };
    let mut path = Vec::new();
    let mut at = dag
        .forward()
        .filter(|v| dag.successors.of(*v).is_empty())
        .reduce(latest);
    while let Some(v) = at {
        path.push(v);
        at = dag.before(v).reduce(latest);
    }
    path.reverse();
    path
}

/// Share of attention for the longest path rather than for total work, when `workers` share the work: the makespan is at
/// least both.
fn path_share(makespan: f64, work: f64, workers: f64) -> f64 {
    1.0 / (1.0 + ((work / workers - makespan) / (0.1 * makespan)).exp())
}

/// Critical path analysis with τ = `temperature` · makespan. With `workers`, scores account for total work too.
#[must_use]
pub fn analyse(dag: &Dag, temperature: f64, workers: Option<f64>) -> Critical {
    let n = dag.len();
    let (finish, tail) = hard(dag);
    let makespan = finish.iter().copied().fold(0.0, f64::max);
    let tau = if makespan > 0.0 {
        temperature * makespan
    } else {
        temperature
    };
    let (f, b) = soft(dag, tau);
    let ends = (0..n).filter(|v| dag.successors.of(*v).is_empty());
    let log_total = log_sum_exp(ends.map(|v| f[v]));
    let probability: Vec<f64> = (0..n)
        .map(|v| (f[v] + b[v] - dag.cost[v] / tau - log_total).exp().min(1.0))
        .collect();
    let saving: Vec<f64> = probability.iter().zip(&dag.cost).map(|(p, w)| p * w).collect();
    let earliest_start: Vec<f64> = finish.iter().zip(&dag.cost).map(|(f, w)| f - w).collect();
    // Sums along different orders differ by rounding: slack below that is none.
    let rounding = makespan * f64::EPSILON * n as f64;
    let slack = (0..n)
        .map(|v| makespan - (finish[v] + tail[v] - dag.cost[v]))
        .map(|s| if s <= rounding { 0.0 } else { s })
        .collect();
    let plain = || normalised(probability.clone(), Vec::new);
    let scores = match workers {
        Some(p) if makespan > 0.0 => {
            let pi = path_share(makespan, dag.cost.iter().sum(), p);
            let aware = |v: usize| dag.cost[v] * (pi * probability[v] + (1.0 - pi) / p);
            normalised((0..n).map(aware).collect(), plain)
        }
        _ => plain(),
    };
    Critical {
        scores,
        saving,
        slack,
        earliest_start,
        makespan,
        soft_makespan: if n == 0 { 0.0 } else { tau * log_total },
        path: path(dag, &finish),
        probability,
    }
}
