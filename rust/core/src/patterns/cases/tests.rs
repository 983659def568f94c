//! Properties of memory and gate.

use super::*;
use crate::item::ItemId;
use crate::kernels;
use crate::rng::{ChaCha8Rng, Rng, RngExt, normal, stream};
use proptest::prelude::*;

const D: usize = 16;

struct World {
    ids: Vec<ItemId>,
    vectors: Vec<Vec<f32>>,
    rng: ChaCha8Rng,
}

impl World {
    fn new(items: usize, seed: u64) -> Self {
        let mut rng = stream(seed, 0);
        let vectors = (0..items).map(|_| unit(&mut rng)).collect();
        Self {
            ids: (0..items as i64).map(ItemId::Int).collect(),
            vectors,
            rng,
        }
    }

    fn with<T>(&self, f: impl FnOnce(&Candidates<'_>) -> T) -> T {
        let ids: Vec<&ItemId> = self.ids.iter().collect();
        let rows: Vec<&[f32]> = self.vectors.iter().map(Vec::as_slice).collect();
        f(&Candidates::new(&ids, &rows, D).unwrap())
    }

    fn scores(&self, memory: &CaseMemory, q: &[f32]) -> Vec<f32> {
        self.with(|c| {
            let mut out = Scored::default();
            memory
                .score(&memory.probe(q).unwrap(), c, None, &mut out)
                .unwrap();
            out.scores
        })
    }

    fn learn(&self, memory: &mut CaseMemory, q: &[f32], item: usize, weight: f32) -> CaseId {
        let probe = memory.probe(q).unwrap();
        let chosen = [self.ids[item].clone()];
        self.with(|candidates| {
            memory
                .learn(&probe, &new_case(&chosen, candidates, weight))
                .unwrap()
        })
    }

    fn feed(&mut self, memory: &mut CaseMemory, n: usize) -> Vec<CaseId> {
        (0..n)
            .map(|_| {
                let item = self.rng.random_range(0..self.ids.len());
                let q = self.near(item);
                self.learn(memory, &q, item, 1.0)
            })
            .collect()
    }

    fn near(&mut self, item: usize) -> Vec<f32> {
        let noise = unit(&mut self.rng);
        let mut q: Vec<f32> = self.vectors[item]
            .iter()
            .zip(noise)
            .map(|(v, n)| v + 0.8 * n)
            .collect();
        kernels::normalize(&mut q);
        q
    }
}

fn unit(rng: &mut impl Rng) -> Vec<f32> {
    let mut v: Vec<f32> = (0..D).map(|_| normal(rng) as f32).collect();
    kernels::normalize(&mut v);
    v
}

fn new_case<'a>(chosen: &'a [ItemId], candidates: &'a Candidates<'a>, weight: f32) -> NewCase<'a> {
    NewCase {
        chosen,
        candidates,
        scores: None,
        weight,
        source: "".into(),
        user: "".into(),
        at: 0.0,
    }
}

fn memory(params: CaseParams) -> CaseMemory {
    CaseMemory::new(D, params, 0).unwrap()
}

#[test]
fn no_cases_is_the_identity_bit_for_bit() {
    let world = World::new(5, 1);
    let m = memory(CaseParams::default());
    let q: Vec<f32> = (0..D).map(|i| i as f32 * 0.3 - 1.0).collect();
    let probe = m.probe(&q).unwrap();
    assert_eq!(probe.adapted(), q);
    let base = [0.3f32, f32::MIN_POSITIVE, -7.5, 0.0, 1e30];
    let gate = ItemGate::new(GateParams::default(), 0).unwrap();
    world.with(|c| {
        let (mut scored, mut out) = (Scored::default(), Vec::new());
        m.score(&probe, c, Some(&base), &mut scored).unwrap();
        gate.apply(&probe, c, &scored, &mut out);
        assert_eq!(out, base);
        assert_eq!(scored.recall, [0.0; 5]);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn removal_equals_never_having_learned(seed in 0u64..1000, n in 1usize..200, every in 2usize..5) {
        let mut world = World::new(12, seed);
        let params = CaseParams { neighbors: 8, ..CaseParams::default() };
        // Gradients depend on what was known when a case came: both memories learn from given scores.
        let (mut all, mut few) = (memory(params), memory(params));
        let mut gone = Vec::new();
        let flat = vec![0.0; world.ids.len()];
        for i in 0..n {
            let item = world.rng.random_range(0..world.ids.len());
            let q = world.near(item);
            let chosen = [world.ids[item].clone()];
            world.with(|c| {
                let case = NewCase { scores: Some(&flat), ..new_case(&chosen, c, 1.0) };
                let id = all.learn(&all.probe(&q).unwrap(), &case).unwrap();
                if i % every == 0 {
                    gone.push(id);
                } else {
                    few.learn(&few.probe(&q).unwrap(), &case).unwrap();
                }
            });
        }
        prop_assert_eq!(all.remove(&gone), gone.len());
        prop_assert_eq!(all.remove(&gone), 0);
        prop_assert_eq!((all.len(), all.nbytes()), (few.len(), few.nbytes()));
        for item in 0..6 {
            let q = world.near(item);
            prop_assert_eq!(world.scores(&all, &q), world.scores(&few, &q));
        }
    }

    #[test]
    fn snapshots_do_not_move(seed in 0u64..1000, n in 0usize..150) {
        let mut world = World::new(8, seed);
        let mut m = memory(CaseParams::default());
        world.feed(&mut m, n);
        let q = world.near(0);
        let (snapshot, before) = (m.clone(), world.scores(&m, &q));
        world.feed(&mut m, 70);
        m.remove(&(0..n as u64).step_by(3).collect::<Vec<_>>());
        prop_assert_eq!(world.scores(&snapshot, &q), before);
    }

    #[test]
    fn bytes_continue_as_if_never_stopped(seed in 0u64..1000, n in 0usize..150) {
        let mut world = World::new(8, seed);
        let mut m = memory(CaseParams { neighbors: 30, ..CaseParams::default() });
        world.feed(&mut m, n);
        m.remove(&[1, 5]);
        let mut back = CaseMemory::from_bytes(&m.to_bytes().unwrap()).unwrap();
        let q = world.near(1);
        world.learn(&mut m, &q, 1, 1.0);
        world.learn(&mut back, &q, 1, 1.0);
        prop_assert_eq!(m.to_bytes().unwrap(), back.to_bytes().unwrap());
        prop_assert_eq!(world.scores(&m, &q), world.scores(&back, &q));
    }
}
