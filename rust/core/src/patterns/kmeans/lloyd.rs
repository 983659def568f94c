//! Assignment by a full scan (Lloyd 1982), and the loop around any assignment.

use super::centroids::{Centroids, NONE};
use super::hamerly::Bounds;
use super::points::Points;
use super::scanner::Scanner;
use crate::kernels::nearest::{Nearest, TILE};

/// How points find their nearest centroid. Every way gives the same labels, bit for bit.
pub(super) enum Assignment {
    /// All centroids for all points.
    Full,
    /// Only where the bounds do not settle it.
    Bounded(Bounds),
}

impl Assignment {
    /// Returns the points whose label is new, ascending.
    fn assign(&mut self, points: &Points<'_>, centroids: &Centroids, labels: &mut [u32]) -> Vec<usize> {
        match self {
            Self::Full => full_scan(points, centroids, labels),
            Self::Bounded(bounds) => bounds.assign(points, centroids, labels),
        }
    }

    fn seeded(&mut self, seeded: &[usize]) {
        if let Self::Bounded(bounds) = self {
            bounds.forget(seeded);
        }
    }
}

/// Labels every point with its nearest centroid, the lowest index among equals. Returns the points whose label is new, ascending.
pub(super) fn full_scan(points: &Points<'_>, centroids: &Centroids, labels: &mut [u32]) -> Vec<usize> {
    let part = points.part();
    let mut found = vec![Vec::new(); points.n.div_ceil(part)];
    let parts = labels.chunks_mut(part).zip(&mut found).enumerate().collect();
    points.team.run(
        parts,
        |(p, (labels, found)): (usize, (&mut [u32], &mut Vec<usize>))| {
            let mut scanner = Scanner::new(points, &centroids.targets);
            let mut out = Nearest::default();
            let n = labels.len();
            for start in (0..n).step_by(TILE) {
                let keys = start..n.min(start + TILE);
                let first = p * part + start;
                scanner.nearest(points.tile(first / TILE), first.., keys.clone(), &mut out);
                labels[keys.clone()].copy_from_slice(&out.indices()[..keys.len()]);
                scanner.settle(keys.end == n, |key, lane, exact| labels[key] = exact.label(lane));
            }
            centroids.changed(p * part, labels, found);
        },
    );
    found.concat()
}

/// What the loop ended with.
pub(super) struct Ended {
    pub(super) labels: Vec<u32>,
    pub(super) iterations: usize,
    pub(super) converged: bool,
}

/// Alternates assignment and update until the largest move is at most `tol` or `max_iterations` are done. The labels
/// belong to the centroids as they are at the end.
pub(super) fn iterate(
    points: &Points<'_>,
    centroids: &mut Centroids,
    mut assignment: Assignment,
    max_iterations: usize,
    tol: f32,
) -> Ended {
    let mut labels = vec![NONE; points.n];
    let mut iterations = 0;
    let mut largest = f32::INFINITY;
    while iterations < max_iterations {
        let changed = assignment.assign(points, centroids, &mut labels);
        let seeded;
        (largest, seeded) = centroids.update(points, &mut labels, &changed);
        assignment.seeded(&seeded);
        iterations += 1;
        if largest <= tol {
            break;
        }
    }
    if largest > 0.0 {
        assignment.assign(points, centroids, &mut labels);
    }
    Ended {
        labels,
        iterations,
        converged: largest <= tol,
    }
}
