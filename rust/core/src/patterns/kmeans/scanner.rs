//! Points against centroids: labels of the exact scores, found by coarse ones where these settle it.

use super::points::{Points, Targets};
use crate::kernels::coarse;
use crate::kernels::nearest::Nearest;
use crate::kernels::split::Engine;

/// What one thread needs for scans.
pub(super) struct Scanner<'s> {
    points: &'s Points<'s>,
    targets: &'s Targets,
    /// Starts wherever tiles are packed for it.
    engine: Option<Engine>,
}

impl<'s> Scanner<'s> {
    pub(super) fn new(points: &'s Points<'s>, targets: &'s Targets) -> Self {
        Self {
            points,
            targets,
            engine: targets.coarse.as_ref().and_then(|_| Engine::start::<f32>()),
        }
    }

    /// The two best of each lane; scores may be off by [`Points::scan_error`] and labels be those of a near tie.
    pub(super) fn roughly(&self, tile: &[f32], out: &mut Nearest) {
        match (&self.targets.coarse, &self.engine) {
            (Some(coarse), Some(engine)) => coarse.nearest(engine, tile, out),
            _ => self.targets.sites.nearest(tile, out),
        }
    }

    /// The same with the labels that exact scores give, for the points `ids` of `tile`.
    pub(super) fn nearest(&self, tile: &[f32], ids: impl Iterator<Item = usize>, out: &mut Nearest) {
        self.roughly(tile, out);
        if self.targets.coarse.is_none() {
            return;
        }
        for (lane, i) in ids.enumerate() {
            let error = coarse::error(self.points.d, self.points.norms[i], self.targets.max_norm);
            if out.best[lane] - out.second[lane] <= 2.0 * error {
                coarse::settle(&self.targets.sites, self.points.row(i), lane, out);
            }
        }
    }

    /// Scores of all targets: out (k, [`TILE`](crate::kernels::nearest::TILE)).
    pub(super) fn scores(&self, tile: &[f32], out: &mut [f32]) {
        match (&self.targets.coarse, &self.engine) {
            (Some(coarse), Some(engine)) => coarse.scores(engine, tile, out),
            _ => self.targets.sites.scores(tile, out),
        }
    }
}
