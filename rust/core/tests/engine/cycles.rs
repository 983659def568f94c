//! Background cycles: what they find, what replays, what a deadline does.

use crate::world::{D, World, config, open, trace};
use sona_core::engine::{CycleReport, Engine, EngineConfig, Feedback, IdRef, Request};
use sona_core::rng::{RngExt, stream};
use sona_core::store::Fsync;
use std::time::Duration;

#[test]
fn background_cycles_find_patterns_and_replay_to_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let mut world = World::new(18);
    world.run(&engine, "a", "", 400);
    trace(&engine, "a");
    let first = engine.background_learn(None, 10.0).unwrap();
    assert_eq!(first.len(), 1);
    assert!(first[0].patterns > 0 && first[0].trained_on > 0, "{first:?}");
    let query = vec![0.2; D];
    let ids: Vec<u64> = engine
        .find_patterns("a", &query, 3)
        .unwrap()
        .iter()
        .map(|(p, _)| p.id)
        .collect();
    assert_eq!(ids.len(), 3);
    assert!(engine.find_patterns("b", &query, 3).unwrap().is_empty());
    world.run(&engine, "a", "", 50);
    engine.checkpoint().unwrap();
    let second = engine.background_learn(None, 20.0).unwrap();
    assert!(
        second[0].patterns <= first[0].patterns * 2,
        "patterns do not double: {second:?}"
    );
    world.run(&engine, "a", "", 5);
    let digest = engine.digest("a").unwrap();
    drop(engine);
    assert_eq!(open(dir.path()).digest("a").unwrap(), digest);
    std::fs::remove_dir_all(dir.path().join("snapshots")).unwrap();
    assert_eq!(open(dir.path()).digest("a").unwrap(), digest);
}

/// 600 requests in scope "s": each its item moved by one and the same vector, or items drawn without regard to the request.
fn moved_by_one_vector(engine: &Engine, by_one_map: bool) {
    let mut rng = stream(19, 0);
    let mut unit = |d: usize| -> Vec<f32> { (0..d).map(|_| rng.random::<f32>() - 0.5).collect() };
    let vectors: Vec<f32> = (0..200).flat_map(|_| unit(D)).collect();
    let shift = unit(D);
    for i in 0..600usize {
        let target = (i * 7) % 200;
        let mut query: Vec<f32> = vectors[target * D..(target + 1) * D].to_vec();
        if by_one_map {
            query.iter_mut().zip(&shift).for_each(|(q, s)| *q -= 2.0 * s);
        }
        let names: Vec<i64> = (0..200).collect();
        let ids: Vec<IdRef<'_>> = names.iter().map(|n| IdRef::Int(*n)).collect();
        let request = Request {
            scope: "s",
            query: &query,
            ids: &ids,
            vectors: Some(&vectors),
            scores: None,
            k: 5,
            user: "",
            now: 0.0,
        };
        let id = engine.rank(&request).unwrap().id.unwrap();
        let wanted = if by_one_map {
            target
        } else {
            (i * 31 + i * i) % 200
        };
        let rewards = [(ids[wanted], 1.0)];
        let f = Feedback {
            decision: id,
            rewards: &rewards,
            vectors: None,
            quality: None,
            source: "",
            user: "",
            now: 0.0,
        };
        engine.feedback(&f).unwrap();
    }
}

#[test]
fn the_slow_adapter_is_published_where_it_surely_helps_and_only_there() {
    // Every request is its item moved by one fixed vector: one low-rank correction helps all of them, also those whose item has
    // no case. The case memory, which would learn the same, is switched off.
    let linear = Engine::in_memory(EngineConfig {
        base_lr: 2e-4,
        eta: 0.0,
        recall_weight: 0.0,
        ..config()
    })
    .unwrap();
    let random = Engine::in_memory(EngineConfig {
        base_lr: 2e-4,
        eta: 0.0,
        recall_weight: 0.0,
        ..config()
    })
    .unwrap();
    moved_by_one_vector(&linear, true);
    moved_by_one_vector(&random, false);
    let helped = linear.background_learn(None, 0.0).unwrap();
    assert!(helped[0].accepted, "{helped:?}");
    let not = random.background_learn(None, 0.0).unwrap();
    assert!(!not[0].accepted, "{not:?}");
}

/// Runs cycles under shorter and shorter deadlines until one is cut short.
fn until_cut(engine: &Engine) -> bool {
    (0..200u64).any(|i| {
        let deadline = Duration::from_micros(1 + 40_000 / (1 + i));
        let reports = engine.background_learn(Some(deadline), 10.0).unwrap();
        reports.iter().any(|r| r.reason.contains("out of time"))
    })
}

#[test]
fn a_cycle_cut_short_replays_to_the_same_bits() {
    for ewc in [false, true] {
        let config = || EngineConfig {
            base_lr: 2e-4,
            ewc,
            ewc_lambda: 0.5,
            ..config()
        };
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(config(), dir.path(), Fsync::None).unwrap();
        let mut world = World::new(30);
        world.run(&engine, "a", "", 300);
        engine.background_learn(None, 5.0).unwrap();
        world.run(&engine, "a", "", 300);
        assert!(until_cut(&engine));
        world.run(&engine, "a", "", 5);
        let digest = engine.digest("a").unwrap();
        drop(engine);
        let again = Engine::open(config(), dir.path(), Fsync::None).unwrap();
        assert_eq!(again.digest("a").unwrap(), digest);
    }
}

#[test]
fn scopes_that_a_deadline_left_out_come_first_next_time() {
    let engine = Engine::in_memory(config()).unwrap();
    for scope in ["a", "b", "c"] {
        World::new(31).run(&engine, scope, "", 300);
    }
    let names = |reports: Vec<CycleReport>| -> String { reports.iter().map(|r| &*r.scope).collect() };
    let mut served = String::new();
    for _ in 0..2000 {
        // The first scope takes longer than this, and the next is not begun.
        served += &names(
            engine
                .background_learn(Some(Duration::from_micros(300)), 0.0)
                .unwrap(),
        );
        if served.len() >= 7 {
            break;
        }
    }
    assert!(
        "abcabcabcabc".starts_with(&served) && served.len() >= 7,
        "{served}"
    );
    let all = names(engine.background_learn(None, 0.0).unwrap());
    assert_eq!(all.len(), 3);
    assert!("abcabc".contains(&all), "{all}");
}

#[test]
fn ewc_holds_the_slow_adapter_where_it_was() {
    // A pull without end: what the second cycle trains is the live adapter again, and there is nothing to gain.
    let engine = Engine::in_memory(EngineConfig {
        base_lr: 2e-4,
        eta: 0.0,
        recall_weight: 0.0,
        ewc: true,
        ewc_lambda: 1e12,
        ..config()
    })
    .unwrap();
    moved_by_one_vector(&engine, true);
    assert!(engine.background_learn(None, 0.0).unwrap()[0].accepted);
    let before = engine.adapter("s").unwrap();
    moved_by_one_vector(&engine, false);
    let second = engine.background_learn(None, 0.0).unwrap();
    assert!(!second[0].accepted && second[0].gain.abs() < 1e-6, "{second:?}");
    assert_eq!(engine.adapter("s").unwrap(), before);
}

#[test]
fn a_scope_in_which_everybody_was_forgotten_is_gone_with_its_cycles_and_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let untrained = engine.digest("secret-tenant").unwrap();
    World::new(20).run(&engine, "secret-tenant", "alice", 30);
    engine.background_learn(None, 0.0).unwrap();
    engine.rollback(Some("secret-tenant"), 0).unwrap();
    engine.forget("alice").unwrap();
    assert_eq!(engine.digest("secret-tenant").unwrap(), untrained);
    assert!(engine.scope_names().is_empty());
    for file in ["events", "snapshots"]
        .iter()
        .flat_map(|d| std::fs::read_dir(dir.path().join(d)).unwrap())
    {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(6).any(|w| w == b"secret"));
    }
}

#[test]
fn cycles_forgetting_saving_and_serving_at_once_do_not_block_each_other() {
    let engine = Engine::in_memory(config()).unwrap();
    World::new(21).run(&engine, "a", "bob", 100);
    std::thread::scope(|threads| {
        let jobs: [Box<dyn Fn() + Send>; 4] = [
            Box::new(|| drop(engine.background_learn(None, 0.0).unwrap())),
            Box::new(|| drop(engine.forget("nobody").unwrap())),
            Box::new(|| drop(engine.to_bytes().unwrap())),
            Box::new(|| drop(engine.hold_for_fork())),
        ];
        for job in jobs {
            threads.spawn(move || (0..10).for_each(|_| job()));
        }
        threads.spawn(|| World::new(22).run(&engine, "a", "bob", 100));
    });
    assert!(engine.find_patterns("a", &[0.3; D], 1).unwrap().len() == 1);
}
