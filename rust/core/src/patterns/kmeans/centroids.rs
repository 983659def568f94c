//! Centroids as running sums over their members: only points that change cluster are added and subtracted.

use super::points::{Points, Targets};
use crate::kernels::nearest::accumulate;
use crate::kernels::squared_l2;

/// Label of a point that belongs to no cluster yet.
pub(super) const NONE: u32 = u32::MAX;

/// Values to add below which a round of threads costs more than it brings.
const ALONE: usize = 1 << 16;
/// The same for values of centroids.
const ALONE_CENTROIDS: usize = 1 << 12;

/// Sums of the columns `first ..` of all clusters. Each thread owns its columns, so the order of additions does not depend
/// on the number of threads.
struct Columns {
    first: usize,
    width: usize,
    sums: Vec<f64>,
}

pub(super) struct Centroids {
    pub(super) k: usize,
    d: usize,
    /// (k, d), in the space of [`Points`].
    pub(super) rows: Vec<f32>,
    /// The same, packed for scans.
    pub(super) targets: Targets,
    /// How far each centroid moved in the last update, rounded up.
    pub(super) moves: Vec<f32>,
    /// The label that the sums hold for each point.
    counted: Vec<u32>,
    columns: Vec<Columns>,
    mass: Vec<f64>,
    /// Members of positive weight.
    members: Vec<u32>,
    spherical: bool,
}

impl Centroids {
    /// Starts at `rows` (k, d), with no members.
    pub(super) fn new(points: &Points<'_>, rows: Vec<f32>, spherical: bool) -> Self {
        let d = points.d;
        let k = rows.len() / d;
        let width = d.div_ceil(points.team.size());
        Self {
            k,
            d,
            targets: points.targets(rows.clone()),
            rows,
            moves: vec![0.0; k],
            counted: vec![NONE; points.n],
            columns: (0..d)
                .step_by(width)
                .map(|first| {
                    let width = width.min(d - first);
                    Columns {
                        first,
                        width,
                        sums: vec![0.0; k * width],
                    }
                })
                .collect(),
            mass: vec![0.0; k],
            members: vec![0; k],
            spherical,
        }
    }

    pub(super) fn row(&self, c: usize) -> &[f32] {
        &self.rows[c * self.d..(c + 1) * self.d]
    }

    /// Moves every centroid to the mean of its members, re-seeding empty clusters first; `changed` are the points whose label is
    /// new. `labels` changes where a point seeds an empty cluster; those points are returned. Returns the largest move too.
    pub(super) fn update(
        &mut self,
        points: &Points<'_>,
        labels: &mut [u32],
        changed: &[usize],
    ) -> (f32, Vec<usize>) {
        self.recount(points, labels, changed);
        let seeded = self.reseed(points, labels);
        self.recount(points, labels, &seeded);
        (self.recompute(points), seeded)
    }

    /// Adds the points from `first` on that are not counted where `labels` has them to `found`, ascending.
    pub(super) fn changed(&self, first: usize, labels: &[u32], found: &mut Vec<usize>) {
        let counted = &self.counted[first..];
        let new = labels.iter().zip(counted).enumerate();
        found.extend(new.filter(|(_, (l, c))| l != c).map(|(r, _)| first + r));
    }

    /// Brings sums, mass and member counts up to date for the points `changed`.
    fn recount(&mut self, points: &Points<'_>, labels: &[u32], changed: &[usize]) {
        if changed.is_empty() {
            return;
        }
        let counted = &self.counted;
        let add_up = |part: &mut Columns| {
            for &i in changed {
                let x = &points.row(i)[part.first..part.first + part.width];
                let w = f64::from(points.weight(i));
                let mut add = |label: u32, w: f64| {
                    let at = label as usize * part.width;
                    accumulate(w, x, &mut part.sums[at..at + part.width]);
                };
                if counted[i] != NONE {
                    add(counted[i], -w);
                }
                add(labels[i], w);
            }
        };
        if changed.len() * self.d < ALONE {
            self.columns.iter_mut().for_each(add_up);
        } else {
            points.team.run(self.columns.iter_mut().collect(), add_up);
        }
        for &i in changed {
            let (old, new, w) = (self.counted[i], labels[i] as usize, points.weight(i));
            let one = u32::from(w > 0.0);
            if old != NONE {
                self.mass[old as usize] -= f64::from(w);
                self.members[old as usize] -= one;
                if self.members[old as usize] == 0 {
                    self.clear(old as usize);
                }
            }
            self.mass[new] += f64::from(w);
            self.members[new] += one;
            self.counted[i] = labels[i];
        }
    }

    /// No member is left: what remains in the sums is rounding.
    fn clear(&mut self, c: usize) {
        self.mass[c] = 0.0;
        for part in &mut self.columns {
            part.sums[c * part.width..(c + 1) * part.width].fill(0.0);
        }
    }

    /// Gives each empty cluster the point of largest weighted error that is not the only member of its own.
    fn reseed(&self, points: &Points<'_>, labels: &mut [u32]) -> Vec<usize> {
        let empty: Vec<usize> = (0..self.k).filter(|&c| self.members[c] == 0).collect();
        if empty.is_empty() {
            return Vec::new();
        }
        let mut errors: Vec<(f32, usize)> = (0..points.n)
            .map(|i| {
                let d2 = squared_l2(points.row(i), self.row(labels[i] as usize));
                (points.weight(i) * d2, i)
            })
            .filter(|(e, _)| *e > 0.0)
            .collect();
        errors.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut left = self.members.clone();
        let mut seeded = Vec::new();
        let mut candidates = errors.into_iter();
        for c in empty {
            let Some((_, i)) = candidates.find(|(_, i)| left[labels[*i] as usize] > 1) else {
                break;
            };
            left[labels[i] as usize] -= 1;
            labels[i] = c as u32;
            seeded.push(i);
        }
        seeded
    }

    /// Centroids from sums; an empty cluster stays where it is. Returns the largest move.
    fn recompute(&mut self, points: &Points<'_>) -> f32 {
        let (d, spherical) = (self.d, self.spherical);
        let (columns, mass, members) = (&self.columns, &self.mass, &self.members);
        let part = if self.k * d < ALONE_CENTROIDS {
            self.k
        } else {
            self.k.div_ceil(points.team.size())
        };
        let parts = self.rows.chunks_mut(part * d).zip(self.moves.chunks_mut(part));
        points.team.run(
            parts.enumerate().collect(),
            |(p, (rows, moves)): (usize, (&mut [f32], &mut [f32]))| {
                let mut mean = vec![0.0f64; d];
                let clusters = rows.chunks_exact_mut(d).zip(moves).enumerate();
                for (c, (row, moved)) in clusters.map(|(r, cluster)| (p * part + r, cluster)) {
                    if members[c] == 0 {
                        *moved = 0.0;
                        continue;
                    }
                    for part in columns {
                        let sums = &part.sums[c * part.width..(c + 1) * part.width];
                        for (m, s) in mean[part.first..].iter_mut().zip(sums) {
                            *m = s / mass[c];
                        }
                    }
                    *moved = place(row, &mut mean, spherical);
                }
            },
        );
        self.placed(points);
        self.moves.iter().copied().fold(0.0, f32::max)
    }

    /// Puts centroid `c` at `target`; returns the distance.
    pub(super) fn place(&mut self, c: usize, target: &mut [f64]) -> f32 {
        place(
            &mut self.rows[c * self.d..(c + 1) * self.d],
            target,
            self.spherical,
        )
    }

    /// Must follow [`Centroids::place`].
    pub(super) fn placed(&mut self, points: &Points<'_>) {
        self.targets = points.targets(self.rows.clone());
    }
}

/// Puts a centroid at `target` (for spherical clusters, at its direction) and returns the distance, rounded up. A target without a
/// direction leaves it in place.
fn place(row: &mut [f32], target: &mut [f64], spherical: bool) -> f32 {
    if spherical {
        let norm = target.iter().map(|v| v * v).sum::<f64>().sqrt();
        if norm < 1e-12 {
            return 0.0;
        }
        target.iter_mut().for_each(|v| *v /= norm);
    }
    let step = |old: &mut f32, new: &f64| {
        let new = *new as f32;
        let step = f64::from(new) - f64::from(*old);
        *old = new;
        step * step
    };
    let mut moved = [0.0f64; 8];
    let (eights, rest) = row.as_chunks_mut::<8>();
    let (targets, last) = target.as_chunks::<8>();
    for (old, new) in eights.iter_mut().zip(targets) {
        for l in 0..8 {
            moved[l] += step(&mut old[l], &new[l]);
        }
    }
    let rest: f64 = rest.iter_mut().zip(last).map(|(old, new)| step(old, new)).sum();
    ((moved.into_iter().sum::<f64>() + rest).sqrt() * (1.0 + 1e-6)) as f32
}
