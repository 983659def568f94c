//! What was forgotten is gone: from the answers, and from the disk.

use crate::world::{D, N, World, adapted, config, open, trace};
use sona_core::engine::{Engine, Feedback, IdRef, Request};
use sona_core::rng::RngExt;

fn forgotten_equals_never_seen(engine: Engine, twin: Engine) {
    let (mut world, mut other) = (World::new(8), World::new(9));
    for i in 0..30 {
        world.step(&engine, "a", "alice", f64::from(i));
        // Bob's requests do not depend on the engine's answer: he judges a fixed item.
        for e in [&engine, &twin] {
            let ids: Vec<IdRef<'_>> = other.names.iter().map(|n| IdRef::Str(n)).collect();
            let query: Vec<f32> = (0..D).map(|j| ((i as usize + j) as f32).cos()).collect();
            let vectors = other.vectors.clone();
            let request = Request {
                scope: "a",
                query: &query,
                ids: &ids,
                vectors: Some(&vectors),
                scores: None,
                k: N,
                user: "bob",
                now: 0.0,
            };
            let id = e.rank(&request).unwrap().id.unwrap();
            let rewards = [(ids[i as usize % N], 1.0)];
            let f = Feedback {
                decision: id,
                rewards: &rewards,
                vectors: None,
                quality: None,
                source: "",
                user: "bob",
                now: 0.0,
            };
            e.feedback(&f).unwrap();
        }
    }
    other.rng.random::<u32>();
    assert_ne!(engine.digest("a").unwrap(), twin.digest("a").unwrap());
    let removed = engine.forget("alice").unwrap();
    assert!(
        removed.decisions > 0 && removed.cases_after < removed.cases_before,
        "{removed:?}"
    );
    assert_eq!(engine.digest("a").unwrap(), twin.digest("a").unwrap());
    assert_eq!(engine.forget("alice").unwrap().decisions, 0);
    assert_eq!(engine.digest("a").unwrap(), twin.digest("a").unwrap());
}

#[test]
fn forgetting_a_user_equals_never_having_seen_them_in_memory() {
    forgotten_equals_never_seen(
        Engine::in_memory(config()).unwrap(),
        Engine::in_memory(config()).unwrap(),
    );
}

#[test]
fn forgetting_a_user_leaves_no_byte_on_disk() {
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let engine = open(dirs[0].path());
    World::new(3).step(&engine, "a", "alice", 0.0);
    engine.checkpoint().unwrap();
    drop(engine);
    let engine = open(dirs[0].path());
    forgotten_equals_never_seen(engine, open(dirs[1].path()));
    for file in ["events", "snapshots"]
        .iter()
        .flat_map(|d| std::fs::read_dir(dirs[0].path().join(d)).unwrap())
    {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(5).any(|w| w == b"alice"));
    }
}

#[test]
fn purging_a_source_takes_back_what_it_taught() {
    let engine = Engine::in_memory(config()).unwrap();
    let mut world = World::new(10);
    let before = adapted(&engine, "a");
    world.run(&engine, "a", "", 20);
    trace(&engine, "a");
    assert_ne!(adapted(&engine, "a"), before);
    engine.purge("click").unwrap();
    engine.purge("judge").unwrap();
    assert_eq!(adapted(&engine, "a"), before);
}
