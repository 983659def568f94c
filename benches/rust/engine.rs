//! The engine without Python: adapt, rank and feedback by number of cases and of scopes.
//!
//! Requests have the spectrum of sentence vectors (variance of axis i ∝ 1/i). Feedback goes to an engine in memory; what a
//! state directory adds is in benches/rust/store.rs.

#![allow(clippy::expect_used, missing_docs)]

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use sona_bench::unit_rows;
use sona_core::engine::{Decision, Engine, EngineConfig, Feedback, IdRef, Request};
use sona_core::kernels;
use sona_core::rng::{normal, stream};
use std::cell::Cell;
use std::hint::black_box;

const ITEMS: usize = 500;
const CANDIDATES: usize = 50;

struct World {
    engine: Engine,
    dim: usize,
    ids: Vec<String>,
    items: Vec<f32>,
    requests: Vec<f32>,
    clock: Cell<usize>,
}

impl World {
    fn new(dim: usize) -> Self {
        let config = EngineConfig {
            case_bytes: None,
            user_cap_per_minute: 0,
            ..EngineConfig::new(dim)
        };
        let mut rng = stream(3, 0);
        let mut requests = vec![0.0; 20_000 * dim];
        for q in requests.chunks_exact_mut(dim) {
            for (i, v) in q.iter_mut().enumerate() {
                *v = normal(&mut rng) as f32 / ((i + 1) as f32).sqrt();
            }
            kernels::normalize(q);
        }
        Self {
            engine: Engine::in_memory(config).expect("engine"),
            dim,
            ids: (0..ITEMS).map(|i| format!("document {i}")).collect(),
            items: unit_rows(ITEMS, dim, 1),
            requests,
            clock: Cell::new(0),
        }
    }

    fn tick(&self) -> usize {
        self.clock.replace(self.clock.get() + 1)
    }

    fn request(&self, i: usize) -> &[f32] {
        let at = i % 20_000 * self.dim;
        &self.requests[at..at + self.dim]
    }

    fn rank(&self, scope: &str, i: usize) -> Decision {
        let first = i * 13 % (ITEMS - CANDIDATES);
        let ids: Vec<IdRef<'_>> = self.ids[first..first + CANDIDATES]
            .iter()
            .map(|id| IdRef::Str(id))
            .collect();
        let request = Request {
            scope,
            query: self.request(i),
            ids: &ids,
            vectors: Some(&self.items[first * self.dim..(first + CANDIDATES) * self.dim]),
            scores: None,
            k: 10,
            user: "",
            now: 0.0,
        };
        self.engine.rank(&request).expect("rank")
    }

    fn feedback(&self, i: usize, decision: &Decision) {
        let first = i * 13 % (ITEMS - CANDIDATES);
        let chosen = &self.ids[first + decision.order[i % 3] as usize];
        let feedback = Feedback {
            decision: decision.id.expect("recorded"),
            rewards: &[(IdRef::Str(chosen), 1.0)],
            vectors: None,
            quality: None,
            source: "click",
            user: "",
            now: 0.0,
        };
        self.engine.feedback(&feedback).expect("feedback");
    }

    fn learn(&self, scope: &str, i: usize) {
        let decision = self.rank(scope, i);
        self.feedback(i, &decision);
    }

    fn bench(&self, c: &mut Criterion, name: &str, scope: impl Fn(usize) -> String) {
        let mut out = vec![0.0; self.dim];
        c.bench_function(&format!("engine/adapt/{name}"), |b| {
            b.iter_batched(
                || self.tick(),
                |i| self.engine.adapt(&scope(i), black_box(self.request(i)), &mut out),
                BatchSize::SmallInput,
            );
        });
        c.bench_function(&format!("engine/rank_50/{name}"), |b| {
            b.iter_batched(|| self.tick(), |i| self.rank(&scope(i), i), BatchSize::SmallInput);
        });
    }
}

fn by_cases(c: &mut Criterion) {
    for dim in [256, 384] {
        let world = World::new(dim);
        let mut cases = 0;
        // To feed 100,000 cases takes minutes.
        let largest = if dim == 256 { 100_000 } else { 10_000 };
        for n in [0usize, 1_000, 10_000, 100_000]
            .into_iter()
            .filter(|n| *n <= largest)
        {
            while cases < n {
                world.learn("default", world.tick());
                cases += 1;
            }
            let name = format!("{dim}/{n}_cases");
            world.bench(c, &name, |_| "default".into());
            if n > 0 {
                // The memory grows by one case with each sample.
                c.bench_function(&format!("engine/feedback/{name}"), |b| {
                    b.iter_batched(
                        || {
                            let i = world.tick();
                            (i, world.rank("default", i))
                        },
                        |(i, decision)| world.feedback(i, &decision),
                        BatchSize::PerIteration,
                    );
                });
            }
        }
    }
}

fn by_scopes(c: &mut Criterion) {
    let world = World::new(256);
    let mut made = 0;
    for n in [1usize, 1_000, 100_000] {
        for i in made..n {
            world.learn(&format!("tenant {i}"), world.tick());
        }
        made = n;
        world.bench(c, &format!("256/{n}_scopes"), |i| {
            format!("tenant {}", i.wrapping_mul(2_654_435_761) % n)
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(50);
    targets = by_cases, by_scopes
}
criterion_main!(benches);
