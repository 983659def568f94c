//! Nearest of `k` centroids for a tile of points: a matrix product and the running best two of each point.
//!
//! Points lie across the lanes, so the best and the runner-up of each need no horizontal step. The score is
//! t = x·c − ‖c‖²/2, the largest of which is the nearest centroid (‖x − c‖² = ‖x‖² − 2t). Each product is one sum over the
//! dimension in order: the same point gives the same bits in any tile.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "one contract for the module, stated in `lanes`"
)]

#[cfg(target_arch = "x86_64")]
use super::lanes::Lanes;
use super::tier::table;

/// Points per tile.
pub const TILE: usize = 64;
/// Centroids per block of products, which stays in the first cache level.
const BLOCK: usize = 48;

/// The two best scores of each point of a tile.
pub struct Nearest {
    /// Largest score.
    pub best: [f32; TILE],
    /// Second-largest score, −∞ with one centroid.
    pub second: [f32; TILE],
    /// Centroid of the largest score, the lowest among equals.
    pub index: [u32; TILE],
    products: Vec<f32>,
}

impl Default for Nearest {
    fn default() -> Self {
        Self {
            best: [f32::NEG_INFINITY; TILE],
            second: [f32::NEG_INFINITY; TILE],
            index: [0; TILE],
            products: vec![0.0; BLOCK * TILE],
        }
    }
}

/// Packs rows (each of length `d`) into the lanes of `tile` (d, [`TILE`]); lanes without a row become zero.
pub fn pack_tile<'a>(rows: impl ExactSizeIterator<Item = &'a [f32]>, d: usize, tile: &mut [f32]) {
    assert!(
        rows.len() <= TILE && tile.len() == d * TILE,
        "pack_tile: at most {TILE} rows, tile (d, {TILE})"
    );
    if rows.len() < TILE {
        tile.fill(0.0);
    }
    for (lane, row) in rows.enumerate() {
        for (slot, v) in tile[lane..].iter_mut().step_by(TILE).zip(row) {
            *slot = *v;
        }
    }
}

/// out (n, [`TILE`]) = `rows` (n, d) · `tile` (d, [`TILE`]).
pub fn tile_products(rows: &[f32], d: usize, tile: &[f32], out: &mut [f32]) {
    assert!(
        d > 0 && tile.len() == d * TILE && rows.len().is_multiple_of(d) && out.len() == rows.len() / d * TILE,
        "tile_products: expected rows (n, d), tile (d, {TILE}), out (n, {TILE})"
    );
    // SAFETY: the table is this processor's, the lengths agree.
    unsafe { (table().tile)(rows, d, tile, TILE, out) };
}

/// The two best of `centroids` (k, d) for each point of `tile` (d, [`TILE`]); `half_norms` (k) holds ‖c‖²/2.
pub fn nearest(centroids: &[f32], half_norms: &[f32], d: usize, tile: &[f32], out: &mut Nearest) {
    assert_eq!(
        centroids.len(),
        half_norms.len() * d,
        "nearest: expected (k, d) and (k)"
    );
    out.best.fill(f32::NEG_INFINITY);
    out.second.fill(f32::NEG_INFINITY);
    let mut products = std::mem::take(&mut out.products);
    for (b, (rows, half)) in centroids
        .chunks(BLOCK * d)
        .zip(half_norms.chunks(BLOCK))
        .enumerate()
    {
        let block = &mut products[..half.len() * TILE];
        tile_products(rows, d, tile, block);
        // SAFETY: the table is this processor's, the block holds TILE products per centroid.
        unsafe { (table().best_two)(block, half, b * BLOCK, out) };
    }
    out.products = products;
}

/// Takes the scores of the centroids `first ..` into the best two; `products` is (n, [`TILE`]).
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub(super) unsafe fn best_two<V: Lanes>(
    products: *const f32,
    half_norms: &[f32],
    first: usize,
    out: &mut Nearest,
) {
    let mut picks = [0.0f32; TILE];
    for lane in (0..TILE).step_by(V::N) {
        let mut best = V::load(out.best.as_ptr().add(lane));
        let mut second = V::load(out.second.as_ptr().add(lane));
        // Positions within the block are exact in single precision; −1 stands for what was best before.
        let mut pick = V::splat(-1.0);
        for (c, half) in half_norms.iter().enumerate() {
            let t = V::load(products.add(c * TILE + lane)).sub(V::splat(*half));
            second = second.max(t.min(best));
            pick = t.pick(best, V::splat(c as f32), pick);
            best = best.max(t);
        }
        best.store(out.best.as_mut_ptr().add(lane));
        second.store(out.second.as_mut_ptr().add(lane));
        pick.store(picks.as_mut_ptr().add(lane));
    }
    for (index, pick) in out.index.iter_mut().zip(picks) {
        if pick >= 0.0 {
            *index = first as u32 + pick as u32;
        }
    }
}

/// The reference of [`best_two`].
pub(super) fn best_two_scalar(products: &[f32], half_norms: &[f32], first: usize, out: &mut Nearest) {
    for (c, (line, half)) in products.chunks_exact(TILE).zip(half_norms).enumerate() {
        for (p, product) in line.iter().enumerate() {
            let t = product - half;
            out.second[p] = out.second[p].max(t.min(out.best[p]));
            if t > out.best[p] {
                out.best[p] = t;
                out.index[p] = (first + c) as u32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tier::Table;
    use super::super::tiers;
    use super::*;
    use crate::rng;

    #[test]
    fn every_tier_finds_the_best_two_of_float64_and_breaks_ties_low() {
        for (k, d) in [(1, 3), (2, 1), (5, 17), (47, 8), (48, 33), (50, 64), (131, 20)] {
            let mut r = rng::stream(k as u64, d as u64);
            let mut draw = |n: usize| -> Vec<f32> { (0..n).map(|_| rng::normal(&mut r) as f32).collect() };
            let (points, mut centroids) = (draw(TILE * d), draw(k * d));
            let last = centroids[(k - 1) * d..].to_vec();
            centroids[..d].copy_from_slice(&last);
            let half: Vec<f32> = centroids
                .chunks_exact(d)
                .map(|c| c.iter().map(|v| v * v).sum::<f32>() / 2.0)
                .collect();
            let mut tile = vec![0.0; d * TILE];
            pack_tile(points.chunks_exact(d), d, &mut tile);
            for table in tiers().into_iter().filter_map(Table::of) {
                let mut out = Nearest::default();
                let mut products = vec![0.0; k * TILE];
                // SAFETY: the table is this processor's, the lengths agree.
                unsafe {
                    (table.tile)(&centroids, d, &tile, TILE, &mut products);
                    (table.best_two)(&products, &half, 0, &mut out);
                }
                for (p, x) in points.chunks_exact(d).enumerate() {
                    let mut scores: Vec<(f64, usize)> = centroids
                        .chunks_exact(d)
                        .zip(&half)
                        .map(|(c, h)| {
                            let dot: f64 = c.iter().zip(x).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                            dot - f64::from(*h)
                        })
                        .zip(0..)
                        .collect();
                    scores.sort_by(|a, b| b.0.total_cmp(&a.0));
                    assert!(
                        (f64::from(out.best[p]) - scores[0].0).abs() < 1e-4,
                        "{}",
                        table.tier.name()
                    );
                    match scores.get(1) {
                        Some(s) => assert!((f64::from(out.second[p]) - s.0).abs() < 1e-4),
                        None => assert_eq!(out.second[p], f32::NEG_INFINITY),
                    }
                    let index = out.index[p] as usize;
                    assert!((scores[0].0 - scores.iter().find(|s| s.1 == index).unwrap().0).abs() < 1e-4);
                    assert!(k == 1 || index != k - 1, "centroid 0 is the same and comes first");
                }
            }
        }
    }

    #[test]
    fn a_point_gives_the_same_bits_in_any_lane_and_company() {
        let (d, k) = (70, 55);
        let mut r = rng::stream(9, 9);
        let mut draw = |n: usize| -> Vec<f32> { (0..n).map(|_| rng::normal(&mut r) as f32).collect() };
        let (points, centroids) = (draw(TILE * d), draw(k * d));
        let half = vec![0.5; k];
        let (mut whole, mut alone) = (Nearest::default(), Nearest::default());
        let mut tile = vec![0.0; d * TILE];
        pack_tile(points.chunks_exact(d), d, &mut tile);
        nearest(&centroids, &half, d, &tile, &mut whole);
        for (p, x) in points.chunks_exact(d).enumerate() {
            pack_tile([x].into_iter(), d, &mut tile);
            nearest(&centroids, &half, d, &tile, &mut alone);
            assert_eq!(whole.best[p].to_bits(), alone.best[0].to_bits());
            assert_eq!(whole.second[p].to_bits(), alone.second[0].to_bits());
            assert_eq!(whole.index[p], alone.index[0]);
        }
    }
}
