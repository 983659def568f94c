//! From shadow to on: only with evidence, and only inside the harm budget.

use super::stats::{Progress, Running};
use super::{Engine, Mode};
use crate::error::Result;

/// Feedback that a promotion needs at least.
const ENOUGH: u64 = 50;

/// What a promotion found.
#[derive(Debug, Clone, PartialEq)]
pub struct Promotion {
    /// Whether the mode is now on.
    pub accepted: bool,
    /// Why, in words.
    pub reason: String,
    /// Feedback that was scored before it was learned from.
    pub n: u64,
    /// Mean DCG gain over the application's own ranking.
    pub lift: f64,
    /// Its 95 % interval.
    pub interval: (f64, f64),
    /// Mean gain where the chosen items had no feedback before.
    pub lift_unseen: f64,
}

impl Engine {
    /// Progress of all scopes together.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let mut all = Progress::default();
        for scope in self.scopes.load().values() {
            let p = &scope.live.load().progress;
            let merge = |a: &mut Running, b: Running| *a = a.merged(b);
            merge(&mut all.base, p.base);
            merge(&mut all.learned, p.learned);
            merge(&mut all.lift, p.lift);
            merge(&mut all.lift_seen, p.lift_seen);
            merge(&mut all.lift_unseen, p.lift_unseen);
        }
        all
    }

    /// Mean loss of the live states on the anchors of all scopes, each anchor with equal weight; `None` without anchors.
    fn anchor_loss(&self) -> Option<f64> {
        let scopes = self.scopes.load();
        let (mut sum, mut n) = (0.0, 0);
        for scope in scopes.values() {
            if let Some((mean, count)) = scope.live.load().harm.anchor_loss() {
                sum += mean * count as f64;
                n += count;
            }
        }
        (n > 0).then(|| sum / n as f64)
    }

    /// Switches the mode to on if the test-then-learn figures allow it: enough feedback, a lift whose 95 % interval is above
    /// zero, and no loss beyond the harm budget where the chosen items had no feedback before or on the anchors. Otherwise nothing
    /// changes.
    pub fn promote(&self) -> Result<Promotion> {
        let _guard = self.enter()?;
        let p = self.progress();
        let interval = p.lift.interval();
        let budget = self.config.harm_budget;
        let refusal = if p.lift.n < ENOUGH {
            Some(format!("{} feedbacks were scored, {ENOUGH} are needed", p.lift.n))
        } else if interval.0 <= 0.0 {
            Some(format!(
                "the lift's interval [{:.4}, {:.4}] is not above zero",
                interval.0, interval.1
            ))
        } else if p.lift_unseen.n > 0 && p.lift_unseen.mean < -budget {
            Some(format!(
                "items without feedback lose {:.4}, the budget is {budget:.4}",
                -p.lift_unseen.mean
            ))
        } else {
            let loss = self.anchor_loss().filter(|l| *l > budget);
            loss.map(|l| format!("the anchors lose {l:.4}, the budget is {budget:.4}"))
        };
        let accepted = refusal.is_none();
        if accepted {
            self.set_mode(Mode::On);
        }
        Ok(Promotion {
            accepted,
            reason: refusal.unwrap_or_else(|| {
                format!("lift {:+.4} [{:.4}, {:.4}]", p.lift.mean, interval.0, interval.1)
            }),
            n: p.lift.n,
            lift: p.lift.mean,
            interval,
            lift_unseen: p.lift_unseen.mean,
        })
    }
}
