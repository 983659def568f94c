//! Assignment that skips points whose nearest centroid cannot have changed (Hamerly 2010, "Making k-means even faster").
//!
//! Each point keeps an upper bound of the distance to its centroid and a lower bound of the distance to any other. Both are
//! rounded outwards, and a point is skipped only if the gap exceeds what rounding can do to the scores: the full scan
//! would have returned the same label, so the result equals Lloyd's bit for bit.

use super::centroids::{Centroids, NONE};
use super::points::{Points, ROUNDOFF};
use super::scanner::Scanner;
use crate::kernels::nearest::{Nearest, TILE};
use crate::kernels::{Aligned, Team, squared_l2};

const UP: f32 = 1.0 + 4.0 * f32::EPSILON;
const DOWN: f32 = 1.0 - 4.0 * f32::EPSILON;

/// A tile with at least this many open points is scanned whole: gathering a point costs about as much as scanning it.
const DENSE: usize = TILE / 2;
/// One tile in so many tells whether the bounds settle enough points to be worth testing; without hope only these keep any.
const PROBE: usize = 16;

pub(super) struct Bounds {
    upper: Vec<f32>,
    lower: Vec<f32>,
    /// Of each part: the bounds settled too little last time.
    hopeless: Vec<bool>,
}

/// The points of one part.
struct Part<'p> {
    first: usize,
    labels: &'p mut [u32],
    upper: &'p mut [f32],
    lower: &'p mut [f32],
    hopeless: &'p mut bool,
}

impl Bounds {
    pub(super) fn new(points: &Points<'_>) -> Self {
        let n = points.n;
        Self {
            upper: vec![f32::INFINITY; n],
            lower: vec![0.0; n],
            hopeless: vec![false; n.div_ceil(points.part())],
        }
    }

    /// Labels every point with its nearest centroid. Returns the points whose label is new, ascending.
    pub(super) fn assign(
        &mut self,
        points: &Points<'_>,
        centroids: &Centroids,
        labels: &mut [u32],
    ) -> Vec<usize> {
        // Without hope, distances between centroids are not worth their time; zero is a bound too.
        let reach = if self.hopeless.iter().all(|h| *h) {
            vec![0.0; centroids.k]
        } else {
            half_distances(centroids, points.team)
        };
        let moves = Moves::new(&centroids.moves);
        let part = points.part();
        let mut found = vec![Vec::new(); points.n.div_ceil(part)];
        let parts = labels
            .chunks_mut(part)
            .zip(self.upper.chunks_mut(part))
            .zip(self.lower.chunks_mut(part))
            .zip(&mut self.hopeless)
            .zip(&mut found)
            .enumerate()
            .map(|(p, ((((labels, upper), lower), hopeless), found))| {
                let part = Part {
                    first: p * part,
                    labels,
                    upper,
                    lower,
                    hopeless,
                };
                (part, found)
            })
            .collect();
        points
            .team
            .run(parts, |(mut part, found): (Part<'_>, &mut Vec<usize>)| {
                part.moved(&moves);
                part.assign(points, centroids, &reach);
                centroids.changed(part.first, part.labels, found);
            });
        found.concat()
    }

    /// The points `seeded` start again.
    pub(super) fn forget(&mut self, seeded: &[usize]) {
        for &i in seeded {
            self.upper[i] = f32::INFINITY;
            self.lower[i] = 0.0;
        }
    }
}

/// How far the centroids moved.
struct Moves<'c> {
    each: &'c [f32],
    first: f32,
    second: f32,
    /// The centroid that moved farthest.
    widest: usize,
}

impl<'c> Moves<'c> {
    fn new(each: &'c [f32]) -> Self {
        let (mut first, mut second, mut widest) = (0.0f32, 0.0f32, 0);
        for (c, m) in each.iter().enumerate() {
            if *m > first {
                (first, second, widest) = (*m, first, c);
            } else if *m > second {
                second = *m;
            }
        }
        Self {
            each,
            first,
            second,
            widest,
        }
    }
}

/// Half the distance from each centroid to its nearest other one, rounded down.
fn half_distances(centroids: &Centroids, team: &Team) -> Vec<f32> {
    let k = centroids.k;
    let slack = 1.0 - (centroids.rows.len() / k.max(1)) as f32 * 4.0 * ROUNDOFF;
    // Each part has one centroid in so many with those before it; which part finds a minimum does not matter.
    let mut parts = vec![vec![f32::INFINITY; k]; team.size()];
    let step = parts.len();
    team.run(
        parts.iter_mut().enumerate().collect(),
        |(first, half): (usize, &mut Vec<f32>)| {
            for a in (first..k).step_by(step) {
                for b in 0..a {
                    let s = 0.5 * squared_l2(centroids.row(a), centroids.row(b)).sqrt() * slack;
                    half[a] = half[a].min(s);
                    half[b] = half[b].min(s);
                }
            }
        },
    );
    let least = |c: usize| parts.iter().fold(f32::INFINITY, |m, half| m.min(half[c]));
    (0..k).map(least).collect()
}

impl Part<'_> {
    /// Widens the bounds by what the centroids moved.
    fn moved(&mut self, moves: &Moves<'_>) {
        if self.labels[0] == NONE {
            return;
        }
        for ((u, l), label) in self.upper.iter_mut().zip(&mut *self.lower).zip(&*self.labels) {
            let label = *label as usize;
            *u = (*u + moves.each[label]) * UP;
            let others = if label == moves.widest {
                moves.second
            } else {
                moves.first
            };
            *l = ((*l - others) * DOWN).max(0.0);
        }
    }

    fn assign(&mut self, points: &Points<'_>, centroids: &Centroids, reach: &[f32]) {
        let mut scanner = Scanner::new(points, &centroids.targets);
        let max_norm = centroids.targets.max_norm;
        let (mut probed, mut open) = (0, 0);
        for start in (0..self.labels.len()).step_by(TILE * PROBE) {
            let end = (start + TILE).min(self.labels.len());
            probed += end - start;
            open += (start..end)
                .filter(|&p| !self.settled(p, points, centroids, reach, max_norm))
                .count();
        }
        // The first time nothing is settled, and nothing is known.
        *self.hopeless = 2 * open > probed && self.labels[0] != NONE;
        let mut out = Nearest::default();
        let mut waiting: Vec<usize> = Vec::with_capacity(2 * TILE);
        let mut gathered = Aligned::default();
        for start in (0..self.labels.len()).step_by(TILE) {
            let end = (start + TILE).min(self.labels.len());
            let before = waiting.len();
            if *self.hopeless && start % (TILE * PROBE) != 0 {
                let ids = self.first + start..self.first + end;
                scanner.nearest(points.tile(ids.start / TILE), ids, start..end, &mut out);
                self.labels[start..end].copy_from_slice(&out.indices()[..end - start]);
                self.upper[start..end].fill(f32::INFINITY);
                scanner.settle(false, |p, lane, exact| {
                    self.keep(p, lane, exact, points, centroids)
                });
                continue;
            }
            waiting.extend((start..end).filter(|&p| !self.settled(p, points, centroids, reach, max_norm)));
            if waiting.len() - before >= DENSE {
                waiting.truncate(before);
                let ids = self.first + start..self.first + end;
                scanner.nearest(points.tile(ids.start / TILE), ids, start..end, &mut out);
                self.store(start..end, &out, points, centroids);
            }
            while waiting.len() >= TILE {
                self.gather(
                    &mut waiting,
                    &mut gathered,
                    points,
                    centroids,
                    &mut scanner,
                    &mut out,
                );
            }
            scanner.settle(false, |p, lane, exact| {
                self.keep(p, lane, exact, points, centroids)
            });
        }
        if !waiting.is_empty() {
            self.gather(
                &mut waiting,
                &mut gathered,
                points,
                centroids,
                &mut scanner,
                &mut out,
            );
        }
        scanner.settle(true, |p, lane, exact| {
            self.keep(p, lane, exact, points, centroids)
        });
    }

    /// Scans the first points of those `waiting`, as many as a tile holds.
    fn gather(
        &mut self,
        waiting: &mut Vec<usize>,
        tile: &mut Aligned,
        points: &Points<'_>,
        centroids: &Centroids,
        scanner: &mut Scanner<'_>,
        out: &mut Nearest,
    ) {
        let batch: Vec<usize> = waiting.drain(..waiting.len().min(TILE)).collect();
        let rows = batch.iter().map(|p| points.row(self.first + p));
        tile.grow(points.tile_len());
        points.pack(rows, tile);
        let ids = batch.iter().map(|p| self.first + p);
        scanner.nearest(tile, ids, batch.iter().copied(), out);
        self.store(batch.into_iter(), out, points, centroids);
    }

    /// True if no scan could change the label of point `p` of this part.
    fn settled(
        &mut self,
        p: usize,
        points: &Points<'_>,
        centroids: &Centroids,
        reach: &[f32],
        max_norm: f32,
    ) -> bool {
        let label = self.labels[p];
        if label == NONE || self.upper[p] == f32::INFINITY {
            return false;
        }
        let error = 2.0 * points.error_bound(self.first + p, max_norm);
        // Any other centroid is at least as far as the lower bound, and as 2·reach − upper (triangle inequality).
        let clear = |u: f32, l: f32| {
            let l = l.max((2.0 * reach[label as usize] - u) * DOWN);
            u * u * UP + error < l * l * DOWN
        };
        if clear(self.upper[p], self.lower[p]) {
            return true;
        }
        let d2 = squared_l2(points.row(self.first + p), centroids.row(label as usize));
        self.upper[p] = d2.sqrt() * (1.0 + (points.d as f32 + 8.0) * ROUNDOFF);
        clear(self.upper[p], self.lower[p])
    }

    /// Takes over labels and bounds of `scanned`, whose lanes are in order.
    fn store(
        &mut self,
        scanned: impl Iterator<Item = usize>,
        out: &Nearest,
        points: &Points<'_>,
        centroids: &Centroids,
    ) {
        for (lane, p) in scanned.enumerate() {
            self.keep(p, lane, out, points, centroids);
        }
    }

    /// Takes over label and bounds of point `p`, which is in `lane`.
    fn keep(&mut self, p: usize, lane: usize, out: &Nearest, points: &Points<'_>, centroids: &Centroids) {
        let i = self.first + p;
        let error = points.scan_error(i, centroids.targets.max_norm);
        self.labels[p] = out.label(lane);
        self.upper[p] = (points.squared_distance(i, out.best[lane]) + error)
            .max(0.0)
            .sqrt()
            * UP;
        self.lower[p] = (points.squared_distance(i, out.second[lane]) - error)
            .max(0.0)
            .sqrt()
            * DOWN;
    }
}
