//! Which setting a plan runs with.
//!
//! Thompson sampling among the settings that the ledger admits and that are worth a try. The share of draws that a setting
//! wins is its propensity, exactly: one of these draws is taken.
//!
//! A try is worth it if what it is expected to lose is below what it is expected to win in this run and in as many more as
//! the plan has already had (a plan that came n times comes about n times more). Without that, sampling would try a setting
//! that is a disaster for some plans on every new plan, because it might be a gain there. A plan of which the default's time
//! is not known yet runs with the default.

use super::ledger::Ledger;
use super::posterior::Belief;
use super::triangle::Triangle;
use crate::rng::{self, ChaCha8Rng, RngExt};

/// Draws from the posterior per choice.
const DRAWS: usize = 64;
/// Standard deviations above the mean at which a loss is counted before it happens.
pub(super) const CAUTION: f64 = 2.0;
/// A run is stopped at twice the default's time at the latest: one disaster must not eat what was saved up for many tries.
const PATIENCE: f64 = 2.0;
/// The part of the budget that is used; the rest is for errors of what the default would have taken, which is only estimated
/// where it did not run.
const USED: f64 = 0.9;
/// Only where the default's time is known this well, in ln(time), can anything be stopped or called a loss.
const FAMILIAR: f64 = 0.4;
/// ln(time) is capped here, so that a time is always finite.
const LONGEST: f64 = 60.0;

/// A setting and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Position among the settings given.
    pub index: usize,
    /// Probability with which it was chosen.
    pub propensity: f64,
    /// Expected milliseconds, the median of the belief.
    pub predicted_ms: f64,
    /// The same of the default.
    pub default_ms: f64,
    /// Milliseconds between which the time lies with 95 %.
    pub interval_ms: (f64, f64),
    /// When to stop it and run the default instead: at twice the default's time.
    /// `None` for the default.
    pub timeout_ms: Option<f64>,
    /// Positions of the settings that the budget admits and that are worth a try.
    pub admitted: Vec<usize>,
}

pub(super) fn time(ln: f64) -> f64 {
    ln.min(LONGEST).exp()
}

/// What bounds a choice.
pub(super) struct Budget<'a> {
    pub ledger: &'a Ledger,
    /// The part of the default's time that may be lost.
    pub share: f64,
    /// How often this plan was run.
    pub runs: u32,
    /// Which settings were run on this plan before.
    pub tried: Vec<bool>,
}

/// Which settings may run: the default, and those whose loss fits into what is left. A setting that this plan never ran
/// with may lose everything until it is stopped, because the default has to run after it; what other plans say of it is
/// right on average only. Of one that it ran with the loss is known, and counted cautiously.
fn affordable(belief: &Belief, default: usize, left: f64, tried: &[bool]) -> Vec<usize> {
    let reference = time(belief.mean[default]);
    // The longer the default takes, the more is lost.
    let slow = time(belief.mean[default] + belief.variance(default).sqrt());
    (0..belief.mean.len())
        .filter(|i| {
            let (slower, sd) = belief.difference(*i, default);
            let cautious = time(slower + CAUTION * (sd * sd + belief.noise).sqrt());
            let loss = if !tried[*i] || cautious > PATIENCE {
                PATIENCE * reference
            } else {
                slow * (cautious - 1.0)
            };
            *i == default || loss <= left
        })
        .collect()
}

/// Is what a run is expected to lose below what it is expected to win, in this run and in as many more as the plan had?
fn worth(belief: &Belief, default: usize, setting: usize, runs: u32) -> bool {
    let (slower, sd) = belief.difference(setting, default);
    let (loss, gain) = stakes(slower, sd, PATIENCE);
    setting == default || loss <= (1.0 + f64::from(runs)) * gain
}

/// P(Z ≤ x) of the standard normal, to 1.2·10⁻⁷ (Press et al., Numerical Recipes, section 6.2).
fn normal_below(x: f64) -> f64 {
    let z = (x / std::f64::consts::SQRT_2).abs();
    let t = 1.0 / (1.0 + 0.5 * z);
    let series = [
        0.170_872_77,
        -0.822_152_23,
        1.488_515_87,
        -1.135_203_98,
        0.278_868_07,
        -0.186_288_06,
        0.096_784_18,
        0.374_091_96,
        1.000_023_68,
        -1.265_512_23,
    ];
    let tail = 0.5 * t * (-z * z + series.iter().fold(0.0, |sum, c| sum * t + c)).exp();
    if x > 0.0 { 1.0 - tail } else { tail }
}

/// Expected loss and gain of one run, in units of the default's time: E max(min(e^Δ, cap) − 1, 0) and E max(1 − e^Δ, 0) of
/// Δ ~ N(mean, sd²). `cap` is where a run is stopped.
fn stakes(mean: f64, sd: f64, cap: f64) -> (f64, f64) {
    let sd = sd.max(1e-9);
    // E[e^Δ; Δ ≤ x].
    let below = |x: f64| time(mean + sd * sd / 2.0) * normal_below((x - mean) / sd - sd);
    let under = |x: f64| normal_below((x - mean) / sd);
    let limit = cap.max(1.0).ln();
    let loss = below(limit) - below(0.0) - (under(limit) - under(0.0)) + (1.0 - under(limit)) * cap;
    (loss.max(0.0), (under(0.0) - below(0.0)).max(0.0))
}

/// Times of all settings, drawn together.
fn draw(belief: &Belief, factor: &Triangle, rng: &mut ChaCha8Rng) -> Vec<f64> {
    let z: Vec<f64> = belief.mean.iter().map(|_| rng::normal(rng)).collect();
    let moved = factor.times(&z);
    belief.mean.iter().zip(moved).map(|(m, d)| m + d).collect()
}

fn square_root(belief: &Belief) -> Triangle {
    let n = belief.mean.len();
    let mut factor = Triangle::default();
    for i in 0..n {
        let k: Vec<f64> = (0..i).map(|j| belief.covariance[i * n + j]).collect();
        factor.push(&k, belief.variance(i) + 1e-9);
    }
    factor
}

/// The default, because nothing else can be judged.
fn certain(belief: &Belief, default: usize) -> Choice {
    let sd = (belief.variance(default) + belief.noise).sqrt();
    let ends = [-1.96, 1.96].map(|z| time(belief.mean[default] + z * sd));
    Choice {
        index: default,
        propensity: 1.0,
        predicted_ms: time(belief.mean[default]),
        default_ms: time(belief.mean[default]),
        interval_ms: (ends[0], ends[1]),
        timeout_ms: None,
        admitted: vec![default],
    }
}

/// One choice. Without a `budget` every setting may run.
pub(super) fn choose(
    belief: &Belief,
    default: usize,
    budget: Option<&Budget<'_>>,
    mut rng: ChaCha8Rng,
) -> Choice {
    let reference = time(belief.mean[default]);
    let admitted: Vec<usize> = match budget {
        Some(_) if belief.variance(default).sqrt() > FAMILIAR => return certain(belief, default),
        Some(b) => {
            let left = b.ledger.left(USED * b.share, reference).max(0.0);
            let within = affordable(belief, default, left, &b.tried);
            (within.into_iter())
                .filter(|i| worth(belief, default, *i, b.runs))
                .collect()
        }
        None => (0..belief.mean.len()).collect(),
    };
    let factor = square_root(belief);
    let winner = |drawn: Vec<f64>| {
        let mut best = default;
        for i in &admitted {
            if drawn[*i] < drawn[best] {
                best = *i;
            }
        }
        best
    };
    let wins: Vec<usize> = (0..DRAWS)
        .map(|_| winner(draw(belief, &factor, &mut rng)))
        .collect();
    let index = wins[rng.random_range(0..DRAWS)];
    let share_of = wins.iter().filter(|w| **w == index).count() as f64 / DRAWS as f64;
    let sd = (belief.variance(index) + belief.noise).sqrt();
    Choice {
        index,
        propensity: share_of,
        predicted_ms: time(belief.mean[index]),
        default_ms: reference,
        interval_ms: (
            time(belief.mean[index] - 1.96 * sd),
            time(belief.mean[index] + 1.96 * sd),
        ),
        timeout_ms: (index != default && budget.is_some()).then_some(PATIENCE * reference),
        admitted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stakes_equal_their_integrals() {
        for (mean, sd, cap) in [
            (0.0, 0.3, 2.0),
            (1.5, 2.0, 1.2),
            (-0.4, 0.1, 5.0),
            (0.2, 1.0, 1.0),
        ] {
            let (mut loss, mut gain, step) = (0.0, 0.0, 1e-4);
            let mut z = -9.0f64;
            while z < 9.0 {
                let p = step * (-z * z / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
                let x = (mean + sd * z).exp();
                // A stopped run costs the cap and the default.
                let lost = if x > cap { cap } else { (x - 1.0).max(0.0) };
                loss += p * lost;
                gain += p * (1.0 - x).max(0.0);
                z += step;
            }
            let got = stakes(mean, sd, cap);
            assert!(
                (got.0 - loss).abs() < 1e-3 && (got.1 - gain).abs() < 1e-3,
                "{got:?} {loss} {gain}"
            );
        }
    }

    #[test]
    fn a_known_loss_must_fit_and_an_unknown_one_counts_until_it_is_stopped() {
        // Known exactly: the default takes 100 ms, the other settings 130 and 90.
        let belief = Belief {
            mean: [100.0f64, 130.0, 90.0].map(f64::ln).to_vec(),
            covariance: vec![0.0; 9],
            prior: vec![1.0; 3],
            noise: 0.0,
        };
        let within = |left: f64, tried: bool| affordable(&belief, 0, left, &[true, tried, tried]);
        assert_eq!(within(0.0, true), [0, 2]);
        assert_eq!(within(29.0, true), [0, 2]);
        assert_eq!(within(31.0, true), [0, 1, 2]);
        // Never tried with this plan: all of 200 ms until it is stopped.
        assert_eq!(within(199.0, false), [0]);
        assert_eq!(within(201.0, false), [0, 1, 2]);
        // Two standard deviations of one run, 30 %, make 130 ms look like more than the 200 at which a run is stopped.
        let noisy = Belief {
            noise: 0.09,
            ..belief.clone()
        };
        assert_eq!(affordable(&noisy, 0, 150.0, &[true; 3]), [0, 2]);
    }
}
