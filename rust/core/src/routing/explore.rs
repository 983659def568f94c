//! Exploration with exact propensities: inverse-gap weighting (Abe & Long 1999; Foster & Rakhlin 2020) over a uniform floor.

/// How strongly gaps in utility are trusted.
pub const GAMMA: f64 = 15.0;

/// Probabilities of the choices with utilities `u` after `t` outcomes: each other than the best has
/// 1 / (M + γ √(t + 20) · (u_max − u)), the best takes the rest; all of it mixed with a uniform share `floor`.
#[must_use]
pub fn inverse_gap(u: &[f64], best: usize, t: u64, floor: f64) -> Vec<f64> {
    let m = u.len() as f64;
    let trust = GAMMA * (t as f64 + 20.0).sqrt();
    let mut p: Vec<f64> = (u.iter())
        .map(|v| 1.0 / (m + trust * (u[best] - v).max(0.0)))
        .collect();
    p[best] = 0.0;
    p[best] = 1.0 - p.iter().sum::<f64>();
    p.iter_mut().for_each(|p| *p = (1.0 - floor) * *p + floor / m);
    p
}

/// All weight on `best` but a uniform share `floor`.
#[must_use]
pub fn greedy(n: usize, best: usize, floor: f64) -> Vec<f64> {
    let mut p = vec![floor / n as f64; n];
    p[best] += 1.0 - floor;
    p
}

/// The index whose cumulative share holds `u` in [0, 1).
#[must_use]
pub fn pick(p: &[f64], u: f64) -> usize {
    let mut sum = 0.0;
    for (i, share) in p.iter().enumerate() {
        sum += share;
        if u < sum {
            return i;
        }
    }
    // Rounding left the sum short of 1: the last that can be chosen at all.
    p.iter().rposition(|p| *p > 0.0).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shares_are_a_distribution_with_its_floor(
            u in prop::collection::vec(-5.0f64..5.0, 1..40), t in 0u64..100_000, floor in 0.0f64..0.5
        ) {
            let best = (0..u.len()).max_by(|a, b| u[*a].total_cmp(&u[*b])).unwrap();
            for p in [inverse_gap(&u, best, t, floor), greedy(u.len(), best, floor)] {
                prop_assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-9);
                prop_assert!(p.iter().all(|p| *p >= floor / u.len() as f64 - 1e-12));
                prop_assert!(p.iter().all(|v| *v <= p[best] + 1e-12));
            }
        }

        #[test]
        fn picks_follow_the_shares(n in 1usize..20, u in 0.0f64..1.0) {
            let p = vec![1.0 / n as f64; n];
            prop_assert_eq!(pick(&p, u), ((u * n as f64) as usize).min(n - 1));
        }
    }
}
