//! Properties of memory and gate.

use super::*;
use crate::item::ItemId;
use crate::kernels;
use crate::rng::{ChaCha8Rng, Rng, RngExt, normal, stream};
use proptest::prelude::*;

pub(super) const D: usize = 16;

pub(super) struct World {
    ids: Vec<ItemId>,
    vectors: Vec<Vec<f32>>,
    rng: ChaCha8Rng,
}

impl World {
    pub(super) fn new(items: usize, seed: u64) -> Self {
        let mut rng = stream(seed, 0);
        let vectors = (0..items).map(|_| unit(&mut rng)).collect();
        Self {
            ids: (0..items as i64).map(ItemId::Int).collect(),
            vectors,
            rng,
        }
    }

    pub(super) fn with<T>(&self, f: impl FnOnce(&Candidates<'_>) -> T) -> T {
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

    pub(super) fn learn(&self, memory: &mut CaseMemory, q: &[f32], item: usize, weight: f32) -> CaseId {
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

    pub(super) fn near(&mut self, item: usize) -> Vec<f32> {
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

pub(super) fn memory(params: CaseParams) -> CaseMemory {
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

/// Σ (y − p)·s: by how much the items of the feedback are ahead of the rest, in the terms in which they were.
fn advantage(before: &[f32], after: &[f32], item: usize, weight: f32) -> f32 {
    let mut p = before.to_vec();
    kernels::softmax(&mut p, 0.1);
    let rest = 1.0 - p[item];
    let target = |j: usize| match (weight > 0.0, j == item) {
        (true, same) => f32::from(u8::from(same)),
        (false, true) => 0.0,
        (false, false) => p[j] / rest.max(1e-9),
    };
    (0..p.len()).map(|j| (target(j) - p[j]) * after[j]).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// û turns towards g whatever was known before, and recall moves for the item and against its rivals only.
    #[test]
    fn one_feedback_moves_the_next_ranking_the_right_way(seed in 0u64..10_000, n in 0usize..100, reject: bool) {
        let mut world = World::new(10, seed);
        let mut m = memory(CaseParams::default());
        for _ in 0..n {
            let (item, about) = (world.rng.random_range(0..10), world.rng.random_range(0..10));
            let q = world.near(about);
            let weight = if world.rng.random::<f32>() < 0.3 { -1.0 } else { 1.0 };
            world.learn(&mut m, &q, item, weight);
        }
        let (item, about) = (world.rng.random_range(0..10), world.rng.random_range(0..10));
        let q = world.near(about);
        let weight = if reject { -1.0 } else { 1.0 };
        let before = world.scores(&m, &q);
        let r0 = m.recall_of(&m.probe(&q).unwrap(), &world.ids[item]);
        world.learn(&mut m, &q, item, weight);
        let after = world.scores(&m, &q);
        let r1 = m.recall_of(&m.probe(&q).unwrap(), &world.ids[item]);
        let (a0, a1) = (advantage(&before, &before, item, weight), advantage(&before, &after, item, weight));
        prop_assert!(a1 >= a0 - 1e-6, "{a0} -> {a1}");
        prop_assert!((r1 - r0) * weight > 0.0, "recall {r0} -> {r1}");
    }

    #[test]
    fn first_feedback_moves_the_score_itself(seed in 0u64..10_000, reject: bool) {
        let mut world = World::new(10, seed);
        let mut m = memory(CaseParams::default());
        let item = world.rng.random_range(0..10);
        let q = world.near(item);
        let before = world.scores(&m, &q)[item];
        world.learn(&mut m, &q, item, if reject { -1.0 } else { 1.0 });
        let after = world.scores(&m, &q)[item];
        prop_assert!((after > before) != reject, "{before} -> {after}");
    }

    #[test]
    fn candidates_may_come_in_any_order(seed in 0u64..1000, n in 1usize..60, turn in 1usize..8) {
        let mut world = World::new(8, seed);
        let mut m = memory(CaseParams::default());
        world.feed(&mut m, n);
        let q = world.near(2);
        let mut straight = world.scores(&m, &q);
        straight.rotate_left(turn);
        world.ids.rotate_left(turn);
        world.vectors.rotate_left(turn);
        prop_assert_eq!(world.scores(&m, &q), straight);
    }

    #[test]
    fn search_over_byte_codes_finds_the_nearest(seed in 0u64..200) {
        let mut world = World::new(8, seed);
        let mut m = memory(CaseParams { neighbors: 10, ..CaseParams::default() });
        world.feed(&mut m, 600);
        let q = world.near(3);
        let got: Vec<(CaseId, f32)> = m.probe(&q).unwrap().neighbors().collect();
        let mut all: Vec<(CaseId, f32)> = m.segments.iter().flat_map(|s| (0..s.len()).map(move |i| (s, i)))
            .map(|(s, i)| (s.cases[i].id, kernels::dot(s.query(i), &q))).collect();
        all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        for (g, w) in got.iter().zip(&all) {
            prop_assert!((g.1 - w.1).abs() < 2e-3, "{g:?} {w:?}");
        }
        prop_assert_eq!(got.len(), 10);
        prop_assert!(got.iter().filter(|g| all[..10].iter().any(|w| w.0 == g.0)).count() >= 9);
    }
}

#[test]
fn a_rejection_cancels_a_choice_and_touches_no_other_item() {
    let mut world = World::new(4, 7);
    let mut m = memory(CaseParams::default());
    let q = world.near(0);
    world.learn(&mut m, &q, 0, 1.0);
    world.learn(&mut m, &q, 1, 1.0);
    let recall = |m: &CaseMemory, i: usize| m.recall_of(&m.probe(&q).unwrap(), &world.ids[i]);
    let other = recall(&m, 1);
    world.learn(&mut m, &q, 0, -1.0);
    assert_eq!((recall(&m, 0), recall(&m, 1), recall(&m, 2)), (0.0, other, 0.0));
    world.learn(&mut m, &q, 0, -1.0);
    assert!((-1.0..0.0).contains(&recall(&m, 0)));
    assert_eq!(recall(&m, 1), other);
}

#[test]
fn repeated_feedback_limits_itself() {
    let mut world = World::new(6, 3);
    for weight in [1.0, -1.0] {
        let mut m = memory(CaseParams::default());
        let q = world.near(2);
        let mut pulls = Vec::new();
        for _ in 0..30 {
            world.learn(&mut m, &q, 2, weight);
            pulls.push(m.segments.back().unwrap().cases.last().unwrap().pull);
        }
        assert!(pulls[29] < 0.1 * pulls[0].max(0.2), "{weight}: {pulls:?}");
    }
}

#[test]
fn eviction_keeps_the_budget_and_the_rare_items() {
    let mut world = World::new(10, 5);
    let one = {
        let mut m = memory(CaseParams::default());
        world.feed(&mut m, 1);
        m.nbytes()
    };
    let mut m = memory(CaseParams {
        max_bytes: Some(20 * one),
        ..CaseParams::default()
    });
    for item in 0..10 {
        let q = world.near(item);
        world.learn(&mut m, &q, item, 1.0);
    }
    for _ in 0..200 {
        let q = world.near(0);
        world.learn(&mut m, &q, 0, 1.0);
        assert!(m.nbytes() <= 20 * one);
    }
    let left: Vec<i64> = m
        .segments
        .iter()
        .flat_map(|s| &s.cases)
        .filter_map(|c| match c.meta.items[0] {
            ItemId::Int(i) => Some(i),
            _ => None,
        })
        .collect();
    for item in 1..10 {
        assert!(left.contains(&item), "{left:?}");
    }
    let held: usize = m
        .segments
        .iter()
        .flat_map(|s| &s.cases)
        .map(segment::Case::nbytes)
        .sum();
    assert_eq!((m.nbytes(), m.len()), (held, left.len()));
}

#[test]
fn hostile_bytes_are_refused() {
    let mut world = World::new(4, 9);
    let mut m = memory(CaseParams::default());
    world.feed(&mut m, 3);
    let bytes = m.to_bytes().unwrap();
    for cut in 0..bytes.len() {
        assert!(CaseMemory::from_bytes(&bytes[..cut]).is_err());
    }
    // A valid envelope around damaged content.
    let kind = crate::codec::Kind {
        tag: *b"CASE",
        version: 1,
    };
    let payload = crate::codec::open(kind, &bytes).unwrap();
    for at in 0..payload.len() {
        for flip in [1u8, 0x80, 0xff] {
            let mut bad = payload.to_vec();
            bad[at] ^= flip;
            if let Ok(back) = CaseMemory::from_bytes(&crate::codec::seal(kind, &bad)) {
                let probe = back.probe(&vec![0.5; back.dim().min(1 << 20)]);
                assert!(probe.is_err() || probe.unwrap().adapted().iter().all(|v| v.is_finite()));
            }
        }
    }
}

#[test]
fn gate_state_survives_bytes() {
    let mut world = World::new(9, 11);
    let mut m = memory(CaseParams::default());
    let of = |mode| GateParams {
        mode,
        ..GateParams::default()
    };
    let covered = GateParams {
        soft: true,
        start: (0.1, 0.5),
        full_coverage: 0.5,
        ..GateParams::default()
    };
    for params in [
        covered,
        of(GateMode::Evidence),
        of(GateMode::Multiplier),
        of(GateMode::Off),
    ] {
        let mut gate = ItemGate::new(params, 3).unwrap();
        let step = |gate: &mut ItemGate, m: &CaseMemory, q: &[f32], item: usize| {
            world.with(|c| {
                let probe = m.probe(q).unwrap();
                let mut scored = Scored::default();
                m.score(&probe, c, None, &mut scored).unwrap();
                gate.observe(
                    m,
                    &probe,
                    &[ItemId::Int(item as i64)],
                    c,
                    &scored,
                    Looked::default(),
                )
                .unwrap();
            });
        };
        let mut rng = stream(5, 0);
        for i in 0..40 {
            let q = unit(&mut rng);
            step(&mut gate, &m, &q, i % 9);
            world.learn(&mut m, &q, i % 9, 1.0);
        }
        let mut back = ItemGate::from_bytes(&gate.to_bytes().unwrap()).unwrap();
        let q = unit(&mut rng);
        step(&mut gate, &m, &q, 2);
        step(&mut back, &m, &q, 2);
        assert_eq!(gate.to_bytes().unwrap(), back.to_bytes().unwrap());
        assert_eq!((gate.beta(), gate.lambda()), (back.beta(), back.lambda()));
    }
    let _ = world.near(0);
}
