//! ADWIN2 (Bifet & Gavaldà 2007): a window of the latest values that is cut where its two ends have different means.

use super::{Counts, Detector};
use crate::codec::Kind;
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Buckets of one size before two of them become one (M in the paper).
const PER_ROW: usize = 5;
/// Values between two checks.
const CLOCK: u64 = 32;
/// Shortest window that is checked.
const MIN_WIDTH: f64 = 10.0;
/// Shortest end that is compared.
const MIN_SIDE: f64 = 5.0;

/// 2ⁱ values condensed, in row i.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Bucket {
    sum: f64,
    /// Sum of squared deviations from the bucket's mean.
    spread: f64,
}

/// Alarms when the window was cut.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Adwin {
    delta: f64,
    /// Row i holds buckets of 2ⁱ values, the oldest first.
    rows: Vec<VecDeque<Bucket>>,
    width: u64,
    sum: f64,
    spread: f64,
    counts: Counts,
}

impl Adwin {
    /// `delta` in (0, 1): confidence of a cut.
    pub fn new(delta: f64) -> Result<Self> {
        if !(delta > 0.0 && delta < 1.0) {
            return Err(Error::config("delta", "a number in (0, 1)", delta));
        }
        Ok(Self {
            delta,
            rows: vec![VecDeque::new()],
            width: 0,
            sum: 0.0,
            spread: 0.0,
            counts: Counts::default(),
        })
    }

    /// Values in the window.
    #[must_use]
    pub fn width(&self) -> u64 {
        self.width
    }

    /// Mean of the window; 0 while it is empty.
    #[must_use]
    pub fn mean(&self) -> f64 {
        if self.width == 0 {
            0.0
        } else {
            self.sum / self.width as f64
        }
    }

    fn insert(&mut self, x: f64) {
        if self.width > 0 {
            let n = self.width as f64;
            let d = x - self.sum / n;
            self.spread += d * d * n / (n + 1.0);
        }
        self.width += 1;
        self.sum += x;
        self.rows[0].push_back(Bucket { sum: x, spread: 0.0 });
        let mut i = 0;
        while self.rows[i].len() > PER_ROW {
            let (Some(a), Some(b)) = (self.rows[i].pop_front(), self.rows[i].pop_front()) else {
                return;
            };
            let n = (1_u64 << i) as f64;
            let d = (a.sum - b.sum) / n;
            let both = Bucket {
                sum: a.sum + b.sum,
                spread: a.spread + b.spread + d * d * n / 2.0,
            };
            if i + 1 == self.rows.len() {
                self.rows.push(VecDeque::new());
            }
            self.rows[i + 1].push_back(both);
            i += 1;
        }
    }

    /// Drops the oldest bucket.
    fn drop_oldest(&mut self) {
        while self.rows.len() > 1 && self.rows.last().is_some_and(VecDeque::is_empty) {
            self.rows.pop();
        }
        let i = self.rows.len() - 1;
        let Some(old) = self.rows[i].pop_front() else {
            return;
        };
        let n = 1_u64 << i;
        self.width -= n;
        self.sum -= old.sum;
        if self.width == 0 {
            self.sum = 0.0;
            self.spread = 0.0;
        } else {
            let (n, rest) = (n as f64, self.width as f64);
            let d = old.sum / n - self.sum / rest;
            self.spread = (self.spread - old.spread - d * d * n * rest / (n + rest)).max(0.0);
        }
    }

    /// Whether two ends of the window have means that differ (equation 3.1 of the paper, with the variance).
    fn has_cut(&self) -> bool {
        let n = self.width as f64;
        let variance = self.spread / n;
        let confidence = (2.0 * n.ln() / self.delta).ln();
        let (mut n0, mut sum0) = (0.0, 0.0);
        for (i, row) in self.rows.iter().enumerate().rev() {
            for bucket in row {
                n0 += (1_u64 << i) as f64;
                sum0 += bucket.sum;
                let n1 = n - n0;
                if n1 < MIN_SIDE {
                    return false;
                }
                if n0 < MIN_SIDE {
                    continue;
                }
                let inverse = 1.0 / (n0 - MIN_SIDE + 1.0) + 1.0 / (n1 - MIN_SIDE + 1.0);
                let apart = (sum0 / n0 - (self.sum - sum0) / n1).abs();
                if apart > (2.0 * inverse * variance * confidence).sqrt() + 2.0 / 3.0 * confidence * inverse {
                    return true;
                }
            }
        }
        false
    }
}

impl Detector for Adwin {
    const KIND: Kind = Kind {
        tag: *b"ADWN",
        version: 1,
    };

    fn update(&mut self, x: f64) -> bool {
        if !self.counts.enter(x) {
            return false;
        }
        self.insert(x);
        let mut alarm = false;
        if self.counts.seen.is_multiple_of(CLOCK) {
            while self.width as f64 > MIN_WIDTH && self.has_cut() {
                self.drop_oldest();
                alarm = true;
            }
        }
        self.counts.leave(alarm)
    }

    fn metrics(&self) -> Metrics {
        let mut out = self.counts.metrics();
        out.extend([("width", self.width.into()), ("mean", self.mean().into())]);
        out
    }

    fn is_valid(&self) -> bool {
        let rows = (1..=60).contains(&self.rows.len()) && self.rows.iter().all(|r| r.len() <= PER_ROW);
        let width = || {
            self.rows
                .iter()
                .enumerate()
                .map(|(i, r)| (r.len() as u64) << i)
                .sum::<u64>()
        };
        let finite = self
            .rows
            .iter()
            .flatten()
            .all(|b| b.sum.is_finite() && b.spread.is_finite());
        Self::new(self.delta).is_ok()
            && rows
            && width() == self.width
            && finite
            && self.sum.is_finite()
            && self.spread.is_finite()
    }
}
