//! The router as a whole.

use super::*;
use crate::rng::{self, RngExt};

fn settings(dim: usize) -> Settings {
    Settings {
        dim,
        k: 5,
        cost_weight: 0.02,
        alpha: 1.0,
        epsilon: 0.1,
        exploration: 0.1,
        kind: Kind::Hybrid,
        floor: None,
        fallback: None,
        abstain: 0.0,
        breaker: (3, 30.0),
        half_life: 1e4,
        judge_error: 0.0,
        capacity: 500,
        seed: 0,
    }
}

const KINDS: [Kind; 7] = [
    Kind::Hybrid,
    Kind::Linear,
    Kind::Knn,
    Kind::Logistic,
    Kind::LinUcb,
    Kind::Thompson,
    Kind::FastGrnn,
];

/// Two regions; the cheap model is good in the first only.
fn request(rng: &mut rng::ChaCha8Rng, d: usize) -> (Vec<f32>, usize) {
    let region = rng.random_range(0..2usize);
    let x = (0..d).map(|j| (f64::from(u8::from(j == region)) + 0.1 * rng::normal(rng)) as f32);
    (x.collect(), region)
}

fn outcome(region: usize, model: usize) -> f64 {
    f64::from(u8::from(model == 1 || region == 0))
}

#[test]
fn every_rule_learns_the_regions_from_its_own_choices() {
    for kind in KINDS {
        let mut s = settings(8);
        s.kind = kind;
        let mut router = Router::new(&[1.0, 10.0], s, None, None).unwrap();
        let mut rng = rng::stream(1, 0);
        let mut right = 0;
        for t in 0..900 {
            let (x, region) = request(&mut rng, 8);
            let c = router.route(&x, None, None, None, 0.0).unwrap();
            assert!((c.propensities.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            assert!(c.propensity >= 0.05 - 1e-12);
            if t >= 600 {
                right += usize::from(c.model == region);
            }
            assert!(
                router
                    .feedback(c.id, outcome(region, c.model), None, None, false, 0.0)
                    .unwrap()
            );
        }
        assert!(right > 255, "{kind:?}: {right} of 300");
    }
}

#[test]
fn continuing_after_bytes_is_continuing() {
    for kind in KINDS {
        let mut s = settings(8);
        s.kind = kind;
        s.capacity = 100;
        let mut a = Router::new(&[1.0, 10.0, 3.0], s, None, None).unwrap();
        let mut rng = rng::stream(3, 0);
        let mut run = |routers: &mut [&mut Router]| {
            for _ in 0..150 {
                let (x, region) = request(&mut rng, 8);
                let choices: Vec<Choice> = (routers.iter_mut())
                    .map(|r| r.route(&x, None, None, None, 0.0).unwrap())
                    .collect();
                assert!(choices.iter().all(|c| *c == choices[0]), "{kind:?}");
                for r in routers.iter_mut() {
                    r.feedback(
                        choices[0].id,
                        outcome(region, choices[0].model),
                        None,
                        None,
                        false,
                        0.0,
                    )
                    .unwrap();
                }
            }
        };
        run(&mut [&mut a]);
        let mut b = Router::from_bytes(&a.to_bytes().unwrap()).unwrap();
        run(&mut [&mut a, &mut b]);
        assert_eq!(a.to_bytes().unwrap(), b.to_bytes().unwrap());
    }
}

#[test]
fn the_guard_holds_a_bad_model_back() {
    let mut s = settings(8);
    (s.alpha, s.cost_weight) = (0.1, 1.0);
    let mut router = Router::new(&[0.1, 0.9], s, None, None).unwrap();
    let mut rng = rng::stream(4, 0);
    let (mut away, mut lost) = (0, 0);
    for t in 0..1500 {
        let (x, region) = request(&mut rng, 8);
        let c = router.route(&x, None, None, None, 0.0).unwrap();
        let y = outcome(region, c.model);
        if t >= 500 {
            away += usize::from(c.model == 0);
            lost += usize::from(c.model == 0 && y == 0.0);
        }
        router.feedback(c.id, y, None, None, false, 0.0).unwrap();
    }
    // Without the guard the price alone would send every request to the cheap model, and half of them would be lost.
    assert!(away > 300 && lost < 130, "{away} away, {lost} lost");
}

#[test]
fn circuits_floors_and_fallbacks() {
    let mut s = settings(4);
    (s.exploration, s.floor, s.fallback) = (0.0, Some(1), Some(1));
    s.kind = Kind::Knn;
    let mut r = Router::new(&[1.0, 2.0, 3.0], s, None, None).unwrap();
    let x = [1.0, 0.0, 0.0, 0.0];
    for m in 0..3 {
        r.learn(&x, m, 1.0, None).unwrap();
    }
    assert_eq!(r.route(&x, None, None, None, 0.0).unwrap().model, 1);
    for _ in 0..3 {
        let c = r.route(&x, Some(&[1, 2]), None, None, 0.0).unwrap();
        r.feedback(c.id, 0.0, None, None, true, 5.0).unwrap();
    }
    assert_eq!(r.route(&x, None, None, None, 10.0).unwrap().model, 2);
    assert_eq!(
        r.route(&x, Some(&[0, 1]), None, None, 10.0).unwrap().reason,
        Reason::Unavailable
    );
    assert_eq!(r.route(&x, None, None, None, 36.0).unwrap().model, 1);
    assert!(r.feedback(999, 0.5, None, None, false, 0.0).is_err());
}

#[test]
fn following_a_log_is_having_decided() {
    for kind in KINDS {
        let mut s = settings(8);
        (s.kind, s.alpha) = (kind, 0.3);
        let pacer = BudgetPacer::new(2000.0, 1000.0, Unit::Requests, 0.1).unwrap();
        let first = Router::new(&[1.0, 10.0], s, Some(SharedPacer::new(pacer)), None).unwrap();
        let base = first.to_bytes().unwrap();
        let (mut a, mut b) = (
            Router::from_bytes(&base).unwrap(),
            Router::from_bytes(&base).unwrap(),
        );
        let mut rng = rng::stream(9, 0);
        for t in 0..200u32 {
            let (x, region) = request(&mut rng, 8);
            let now = f64::from(t);
            let c = a.route(&x, None, None, None, now).unwrap();
            let y = outcome(region, c.model);
            b.follow(&x, &[0, 1], None, now, (c.id, c.model, c.propensity))
                .unwrap();
            for r in [&mut a, &mut b] {
                r.feedback(c.id, y, Some(2.0), None, t % 17 == 0, now).unwrap();
            }
        }
        assert_eq!(a.to_bytes().unwrap(), b.to_bytes().unwrap(), "{kind:?}");
        let x = [1.0; 8];
        let next = b.next_id();
        for (candidates, id, model, p) in [
            (&[0, 1][..], next - 1, 0, 0.5),
            (&[1][..], next, 0, 0.5),
            (&[0, 7][..], next, 0, 0.5),
            (&[][..], next, 0, 0.5),
            (&[0, 1][..], next, 0, 0.0),
            (&[0, 1][..], next, 0, f64::NAN),
            (&[0, 1][..], u64::MAX, 0, 0.5),
        ] {
            assert!(b.follow(&x, candidates, None, 0.0, (id, model, p)).is_err());
        }
        assert_eq!(a.to_bytes().unwrap(), b.to_bytes().unwrap());
        b.skip_to(next + 5);
        assert_eq!(b.route(&x, None, None, None, 0.0).unwrap().id, next + 5);
        a.succeed(&b);
        assert_eq!(a.next_id(), next + 6);
    }
}
