//! The fast adapter: forward, batch, learning step, each against plain scalar Rust in the same run.
//!
//! `cargo bench -p sona-bench --bench lora`

#![allow(missing_docs, clippy::expect_used)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use sona_bench::unit_rows;
use sona_core::kernels::scalar;
use sona_core::lora::{MicroConfig, MicroLora, Rule, SharedMicroLora};
use std::hint::black_box;

fn config(d: usize, rule: &str) -> MicroConfig {
    let mut c = MicroConfig::new(d, 2);
    c.rule = Rule::parse(rule).expect("a rule");
    // So small that the adapter stays where it is however often the step runs.
    c.learning_rate = 1e-7;
    c
}

fn trained(d: usize, rule: &str) -> MicroLora {
    let mut l = MicroLora::new(config(d, rule)).expect("a valid configuration");
    l.set_factors(unit_rows(2, d, 1), unit_rows(d, 2, 2))
        .expect("factors");
    l
}

fn forward(c: &mut Criterion) {
    let mut g = c.benchmark_group("lora/forward");
    for d in [256, 384, 768, 4096] {
        let shared = SharedMicroLora::new(trained(d, "adamw"));
        let (x, mut out) = (unit_rows(1, d, 3), vec![0.0; d]);
        g.bench_function(BenchmarkId::new("sona", d), |b| {
            b.iter(|| shared.factors().forward_into(black_box(&x), black_box(&mut out)));
        });
        let f = shared.snapshot();
        g.bench_function(BenchmarkId::new("scalar", d), |b| {
            b.iter(|| scalar::low_rank_apply(black_box(&x), f.a(), f.b(), 2, f.scale(), black_box(&mut out)));
        });
    }
    g.finish();
    let mut g = c.benchmark_group("lora/forward batch 1024");
    for d in [256, 768] {
        let f = trained(d, "adamw").factors().clone();
        let (x, mut out) = (unit_rows(1024, d, 3), vec![0.0; 1024 * d]);
        g.throughput(Throughput::Elements(1024));
        g.bench_function(BenchmarkId::new("sona", d), |b| {
            b.iter(|| f.forward_rows(black_box(&x), black_box(&mut out)));
        });
        g.bench_function(BenchmarkId::new("scalar", d), |b| {
            b.iter(|| {
                scalar::low_rank_apply_rows(
                    black_box(&x),
                    d,
                    f.a(),
                    f.b(),
                    2,
                    f.scale(),
                    black_box(&mut out),
                );
            });
        });
    }
    g.finish();
}

fn step(c: &mut Criterion) {
    let mut g = c.benchmark_group("lora/step");
    for d in [256, 768] {
        let (x, ascent) = (unit_rows(1, d, 3), unit_rows(1, d, 4));
        // So small that millions of steps do not lead to the trust region's border.
        let rate = Some(1e-12);
        for rule in ["sgd", "adagrad", "adamw"] {
            let shared = SharedMicroLora::new(MicroLora::new(config(d, rule)).expect("a configuration"));
            shared.learn_parts(&x, &ascent, 0.5, rate).expect("a step");
            g.bench_function(BenchmarkId::new(format!("{rule}, learn"), d), |b| {
                b.iter(|| shared.learn_parts(black_box(&x), black_box(&ascent), 0.5, rate));
            });
            g.bench_function(
                BenchmarkId::new(format!("{rule}, accumulate and apply"), d),
                |b| {
                    b.iter(|| {
                        let _ = shared.accumulate_parts(black_box(&x), black_box(&ascent), 0.5);
                        shared.apply(rate)
                    });
                },
            );
        }
        // At the border of the trust region every step walks over the last 256 queries.
        let mut hot = config(d, "sgd");
        hot.learning_rate = 0.1;
        let shared = SharedMicroLora::new(MicroLora::new(hot).expect("a configuration"));
        g.bench_function(BenchmarkId::new("sgd, at the trust region's border", d), |b| {
            b.iter(|| shared.learn_parts(black_box(&x), black_box(&ascent), 0.5, None));
        });
        let (mut a, mut b_) = (unit_rows(2, d, 1), unit_rows(d, 2, 2));
        g.bench_function(BenchmarkId::new("sgd, scalar without safeguards", d), |b| {
            b.iter(|| {
                let by = scalar::low_rank_project(black_box(&x), &ascent, &a, &b_, 2).times(-1e-9);
                scalar::low_rank_update(&x, &ascent, &by, 2, &mut a, &mut b_);
            });
        });
    }
    g.finish();
}

criterion_group!(benches, forward, step);
criterion_main!(benches);
