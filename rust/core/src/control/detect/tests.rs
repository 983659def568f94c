use super::*;
use crate::rng::{normal, stream};
use proptest::prelude::*;

/// The robust score from its definition.
fn plain_robust(x: &[f64], window: usize, min_count: usize) -> f64 {
    let (last, before) = x.split_last().unwrap();
    let before = &before[before.len().saturating_sub(window)..];
    if before.len() < min_count {
        return 0.0;
    }
    let center = median(before).unwrap();
    let spread = mad(before).unwrap() / 1.482_602_218_505_601_8 * 1.4826;
    (last - center).abs() / (spread + 1e-3 * center.abs() + 1e-9)
}

proptest! {
    #[test]
    fn the_running_robust_score_is_the_plain_one(
        x in prop::collection::vec(-5_i32..5, 1..60),
        window in 1_usize..12,
    ) {
        let min_count = window.div_ceil(2);
        let mut detector = RobustZ::new(window, 6.0, min_count).unwrap();
        let x: Vec<f64> = x.into_iter().map(|v| f64::from(v) * 0.5).collect();
        for end in 1..=x.len() {
            detector.update(x[end - 1]);
            let want = plain_robust(&x[..end], window, min_count);
            prop_assert!((detector.score() - want).abs() <= 1e-9 * (1.0 + want), "{} {}", detector.score(), want);
        }
    }

    #[test]
    fn adwin_keeps_exact_sums(x in prop::collection::vec(-100.0_f64..100.0, 1..300)) {
        let mut detector = Adwin::new(1e-300).unwrap();
        for v in &x {
            detector.update(*v);
        }
        prop_assert_eq!(detector.width(), x.len() as u64);
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        prop_assert!((detector.mean() - mean).abs() < 1e-9);
    }
}

fn continues<D: Detector + PartialEq + std::fmt::Debug>(mut whole: D) {
    let mut rng = stream(3, 0);
    let x: Vec<f64> = (0..400)
        .map(|i| normal(&mut rng) + if i > 250 { 4.0 } else { 0.0 })
        .collect();
    for v in &x[..200] {
        whole.update(*v);
    }
    let mut parts = D::from_bytes(&whole.to_bytes().unwrap()).unwrap();
    let (mut alarms, mut same) = (0, true);
    for v in &x[200..] {
        let alarm = whole.update(*v);
        alarms += usize::from(alarm);
        same &= parts.update(*v) == alarm;
    }
    assert!(same && parts == whole && alarms > 0, "{whole:?}");
    // A missing value changes nothing but its count.
    let before = whole.metrics();
    assert!(!whole.update(f64::NAN) && !whole.update(f64::INFINITY));
    let changed: Vec<_> = before
        .iter()
        .zip(whole.metrics())
        .filter(|(a, b)| *a != b)
        .map(|(a, _)| a.0)
        .collect();
    assert_eq!(changed, ["missing"]);
}

#[test]
fn every_detector_sees_a_shift_and_continues_after_a_save() {
    continues(Ewma::new(0.02, 3.0, 30, 1e-9).unwrap());
    continues(RobustZ::new(100, 3.5, 30).unwrap());
    continues(Cusum::new(0.0, 1.0, 0.5, 5.0).unwrap());
    continues(PageHinkley::new(0.005, 50.0, 0.9999, 30, Direction::Both).unwrap());
    continues(Adwin::new(0.002).unwrap());
    continues(
        AnomalyDetector::new(Agreement {
            window: 100,
            agree: 1,
            within: 5,
            cooldown: 0,
        })
        .unwrap(),
    );
}

#[test]
fn a_jump_from_a_constant_and_one_at_a_large_level_are_seen() {
    for level in [0.0, 7.0, 1e9] {
        let mut detector = AnomalyDetector::new(Agreement {
            window: 50,
            agree: 2,
            within: 5,
            cooldown: 0,
        })
        .unwrap();
        let early = (0..200).filter(|_| detector.update(level)).count();
        assert_eq!(early, 0);
        let jump = level + 0.1 * level.abs() + 1.0;
        assert!((0..5).any(|_| detector.update(jump)), "{level}");
    }
}

#[test]
fn settings_out_of_range_are_refused() {
    assert!(Ewma::new(0.0, 6.0, 30, 1e-9).is_err());
    assert!(Ewma::new(0.1, 0.0, 30, 1e-9).is_err());
    assert!(RobustZ::new(0, 6.0, 1).is_err());
    assert!(RobustZ::new(10, 6.0, 11).is_err());
    assert!(Cusum::new(0.0, 0.0, 0.5, 5.0).is_err());
    assert!(Adwin::new(1.0).is_err());
    assert!(PageHinkley::new(-1.0, 5.0, 1.0, 1, Direction::Up).is_err());
    assert!(Direction::parse("sideways").is_err());
    let bad = Agreement {
        window: 10,
        agree: 4,
        within: 5,
        cooldown: 0,
    };
    assert!(AnomalyDetector::new(bad).is_err());
}
