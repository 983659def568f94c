//! Every kernel against its scalar reference, and matrix products against the `gemm` crate, in one run.
//!
//! `cargo bench -p sona-bench --bench kernels`; `python benches/results/criterion_table.py kernels` prints the table.

#![allow(missing_docs, clippy::expect_used)]

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use sona_bench::{gemm_crate, unit_rows};
use sona_core::kernels::{self, Aligned, TopK, scalar};
use std::hint::black_box;

const N: usize = 10_000;

fn vectors(c: &mut Criterion) {
    let mut g = c.benchmark_group("kernels/vectors");
    g.sampling_mode(SamplingMode::Flat);
    for d in [256, 384, 768, 4096] {
        let (x, y) = (unit_rows(1, d, 1), unit_rows(1, d, 2));
        let mut out = y.clone();
        g.throughput(Throughput::Elements(d as u64));
        let mut pair = |name: &str, fast: &mut dyn FnMut(), slow: &mut dyn FnMut()| {
            g.bench_function(BenchmarkId::new(format!("{name}/sona"), d), |b| {
                b.iter(&mut *fast)
            });
            g.bench_function(BenchmarkId::new(format!("{name}/scalar"), d), |b| {
                b.iter(&mut *slow)
            });
        };
        pair(
            "dot",
            &mut || {
                black_box(kernels::dot(black_box(&x), black_box(&y)));
            },
            &mut || {
                black_box(scalar::dot(black_box(&x), black_box(&y)));
            },
        );
        let mut other = out.clone();
        pair(
            "axpy",
            &mut || kernels::axpy(black_box(1e-9), black_box(&x), black_box(&mut out)),
            &mut || scalar::axpy(black_box(1e-9), black_box(&x), black_box(&mut other)),
        );
        pair(
            "all_finite",
            &mut || {
                black_box(kernels::all_finite(black_box(&x)));
            },
            &mut || {
                black_box(scalar::all_finite(black_box(&x)));
            },
        );
        let (mut e, mut f) = (x.clone(), x.clone());
        pair(
            "softmax",
            &mut || {
                e.copy_from_slice(&x);
                kernels::softmax(black_box(&mut e), 0.1);
            },
            &mut || {
                f.copy_from_slice(&x);
                scalar::softmax(black_box(&mut f), 0.1);
            },
        );
        let (mut q, mut r) = (vec![0i8; d], vec![0i8; d]);
        pair(
            "quantize_i8",
            &mut || {
                black_box(kernels::quantize_i8(black_box(&x), black_box(&mut q)));
            },
            &mut || {
                black_box(scalar::quantize_i8(black_box(&x), black_box(&mut r)));
            },
        );
        pair(
            "dot_i8",
            &mut || {
                black_box(kernels::dot_i8(black_box(&q), black_box(&q)));
            },
            &mut || {
                black_box(scalar::dot_i8(black_box(&q), black_box(&q)));
            },
        );
    }
}

fn low_rank(c: &mut Criterion) {
    let mut g = c.benchmark_group("kernels/low_rank");
    g.sampling_mode(SamplingMode::Flat);
    for d in [256, 384, 768, 4096] {
        for rank in [1, 2] {
            let (x, grad) = (unit_rows(1, d, 1), unit_rows(1, d, 2));
            // The factors on cache lines, as an adapter keeps them; the vectors wherever they happen to be.
            let a = Aligned::from(unit_rows(rank, d, 3).as_slice());
            let b = Aligned::from(unit_rows(rank, d, 4).as_slice());
            let mut out = vec![0.0; d];
            g.bench_function(BenchmarkId::new(format!("apply_r{rank}/sona"), d), |bench| {
                bench.iter(|| kernels::low_rank_apply(black_box(&x), &a, &b, rank, 0.7, black_box(&mut out)));
            });
            g.bench_function(BenchmarkId::new(format!("apply_r{rank}/scalar"), d), |bench| {
                bench.iter(|| scalar::low_rank_apply(black_box(&x), &a, &b, rank, 0.7, black_box(&mut out)));
            });
            let (mut a2, mut b2) = (a.clone(), b.clone());
            g.bench_function(BenchmarkId::new(format!("step_r{rank}/sona"), d), |bench| {
                bench.iter(|| {
                    kernels::low_rank_step(
                        black_box(&x),
                        &grad,
                        &mut a2,
                        &mut b2,
                        rank,
                        0.7,
                        black_box(1e-9),
                    );
                });
            });
            g.bench_function(BenchmarkId::new(format!("step_r{rank}/scalar"), d), |bench| {
                bench.iter(|| {
                    let by = scalar::low_rank_project(black_box(&x), &grad, &a2, &b2, rank).times(-1e-9);
                    scalar::low_rank_update(&x, &grad, &by, rank, &mut a2, &mut b2);
                });
            });
        }
    }
    g.throughput(Throughput::Elements(1024));
    for d in [256, 768] {
        let (x, a, b) = (unit_rows(1024, d, 1), unit_rows(2, d, 3), unit_rows(2, d, 4));
        let mut out = vec![0.0; 1024 * d];
        g.bench_function(BenchmarkId::new("rows_1024_r2/sona", d), |bench| {
            bench
                .iter(|| kernels::low_rank_apply_rows(black_box(&x), d, &a, &b, 2, 0.7, black_box(&mut out)));
        });
        g.bench_function(BenchmarkId::new("rows_1024_r2/scalar", d), |bench| {
            bench.iter(|| scalar::low_rank_apply_rows(black_box(&x), d, &a, &b, 2, 0.7, black_box(&mut out)));
        });
        g.bench_function(BenchmarkId::new("rows_1024_r2/copy", d), |bench| {
            bench.iter(|| black_box(&mut out).copy_from_slice(black_box(&x)));
        });
    }
}

/// The scalar reference of a scan: products, then the k best.
fn scan_scalar(rows: &[f32], d: usize, q: &[f32], scores: &mut [f32]) -> Vec<(f32, usize)> {
    scalar::gemv(rows, d, q, scores);
    let mut top = TopK::new(5);
    top.extend(0, scores);
    top.into_sorted()
}

fn search(c: &mut Criterion) {
    let mut g = c.benchmark_group("kernels/search_10000_top5");
    g.sampling_mode(SamplingMode::Flat);
    for d in [256, 384] {
        let (rows, q) = (unit_rows(N, d, 5), unit_rows(64, d, 6));
        let mut scores = vec![0.0; N];
        g.bench_function(BenchmarkId::new("one/sona", d), |b| {
            b.iter(|| kernels::scan_top_k(black_box(&rows), N, d, &q[..d], 5));
        });
        g.bench_function(BenchmarkId::new("one/scalar", d), |b| {
            b.iter(|| scan_scalar(black_box(&rows), d, &q[..d], &mut scores));
        });
        // What the memory gives: every row read once, one addition per register.
        g.bench_function(BenchmarkId::new("one/read_only", d), |b| {
            b.iter(|| kernels::all_finite(black_box(&rows)));
        });
        let (mut bytes, mut qb) = (vec![0i8; N * d], vec![0i8; d]);
        for (row, out) in rows.chunks_exact(d).zip(bytes.chunks_exact_mut(d)) {
            kernels::quantize_i8(row, out);
        }
        kernels::quantize_i8(&q[..d], &mut qb);
        let mut sums = vec![0i32; N];
        g.bench_function(BenchmarkId::new("one_i8/sona", d), |b| {
            b.iter(|| kernels::scan_top_k_i8(black_box(&bytes), N, d, &qb, 5));
        });
        g.bench_function(BenchmarkId::new("one_i8/scalar", d), |b| {
            b.iter(|| {
                scalar::gemv_i8(black_box(&bytes), d, &qb, &mut sums);
                let mut top = TopK::new(5);
                top.extend(0, &sums);
                top.into_sorted()
            });
        });
        g.throughput(Throughput::Elements(64));
        g.bench_function(BenchmarkId::new("batch_64/sona", d), |b| {
            b.iter(|| kernels::scan_top_k_batch(black_box(&rows), N, d, &q, 5));
        });
        g.bench_function(BenchmarkId::new("batch_64/one_by_one", d), |b| {
            b.iter(|| {
                let each = q
                    .chunks_exact(d)
                    .map(|q| kernels::scan_top_k(black_box(&rows), N, d, q, 5));
                each.collect::<Vec<_>>()
            });
        });
        let index: Vec<usize> = (0..50).map(|i| i * 199).collect();
        let (weights, mut out) = (vec![0.1; 50], vec![0.0; d]);
        g.bench_function(BenchmarkId::new("weighted_sum_50/sona", d), |b| {
            b.iter(|| kernels::weighted_sum_rows(black_box(&rows), d, &index, &weights, &mut out));
        });
        g.bench_function(BenchmarkId::new("weighted_sum_50/scalar", d), |b| {
            b.iter(|| scalar::weighted_sum_rows(black_box(&rows), d, &index, &weights, &mut out));
        });
    }
    g.finish();
}

fn products(c: &mut Criterion) {
    let mut g = c.benchmark_group("kernels/gemm_nt");
    g.sampling_mode(SamplingMode::Flat);
    for (n, m, d) in [
        (N, 64, 256),
        (N, 64, 384),
        (N, 100, 256),
        (1024, 1024, 256),
        (512, 512, 64),
        (256, 256, 4096),
    ] {
        let (a, b) = (unit_rows(n, d, 7), unit_rows(m, d, 8));
        let mut out = vec![0.0; n * m];
        let id = format!("{n}x{m}x{d}");
        g.throughput(Throughput::Elements((n * m * d) as u64));
        g.bench_function(BenchmarkId::new("sona", &id), |bench| {
            bench.iter(|| kernels::gemm_nt(black_box(&a), black_box(&b), d, black_box(&mut out)));
        });
        g.bench_function(BenchmarkId::new("gemm_crate", &id), |bench| {
            bench.iter(|| gemm_crate(black_box(&a), black_box(&b), d, black_box(&mut out)));
        });
    }
    g.finish();
    let values = unit_rows(1, 16_384, 9);
    let mut g = c.benchmark_group("kernels/top_k_16384");
    g.sampling_mode(SamplingMode::Flat);
    for k in [5, 64, 1000] {
        g.bench_function(BenchmarkId::new("sona", k), |b| {
            b.iter(|| kernels::top_k(black_box(&values), k))
        });
        g.bench_function(BenchmarkId::new("scalar", k), |b| {
            b.iter(|| scalar::top_k(black_box(&values), k))
        });
    }
}

/// Many short samples: on a shared machine the fastest tenth of them ran undisturbed.
fn short() -> Criterion {
    let millis = std::time::Duration::from_millis;
    Criterion::default()
        .warm_up_time(millis(100))
        .measurement_time(millis(100))
        .sample_size(100)
        .without_plots()
}

criterion_group! {
    name = benches;
    config = short();
    targets = vectors, low_rank, search, products
}
criterion_main!(benches);
