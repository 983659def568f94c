//! Routing: a decision among 100 models, 100 candidates through the FastGRNN cell, kNN over 10,000 requests.

use criterion::{Criterion, criterion_group, criterion_main};
use sona_bench::clustered_rows;
use sona_core::routing::{FastGrnn, FitOptions, Kind, KnnRouter, Router, Settings};
use std::hint::black_box;

const D: usize = 384;

fn settings(kind: Kind) -> Settings {
    Settings {
        dim: D,
        k: 40,
        cost_weight: 0.01,
        alpha: 0.1,
        epsilon: 0.1,
        exploration: 0.02,
        kind,
        floor: None,
        fallback: None,
        abstain: 0.0,
        breaker: (5, 30.0),
        half_life: 1e4,
        judge_error: 0.0,
        capacity: 20_000,
        seed: 0,
    }
}

fn decision(c: &mut Criterion) {
    for (kind, models, cases) in [
        (Kind::Linear, 100, 2000),
        (Kind::Linear, 11, 2000),
        (Kind::Logistic, 100, 2000),
        (Kind::LinUcb, 100, 2000),
        (Kind::Thompson, 100, 2000),
        (Kind::Hybrid, 100, 2000),
        (Kind::Hybrid, 11, 2000),
        (Kind::Knn, 11, 10_000),
    ] {
        let prices: Vec<f64> = (0..models).map(|m| 1.0 + f64::from(m)).collect();
        let rows = clustered_rows(cases, D, 100, 0);
        let mut router = Router::new(&prices, settings(kind), None, None).unwrap_or_else(|e| panic!("{e}"));
        for (i, x) in rows.chunks_exact(D).enumerate() {
            let quality = f64::from(u8::from(i % 3 == 0));
            let learned = router.learn(x, i % prices.len(), quality, None);
            learned.unwrap_or_else(|e| panic!("{e}"));
        }
        let name = format!("decision/{}/{models} models/{cases} cases", kind.name());
        let mut at = 0;
        c.bench_function(&name, |b| {
            b.iter(|| {
                at = (at + 1) % cases;
                black_box(router.route(&rows[at * D..(at + 1) * D], None, None, None, 0.0))
            });
        });
    }
}

fn trained(n_hidden: usize, rank: Option<usize>) -> FastGrnn {
    let mut cell = FastGrnn::new(D, n_hidden, rank, None, (1.0, -4.0), 0).unwrap_or_else(|e| panic!("{e}"));
    let rows = clustered_rows(64, D, 8, 3);
    let sequences: Vec<Vec<f32>> = rows.chunks_exact(D).map(<[f32]>::to_vec).collect();
    let targets: Vec<Vec<f32>> = (0..64u8).map(|i| vec![f32::from(i % 2)]).collect();
    let options = FitOptions {
        epochs: 1,
        batch_size: 16,
        learning_rate: 0.01,
        weight_decay: 0.0,
        clip_norm: 5.0,
        logistic: true,
        seed: 0,
    };
    cell.fit(&sequences, &targets, options)
        .unwrap_or_else(|e| panic!("{e}"));
    cell
}

fn candidates(c: &mut Criterion) {
    let rows = clustered_rows(100, D, 10, 1);
    // A wide single step is a two-layer perceptron with gates: the cost of an MLP with 64 hidden units.
    for (name, hidden, rank) in [
        ("8 hidden, rank 4", 8, Some(4)),
        ("8 hidden", 8, None),
        ("64 hidden", 64, None),
    ] {
        let scorer = trained(hidden, rank)
            .row_scorer()
            .unwrap_or_else(|e| panic!("{e}"));
        c.bench_function(&format!("100 candidates x 384/{name}"), |b| {
            b.iter(|| black_box(scorer.score(&rows)));
        });
    }
}

fn nearest(c: &mut Criterion) {
    let rows = clustered_rows(10_000, D, 100, 2);
    let mut knn = KnnRouter::new(1, D, 100, 10_000).unwrap_or_else(|e| panic!("{e}"));
    for x in rows.chunks_exact(D) {
        knn.learn(x, 0, 0.5).unwrap_or_else(|e| panic!("{e}"));
    }
    c.bench_function("knn-100/10,000 x 384", |b| {
        b.iter(|| black_box(knn.predict(&rows[..D])))
    });
}

criterion_group!(benches, decision, candidates, nearest);
criterion_main!(benches);
