//! The adapter's kernels.

use super::*;

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
fn a_batch_equals_its_single_calls_bit_for_bit() {
    for t in tables() {
        for d in lengths().filter(|d| *d < 400) {
            for (n, rank) in [(0, 2), (1, 2), (7, 2), (8, 2), (11, 2), (9, 1), (9, 3)] {
                let (x, a, b) = (normal(n * d, 23), normal(rank * d, 24), normal(d * rank, 25));
                let (mut rows, mut single) = (vec![9.0; n * d], vec![7.0; n * d]);
                // SAFETY: the processor has this tier, lengths agree.
                unsafe {
                    (t.low_rank_apply_rows)(&x, d, &a, &b, rank, -0.3, &mut rows);
                    for i in 0..n {
                        let at = i * d..(i + 1) * d;
                        (t.low_rank_apply)(&x[at.clone()], &a, &b, rank, -0.3, &mut single[at]);
                    }
                }
                assert_eq!(bits(&rows), bits(&single));
            }
        }
    }
}

#[test]
fn an_untrained_adapter_is_the_identity_bit_for_bit() {
    for t in tables() {
        for d in lengths() {
            let (x, a) = (normal(d, 26), normal(2 * d, 27));
            let mut out = vec![9.0; d];
            // SAFETY: the processor has this tier, lengths agree.
            unsafe { (t.low_rank_apply)(&x, &a, &vec![0.0; 2 * d], 2, 0.7, &mut out) };
            assert_eq!(bits(&x), bits(&out));
        }
    }
}

#[test]
fn a_step_is_the_gradient_times_the_rate() {
    let d = 100;
    for rank in [1, 2] {
        let (x, g) = (normal(d, 28), normal(d, 29));
        let (mut a, mut b) = (normal(rank * d, 30), normal(d * rank, 31));
        let (mut da, mut db) = (vec![0.0; rank * d], vec![0.0; rank * d]);
        low_rank_grad(&x, &g, &a, &b, rank, 0.5, &mut da, &mut db);
        let want: Vec<f32> = a.iter().zip(&da).map(|(a, g)| a - 0.1 * g).collect();
        let want_b: Vec<f32> = b.iter().zip(&db).map(|(b, g)| b - 0.1 * g).collect();
        low_rank_step(&x, &g, &mut a, &mut b, rank, 0.5, 0.1);
        for (got, want) in a.iter().chain(&b).zip(want.iter().chain(&want_b)) {
            close(*got, f64::from(*want), 10.0);
        }
    }
}
