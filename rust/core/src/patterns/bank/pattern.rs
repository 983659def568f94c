//! A learned pattern: what a cluster of similar requests amounted to, as exact sufficient statistics.

use crate::error::{Error, Result, check_dim, check_number};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Qualities from here on are a success.
pub const SUCCESS: f64 = 0.7;
/// Qualities up to here are a failure.
pub const FAILURE: f64 = 0.3;
/// Actions a pattern remembers; the least frequent go first.
const MAX_ACTIONS: usize = 16;

/// How a request, or a group of them, turned out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Verdict {
    /// It worked.
    Success,
    /// It did not: avoid.
    Failure,
    /// Neither is clear.
    Uncertain,
}

impl Verdict {
    /// By the default thresholds on a quality in `[0, 1]`.
    #[must_use]
    pub fn of(quality: f64) -> Self {
        if quality >= SUCCESS {
            Self::Success
        } else if quality <= FAILURE {
            Self::Failure
        } else {
            Self::Uncertain
        }
    }

    /// Verdict of a union: what both say, else [`Verdict::Uncertain`]. Associative and commutative.
    #[must_use]
    pub fn join(self, other: Self) -> Self {
        if self == other { self } else { Self::Uncertain }
    }

    /// Lower-case name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Uncertain => "uncertain",
        }
    }
}

/// How one action did within a pattern.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActionOutcome {
    /// The caller's name for what was done.
    pub action: Arc<str>,
    /// How often.
    pub count: u64,
    /// Mean quality.
    pub mean_quality: f64,
}

/// Title, description and content of a memory item, as a distiller wrote them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memo {
    /// A few words.
    pub title: String,
    /// One sentence.
    pub description: String,
    /// What to do or to avoid.
    pub content: String,
}

/// One pattern.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pattern {
    /// Number that survives re-extraction.
    pub id: u64,
    /// Whose it is.
    pub scope: Arc<str>,
    /// Mean of the members' embeddings.
    pub centroid: Vec<f32>,
    /// Members.
    pub cluster_size: u64,
    /// Σ of the members' weights.
    pub total_weight: f64,
    /// Mean quality.
    pub avg_quality: f64,
    /// Population variance of the quality.
    pub quality_var: f64,
    /// Seconds.
    pub created_at: i64,
    /// Seconds.
    pub last_accessed: i64,
    /// How often a search returned it.
    pub access_count: u64,
    /// How its members turned out.
    pub verdict: Verdict,
    /// What was done, most frequent first.
    pub actions: Vec<ActionOutcome>,
    /// What a distiller made of it, until its statistics change.
    pub memo: Option<Memo>,
    /// Patterns that were merged into it.
    pub merged: u64,
}

/// `(mean, variance)` of the union of two groups; the first where both are empty.
fn pool(n: (f64, f64), mean: (f64, f64), var: (f64, f64)) -> (f64, f64) {
    let total = n.0 + n.1;
    if total == 0.0 {
        return (mean.0, var.0);
    }
    let m = (n.0 * mean.0 + n.1 * mean.1) / total;
    let spread = |n: f64, mean: f64, var: f64| n * (var + (mean - m) * (mean - m));
    let v = (spread(n.0, mean.0, var.0) + spread(n.1, mean.1, var.1)) / total;
    (m, v)
}

impl Pattern {
    /// The pattern of both groups of members together; it keeps this one's id.
    ///
    /// Means are weighted by the number of members and the variance is pooled exactly, so the order of merges does not
    /// matter (up to rounding).
    pub fn merge(&self, other: &Self) -> Result<Self> {
        check_dim("centroid", self.centroid.len(), other.centroid.len())?;
        if self.scope != other.scope {
            return Err(Error::Scope {
                scope: other.scope.to_string(),
                reason: format!("cannot merge into a pattern of scope {:?}", self.scope),
            });
        }
        let n = (self.cluster_size as f64, other.cluster_size as f64);
        let (avg_quality, quality_var) = pool(
            n,
            (self.avg_quality, other.avg_quality),
            (self.quality_var, other.quality_var),
        );
        let centroid = self.centroid.iter().zip(&other.centroid);
        let mut actions = self.actions.clone();
        for b in &other.actions {
            match actions.iter_mut().find(|a| a.action == b.action) {
                Some(a) => {
                    let counts = (a.count as f64, b.count as f64);
                    a.mean_quality = pool(counts, (a.mean_quality, b.mean_quality), (0.0, 0.0)).0;
                    a.count += b.count;
                }
                None => actions.push(b.clone()),
            }
        }
        rank_actions(&mut actions);
        Ok(Self {
            id: self.id,
            scope: self.scope.clone(),
            centroid: centroid
                .map(|(a, b)| pool(n, (f64::from(*a), f64::from(*b)), (0.0, 0.0)).0 as f32)
                .collect(),
            cluster_size: self.cluster_size + other.cluster_size,
            total_weight: self.total_weight + other.total_weight,
            avg_quality,
            quality_var,
            created_at: self.created_at.min(other.created_at),
            last_accessed: self.last_accessed.max(other.last_accessed),
            access_count: self.access_count + other.access_count,
            verdict: self.verdict.join(other.verdict),
            actions,
            memo: None,
            merged: self.merged + other.merged + 1,
        })
    }

    /// The pattern `days` later: the weight of its evidence times `factor` per day.
    pub fn decay(&self, factor: f64, days: f64) -> Result<Self> {
        Ok(Self {
            total_weight: self.total_weight * decay_factor(factor, days)?,
            ..self.clone()
        })
    }

    /// Bad and unused: mean quality below `min_quality` and fewer accesses than `min_accesses`.
    #[must_use]
    pub fn should_prune(&self, min_quality: f64, min_accesses: u64) -> bool {
        self.avg_quality < min_quality && self.access_count < min_accesses
    }

    /// Lower end of the Wilson score interval of the quality (Wilson 1927), `z` standard normal deviations wide.
    #[must_use]
    pub fn quality_lower_bound(&self, z: f64) -> f64 {
        wilson_lower_bound(self.avg_quality, self.cluster_size as f64, z)
    }
}

/// Most frequent first, ties by name; what does not fit is dropped.
pub(super) fn rank_actions(actions: &mut Vec<ActionOutcome>) {
    actions.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.action.cmp(&b.action)));
    actions.truncate(MAX_ACTIONS);
}

/// `factor` to the power of `days`.
pub fn decay_factor(factor: f64, days: f64) -> Result<f64> {
    check_number("factor", factor)?;
    check_number("days", days)?;
    if !(0.0..=1.0).contains(&factor) {
        return Err(Error::value("factor", "a number in [0, 1]", factor));
    }
    if days < 0.0 {
        return Err(Error::value("days", "a number >= 0", days));
    }
    Ok(factor.powf(days))
}

/// Lower end of the Wilson score interval of a share `p` of `n` trials; 0 without trials.
#[must_use]
pub fn wilson_lower_bound(p: f64, n: f64, z: f64) -> f64 {
    if n <= 0.0 {
        return 0.0;
    }
    let z2 = z * z;
    let center = p + z2 / (2.0 * n);
    let half = z * (p * (1.0 - p) / n + z2 / (4.0 * n * n)).sqrt();
    ((center - half) / (1.0 + z2 / n)).clamp(0.0, 1.0)
}
