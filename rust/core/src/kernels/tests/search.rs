//! Scans, batches of them, and the k best.

use super::*;

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
fn nan_ranks_with_minus_infinity_and_zeros_tie() {
    let inf = f32::INFINITY;
    let v = [f32::NAN, 0.0, -inf, -0.0, 3.0, f32::NAN, inf, -1.0, 0.0];
    let order = [6, 4, 1, 3, 8, 7, 0, 2, 5];
    for k in 0..=12 {
        let want = &order[..k.min(9)];
        assert_eq!(top_k(&v, k), want);
        assert_eq!(scalar::top_k(&v, k), want);
    }
    // The same where the list is full long before.
    let mut long = vec![-2.0; 500];
    long.splice(100..109, v);
    let want: Vec<usize> = order[..6].iter().map(|i| i + 100).collect();
    assert_eq!(top_k(&long, 6), want);
}

#[test]
fn every_tier_marks_the_scores_that_reach_the_bar() {
    for t in tables() {
        let bars = normal(64, 40);
        for n in 0..=64 {
            let mut x = normal(n, 32);
            if n > 3 {
                (x[1], x[2]) = (f32::NAN, 0.5);
            }
            let whole: Vec<i32> = x.iter().map(|v| (v * 4.0) as i32).collect();
            // SAFETY: the processor has this tier.
            unsafe {
                let one = (0..n).map(|i| u64::from(x[i] >= 0.5) << i).sum::<u64>();
                assert_eq!((t.reach)(&x, &[0.5]), one);
                let each = (0..n).map(|i| u64::from(x[i] >= bars[i]) << i).sum::<u64>();
                assert!(n == 1 || (t.reach)(&x, &bars[..n.max(1)]) == each);
                let bits = (0..n).map(|i| u64::from(whole[i] >= 2) << i).sum::<u64>();
                assert_eq!((t.reach_i32)(&whole, 2), bits);
            }
        }
    }
}

#[test]
fn every_tier_finds_the_maxima_of_columns_and_nan() {
    for t in tables() {
        for (n, width) in [(0, 64), (63, 64), (200, 64), (1000, 128), (37, 0)] {
            let x = normal(n, 41);
            for spoilt in std::iter::once(None).chain((0..n).step_by(7).map(Some)) {
                let mut x = x.clone();
                if let Some(i) = spoilt {
                    x[i] = f32::NAN;
                }
                let (mut got, mut want) = (vec![f32::NEG_INFINITY; width], vec![f32::NEG_INFINITY; width]);
                // SAFETY: the processor has this tier.
                let ordered = unsafe { (t.maxima)(&x, &mut got) };
                assert_eq!(ordered, spoilt.is_none(), "{n} {width} {spoilt:?}");
                assert!(scalar::maxima(&x, &mut want) == ordered && got == want);
            }
        }
    }
}

#[test]
fn long_rows_rank_as_the_reference() {
    let mut rows = vec![
        normal(5000, 42),
        vec![1.0; 3000],
        vec![f32::NAN; 2000],
        vec![f32::NEG_INFINITY; 2000],
    ];
    // All winners in one column; ties across the bar; NaN among them.
    rows.push(
        (0..4096)
            .map(|i| if i % 128 == 5 { i as f32 } else { -1.0 })
            .collect(),
    );
    rows.push((0..4096).map(|i| (i * 7 % 13) as f32).collect());
    rows.push(
        (0..4096)
            .map(|i| if i % 3 == 0 { f32::NAN } else { (i % 50) as f32 })
            .collect(),
    );
    for x in &rows {
        for k in [0, 1, 5, 64, 150, x.len()] {
            let want = scalar::top_k(x, k);
            assert_eq!(top_k(x, k), want, "k {k}");
            let none = x.iter().any(|v| v.is_nan());
            assert_eq!(winners(x, k), (!none).then_some(want));
        }
    }
}

#[test]
fn byte_scan_ranks_as_the_reference() {
    for d in [1, 31, 64, 100] {
        let (n, mut rows) = (600, bytes(600 * d, 33));
        let q = bytes(d, 34);
        let copy = rows[..d].to_vec();
        rows[599 * d..].copy_from_slice(&copy);
        let mut want: Vec<(i32, usize)> = (0..n)
            .map(|i| (scalar::dot_i8(&rows[i * d..(i + 1) * d], &q), i))
            .collect();
        want.sort_by_key(|e| (-e.0, e.1));
        for k in [0, 1, 7, 600, 700] {
            assert_eq!(scan_top_k_i8(&rows, n, d, &q, k), want[..k.min(n)]);
        }
    }
}

#[test]
fn panels_multiply_alike_in_every_tier() {
    for t in tables() {
        for width in [16, 32, 48, 64] {
            for (n, d) in [(1, 1), (5, 20), (6, 127), (13, 128), (48, 300)] {
                let (rows, panel) = (normal(n * d, 35), normal(d * width, 36));
                let mut out = vec![9.0; n * width];
                // SAFETY: the processor has this tier, lengths agree.
                unsafe { (t.tile)(&rows, d, &panel, width, &mut out) };
                for i in 0..n {
                    for j in 0..width {
                        let column: Vec<f32> = panel.iter().skip(j).step_by(width).copied().collect();
                        let row = &rows[i * d..(i + 1) * d];
                        close(out[i * width + j], dot64(row, &column), 4.0 * mass(row, &column));
                    }
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn top_k_of_a_stream_is_a_sorted_prefix(
        values in proptest::collection::vec((-8i32..8).prop_map(|v| v as f32 / 2.0), 0..400),
        k in 0usize..60,
        seed in any::<u64>(),
    ) {
        let want = scalar::top_k(&values, k);
        prop_assert_eq!(&top_k(&values, k), &want);
        // In any order of arrival.
        let mut order: Vec<usize> = (0..values.len()).collect();
        let mut r = rng::stream(seed, 0);
        for i in (1..order.len()).rev() {
            order.swap(i, r.random_range(0..=i));
        }
        let mut top = TopK::new(k);
        for i in order {
            top.push(values[i], i);
        }
        let got: Vec<usize> = top.into_sorted().into_iter().map(|e| e.1).collect();
        prop_assert_eq!(got, want);
    }

    #[test]
    fn keys_keep_the_order(a in any::<f32>(), b in any::<f32>(), i in any::<i32>(), j in any::<i32>()) {
        prop_assert_eq!(i.cmp(&j), i.key().cmp(&j.key()));
        prop_assert_eq!(i32::of_key(i.key()), i);
        if let Some(order) = a.partial_cmp(&b) {
            prop_assert_eq!(order, a.key().cmp(&b.key()));
            prop_assert_eq!(f32::of_key(a.key()), a);
        }
    }
}
