//! Conformal guards of a model: a lower bound of its quality, and the largest predicted gap at which it may stand in for
//! the reference (conformal risk control, Angelopoulos et al. 2024).

use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Outcomes that a guard looks back.
pub const WINDOW: usize = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Outcome {
    /// Predicted quality of the reference minus that of the model.
    gap: f64,
    /// Share of a loss, in [0, 1].
    loss: f64,
    /// One over the propensity.
    weight: f64,
    /// Predicted minus observed quality.
    residual: f64,
}

/// What is known about the errors of one model, over its last [`WINDOW`] outcomes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Guard {
    outcomes: VecDeque<Outcome>,
    alpha: f64,
    threshold: f64,
    quantile: f64,
    /// Outcomes since the bounds were computed.
    fresh: usize,
}

impl Guard {
    /// No outcome: nothing may be routed away, no bound.
    #[must_use]
    pub fn new(alpha: f64) -> Self {
        Self {
            outcomes: VecDeque::new(),
            alpha,
            threshold: f64::NEG_INFINITY,
            quantile: f64::INFINITY,
            fresh: 0,
        }
    }

    /// Adds an outcome. The bounds follow at once while there are few, then with every 2 % more: amortised O(log window).
    pub fn add(&mut self, gap: f64, loss: f64, weight: f64, residual: f64) {
        if self.outcomes.len() == WINDOW {
            self.outcomes.pop_front();
        }
        self.outcomes.push_back(Outcome {
            gap,
            loss,
            weight,
            residual,
        });
        self.fresh += 1;
        if self.fresh * 50 < self.outcomes.len() {
            return;
        }
        self.fresh = 0;
        let pairs: Vec<(f64, f64, f64)> = self.outcomes.iter().map(|o| (o.gap, o.loss, o.weight)).collect();
        self.threshold = risk_threshold(&pairs, self.alpha);
        let mut residuals: Vec<f64> = self.outcomes.iter().map(|o| o.residual).collect();
        self.quantile = upper_quantile(&mut residuals, self.alpha);
    }

    /// Largest gap at which the joint risk P(gap ≤ t and loss) is at most α.
    #[must_use]
    pub fn threshold(&self) -> f64 {
        self.threshold
    }

    /// The quality falls short of its estimate by more than this with probability at most α.
    #[must_use]
    pub fn quantile(&self) -> f64 {
        self.quantile
    }

    /// Numbers that no guard could hold are refused.
    #[must_use]
    pub fn valid(&self, alpha: f64) -> bool {
        self.alpha == alpha
            && self.outcomes.len() <= WINDOW
            && !self.threshold.is_nan()
            && !self.quantile.is_nan()
            && self.outcomes.iter().all(|o| {
                o.gap.is_finite()
                    && (0.0..=1.0).contains(&o.loss)
                    && o.weight.is_finite()
                    && o.weight >= 0.0
                    && o.residual.is_finite()
            })
    }
}

/// Largest t among the gaps with (Σ w·loss·[gap ≤ t] + w_max) / (Σ w + w_max) ≤ α; −∞ if there is none, ∞ if all are fine.
/// Rows are (gap, loss, weight). The largest weight stands for the request to come, whose loss is unknown.
#[must_use]
pub fn risk_threshold(rows: &[(f64, f64, f64)], alpha: f64) -> f64 {
    if alpha >= 1.0 {
        return f64::INFINITY;
    }
    let largest = rows.iter().fold(1.0f64, |m, r| m.max(r.2));
    let total: f64 = rows.iter().map(|r| r.2).sum::<f64>() + largest;
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by(|a, b| rows[*a].0.total_cmp(&rows[*b].0));
    let mut risk = largest;
    let mut best = f64::NEG_INFINITY;
    let mut i = 0;
    while i < order.len() && risk <= alpha * total {
        let gap = rows[order[i]].0;
        while i < order.len() && rows[order[i]].0 == gap {
            let (_, loss, weight) = rows[order[i]];
            risk += weight * loss;
            i += 1;
        }
        if risk <= alpha * total {
            best = gap;
        }
    }
    // Beyond the last gap nothing is known to be worse.
    if i == order.len() && risk <= alpha * total {
        f64::INFINITY
    } else {
        best
    }
}

/// The ⌈(n + 1)(1 − α)⌉-th smallest score, ∞ if that exceeds n (Vovk 2005). Sorts `scores`.
#[must_use]
pub fn upper_quantile(scores: &mut [f64], alpha: f64) -> f64 {
    let n = scores.len();
    // A product like 10 · 0.9 may come out a bit above its integer.
    let rank = ((n as f64 + 1.0) * (1.0 - alpha) - 1e-9).ceil().max(1.0);
    if rank > n as f64 {
        return f64::INFINITY;
    }
    let (_, v, _) = scores.select_nth_unstable_by(rank as usize - 1, f64::total_cmp);
    *v
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{self, RngExt};

    #[test]
    fn joint_risk_holds_on_average() {
        // Loss becomes likelier with the gap; over many calibration sets the mean joint risk stays at or under α.
        let (alpha, n, trials) = (0.1, 60, 2000);
        let mut joint = 0.0;
        for t in 0..trials {
            let mut rng = rng::stream(7, t);
            let mut draw = || {
                let gap: f64 = rng.random();
                (gap, f64::from(u8::from(rng.random::<f64>() < 0.5 * gap)), 1.0)
            };
            let rows: Vec<_> = (0..n).map(|_| draw()).collect();
            let limit = risk_threshold(&rows, alpha);
            let (gap, loss, _) = draw();
            joint += if gap <= limit { loss } else { 0.0 };
        }
        let mean = joint / trials as f64;
        assert!(mean <= alpha + 0.015 && mean > 0.5 * alpha, "{mean}");
    }

    #[test]
    fn nothing_known_nothing_allowed() {
        assert_eq!(risk_threshold(&[], 0.1), f64::NEG_INFINITY);
        assert_eq!(risk_threshold(&[], 1.0), f64::INFINITY);
        assert_eq!(risk_threshold(&[(0.3, 0.0, 1.0); 9], 0.1), f64::INFINITY);
        assert_eq!(risk_threshold(&[(0.3, 0.0, 1.0); 8], 0.1), f64::NEG_INFINITY);
        assert_eq!(upper_quantile(&mut [], 0.1), f64::INFINITY);
        assert_eq!(upper_quantile(&mut [3.0, 1.0, 2.0], 0.25), 3.0);
    }
}
