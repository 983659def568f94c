//! Settings of an item gate.

use super::evidence;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Which gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GateMode {
    /// A learned handicap for items without evidence.
    Evidence,
    /// One learned factor for all that was learned.
    Multiplier,
    /// None: scores pass unchanged.
    Off,
}

impl GateMode {
    /// From the public name.
    pub fn parse(name: &str) -> Result<Self> {
        Ok(match name {
            "evidence" => Self::Evidence,
            "multiplier" => Self::Multiplier,
            "off" => Self::Off,
            other => {
                return Err(Error::config(
                    "mode",
                    "evidence, multiplier or off",
                    format!("{other:?}"),
                ));
            }
        })
    }

    /// The public name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Evidence => "evidence",
            Self::Multiplier => "multiplier",
            Self::Off => "off",
        }
    }
}

/// Settings of a gate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GateParams {
    /// Which gate.
    pub mode: GateMode,
    /// Assumed share ν of traffic that wants items without feedback, 0..=1.
    pub nu: f64,
    /// Standard errors that an arm must win by, ≥ 0 (evidence).
    pub z: f64,
    /// Decay of the running means per feedback, in (0, 1].
    pub decay: f64,
    /// Feedbacks before an arm is chosen.
    pub warmup: u64,
    /// e(d) = max(0, 1 − E(d)) in place of a step at E(d) = 1 (evidence).
    pub soft: bool,
    /// The arm (β, λ) in use until another beats it; gains are over it (evidence).
    pub start: (f64, f64),
    /// Share of the shown places that clicked items must take for e(d) to count in full, 0..=1; below it e(d) is scaled
    /// down, so that an open item set, where most competitors have no evidence either, is hardly touched. 0: always in
    /// full (evidence).
    pub full_coverage: f64,
}

impl Default for GateParams {
    fn default() -> Self {
        Self {
            mode: GateMode::Evidence,
            nu: 0.2,
            z: 3.0,
            decay: 0.999,
            warmup: 20,
            soft: false,
            start: (0.0, 0.0),
            full_coverage: 0.0,
        }
    }
}

impl GateParams {
    /// Errors at the first field that is out of range.
    pub fn check(&self) -> Result<()> {
        if !(0.0..=1.0).contains(&self.nu) {
            return Err(Error::config("nu", "a number in [0, 1]", self.nu));
        }
        if !(self.z.is_finite() && self.z >= 0.0) {
            return Err(Error::config("z", "a finite number >= 0", self.z));
        }
        if !(self.decay > 0.0 && self.decay <= 1.0) {
            return Err(Error::config("decay", "a number in (0, 1]", self.decay));
        }
        if evidence::index(self.start.0, self.start.1).is_none() {
            return Err(Error::config(
                "start",
                "one of the arms: beta 0, .05 … .3 and lambda 0, .5 or 1",
                format!("{:?}", self.start),
            ));
        }
        if !(0.0..=1.0).contains(&self.full_coverage) {
            return Err(Error::config(
                "full_coverage",
                "a number in [0, 1]",
                self.full_coverage,
            ));
        }
        Ok(())
    }
}
