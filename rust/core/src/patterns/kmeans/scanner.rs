//! Points against centroids: labels of the exact scores, found by coarse ones where these settle it.

use super::points::{Points, Targets};
use crate::kernels::nearest::{Nearest, TILE, pack_tile};
use crate::kernels::split::Engine;
use crate::kernels::{Aligned, coarse};

/// What one thread needs for scans.
pub(super) struct Scanner<'s> {
    points: &'s Points<'s>,
    targets: &'s Targets,
    /// Starts wherever tiles are packed for it.
    engine: Option<Engine>,
    /// Points that coarse scores did not settle, each with its key.
    doubtful: Vec<(usize, usize)>,
    /// Such points, packed for exact scores.
    tile: Aligned,
}

impl<'s> Scanner<'s> {
    pub(super) fn new(points: &'s Points<'s>, targets: &'s Targets) -> Self {
        let coarse = targets.coarse.is_some();
        Self {
            points,
            targets,
            engine: if coarse { Engine::start::<f32>() } else { None },
            doubtful: Vec::new(),
            tile: Aligned::default(),
        }
    }

    /// The two best of each lane; scores may be off by [`Points::scan_error`] and labels be those of a near tie.
    pub(super) fn roughly(&self, tile: &[f32], out: &mut Nearest) {
        match (&self.targets.coarse, &self.engine) {
            (Some(coarse), Some(engine)) => coarse.nearest(engine, tile, out),
            _ => self.targets.sites().nearest(tile, out),
        }
    }

    /// The same for the points `ids` of `tile`, each known to the caller by its key. Labels that might not be those of exact scores
    /// are corrected by [`Scanner::settle`].
    pub(super) fn nearest(
        &mut self,
        tile: &[f32],
        ids: impl Iterator<Item = usize>,
        keys: impl Iterator<Item = usize>,
        out: &mut Nearest,
    ) {
        self.roughly(tile, out);
        if self.targets.coarse.is_none() {
            return;
        }
        for (lane, (i, key)) in ids.zip(keys).enumerate() {
            let error = coarse::error(self.points.d, self.points.norms[i], self.targets.max_norm);
            if out.best[lane] - out.second[lane] <= 2.0 * error {
                self.doubtful.push((key, i));
            }
        }
    }

    /// Gives `take` the keys of doubtful points with a lane that holds their exact scores: once they fill a tile, or `all`.
    pub(super) fn settle(&mut self, all: bool, mut take: impl FnMut(usize, usize, &Nearest)) {
        let mut out = Nearest::default();
        if !self.doubtful.is_empty() {
            self.tile.grow(TILE * self.points.d);
        }
        while self.doubtful.len() >= TILE || (all && !self.doubtful.is_empty()) {
            let rest = self.doubtful.len().saturating_sub(TILE);
            let batch = &self.doubtful[rest..];
            let rows = batch.iter().map(|(_, i)| self.points.row(*i));
            pack_tile(rows, self.points.d, &mut self.tile);
            self.targets.sites().nearest(&self.tile, &mut out);
            for (lane, (key, _)) in batch.iter().enumerate() {
                take(*key, lane, &out);
            }
            self.doubtful.truncate(rest);
        }
    }

    /// Scores of all targets: [`TILE`] numbers every `stride` of `out`, for each target.
    pub(super) fn scores(&self, tile: &[f32], out: &mut [f32], stride: usize) {
        match (&self.targets.coarse, &self.engine) {
            (Some(coarse), Some(engine)) => coarse.scores(engine, tile, out, stride),
            _ => self.targets.sites().scores(tile, out, stride),
        }
    }
}
