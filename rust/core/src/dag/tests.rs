//! The engine as a whole.

use super::*;
use crate::attention::dag::Invalid;
use crate::rng;

fn config() -> DagConfig {
    DagConfig {
        dim: 64,
        rank: 2,
        capacity: 100,
        ewc_lambda: 5000.0,
        regret_budget: 0.1,
        seed: 3,
    }
}

fn plan(rows: f64, joins: usize) -> QueryDag {
    let mut p = QueryDag::new();
    let mut top = p.add_node(4, 1.0, 1.0, vec![]).unwrap();
    for i in 0..joins {
        let join = p.add_node(3, rows / 10.0, rows, vec![]).unwrap();
        let scan = p
            .add_node(0, rows / 100.0, rows * (i + 1) as f64, vec![0.5])
            .unwrap();
        p.add_edge(top as i64, join as i64).unwrap();
        p.add_edge(join as i64, scan as i64).unwrap();
        top = join;
    }
    p
}

#[test]
fn cycles_are_named_and_change_nothing() {
    let mut p = QueryDag::new();
    for _ in 0..4 {
        p.add_node(0, 1.0, 1.0, vec![]).unwrap();
    }
    for (u, v) in [(0, 1), (1, 2), (2, 3), (0, 1)] {
        p.add_edge(u, v).unwrap();
    }
    let before = p.clone();
    assert_eq!(p.add_edge(3, 1), Err(Invalid::Cycle(vec![3, 1, 2])));
    assert_eq!(p.add_edge(2, 2), Err(Invalid::Cycle(vec![2])));
    assert_eq!(p.add_edge(0, 9), Err(Invalid::Node { edge: 3, node: 9 }));
    assert_eq!(p, before);
    assert_eq!(p.edges().len(), 3);
    assert_eq!(QueryDag::from_bytes(&p.to_bytes().unwrap()).unwrap(), p);
}

#[test]
fn the_faster_setting_is_found_within_the_budget() {
    let mut engine = DagEngine::new(config()).unwrap();
    let settings = ["default", "fast", "terrible"];
    let (mut taken, mut reference, mut worst) = (0.0, 0.0, 0.0f64);
    let mut last = Vec::new();
    for i in 0..300 {
        let p = plan(1e4 * (1 + i % 3) as f64, 1 + i % 3);
        let usual = 10.0 * (1 + i % 3) as f64;
        let c = engine.choose(&p, &settings, 0).unwrap();
        let ms = usual * [1.0, 0.7, 30.0][c.index];
        let stopped = c.timeout_ms.is_some_and(|t| ms > t);
        let run = Run {
            latency_ms: if stopped { c.timeout_ms.unwrap() } else { ms },
            setting: Some(settings[c.index]),
            stopped,
            ..Run::default()
        };
        engine.post_query(&p, run).unwrap();
        taken += run.latency_ms + if stopped { usual } else { 0.0 };
        reference += usual;
        worst = worst.max(taken - 1.1 * reference);
        last.push(c.index);
        if i % 50 == 49 {
            engine.background_learn(0).unwrap();
        }
    }
    assert!(last[250..].iter().filter(|i| **i == 1).count() > 45, "{last:?}");
    assert!(last.iter().filter(|i| **i == 2).count() < 12, "{last:?}");
    assert!(worst <= 0.0 && taken < reference, "{worst} {taken} {reference}");
}

#[test]
fn the_budget_holds_after_every_run() {
    for (seed, budget) in [(1, 0.01), (2, 0.02), (3, 0.05), (4, 0.2), (5, 0.02), (6, 0.01)] {
        let mut engine = DagEngine::new(DagConfig {
            regret_budget: budget,
            seed,
            ..config()
        })
        .unwrap();
        let settings = ["default", "a", "b", "c"];
        let mut rng = rng::stream(seed, 77);
        // Disasters are as likely as gains, and similar plans disagree.
        let worlds: Vec<(QueryDag, [f64; 4])> = (0..20)
            .map(|i| {
                let usual = rng::normal(&mut rng).exp() * 20.0;
                let times = [0; 4].map(|_| usual * (1.5 * rng::normal(&mut rng)).exp());
                (
                    plan(1e3 * (1 + i) as f64, 1 + i % 4),
                    [usual, times[1], times[2], times[3]],
                )
            })
            .collect();
        let (mut taken, mut reference, mut away) = (0.0, 0.0, 0);
        for round in 0..40 {
            for (p, ms) in &worlds {
                let c = engine.choose(p, &settings, 0).unwrap();
                let (time, limit) = (ms[c.index], c.timeout_ms.unwrap_or(f64::INFINITY));
                let run = Run {
                    latency_ms: time.min(limit),
                    setting: Some(settings[c.index]),
                    stopped: time > limit,
                    ..Run::default()
                };
                engine.post_query(p, run).unwrap();
                taken += run.latency_ms + if run.stopped { ms[0] } else { 0.0 };
                reference += ms[0];
                away += usize::from(c.index != 0);
                assert!(
                    taken <= (1.0 + budget) * reference,
                    "{seed} {round} {taken} {reference}"
                );
            }
            engine.background_learn(0).unwrap();
        }
        assert!(away > 20, "{seed} {away}");
    }
}

#[test]
fn going_on_after_a_save_is_going_on() {
    let mut engine = DagEngine::new(config()).unwrap();
    let step = |e: &mut DagEngine, i: usize| {
        let p = plan(1e3 * (1 + i % 5) as f64, 1 + i % 2);
        let enhanced = e.pre_query(&p, 7).unwrap();
        let c = e.choose(&p, &["a", "b"], 0).unwrap();
        let times = vec![1.0 + i as f64; p.len()];
        let run = Run {
            latency_ms: 5.0 + (i * 7 % 11) as f64,
            baseline_ms: Some(8.0),
            setting: Some(["a", "b"][c.index]),
            operator_ms: Some(&times),
            stopped: i % 13 == 12,
        };
        (enhanced, c, e.post_query(&p, run).unwrap())
    };
    for i in 0..30 {
        step(&mut engine, i);
    }
    assert_eq!(engine.background_learn(7).unwrap().status, "learned");
    let mut other = DagEngine::from_bytes(&engine.to_bytes().unwrap()).unwrap();
    for i in 30..60 {
        assert_eq!(step(&mut engine, i), step(&mut other, i));
    }
    engine.background_learn(9).unwrap();
    other.background_learn(9).unwrap();
    assert_eq!(engine, other);
}
