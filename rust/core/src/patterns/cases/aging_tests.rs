//! Cases that age, against the rule written plainly.

use super::tests::{World, memory};
use super::*;
use crate::kernels;

const DAY: f64 = 86_400.0;

fn aging(half_life_days: Option<f64>) -> CaseMemory {
    memory(CaseParams {
        half_life_days,
        ..CaseParams::default()
    })
}

/// A feedback of second `at`, with a gradient that does not depend on what was known.
fn learn(world: &World, m: &mut CaseMemory, q: &[f32], item: usize, weight: f32, at: f64) -> CaseId {
    world.with(|candidates| {
        let case = NewCase {
            chosen: &[candidates.ids()[item].clone()],
            candidates,
            scores: Some(&vec![0.0; candidates.len()]),
            weight,
            source: "".into(),
            user: "".into(),
            at,
        };
        m.learn(&m.probe(q).unwrap(), &case).unwrap()
    })
}

fn scored(world: &World, m: &CaseMemory, q: &[f32]) -> (Scored, Vec<f32>) {
    let probe = m.probe(q).unwrap();
    let mut out = Scored::default();
    world.with(|c| m.score(&probe, c, None, &mut out)).unwrap();
    (out, probe.adapted().to_vec())
}

fn gradient(m: &CaseMemory, id: CaseId) -> &[f32] {
    let case = m.segments.iter().flat_map(|s| &s.cases).find(|c| c.id == id);
    &case.unwrap().vectors[super::tests::D..]
}

/// The rule in f64 over every case: û and r, with the cases about `removed` left out.
fn plain(m: &CaseMemory, q: &[f32], times: &[f64], days: f64, removed: Option<i64>) -> (Vec<f64>, Vec<f64>) {
    let p = m.params();
    let clock = times.iter().copied().fold(f64::MIN, f64::max);
    let mut u: Vec<f64> = q.iter().map(|x| f64::from(*x)).collect();
    let (mut net, mut chosen, mut rejected) = ([0.0; 8], 0.0, 0.0);
    for (case, at) in m.iter().zip(times) {
        let gradient = gradient(m, case.id);
        let item = (0..8).find(|&i| case.items[0] == i.into()).unwrap();
        if removed == Some(item) {
            continue;
        }
        let dot: f64 = q
            .iter()
            .zip(case.query)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum();
        let left = 0.5f64.powf((clock - at) / DAY / days);
        let a = left * ((dot - 1.0) / f64::from(p.adapt_width)).exp();
        let b = f64::from(case.weight) * left * ((dot - 1.0) / f64::from(p.recall_width)).exp();
        for (u, g) in u.iter_mut().zip(gradient) {
            *u += f64::from(p.eta) * a * f64::from(*g);
        }
        net[item as usize] += b;
        *if b > 0.0 { &mut chosen } else { &mut rejected } += b.abs();
    }
    let norm = u.iter().map(|x| x * x).sum::<f64>().sqrt();
    let recall = net.map(|n| n / (if n >= 0.0 { chosen } else { rejected } + f64::from(p.shrinkage)));
    (u.iter().map(|x| x / norm).collect(), recall.to_vec())
}

fn assert_close(got: &[f32], want: &[f64]) {
    assert_eq!(got.len(), want.len());
    for (g, w) in got.iter().zip(want) {
        assert!((f64::from(*g) - w).abs() < 3e-6, "{got:?} {want:?}");
    }
}

#[test]
fn old_cases_count_as_the_rule_says_and_so_do_reduced_copies() {
    for (seed, days) in [(1, 0.5), (2, 7.0), (3, 365.0)] {
        let mut world = World::new(8, seed);
        let mut m = aging(Some(days));
        // Not in order: what comes late with an early time is old at once.
        let times: Vec<f64> = (0..60)
            .map(|i| 1e9 + f64::from((i * 37) % 60) * DAY / 2.0)
            .collect();
        for (i, at) in times.iter().enumerate() {
            let q = world.near(i % 8);
            let weight = if i % 5 == 0 { -0.5 } else { 1.0 };
            learn(&world, &mut m, &q, (i * 3) % 8, weight, *at);
        }
        for item in 0..8 {
            let q = world.near(item);
            let (got, adapted) = scored(&world, &m, &q);
            let (u, recall) = plain(&m, &q, &times, days, None);
            assert_close(&adapted, &u);
            assert_close(&got.recall, &recall);
            let probe = m.probe(&q).unwrap();
            let as_new = world.with(|c| AsNew::new(&m, &probe, c, &got, item));
            let (u, recall) = plain(&m, &q, &times, days, Some(item as i64));
            assert_close(as_new.probe.adapted(), &u);
            assert_close(&as_new.scored.recall, &recall);
        }
    }
}

#[test]
fn a_case_halves_with_each_half_life() {
    let mut world = World::new(8, 4);
    let q = world.near(0);
    let (mut m, eta) = (aging(Some(10.0)), CaseParams::default().eta);
    learn(&world, &mut m, &q, 1, 1.0, 5e8);
    let g = gradient(&m, 0).to_vec();
    // A request at a right angle: its case only moves the clock, but for exp(−1/h).
    let mut other = world.near(3);
    let along = kernels::dot(&q, &other);
    kernels::axpy(-along, &q, &mut other);
    for n in 1..12 {
        learn(&world, &mut m, &other, 2, 1e-6, 5e8 + f64::from(n) * 10.0 * DAY);
        let mut u = q.clone();
        kernels::axpy(eta * 0.5f32.powi(n), &g, &mut u);
        kernels::normalize(&mut u);
        assert_close(
            m.probe(&q).unwrap().adapted(),
            &u.iter().map(|x| f64::from(*x)).collect::<Vec<_>>(),
        );
    }
}

#[test]
fn without_a_half_life_times_change_no_bit() {
    let mut world = World::new(8, 5);
    let (mut timed, mut timeless) = (aging(None), aging(None));
    // One that ages so slowly that nothing does.
    let mut slow = aging(Some(f64::MAX));
    for i in 0..300 {
        let q = world.near(i % 8);
        let (item, weight) = ((i * 3) % 8, if i % 4 == 0 { -1.0 } else { 0.7 });
        learn(&world, &mut timed, &q, item, weight, 1e9 - (i * i) as f64);
        learn(&world, &mut timeless, &q, item, weight, 0.0);
        learn(&world, &mut slow, &q, item, weight, 1e9 - (i * i) as f64);
    }
    for item in 0..8 {
        let q = world.near(item);
        let of = |m: &CaseMemory| scored(&world, m, &q);
        let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        for m in [&timeless, &slow] {
            let ((a, au), (b, bu)) = (of(&timed), of(m));
            assert_eq!((bits(&a.scores), bits(&au)), (bits(&b.scores), bits(&bu)));
        }
    }
}

#[test]
fn the_end_of_a_case_is_nothing_and_not_nan() {
    let mut world = World::new(8, 6);
    let q = world.near(0);
    for days in [1e-300, 1e-3, 1.0] {
        let mut m = aging(Some(days));
        learn(&world, &mut m, &q, 1, 1.0, -1e300);
        let far: Vec<f32> = q.iter().map(|x| -x).collect();
        learn(&world, &mut m, &far, 2, 1.0, 1e300);
        let (got, adapted) = scored(&world, &m, &q);
        assert_eq!(got.recall[1], 0.0);
        // What is left is of the case at the other end of the sphere: exp(−10).
        assert_close(&adapted, &plain(&m, &q, &[-1e300, 1e300], days, None).0);
        assert!(got.scores.iter().all(|s| s.is_finite()));
    }
}

#[test]
fn no_time_and_no_half_life_makes_a_nan() {
    for days in [f64::MIN_POSITIVE * f64::EPSILON, f64::MAX] {
        let mut world = World::new(8, 9);
        let (q, mut m) = (world.near(0), aging(Some(days)));
        for at in [-f64::MAX, f64::MAX] {
            learn(&world, &mut m, &q, 1, 1.0, at);
        }
        assert!(
            scored(&world, &m, &q).0.scores.iter().all(|s| s.is_finite()),
            "{days}"
        );
    }
}

#[test]
fn the_clock_is_of_the_state_and_goes_with_it() {
    let mut world = World::new(8, 7);
    let mut m = memory(CaseParams {
        half_life_days: Some(2.0),
        max_bytes: Some(8 * 400),
        ..CaseParams::default()
    });
    for i in 0..40 {
        let q = world.near(i % 8);
        learn(&world, &mut m, &q, i % 8, 1.0, (40 - i) as f64 * DAY);
    }
    assert!(
        m.metrics()
            .iter()
            .any(|(n, v)| *n == "evicted" && *v != 0u64.into())
    );
    assert_eq!(m.clock, 40.0 * DAY, "the first was the latest and may be gone");
    let mut back = CaseMemory::from_bytes(&m.to_bytes().unwrap()).unwrap();
    assert_eq!((back.clock, back.params()), (m.clock, m.params()));
    let q = world.near(0);
    for memory in [&mut m, &mut back] {
        learn(&world, memory, &q, 3, 1.0, 41.5 * DAY);
    }
    assert_eq!(m.to_bytes().unwrap(), back.to_bytes().unwrap());
    assert_eq!(scored(&world, &m, &q).0, scored(&world, &back, &q).0);
    // What never was has not moved the clock.
    let newest = m.iter().last().unwrap().id;
    m.remove(&[newest]);
    assert!(m.clock < 40.0 * DAY);
    m.remove(&(0..100).collect::<Vec<_>>());
    assert_eq!(m.clock, f64::NEG_INFINITY);
    assert_eq!(
        CaseMemory::from_bytes(&m.to_bytes().unwrap()).unwrap().clock,
        m.clock
    );
}

#[test]
fn impossible_half_lives_and_times_are_refused() {
    for days in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let params = CaseParams {
            half_life_days: Some(days),
            ..CaseParams::default()
        };
        let e = CaseMemory::new(4, params, 0).unwrap_err().to_string();
        assert!(e.starts_with("half_life_days"), "{e}");
    }
    let mut world = World::new(4, 8);
    let q = world.near(0);
    let mut m = aging(Some(1.0));
    world.with(|candidates| {
        let case = NewCase {
            chosen: &[candidates.ids()[0].clone()],
            candidates,
            scores: None,
            weight: 1.0,
            source: "".into(),
            user: "".into(),
            at: f64::NAN,
        };
        assert!(m.learn(&m.probe(&q).unwrap(), &case).is_err());
    });
    assert!(m.is_empty());
}
