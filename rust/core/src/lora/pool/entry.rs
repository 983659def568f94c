//! What a pool knows of one adapter, and its own settings.

use crate::error::{Error, Result};
use crate::lora::micro::MicroLora;
use crate::lora::micro_config::MicroConfig;
use crate::lora::shared::SharedMicroLora;
use crate::rng::{self, RngExt};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::{Arc, Weak};

/// How an [`AdapterPool`] is bounded and makes adapters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PoolConfig {
    /// Length of task embeddings and of the adapters' vectors.
    pub dim: usize,
    /// Rank of the adapters.
    pub rank: usize,
    /// Most bytes in memory.
    pub memory_budget: Option<usize>,
    /// Cosine from which a task counts as known.
    pub similarity: f64,
    /// Similarity from which adapters that fire together are merged by themselves; `None`: only when asked.
    pub merge_similarity: Option<f64>,
    /// Seed of the adapters.
    pub seed: u64,
}

impl PoolConfig {
    pub(super) fn validate(&self) -> Result<()> {
        MicroLora::new(self.adapter(0)).map_err(|e| match e {
            Error::Config {
                name: "hidden_dim",
                expected,
                got,
            } => Error::config("dim", expected, got),
            other => other,
        })?;
        if !(-1.0..=1.0).contains(&self.similarity) {
            return Err(Error::config(
                "similarity",
                "a cosine in [-1, 1]",
                self.similarity,
            ));
        }
        if let Some(v) = self.merge_similarity.filter(|v| !(0.0..=1.0).contains(v)) {
            return Err(Error::config(
                "merge_similarity",
                "a cosine in [0, 1], or none",
                v,
            ));
        }
        if self.memory_budget == Some(0) {
            return Err(Error::config("memory_budget", "at least 1, or none", 0));
        }
        Ok(())
    }

    pub(super) fn adapter(&self, id: u64) -> MicroConfig {
        let mut config = MicroConfig::new(self.dim, self.rank);
        config.seed = rng::stream(self.seed, id).random();
        config
    }
}

/// Where an adapter is.
#[derive(Debug)]
pub(super) enum Home {
    /// In memory.
    Memory(Arc<SharedMicroLora>),
    /// On disk; the handle finds the adapter again if somebody still uses it.
    Disk(PathBuf, Weak<SharedMicroLora>),
}

/// One adapter with its task.
#[derive(Debug)]
pub(super) struct Entry {
    /// Running mean of the task's embeddings.
    pub centroid: Vec<f32>,
    /// Embeddings in the mean.
    pub seen: u64,
    /// Turn of the last use.
    pub used: u64,
    /// Stays in memory.
    pub pinned: bool,
    /// Where it is.
    pub home: Home,
}

impl Entry {
    /// What the entry costs besides its adapter.
    pub(super) fn fixed(&self) -> usize {
        size_of::<Self>() + self.centroid.len() * size_of::<f32>()
    }

    /// What it costs in memory.
    pub(super) fn nbytes(&self) -> usize {
        let adapter = match &self.home {
            Home::Memory(a) => a.read(MicroLora::nbytes),
            Home::Disk(..) => 0,
        };
        self.fixed() + adapter
    }
}

/// What happened since the pool was made.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub(super) struct Counters {
    pub created: u64,
    pub reused: u64,
    pub evicted: u64,
    pub spilled: u64,
    pub reloaded: u64,
    pub merged: u64,
}
