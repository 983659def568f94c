//! Distance from the median of a window in median absolute deviations (Hampel 1974).

use super::statistics::middle;
use super::{Counts, Detector, positive};
use crate::codec::Kind;
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Longest window.
const MAX_WINDOW: usize = 1 << 20;

/// Alarms on a value far from the previous `window` values. The value itself is not among them: inside its own window
/// of ten no value can reach three standard deviations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RobustZ {
    window: usize,
    threshold: f64,
    min_count: usize,
    recent: VecDeque<f64>,
    sorted: Vec<f64>,
    score: f64,
    counts: Counts,
}

impl RobustZ {
    /// Scores are 0 until `min_count` values were seen.
    pub fn new(window: usize, threshold: f64, min_count: usize) -> Result<Self> {
        if !(1..=MAX_WINDOW).contains(&window) {
            return Err(Error::config(
                "window",
                format!("an integer from 1 to {MAX_WINDOW}"),
                window,
            ));
        }
        if !(1..=window).contains(&min_count) {
            return Err(Error::config(
                "min_count",
                "an integer from 1 to window",
                min_count,
            ));
        }
        positive("threshold", threshold)?;
        Ok(Self {
            window,
            threshold,
            min_count,
            recent: VecDeque::new(),
            sorted: Vec::new(),
            score: 0.0,
            counts: Counts::default(),
        })
    }

    /// Deviation of the latest value, in deviations of its window.
    #[must_use]
    pub fn score(&self) -> f64 {
        self.score
    }

    /// Median of the distances from `center`: the sorted window falls into two sorted halves of distances, merged up to the
    /// middle.
    fn deviation(&self, center: f64) -> f64 {
        let n = self.sorted.len();
        let right_start = self.sorted.partition_point(|v| *v < center);
        let (mut left, mut right) = (right_start, right_start);
        let (mut before, mut last) = (0.0, 0.0);
        for _ in 0..=n / 2 {
            before = last;
            let below = if left > 0 {
                center - self.sorted[left - 1]
            } else {
                f64::INFINITY
            };
            let above = if right < n {
                self.sorted[right] - center
            } else {
                f64::INFINITY
            };
            if below <= above {
                left -= 1;
                last = below;
            } else {
                right += 1;
                last = above;
            }
        }
        if n % 2 == 1 { last } else { before.midpoint(last) }
    }
}

impl Detector for RobustZ {
    const KIND: Kind = Kind {
        tag: *b"ROBZ",
        version: 1,
    };

    fn update(&mut self, x: f64) -> bool {
        if !self.counts.enter(x) {
            return false;
        }
        self.score = 0.0;
        if self.sorted.len() >= self.min_count {
            let center = middle(&self.sorted);
            let spread = 1.4826 * self.deviation(center) + 1e-3 * center.abs() + 1e-9;
            self.score = (x - center).abs() / spread;
        }
        if self.recent.len() == self.window {
            if let Some(old) = self.recent.pop_front() {
                let at = self.sorted.partition_point(|v| v.total_cmp(&old).is_lt());
                self.sorted.remove(at);
            }
        }
        self.recent.push_back(x);
        let at = self.sorted.partition_point(|v| v.total_cmp(&x).is_lt());
        self.sorted.insert(at, x);
        self.counts.leave(self.score > self.threshold)
    }

    fn metrics(&self) -> Metrics {
        let mut out = self.counts.metrics();
        out.extend([("score", self.score.into()), ("window", self.recent.len().into())]);
        out
    }

    fn is_valid(&self) -> bool {
        let mut again: Vec<f64> = self.recent.iter().copied().collect();
        again.sort_unstable_by(f64::total_cmp);
        let same = again
            .iter()
            .map(|v| v.to_bits())
            .eq(self.sorted.iter().map(|v| v.to_bits()));
        let fresh = Self::new(self.window, self.threshold, self.min_count).is_ok();
        fresh
            && same
            && self.recent.len() <= self.window
            && again.iter().all(|v| v.is_finite())
            && self.score >= 0.0
    }
}
