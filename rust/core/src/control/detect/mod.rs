//! Detectors of what is unusual in a stream of numbers. Each takes one value at a time, in O(1) memory or a window's, and
//! answers whether to raise an alarm now. NaN is a missing value: counted, never judged.

mod adwin;
mod agreement;
mod cusum;
mod ewma;
mod page_hinkley;
mod robust;
mod statistics;
#[cfg(test)]
mod tests;

pub use adwin::Adwin;
pub use agreement::{Agreement, AnomalyDetector};
pub use cusum::Cusum;
pub use ewma::Ewma;
pub use page_hinkley::{Direction, PageHinkley};
pub use robust::RobustZ;
pub use statistics::{mad, median, theil_sen};

use crate::codec::{self, Kind};
use crate::error::{Error, Result};
use crate::metrics::Metrics;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What all detectors share.
pub trait Detector: Clone + Send + Serialize + DeserializeOwned {
    /// How its bytes begin.
    const KIND: Kind;

    /// Lets one value in; infinite values count as missing, as NaN does. Returns whether to raise an alarm.
    fn update(&mut self, x: f64) -> bool;

    /// Counters and the present score.
    fn metrics(&self) -> Metrics;

    /// Whether a decoded state is one that updates can lead to.
    fn is_valid(&self) -> bool;

    /// Serialises.
    fn to_bytes(&self) -> Result<Vec<u8>> {
        codec::encode(Self::KIND, self)
    }

    /// Reads back what [`Self::to_bytes`] wrote.
    fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let this: Self = codec::decode(Self::KIND, bytes)?;
        if this.is_valid() {
            Ok(this)
        } else {
            Err(Error::corrupt("detector", "values out of range"))
        }
    }
}

/// How many values came, were missing and raised an alarm.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
pub(crate) struct Counts {
    pub(crate) seen: u64,
    pub(crate) missing: u64,
    pub(crate) alarms: u64,
}

impl Counts {
    /// Counts a value; false if it is missing.
    pub(crate) fn enter(&mut self, x: f64) -> bool {
        if x.is_finite() {
            self.seen += 1;
            true
        } else {
            self.missing += 1;
            false
        }
    }

    /// Counts and passes on an alarm.
    pub(crate) fn leave(&mut self, alarm: bool) -> bool {
        self.alarms += u64::from(alarm);
        alarm
    }

    pub(crate) fn metrics(&self) -> Metrics {
        vec![
            ("seen", self.seen.into()),
            ("missing", self.missing.into()),
            ("alarms", self.alarms.into()),
        ]
    }
}

/// A positive finite number, or [`Error::Config`].
pub(crate) fn positive(name: &'static str, x: f64) -> Result<()> {
    if x.is_finite() && x > 0.0 {
        Ok(())
    } else {
        Err(Error::config(name, "a positive number", x))
    }
}

/// A finite number of at least 0, or [`Error::Config`].
pub(crate) fn not_negative(name: &'static str, x: f64) -> Result<()> {
    if x.is_finite() && x >= 0.0 {
        Ok(())
    } else {
        Err(Error::config(name, "a number of at least 0", x))
    }
}
