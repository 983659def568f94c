//! How believable a click is: the posterior that it is no stray, with the share of strays learned.

use crate::kernels;
use serde::{Deserialize, Serialize};

/// Decay of the counts per feedback.
const DECAY: f64 = 0.999;

/// Nothing is assumed about the noise but one stray among twenty clicks that were never seen.
///
/// ```text
/// p = softmax(s/τ) over the shown items, summed over the clicked ones      ε = strays / total
/// ρ = (1 − ε)p / ((1 − ε)p + ε·|C|/shown)     strays ← DECAY·strays + 1 − ρ     total ← DECAY·total + 1
/// ```
///
/// A click is genuine with the model's probability, or a stray on a random shown item (a two-component mixture, its share by
/// online EM: Cappé & Moulines 2009). A clean stream is left alone (ε falls to about 0, ρ to about 1), and an undecided
/// softmax gives ρ = 1 − ε.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct StrayClicks {
    strays: f64,
    total: f64,
}

impl Default for StrayClicks {
    fn default() -> Self {
        Self {
            strays: 1.0,
            total: 20.0,
        }
    }
}

impl StrayClicks {
    /// ρ of one feedback, and the counts with it. `shown` holds the un-gated scores of the shown items; `clicked` positions
    /// among them, each once. 1, and nothing counted, if nothing was shown or clicked.
    pub fn observe(&mut self, shown: &[f32], clicked: &[usize], temperature: f32) -> f32 {
        if shown.is_empty() || clicked.is_empty() {
            return 1.0;
        }
        let mut p = shown.to_vec();
        kernels::softmax(&mut p, temperature);
        let genuine = (1.0 - self.share()) * clicked.iter().map(|&j| f64::from(p[j])).sum::<f64>();
        let stray = self.share() * clicked.len() as f64 / shown.len() as f64;
        let rho = if genuine + stray > 0.0 {
            genuine / (genuine + stray)
        } else {
            1.0
        };
        self.strays = DECAY * self.strays + 1.0 - rho;
        self.total = DECAY * self.total + 1.0;
        rho as f32
    }

    /// ε: the share of strays among the clicks so far.
    #[must_use]
    pub fn share(&self) -> f64 {
        self.strays / self.total
    }

    /// True if decoded bytes can be what this type writes.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.total.is_finite() && self.total > 0.0 && (0.0..=self.total).contains(&self.strays)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn by_hand() {
        let mut c = StrayClicks::default();
        // Two shown items, equal scores: p = ½ = |C|/shown, so ρ = 1 − ε and ε stays.
        assert!((c.observe(&[0.3, 0.3], &[0], 0.1) - 0.95).abs() < 1e-6);
        assert!((c.share() - (0.999 + 0.05) / (0.999 * 20.0 + 1.0)).abs() < 1e-7);
        let mut c = StrayClicks::default();
        // e⁻² against 1: p = .1192; ρ = .95·.1192/(.95·.1192 + .05·.5) = .8191.
        assert!((c.observe(&[0.2, 0.4], &[0], 0.1) - 0.8191).abs() < 1e-4);
        assert_eq!(c.observe(&[], &[], 0.1), 1.0);
    }

    #[test]
    fn learns_the_share_of_strays() {
        let shown = [0.9, 0.4, 0.3, 0.2, 0.1];
        // Every fifth click on another place than the first is a share of .25: strays meet the first place as well.
        for (every, low, high) in [(1000, 0.0, 0.02), (5, 0.2, 0.26)] {
            let mut c = StrayClicks::default();
            for t in 1..=900usize {
                let at = if t % every == 0 { 1 + t / every % 4 } else { 0 };
                c.observe(&shown, &[at], 0.1);
            }
            assert!((low..high).contains(&c.share()), "every {every}: {}", c.share());
        }
    }

    proptest! {
        #[test]
        fn credibility_is_a_probability(
            shown in prop::collection::vec(-1e3f32..1e3, 1..20), at in 0usize..20, tau in 1e-3f32..10.0, n in 1usize..5
        ) {
            let mut c = StrayClicks::default();
            for _ in 0..n {
                let rho = c.observe(&shown, &[at % shown.len()], tau);
                prop_assert!((0.0..=1.0).contains(&rho));
                prop_assert!(c.is_valid());
            }
        }
    }
}
