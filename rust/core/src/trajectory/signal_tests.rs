use super::*;
use crate::rng::{self, RngExt};
use proptest::prelude::*;

fn draw(n: usize, seed: u64) -> Vec<f32> {
    let mut g = rng::stream(seed, 0);
    (0..n).map(|_| g.random::<f32>() - 0.5).collect()
}

/// Loss at a moved float64 output, computed from scratch.
fn loss_at(y: &[f64], rows: &[f32], eval: &dyn Fn(&[f64]) -> f64) -> f64 {
    let norm = dot(y, y).sqrt();
    let scores: Vec<f64> = rows
        .chunks_exact(y.len())
        .map(|r| dot(y, &unit(r).0) / norm)
        .collect();
    eval(&scores)
}

fn check(y: &[f32], rows: &[f32], ascent: &[f32], eval: &dyn Fn(&[f64]) -> f64) {
    let y: Vec<f64> = y.iter().map(|v| f64::from(*v)).collect();
    for i in 0..y.len() {
        let h = 1e-5;
        let (mut up, mut down) = (y.clone(), y.clone());
        up[i] += h;
        down[i] -= h;
        let want = -(loss_at(&up, rows, eval) - loss_at(&down, rows, eval)) / (2.0 * h);
        assert!(
            (f64::from(ascent[i]) - want).abs() < 1e-5 * (1.0 + want.abs()),
            "coordinate {i}: {} against {want}",
            ascent[i]
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn gradients_equal_finite_differences(seed in 0u64..1000, p in 1usize..4, n in 1usize..5) {
        let d = 6;
        let (x, y, c) = (draw(d, seed), draw(d, seed + 1), draw((p + n) * d, seed + 2));
        for loss in [
            RankingLoss::InfoNce { temperature: 0.3 },
            RankingLoss::Triplet { margin: 0.2 },
            RankingLoss::RankNet { sigma: 1.5 },
        ] {
            let s = LearningSignal::from_ranking(&x, &c[..p * d], &c[p * d..], loss, Some(&y)).unwrap();
            check(&y, &c, &s.gradient, &|z| loss.evaluate(&z[..p], &z[p..]).0);
            prop_assert_eq!(&s.query, &x);
        }
        let rel: Vec<f64> = (0..p + n).map(|i| f64::from((i as u32 * 7 + seed as u32) % 3)).collect();
        let s = LearningSignal::from_relevance(&x, &c, &rel, RelevanceLoss::RankNet, 1.2, Some(&y)).unwrap();
        check(&y, &c, &s.gradient, &|z| RelevanceLoss::RankNet.evaluate(z, &rel, 1.2).unwrap().0);
        for (reward, propensity) in [(0.9, None), (0.1, Some(0.2))] {
            let f = ChoiceFeedback { chosen: 0, reward, baseline: 0.5, propensity, temperature: 0.3, ips_clip: (1.0, 1.0) };
            let s = LearningSignal::from_choice(&x, &c, &f, Some(&y)).unwrap();
            check(&y, &c, &s.gradient, &|z| f.evaluate(z).0);
        }
    }
}

#[test]
fn signals_without_direction_say_why() {
    let zero = [0.0f32; 3];
    let x = [1.0f32, 0.0, 0.0];
    let loss = RankingLoss::InfoNce { temperature: 0.05 };
    let s = LearningSignal::from_ranking(&zero, &x, &[0.0, 1.0, 0.0], loss, None).unwrap();
    assert_eq!((s.reason.as_str(), s.gradient), ("zero query", vec![0.0; 3]));
    let trip = RankingLoss::Triplet { margin: 0.1 };
    let s = LearningSignal::from_ranking(&x, &x, &[0.0, 1.0, 0.0], trip, None).unwrap();
    assert!(!s.reason.is_empty() && s.loss == Some(0.0));
    assert!(LearningSignal::from_ranking(&x, &x, &[], loss, None).is_err());
    let s = LearningSignal::with_gradient(&x, &x, 0.5, 0.5).unwrap();
    assert!(!s.reason.is_empty());
}

#[test]
fn reinforce_is_unbiased_by_enumeration() {
    // A policy over two points a₊, a₋ around q with probabilities p, 1 − p: the expected estimate is
    // Σ π(a)(R(a) − b)(a − q), and for b = E[R] it is the covariance of R and a, whatever the sign of the rewards.
    let q = vec![0.2f32, -0.1];
    let arms = [(vec![1.2f32, -0.1], 0.8, 0.25), (vec![-0.8f32, -0.1], 0.3, 0.75)];
    let mean: f64 = arms.iter().map(|a| a.1 * a.2).sum();
    let mut got = [0.0f64; 2];
    let mut want = [0.0f64; 2];
    for (a, r, p) in &arms {
        let t = Trajectory {
            id: 0,
            query_embedding: q.clone(),
            steps: vec![super::super::TrajectoryStep {
                activations: a.clone(),
                attention_weights: vec![],
                reward: *r,
                timestamp: 0.0,
            }],
            final_quality: *r,
            latency_us: 0,
            scope: String::new(),
            source: String::new(),
        };
        let s = LearningSignal::from_trajectory(&t, mean).unwrap();
        for i in 0..2 {
            got[i] += p * f64::from(s.gradient[i]);
            // The step's reward and the final quality are two rewards of the same arm.
            want[i] +=
                p * 2.0 * r * (f64::from(a[i]) - arms.iter().map(|b| b.2 * f64::from(b.0[i])).sum::<f64>());
        }
    }
    for i in 0..2 {
        assert!((got[i] - want[i]).abs() < 1e-6, "{got:?} {want:?}");
    }
    assert!(got[0] > 0.0, "towards the better arm");
}
