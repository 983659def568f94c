//! The evidence term: items that never had a chance keep it, through a learned handicap (β, λ).

use super::candidates::{Candidates, Scored};
use super::probe::Probe;
use super::running::{Running, dcg};
use crate::item::ItemId;

const BETAS: [f64; 7] = [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3];
const LAMBDAS: [f64; 3] = [0.0, 0.5, 1.0];
/// Number of arms.
pub(super) const ARMS: usize = BETAS.len() * LAMBDAS.len();

/// The arm (β, λ), if it is one.
pub(super) fn index(beta: f64, lambda: f64) -> Option<usize> {
    (0..ARMS).find(|&i| arm(i) == (beta, lambda))
}

/// (β, λ) of an arm; β outermost, arm 0 is (0, 0).
pub(super) fn arm(i: usize) -> (f64, f64) {
    (BETAS[i / LAMBDAS.len()], LAMBDAS[i % LAMBDAS.len()])
}

/// s'(d) = s(d) + e(d)·[β + λ·(q − q̄)·d] for each arm, ready to be ranked.
pub(super) struct Handicap {
    scores: Vec<f32>,
    /// e(d).
    open: Vec<f32>,
    /// e(d)·(q − q̄)·d.
    novel: Vec<f32>,
}

impl Handicap {
    /// From un-offset scores; `open(d)` is e(d).
    pub(super) fn new(
        probe: &Probe,
        candidates: &Candidates<'_>,
        scored: &Scored,
        open: impl Fn(&ItemId) -> f32,
    ) -> Self {
        let open: Vec<f32> = candidates.ids().iter().map(|id| open(id)).collect();
        let novel = if !probe.is_empty() && open.iter().any(|e| *e > 0.0) {
            let novelty = scored.novelty.get_or_init(|| {
                let mut dots = vec![0.0; open.len()];
                candidates.add_dots(&probe.novelty(), &mut dots);
                dots
            });
            novelty.iter().zip(&open).map(|(n, e)| n * e).collect()
        } else {
            vec![0.0; open.len()]
        };
        Self {
            scores: scored.scores.clone(),
            open,
            novel,
        }
    }

    /// Keeps only the positions where `keep` holds.
    pub(super) fn retain(&mut self, keep: &[bool]) {
        for column in [&mut self.scores, &mut self.open, &mut self.novel] {
            let mut k = keep.iter();
            column.retain(|_| k.next().copied().unwrap_or(false));
        }
    }

    /// All scores of one arm.
    pub(super) fn apply(&self, (beta, lambda): (f64, f64), out: &mut Vec<f32>) {
        let (beta, lambda) = (beta as f32, lambda as f32);
        let parts = self.scores.iter().zip(&self.open).zip(&self.novel);
        out.clear();
        out.extend(parts.map(|((s, e), n)| s + (beta * e + lambda * n)));
    }

    /// DCG of `wanted` per arm, less that of the arm `start`.
    pub(super) fn gains(&self, wanted: &[usize], start: usize) -> [f64; ARMS] {
        let mut scores = Vec::with_capacity(self.scores.len());
        let mut gains: [f64; ARMS] = std::array::from_fn(|a| {
            self.apply(arm(a), &mut scores);
            dcg(&scores, wanted)
        });
        let reference = gains[start];
        for g in &mut gains {
            *g -= reference;
        }
        gains
    }
}

/// The arm of largest D among those with D > z·SE, the first on ties; else `start`.
pub(super) fn choose(as_is: &Running, removed: &Running, nu: f64, z: f64, start: usize) -> usize {
    let mut best = (start, 0.0);
    for a in 0..ARMS {
        let (d, se) = merit(as_is, removed, nu, a);
        if d > z * se && d > best.1 {
            best = (a, d);
        }
    }
    best.0
}

/// D and its standard error for an arm.
pub(super) fn merit(as_is: &Running, removed: &Running, nu: f64, arm: usize) -> (f64, f64) {
    let d = (1.0 - nu) * as_is.mean(arm) + nu * removed.mean(arm);
    let variance =
        (1.0 - nu).powi(2) * as_is.variance_of_mean(arm) + nu.powi(2) * removed.variance_of_mean(arm);
    (d, variance.sqrt())
}
