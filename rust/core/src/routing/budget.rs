//! Pacing of a budget: a shadow price of cost that follows the spending (after Balseiro & Gur 2019's adaptive pacing).

use crate::error::{Error, Result, check_number};
use crate::metrics::Metrics;
use serde::{Deserialize, Serialize};

/// What a window of a budget is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    /// Seconds of the clock.
    Seconds,
    /// Requests.
    Requests,
}

/// A limit per window, and the price that keeps the spending on its pace. A window that is over begins anew.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BudgetPacer {
    limit: f64,
    horizon: f64,
    unit: Unit,
    start: Option<f64>,
    latest: f64,
    spent: f64,
    requests: u64,
    /// EWMA of the cost of a request and its weight.
    recent: (f64, f64),
    /// Requests per second over earlier windows, for the beginning of a new one.
    rate: Option<f64>,
    multiplier: f64,
    scale: f64,
    windows: u64,
    total: f64,
}

/// Steps of the shadow price, up and down. Down is faster: what is left unspent while the price falls is lost when the requests
/// that are worth it have passed, and the limit itself guards against the opposite.
const UP: f64 = 0.05;
const DOWN: f64 = 0.15;
/// Requests that the running mean of cost looks back.
const MEMORY: f64 = 50.0;

impl BudgetPacer {
    /// `limit` may be spent per `horizon` seconds or requests; `scale` is the first shadow price.
    pub fn new(limit: f64, horizon: f64, unit: Unit, scale: f64) -> Result<Self> {
        for (name, v) in [("limit", limit), ("horizon", horizon), ("scale", scale)] {
            if !(v > 0.0 && v.is_finite()) {
                return Err(Error::config(name, "a finite number above 0", v));
            }
        }
        Ok(Self {
            limit,
            horizon,
            unit,
            start: None,
            latest: 0.0,
            spent: 0.0,
            requests: 0,
            recent: (0.0, 0.0),
            rate: None,
            multiplier: scale,
            scale,
            windows: 0,
            total: 0.0,
        })
    }

    /// (limit, horizon, unit, scale).
    #[must_use]
    pub fn settings(&self) -> (f64, f64, Unit, f64) {
        (self.limit, self.horizon, self.unit, self.scale)
    }

    /// What may still be spent in this window; below 0 if it was overspent.
    #[must_use]
    pub fn remaining(&self) -> f64 {
        self.limit - self.spent
    }

    /// Shadow price: utility that one unit of cost must bring.
    #[must_use]
    pub fn multiplier(&self) -> f64 {
        self.multiplier
    }

    /// All spending, over all windows.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.total
    }

    /// Sets where the shadow price starts, as long as nothing was spent.
    pub fn rescale(&mut self, scale: f64) {
        if self.requests == 0 && self.windows == 0 && scale > 0.0 && scale.is_finite() {
            (self.scale, self.multiplier) = (scale, scale);
        }
    }

    /// Begins a new window if this one is over at `now`.
    pub fn roll(&mut self, now: f64) {
        let over = match (self.unit, self.start) {
            (Unit::Requests, _) => self.requests as f64 >= self.horizon,
            (Unit::Seconds, Some(start)) => now - start >= self.horizon,
            (Unit::Seconds, None) => false,
        };
        if !over {
            return;
        }
        if self.unit == Unit::Seconds {
            self.rate = Some(self.requests as f64 / self.horizon);
            let start = self.start.unwrap_or(now);
            self.start = Some(start + ((now - start) / self.horizon).floor() * self.horizon);
        }
        (self.spent, self.requests) = (0.0, 0);
        self.windows = self.windows.saturating_add(1);
    }

    fn requests_left(&self) -> f64 {
        let left = match self.unit {
            Unit::Requests => self.horizon - self.requests as f64,
            Unit::Seconds => {
                let elapsed = self.latest - self.start.unwrap_or(self.latest);
                let own = self.requests as f64 / elapsed.max(self.horizon * 1e-6);
                // The rate of earlier windows counts until a tenth of this one has shown its own.
                let trust = (10.0 * elapsed / self.horizon).min(1.0);
                let rate = self.rate.map_or(own, |r| trust * own + (1.0 - trust) * r);
                rate * (self.horizon - elapsed)
            }
        };
        left.max(1.0)
    }

    /// Notes one request's cost at second `now`, and moves the price: up by at most 5 % while the recent mean cost is
    /// above what is left per request, down by at most 14 % while it is below.
    pub fn spend(&mut self, cost: f64, now: f64) -> Result<()> {
        check_number("cost", cost)?;
        check_number("now", now)?;
        if cost < 0.0 {
            return Err(Error::value("cost", "0 or above", cost));
        }
        self.roll(now);
        self.start.get_or_insert(now);
        self.latest = self.latest.max(now);
        self.requests = self.requests.saturating_add(1);
        self.add(cost);
        let keep = 1.0 - 1.0 / MEMORY;
        self.recent = (
            keep * self.recent.0 + (1.0 - keep) * cost,
            keep * self.recent.1 + 1.0 - keep,
        );
        let mean = self.recent.0 / self.recent.1;
        let left = self.requests_left();
        let fair = self.limit / (left + self.requests as f64);
        let due = (self.remaining() / left).max(0.02 * fair);
        let off = (mean / due - 1.0).clamp(-1.0, 1.0);
        let step = if off > 0.0 { UP } else { DOWN };
        self.multiplier = (self.multiplier * (step * off).exp()).clamp(1e-3 * self.scale, 1e3 * self.scale);
        Ok(())
    }

    /// Corrects the spending of an earlier request by `difference`.
    pub fn correct(&mut self, difference: f64) {
        self.add(difference);
        self.recent.0 += difference / MEMORY;
    }

    fn add(&mut self, cost: f64) {
        self.spent = (self.spent + cost).clamp(-f64::MAX, f64::MAX);
        self.total = (self.total + cost).clamp(-f64::MAX, f64::MAX);
    }

    /// Counts and gauges.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        vec![
            ("limit", self.limit.into()),
            ("remaining", self.remaining().into()),
            ("spent_in_window", self.spent.into()),
            ("spent_in_total", self.total.into()),
            ("requests_in_window", self.requests.into()),
            ("windows_over", self.windows.into()),
            ("multiplier", self.multiplier.into()),
        ]
    }

    /// Errors unless a decoded pacer is one that could have come about.
    pub fn check(&self) -> Result<()> {
        Self::new(self.limit, self.horizon, self.unit, self.scale)?;
        let values = [
            self.latest,
            self.spent,
            self.recent.0,
            self.recent.1,
            self.multiplier,
            self.total,
            self.start.unwrap_or(0.0),
            self.rate.unwrap_or(0.0),
        ];
        values.iter().try_for_each(|v| check_number("budget", *v))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{self, RngExt};

    /// A request's value of spending is uniform; it buys the dear model while its value beats the price.
    fn spend(pacer: &mut BudgetPacer, n: usize, seed: u64, sorted: bool) -> f64 {
        let mut rng = rng::stream(seed, 0);
        let mut gains: Vec<f64> = (0..n).map(|_| rng.random()).collect();
        if sorted {
            gains.sort_by(f64::total_cmp);
        }
        let before = pacer.total();
        for (i, gain) in gains.iter().enumerate() {
            let cost = if *gain > pacer.multiplier() * 9.0 {
                10.0
            } else {
                1.0
            };
            pacer.spend(cost, i as f64).unwrap();
        }
        pacer.total() - before
    }

    #[test]
    fn spending_meets_the_budget() {
        for unit in [Unit::Requests, Unit::Seconds] {
            for sorted in [false, true] {
                for seed in 0..5 {
                    let mut pacer = BudgetPacer::new(8000.0, 2000.0, unit, 0.1).unwrap();
                    let spent = spend(&mut pacer, 2000, seed, sorted);
                    assert!((spent / 8000.0 - 1.0).abs() < 0.05, "{unit:?} {sorted} {spent}");
                }
            }
        }
    }

    #[test]
    fn a_new_window_begins_with_the_whole_limit() {
        let mut pacer = BudgetPacer::new(10.0, 60.0, Unit::Seconds, 1.0).unwrap();
        pacer.spend(4.0, 100.0).unwrap();
        pacer.spend(4.0, 150.0).unwrap();
        assert_eq!(pacer.remaining(), 2.0);
        pacer.spend(1.0, 161.0).unwrap();
        assert_eq!((pacer.remaining(), pacer.total()), (9.0, 9.0));
        assert!(pacer.spend(-1.0, 0.0).is_err() && pacer.spend(f64::NAN, 0.0).is_err());
        assert_eq!(pacer.remaining(), 9.0);
    }
}
