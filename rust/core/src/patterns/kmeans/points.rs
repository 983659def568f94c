//! The points as the algorithms read them: row-major for updates, packed in tiles for scans.

use crate::kernels::coarse::{self, Coarse};
use crate::kernels::nearest::{Sites, TILE, half_norms, max_norm, pack_tile};
use crate::kernels::{Aligned, Pieces, Team, copied, dot, filled, normalize};
use std::borrow::Cow;
use std::sync::OnceLock;

/// Unit roundoff of `f32`.
pub(super) const ROUNDOFF: f32 = f32::EPSILON / 2.0;

/// What the points will be compared with.
#[derive(Clone, Copy)]
pub(super) struct Scans<'s> {
    /// How many rows.
    pub(super) k: usize,
    /// Rows known already.
    pub(super) start: &'s [f32],
}

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
    pub(super) team: &'a Team,
    /// Tiles are packed for coarse scores.
    coarse: bool,
}

/// Centroids from which coarse scores are worth their packing.
const WORTH_CENTROIDS: usize = 8;
/// Dimensions from which they are.
const WORTH_DIMENSIONS: usize = 32;
/// Parts for each thread when the work is cut: one that comes late leaves the rest to the others.
const SHARES: usize = 4;

/// What points are compared with.
#[derive(Clone, Debug)]
pub(super) struct Targets {
    /// (k, d)
    rows: Vec<f32>,
    d: usize,
    /// Packed for exact scores when these are first asked for.
    sites: OnceLock<Sites>,
    /// Where points have coarse scores.
    pub(super) coarse: Option<Coarse>,
    /// Upper bound of their norms.
    pub(super) max_norm: f32,
}

impl Targets {
    pub(super) fn sites(&self) -> &Sites {
        self.sites.get_or_init(|| Sites::pack(&self.rows, self.d))
    }
}

impl<'a> Points<'a> {
    /// Takes `rows` (n, d). Spherical points are scaled to unit length. Points that lie far from the origin, compared with
    /// their spread, are shifted to their mean, because scores are differences of squared norms.
    pub(super) fn new(
        rows: &'a [f32],
        d: usize,
        weights: Option<&'a [f32]>,
        spherical: bool,
        scans: Scans<'_>,
        team: &'a Team,
    ) -> Self {
        let n = rows.len() / d;
        let mut coarse = scans.k >= WORTH_CENTROIDS
            && d >= WORTH_DIMENSIONS
            && coarse::available()
            && coarse::tame(&scans.start.chunks_exact(d).map(|r| dot(r, r)).collect::<Vec<_>>());
        let shift = if spherical { None } else { far_mean(rows, d) };
        let rows = match &shift {
            Some(mean) => changed(rows, d, team, |row| {
                row.iter_mut().zip(mean).for_each(|(x, m)| *x -= m);
            }),
            None if spherical => changed(rows, d, team, |row| {
                normalize(row);
            }),
            None => Cow::Borrowed(rows),
        };
        let mut norms2 = vec![0.0f32; n];
        let mut tiles = tiles_of(&rows, d, coarse, &mut norms2, team);
        if coarse && !coarse::tame(&norms2) {
            coarse = false;
            tiles = tiles_of(&rows, d, coarse, &mut norms2, team);
        }
        Self {
            rows,
            n,
            d,
            weights,
            tiles,
            norms: norms2.iter().map(|s| s.sqrt()).collect(),
            norms2,
            shift,
            team,
            coarse,
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

    /// Copies of the rows `ids`, one after the other.
    pub(super) fn gathered(&self, ids: &[usize]) -> Vec<f32> {
        let mut rows = Vec::with_capacity(ids.len() * self.d);
        ids.iter().for_each(|&i| rows.extend_from_slice(self.row(i)));
        rows
    }

    pub(super) fn weight(&self, i: usize) -> f32 {
        self.weights.map_or(1.0, |w| w[i])
    }

    /// Tile `t`: points `t * TILE ..`, zero beyond the last.
    pub(super) fn tile(&self, t: usize) -> &[f32] {
        let len = self.tile_len();
        &self.tiles[t * len..(t + 1) * len]
    }

    /// Floats of a tile.
    pub(super) fn tile_len(&self) -> usize {
        tile_len(self.d, self.coarse)
    }

    /// Packs at most [`TILE`] rows; lanes without a row become zero.
    pub(super) fn pack<'r>(&self, rows: impl ExactSizeIterator<Item = &'r [f32]> + Clone, tile: &mut [f32]) {
        pack(rows, self.d, self.coarse, tile);
    }

    /// `rows` (k, d) to compare points with.
    pub(super) fn targets(&self, rows: Vec<f32>) -> Targets {
        let half_norms = half_norms(&rows, self.d);
        Targets {
            coarse: if self.coarse {
                Coarse::pack(&rows, self.d, &half_norms)
            } else {
                None
            },
            max_norm: max_norm(&half_norms),
            sites: OnceLock::new(),
            d: self.d,
            rows,
        }
    }

    /// Points per part when the work is cut for the threads: whole tiles.
    pub(super) fn part(&self) -> usize {
        tiles_per_part(self.n, self.team.size()) * TILE
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

    /// The same for scores that may be coarse.
    pub(super) fn scan_error(&self, i: usize, max_norm: f32) -> f32 {
        let exact = self.error_bound(i, max_norm);
        if self.coarse {
            exact + 2.0 * coarse::error(self.d, self.norms[i], max_norm)
        } else {
            exact
        }
    }
}

/// A copy of the rows, each of them changed.
fn changed<'a>(rows: &[f32], d: usize, team: &Team, change: impl Fn(&mut [f32]) + Sync) -> Cow<'a, [f32]> {
    let mut rows = copied(rows, team);
    let part = tiles_per_part(rows.len() / d, team.size()) * TILE * d;
    team.run(rows.chunks_mut(part).collect(), |rows: &mut [f32]| {
        rows.chunks_exact_mut(d).for_each(&change);
    });
    Cow::Owned(rows)
}

/// All rows in tiles, and their squared norms.
fn tiles_of(rows: &[f32], d: usize, coarse: bool, norms2: &mut [f32], team: &Team) -> Aligned {
    let len = tile_len(d, coarse);
    let count = norms2.len().div_ceil(TILE);
    let part = tiles_per_part(norms2.len(), team.size());
    let parts = rows.chunks(part * TILE * d).zip(norms2.chunks_mut(part * TILE));
    let pack_part = |(rows, norms2): (&[f32], &mut [f32]), tiles: Pieces<'_>| {
        let blocks = rows.chunks(TILE * d).zip(norms2.chunks_mut(TILE));
        for (tile, (rows, norms2)) in tiles.zip(blocks) {
            pack(rows.chunks_exact(d), d, coarse, tile);
            for (norm2, row) in norms2.iter_mut().zip(rows.chunks_exact(d)) {
                *norm2 = dot(row, row);
            }
        }
    };
    filled(count, len, part, parts.collect(), team, pack_part)
}

fn tiles_per_part(n: usize, n_threads: usize) -> usize {
    let parts = if n_threads > 1 { n_threads * SHARES } else { 1 };
    n.div_ceil(TILE).div_ceil(parts).max(1)
}

fn tile_len(d: usize, coarse: bool) -> usize {
    if coarse { coarse::tile_len(d) } else { TILE * d }
}

fn pack<'r>(
    rows: impl ExactSizeIterator<Item = &'r [f32]> + Clone,
    d: usize,
    coarse: bool,
    tile: &mut [f32],
) {
    if coarse {
        coarse::pack_points(rows, d, tile);
    } else {
        pack_tile(rows, d, tile);
    }
}

/// Mean of up to 1024 evenly spaced rows, if its square exceeds three times their spread.
fn far_mean(rows: &[f32], d: usize) -> Option<Vec<f32>> {
    let n = rows.len() / d;
    let step = n.div_ceil(1024).max(1);
    let (mut mean, mut squares) = (vec![0.0f64; d], vec![0.0f64; d]);
    let mut count = 0.0f64;
    for row in rows.chunks_exact(d).step_by(step) {
        for ((m, s), v) in mean.iter_mut().zip(&mut squares).zip(row) {
            *m += f64::from(*v);
            *s += f64::from(*v) * f64::from(*v);
        }
        count += 1.0;
    }
    let total: f64 = squares.iter().sum();
    mean.iter_mut().for_each(|m| *m /= count);
    let square: f64 = mean.iter().map(|m| m * m).sum();
    let spread = (total / count - square).max(0.0);
    (square > 3.0 * spread).then(|| mean.iter().map(|m| *m as f32).collect())
}
