//! Φ of integrated information theory 3.0, exactly, for a handful of nodes.

use super::concepts::{Concept, PRECISION, distance, distance_to_null, structure};
use super::repertoire::{System, nodes};
use super::transport::transport;
use crate::error::{Error, Result};

/// Φ and the concepts of a system.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PhiResult {
    /// Φ; 0 for a system that a one-way cut leaves as it was.
    pub phi: f64,
    /// Mechanism (nodes, ascending) and φ of each concept, small mechanisms first.
    pub concepts: Vec<(Vec<usize>, f64)>,
}

/// Φ of `n` binary nodes in `state` (n bits).
///
/// `tpm` (2ⁿ, n): chance that node j is on after state x, node 0 the lowest bit of x. `cm` (n, n): 1 where i feeds j.
/// Cause and effect repertoires are compared by the earth mover's distance; the system's cuts are one-way bipartitions.
/// A system that is not strongly connected, or of one node, has Φ = 0 and no concepts. About 8ⁿ·4ⁿ steps.
pub fn phi(
    tpm: &[f64],
    n: usize,
    state: &[bool],
    cm: Option<&[bool]>,
    max_nodes: usize,
) -> Result<PhiResult> {
    if n > max_nodes {
        return Err(Error::Capacity {
            name: "tpm",
            limit: format!("exact Φ takes at most {max_nodes} nodes (use `integration` for more)"),
            got: format!("{n} nodes"),
        });
    }
    if n == 0 || tpm.len() != n << n {
        return Err(Error::shape(
            "tpm",
            format!("({}, {n})", 1usize << n),
            format!("{} values", tpm.len()),
        ));
    }
    if let Some(p) = tpm.iter().find(|p| !(0.0..=1.0).contains(*p)) {
        return Err(Error::value("tpm", "probabilities", p));
    }
    if state.len() != n {
        return Err(Error::Dimension {
            name: "state",
            expected: n,
            got: state.len(),
        });
    }
    if cm.is_some_and(|c| c.len() != n * n) {
        return Err(Error::shape("cm", format!("({n}, {n})"), "another size"));
    }
    let now = state
        .iter()
        .enumerate()
        .fold(0, |s, (i, on)| s | usize::from(*on) << i);
    let reach = |x: usize| -> f64 {
        let chance = |i: usize| {
            if state[i] {
                tpm[x * n + i]
            } else {
                1.0 - tpm[x * n + i]
            }
        };
        (0..n).map(chance).product()
    };
    if !(0..1usize << n).any(|x| reach(x) > 0.0) {
        return Err(Error::value(
            "state",
            "a state that some state leads to",
            "one that none leads to",
        ));
    }
    let feeds = |i: usize, j: usize| cm.is_none_or(|c| c[i * n + j]);
    let inputs: Vec<usize> = (0..n)
        .map(|j| (0..n).filter(|i| feeds(*i, j)).fold(0, |m, i| m | 1 << i))
        .collect();
    if n == 1 || !strongly_connected(&inputs) {
        return Ok(PhiResult::default());
    }
    let whole = System::new(tpm, n, now, &inputs);
    let concepts = structure(&whole);
    let all = (1usize << n) - 1;
    let mut least = f64::INFINITY;
    // Severed: what runs from `source` to the rest.
    for source in 1..all {
        let severed: Vec<usize> = inputs
            .iter()
            .enumerate()
            .map(|(j, from)| {
                if source >> j & 1 == 1 {
                    *from
                } else {
                    from & !source
                }
            })
            .collect();
        let cut = structure(&System::new(tpm, n, now, &severed));
        least = least.min(structure_distance(&whole, &concepts, &cut));
        if least < PRECISION {
            least = 0.0;
            break;
        }
    }
    Ok(PhiResult {
        phi: least,
        concepts: concepts
            .iter()
            .map(|c| (nodes(c.mechanism).collect(), c.phi))
            .collect(),
    })
}

/// Cost of moving the φ of one structure's concepts onto the other's; what has no place goes to the null concept.
fn structure_distance(system: &System, a: &[Concept], b: &[Concept]) -> f64 {
    let masses = |s: &[Concept]| s.iter().map(|c| c.phi).collect::<Vec<f64>>();
    let (mut supply, mut demand) = (masses(a), masses(b));
    let surplus = supply.iter().sum::<f64>() - demand.iter().sum::<f64>();
    supply.push((-surplus).max(0.0));
    demand.push(surplus.max(0.0));
    let mut cost = Vec::with_capacity(supply.len() * demand.len());
    for i in 0..supply.len() {
        for j in 0..demand.len() {
            cost.push(match (a.get(i), b.get(j)) {
                (Some(x), Some(y)) => distance(system, x, y),
                (Some(x), None) | (None, Some(x)) => distance_to_null(system, x),
                (None, None) => 0.0,
            });
        }
    }
    transport(&supply, &demand, |i, j| cost[i * demand.len() + j])
}

fn strongly_connected(inputs: &[usize]) -> bool {
    let n = inputs.len();
    let reach = |forward: bool| {
        let mut seen = 1usize;
        for _ in 0..n {
            for (j, from) in inputs.iter().enumerate() {
                if forward && from & seen != 0 {
                    seen |= 1 << j;
                } else if !forward && seen >> j & 1 == 1 {
                    seen |= from;
                }
            }
        }
        seen == (1 << n) - 1
    };
    reach(true) && reach(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(n: usize, f: impl Fn(usize) -> usize) -> Vec<f64> {
        (0..1usize << n)
            .flat_map(|x| (0..n).map(move |j| (x, j)))
            .map(|(x, j)| (f(x) >> j & 1) as f64)
            .collect()
    }

    fn wiring(n: usize, feeds: impl Fn(usize, usize) -> bool) -> Vec<bool> {
        (0..n * n).map(|k| feeds(k / n, k % n)).collect()
    }

    /// Published values (Oizumi 2014 and the documentation of the reference implementation).
    #[test]
    fn known_systems() {
        let apart = wiring(3, |i, j| i != j);
        let xor3 = table(3, |x| {
            let b = |i: usize| x >> i & 1;
            (b(1) ^ b(2)) | (b(0) ^ b(2)) << 1 | (b(0) ^ b(1)) << 2
        });
        let got = phi(&xor3, 3, &[false; 3], Some(&apart), 4).unwrap();
        assert!((got.phi - 1.875).abs() < 1e-5, "{got:?}");
        let got = phi(&xor3, 3, &[false; 3], None, 4).unwrap();
        assert!((got.phi - 1.875).abs() < 1e-5, "{got:?}");
    }

    #[test]
    fn nothing_to_integrate() {
        let copy = table(2, |x| x);
        assert_eq!(phi(&copy, 2, &[true, false], None, 4).unwrap().phi, 0.0);
        assert_eq!(
            phi(&[0.5, 0.5], 1, &[true], None, 4).unwrap(),
            PhiResult::default()
        );
    }

    #[test]
    fn bad_input_is_refused() {
        assert!(matches!(
            phi(&[0.0; 160], 5, &[false; 5], None, 4),
            Err(Error::Capacity { .. })
        ));
        assert!(phi(&[0.5, 1.5], 1, &[true], None, 4).is_err());
        assert!(phi(&[0.5; 3], 2, &[true; 2], None, 4).is_err());
        assert!(phi(&[0.5; 8], 2, &[true; 3], None, 4).is_err());
        assert!(phi(&[0.0; 8], 2, &[true; 2], None, 4).is_err());
    }
}
