//! The finished record of one request.

use crate::error::{Error, Result, check_dim, check_finite};
use serde::{Deserialize, Serialize};

/// One decision inside a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrajectoryStep {
    /// Where the request's representation stood, as long as the query.
    pub activations: Vec<f32>,
    /// How attention was spread; any length.
    pub attention_weights: Vec<f32>,
    /// Reward of this step.
    pub reward: f64,
    /// Seconds.
    pub timestamp: f64,
}

/// A finished request: what was asked, what was done, how well it went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trajectory {
    /// The caller's number for it.
    pub id: i64,
    /// The query, `d` values.
    pub query_embedding: Vec<f32>,
    /// Decisions in order.
    pub steps: Vec<TrajectoryStep>,
    /// Outcome in `[0, 1]`.
    pub final_quality: f64,
    /// Duration in microseconds.
    pub latency_us: u64,
    /// Whose it is.
    pub scope: String,
    /// Who reported the outcome.
    pub source: String,
}

impl Trajectory {
    /// Checks lengths, finiteness and the range of the quality.
    pub fn validate(&self) -> Result<()> {
        check_finite("query_embedding", &self.query_embedding)?;
        for step in &self.steps {
            check_dim("activations", self.query_embedding.len(), step.activations.len())?;
            check_finite("activations", &step.activations)?;
            check_finite("attention_weights", &step.attention_weights)?;
            check_finite("reward", &[step.reward as f32])?;
            if !step.timestamp.is_finite() {
                return Err(Error::value("timestamp", "a finite number", step.timestamp));
            }
        }
        if (0.0..=1.0).contains(&self.final_quality) {
            Ok(())
        } else {
            Err(Error::value(
                "final_quality",
                "a number in [0, 1]",
                self.final_quality,
            ))
        }
    }

    /// Bytes held, the struct itself included.
    #[must_use]
    pub fn nbytes(&self) -> usize {
        let floats: usize = self
            .steps
            .iter()
            .map(|s| s.activations.len() + s.attention_weights.len())
            .sum::<usize>()
            + self.query_embedding.len();
        size_of::<Self>()
            + self.steps.len() * size_of::<TrajectoryStep>()
            + floats * size_of::<f32>()
            + self.scope.len()
            + self.source.len()
    }
}
