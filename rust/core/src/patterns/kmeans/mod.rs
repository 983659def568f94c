//! K-means: D² seeding, Lloyd's iteration with or without Hamerly's bounds, mini-batches; Euclidean or spherical.

mod centroids;
mod hamerly;
mod init;
mod lloyd;
mod minibatch;
mod points;
mod scanner;
#[cfg(test)]
mod tests;

use crate::error::{Error, Result, check_dim, check_finite};
use crate::kernels::{Team, all_finite, squared_l2};
use centroids::Centroids;
use hamerly::Bounds;
use lloyd::Assignment;
use points::{Points, Scans};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// What distance means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Metric {
    /// Squared Euclidean distance; centroids are means.
    #[default]
    Euclidean,
    /// Spherical k-means: rows and centroids have unit length, and a squared distance is 2(1 − cos).
    Cosine,
}

/// How the clustering is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// The fastest exact one.
    #[default]
    Auto,
    /// Full scans.
    Lloyd,
    /// Bounds that skip what cannot change; the result of `Lloyd`, bit for bit.
    Hamerly,
    /// Mini-batches: approximate, for large n.
    Minibatch,
}

/// Where the centroids start.
#[derive(Debug, Clone, Copy, Default)]
pub enum Init<'a> {
    /// D² seeding that keeps the best of 2 + ln k draws at each step.
    #[default]
    PlusPlus,
    /// Given rows (k, d).
    Given(&'a [f32]),
}

/// Arguments of [`kmeans`].
#[derive(Debug, Clone, Copy)]
pub struct Params<'a> {
    /// Number of clusters.
    pub k: usize,
    /// Where the centroids start.
    pub init: Init<'a>,
    /// Weight per row, finite and not negative; `None`: 1.
    pub weights: Option<&'a [f32]>,
    /// Iterations (mini-batches for [`Algorithm::Minibatch`]) at most.
    pub max_iterations: usize,
    /// Stop when no centroid moved farther.
    pub tol: f32,
    /// What distance means.
    pub metric: Metric,
    /// How the clustering is computed.
    pub algorithm: Algorithm,
    /// Seed of all draws.
    pub seed: u64,
    /// Threads; the result does not depend on it.
    pub n_threads: usize,
}

impl Params<'_> {
    /// `k` clusters, everything else as the Python function has it.
    #[must_use]
    pub fn new(k: usize) -> Self {
        Self {
            k,
            init: Init::PlusPlus,
            weights: None,
            max_iterations: 100,
            tol: 1e-3,
            metric: Metric::Euclidean,
            algorithm: Algorithm::Auto,
            seed: 0,
            n_threads: 1,
        }
    }

    fn check(&self, x: &[f32], d: usize, team: &Team) -> Result<usize> {
        let n = check_rows(x, d, self.weights, team)?;
        check_k(self.k, n)?;
        if self.max_iterations == 0 {
            return Err(Error::value("max_iterations", "at least 1", 0));
        }
        if self.tol.is_nan() || self.tol < 0.0 {
            return Err(Error::value("tol", "a number >= 0", self.tol));
        }
        if self.n_threads == 0 {
            return Err(Error::value("n_threads", "at least 1", 0));
        }
        if let Init::Given(rows) = self.init {
            if rows.len() != self.k * d {
                return Err(Error::shape(
                    "init",
                    format!("({}, {d})", self.k),
                    format!("{} values", rows.len()),
                ));
            }
            check_finite("init", rows)?;
        }
        if self.metric == Metric::Cosine {
            check_directions("X", x, d)?;
            if let Init::Given(rows) = self.init {
                check_directions("init", rows, d)?;
            }
        }
        Ok(n)
    }
}

fn check_rows(x: &[f32], d: usize, weights: Option<&[f32]>, team: &Team) -> Result<usize> {
    if d == 0 || x.is_empty() || !x.len().is_multiple_of(d) {
        let got = format!("{} values for d = {d}", x.len());
        return Err(Error::value("X", "(n, d) with n >= 1 and d >= 1", got));
    }
    let bad = AtomicBool::new(false);
    let part = x.len().div_ceil(4 * team.size()).max(1 << 16);
    team.run(x.chunks(part).collect(), |x: &[f32]| {
        if !all_finite(x) {
            bad.store(true, Relaxed);
        }
    });
    if bad.into_inner() {
        check_finite("X", x)?;
    }
    let n = x.len() / d;
    if let Some(w) = weights {
        check_dim("weights", n, w.len())?;
        check_finite("weights", w)?;
        if let Some(bad) = w.iter().find(|w| **w < 0.0) {
            return Err(Error::value("weights", "weights >= 0", bad));
        }
        if w.iter().all(|w| *w == 0.0) {
            return Err(Error::value("weights", "at least one weight > 0", "zeros only"));
        }
    }
    Ok(n)
}

fn check_k(k: usize, n: usize) -> Result<()> {
    if (1..=n).contains(&k) {
        Ok(())
    } else {
        Err(Error::value("k", format!("1 <= k <= n = {n}"), k))
    }
}

fn check_directions(name: &'static str, rows: &[f32], d: usize) -> Result<()> {
    match rows.chunks_exact(d).position(|r| r.iter().all(|v| *v == 0.0)) {
        Some(i) => Err(Error::value(
            name,
            "rows with a direction (metric \"cosine\")",
            format!("row {i} is zero"),
        )),
        None => Ok(()),
    }
}

/// Result of [`kmeans`].
#[derive(Debug, Clone, PartialEq)]
pub struct Clustering {
    /// (k, d) row-major; fewer rows than asked for where seeding found fewer distinct points.
    pub centroids: Vec<f32>,
    /// Nearest centroid of each row.
    pub labels: Vec<u32>,
    /// Σ w·dist².
    pub inertia: f64,
    /// Updates done.
    pub iterations: usize,
    /// The last largest move was at most `tol`.
    pub converged: bool,
}

/// Clusters the rows of `x` (n, d).
///
/// Empty clusters are re-seeded at the point of largest weighted error. O(n·k·d) per iteration; memory for one packed
/// copy of `x`, and one more where it is scaled (cosine) or shifted (data far from the origin).
pub fn kmeans(x: &[f32], d: usize, params: &Params<'_>) -> Result<Clustering> {
    kmeans_by(&Team::new(params.n_threads), x, d, params)
}

/// [`kmeans`] by threads that are there already.
pub fn kmeans_by(team: &Team, x: &[f32], d: usize, params: &Params<'_>) -> Result<Clustering> {
    params.check(x, d, team)?;
    let spherical = params.metric == Metric::Cosine;
    let scans = Scans {
        k: params.k,
        start: match params.init {
            Init::PlusPlus => &[],
            Init::Given(rows) => rows,
        },
    };
    let points = Points::new(x, d, params.weights, spherical, scans, team);
    let start = match params.init {
        Init::PlusPlus => init::plus_plus(&points, params.k, init::greedy_trials(params.k), params.seed)
            .into_iter()
            .flat_map(|i| points.row(i))
            .copied()
            .collect(),
        Init::Given(rows) => points.enter(rows, spherical),
    };
    let mut centroids = Centroids::new(&points, start, spherical);
    let run = |centroids: &mut Centroids, how| {
        lloyd::iterate(&points, centroids, how, params.max_iterations, params.tol)
    };
    let ended = match params.algorithm {
        Algorithm::Lloyd => run(&mut centroids, Assignment::Full),
        Algorithm::Auto | Algorithm::Hamerly => {
            run(&mut centroids, Assignment::Bounded(Bounds::new(&points)))
        }
        Algorithm::Minibatch => minibatch::iterate(
            &points,
            &mut centroids,
            params.max_iterations,
            params.tol,
            params.seed,
        ),
    };
    Ok(Clustering {
        inertia: inertia(&points, &centroids, &ended.labels),
        centroids: points.leave(centroids.rows),
        labels: ended.labels,
        iterations: ended.iterations,
        converged: ended.converged,
    })
}

/// Indices of up to `k` rows of `x` (n, d) by D² seeding: the first ∝ w, each next ∝ w·D².
///
/// Fewer indices where fewer distinct rows carry weight. O(n·k·d).
pub fn kmeans_plus_plus(
    x: &[f32],
    d: usize,
    k: usize,
    weights: Option<&[f32]>,
    seed: u64,
) -> Result<Vec<usize>> {
    let team = Team::new(1);
    let n = check_rows(x, d, weights, &team)?;
    check_k(k, n)?;
    let points = Points::new(x, d, weights, false, Scans { k, start: &[] }, &team);
    Ok(init::plus_plus(&points, k, 1, seed))
}

/// Σ w·dist², summed in row order whatever the number of threads.
fn inertia(points: &Points<'_>, centroids: &Centroids, labels: &[u32]) -> f64 {
    let mut d2 = vec![0.0f32; points.n];
    let part = points.part();
    points.team.run(
        d2.chunks_mut(part).enumerate().collect(),
        |(p, d2): (usize, &mut [f32])| {
            for (r, d2) in d2.iter_mut().enumerate() {
                let i = p * part + r;
                *d2 = squared_l2(points.row(i), centroids.row(labels[i] as usize));
            }
        },
    );
    d2.iter()
        .enumerate()
        .map(|(i, d2)| f64::from(points.weight(i)) * f64::from(*d2))
        .sum()
}
