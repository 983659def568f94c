//! The one currency of learning: any outcome becomes a direction for the adapter's output.

use super::losses::{ChoiceFeedback, RankingLoss, RelevanceLoss};
use super::record::Trajectory;
use crate::error::{Error, Result, check_dim, check_finite, check_number};
use serde::{Deserialize, Serialize};

/// Where a signal came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SignalKind {
    /// Steps of a trajectory.
    Trajectory,
    /// The caller's own gradient.
    Gradient,
    /// Positives and negatives.
    Ranking,
    /// Graded relevance.
    Relevance,
    /// One choice with a reward.
    Choice,
}

impl SignalKind {
    /// The public name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Trajectory => "trajectory",
            Self::Gradient => "gradient",
            Self::Ranking => "ranking",
            Self::Relevance => "relevance",
            Self::Choice => "choice",
        }
    }
}

/// A direction for the adapter's output at one input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LearningSignal {
    /// x, the adapter's input.
    pub query: Vec<f32>,
    /// Ascent direction on the adapter's output y: adding it makes the outcome better.
    pub gradient: Vec<f32>,
    /// How good the outcome was, in `[0, 1]`.
    pub quality: f64,
    /// Multiplies `gradient` in every update.
    pub weight: f64,
    /// Seconds.
    pub timestamp: f64,
    /// Where it came from.
    pub kind: SignalKind,
    /// Loss at the output, where there is one.
    pub loss: Option<f64>,
    /// Why there is no direction; empty if there is one.
    pub reason: String,
    /// Steps of the trajectory.
    pub steps: usize,
}

/// Unit vector in float64 and the norm; a zero vector stays zero.
fn unit(v: &[f32]) -> (Vec<f64>, f64) {
    let norm = v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    // Divided, not multiplied by an inverse: rows of one direction whose lengths differ by a power of two stay equal, so
    // that ties are ties.
    let by = if norm > 0.0 { norm } else { 1.0 };
    (v.iter().map(|x| f64::from(*x) / by).collect(), norm)
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// Cosine scores of one output against candidates, and the way back from score gradients to the output.
struct Cosine {
    u: Vec<f64>,
    norm: f64,
    units: Vec<Vec<f64>>,
}

impl Cosine {
    fn new(output: &[f32], rows: &[f32]) -> Self {
        let (u, norm) = unit(output);
        let units = rows
            .chunks_exact(output.len().max(1))
            .map(|r| unit(r).0)
            .collect();
        Self { u, norm, units }
    }

    fn scores(&self) -> Vec<f64> {
        self.units.iter().map(|c| dot(&self.u, c)).collect()
    }

    /// −∂L/∂y for ∂L/∂score: g_u = Σ ds c, then g = (g_u − (g_u·u)u)/‖y‖.
    fn ascent(&self, ds: &[f64]) -> Vec<f32> {
        if self.norm == 0.0 {
            return vec![0.0; self.u.len()];
        }
        let mut g = vec![0.0; self.u.len()];
        for (c, d) in self.units.iter().zip(ds) {
            for (g, c) in g.iter_mut().zip(c) {
                *g += d * c;
            }
        }
        let along = dot(&g, &self.u);
        g.iter()
            .zip(&self.u)
            .map(|(g, u)| (-(g - along * u) / self.norm) as f32)
            .collect()
    }
}

/// Rows of `name` that match `query`; `output` defaults to the query.
fn check_inputs<'a>(
    query: &'a [f32],
    output: Option<&'a [f32]>,
    sets: &[(&'static str, &[f32])],
) -> Result<&'a [f32]> {
    let d = query.len();
    if d == 0 {
        return Err(Error::shape("query", "(d,) with d >= 1", "(0,)"));
    }
    check_finite("query", query)?;
    let y = output.unwrap_or(query);
    check_dim("output", d, y.len())?;
    check_finite("output", y)?;
    for (name, rows) in sets {
        if !rows.len().is_multiple_of(d) {
            return Err(Error::Dimension {
                name,
                expected: d,
                got: rows.len() % d,
            });
        }
        check_finite(name, rows)?;
        if rows.is_empty() {
            return Err(Error::value(name, "at least one row", 0));
        }
    }
    Ok(y)
}

impl LearningSignal {
    fn build(kind: SignalKind, query: &[f32], gradient: Vec<f32>, quality: f64) -> Self {
        Self {
            query: query.to_vec(),
            gradient,
            quality: quality.clamp(0.0, 1.0),
            weight: 1.0,
            timestamp: 0.0,
            kind,
            loss: None,
            reason: String::new(),
            steps: 0,
        }
    }

    fn from_scores(
        kind: SignalKind,
        query: &[f32],
        cos: &Cosine,
        loss: f64,
        ds: &[f64],
        quality: f64,
        flat: &str,
    ) -> Self {
        let mut signal = Self::build(kind, query, cos.ascent(ds), quality);
        signal.loss = Some(loss);
        if cos.norm == 0.0 {
            signal.reason = "zero query".into();
        } else if signal.gradient.iter().all(|g| *g == 0.0) {
            signal.reason = flat.into();
        }
        signal
    }

    /// REINFORCE (Williams 1992) over the steps: Σ Aₜ(aₜ − q) with the reward-to-go Aₜ = Σ_{s≥t}(r_s − b) + (quality − b).
    pub fn from_trajectory(trajectory: &Trajectory, baseline: f64) -> Result<Self> {
        trajectory.validate()?;
        check_number("baseline", baseline)?;
        let q = &trajectory.query_embedding;
        let mut to_go = trajectory.final_quality - baseline;
        let mut sum = vec![0.0f64; q.len()];
        for step in trajectory.steps.iter().rev() {
            to_go += step.reward - baseline;
            for ((s, a), q) in sum.iter_mut().zip(&step.activations).zip(q) {
                *s += to_go * (f64::from(*a) - f64::from(*q));
            }
        }
        let gradient: Vec<f32> = sum.iter().map(|v| *v as f32).collect();
        check_finite("gradient_estimate", &gradient)?;
        let mut signal = Self::build(SignalKind::Trajectory, q, gradient, trajectory.final_quality);
        signal.steps = trajectory.steps.len();
        if trajectory.steps.is_empty() {
            signal.reason = "no steps".into();
        } else if signal.gradient.iter().all(|g| *g == 0.0) {
            signal.reason = "zero advantage or no move".into();
        }
        Ok(signal)
    }

    /// The caller's own ascent direction, weighted by how much better than the baseline the outcome was.
    pub fn with_gradient(embedding: &[f32], gradient: &[f32], quality: f64, baseline: f64) -> Result<Self> {
        check_finite("embedding", embedding)?;
        check_dim("gradient", embedding.len(), gradient.len())?;
        check_finite("gradient", gradient)?;
        check_finite("quality", &[quality as f32])?;
        check_finite("baseline", &[baseline as f32])?;
        let mut signal = Self::build(SignalKind::Gradient, embedding, gradient.to_vec(), quality);
        signal.weight = signal.quality - baseline;
        if gradient.iter().all(|g| *g == 0.0) {
            signal.reason = "zero gradient".into();
        } else if signal.weight == 0.0 {
            signal.reason = "quality equals the baseline".into();
        }
        Ok(signal)
    }

    /// Positives against negatives, both `(n, d)` row-major, scored by cosine at `output` (default: the query).
    pub fn from_ranking(
        query: &[f32],
        positives: &[f32],
        negatives: &[f32],
        loss: RankingLoss,
        output: Option<&[f32]>,
    ) -> Result<Self> {
        let y = check_inputs(
            query,
            output,
            &[("positives", positives), ("negatives", negatives)],
        )?;
        let p = positives.len() / query.len();
        let cos = Cosine::new(y, &[positives, negatives].concat());
        let scores = cos.scores();
        let (value, mut ds, dn) = loss.evaluate(&scores[..p], &scores[p..]);
        ds.extend(dn);
        let flat = "no pair violates the loss";
        Ok(Self::from_scores(
            SignalKind::Ranking,
            query,
            &cos,
            value,
            &ds,
            1.0,
            flat,
        ))
    }

    /// Graded relevance of candidates `(n, d)` row-major, scored by cosine at `output` (default: the query).
    pub fn from_relevance(
        query: &[f32],
        candidates: &[f32],
        relevance: &[f64],
        loss: RelevanceLoss,
        sigma: f64,
        output: Option<&[f32]>,
    ) -> Result<Self> {
        let y = check_inputs(query, output, &[("candidates", candidates)])?;
        check_dim("relevance", candidates.len() / query.len(), relevance.len())?;
        if let Some(index) = relevance.iter().position(|r| !r.is_finite()) {
            return Err(Error::NotFinite {
                name: "relevance",
                index,
                value: relevance[index] as f32,
            });
        }
        let cos = Cosine::new(y, candidates);
        let (value, ds) = loss.evaluate(&cos.scores(), relevance, sigma)?;
        let flat = "no pair of unequal relevance";
        Ok(Self::from_scores(
            SignalKind::Relevance,
            query,
            &cos,
            value,
            &ds,
            1.0,
            flat,
        ))
    }

    /// Bandit feedback: one chosen candidate and its reward.
    pub fn from_choice(
        query: &[f32],
        candidates: &[f32],
        feedback: &ChoiceFeedback,
        output: Option<&[f32]>,
    ) -> Result<Self> {
        let y = check_inputs(query, output, &[("candidates", candidates)])?;
        feedback.validate(candidates.len() / query.len())?;
        let cos = Cosine::new(y, candidates);
        let (value, ds) = feedback.evaluate(&cos.scores());
        let flat = "no alternative, or the reward equals the baseline";
        Ok(Self::from_scores(
            SignalKind::Choice,
            query,
            &cos,
            value,
            &ds,
            feedback.reward,
            flat,
        ))
    }
}

#[cfg(test)]
#[path = "signal_tests.rs"]
mod tests;
