use super::*;
use crate::kernels::nearest::{Nearest, Sites, TILE, pack_tile};
use crate::rng::{normal, stream};
use proptest::prelude::*;

fn blobs(n: usize, d: usize, k: usize, noise: f64, seed: u64) -> Vec<f32> {
    let mut rng = stream(seed, 0);
    let centers: Vec<f64> = (0..k * d).map(|_| normal(&mut rng)).collect();
    (0..n * d)
        .map(|v| {
            let c = (v / d) % k;
            (centers[c * d + v % d] + noise * normal(&mut rng)) as f32
        })
        .collect()
}

/// Textbook Lloyd in f64 from given centroids, no re-seeding.
fn reference(x: &[f32], d: usize, start: &[f32], w: Option<&[f32]>, rounds: usize) -> (Vec<f64>, Vec<usize>) {
    let mut c: Vec<f64> = start.iter().map(|v| f64::from(*v)).collect();
    let k = c.len() / d;
    let nearest = |c: &[f64], row: &[f32]| {
        (0..k)
            .map(|j| {
                let d2: f64 = row
                    .iter()
                    .zip(&c[j * d..])
                    .map(|(a, b)| (f64::from(*a) - b).powi(2))
                    .sum();
                (d2, j)
            })
            .min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)))
            .unwrap()
            .1
    };
    for _ in 0..rounds {
        let (mut sums, mut mass) = (vec![0.0; k * d], vec![0.0; k]);
        for (i, row) in x.chunks_exact(d).enumerate() {
            let j = nearest(&c, row);
            let wi = w.map_or(1.0, |w| f64::from(w[i]));
            mass[j] += wi;
            for (s, v) in sums[j * d..].iter_mut().zip(row) {
                *s += wi * f64::from(*v);
            }
        }
        for j in 0..k {
            for v in 0..d {
                c[j * d + v] = sums[j * d + v] / mass[j];
            }
        }
    }
    let labels = x.chunks_exact(d).map(|r| nearest(&c, r)).collect();
    (c, labels)
}

#[test]
fn lloyd_equals_the_reference_in_f64() {
    let (n, d, k) = (500, 7, 4);
    let x = blobs(n, d, k, 0.1, 3);
    let w: Vec<f32> = (0..n).map(|i| 0.5 + (i % 5) as f32).collect();
    for weights in [None, Some(w.as_slice())] {
        let start: Vec<f32> = x[..k * d].to_vec();
        let (c, labels) = reference(&x, d, &start, weights, 20);
        let got = kmeans(
            &x,
            d,
            &Params {
                init: Init::Given(&start),
                weights,
                max_iterations: 20,
                tol: 0.0,
                ..Params::new(k)
            },
        )
        .unwrap();
        assert!(got.labels.iter().zip(&labels).all(|(a, b)| *a as usize == *b));
        for (a, b) in got.centroids.iter().zip(&c) {
            assert!((f64::from(*a) - b).abs() < 1e-5, "{a} {b}");
        }
    }
}

#[test]
fn hamerly_equals_lloyd_bit_for_bit_for_any_number_of_threads() {
    for (n, d, k, noise, seed) in [(97, 3, 5, 0.5, 1), (1500, 32, 17, 0.8, 2), (3000, 64, 40, 2.0, 3)] {
        let x = blobs(n, d, k, noise, seed);
        let w: Vec<f32> = (0..n).map(|i| ((i * 7) % 11) as f32 / 5.0).collect();
        for metric in [Metric::Euclidean, Metric::Cosine] {
            let run = |algorithm, n_threads| {
                kmeans(
                    &x,
                    d,
                    &Params {
                        weights: Some(&w),
                        metric,
                        algorithm,
                        n_threads,
                        seed,
                        tol: 0.0,
                        ..Params::new(k)
                    },
                )
                .unwrap()
            };
            let lloyd = run(Algorithm::Lloyd, 1);
            assert!(lloyd.iterations > 2);
            for (algorithm, threads) in [
                (Algorithm::Lloyd, 2),
                (Algorithm::Hamerly, 1),
                (Algorithm::Hamerly, 2),
                (Algorithm::Auto, 3),
            ] {
                assert_eq!(lloyd, run(algorithm, threads), "{algorithm:?} {threads}");
            }
        }
    }
}

/// Labels of `x` by exact scores.
fn exact_labels(x: &[f32], d: usize, centroids: &[f32]) -> Vec<u32> {
    let sites = Sites::pack(centroids, d);
    let (mut tile, mut out) = (vec![0.0; TILE * d], Nearest::default());
    let mut labels = Vec::new();
    for rows in x.chunks(TILE * d) {
        pack_tile(rows.chunks_exact(d), d, &mut tile);
        sites.nearest(&tile, &mut out);
        labels.extend_from_slice(&out.indices()[..rows.len() / d]);
    }
    labels
}

#[test]
fn labels_are_those_of_exact_scores_even_where_centroids_almost_tie() {
    let (n, d, k) = (1111, 70, 24);
    let x = blobs(n, d, k / 2, 0.3, 12);
    // Every second centroid differs from its neighbour by the last bits alone.
    let mut start: Vec<f32> = x[..k / 2 * d].iter().flat_map(|v| [*v, *v]).collect();
    for (c, row) in start.chunks_exact_mut(d).enumerate() {
        let from = &x[c / 2 * d..][..d];
        row.iter_mut()
            .zip(from)
            .enumerate()
            .for_each(|(j, (r, v))| *r = v + (c % 2 * (j % 3)) as f32 * f32::EPSILON);
    }
    for algorithm in [Algorithm::Lloyd, Algorithm::Hamerly, Algorithm::Minibatch] {
        for max_iterations in [1, 3, 20] {
            let params = Params {
                init: Init::Given(&start),
                algorithm,
                max_iterations,
                tol: 0.0,
                ..Params::new(k)
            };
            let got = kmeans(&x, d, &params).unwrap();
            assert_eq!(
                got.labels,
                exact_labels(&x, d, &got.centroids),
                "{algorithm:?} {max_iterations}"
            );
        }
    }
}

#[test]
fn numbers_too_large_for_coarse_scores_give_the_same_clusters() {
    let (n, d, k) = (700, 40, 9);
    let (x, large) = (blobs(n, d, k, 0.9, 2), (1u64 << 57) as f32);
    let scaled = |x: &[f32]| -> Vec<f32> { x.iter().map(|v| v * large).collect() };
    let run = |x: &[f32], start: &[f32]| {
        let params = Params {
            init: Init::Given(start),
            tol: 0.0,
            ..Params::new(k)
        };
        kmeans(x, d, &params).unwrap()
    };
    let (small, big) = (run(&x, &x[..k * d]), run(&scaled(&x), &scaled(&x[..k * d])));
    assert_eq!(small.labels, big.labels);
    assert_eq!(scaled(&small.centroids), big.centroids);
    // Only the start is large: every point goes to the one that is not.
    let mut start = x[..k * d].to_vec();
    start[d..].iter_mut().for_each(|v| *v *= large);
    let got = run(&x, &start);
    assert_eq!(got.labels, exact_labels(&x, d, &got.centroids));
}

#[test]
fn data_far_from_the_origin_cluster_as_if_centred() {
    let (n, d, k) = (400, 6, 5);
    let x = blobs(n, d, k, 0.05, 9);
    let far: Vec<f32> = x.iter().map(|v| v + 1000.0).collect();
    let a = kmeans(&x, d, &Params::new(k)).unwrap();
    let b = kmeans(&far, d, &Params::new(k)).unwrap();
    assert_eq!(a.labels, b.labels);
    assert!((a.inertia - b.inertia).abs() < 0.01 * a.inertia);
    for (p, q) in a.centroids.iter().zip(&b.centroids) {
        assert!((p + 1000.0 - q).abs() < 1e-3);
    }
}

#[test]
fn empty_cluster_takes_the_point_of_largest_weighted_error() {
    // The third centroid attracts nothing; 9 is the farthest point, but 4 weighs more.
    let x = [0.0, 0.1, 4.0, 9.0, 9.1];
    let w = [1.0, 1.0, 50.0, 1.0, 1.0];
    let got = kmeans(
        &x,
        1,
        &Params {
            init: Init::Given(&[0.0, 9.0, 1000.0]),
            weights: Some(&w),
            ..Params::new(3)
        },
    )
    .unwrap();
    assert_eq!(got.labels, [0, 0, 2, 1, 1]);
    assert!((got.inertia - 0.01).abs() < 1e-5, "{}", got.inertia);
}

#[test]
fn duplicates_give_fewer_clusters_and_k_equal_n_gives_none_of_error() {
    let x: Vec<f32> = (0..60).map(|i| (i % 3) as f32 * 0.37).collect();
    assert_eq!(kmeans_plus_plus(&x, 1, 10, None, 4).unwrap().len(), 3);
    let got = kmeans(&x, 1, &Params::new(10)).unwrap();
    assert_eq!(got.centroids.len(), 3);
    assert!(got.inertia < 1e-12);
    let x = blobs(50, 5, 50, 0.1, 5);
    let got = kmeans(&x, 5, &Params::new(50)).unwrap();
    let mut seen = got.labels.clone();
    seen.sort_unstable();
    assert_eq!(seen, (0..50).collect::<Vec<u32>>());
    assert!(got.inertia == 0.0);
}

#[test]
fn mini_batches_come_near_lloyd() {
    let (n, d, k) = (4000, 16, 20);
    let x = blobs(n, d, k, 1.0, 6);
    let full = kmeans(&x, d, &Params::new(k)).unwrap();
    let mini = kmeans(
        &x,
        d,
        &Params {
            algorithm: Algorithm::Minibatch,
            ..Params::new(k)
        },
    )
    .unwrap();
    assert!(
        mini.inertia < 1.08 * full.inertia,
        "{} {}",
        mini.inertia,
        full.inertia
    );
}

#[test]
fn bad_input_is_refused() {
    let x = [0.0, 1.0, 2.0];
    let bad = |p: Params<'_>| kmeans(&x, 1, &p).unwrap_err();
    assert!(matches!(bad(Params::new(0)), Error::Value { name: "k", .. }));
    assert!(matches!(bad(Params::new(4)), Error::Value { name: "k", .. }));
    let tol = Params {
        tol: f32::NAN,
        ..Params::new(1)
    };
    assert!(matches!(bad(tol), Error::Value { name: "tol", .. }));
    let weights = Params {
        weights: Some(&[1.0, -1.0, 1.0]),
        ..Params::new(1)
    };
    assert!(matches!(bad(weights), Error::Value { name: "weights", .. }));
    let cosine = Params {
        metric: Metric::Cosine,
        ..Params::new(1)
    };
    assert!(matches!(bad(cosine), Error::Value { name: "X", .. }));
    let err = kmeans(&[0.0, f32::NAN], 1, &Params::new(1)).unwrap_err();
    assert!(matches!(err, Error::NotFinite { index: 1, .. }));
    assert!(matches!(
        kmeans(&[], 1, &Params::new(1)),
        Err(Error::Value { .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Integer grids are full of ties and duplicates: the exact algorithms must still agree, and inertia must be that of
    /// the labels.
    #[test]
    fn exact_algorithms_agree_on_ties(
        cells in prop::collection::vec(0u8..5, 4..240),
        k in 1usize..9,
        seed in 0u64..1000,
    ) {
        let d = 2;
        let x: Vec<f32> = cells[..cells.len() / d * d].iter().map(|c| f32::from(*c)).collect();
        let n = x.len() / d;
        let k = k.min(n);
        let run = |algorithm, n_threads| {
            kmeans(&x, d, &Params { algorithm, n_threads, seed, tol: 0.0, ..Params::new(k) }).unwrap()
        };
        let lloyd = run(Algorithm::Lloyd, 1);
        prop_assert_eq!(&lloyd, &run(Algorithm::Hamerly, 2));
        let inertia: f64 = x
            .chunks_exact(d)
            .zip(&lloyd.labels)
            .map(|(row, l)| {
                let c = &lloyd.centroids[*l as usize * d..];
                row.iter().zip(c).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
            })
            .sum();
        prop_assert!((inertia - lloyd.inertia).abs() <= 1e-4 * (1.0 + inertia));
    }
}
