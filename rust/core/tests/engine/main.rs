//! The engine through its public API: what must survive, what must be equal, what must be gone.

#![allow(clippy::unwrap_used)] // helpers of tests

use sona_core::engine::{Engine, EngineConfig, Feedback, IdRef, Mode, Outcome, Request};
use sona_core::store::Fsync;

mod cycles;
mod forgetting;
mod merging;
mod world;

use world::{D, World, adapted, config, open, trace};

#[test]
fn a_process_that_just_ends_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    World::new(1).run(&engine, "a", "", 60);
    trace(&engine, "a");
    let (digest, answer) = (engine.digest("a").unwrap(), adapted(&engine, "a"));
    drop(engine); // no close, no snapshot
    let again = open(dir.path());
    assert_eq!(again.digest("a").unwrap(), digest);
    assert_eq!(adapted(&again, "a"), answer);
}

#[test]
fn snapshot_and_tail_equal_the_whole_history() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let mut world = World::new(2);
    world.run(&engine, "a", "", 30);
    engine.checkpoint().unwrap();
    world.run(&engine, "a", "", 30);
    trace(&engine, "b");
    let digests = [engine.digest("a").unwrap(), engine.digest("b").unwrap()];
    drop(engine);
    let tail = open(dir.path());
    assert_eq!([tail.digest("a").unwrap(), tail.digest("b").unwrap()], digests);
    drop(tail);
    std::fs::remove_dir_all(dir.path().join("snapshots")).unwrap();
    let whole = open(dir.path());
    assert_eq!([whole.digest("a").unwrap(), whole.digest("b").unwrap()], digests);
}

#[test]
fn late_feedback_after_a_snapshot_and_a_restart_is_learned() {
    let dir = tempfile::tempdir().unwrap();
    let small = EngineConfig {
        capacity: 2,
        ..config()
    };
    let engine = Engine::open(small.clone(), dir.path(), Fsync::None).unwrap();
    let world = World::new(3);
    let ids: Vec<IdRef<'_>> = world.names.iter().map(|n| IdRef::Str(n)).collect();
    let query = vec![0.2; D];
    let request = Request {
        scope: "a",
        query: &query,
        ids: &ids,
        vectors: Some(&world.vectors),
        scores: None,
        k: 5,
        user: "",
        now: 0.0,
    };
    let first = engine.rank(&request).unwrap().id.unwrap();
    for _ in 0..10 {
        engine.rank(&request).unwrap();
    }
    engine.close().unwrap();
    let engine = Engine::open(small.clone(), dir.path(), Fsync::None).unwrap();
    let rewards = [(IdRef::Str("doc3"), 1.0)];
    let f = Feedback {
        decision: first,
        rewards: &rewards,
        vectors: None,
        quality: None,
        source: "",
        user: "",
        now: 1.0,
    };
    assert_eq!(engine.feedback(&f).unwrap(), Outcome::Learned);
    assert_eq!(engine.feedback(&f).unwrap(), Outcome::Duplicate);
    let digest = engine.digest("a").unwrap();
    drop(engine);
    let engine = Engine::open(small, dir.path(), Fsync::None).unwrap();
    assert_eq!(engine.digest("a").unwrap(), digest);
    assert_eq!(engine.feedback(&f).unwrap(), Outcome::Duplicate);
}

#[test]
fn saving_loading_and_going_on_equals_never_having_stopped() {
    let engine = Engine::in_memory(config()).unwrap();
    let mut world = World::new(4);
    world.run(&engine, "a", "", 40);
    trace(&engine, "a");
    let copy = Engine::from_bytes(&engine.to_bytes().unwrap()).unwrap();
    assert_eq!(copy.to_bytes().unwrap(), engine.to_bytes().unwrap());
    let mut twin = World::new(5);
    world = World::new(5);
    world.run(&engine, "a", "", 40);
    twin.run(&copy, "a", "", 40);
    assert_eq!(copy.to_bytes().unwrap(), engine.to_bytes().unwrap());
}

#[test]
fn rollback_brings_back_any_version_and_survives_restart() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let identity = adapted(&engine, "a");
    let mut world = World::new(6);
    let mut marks = vec![(0, identity)];
    for _ in 0..4 {
        world.run(&engine, "a", "", 10);
        marks.push((engine.version(), adapted(&engine, "a")));
    }
    for (version, answer) in marks.iter().rev().chain(&marks) {
        engine.rollback(None, *version).unwrap();
        assert_eq!(&adapted(&engine, "a"), answer, "version {version}");
    }
    engine.rollback(Some("a"), marks[2].0).unwrap();
    world.run(&engine, "a", "", 5);
    let (digest, answer) = (engine.digest("a").unwrap(), adapted(&engine, "a"));
    assert!(engine.rollback(Some("nobody"), 0).is_err());
    assert!(engine.rollback(None, engine.version() + 1).is_err());
    engine.close().unwrap();
    let again = open(dir.path());
    assert_eq!(
        (again.digest("a").unwrap(), adapted(&again, "a")),
        (digest, answer)
    );
}

#[test]
fn modes_record_and_act_as_they_say() {
    for (mode, acts, records, learns) in [
        (Mode::Off, false, false, false),
        (Mode::Observe, false, true, false),
        (Mode::Shadow, false, true, true),
        (Mode::On, true, true, true),
    ] {
        let engine = Engine::in_memory(EngineConfig { mode, ..config() }).unwrap();
        let identity = adapted(&engine, "a");
        World::new(11).run(&engine, "a", "", 30);
        assert_eq!(adapted(&engine, "a") != identity, acts, "{mode:?}");
        engine.set_mode(Mode::On);
        assert_eq!(adapted(&engine, "a") != identity, learns, "{mode:?}");
        assert_eq!(engine.version() > 0, records, "{mode:?}");
    }
}

#[test]
fn canary_acts_on_its_share() {
    let engine = Engine::in_memory(EngineConfig {
        mode: Mode::Canary,
        canary_share: 0.3,
        ..config()
    })
    .unwrap();
    let world = World::new(12);
    let ids: Vec<IdRef<'_>> = world.names.iter().map(|n| IdRef::Str(n)).collect();
    let query = vec![0.2; D];
    let request = Request {
        scope: "a",
        query: &query,
        ids: &ids,
        vectors: Some(&world.vectors),
        scores: None,
        k: 5,
        user: "",
        now: 0.0,
    };
    let acted = (0..2000).filter(|_| engine.rank(&request).unwrap().acted).count();
    assert!((500..700).contains(&acted), "{acted}");
}

#[test]
fn another_writer_of_the_directory_can_give_the_feedback() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (open(dir.path()), open(dir.path()));
    let world = World::new(13);
    let ids: Vec<IdRef<'_>> = world.names.iter().map(|n| IdRef::Str(n)).collect();
    let query = vec![0.2; D];
    let request = Request {
        scope: "s",
        query: &query,
        ids: &ids,
        vectors: Some(&world.vectors),
        scores: None,
        k: 5,
        user: "",
        now: 0.0,
    };
    let id = a.rank(&request).unwrap().id.unwrap();
    let rewards = [(IdRef::Str("doc3"), 1.0)];
    let f = Feedback {
        decision: id,
        rewards: &rewards,
        vectors: None,
        quality: None,
        source: "",
        user: "",
        now: 1.0,
    };
    assert_eq!(b.feedback(&f).unwrap(), Outcome::Learned);
    assert!(a.refresh().unwrap() > 0);
    assert_eq!(a.digest("s").unwrap(), b.digest("s").unwrap());
    assert_eq!(a.feedback(&f).unwrap(), Outcome::Duplicate);
    drop((a, b));
    let again = open(dir.path());
    assert_eq!(again.feedback(&f).unwrap(), Outcome::Duplicate);
}

#[test]
fn scopes_do_not_see_each_other() {
    let engine = Engine::in_memory(config()).unwrap();
    let untouched = adapted(&engine, "b");
    World::new(14).run(&engine, "a", "", 30);
    assert_eq!(adapted(&engine, "b"), untouched);
    let b = Engine::in_memory(config()).unwrap();
    World::new(15).run(&b, "b", "", 30);
    World::new(15).run(&engine, "b", "", 30);
    assert_eq!(engine.digest("b").unwrap(), b.digest("b").unwrap());
}

#[test]
fn hostile_bytes_are_refused() {
    let engine = Engine::in_memory(config()).unwrap();
    World::new(16).run(&engine, "a", "", 5);
    let bytes = engine.to_bytes().unwrap();
    for cut in (0..bytes.len()).step_by(97) {
        assert!(Engine::from_bytes(&bytes[..cut]).is_err());
    }
    for at in (0..bytes.len()).step_by(61) {
        let mut b = bytes.clone();
        b[at] ^= 0x10;
        assert!(Engine::from_bytes(&b).is_err(), "byte {at}");
    }
}

#[test]
fn a_directory_of_another_dimension_or_embedder_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).close().unwrap();
    let wider = EngineConfig {
        dim: D + 1,
        ..config()
    };
    assert!(Engine::open(wider, dir.path(), Fsync::None).is_err());
    let other = EngineConfig {
        fingerprint: "other".into(),
        ..config()
    };
    assert!(Engine::open(other, dir.path(), Fsync::None).is_err());
    assert!(Engine::open(config(), dir.path(), Fsync::None).is_ok());
}

#[test]
fn a_judged_item_that_was_not_ranked_is_learned_and_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let engine = open(dir.path());
    let world = World::new(17);
    let ids: Vec<IdRef<'_>> = world.names[..5].iter().map(|n| IdRef::Str(n)).collect();
    let query = vec![0.2; D];
    let request = Request {
        scope: "s",
        query: &query,
        ids: &ids,
        vectors: Some(&world.vectors[..5 * D]),
        scores: Some(&[0.5, 0.4, 0.3, 0.2, 0.1]),
        k: 3,
        user: "",
        now: 0.0,
    };
    let id = engine.rank(&request).unwrap().id.unwrap();
    let unseen = &world.vectors[9 * D..10 * D];
    let rewards = [(IdRef::Int(99), 1.0)];
    let mut f = Feedback {
        decision: id,
        rewards: &rewards,
        vectors: None,
        quality: None,
        source: "",
        user: "",
        now: 1.0,
    };
    assert!(
        engine.feedback(&f).is_err(),
        "an item nobody knows needs its vector"
    );
    f.vectors = Some(unseen);
    assert_eq!(engine.feedback(&f).unwrap(), Outcome::Learned);
    let digest = engine.digest("s").unwrap();
    drop(engine);
    assert_eq!(open(dir.path()).digest("s").unwrap(), digest);
}
