//! Creative jumps: a draw from exp(cos / T) over all memories that are no neighbours, without scoring all of them.

use super::graph::MemoryGraph;
use crate::kernels;
use crate::rng::{Rng, RngExt};

/// Proposals scored together, so that their rows are fetched together.
const BATCH: usize = 16;

/// A position drawn ∝ exp(cos(at, j) / temperature) among the j ≠ `at` without an edge to `at`; `None` if there is none.
///
/// Rejection: propose uniformly, accept with probability exp((cos − 1) / T). By Jensen's inequality the expected number
/// of proposals is at most exp((1 − mean cos) / T), whatever the number of memories: 150 where the mean cosine is 0 and
/// T = .2. After as many proposals as there are memories (low temperatures, or neighbours nearly everywhere) one pass
/// over all of them draws from the same law: proposals that failed say nothing about the draw to come.
pub(super) fn creative_jump(
    graph: &MemoryGraph,
    at: usize,
    temperature: f64,
    rng: &mut impl Rng,
) -> Option<usize> {
    let n = graph.len();
    if n < 2 || graph.links(at).len() + 1 >= n {
        return None;
    }
    let (d, query) = (graph.dim(), graph.unit(at));
    let mut proposals = [0usize; BATCH];
    let mut cosines = [0.0f32; BATCH];
    for _ in 0..n.div_ceil(BATCH) {
        for p in &mut proposals {
            *p = rng.random_range(0..n);
        }
        kernels::gather_dot(graph.units(), d, &proposals, query, &mut cosines);
        for (j, cos) in proposals.into_iter().zip(cosines) {
            let accept = ((f64::from(cos).min(1.0) - 1.0) / temperature).exp();
            if rng.random::<f64>() < accept && j != at && !graph.linked(at, j) {
                return Some(j);
            }
        }
    }
    full_scan(graph, at, temperature, rng)
}

fn full_scan(graph: &MemoryGraph, at: usize, temperature: f64, rng: &mut impl Rng) -> Option<usize> {
    let mut cosines = vec![0.0f32; graph.len()];
    kernels::gemv(graph.units(), graph.dim(), graph.unit(at), &mut cosines);
    let mut free: Vec<(usize, f64)> = cosines
        .iter()
        .enumerate()
        .filter(|(j, _)| *j != at && !graph.linked(at, *j))
        .map(|(j, c)| (j, f64::from(*c) / temperature))
        .collect();
    let highest = free.iter().fold(f64::NEG_INFINITY, |m, (_, x)| m.max(*x));
    for (_, x) in &mut free {
        *x = (*x - highest).exp();
    }
    weighted(&free, rng)
}

/// One of `choices` with probability proportional to its weight; `None` if there are none.
pub(super) fn weighted(choices: &[(usize, f64)], rng: &mut impl Rng) -> Option<usize> {
    let total: f64 = choices.iter().map(|(_, w)| w).sum();
    let mut u = rng.random::<f64>() * total;
    for (j, w) in choices {
        u -= w;
        if u < 0.0 {
            return Some(*j);
        }
    }
    choices.last().map(|(j, _)| *j)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dreams::graph::Node;
    use crate::rng;

    fn graph(n: usize, d: usize) -> MemoryGraph {
        let mut rng = rng::stream(3, 0);
        let mut g = MemoryGraph::default();
        for id in 0..n as i64 {
            let x: Vec<f32> = (0..d).map(|_| rng::normal(&mut rng) as f32).collect();
            let node = Node {
                id,
                timestamp: 0.0,
                access_count: 0,
                importance: 0.5,
            };
            g.add_node(node, &x).unwrap();
        }
        g.set_edge(0, 1, 1.0).unwrap();
        g.set_edge(0, 2, 1.0).unwrap();
        g
    }

    /// Both ways of drawing follow the stated law (χ² with 7 degrees of freedom, p = 1e-6 at 40).
    #[test]
    fn both_samplers_follow_the_law() {
        let g = graph(11, 3);
        for temperature in [0.2, 1.0] {
            let law: Vec<f64> = (0..11)
                .map(|j| {
                    let c = f64::from(kernels::dot(g.unit(0), g.unit(j)));
                    if j < 3 { 0.0 } else { (c / temperature).exp() }
                })
                .collect();
            let total: f64 = law.iter().sum();
            let draws = 40_000;
            for scan in [false, true] {
                let mut rng = rng::stream(7, 1);
                let mut count = [0u32; 11];
                for _ in 0..draws {
                    let j = if scan {
                        full_scan(&g, 0, temperature, &mut rng)
                    } else {
                        creative_jump(&g, 0, temperature, &mut rng)
                    };
                    count[j.unwrap()] += 1;
                }
                assert_eq!(&count[..3], &[0, 0, 0]);
                let chi: f64 = (3..11)
                    .map(|j| {
                        let want = law[j] / total * f64::from(draws);
                        (f64::from(count[j]) - want).powi(2) / want
                    })
                    .sum();
                assert!(chi < 40.0, "T {temperature} scan {scan}: {chi}");
            }
        }
    }

    #[test]
    fn nowhere_to_jump() {
        let mut g = graph(3, 2);
        let mut rng = rng::stream(0, 0);
        assert_eq!(creative_jump(&g, 0, 0.2, &mut rng), None);
        g.set_edge(1, 2, 1.0).unwrap();
        assert_eq!(creative_jump(&g, 2, 0.2, &mut rng), None);
    }
}
