//! Mini-batch k-means (Sculley 2010, "Web-scale k-means clustering", algorithm 1): per-centre learning rates.

use super::centroids::Centroids;
use super::lloyd::{Ended, full_scan};
use super::points::Points;
use super::scanner::Scanner;
use crate::kernels::Aligned;
use crate::kernels::nearest::{Nearest, TILE};
use crate::rng::{RngExt, stream};

/// Stream of the seed that draws batches.
const STREAM: u64 = 0x6d62;
/// Points per batch.
const BATCH: usize = 2048;

/// Runs at most `max_iterations` batches, then labels all points once. It stops when the mean of the largest moves of the
/// last ten batches is at most `tol`.
pub(super) fn iterate(
    points: &Points<'_>,
    centroids: &mut Centroids,
    max_iterations: usize,
    tol: f32,
    seed: u64,
) -> Ended {
    let mut rng = stream(seed, STREAM);
    let mut mass = vec![0.0f64; centroids.k];
    let mut tile = Aligned::zeros(points.tile_len());
    let mut out = Nearest::default();
    let mut recent = std::collections::VecDeque::with_capacity(10);
    let mut iterations = 0;
    let mut converged = false;
    let (mut picks, mut labels) = (vec![0usize; BATCH], vec![0u32; BATCH]);
    while iterations < max_iterations && !converged {
        picks.fill_with(|| rng.random_range(0..points.n));
        let mut scanner = Scanner::new(points, &centroids.targets);
        for (t, picks) in picks.chunks(TILE).enumerate() {
            points.pack(picks.iter().map(|&i| points.row(i)), &mut tile);
            let keys = t * TILE..t * TILE + picks.len();
            scanner.nearest(&tile, picks.iter().copied(), keys.clone(), &mut out);
            labels[keys.clone()].copy_from_slice(&out.indices()[..keys.len()]);
        }
        scanner.settle(true, |key, lane, exact| labels[key] = exact.label(lane));
        drop(scanner);
        let largest = step(points, centroids, &picks, &labels, &mut mass);
        iterations += 1;
        if recent.len() == 10 {
            recent.pop_front();
        }
        recent.push_back(largest);
        converged = recent.len() == 10 && recent.iter().sum::<f32>() / 10.0 <= tol;
    }
    let mut labels = vec![0; points.n];
    full_scan(points, centroids, &mut labels);
    Ended {
        labels,
        iterations,
        converged,
    }
}

/// Moves each centroid towards the mean of its share of the batch. Point after point with rate w/Σw is the same as one
/// step to the running mean.
fn step(
    points: &Points<'_>,
    centroids: &mut Centroids,
    picks: &[usize],
    labels: &[u32],
    mass: &mut [f64],
) -> f32 {
    let d = points.d;
    let mut order: Vec<usize> = (0..picks.len()).collect();
    order.sort_by_key(|&b| labels[b]);
    let mut largest = 0.0f32;
    for share in order.chunk_by(|a, b| labels[*a] == labels[*b]) {
        let c = labels[share[0]] as usize;
        let mut target: Vec<f64> = centroids.row(c).iter().map(|v| f64::from(*v) * mass[c]).collect();
        for &b in share {
            let w = f64::from(points.weight(picks[b]));
            mass[c] += w;
            for (t, v) in target.iter_mut().zip(points.row(picks[b])) {
                *t += w * f64::from(*v);
            }
        }
        if mass[c] > 0.0 {
            target.iter_mut().for_each(|t| *t /= mass[c]);
            debug_assert_eq!(target.len(), d);
            largest = largest.max(centroids.place(c, &mut target));
        }
    }
    centroids.placed(points);
    largest
}
