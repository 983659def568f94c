//! Old cases count less.

use crate::error::{Error, Result};

const SECONDS_PER_DAY: f64 = 86_400.0;

/// A half-life in seconds, finite.
pub(super) fn seconds(days: f64) -> f64 {
    (days * SECONDS_PER_DAY).min(f64::MAX)
}

/// 2^(−age/half-life): what is left of a case. Exactly ½ per half-life; 0 in the end.
pub(super) fn left(age_s: f64, half_life_s: f64) -> f64 {
    (-age_s / half_life_s).exp2()
}

/// Errors unless `days` can be a half-life; `name` is the setting.
pub(crate) fn check_half_life(name: &'static str, days: f64) -> Result<()> {
    if days.is_finite() && days > 0.0 {
        Ok(())
    } else {
        Err(Error::config(name, "a finite number > 0, or None", days))
    }
}
