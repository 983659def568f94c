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
        let sites = Sites::pack(&centroids, d);
        let mut tile = vec![0.0; d * TILE];
        pack_tile(points.chunks_exact(d), d, &mut tile);
        for table in tiers().into_iter().filter_map(Table::of) {
            let mut out = Nearest::default();
            let mut all = vec![0.0; k * TILE];
            // SAFETY: the table is this processor's, the lengths agree.
            unsafe {
                (table.nearest)(&sites, &tile, &mut out);
                (table.scores)(&sites, &tile, &mut all, TILE);
            }
            for (p, x) in points.chunks_exact(d).enumerate() {
                let mut scores: Vec<(f64, usize)> = centroids
                    .chunks_exact(d)
                    .zip(&sites.half_norms)
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
                let index = out.indices()[p] as usize;
                assert_eq!(out.best[p].to_bits(), all[index * TILE + p].to_bits());
                assert!((scores[0].0 - scores.iter().find(|s| s.1 == index).unwrap().0).abs() < 1e-4);
                assert!(k == 1 || index != k - 1, "centroid 0 is the same and comes first");
            }
        }
    }
}

#[test]
fn every_tier_accumulates_the_same_bits() {
    for n in [0, 1, 7, 8, 33, 100] {
        let mut r = rng::stream(n as u64, 1);
        let x: Vec<f32> = (0..n).map(|_| rng::normal(&mut r) as f32).collect();
        let start: Vec<f64> = (0..n).map(|_| rng::normal(&mut r)).collect();
        let want: Vec<f64> = start
            .iter()
            .zip(&x)
            .map(|(s, v)| s - 0.3 * f64::from(*v))
            .collect();
        for table in tiers().into_iter().filter_map(Table::of) {
            let mut sums = start.clone();
            // SAFETY: the table is this processor's, the lengths agree.
            unsafe { (table.accumulate)(-0.3, &x, &mut sums) };
            assert_eq!(sums, want, "{}", table.tier.name());
        }
    }
}

#[test]
fn every_tier_judges_alike_and_right() {
    for tiles in [1, 3, 70] {
        let mut r = rng::stream(tiles as u64, 3);
        let mut draw = |n: usize| -> Vec<f32> { (0..n).map(|_| rng::normal(&mut r) as f32).collect() };
        let n = tiles * TILE;
        let (scores, norms2) = (draw(n), draw(n));
        let mut d2: Vec<f32> = draw(n).iter().map(|v| v.abs()).collect();
        d2[0] = f32::INFINITY;
        let weights: Vec<f32> = draw(n).iter().map(|v| v.abs()).collect();
        let want: f64 = (0..n)
            .map(|i| {
                let new = (f64::from(norms2[i]) - 2.0 * f64::from(scores[i])).max(0.0);
                f64::from(weights[i]) * new.min(f64::from(d2[i]))
            })
            .sum();
        let got = judge(&scores, &norms2, &d2, &weights);
        assert!((got - want).abs() < 1e-5 * want, "{got} {want}");
        let lanes = judge_in_order(&scores, &norms2, &d2, &weights);
        for table in tiers().into_iter().filter_map(Table::of) {
            // SAFETY: the table is this processor's, the lengths agree.
            let found = unsafe { (table.judge)(&scores, &norms2, &d2, &weights) };
            assert_eq!(found, lanes, "{}", table.tier.name());
        }
    }
}

#[test]
fn a_point_gives_the_same_bits_in_any_lane_and_company() {
    let (d, k) = (70, 55);
    let mut r = rng::stream(9, 9);
    let mut draw = |n: usize| -> Vec<f32> { (0..n).map(|_| rng::normal(&mut r) as f32).collect() };
    let (points, centroids) = (draw(TILE * d), draw(k * d));
    let sites = Sites::pack(&centroids, d);
    let (mut whole, mut alone) = (Nearest::default(), Nearest::default());
    let mut tile = vec![0.0; d * TILE];
    pack_tile(points.chunks_exact(d), d, &mut tile);
    sites.nearest(&tile, &mut whole);
    for (p, x) in points.chunks_exact(d).enumerate() {
        pack_tile([x].into_iter(), d, &mut tile);
        sites.nearest(&tile, &mut alone);
        assert_eq!(whole.best[p].to_bits(), alone.best[0].to_bits());
        assert_eq!(whole.second[p].to_bits(), alone.second[0].to_bits());
        assert_eq!(whole.indices()[p], alone.indices()[0]);
    }
}
