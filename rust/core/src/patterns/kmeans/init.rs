//! D² seeding (Arthur & Vassilvitskii 2007, "k-means++: the advantages of careful seeding", algorithm 1), weighted, and its
//! greedy form (their section 5): the best of several draws at each step.
//!
//! The law is exact, the passes over the data are few: distances are refreshed for several new centroids in one scan. In
//! between, points are drawn from the last refresh, an upper bound of w·D², and accepted with probability D² / bound.

use super::centroids::half_norms;
use super::points::{Points, parallel};
use crate::kernels::nearest::{Nearest, TILE, nearest, pack_tile, scores};
use crate::kernels::squared_l2;
use crate::rng::{ChaCha8Rng, RngExt, stream};

/// Stream of the seed that draws centroids.
const STREAM: u64 = 0x6b6d;
/// Centroids per refresh at most.
const BATCH: usize = 12;
/// Refusals in a row before the bound is refreshed, or found to be rounding alone.
const PATIENCE: usize = 64;
/// Points that judge greedy draws: at least this many, and this many per centroid.
const JURY: usize = 2048;
const JURY_PER_CENTROID: usize = 64;

/// Draws per step that keep the seeding about as good as more would: 2 + ln k.
pub(super) fn greedy_trials(k: usize) -> usize {
    2 + (k as f64).ln() as usize
}

/// Draws up to `k` different points as centroids, each the best of `trials`: fewer, if fewer distinct points carry weight.
pub(super) fn plus_plus(points: &Points<'_>, k: usize, trials: usize, seed: u64) -> Vec<usize> {
    let mut rng = stream(seed, STREAM);
    let first = Wheel::new((0..points.n).map(|i| f64::from(points.weight(i)))).draw(&mut rng);
    let mut chosen = vec![first];
    let mut jury = (trials > 1 && k > 1).then(|| Jury::new(points, k, first));
    let mut bound = vec![f32::INFINITY; points.n];
    let mut refreshed = 0;
    while chosen.len() < k {
        refresh(points, &chosen[refreshed..], &mut bound);
        refreshed = chosen.len();
        let wheel = Wheel::weighted(points, &bound);
        // The first centroids change the law most: refresh after 1, 2, 4, 8, then every BATCH.
        let target = k.min(refreshed + refreshed.min(BATCH));
        while chosen.len() < target {
            let draws: Vec<usize> = (0..trials)
                .map_while(|_| propose(points, &wheel, &bound, &chosen, &mut rng))
                .collect();
            if draws.is_empty() {
                break;
            }
            chosen.push(pick(&mut jury, points, draws));
        }
        if chosen.len() == refreshed {
            // Nothing was accepted against a fresh bound: what is left of it may be rounding. Go on with direct distances.
            exhaustive(points, k, trials, &mut jury, &mut chosen, &mut rng);
            break;
        }
    }
    chosen
}

/// Cumulative sums to draw an index from.
struct Wheel(Vec<f64>);

impl Wheel {
    fn new(values: impl Iterator<Item = f64>) -> Self {
        let sums = values.scan(0.0, |sum, v| {
            *sum += v;
            Some(*sum)
        });
        Self(sums.collect())
    }

    fn weighted(points: &Points<'_>, d2: &[f32]) -> Self {
        let values = d2.iter().enumerate();
        Self::new(values.map(|(i, d2)| f64::from(points.weight(i)) * f64::from(*d2)))
    }

    fn total(&self) -> f64 {
        self.0.last().copied().unwrap_or(0.0)
    }

    /// An index with probability proportional to its value; values of zero are never drawn.
    fn draw(&self, rng: &mut ChaCha8Rng) -> usize {
        let u = rng.random::<f64>() * self.total();
        self.0.partition_point(|s| *s <= u).min(self.0.len() - 1)
    }
}

/// Draws from the wheel until a point is accepted.
fn propose(
    points: &Points<'_>,
    wheel: &Wheel,
    bound: &[f32],
    chosen: &[usize],
    rng: &mut ChaCha8Rng,
) -> Option<usize> {
    if wheel.total() <= 0.0 {
        return None;
    }
    for _ in 0..PATIENCE {
        let i = wheel.draw(rng);
        let d2 = chosen
            .iter()
            .map(|&c| squared_l2(points.row(i), points.row(c)))
            .fold(f32::INFINITY, f32::min);
        if rng.random::<f64>() * f64::from(bound[i]) < f64::from(d2) {
            return Some(i);
        }
    }
    None
}

/// Lowers the upper bounds of D² by the centroids `new`.
fn refresh(points: &Points<'_>, new: &[usize], bound: &mut [f32]) {
    let rows: Vec<f32> = new.iter().flat_map(|&c| points.row(c)).copied().collect();
    let half = half_norms(&rows, points.d);
    let max_norm = new.iter().map(|&c| points.norms[c]).fold(0.0, f32::max);
    let part = points.part();
    parallel(
        bound.chunks_mut(part).enumerate().collect(),
        |(p, bound): (usize, &mut [f32])| {
            let mut out = Nearest::default();
            for (t, bound) in bound.chunks_mut(TILE).enumerate() {
                let tile = p * part / TILE + t;
                nearest(&rows, &half, points.d, points.tile(tile), &mut out);
                for (lane, b) in bound.iter_mut().enumerate() {
                    let i = tile * TILE + lane;
                    let d2 = points.squared_distance(i, out.best[lane]) + points.error_bound(i, max_norm);
                    *b = b.min(d2.max(0.0));
                }
            }
        },
    );
}

/// One pass of direct distances per centroid: zero for duplicates, exactly.
fn exhaustive(
    points: &Points<'_>,
    k: usize,
    trials: usize,
    jury: &mut Option<Jury>,
    chosen: &mut Vec<usize>,
    rng: &mut ChaCha8Rng,
) {
    let mut d2 = vec![f32::INFINITY; points.n];
    let mut done = 0;
    while chosen.len() < k {
        let new = &chosen[done..];
        let part = points.part();
        parallel(
            d2.chunks_mut(part).enumerate().collect(),
            |(p, d2): (usize, &mut [f32])| {
                for (r, d2) in d2.iter_mut().enumerate() {
                    let x = points.row(p * part + r);
                    for &c in new {
                        *d2 = d2.min(squared_l2(x, points.row(c)));
                    }
                }
            },
        );
        done = chosen.len();
        let wheel = Wheel::weighted(points, &d2);
        if wheel.total() <= 0.0 {
            break;
        }
        let draws = (0..trials).map(|_| wheel.draw(rng)).collect();
        chosen.push(pick(jury, points, draws));
    }
}

/// The best of `draws`, which is not empty.
fn pick(jury: &mut Option<Jury>, points: &Points<'_>, draws: Vec<usize>) -> usize {
    match jury {
        Some(jury) => jury.pick(points, &draws),
        None => draws[0],
    }
}

/// Evenly spaced points (all of them, if they are few) that tell which draw lowers the error most.
struct Jury {
    tiles: Vec<f32>,
    members: Vec<usize>,
    /// Squared distance of each member to its nearest centroid so far.
    d2: Vec<f32>,
    d: usize,
}

impl Jury {
    fn new(points: &Points<'_>, k: usize, first: usize) -> Self {
        let size = JURY.max(JURY_PER_CENTROID * k).min(points.n);
        let members: Vec<usize> = (0..size).map(|m| m * points.n / size).collect();
        let d = points.d;
        let mut tiles = vec![0.0; size.div_ceil(TILE) * TILE * d];
        for (tile, members) in tiles.chunks_exact_mut(TILE * d).zip(members.chunks(TILE)) {
            pack_tile(members.iter().map(|&i| points.row(i)), d, tile);
        }
        let mut jury = Self {
            tiles,
            d2: vec![f32::INFINITY; size],
            members,
            d,
        };
        jury.pick(points, &[first]);
        jury
    }

    /// The draw after which the weighted error is smallest, the first among equals; it becomes a centroid.
    fn pick(&mut self, points: &Points<'_>, draws: &[usize]) -> usize {
        let rows: Vec<f32> = draws.iter().flat_map(|&c| points.row(c)).copied().collect();
        let half = half_norms(&rows, self.d);
        let mut block = vec![0.0f32; draws.len() * TILE];
        let mut after = vec![vec![0.0f32; self.members.len()]; draws.len()];
        for (t, tile) in self.tiles.chunks_exact(TILE * self.d).enumerate() {
            scores(&rows, &half, self.d, tile, &mut block);
            for (after, scores) in after.iter_mut().zip(block.chunks_exact(TILE)) {
                let members = t * TILE..self.members.len().min((t + 1) * TILE);
                for (m, score) in members.zip(scores) {
                    let d2 = points.squared_distance(self.members[m], *score);
                    after[m] = self.d2[m].min(d2.max(0.0));
                }
            }
        }
        let error = |after: &Vec<f32>| -> f64 {
            let weighted = after.iter().zip(&self.members);
            weighted
                .map(|(d2, &i)| f64::from(points.weight(i)) * f64::from(*d2))
                .sum()
        };
        let errors: Vec<f64> = after.iter().map(error).collect();
        let best = (0..draws.len())
            .min_by(|&a, &b| errors[a].total_cmp(&errors[b]))
            .unwrap_or(0);
        self.d2 = after.swap_remove(best);
        draws[best]
    }
}
