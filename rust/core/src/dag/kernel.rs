//! Covariances of times.

use serde::{Deserialize, Serialize};

/// Variances of the parts, and how fast similarity falls.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Hyper {
    pub base: f64,
    pub plan: f64,
    pub setting: f64,
    pub effect: f64,
    pub own: f64,
    pub width: f64,
}

impl Default for Hyper {
    fn default() -> Self {
        Self {
            base: 4.0,
            plan: 0.5,
            setting: 0.1,
            effect: 0.2,
            own: 0.05,
            width: 0.1,
        }
    }
}

impl Hyper {
    /// Covariance of two cells: cosine of the plans, whether the plan is the same, the setting's factor if that is.
    pub(super) fn covariance(&self, cos: f64, same_plan: bool, same_setting: Option<f64>) -> f64 {
        let s = (-(1.0 - cos) / self.width).exp();
        let own = if same_plan { 1.0 } else { 0.0 };
        let shared = self.base * s + own * self.plan;
        let effect = self.setting + self.effect * s + own * self.own;
        shared + same_setting.map_or(0.0, |scale| scale * effect)
    }

    pub(super) fn is_sound(&self) -> bool {
        [
            self.base,
            self.plan,
            self.setting,
            self.effect,
            self.own,
            self.width,
        ]
        .iter()
        .all(|v| v.is_finite() && *v > 0.0)
    }
}
