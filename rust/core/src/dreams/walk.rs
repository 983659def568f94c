//! Random walk with restart (Tong, Faloutsos & Pan 2006): the stationary distribution.

use crate::error::{Error, Result, check_finite};

/// Most rounds; at the smallest restart that is accepted (1e-4) the rest is below 1e-14 of the whole by then.
const MAX_ROUNDS: usize = 400_000;

/// Checks a square, finite matrix of weights that are not negative; returns its size.
pub(super) fn check_weights(w: &[f32], rows: usize, cols: usize) -> Result<usize> {
    if rows != cols {
        return Err(Error::shape("W", "(n, n)", format!("({rows}, {cols})")));
    }
    check_finite("W", w)?;
    match w.iter().position(|v| *v < 0.0) {
        Some(i) => Err(Error::value(
            "W",
            "weights of at least 0",
            format!("{} at index {i}", w[i]),
        )),
        None => Ok(rows),
    }
}

/// r = restart·e_start + (1 − restart)·Pᵀr with P the rows of `w` (n, n) made to sum to 1; a row of zeros leads to `start`.
/// The sum of r is 1. O(edges) per round, log(1e-15)/log(1 − restart) rounds.
pub fn random_walk_with_restart(
    w: &[f32],
    rows: usize,
    cols: usize,
    start: usize,
    restart: f64,
) -> Result<Vec<f64>> {
    let n = check_weights(w, rows, cols)?;
    if start >= n {
        return Err(Error::value("start", format!("a node below {n}"), start));
    }
    if !(1e-4..=1.0).contains(&restart) {
        return Err(Error::value("restart", "a number in [1e-4, 1]", restart));
    }
    let sparse: Vec<Vec<(usize, f64)>> = w
        .chunks_exact(n)
        .map(|row| {
            let total: f64 = row.iter().map(|v| f64::from(*v)).sum();
            let entry = |(j, v): (usize, &f32)| (j, f64::from(*v) / total);
            row.iter()
                .enumerate()
                .filter(|(_, v)| **v > 0.0)
                .map(entry)
                .collect()
        })
        .collect();
    let mut r = vec![0.0; n];
    r[start] = 1.0;
    for _ in 0..MAX_ROUNDS {
        let mut next = vec![0.0; n];
        let mut home = restart;
        for (mass, row) in r.iter().zip(&sparse) {
            let mass = mass * (1.0 - restart);
            if row.is_empty() {
                home += mass;
            }
            for (j, p) in row {
                next[*j] += mass * p;
            }
        }
        next[start] += home;
        let total: f64 = next.iter().sum();
        next.iter_mut().for_each(|v| *v /= total);
        let moved: f64 = next.iter().zip(&r).map(|(a, b)| (a - b).abs()).sum();
        r = next;
        if moved < 1e-15 * n as f64 {
            break;
        }
    }
    Ok(r)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_nodes_in_closed_form() {
        // r0 = c + (1 − c) r1, r1 = (1 − c) r0.
        let c = 0.15;
        let r = random_walk_with_restart(&[0.0, 1.0, 1.0, 0.0], 2, 2, 0, c).unwrap();
        let r0 = c / (1.0 - (1.0 - c) * (1.0 - c));
        assert!((r[0] - r0).abs() < 1e-12 && (r[0] + r[1] - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_node_without_edges_stays_at_home_and_bad_input_is_refused() {
        assert_eq!(
            random_walk_with_restart(&[0.0; 9], 3, 3, 1, 0.1).unwrap(),
            [0.0, 1.0, 0.0]
        );
        assert!(random_walk_with_restart(&[0.0; 6], 2, 3, 1, 0.1).is_err());
        assert!(random_walk_with_restart(&[0.0, -1.0, 0.0, 0.0], 2, 2, 0, 0.1).is_err());
        assert!(random_walk_with_restart(&[0.0; 4], 2, 2, 2, 0.1).is_err());
        assert!(random_walk_with_restart(&[0.0; 4], 2, 2, 0, 0.0).is_err());
    }
}
