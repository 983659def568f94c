//! Case memory at d 384: probe (adapt), scoring, learning with the gate; by number of cases.
//!
//! Requests have the spectrum of real ones (variance of axis i ∝ 1/i; cosine of the 128th nearest of 10,000: about .45).

#![allow(clippy::expect_used, missing_docs)]

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use sona_bench::unit_rows;
use sona_core::item::ItemId;
use sona_core::kernels;
use sona_core::patterns::cases::{
    Candidates, CaseMemory, CaseParams, GateParams, ItemGate, Looked, NewCase, Scored,
};
use sona_core::rng::{normal, stream};
use std::cell::Cell;
use std::hint::black_box;
use std::sync::Arc;

const D: usize = 384;
const TOPICS: usize = 77;
const CANDIDATES: usize = 50;
const AXES: usize = 200;

struct World {
    ids: Vec<ItemId>,
    items: Vec<f32>,
    basis: Vec<f32>,
}

impl World {
    fn new() -> Self {
        Self {
            ids: (0..TOPICS)
                .map(|i| ItemId::from(format!("document-{i}").as_str()))
                .collect(),
            items: unit_rows(TOPICS, D, 1),
            basis: unit_rows(AXES, D, 2),
        }
    }

    fn request(&self, i: usize) -> Vec<f32> {
        let mut rng = stream(3, i as u64);
        let mut q = vec![0.0; D];
        for (axis, direction) in self.basis.chunks_exact(D).enumerate() {
            let scale = 1.0 / ((axis + 1) as f32).sqrt();
            kernels::axpy(scale * normal(&mut rng) as f32, direction, &mut q);
        }
        kernels::normalize(&mut q);
        q
    }

    fn with<T>(&self, first: usize, f: impl FnOnce(&Candidates<'_>) -> T) -> T {
        let at: Vec<usize> = (0..CANDIDATES).map(|i| (first + i) % TOPICS).collect();
        let ids: Vec<&ItemId> = at.iter().map(|&i| &self.ids[i]).collect();
        let rows: Vec<&[f32]> = at.iter().map(|&i| &self.items[i * D..(i + 1) * D]).collect();
        f(&Candidates::new(&ids, &rows, D).expect("candidates"))
    }

    fn learn(&self, memory: &mut CaseMemory, gate: &mut ItemGate, i: usize) {
        let q = self.request(i);
        let topic = i.wrapping_mul(2_654_435_761) % TOPICS;
        let chosen = [self.ids[topic].clone()];
        self.with(topic, |c| {
            let probe = memory.probe(&q).expect("probe");
            let mut scored = Scored::default();
            memory.score(&probe, c, None, &mut scored).expect("score");
            gate.observe(memory, &probe, &chosen, c, &scored, Looked::default())
                .expect("observe");
            let case = NewCase {
                chosen: &chosen,
                candidates: c,
                scores: Some(&scored.scores),
                weight: 1.0,
                source: Arc::from("click"),
                user: Arc::from(""),
                at: 0.0,
            };
            memory.learn(&probe, &case).expect("learn");
        });
    }

    fn filled(&self, n: usize) -> (CaseMemory, ItemGate) {
        let mut memory = CaseMemory::new(D, CaseParams::default(), 0).expect("memory");
        let mut gate = ItemGate::new(GateParams::default(), 0).expect("gate");
        for i in 0..n {
            self.learn(&mut memory, &mut gate, i);
        }
        (memory, gate)
    }
}

fn cases(c: &mut Criterion) {
    let world = World::new();
    for n in [0usize, 1_000, 10_000] {
        let (memory, gate) = world.filled(n);
        let clock = Cell::new(n);
        let tick = || clock.replace(clock.get() + 1);
        c.bench_function(&format!("cases/probe/{n}"), |b| {
            b.iter_batched(
                || world.request(tick()),
                |q| memory.probe(black_box(&q)).expect("probe"),
                BatchSize::SmallInput,
            );
        });
        c.bench_function(&format!("cases/score_50/{n}"), |b| {
            b.iter_batched(
                || world.request(tick()),
                |q| {
                    world.with(clock.get() % TOPICS, |candidates| {
                        let probe = memory.probe(black_box(&q)).expect("probe");
                        let (mut scored, mut out) = (Scored::default(), Vec::new());
                        memory
                            .score(&probe, candidates, None, &mut scored)
                            .expect("score");
                        gate.apply(&probe, candidates, &scored, &mut out);
                        out
                    })
                },
                BatchSize::SmallInput,
            );
        });
        c.bench_function(&format!("cases/feedback/{n}"), |b| {
            let (mut memory, mut gate) = (memory.clone(), gate.clone());
            // What an engine does: the last state stays published while the next one is made.
            let mut published = (memory.clone(), gate.clone());
            b.iter(|| {
                published = (memory.clone(), gate.clone());
                world.learn(&mut memory, &mut gate, tick());
                black_box(&published);
            });
        });
    }
}

criterion_group!(benches, cases);
criterion_main!(benches);
