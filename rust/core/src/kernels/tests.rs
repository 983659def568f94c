//! Every tier that the processor has, against float64.

use super::tier::Table;
use super::*;
use crate::rng;

/// The tables under test; what is missing is printed, so that a gap is visible.
fn tables() -> Vec<&'static Table> {
    let have = tiers();
    for t in [Tier::Scalar, Tier::Avx2, Tier::Avx512] {
        let state = if have.contains(&t) {
            "tested"
        } else {
            "NOT AVAILABLE HERE"
        };
        eprintln!("tier {}: {state}", t.name());
    }
    have.into_iter().filter_map(Table::of).collect()
}

fn normal(n: usize, seed: u64) -> Vec<f32> {
    let mut r = rng::stream(seed, n as u64);
    (0..n).map(|_| rng::normal(&mut r) as f32).collect()
}

fn bytes(n: usize, seed: u64) -> Vec<i8> {
    use crate::rng::RngExt;
    let mut r = rng::stream(seed, n as u64);
    (0..n).map(|_| r.random_range(-127..=127i8)).collect()
}

/// 0..2·lanes+3 of the widest tier and some more.
fn lengths() -> impl Iterator<Item = usize> {
    (0..=67).chain([96, 127, 128, 129, 255, 256, 384, 385, 767, 1000, 4096])
}

fn dot64(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum()
}

/// Σ|aᵢbᵢ|, the scale of a rounding error.
fn mass(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(x, y)| (f64::from(*x) * f64::from(*y)).abs())
        .sum()
}

#[track_caller]
fn close(got: f32, want: f64, scale: f64) {
    assert!(
        (f64::from(got) - want).abs() <= 1e-6 * scale + 1e-37,
        "{got} != {want} (scale {scale})"
    );
}

#[test]
fn dot_and_distance_match_float64() {
    for t in tables() {
        for n in lengths() {
            let (a, b) = (normal(n, 1), normal(n, 2));
            let diff: Vec<f32> = a.iter().zip(&b).map(|(x, y)| x - y).collect();
            // SAFETY: the processor has this tier.
            unsafe {
                close((t.dot)(&a, &b), dot64(&a, &b), mass(&a, &b));
                close((t.squared_l2)(&a, &b), dot64(&diff, &diff), dot64(&diff, &diff));
            }
        }
    }
}

#[test]
fn matrix_products_equal_dot_bit_for_bit() {
    for t in tables() {
        for d in lengths() {
            for n in [0, 1, 2, 3, 4, 5, 9] {
                let (rows, q) = (normal(n * d, 3), normal(d, 4));
                let (mut out, mut gathered) = (vec![7.0; n], vec![7.0; n]);
                let index: Vec<usize> = (0..n).rev().collect();
                // SAFETY: the processor has this tier, rows are (n, d).
                unsafe {
                    (t.gemv)(&rows, d, &q, &mut out);
                    (t.gather_dot)(&rows, d, &index, &q, &mut gathered);
                    for i in 0..n {
                        let want = (t.dot)(&rows[i * d..(i + 1) * d], &q);
                        assert_eq!(out[i].to_bits(), want.to_bits());
                        assert_eq!(gathered[n - 1 - i].to_bits(), want.to_bits());
                    }
                }
            }
        }
    }
}

#[test]
fn updates_match_float64() {
    for t in tables() {
        for d in lengths() {
            let (x, y) = (normal(d, 5), normal(d, 6));
            let rows = normal(5 * d, 7);
            let (index, w) = ([4, 0, 4], [0.5, -2.0, 0.25]);
            let (mut axpy, mut scale, mut sum) = (y.clone(), x.clone(), y.clone());
            // SAFETY: the processor has this tier, lengths agree.
            unsafe {
                (t.axpy)(-1.5, &x, &mut axpy);
                (t.scale)(-1.5, &mut scale);
                (t.weighted_sum_rows)(&rows, d, &index, &w, &mut sum);
            }
            for i in 0..d {
                close(axpy[i], f64::from(y[i]) - 1.5 * f64::from(x[i]), 5.0);
                assert_eq!(scale[i], -1.5 * x[i]);
                let want: f64 = index
                    .iter()
                    .zip(w)
                    .map(|(r, w)| f64::from(rows[r * d + i]) * f64::from(w))
                    .sum();
                close(sum[i], f64::from(y[i]) + want, 10.0);
            }
        }
    }
}

#[test]
fn low_rank_apply_matches_float64() {
    for t in tables() {
        for d in lengths() {
            for rank in [1, 2, 3, 17] {
                let (x, a, b) = (normal(d, 8), normal(rank * d, 9), normal(d * rank, 10));
                let mut out = vec![9.0; d];
                // SAFETY: the processor has this tier, lengths agree.
                unsafe { (t.low_rank_apply)(&x, &a, &b, rank, 0.7, &mut out) };
                let h: Vec<f64> = (0..rank)
                    .map(|r| 0.7 * dot64(&a[r * d..(r + 1) * d], &x))
                    .collect();
                for i in 0..d {
                    let want: f64 = (0..rank).map(|r| f64::from(b[i * rank + r]) * h[r]).sum();
                    close(
                        out[i],
                        f64::from(x[i]) + want,
                        30.0 * (d as f64).sqrt() * rank as f64,
                    );
                }
            }
        }
    }
}

#[test]
fn byte_products_are_exact() {
    for t in tables() {
        for d in lengths() {
            for n in [0, 1, 3, 4, 6] {
                let (rows, q) = (bytes(n * d, 11), bytes(d, 12));
                let mut out = vec![7; n];
                // SAFETY: the processor has this tier, rows are (n, d).
                unsafe { (t.gemv_i8)(&rows, d, &q, &mut out) };
                for i in 0..n {
                    let row = &rows[i * d..(i + 1) * d];
                    let want = scalar::dot_i8(row, &q);
                    assert_eq!(out[i], want);
                    // SAFETY: the processor has this tier.
                    assert_eq!(unsafe { (t.dot_i8)(row, &q) }, want);
                }
            }
            let (low, high) = (vec![-127i8; d], vec![127i8; d]);
            // SAFETY: the processor has this tier.
            assert_eq!(unsafe { (t.dot_i8)(&low, &high) }, -127 * 127 * d as i32);
        }
    }
}

#[test]
fn scans_rank_by_score_then_row() {
    let (n, d) = (700, 24);
    let mut rows = normal(n * d, 13);
    let q = normal(d, 14);
    let best: Vec<f32> = q.iter().map(|v| 10.0 * v).collect();
    for i in [699, 3, 256, 257] {
        rows[i * d..(i + 1) * d].copy_from_slice(&best);
    }
    let mut scores = vec![0.0; n];
    gemv(&rows, d, &q, &mut scores);
    for k in [0, 1, 2, 5, 100, 700, 900] {
        let got = scan_top_k(&rows, n, d, &q, k);
        let want: Vec<(f32, usize)> = scalar::top_k(&scores, k)
            .into_iter()
            .map(|i| (scores[i], i))
            .collect();
        assert_eq!(got, want);
        assert_eq!(top_k(&scores, k), scalar::top_k(&scores, k));
    }
    let ids: Vec<usize> = scan_top_k(&rows, n, d, &q, 4).into_iter().map(|e| e.1).collect();
    assert_eq!(ids, [3, 256, 257, 699]);
}

#[test]
fn batch_scan_and_gemm_equal_the_single_ones() {
    for d in [1, 7, 24, 100] {
        for (n, m) in [
            (0, 3),
            (1, 1),
            (5, 4),
            (50, 16),
            (97, 17),
            (130, 40),
            (60, 70),
            (49, 133),
        ] {
            let (rows, queries) = (normal(n * d, 15), normal(m * d, 16));
            let mut c = vec![9.0; n * m];
            gemm_nt(&rows, &queries, d, &mut c);
            for i in 0..n {
                for j in 0..m {
                    let (a, b) = (&rows[i * d..(i + 1) * d], &queries[j * d..(j + 1) * d]);
                    close(c[i * m + j], dot64(a, b), 4.0 * mass(a, b));
                }
            }
            for k in [0, 1, 5, n] {
                let got = scan_top_k_batch(&rows, n, d, &queries, k);
                assert_eq!(got.len(), m);
                for (q, got) in queries.chunks_exact(d).zip(got) {
                    assert_eq!(got, scan_top_k(&rows, n, d, q, k));
                }
            }
        }
    }
}

#[test]
fn low_rank_gradients_match_float64() {
    for t in tables() {
        for d in lengths() {
            for rank in [1, 2] {
                let (x, g, a, b) = (
                    normal(d, 17),
                    normal(d, 18),
                    normal(rank * d, 19),
                    normal(d * rank, 20),
                );
                let (mut da, mut db) = (a.clone(), b.clone());
                // SAFETY: the processor has this tier, lengths agree.
                unsafe {
                    let by = (t.low_rank_project)(&x, &g, &a, &b, rank).times(0.7);
                    (t.low_rank_update)(&x, &g, &by, rank, &mut da, &mut db);
                }
                let scale = 10.0 + 30.0 * (d as f64).sqrt();
                for r in 0..rank {
                    let ax = dot64(&a[r * d..(r + 1) * d], &x);
                    let bg: f64 = (0..d).map(|i| f64::from(b[i * rank + r]) * f64::from(g[i])).sum();
                    for i in 0..d {
                        let want = f64::from(a[r * d + i]) + 0.7 * bg * f64::from(x[i]);
                        close(da[r * d + i], want, scale);
                        let want = f64::from(b[i * rank + r]) + 0.7 * ax * f64::from(g[i]);
                        close(db[i * rank + r], want, scale);
                    }
                }
            }
        }
    }
}

#[test]
fn exp_is_within_two_ulp_over_its_whole_range() {
    for t in tables() {
        let mut worst = 0.0f64;
        let xs: Vec<f32> = (0..2_000_003)
            .map(|i| -105.0 + i as f32 * (195.0 / 2e6))
            .collect();
        let mut got = xs.clone();
        // SAFETY: the processor has this tier.
        unsafe { (t.exp)(&mut got) };
        for (x, y) in xs.iter().zip(got) {
            let want = f64::from(*x).exp();
            if want > f64::from(f32::MAX) * (1.0 + 3e-8) {
                assert_eq!(y, f32::INFINITY, "exp({x})");
                continue;
            }
            let ulp = 2f64.powi((want.log2().floor() as i32).max(-126) - 23);
            worst = worst.max((f64::from(y) - want).abs() / ulp);
        }
        eprintln!("tier {}: exp within {worst:.3} ulp", t.tier.name());
        assert!(worst < 2.0, "{worst}");
        let mut special = [
            f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            0.0,
            -0.0,
            f32::MAX,
            f32::MIN,
        ];
        // SAFETY: the processor has this tier.
        unsafe { (t.exp)(&mut special) };
        assert!(special[0].is_nan());
        assert_eq!(special[1..], [f32::INFINITY, 0.0, 1.0, 1.0, f32::INFINITY, 0.0]);
    }
}

#[test]
fn softmax_and_log_sum_exp_match_float64() {
    for t in tables() {
        for n in lengths().skip(1) {
            for shift in [0.0f32, 1e4, -1e4] {
                let x: Vec<f32> = normal(n, 21).iter().map(|v| 3.0 * v + shift).collect();
                let mut p = x.clone();
                // SAFETY: the processor has this tier.
                let lse = unsafe {
                    (t.softmax)(&mut p, 0.5);
                    (t.log_sum_exp)(&x)
                };
                let max = f64::from(x.iter().copied().fold(f32::MIN, f32::max));
                let sum = |tau: f64| x.iter().map(|v| ((f64::from(*v) - max) / tau).exp()).sum::<f64>();
                close(lse, max + sum(1.0).ln(), 1.0 + max.abs());
                for (x, p) in x.iter().zip(&p) {
                    let want = ((f64::from(*x) - max) / 0.5).exp() / sum(0.5);
                    close(*p, want, 3.0 * want.max(1e-7));
                }
            }
        }
        // SAFETY: the processor has this tier.
        unsafe {
            assert_eq!((t.log_sum_exp)(&[]), f32::NEG_INFINITY);
            assert_eq!((t.log_sum_exp)(&[f32::NEG_INFINITY; 3]), f32::NEG_INFINITY);
            (t.softmax)(&mut [], 1.0);
        }
    }
}

#[test]
fn bytes_quantise_alike_in_every_tier() {
    for t in tables() {
        for n in lengths() {
            for factor in [0.0, 1.0, 1e-30, 1e30, 1e-40] {
                let x: Vec<f32> = normal(n, 22).iter().map(|v| v * factor).collect();
                let (mut q, mut want) = (vec![7i8; n], vec![0i8; n]);
                let s = scalar::quantize_i8(&x, &mut want);
                // SAFETY: the processor has this tier.
                assert_eq!(unsafe { (t.quantize_i8)(&x, &mut q) }, s);
                assert_eq!(q, want);
                if factor == 1.0 {
                    for (x, q) in x.iter().zip(&q) {
                        assert!((x - f32::from(*q) * s).abs() <= 0.5001 * s);
                    }
                }
            }
        }
    }
}
