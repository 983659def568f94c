//! Test-then-learn figures: every feedback is scored before it is learned from (progressive validation).

use serde::{Deserialize, Serialize};

/// Running mean and variance (Welford 1962).
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Running {
    /// Number of values.
    pub n: u64,
    /// Mean.
    pub mean: f64,
    m2: f64,
}

impl Running {
    /// Takes one value.
    pub fn push(&mut self, x: f64) {
        self.n += 1;
        let delta = x - self.mean;
        self.mean += delta / self.n as f64;
        self.m2 += delta * (x - self.mean);
    }

    /// Pools two samples (Chan, Golub & LeVeque 1979).
    #[must_use]
    pub fn merged(self, other: Self) -> Self {
        if self.n == 0 || other.n == 0 {
            return if self.n == 0 { other } else { self };
        }
        let n = self.n + other.n;
        let delta = other.mean - self.mean;
        let mean = self.mean + delta * other.n as f64 / n as f64;
        let m2 = self.m2 + other.m2 + delta * delta * (self.n as f64 * other.n as f64) / n as f64;
        Self { n, mean, m2 }
    }

    /// Standard error of the mean; infinite below two values.
    #[must_use]
    pub fn standard_error(&self) -> f64 {
        if self.n < 2 {
            f64::INFINITY
        } else {
            (self.m2 / (self.n - 1) as f64 / self.n as f64).sqrt()
        }
    }

    /// 95 % interval of the mean under the normal approximation.
    #[must_use]
    pub fn interval(&self) -> (f64, f64) {
        let half = 1.959_964 * self.standard_error();
        (self.mean - half, self.mean + half)
    }
}

/// What the learned ranking would have done on each feedback, against the application's own ranking.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// DCG of the chosen items under the application's scores.
    pub base: Running,
    /// DCG of the chosen items under the learned scores.
    pub learned: Running,
    /// Paired difference, all feedback.
    pub lift: Running,
    /// Paired difference where a chosen item had been chosen before.
    pub lift_seen: Running,
    /// Paired difference where no chosen item had been chosen before.
    pub lift_unseen: Running,
}

impl Progress {
    /// Takes one feedback: DCG under both scores, and whether the chosen items had feedback before.
    pub fn push(&mut self, base: f64, learned: f64, seen: bool) {
        self.base.push(base);
        self.learned.push(learned);
        let d = learned - base;
        self.lift.push(d);
        if seen {
            &mut self.lift_seen
        } else {
            &mut self.lift_unseen
        }
        .push(d);
    }
}

/// Bias-corrected running mean that a reward is compared with, read before the reward enters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    sum: f64,
    weight: f64,
}

impl Baseline {
    const BETA: f64 = 0.99;

    /// The mean so far; ½ before the first reward.
    #[must_use]
    pub fn read(&self) -> f64 {
        if self.weight > 0.0 {
            self.sum / self.weight
        } else {
            0.5
        }
    }

    /// Takes one reward.
    pub fn update(&mut self, reward: f64) {
        self.sum = Self::BETA * self.sum + (1.0 - Self::BETA) * reward;
        self.weight = Self::BETA * self.weight + (1.0 - Self::BETA);
    }
}

/// DCG with binary gains: Σ 1/log₂(1 + rank) over the wanted positions, rank by score, ties by position
/// (Järvelin & Kekäläinen 2002). NaN scores rank last.
#[must_use]
pub fn dcg(scores: &[f32], wanted: &[usize]) -> f64 {
    wanted
        .iter()
        .map(|&w| {
            let s = scores[w];
            if s.is_nan() {
                return 1.0 / (2.0 + scores.len() as f64).log2();
            }
            let above = scores
                .iter()
                .enumerate()
                .filter(|&(i, &v)| v > s || (v == s && i < w))
                .count();
            1.0 / (2.0 + above as f64).log2()
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn running_matches_two_pass() {
        let xs = [1.0, 4.0, -2.0, 0.5, 9.0];
        let mut r = Running::default();
        xs.iter().for_each(|&x| r.push(x));
        let mean = xs.iter().sum::<f64>() / 5.0;
        let var = xs.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / 4.0;
        assert!((r.mean - mean).abs() < 1e-12);
        assert!((r.standard_error() - (var / 5.0).sqrt()).abs() < 1e-12);
        let half = |xs: &[f64]| {
            let mut r = Running::default();
            xs.iter().for_each(|&x| r.push(x));
            r
        };
        let pooled = half(&xs[..2]).merged(half(&xs[2..])).merged(Running::default());
        assert_eq!(pooled.n, 5);
        assert!(
            (pooled.mean - mean).abs() < 1e-12
                && (pooled.standard_error() - r.standard_error()).abs() < 1e-12
        );
    }

    #[test]
    fn dcg_by_hand() {
        let s = [0.1, 0.9, 0.5, 0.5];
        assert!((dcg(&s, &[1]) - 1.0).abs() < 1e-12);
        assert!((dcg(&s, &[2]) - 1.0 / 3f64.log2()).abs() < 1e-12);
        assert!((dcg(&s, &[3]) - 0.5).abs() < 1e-12);
        assert!((dcg(&s, &[1, 0]) - (1.0 + 1.0 / 5f64.log2())).abs() < 1e-12);
        assert!(dcg(&[f32::NAN, 1.0], &[0]) < dcg(&[0.0, 1.0], &[0]));
    }
}
