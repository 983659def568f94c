//! Configuration of a bank.

use crate::error::{Error, Result};
use crate::patterns::index::MAX_DIM;
use serde::{Deserialize, Serialize};

/// What a [`super::Bank`] is built from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BankConfig {
    /// Clusters per scope at most.
    pub k_clusters: usize,
    /// Length of every embedding.
    pub embedding_dim: usize,
    /// Iterations of the clustering at most.
    pub max_iterations: usize,
    /// The clustering stops when no centroid moved farther.
    pub convergence_threshold: f64,
    /// Smaller clusters are no patterns; fewer cases are not clustered.
    pub min_cluster_size: usize,
    /// Patterns of lower mean quality are not found as what worked (they are still recalled as what to avoid).
    pub quality_threshold: f64,
    /// Patterns more similar than this are one.
    pub merge_similarity: f64,
    /// Cases kept over all scopes.
    pub max_trajectories: usize,
    /// Seed of the clustering.
    pub seed: u64,
}

impl Default for BankConfig {
    fn default() -> Self {
        Self {
            k_clusters: 50,
            embedding_dim: 256,
            max_iterations: 100,
            convergence_threshold: 0.001,
            min_cluster_size: 5,
            quality_threshold: 0.0,
            merge_similarity: 0.95,
            max_trajectories: 10_000,
            seed: 0,
        }
    }
}

impl BankConfig {
    /// Errors at the first field out of range.
    pub fn validate(&self) -> Result<()> {
        let counts = [
            ("k_clusters", self.k_clusters),
            ("embedding_dim", self.embedding_dim),
            ("max_iterations", self.max_iterations),
            ("min_cluster_size", self.min_cluster_size),
            ("max_trajectories", self.max_trajectories),
        ];
        for (name, value) in counts {
            if value == 0 {
                return Err(Error::config(name, "at least 1", value));
            }
        }
        if self.embedding_dim > MAX_DIM {
            return Err(Error::config(
                "embedding_dim",
                format!("1 to {MAX_DIM}"),
                self.embedding_dim,
            ));
        }
        if !(self.convergence_threshold.is_finite() && self.convergence_threshold >= 0.0) {
            return Err(Error::config(
                "convergence_threshold",
                "a number >= 0",
                self.convergence_threshold,
            ));
        }
        if !(0.0..=1.0).contains(&self.quality_threshold) {
            return Err(Error::config(
                "quality_threshold",
                "a number in [0, 1]",
                self.quality_threshold,
            ));
        }
        if !(-1.0..=1.0).contains(&self.merge_similarity) {
            return Err(Error::config(
                "merge_similarity",
                "a cosine in [-1, 1]",
                self.merge_similarity,
            ));
        }
        Ok(())
    }
}
