//! Alarms that several detectors agree on.

use super::{Counts, Cusum, Detector, Ewma, RobustZ};
use crate::codec::Kind;
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use serde::{Deserialize, Serialize};

/// Values before the normal state is taken as known.
const WARMUP: u64 = 30;

/// How detectors agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreement {
    /// Values that the robust score looks back, and those that define the normal state of the cumulative sums.
    pub window: usize,
    /// Detectors, of three, that must have fired.
    pub agree: usize,
    /// Within so many values.
    pub within: u64,
    /// Values after an alarm that cannot raise another.
    pub cooldown: u64,
}

/// Mean and spread of the first values (Welford 1962).
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Moments {
    n: u64,
    mean: f64,
    squares: f64,
}

/// Two of three: [`Ewma`], [`RobustZ`], and [`Cusum`] from the mean and deviation of the warm-up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AnomalyDetector {
    rule: Agreement,
    ewma: Ewma,
    robust: RobustZ,
    cusum: Option<Cusum>,
    moments: Moments,
    /// When each detector fired last, counted from 1; 0 for never.
    fired: [u64; 3],
    quiet_until: u64,
    counts: Counts,
}

impl AnomalyDetector {
    /// Detectors at their default settings.
    pub fn new(rule: Agreement) -> Result<Self> {
        if !(1..=3).contains(&rule.agree) {
            return Err(Error::config("agree", "an integer from 1 to 3", rule.agree));
        }
        if rule.within < 1 {
            return Err(Error::config("within", "an integer of at least 1", rule.within));
        }
        let min_count = rule.window.min(WARMUP as usize);
        Ok(Self {
            rule,
            ewma: Ewma::new(0.02, 6.0, WARMUP, 1e-9)?,
            robust: RobustZ::new(rule.window, 6.0, min_count)?,
            cusum: None,
            moments: Moments::default(),
            fired: [0; 3],
            quiet_until: 0,
            counts: Counts::default(),
        })
    }

    /// The present score of each detector.
    #[must_use]
    pub fn scores(&self) -> [(&'static str, f64); 3] {
        [
            ("ewma", self.ewma.score()),
            ("robust_z", self.robust.score()),
            ("cusum", self.cusum.as_ref().map_or(0.0, Cusum::score)),
        ]
    }

    /// Lets the cumulative sums see a value, or the warm-up.
    fn drift(&mut self, x: f64) -> bool {
        if let Some(cusum) = &mut self.cusum {
            return cusum.update(x);
        }
        let m = &mut self.moments;
        m.n += 1;
        let d = x - m.mean;
        m.mean += d / m.n as f64;
        m.squares += d * (x - m.mean);
        if m.n >= self.rule.window.max(WARMUP as usize) as u64 {
            let std = (m.squares / m.n as f64).sqrt();
            // A constant warm-up has no deviation; a jump from it must still be seen.
            let std = std.max(1e-3 * m.mean.abs()).max(1e-9);
            self.cusum = Cusum::new(m.mean, std, 0.5, 5.0).ok();
        }
        false
    }
}

impl Detector for AnomalyDetector {
    const KIND: Kind = Kind {
        tag: *b"ANOM",
        version: 1,
    };

    fn update(&mut self, x: f64) -> bool {
        if !self.counts.enter(x) {
            return false;
        }
        let now = self.counts.seen;
        let votes = [self.ewma.update(x), self.robust.update(x), self.drift(x)];
        for (last, vote) in self.fired.iter_mut().zip(votes) {
            if vote {
                *last = now;
            }
        }
        let recent = self
            .fired
            .iter()
            .filter(|last| **last > 0 && now - **last < self.rule.within)
            .count();
        let alarm = votes.contains(&true) && recent >= self.rule.agree && now > self.quiet_until;
        if alarm {
            self.quiet_until = now + self.rule.cooldown;
        }
        self.counts.leave(alarm)
    }

    fn metrics(&self) -> Metrics {
        let mut out = self.counts.metrics();
        out.extend(self.scores().map(|(name, score)| (name, score.into())));
        out
    }

    fn is_valid(&self) -> bool {
        let parts = self.ewma.is_valid()
            && self.robust.is_valid()
            && self.cusum.as_ref().is_none_or(Detector::is_valid);
        let m = self.moments;
        let times = self.fired.iter().all(|t| *t <= self.counts.seen);
        Self::new(self.rule).is_ok() && parts && times && m.mean.is_finite() && m.squares.is_finite()
    }
}
