//! A small world of documents and users, and an engine in it.

use sona_core::engine::{Engine, EngineConfig, Feedback, IdRef, Outcome, Request, TraceEvent};
use sona_core::rng::{ChaCha8Rng, RngExt, stream};
use sona_core::store::Fsync;
use sona_core::trajectory::TrajectoryStep;
use std::path::Path;

pub const D: usize = 16;
pub const N: usize = 40;

pub struct World {
    pub names: Vec<String>,
    pub vectors: Vec<f32>,
    pub rng: ChaCha8Rng,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut rng = stream(7, 0);
        let vectors = (0..N * D).map(|_| rng.random::<f32>() - 0.5).collect();
        Self {
            names: (0..N).map(|i| format!("doc{i}")).collect(),
            vectors,
            rng: stream(seed, 1),
        }
    }

    /// One user: asks near a document, and likes another one that belongs to it.
    pub fn step(&mut self, engine: &Engine, scope: &str, user: &str, now: f64) -> Option<Outcome> {
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

    pub fn run(&mut self, engine: &Engine, scope: &str, user: &str, steps: usize) {
        for i in 0..steps {
            self.step(engine, scope, user, i as f64);
        }
    }
}

pub fn config() -> EngineConfig {
    EngineConfig::new(D)
}

pub fn open(root: &Path) -> Engine {
    Engine::open(config(), root, Fsync::None).unwrap()
}

pub fn trace(engine: &Engine, scope: &str) -> Outcome {
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

pub fn adapted(engine: &Engine, scope: &str) -> Vec<u32> {
    let x: Vec<f32> = (0..D).map(|i| (i as f32).sin()).collect();
    let mut y = vec![0.0; D];
    engine.adapt(scope, &x, &mut y).unwrap();
    y.iter().map(|v| v.to_bits()).collect()
}
