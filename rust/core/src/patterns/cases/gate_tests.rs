//! Properties of the gate that starts with a handicap.

use super::tests::{World, memory};
use super::*;
use crate::item::ItemId;

/// A gate that starts at (.1, .5), after `n` feedbacks on item 0 at which the items `shown` were shown.
fn started(full_coverage: f64, shown: &[usize], n: usize) -> (World, CaseMemory, ItemGate) {
    let mut world = World::new(12, 5);
    let mut m = memory(CaseParams::default());
    let params = GateParams {
        soft: true,
        start: (0.1, 0.5),
        full_coverage,
        ..GateParams::default()
    };
    let mut gate = ItemGate::new(params, 0).unwrap();
    for _ in 0..n {
        let q = world.near(0);
        world.with(|c| {
            let probe = m.probe(&q).unwrap();
            let mut scored = Scored::default();
            m.score(&probe, c, None, &mut scored).unwrap();
            let how = Looked {
                shown: Some(shown),
                ..Looked::default()
            };
            gate.observe(&m, &probe, &[ItemId::Int(0)], c, &scored, how)
                .unwrap();
        });
        world.learn(&mut m, &q, 0, 1.0);
    }
    (world, m, gate)
}

/// What the gate adds to each item's score for a request near item 0.
fn offsets(world: &mut World, m: &CaseMemory, gate: &ItemGate) -> Vec<f32> {
    let q = world.near(0);
    world.with(|c| {
        let probe = m.probe(&q).unwrap();
        let (mut scored, mut out) = (Scored::default(), Vec::new());
        m.score(&probe, c, None, &mut scored).unwrap();
        gate.apply(&probe, c, &scored, &mut out);
        out.iter().zip(&scored.scores).map(|(a, b)| a - b).collect()
    })
}

#[test]
fn handicap_grows_with_coverage() {
    let spread = |full: f64, shown: &[usize]| {
        let (mut world, m, gate) = started(full, shown, 12);
        let added = offsets(&mut world, &m, &gate);
        assert!(
            added[0].abs() < 1e-6,
            "an item with evidence needs no handicap: {}",
            added[0]
        );
        added[1..].iter().sum::<f32>() / 11.0
    };
    let whole = spread(0.0, &[0, 1]);
    assert!((0.05..0.15).contains(&whole), "{whole}");
    // Item 0 takes half of the places from the second feedback on, or one of ten, or none.
    let half = 11.0 / 12.0 * 0.5;
    assert!((spread(1.0, &[0, 1]) / whole - half).abs() < 0.01);
    assert!((spread(0.1, &[0, 1]) - whole).abs() < 1e-6);
    assert!((spread(1.0, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]) / whole - half / 5.0).abs() < 0.01);
    assert_eq!(spread(1.0, &[3, 4]), 0.0);
}

#[test]
fn gate_refuses_what_is_no_arm_and_no_share() {
    let with = |f: fn(&mut GateParams)| {
        let mut p = GateParams::default();
        f(&mut p);
        ItemGate::new(p, 0).unwrap_err().to_string()
    };
    assert!(with(|p| p.start = (0.07, 0.5)).starts_with("start"));
    assert!(with(|p| p.start = (f64::NAN, 0.5)).starts_with("start"));
    assert!(with(|p| p.full_coverage = 1.1).starts_with("full_coverage"));
    assert!(with(|p| p.full_coverage = f64::NAN).starts_with("full_coverage"));
    let (mut world, m, mut gate) = started(0.5, &[0], 3);
    let q = world.near(0);
    world.with(|c| {
        let probe = m.probe(&q).unwrap();
        let mut scored = Scored::default();
        m.score(&probe, c, None, &mut scored).unwrap();
        for weight in [-1.0, f64::NAN, f64::INFINITY] {
            let how = Looked {
                weight,
                ..Looked::default()
            };
            assert!(
                gate.observe(&m, &probe, &[ItemId::Int(0)], c, &scored, how)
                    .is_err()
            );
        }
    });
    assert_eq!(gate.count(), 3);
}
