//! Nearest of `k` centroids for a tile of points: a matrix product that is reduced before it leaves the registers.
//!
//! Points lie across the lanes, so the best and the runner-up of each need no horizontal step. The score is
//! t = x·c − ‖c‖²/2, the largest of which is the nearest centroid (‖x − c‖² = ‖x‖² − 2t). Each product is one sum over the
//! dimension in order: the same point gives the same bits in any tile.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "one contract for the module, stated in `lanes`"
)]
#![allow(
    clippy::needless_range_loop,
    reason = "the same index walks several register arrays"
)]

use super::aligned::Aligned;
#[cfg(target_arch = "x86_64")]
use super::lanes::Lanes;
use super::tier::table;

/// Points per tile: with 256 dimensions a tile stays in the first cache level.
pub const TILE: usize = 32;

/// The two best scores of each point of a tile.
pub struct Nearest {
    /// Largest score.
    pub best: [f32; TILE],
    /// Second-largest score, −∞ with one centroid.
    pub second: [f32; TILE],
    /// Centroid of the largest score, the lowest among equals. In single precision, exact below 2²⁴.
    index: [f32; TILE],
}

impl Nearest {
    /// Centroid of the largest score of each point, the lowest among equals.
    #[must_use]
    pub fn indices(&self) -> [u32; TILE] {
        self.index.map(|i| i as u32)
    }

    /// Centroid of the largest score of the point in `lane`.
    #[must_use]
    pub fn label(&self, lane: usize) -> u32 {
        self.index[lane] as u32
    }

    /// Starts lane `lane` again with the `scores` of all centroids.
    pub(super) fn settle(&mut self, lane: usize, scores: &[f32]) {
        let (mut best, mut second, mut index) = (f32::NEG_INFINITY, f32::NEG_INFINITY, 0);
        for (c, t) in scores.iter().enumerate() {
            second = second.max(t.min(best));
            if *t > best {
                (best, index) = (*t, c);
            }
        }
        (self.best[lane], self.second[lane], self.index[lane]) = (best, second, index as f32);
    }
}

impl Default for Nearest {
    fn default() -> Self {
        Self {
            best: [f32::NEG_INFINITY; TILE],
            second: [f32::NEG_INFINITY; TILE],
            index: [0.0; TILE],
        }
    }
}

/// Packs rows (each of length `d`) into the lanes of `tile` (d, [`TILE`]); lanes without a row become zero.
pub fn pack_tile<'a>(rows: impl ExactSizeIterator<Item = &'a [f32]> + Clone, d: usize, tile: &mut [f32]) {
    assert!(
        rows.len() <= TILE && tile.len() == d * TILE,
        "pack_tile: at most {TILE} rows, tile (d, {TILE})"
    );
    if rows.len() < TILE {
        tile.fill(0.0);
    }
    // Sixteen columns at a time: what is written stays in the first cache level until its lines are full.
    for first in (0..d).step_by(16) {
        let last = d.min(first + 16);
        let block = &mut tile[first * TILE..last * TILE];
        for (lane, row) in rows.clone().enumerate() {
            for (j, v) in row[first..last].iter().enumerate() {
                block[j * TILE + lane] = *v;
            }
        }
    }
}

/// Centroids per block at most: with two registers of points each they fill the registers of AVX-512.
const BLOCK: usize = 12;

/// Centroids packed for scans: in blocks, evenly filled so that none is too narrow to hide latency, each (d, width), so that
/// one address serves a whole step of the product.
#[derive(Clone, Debug)]
pub struct Sites {
    data: Aligned,
    /// ‖c‖²/2, rounded once.
    pub(super) half_norms: Vec<f32>,
    pub(super) d: usize,
}

/// (first centroid, width) of each block.
#[inline(always)]
fn blocks(k: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = k.div_ceil(BLOCK);
    let (width, wider) = (
        k.checked_div(count).unwrap_or(0),
        k.checked_rem(count).unwrap_or(0),
    );
    (0..count).map(move |b| (b * width + b.min(wider), width + usize::from(b < wider)))
}

/// ‖c‖²/2 of each row, rounded once.
#[must_use]
pub fn half_norms(rows: &[f32], d: usize) -> Vec<f32> {
    let half = |row: &[f32]| {
        let mut sums = [0.0f64; 8];
        let (eights, rest) = row.as_chunks::<8>();
        for eight in eights {
            for (s, v) in sums.iter_mut().zip(eight) {
                *s += f64::from(*v) * f64::from(*v);
            }
        }
        let rest: f64 = rest.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
        (0.5 * (sums.into_iter().sum::<f64>() + rest)) as f32
    };
    rows.chunks_exact(d).map(half).collect()
}

/// Upper bound of the norms of rows with these [`half_norms`].
#[must_use]
pub fn max_norm(half_norms: &[f32]) -> f32 {
    (2.0 * half_norms.iter().copied().fold(0.0, f32::max)).sqrt() * (1.0 + 4.0 * f32::EPSILON)
}

impl Sites {
    /// Packs `rows` (k, d).
    #[must_use]
    pub fn pack(rows: &[f32], d: usize) -> Self {
        assert!(
            d > 0 && rows.len().is_multiple_of(d),
            "sites: expected rows (k, d)"
        );
        let k = rows.len() / d;
        assert!(k < 1 << 24, "sites: too many centroids");
        let mut data = Aligned::zeros(k * d);
        for (first, width) in blocks(k) {
            let block = &mut data[first * d..(first + width) * d];
            for (r, row) in rows[first * d..].chunks_exact(d).take(width).enumerate() {
                for (line, v) in block.chunks_exact_mut(width).zip(row) {
                    line[r] = *v;
                }
            }
        }
        Self {
            data,
            half_norms: half_norms(rows, d),
            d,
        }
    }

    /// Number of centroids.
    #[must_use]
    pub fn len(&self) -> usize {
        self.half_norms.len()
    }

    /// No centroids.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.half_norms.is_empty()
    }

    /// Scores of the centroids for each point of `tile` (d, [`TILE`]): [`TILE`] numbers every `stride` of `out`, for each centroid.
    pub fn scores(&self, tile: &[f32], out: &mut [f32], stride: usize) {
        assert!(
            tile.len() == self.d * TILE && fits(self.len(), out, stride),
            "scores: expected tile (d, {TILE}), out (k, stride)"
        );
        // SAFETY: the table is this processor's, the lengths agree.
        unsafe { (table().scores)(self, tile, out, stride) };
    }

    /// The two best centroids for each point of `tile` (d, [`TILE`]).
    pub fn nearest(&self, tile: &[f32], out: &mut Nearest) {
        assert!(tile.len() == self.d * TILE, "nearest: expected tile (d, {TILE})");
        *out = Nearest::default();
        // SAFETY: the table is this processor's, the lengths agree.
        unsafe { (table().nearest)(self, tile, out) };
    }
}

/// Whether `out` has room for scores of `k` centroids, `stride` apart.
pub(super) fn fits(k: usize, out: &[f32], stride: usize) -> bool {
    stride >= TILE
        && k.checked_sub(1)
            .is_none_or(|last| out.len() >= last * stride + TILE)
}

/// Sums += w·x, in double precision.
pub fn accumulate(w: f64, x: &[f32], sums: &mut [f64]) {
    assert_eq!(x.len(), sums.len(), "accumulate: lengths differ");
    // SAFETY: the table is this processor's, the lengths agree.
    unsafe { (table().accumulate)(w, x, sums) };
}

/// Σ w·min(d2, ‖x‖² − 2·score) over points in tiles: the error that is left with one more centroid. Each lane is summed up in
/// single precision: a call should have few tiles.
#[must_use]
pub fn judge(scores: &[f32], norms2: &[f32], d2: &[f32], weights: &[f32]) -> f64 {
    let n = norms2.len();
    assert!(
        n.is_multiple_of(TILE) && scores.len() == n && d2.len() == n && weights.len() == n,
        "judge: expected whole tiles"
    );
    // SAFETY: the table is this processor's, the lengths agree.
    let sums = unsafe { (table().judge)(scores, norms2, d2, weights) };
    let mut total = [0.0f64; 8];
    for eight in sums.as_chunks::<8>().0 {
        for (t, s) in total.iter_mut().zip(eight) {
            *t += f64::from(*s);
        }
    }
    total.into_iter().sum()
}

/// The reference of [`judge`], lane by lane; inlined into each tier, whose registers it then uses.
#[inline(always)]
pub(super) fn judge_in_order(scores: &[f32], norms2: &[f32], d2: &[f32], weights: &[f32]) -> [f32; TILE] {
    let mut sums = [0.0f32; TILE];
    // Arrays, whose length is known: whole registers and no checks.
    let tiles = norms2.as_chunks::<TILE>().0.iter().zip(d2.as_chunks::<TILE>().0);
    let more = weights
        .as_chunks::<TILE>()
        .0
        .iter()
        .zip(scores.as_chunks::<TILE>().0);
    for ((norms2, d2), (weights, scores)) in tiles.zip(more) {
        for l in 0..TILE {
            sums[l] += weights[l] * lowered(norms2[l], scores[l], d2[l]);
        }
    }
    sums
}

/// The squared distance of a point with a further centroid.
#[inline(always)]
#[must_use]
pub fn lowered(norm2: f32, score: f32, d2: f32) -> f32 {
    let to_new = norm2 - 2.0 * score;
    let to_new = if to_new > 0.0 { to_new } else { 0.0 };
    if to_new < d2 { to_new } else { d2 }
}

/// The reference of [`accumulate`]; inlined into each tier, whose registers it then uses.
#[inline(always)]
pub(super) fn accumulate_in_order(w: f64, x: &[f32], sums: &mut [f64]) {
    for (s, v) in sums.iter_mut().zip(x) {
        *s += w * f64::from(*v);
    }
}

/// What becomes of the scores of a block.
#[cfg(target_arch = "x86_64")]
pub(super) trait Sink {
    /// Takes the scores of `R` centroids, the first of which is `first`, for the points at `lane ..`.
    unsafe fn take<V: Lanes, const R: usize>(&mut self, scores: [[V; 2]; R], first: usize, lane: usize);
}

/// Where scores go: those of each centroid `stride` after those before.
#[cfg(target_arch = "x86_64")]
pub(super) struct Lines<'a> {
    pub(super) out: &'a mut [f32],
    pub(super) stride: usize,
}

#[cfg(target_arch = "x86_64")]
impl Sink for Lines<'_> {
    #[inline(always)]
    unsafe fn take<V: Lanes, const R: usize>(&mut self, scores: [[V; 2]; R], first: usize, lane: usize) {
        for r in 0..R {
            let p = self.out.as_mut_ptr().add((first + r) * self.stride + lane);
            scores[r][0].store(p);
            scores[r][1].store(p.add(V::N));
        }
    }
}

#[cfg(target_arch = "x86_64")]
impl Sink for &mut Nearest {
    #[inline(always)]
    unsafe fn take<V: Lanes, const R: usize>(&mut self, scores: [[V; 2]; R], first: usize, lane: usize) {
        for w in 0..2 {
            let at = lane + w * V::N;
            let mut best = V::load(self.best.as_ptr().add(at));
            let mut second = V::load(self.second.as_ptr().add(at));
            let mut pick = V::load(self.index.as_ptr().add(at));
            for r in 0..R {
                let t = scores[r][w];
                second = second.max(t.min(best));
                pick = t.pick(best, V::splat((first + r) as f32), pick);
                best = best.max(t);
            }
            best.store(self.best.as_mut_ptr().add(at));
            second.store(self.second.as_mut_ptr().add(at));
            pick.store(self.index.as_mut_ptr().add(at));
        }
    }
}

/// Scores of `R` centroids of a block of `width` for two registers of points. What lies at `ahead` is fetched meanwhile.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn block<V: Lanes, const R: usize>(
    sites: *const f32,
    width: usize,
    half_norms: *const f32,
    d: usize,
    points: *const f32,
    ahead: *const f32,
    step: usize,
) -> [[V; 2]; R] {
    let mut acc = [[V::splat(0.0); 2]; R];
    let (mut c, mut p, mut ahead) = (sites, points, ahead);
    for _ in 0..d {
        let (x, y) = (V::load(p), V::load(p.add(V::N)));
        V::fetch(ahead);
        for r in 0..R {
            let v = V::splat(*c.add(r));
            acc[r][0] = x.fma(v, acc[r][0]);
            acc[r][1] = y.fma(v, acc[r][1]);
        }
        c = c.add(width);
        p = p.add(TILE);
        ahead = ahead.wrapping_add(step);
    }
    for r in 0..R {
        let half = V::splat(*half_norms.add(r));
        acc[r][0] = acc[r][0].sub(half);
        acc[r][1] = acc[r][1].sub(half);
    }
    acc
}

/// Scores of all centroids for a tile.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn scan<V: Lanes>(sites: &Sites, tile: &[f32], mut sink: impl Sink) {
    let (d, k) = (sites.d, sites.len());
    // Half of a block where there are half as many registers.
    let most = if V::WIDE { BLOCK } else { BLOCK / 2 };
    // Tiles mostly follow one another in memory: the first blocks fetch the next one, half of it each, where there are two.
    let step = if k > most || TILE > 2 * V::N { 16 } else { 32 };
    let mut ahead = tile.as_ptr().wrapping_add(TILE * d);
    for lane in (0..TILE).step_by(2 * V::N) {
        let points = tile.as_ptr().add(lane);
        for (first, width) in blocks(k) {
            let mut done = 0;
            while done < width {
                let r = most.min((width - done).min(width.div_ceil(width.div_ceil(most))));
                let at = first + done;
                let c = sites.data.as_ptr().add(first * d + done);
                let half = sites.half_norms.as_ptr().add(at);
                macro_rules! widths {
                    ($($r:literal)*) => {
                        match r {
                            $($r => sink.take::<V, $r>(block(c, width, half, d, points, ahead, step), at, lane),)*
                            _ => unreachable!("blocks are at most 12 wide"),
                        }
                    };
                }
                widths!(1 2 3 4 5 6 7 8 9 10 11 12);
                done += r;
                ahead = ahead.wrapping_add(d * step);
                if ahead >= tile.as_ptr().wrapping_add(2 * TILE * d) {
                    ahead = points;
                }
            }
        }
    }
}

/// [`Sites::nearest`] in one tier.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn nearest_in<V: Lanes>(sites: &Sites, tile: &[f32], out: &mut Nearest) {
    scan::<V>(sites, tile, out);
}

/// [`Sites::scores`] in one tier.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn scores_in<V: Lanes>(sites: &Sites, tile: &[f32], out: &mut [f32], stride: usize) {
    scan::<V>(sites, tile, Lines { out, stride });
}

/// The reference of [`Sites::nearest`].
pub(super) fn nearest_scalar(sites: &Sites, tile: &[f32], out: &mut Nearest) {
    let mut all = vec![0.0f32; sites.len() * TILE];
    scores_scalar(sites, tile, &mut all, TILE);
    let mut scores = vec![0.0; sites.len()];
    for p in 0..TILE {
        for (score, line) in scores.iter_mut().zip(all.chunks_exact(TILE)) {
            *score = line[p];
        }
        out.settle(p, &scores);
    }
}

/// The reference of [`Sites::scores`].
pub(super) fn scores_scalar(sites: &Sites, tile: &[f32], out: &mut [f32], stride: usize) {
    let d = sites.d;
    for (first, width) in blocks(sites.len()) {
        let block = &sites.data[first * d..(first + width) * d];
        let lines = || (first..first + width).map(|c| c * stride..c * stride + TILE);
        lines().for_each(|line| out[line].fill(0.0));
        for (line, points) in block.chunks_exact(width).zip(tile.chunks_exact(TILE)) {
            for (to, c) in lines().zip(line) {
                super::scalar::axpy(*c, points, &mut out[to]);
            }
        }
    }
    for (line, half) in out.chunks_mut(stride).zip(&sites.half_norms) {
        line[..TILE].iter_mut().for_each(|t| *t -= half);
    }
}

#[cfg(test)]
#[path = "nearest_tests.rs"]
mod tests;
