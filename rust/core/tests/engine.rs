//! The engine through its public API: what must survive, what must be equal, what must be gone.

#![allow(clippy::unwrap_used)] // helpers of tests

use sona_core::engine::{Engine, EngineConfig, Feedback, IdRef, Mode, Outcome, Request, TraceEvent};
use sona_core::rng::{ChaCha8Rng, RngExt, stream};
use sona_core::store::Fsync;
use sona_core::trajectory::TrajectoryStep;
use std::path::Path;

const D: usize = 16;
const N: usize = 40;

struct World {
    names: Vec<String>,
    vectors: Vec<f32>,
    rng: ChaCha8Rng,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = stream(7, 0);
        let vectors = (0..N * D).map(|_| rng.random::<f32>() - 0.5).collect();
        Self {
            names: (0..N).map(|i| format!("doc{i}")).collect(),
            vectors,
            rng: stream(seed, 1),
        }
    }

    /// One user: asks near a document, and likes another one that belongs to it.
    fn step(&mut self, engine: &Engine, scope: &str, user: &str, now: f64) -> Option<Outcome> {
        let target = self.rng.random_range(0..N / 4);
        let query: Vec<f32> = (0..D)
            .map(|j| self.vectors[target * D + j] + 0.1 * self.rng.random::<f32>())
            .collect();
        let ids: Vec<IdRef<'_>> = self.names.iter().map(|n| IdRef::Str(n)).collect();
        let request = Request {
            scope,
            query: &query,
            ids: &ids,
            vectors: Some(&self.vectors),
            scores: None,
            k: 10,
            user,
            now,
        };
        let d = engine.rank(&request).unwrap();
        let wanted = ((target * 3 + 1) % N) as u32;
        let (item, reward) = if d.order.contains(&wanted) {
            (wanted, 1.0)
        } else {
            (d.order[0], -0.5)
        };
        let id = d.id?;
        let rewards = [(IdRef::Str(&self.names[item as usize]), reward)];
        let f = Feedback {
            decision: id,
            rewards: &rewards,
            vectors: None,
            quality: None,
            source: "click",
            user,
            now,
        };
        Some(engine.feedback(&f).unwrap())
    }

    fn run(&mut self, engine: &Engine, scope: &str, user: &str, steps: usize) {
        for i in 0..steps {
            self.step(engine, scope, user, i as f64);
        }
    }
}

fn config() -> EngineConfig {
    EngineConfig::new(D)
}

fn open(root: &Path) -> Engine {
    Engine::open(config(), root, Fsync::None).unwrap()
}

fn trace(engine: &Engine, scope: &str) -> Outcome {
    let mut a = vec![0.0; D];
    a[3] = 1.0;
    let step = TrajectoryStep {
        activations: a,
        attention_weights: vec![1.0],
        reward: 0.9,
        timestamp: 0.0,
    };
    engine
        .trace(TraceEvent {
            scope: scope.into(),
            query: vec![0.3; D],
            steps: vec![step],
            quality: 0.9,
            source: "judge".into(),
            user: "".into(),
            learn: false,
            now: 5.0,
        })
        .unwrap()
}

fn adapted(engine: &Engine, scope: &str) -> Vec<u32> {
    let x: Vec<f32> = (0..D).map(|i| (i as f32).sin()).collect();
    let mut y = vec![0.0; D];
    engine.adapt(scope, &x, &mut y).unwrap();
    y.iter().map(|v| v.to_bits()).collect()
}

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
    let mut rng = stream(19, 0);
    let mut unit = |d: usize| -> Vec<f32> { (0..d).map(|_| rng.random::<f32>() - 0.5).collect() };
    let vectors: Vec<f32> = (0..200).flat_map(|_| unit(D)).collect();
    let shift = unit(D);
    for (engine, by_map) in [(&linear, true), (&random, false)] {
        for i in 0..600usize {
            let target = (i * 7) % 200;
            let mut query: Vec<f32> = vectors[target * D..(target + 1) * D].to_vec();
            if by_map {
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
            let wanted = if by_map { target } else { (i * 31 + i * i) % 200 };
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
    let helped = linear.background_learn(None, 0.0).unwrap();
    assert!(helped[0].accepted, "{helped:?}");
    let not = random.background_learn(None, 0.0).unwrap();
    assert!(!not[0].accepted, "{not:?}");
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
