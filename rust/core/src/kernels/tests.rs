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
