//! Scores of [`super::nearest`] on processors that multiply tables of bfloat16: a few times faster, with a bound on their error.
//!
//! x = h + m + rest, where h and m have 8 significant bits each. Of a product the three largest of the nine products of parts
//! are made, and sums are single precision: see [`error`]. Where the best two scores lie farther apart than that, the
//! best one is also the best of [`Sites`](super::nearest::Sites); elsewhere those must be asked.
//!
//! Points are packed 16 to a block of columns, in tiles of [`TILE`] points.

use super::aligned::Aligned;
use super::nearest::{Nearest, TILE, fits};
use super::split::{self, DEPTH, Engine, SIDE, TAME};

/// Floats that one group of 32 of the depth takes for 16 rows in two parts.
pub(super) const GROUP: usize = 2 * SIDE * SIDE;
/// Unit roundoff of `f32`.
const ROUNDOFF: f32 = f32::EPSILON / 2.0;

/// The kernels. Callers have checked lengths and hold an [`Engine`] for `nearest` and `scores`.
pub(super) struct CoarseTable {
    /// At most 16 rows of length d, to the columns of a tile.
    pub columns: unsafe fn(&[&[f32]], usize, *mut f32),
    /// At most 16 rows of length d, to rows.
    pub rows: unsafe fn(&[&[f32]], usize, *mut f32),
    pub nearest: unsafe fn(&Coarse, &[f32], &mut Nearest),
    pub scores: unsafe fn(&Coarse, &[f32], &mut [f32], usize),
}

fn table() -> Option<&'static CoarseTable> {
    #[cfg(target_arch = "x86_64")]
    if split::available::<f32>() {
        return Some(&super::coarse_tiles::TABLE);
    }
    None
}

/// Whether this processor and tier can.
#[must_use]
pub fn available() -> bool {
    table().is_some()
}

/// Whether rows of these squared norms can be cut in parts.
#[must_use]
pub fn tame(norms2: &[f32]) -> bool {
    norms2.iter().all(|n| *n < TAME * TAME)
}

/// Floats of a tile of points.
#[must_use]
pub fn tile_len(d: usize) -> usize {
    TILE * d.next_multiple_of(DEPTH)
}

/// Packs at most [`TILE`] [`tame`] rows of length `d`; lanes without a row become zero.
pub fn pack_points<'a>(rows: impl ExactSizeIterator<Item = &'a [f32]>, d: usize, tile: &mut [f32]) {
    assert!(
        rows.len() <= TILE && tile.len() == tile_len(d),
        "pack_points: at most {TILE} rows, a tile of tile_len(d)"
    );
    let rows: Vec<&[f32]> = rows.collect();
    assert!(rows.iter().all(|r| r.len() == d), "pack_points: rows of length d");
    let Some(table) = table() else { return };
    for (block, column) in tile.chunks_exact_mut(tile_len(d) / (TILE / SIDE)).enumerate() {
        let rows = &rows[rows.len().min(block * SIDE)..rows.len().min((block + 1) * SIDE)];
        // SAFETY: the table is this processor's; a column holds 16 rows of length d in two parts.
        unsafe { (table.columns)(rows, d, column.as_mut_ptr()) };
    }
}

/// Bound on the difference between a score from here and one of [`Sites`](super::nearest::Sites), for a point of norm `norm` and centroids of norm at
/// most `max_norm`.
///
/// A part is off by 2⁻⁸ of what it stands for, so the six products left out are below 3·2⁻¹⁶|x||c| in all. The table adds 3d
/// products and exact scores d, each sum rounded (Higham 2002, §3.1). Numbers below the normal ones count as zero.
#[must_use]
pub fn error(d: usize, norm: f32, max_norm: f32) -> f32 {
    const LEFT_OUT: f32 = 3.1 / 65536.0;
    let d = d.next_multiple_of(DEPTH) as f32;
    let tiny = 8.0 * d * f32::MIN_POSITIVE * (1.0 + norm + max_norm);
    (LEFT_OUT + (4.2 * d + 8.0) * ROUNDOFF) * norm * max_norm + 2.0 * ROUNDOFF * max_norm * max_norm + tiny
}

/// Centroids in two parts.
#[derive(Clone, Debug)]
pub struct Coarse {
    pub(super) data: Aligned,
    /// ‖c‖²/2, as in exact scores.
    pub(super) half_norms: Vec<f32>,
    pub(super) d: usize,
}

impl Coarse {
    /// Packs `rows` (k, d), which are [`tame`] and have these half norms. None without tables.
    #[must_use]
    pub fn pack(rows: &[f32], d: usize, half_norms: &[f32]) -> Option<Self> {
        let table = table()?;
        let k = half_norms.len();
        assert_eq!(rows.len(), k * d, "coarse: expected rows (k, d) and k half norms");
        let len = d.div_ceil(DEPTH) * GROUP;
        let mut data = Aligned::zeros(k.div_ceil(SIDE) * len);
        for (block, rows) in data.chunks_exact_mut(len).zip(rows.chunks(SIDE * d)) {
            let rows: Vec<&[f32]> = rows.chunks_exact(d).collect();
            // SAFETY: the table is this processor's; a block holds 16 rows of length d in two parts.
            unsafe { (table.rows)(&rows, d, block.as_mut_ptr()) };
        }
        Some(Self {
            data,
            half_norms: half_norms.to_vec(),
            d,
        })
    }

    /// The two best centroids for each point of `tile` by coarse scores.
    pub fn nearest(&self, _on: &Engine, tile: &[f32], out: &mut Nearest) {
        assert_eq!(tile.len(), tile_len(self.d), "coarse nearest: expected one tile");
        *out = Nearest::default();
        let Some(table) = table() else { return };
        // SAFETY: the table is this processor's, the lengths agree, the engine is set up.
        unsafe { (table.nearest)(self, tile, out) };
    }

    /// Coarse scores of the centroids for each point of `tile`: [`TILE`] numbers every `stride` of `out`, for each centroid.
    pub fn scores(&self, _on: &Engine, tile: &[f32], out: &mut [f32], stride: usize) {
        assert!(
            tile.len() == tile_len(self.d) && fits(self.half_norms.len(), out, stride),
            "coarse scores: expected one tile, out (k, stride)"
        );
        let Some(table) = table() else { return };
        // SAFETY: the table is this processor's, the lengths agree, the engine is set up.
        unsafe { (table.scores)(self, tile, out, stride) };
    }
}

#[cfg(test)]
mod tests {
    use super::super::nearest::{Sites, max_norm, pack_tile};
    use super::*;
    use crate::kernels::{Tier, dot, tier};
    use crate::rng;

    /// Rows of very different size, some numbers far below the normal ones, the first centroid again as the last.
    fn example(k: usize, d: usize) -> (Vec<f32>, Vec<f32>) {
        let mut r = rng::stream(k as u64, d as u64);
        let mut draw = |n: usize| -> Vec<f32> {
            (0..n * d)
                .map(|v| {
                    let size = [1.0, 1e3, 1e-3, 1e-20][v / d % 4];
                    (rng::normal(&mut r) * if v % 17 == 3 { 1e-25 * size } else { size }) as f32
                })
                .collect()
        };
        let (points, mut centroids) = (draw(TILE), draw(k));
        let last = centroids[(k - 1) * d..].to_vec();
        centroids[..d].copy_from_slice(&last);
        (points, centroids)
    }

    #[test]
    fn scores_are_as_near_as_promised() {
        if tier() < Tier::Amx {
            eprintln!("not tested: this processor has no tables of bfloat16");
            assert!(!available());
            return;
        }
        for (k, d) in [
            (1, 33),
            (2, 7),
            (15, 64),
            (16, 65),
            (17, 96),
            (33, 32),
            (50, 256),
            (100, 100),
            (131, 30),
        ] {
            let (points, centroids) = example(k, d);
            let sites = Sites::pack(&centroids, d);
            let coarse = Coarse::pack(&centroids, d, &sites.half_norms).unwrap();
            let engine = Engine::start::<f32>().unwrap();
            let (mut tile, mut packed) = (vec![0.0; tile_len(d)], vec![0.0; TILE * d]);
            for count in [TILE, 17, 5] {
                let rows = || points.chunks_exact(d).take(count);
                // What was there before must not matter.
                tile.fill(f32::NAN);
                pack_points(rows().collect::<Vec<_>>().into_iter(), d, &mut tile);
                pack_tile(rows().collect::<Vec<_>>().into_iter(), d, &mut packed);
                let (mut rough, mut exact) = (vec![0.0; k * TILE], vec![0.0; k * TILE]);
                coarse.scores(&engine, &tile, &mut rough, TILE);
                sites.scores(&packed, &mut exact, TILE);
                let (mut near, mut want) = (Nearest::default(), Nearest::default());
                coarse.nearest(&engine, &tile, &mut near);
                sites.nearest(&packed, &mut want);
                for (lane, x) in rows().enumerate() {
                    let bound = error(d, dot(x, x).sqrt(), max_norm(&sites.half_norms));
                    let column =
                        |of: &[f32]| -> Vec<f32> { of.iter().skip(lane).step_by(TILE).copied().collect() };
                    for (a, b) in column(&rough).into_iter().zip(column(&exact)) {
                        assert!((a - b).abs() <= bound, "k {k} d {d} lane {lane}: {a} {b} {bound}");
                    }
                    // The best two of the coarse scores, as they are.
                    let mut found = Nearest::default();
                    found.settle(lane, &column(&rough));
                    assert_eq!(found.best[lane].to_bits(), near.best[lane].to_bits());
                    assert_eq!(found.second[lane].to_bits(), near.second[lane].to_bits());
                    assert_eq!(found.indices()[lane], near.indices()[lane]);
                    if near.best[lane] - near.second[lane] > 2.0 * bound {
                        assert_eq!(near.indices()[lane], want.indices()[lane]);
                    }
                }
            }
        }
    }
}
