//! Concepts: mechanisms whose cause and effect are more than those of their parts (IIT 3.0).

use super::repertoire::{System, joint, nodes, subsets, widen};
use super::transport::hamming_distance;

/// Differences below this are none: the precision at which published values are given.
pub(super) const PRECISION: f64 = 1e-6;

/// The purview about which a mechanism says most, and how irreducibly.
pub(super) struct Core {
    pub purview: usize,
    /// Cause: distribution over the purview's states. Effect: chance of each of its nodes.
    pub repertoire: Vec<f64>,
    pub phi: f64,
}

/// A mechanism with a cause and an effect that cannot be reduced.
pub(super) struct Concept {
    pub mechanism: usize,
    pub cause: Core,
    pub effect: Core,
    pub phi: f64,
}

/// The least of `parts` over all bipartitions of mechanism and purview.
fn irreducibility(
    mechanism: usize,
    purview: usize,
    parts: impl Fn(usize, usize, usize, usize) -> f64,
) -> f64 {
    let mut least = f64::INFINITY;
    for m in subsets(mechanism) {
        for p in subsets(purview) {
            let (n, q) = (mechanism & !m, purview & !p);
            // Both parts hold something; each bipartition once: the lowest node of the purview is in the first part.
            if m | p == 0 || n | q == 0 || p & (purview & purview.wrapping_neg()) == 0 {
                continue;
            }
            least = least.min(parts(m, p, n, q));
            if least < PRECISION {
                return 0.0;
            }
        }
    }
    least
}

fn core_cause(system: &System, mechanism: usize, purview: usize) -> Core {
    let repertoire = system.cause(mechanism, purview);
    let phi = irreducibility(mechanism, purview, |m, p, n, q| {
        let cut = joint(&system.cause(m, p), p, &system.cause(n, q), q);
        hamming_distance(&repertoire, &cut)
    });
    Core {
        purview,
        repertoire,
        phi,
    }
}

fn core_effect(system: &System, mechanism: usize, purview: usize) -> Core {
    let repertoire = system.effect(mechanism, purview);
    let phi = irreducibility(mechanism, purview, |m, p, n, q| {
        // Nodes are independent, so the earth mover's distance is the sum over nodes.
        let part = |m: usize, p: usize| -> f64 {
            let now = system.effect(m, p);
            let all = nodes(purview).zip(&repertoire).filter(|(j, _)| p >> j & 1 == 1);
            all.zip(now).map(|((_, a), b)| (a - b).abs()).sum()
        };
        part(m, p) + part(n, q)
    });
    Core {
        purview,
        repertoire,
        phi,
    }
}

/// The core with the greatest φ; among equals the larger purview, then the first in the order of node lists.
fn best(cores: impl Iterator<Item = Core>) -> Option<Core> {
    let mut best: Option<Core> = None;
    for core in cores {
        let better = match &best {
            None => true,
            Some(b) => {
                let size = (core.purview.count_ones(), b.purview.count_ones());
                core.phi > b.phi + PRECISION || (core.phi > b.phi - PRECISION && size.0 > size.1)
            }
        };
        if better {
            best = Some(core);
        }
    }
    best.filter(|c| c.phi >= PRECISION)
}

/// The concept of a mechanism, if it has one. `purviews` are the candidates in the order that settles ties.
fn concept(system: &System, mechanism: usize, purviews: &[usize]) -> Option<Concept> {
    let cause = best(purviews.iter().map(|p| core_cause(system, mechanism, *p)))?;
    let effect = best(purviews.iter().map(|p| core_effect(system, mechanism, *p)))?;
    let phi = cause.phi.min(effect.phi);
    Some(Concept {
        mechanism,
        cause,
        effect,
        phi,
    })
}

/// Non-empty sets of `n` nodes: by size, then by node lists.
pub(super) fn mechanisms(n: usize) -> Vec<usize> {
    let mut out: Vec<usize> = (1..1 << n).collect();
    out.sort_by_key(|m| (m.count_ones(), nodes(*m).collect::<Vec<_>>()));
    out
}

/// All concepts of a system.
pub(super) fn structure(system: &System) -> Vec<Concept> {
    let sets = mechanisms(system.n);
    sets.iter().filter_map(|m| concept(system, *m, &sets)).collect()
}

/// Distance of two concepts' repertoires, each widened to the union of the purviews.
pub(super) fn distance(system: &System, a: &Concept, b: &Concept) -> f64 {
    let union = a.cause.purview | b.cause.purview;
    let wide = |c: &Core| widen(&c.repertoire, c.purview, union);
    let causes = hamming_distance(&wide(&a.cause), &wide(&b.cause));
    let (a, b) = (on_all(system, &a.effect), on_all(system, &b.effect));
    causes + a.iter().zip(&b).map(|(x, y)| (x - y).abs()).sum::<f64>()
}

/// Distance from knowing nothing.
pub(super) fn distance_to_null(system: &System, c: &Concept) -> f64 {
    let uniform = vec![1.0 / c.cause.repertoire.len() as f64; c.cause.repertoire.len()];
    let causes = hamming_distance(&c.cause.repertoire, &uniform);
    let effect = on_all(system, &c.effect);
    let known = effect.iter().enumerate();
    causes
        + known
            .map(|(j, p)| (p - system.unconstrained(j)).abs())
            .sum::<f64>()
}

fn on_all(system: &System, effect: &Core) -> Vec<f64> {
    let mut out: Vec<f64> = (0..system.n).map(|j| system.unconstrained(j)).collect();
    for (j, p) in nodes(effect.purview).zip(&effect.repertoire) {
        out[j] = *p;
    }
    out
}
