//! D² seeding (Arthur & Vassilvitskii 2007, "k-means++: the advantages of careful seeding", algorithm 1), weighted, and its
//! greedy form (their section 5): the best of several draws at each step.
//!
//! The law is exact, the passes over the data are few: distances are refreshed for several new centroids in one scan. In
//! between, points are drawn from the last refresh, an upper bound of w·D², and accepted with probability D² / bound. D² only
//! falls, so draws can be made, and refused, for several steps ahead: one product judges them all.

use super::points::{Points, Targets};
use super::scanner::Scanner;
use crate::kernels::nearest::{Nearest, TILE, judge, lowered};
use crate::kernels::{Aligned, squared_l2};
use crate::rng::{ChaCha8Rng, RngExt, stream};

/// Stream of the seed that draws centroids.
const STREAM: u64 = 0x6b6d;
/// Draws are made for so many times the steps that the ones before lasted for: where the law changes fast, for few.
const AHEAD: usize = 4;
/// Steps that draws are made ahead for at most.
const BATCH: usize = 24;
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
    let mut heard_at = 0;
    let mut pool: Vec<Draw> = Vec::new();
    let mut ahead = AHEAD;
    while chosen.len() < k {
        refresh(points, &chosen[refreshed..], &mut bound);
        refreshed = chosen.len();
        let wheel = Wheel::weighted(points, &bound);
        let (mut refused, mut accepted) = (0, 0);
        while chosen.len() < k {
            if pool.len() < trials {
                let since = chosen.len() - refreshed;
                let left = k - chosen.len();
                // A refresh pays once most draws are refused, or their distances to the new centroids cost as much.
                if since > 0 && (refused > accepted || trials * since * since.min(left) > points.n) {
                    break;
                }
                // One step more, because some draws will be refused.
                let wanted = trials * (ahead.min(left) + 1);
                while pool.len() < wanted {
                    let Some(draw) =
                        propose(points, &wheel, &bound, &chosen, refreshed, &mut rng, &mut refused)
                    else {
                        break;
                    };
                    accepted += 1;
                    pool.push(draw);
                }
                if pool.len() < trials && (since > 0 || pool.is_empty()) {
                    break;
                }
                heard_at = chosen.len();
                if let Some(jury) = &mut jury {
                    let drawn: Vec<usize> = pool.iter().map(|draw| draw.point).collect();
                    jury.hear(points, &drawn);
                    pool.iter_mut()
                        .enumerate()
                        .for_each(|(place, draw)| draw.place = place);
                }
            }
            let step: Vec<Draw> = pool.drain(..trials.min(pool.len())).collect();
            let best = match &mut jury {
                Some(jury) => {
                    let own = |draw: &Draw| {
                        f64::from(points.weight(draw.point)) * f64::from(bound[draw.point].min(draw.d2))
                    };
                    let step: Vec<(usize, f64)> = step.iter().map(|draw| (draw.place, own(draw))).collect();
                    jury.pick(points, &step)
                }
                None => 0,
            };
            let new = step[best].point;
            chosen.push(new);
            pool.retain_mut(|draw| draw.stands(points, new));
            ahead = (AHEAD * (chosen.len() - heard_at)).min(BATCH);
        }
        if chosen.len() == refreshed && pool.is_empty() {
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

/// A point that was accepted, and is again after each further centroid as long as D² exceeds the same random bar.
struct Draw {
    point: usize,
    bar: f64,
    d2: f32,
    /// Among those that the jury heard.
    place: usize,
}

impl Draw {
    /// It is still accepted with the centroid `new`.
    fn stands(&mut self, points: &Points<'_>, new: usize) -> bool {
        self.d2 = self.d2.min(squared_l2(points.row(self.point), points.row(new)));
        self.bar < f64::from(self.d2)
    }
}

/// Draws from the wheel until a point is accepted. The bound holds the centroids up to `refreshed`.
fn propose(
    points: &Points<'_>,
    wheel: &Wheel,
    bound: &[f32],
    chosen: &[usize],
    refreshed: usize,
    rng: &mut ChaCha8Rng,
    refused: &mut usize,
) -> Option<Draw> {
    if wheel.total() <= 0.0 {
        return None;
    }
    let max_norm = chosen.iter().map(|&c| points.norms[c]).fold(0.0, f32::max);
    (0..PATIENCE).find_map(|_| {
        let point = wheel.draw(rng);
        let mut draw = Draw {
            point,
            bar: rng.random::<f64>() * f64::from(bound[point]),
            d2: f32::INFINITY,
            place: 0,
        };
        // The bound is D² but for rounding: mostly the bar lies so far below it that no distance needs to be computed.
        let sure = f64::from(bound[point] - 4.0 * points.scan_error(point, max_norm));
        let from = if draw.bar < sure { refreshed } else { 0 };
        let stands = chosen[from..].iter().all(|&c| draw.stands(points, c));
        *refused += usize::from(!stands);
        stands.then_some(draw)
    })
}

/// Lowers the upper bounds of D² by the centroids `new`.
fn refresh(points: &Points<'_>, new: &[usize], bound: &mut [f32]) {
    let targets = points.targets(points.gathered(new));
    let part = points.part();
    points.team.run(
        bound.chunks_mut(part).enumerate().collect(),
        |(p, bound): (usize, &mut [f32])| {
            let scanner = Scanner::new(points, &targets);
            let mut out = Nearest::default();
            for (t, bound) in bound.chunks_mut(TILE).enumerate() {
                let tile = p * part / TILE + t;
                scanner.roughly(points.tile(tile), &mut out);
                for (lane, b) in bound.iter_mut().enumerate() {
                    let i = tile * TILE + lane;
                    let d2 =
                        points.squared_distance(i, out.best[lane]) + points.scan_error(i, targets.max_norm);
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
        points.team.run(
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
        let draws: Vec<usize> = (0..trials).map(|_| wheel.draw(rng)).collect();
        let best = match jury {
            Some(jury) => {
                jury.hear(points, &draws);
                let own = |&i: &usize| f64::from(points.weight(i)) * f64::from(d2[i]);
                let step: Vec<(usize, f64)> = draws.iter().map(own).enumerate().collect();
                jury.pick(points, &step)
            }
            None => 0,
        };
        chosen.push(draws[best]);
    }
}

/// Evenly spaced points (all of them, if they are few) that tell which draw lowers the error most.
struct Jury {
    /// One for each thread.
    benches: Vec<Bench>,
    heard: usize,
    /// The draw that was picked last, if it has not lowered the distances yet.
    picked: Option<usize>,
    /// Its part of all points.
    share: f64,
    /// Its error with the centroids so far.
    left: f64,
}

/// Part of the jury: whole rows of [`COUNTED`] tiles, but for the last.
#[derive(Default)]
struct Bench {
    tiles: Aligned,
    /// Of each lane, zero beyond the last member.
    weights: Vec<f32>,
    norms2: Vec<f32>,
    /// Squared distance to the nearest centroid so far.
    d2: Vec<f32>,
    /// Scores of the draws heard: for each row of tiles (draws, lanes of the row).
    scores: Vec<f32>,
    /// Errors: (rows of tiles, draws judged).
    errors: Vec<f64>,
}

/// Tiles whose error is summed up in single precision; what is summed up does not depend on the number of threads.
const COUNTED: usize = 8;
/// Points of a row of tiles.
const ROW: usize = COUNTED * TILE;

impl Jury {
    fn new(points: &Points<'_>, k: usize, first: usize) -> Self {
        let size = JURY.max(JURY_PER_CENTROID * k).min(points.n);
        let members: Vec<usize> = (0..size).map(|m| m * points.n / size).collect();
        let share = size.div_ceil(COUNTED * TILE).div_ceil(points.team.size());
        let shares = members.chunks(share * COUNTED * TILE);
        let mut benches: Vec<Bench> = shares.clone().map(|_| Bench::default()).collect();
        points.team.run(
            benches.iter_mut().zip(shares).collect(),
            |(bench, members): (&mut Bench, &[usize])| bench.seat(points, members),
        );
        let mut jury = Self {
            benches,
            heard: 0,
            picked: None,
            share: size as f64 / points.n as f64,
            left: f64::INFINITY,
        };
        jury.hear(points, &[first]);
        jury.pick(points, &[(0, 0.0)]);
        jury
    }

    /// Scores `draws`; their places are their positions.
    fn hear(&mut self, points: &Points<'_>, draws: &[usize]) {
        let targets = points.targets(points.gathered(draws));
        let before = self.heard;
        let picked = self.picked.take();
        self.heard = draws.len();
        points
            .team
            .run(self.benches.iter_mut().collect(), |bench: &mut Bench| {
                if picked.is_some() {
                    bench.judge(before, picked, &[]);
                }
                bench.hear(points, &targets, draws.len());
            });
    }

    /// The first of `draws`, each a place and its own weighted error, after which the weighted error is smallest, as a position;
    /// it becomes a centroid. What a draw brings is at least its own error, which the jury may not see.
    fn pick(&mut self, points: &Points<'_>, draws: &[(usize, f64)]) -> usize {
        let heard = self.heard;
        let picked = self.picked.take();
        let places: Vec<usize> = draws.iter().map(|(place, _)| *place).collect();
        points
            .team
            .run(self.benches.iter_mut().collect(), |bench: &mut Bench| {
                bench.judge(heard, picked, &places);
            });
        let mut errors = vec![0.0; places.len()];
        for some in self
            .benches
            .iter()
            .flat_map(|b| b.errors.chunks_exact(places.len()))
        {
            errors.iter_mut().zip(some).for_each(|(e, s)| *e += s);
        }
        let brings = |position: usize| (self.left - errors[position]).max(self.share * draws[position].1);
        let best = (0..draws.len())
            .rev()
            .max_by(|&a, &b| brings(a).total_cmp(&brings(b)));
        let position = best.unwrap_or(0);
        self.left = errors[position];
        self.picked = Some(places[position]);
        position
    }
}

impl Bench {
    fn seat(&mut self, points: &Points<'_>, members: &[usize]) {
        let lanes = members.len().next_multiple_of(TILE);
        let tile_len = points.tile_len();
        self.tiles = Aligned::zeros(lanes / TILE * tile_len);
        for (tile, members) in self.tiles.chunks_exact_mut(tile_len).zip(members.chunks(TILE)) {
            points.pack(members.iter().map(|&i| points.row(i)), tile);
        }
        let lane = |of: &dyn Fn(usize) -> f32| {
            let mut values: Vec<f32> = members.iter().map(|&i| of(i)).collect();
            values.resize(lanes, 0.0);
            values
        };
        self.weights = lane(&|i| points.weight(i));
        self.norms2 = lane(&|i| points.norms2[i]);
        self.d2 = vec![f32::INFINITY; lanes];
    }

    fn hear(&mut self, points: &Points<'_>, targets: &Targets, heard: usize) {
        let needed = self.weights.len() * heard;
        if self.scores.len() < needed {
            self.scores = vec![0.0; needed];
        }
        let scanner = Scanner::new(points, targets);
        let tile_len = points.tile_len();
        let rows = self.scores[..needed].chunks_mut(ROW * heard);
        for (tiles, scores) in self.tiles.chunks(COUNTED * tile_len).zip(rows) {
            let lanes = scores.len() / heard;
            for (t, tile) in tiles.chunks_exact(tile_len).enumerate() {
                scanner.scores(tile, &mut scores[t * TILE..], lanes);
            }
        }
    }

    /// Errors that are left with the draw at each of `places`, once the one `picked` is a centroid.
    fn judge(&mut self, heard: usize, picked: Option<usize>, places: &[usize]) {
        self.errors.clear();
        let rows = self.norms2.chunks(ROW).zip(self.d2.chunks_mut(ROW));
        let rows = rows.zip(self.weights.chunks(ROW));
        for (((norms2, d2), weights), scores) in rows.zip(self.scores.chunks(ROW * heard)) {
            let of = |place: usize| &scores[place * norms2.len()..][..norms2.len()];
            if let Some(place) = picked {
                let new = norms2.iter().zip(of(place));
                d2.iter_mut()
                    .zip(new)
                    .for_each(|(d2, (norm2, score))| *d2 = lowered(*norm2, *score, *d2));
            }
            let judged = places.iter().map(|&place| judge(of(place), norms2, d2, weights));
            self.errors.extend(judged);
        }
    }
}
