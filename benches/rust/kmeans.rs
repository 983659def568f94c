//! K-means: one assignment against scalar Rust, seeding, whole runs.
//!
//! `cargo bench -p sona-bench --bench kmeans`

#![allow(missing_docs, clippy::expect_used)]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use sona_bench::{gemm_crate, unit_rows};
use sona_core::kernels::coarse::{self, Coarse};
use sona_core::kernels::nearest::{Nearest, Sites, TILE, half_norms, pack_tile};
use sona_core::kernels::scalar;
use sona_core::kernels::split::Engine;
use sona_core::patterns::kmeans::{Algorithm, Params, kmeans, kmeans_plus_plus};
use std::hint::black_box;

const D: usize = 256;

fn assignment(c: &mut Criterion) {
    let mut g = c.benchmark_group("kmeans/assign_tile");
    for k in [50, 100] {
        let (points, centroids) = (unit_rows(TILE, D, 1), unit_rows(k, D, 2));
        let sites = Sites::pack(&centroids, D);
        let mut tile = vec![0.0; TILE * D];
        pack_tile(points.chunks_exact(D), D, &mut tile);
        let mut out = Nearest::default();
        g.bench_function(BenchmarkId::new("sona", k), |b| {
            b.iter(|| black_box(&sites).nearest(black_box(&tile), &mut out));
        });
        g.bench_function(BenchmarkId::new("scalar", k), |b| {
            b.iter(|| {
                let mut labels = [0usize; TILE];
                for (label, x) in labels.iter_mut().zip(points.chunks_exact(D)) {
                    let mut best = f32::INFINITY;
                    for (i, row) in centroids.chunks_exact(D).enumerate() {
                        let d2 = scalar::squared_l2(black_box(x), row);
                        if d2 < best {
                            (best, *label) = (d2, i);
                        }
                    }
                }
                labels
            });
        });
    }
    g.finish();
}

/// Labels of a thousand points: tiles, and a general product with the choice of the best after it.
fn assignment_in_cache(c: &mut Criterion) {
    const N: usize = 1024;
    let mut g = c.benchmark_group("kmeans/assign_1024");
    let points = unit_rows(N, D, 1);
    for k in [50, 100] {
        let centroids = unit_rows(k, D, 2);
        let sites = Sites::pack(&centroids, D);
        let mut labels = vec![0u32; N];
        let mut tiles = vec![0.0; N * D];
        for (tile, rows) in tiles.chunks_exact_mut(TILE * D).zip(points.chunks(TILE * D)) {
            pack_tile(rows.chunks_exact(D), D, tile);
        }
        let mut out = Nearest::default();
        g.bench_function(BenchmarkId::new("sona", k), |b| {
            b.iter(|| {
                for (tile, labels) in tiles.chunks_exact(TILE * D).zip(labels.chunks_exact_mut(TILE)) {
                    sites.nearest(black_box(tile), &mut out);
                    labels.copy_from_slice(&out.indices());
                }
            });
        });
        if let (Some(rough), Some(engine)) = (
            Coarse::pack(&centroids, D, &half_norms(&centroids, D)),
            Engine::start::<f32>(),
        ) {
            for (tile, rows) in tiles.chunks_exact_mut(TILE * D).zip(points.chunks(TILE * D)) {
                coarse::pack_points(rows.chunks_exact(D), D, tile);
            }
            g.bench_function(BenchmarkId::new("sona, coarse", k), |b| {
                b.iter(|| {
                    for (tile, labels) in tiles.chunks_exact(TILE * D).zip(labels.chunks_exact_mut(TILE)) {
                        rough.nearest(&engine, black_box(tile), &mut out);
                        labels.copy_from_slice(&out.indices());
                    }
                });
            });
        }
        let half: Vec<f32> = centroids
            .chunks_exact(D)
            .map(|c| 0.5 * scalar::dot(c, c))
            .collect();
        let mut products = vec![0.0; N * k];
        g.bench_function(BenchmarkId::new("gemm_crate", k), |b| {
            b.iter(|| {
                gemm_crate(black_box(&points), black_box(&centroids), D, &mut products);
                for (label, row) in labels.iter_mut().zip(products.chunks_exact(k)) {
                    let mut best = f32::NEG_INFINITY;
                    for (i, (t, half)) in row.iter().zip(&half).enumerate() {
                        if t - half > best {
                            (best, *label) = (t - half, i as u32);
                        }
                    }
                }
            });
        });
    }
    g.finish();
}

fn runs(c: &mut Criterion) {
    let mut g = c.benchmark_group("kmeans/10000x256");
    g.sample_size(10);
    let x = unit_rows(10_000, D, 3);
    for k in [50, 100] {
        g.bench_function(BenchmarkId::new("plus_plus", k), |b| {
            b.iter(|| kmeans_plus_plus(black_box(&x), D, k, None, 0).expect("valid"));
        });
        for (name, algorithm) in [("lloyd", Algorithm::Lloyd), ("auto", Algorithm::Auto)] {
            let params = Params {
                max_iterations: 20,
                tol: 0.0,
                algorithm,
                ..Params::new(k)
            };
            g.bench_function(BenchmarkId::new(name, k), |b| {
                b.iter(|| kmeans(black_box(&x), D, &params).expect("valid"));
            });
            let two = Params {
                n_threads: 2,
                ..params
            };
            g.bench_function(BenchmarkId::new(format!("{name}, 2 threads"), k), |b| {
                b.iter(|| kmeans(black_box(&x), D, &two).expect("valid"));
            });
        }
    }
    g.finish();
}

criterion_group!(benches, assignment, assignment_in_cache, runs);
criterion_main!(benches);
