//! The points as the algorithms read them: row-major for updates, packed in tiles for scans.

use crate::kernels::nearest::TILE;
use crate::kernels::real::{Mat, transpose};
use crate::kernels::{Aligned, dot, normalize};
use std::borrow::Cow;

/// Unit roundoff of `f32`.
pub(super) const ROUNDOFF: f32 = f32::EPSILON / 2.0;

/// Rows, weights and derived values; nothing here changes while the clustering runs.
pub(super) struct Points<'a> {
    pub(super) rows: Cow<'a, [f32]>,
    pub(super) n: usize,
    pub(super) d: usize,
    weights: Option<&'a [f32]>,
    tiles: Aligned,
    /// ‖x‖.
    pub(super) norms: Vec<f32>,
    /// ‖x‖².
    pub(super) norms2: Vec<f32>,
    /// What was subtracted from every row.
    shift: Option<Vec<f32>>,
    pub(super) n_threads: usize,
}

impl<'a> Points<'a> {
    /// Takes `rows` (n, d). Spherical points are scaled to unit length. Points that lie far from the origin, compared with
    /// their spread, are shifted to their mean, because scores are differences of squared norms.
    pub(super) fn new(
        rows: &'a [f32],
        d: usize,
        weights: Option<&'a [f32]>,
        spherical: bool,
        n_threads: usize,
    ) -> Self {
        let n = rows.len() / d;
        let mut rows = Cow::Borrowed(rows);
        let mut shift = None;
        if spherical {
            for row in rows.to_mut().chunks_exact_mut(d) {
                normalize(row);
            }
        } else if let Some(mean) = far_mean(&rows, d) {
            for row in rows.to_mut().chunks_exact_mut(d) {
                row.iter_mut().zip(&mean).for_each(|(x, m)| *x -= m);
            }
            shift = Some(mean);
        }
        let mut norms2 = vec![0.0f32; n];
        let mut tiles = Aligned::zeros(n.div_ceil(TILE) * TILE * d);
        let part = tiles_per_part(n, n_threads) * TILE;
        let parts = tiles
            .chunks_mut(part * d)
            .zip(rows.chunks(part * d))
            .zip(norms2.chunks_mut(part))
            .collect();
        parallel(
            parts,
            |((tiles, rows), norms2): ((&mut [f32], &[f32]), &mut [f32])| {
                let blocks = rows.chunks(TILE * d).zip(norms2.chunks_mut(TILE));
                for (tile, (rows, norms2)) in tiles.chunks_exact_mut(TILE * d).zip(blocks) {
                    transpose(rows.len() / d, d, Mat::new(rows, d), tile, TILE);
                    for (norm2, row) in norms2.iter_mut().zip(rows.chunks_exact(d)) {
                        *norm2 = dot(row, row);
                    }
                }
            },
        );
        Self {
            rows,
            n,
            d,
            weights,
            tiles,
            norms: norms2.iter().map(|s| s.sqrt()).collect(),
            norms2,
            shift,
            n_threads,
        }
    }

    /// Given centroids in the space of these points.
    pub(super) fn enter(&self, rows: &[f32], spherical: bool) -> Vec<f32> {
        let mut rows = rows.to_vec();
        for row in rows.chunks_exact_mut(self.d) {
            if spherical {
                normalize(row);
            }
            if let Some(shift) = &self.shift {
                row.iter_mut().zip(shift).for_each(|(x, m)| *x -= m);
            }
        }
        rows
    }

    /// Centroids back in the caller's space.
    pub(super) fn leave(&self, mut rows: Vec<f32>) -> Vec<f32> {
        if let Some(shift) = &self.shift {
            for row in rows.chunks_exact_mut(self.d) {
                row.iter_mut().zip(shift).for_each(|(x, m)| *x += m);
            }
        }
        rows
    }

    pub(super) fn row(&self, i: usize) -> &[f32] {
        &self.rows[i * self.d..(i + 1) * self.d]
    }

    pub(super) fn weight(&self, i: usize) -> f32 {
        self.weights.map_or(1.0, |w| w[i])
    }

    /// Tile `t`: points `t * TILE ..`, zero beyond the last.
    pub(super) fn tile(&self, t: usize) -> &[f32] {
        &self.tiles[t * TILE * self.d..(t + 1) * TILE * self.d]
    }

    /// Points per part when the work is cut for the threads: whole tiles.
    pub(super) fn part(&self) -> usize {
        tiles_per_part(self.n, self.n_threads) * TILE
    }

    /// ‖x − c‖² from the score of centroid c; rounding can make it negative.
    pub(super) fn squared_distance(&self, i: usize, score: f32) -> f32 {
        self.norms2[i] - 2.0 * score
    }

    /// Bound on the error of a [`Points::squared_distance`], for point `i` and centroids of
    /// norm at most `max_norm`: every dot product is off by at most γ_d‖a‖‖b‖ (Higham 2002, §3.1), and d covers the
    /// additions after it.
    pub(super) fn error_bound(&self, i: usize, max_norm: f32) -> f32 {
        let s = self.norms[i] + max_norm;
        (1.5 * self.d as f32 + 8.0) * ROUNDOFF * s * s
    }
}

fn tiles_per_part(n: usize, n_threads: usize) -> usize {
    n.div_ceil(TILE).div_ceil(n_threads).max(1)
}

/// Mean of up to 1024 evenly spaced rows, if its square exceeds three times their spread.
fn far_mean(rows: &[f32], d: usize) -> Option<Vec<f32>> {
    let n = rows.len() / d;
    let step = n.div_ceil(1024).max(1);
    let mut mean = vec![0.0f64; d];
    let (mut total, mut count) = (0.0f64, 0.0f64);
    for row in rows.chunks_exact(d).step_by(step) {
        for (m, v) in mean.iter_mut().zip(row) {
            *m += f64::from(*v);
            total += f64::from(*v) * f64::from(*v);
        }
        count += 1.0;
    }
    mean.iter_mut().for_each(|m| *m /= count);
    let square: f64 = mean.iter().map(|m| m * m).sum();
    let spread = (total / count - square).max(0.0);
    (square > 3.0 * spread).then(|| mean.iter().map(|m| *m as f32).collect())
}

/// Runs `f` on every part, the first on this thread, each other one on its own. A thread that cannot be started runs here.
pub(super) fn parallel<P: Send>(parts: Vec<P>, f: impl Fn(P) + Sync) {
    let mut parts = parts.into_iter();
    let Some(first) = parts.next() else { return };
    let f = &f;
    std::thread::scope(|scope| {
        for part in parts {
            let slot = std::sync::Arc::new(std::sync::Mutex::new(Some(part)));
            let theirs = slot.clone();
            let run = move |slot: &std::sync::Mutex<Option<P>>| {
                let part = slot.lock().ok().and_then(|mut s| s.take());
                if let Some(part) = part {
                    f(part);
                }
            };
            if std::thread::Builder::new()
                .spawn_scoped(scope, move || run(&theirs))
                .is_err()
            {
                run(&slot);
            }
        }
        f(first);
    });
}
