//! The fast adapter goes into the slow one with a cycle: no answer changes, nothing is lost, and it replays.

use crate::world::{D, World, adapted};
use sona_core::engine::{AdapterFactors, Engine, EngineConfig, TraceEvent};
use sona_core::rng::{RngExt, stream};
use sona_core::store::Fsync;
use sona_core::trajectory::TrajectoryStep;
use std::path::Path;

/// A fast adapter that moves fast.
fn config() -> EngineConfig {
    EngineConfig {
        micro_lr: 0.05,
        ..crate::world::config()
    }
}

fn open(root: &Path) -> Engine {
    Engine::open(config(), root, Fsync::None).unwrap()
}

/// `n` requests of scope "a" that were answered well somewhere else than they asked.
fn traces(engine: &Engine, user: &str, n: usize, seed: u64) {
    let mut rng = stream(seed, 3);
    let mut vector = || -> Vec<f32> { (0..D).map(|_| rng.random::<f32>() - 0.5).collect() };
    for _ in 0..n {
        let step = TrajectoryStep {
            activations: vector(),
            attention_weights: vec![1.0],
            reward: 0.9,
            timestamp: 0.0,
        };
        let event = TraceEvent {
            scope: "a".into(),
            query: vector(),
            steps: vec![step],
            quality: 0.9,
            source: "".into(),
            user: user.into(),
            learn: true,
            now: 5.0,
        };
        engine.trace(event).unwrap();
    }
}

fn answers(engine: &Engine) -> Vec<f32> {
    let mut rng = stream(1, 2);
    let rows: Vec<f32> = (0..20 * D).map(|_| rng.random::<f32>() - 0.5).collect();
    let mut out = vec![0.0; rows.len()];
    engine.adapt("a", &rows, &mut out).unwrap();
    out
}

fn away(x: &[f32], y: &[f32]) -> f32 {
    x.iter().zip(y).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Ranks of the slow and the fast adapter that move anything.
fn ranks(engine: &Engine) -> (usize, usize) {
    let scope = engine.scope("a").unwrap();
    let live = scope.live.load();
    let used = |b: &[f32], rank: usize| {
        (0..rank)
            .filter(|k| b.iter().skip(*k).step_by(rank).any(|v| *v != 0.0))
            .count()
    };
    let base = live.base.as_ref().map(|b| b.factors(0).unwrap());
    let micro = live.micro.as_ref().map(|m| m.factors());
    (
        base.map_or(0, |f| used(f.b(), f.rank())),
        micro.map_or(0, |f| used(f.b(), f.rank())),
    )
}

#[test]
fn a_cycle_moves_the_fast_adapter_into_the_slow_one_and_changes_no_answer() {
    let engine = Engine::in_memory(config()).unwrap();
    traces(&engine, "", 30, 1);
    let (before, untouched) = (answers(&engine), adapted(&engine, "other"));
    assert_eq!(ranks(&engine), (0, 2));
    engine.background_learn(None, 10.0).unwrap();
    assert_eq!(ranks(&engine), (2, 0));
    let moved = away(&before, &answers(&engine));
    assert!(moved < 1e-6, "{moved}");
    assert_eq!(adapted(&engine, "other"), untouched);
    // With nothing new, a further cycle leaves every bit.
    let same = adapted(&engine, "a");
    engine.background_learn(None, 11.0).unwrap();
    assert_eq!(adapted(&engine, "a"), same);
    // What traces teach next is learned on top.
    traces(&engine, "", 10, 2);
    let later = answers(&engine);
    assert!(away(&before, &later) > 1e-3);
    engine.background_learn(None, 12.0).unwrap();
    assert!(away(&later, &answers(&engine)) < 1e-6);
    assert_eq!(ranks(&engine), (4, 0));
}

#[test]
fn what_the_rank_cannot_hold_stays_in_the_fast_adapter() {
    let engine = Engine::in_memory(EngineConfig {
        base_rank: 3,
        ..config()
    })
    .unwrap();
    for round in 0..4 {
        traces(&engine, "", 20, round);
        let before = answers(&engine);
        engine.background_learn(None, 10.0).unwrap();
        let moved = away(&before, &answers(&engine));
        assert!(moved < 1e-6, "round {round}: {moved}");
    }
    assert_eq!(ranks(&engine), (3, 2));
}

#[test]
fn an_exported_adapter_is_the_same_before_and_after() {
    let product = |f: &AdapterFactors, x: &[f32]| -> Vec<f64> {
        let dot = |a: &[f32]| -> f64 { a.iter().zip(x).map(|(a, x)| f64::from(a * x)).sum() };
        let h: Vec<f64> = f.a.chunks_exact(D).map(dot).collect();
        let row = |b: &[f32]| -> f64 { b.iter().zip(&h).map(|(b, h)| f64::from(*b) * h).sum() };
        let scale = f.alpha / f.rank as f64;
        f.b.chunks_exact(f.rank).map(|b| scale * row(b)).collect()
    };
    let engine = Engine::in_memory(config()).unwrap();
    traces(&engine, "", 30, 3);
    let x: Vec<f32> = (0..D).map(|i| (i as f32).cos()).collect();
    let before = product(&engine.adapter("a").unwrap(), &x);
    engine.background_learn(None, 10.0).unwrap();
    let after = product(&engine.adapter("a").unwrap(), &x);
    assert!(before.iter().any(|v| v.abs() > 1e-3));
    for (a, b) in before.iter().zip(&after) {
        assert!((a - b).abs() < 1e-6, "{a} {b}");
    }
}

#[test]
fn merged_adapters_replay_and_roll_back_to_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    World::new(40).run(&engine, "a", "bob", 300);
    traces(&engine, "bob", 20, 4);
    let (early, at_early) = (engine.version(), adapted(&engine, "a"));
    // Traces that come while a cycle runs are not in its input, and not lost.
    std::thread::scope(|threads| {
        threads.spawn(|| (0..5).for_each(|_| drop(engine.background_learn(None, 10.0).unwrap())));
        traces(&engine, "bob", 100, 5);
    });
    engine.background_learn(None, 10.0).unwrap();
    traces(&engine, "bob", 5, 6);
    let digest = engine.digest("a").unwrap();
    drop(engine);
    let engine = open(dir.path());
    assert_eq!(engine.digest("a").unwrap(), digest);
    let newest = engine.version();
    engine.rollback(Some("a"), early).unwrap();
    assert_eq!(adapted(&engine, "a"), at_early);
    engine.rollback(Some("a"), newest).unwrap();
    assert_eq!(engine.digest("a").unwrap(), digest);
    engine.close().unwrap();
    std::fs::remove_dir_all(dir.path().join("snapshots")).unwrap();
    assert_eq!(open(dir.path()).digest("a").unwrap(), digest);
}

#[test]
fn who_is_forgotten_leaves_the_merged_adapter_too() {
    let dir = tempfile::tempdir().unwrap();
    let (engine, never) = (open(dir.path()), Engine::in_memory(config()).unwrap());
    for round in 0..3 {
        for e in [&engine, &never] {
            traces(e, "bob", 20, round);
        }
        traces(&engine, "alice", 20, 100 + round);
        for e in [&engine, &never] {
            e.background_learn(None, 10.0).unwrap();
        }
    }
    let kept = never.digest("a").unwrap();
    assert_ne!(engine.digest("a").unwrap(), kept);
    engine.forget("alice").unwrap();
    assert_eq!(engine.digest("a").unwrap(), kept);
}
