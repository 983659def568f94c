//! Which candidates are shown, in which order, and with what probability.

use super::config::Exploration;
use crate::kernels;
use crate::rng::{RngExt, stream};

/// Stream of the engine's seed that exploration draws from.
const STREAM: u64 = 0x6578_706c;

/// A shown list: positions, best first, and the probability with which each place was filled as it was, given the places
/// before it.
pub(super) struct Shown {
    pub order: Vec<u32>,
    pub propensities: Vec<f32>,
}

/// The first `k` by score, perturbed as `how` says. A pure function of seed and decision number.
pub(super) fn choose(scores: &[f32], k: usize, how: Exploration, seed: u64, decision: u64) -> Shown {
    let k = k.min(scores.len());
    let greedy = |k| {
        kernels::top_k(scores, k)
            .into_iter()
            .map(|i| i as u32)
            .collect::<Vec<_>>()
    };
    match how {
        Exploration::None => Shown {
            order: greedy(k),
            propensities: vec![1.0; k],
        },
        Exploration::Epsilon(epsilon) if k > 0 => {
            let mut rng = stream(seed ^ decision.rotate_left(17), STREAM);
            let mut order = greedy(k);
            let best = order[0];
            let uniform = epsilon / scores.len() as f32;
            if rng.random::<f32>() < epsilon {
                let drawn = rng.random_range(0..scores.len() as u32);
                // The drawn item goes to the front; it leaves its old place, or pushes the last one out.
                match order.iter().position(|&p| p == drawn) {
                    Some(at) => drop(order.remove(at)),
                    None => drop(order.pop()),
                }
                order.insert(0, drawn);
            }
            let mut propensities = vec![1.0; k];
            propensities[0] = uniform + if order[0] == best { 1.0 - epsilon } else { 0.0 };
            Shown { order, propensities }
        }
        Exploration::Softmax(temperature) if k > 0 => {
            let mut rng = stream(seed ^ decision.rotate_left(17), STREAM);
            // Plackett–Luce by the Gumbel trick (Yellott 1977): the k largest of s/τ + Gumbel noise, in order.
            let noisy: Vec<f32> = scores
                .iter()
                .map(|s| {
                    let u: f64 = rng.random::<f64>().max(f64::MIN_POSITIVE);
                    (f64::from(s / temperature) - (-u.ln()).ln()) as f32
                })
                .collect();
            let order: Vec<u32> = kernels::top_k(&noisy, k).into_iter().map(|i| i as u32).collect();
            let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let weight = |i: u32| f64::from((scores[i as usize] - max) / temperature).exp();
            let mut left: f64 = (0..scores.len() as u32).map(weight).sum();
            let propensities = order
                .iter()
                .map(|&i| {
                    let w = weight(i);
                    let p = (w / left.max(w)).min(1.0);
                    left -= w;
                    p as f32
                })
                .collect();
            Shown { order, propensities }
        }
        _ => Shown {
            order: Vec::new(),
            propensities: Vec::new(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epsilon_propensities_are_the_frequencies() {
        let scores = [0.1, 0.9, 0.5, 0.2];
        let mut first = [0u32; 4];
        let trials = 20_000;
        for t in 0..trials {
            let s = choose(&scores, 3, Exploration::Epsilon(0.4), 7, t);
            first[s.order[0] as usize] += 1;
            let want = 0.1 + if s.order[0] == 1 { 0.6 } else { 0.0 };
            assert!((s.propensities[0] - want).abs() < 1e-6);
            let mut seen = s.order.clone();
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), 3);
        }
        for (i, n) in first.iter().enumerate() {
            let p = if i == 1 { 0.7 } else { 0.1 };
            assert!((f64::from(*n) / trials as f64 - p).abs() < 0.02, "{i}: {n}");
        }
    }

    #[test]
    fn softmax_propensities_are_the_frequencies() {
        let scores = [0.0f32, 0.1, -0.1];
        let mut first = [0u32; 3];
        let trials = 20_000;
        let mut propensity = [0.0f32; 3];
        for t in 0..trials {
            let s = choose(&scores, 2, Exploration::Softmax(0.1), 3, t);
            first[s.order[0] as usize] += 1;
            propensity[s.order[0] as usize] = s.propensities[0];
        }
        for i in 0..3 {
            assert!((first[i] as f32 / trials as f32 - propensity[i]).abs() < 0.02);
        }
        assert!((propensity.iter().sum::<f32>() - 1.0).abs() < 1e-4);
    }

    #[test]
    fn without_exploration_it_is_the_ranking() {
        let s = choose(&[0.1, 0.9, 0.9], 5, Exploration::None, 0, 0);
        assert_eq!((s.order, s.propensities), (vec![1, 2, 0], vec![1.0; 3]));
        assert!(choose(&[], 5, Exploration::Softmax(1.0), 0, 0).order.is_empty());
    }
}
