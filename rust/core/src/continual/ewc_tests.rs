use super::*;
use crate::rng::{normal, stream};
use proptest::prelude::*;

fn draw(n: usize, seed: u64) -> Vec<f32> {
    let mut r = stream(seed, 9);
    (0..n).map(|_| normal(&mut r) as f32).collect()
}

fn with_tasks(p: usize, tasks: usize, max_tasks: usize, seed: u64) -> Ewc {
    let mut e = Ewc::new(EwcConfig {
        max_tasks,
        normalize_fisher: false,
        ..EwcConfig::new(p)
    })
    .unwrap();
    for t in 0..tasks as u64 {
        let fisher = draw(p, seed + 2 * t).iter().map(|f| f * f).collect();
        e.start_new_task(Some(fisher), Some(draw(p, seed + 2 * t + 1)))
            .unwrap();
    }
    e
}

fn close(a: &[f32], b: &[f32]) -> bool {
    a.iter()
        .zip(b)
        .all(|(a, b)| (a - b).abs() <= 1e-4 * (1.0 + b.abs()))
}

proptest! {
    #[test]
    fn merging_leaves_gradient_and_step_as_they_were(
        p in 1usize..40, tasks in 1usize..6, max_tasks in 1usize..6, seed in 0u64..1000,
    ) {
        let (apart, merged) = (with_tasks(p, tasks, tasks, seed), with_tasks(p, tasks, max_tasks, seed));
        let mut one = apart.clone();
        one.consolidate_all_tasks();
        prop_assert_eq!(one.task_count(), 1);
        prop_assert_eq!(merged.task_count(), tasks.min(max_tasks));
        let theta = draw(p, seed + 99);
        let (mut a, mut b) = (vec![0.0; p], vec![0.0; p]);
        for other in [&merged, &one] {
            apart.penalty_gradient(Some(&theta), &mut a).unwrap();
            other.penalty_gradient(Some(&theta), &mut b).unwrap();
            prop_assert!(close(&a, &b));
            apart.proximal_step(&theta, 0.1, &mut a).unwrap();
            other.proximal_step(&theta, 0.1, &mut b).unwrap();
            prop_assert!(close(&a, &b));
        }
    }

    #[test]
    fn the_gradient_is_the_slope_of_the_penalty(p in 1usize..12, tasks in 1usize..4, seed in 0u64..1000) {
        let e = with_tasks(p, tasks, 10, seed);
        let theta = draw(p, seed + 99);
        let mut g = vec![0.0; p];
        e.penalty_gradient(Some(&theta), &mut g).unwrap();
        for i in 0..p {
            let h = 1.0 / 1024.0;
            let (mut up, mut down) = (theta.clone(), theta.clone());
            up[i] += h;
            down[i] -= h;
            let step = f64::from(up[i]) - f64::from(down[i]);
            let slope = (e.penalty(Some(&up)).unwrap() - e.penalty(Some(&down)).unwrap()) / step;
            prop_assert!((slope - f64::from(g[i])).abs() <= 1e-2 * (1.0 + slope.abs()), "{slope} {}", g[i]);
        }
    }

    #[test]
    fn a_projected_gradient_never_raises_the_penalty(p in 1usize..20, seed in 0u64..1000) {
        let mut e = with_tasks(p, 2, 10, seed);
        e.set_params(&draw(p, seed + 50)).unwrap();
        let (g, mut out, mut pull) = (draw(p, seed + 51), vec![0.0; p], vec![0.0; p]);
        e.apply_constraints(&g, Constraint::Project, &mut out).unwrap();
        e.penalty_gradient(None, &mut pull).unwrap();
        let along = |x: &[f32]| x.iter().zip(&pull).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
        let size: f64 = g.iter().zip(&pull).map(|(a, b)| f64::from(a * b).abs()).sum();
        prop_assert!(along(&out) >= -1e-5 * size);
        if along(&g) >= 0.0 {
            prop_assert_eq!(out, g);
        }
    }
}

#[test]
fn state_survives_and_goes_on() {
    let mut a = with_tasks(6, 3, 2, 1);
    a.update_fisher(&draw(30, 7)).unwrap();
    a.detect_task_boundary(&draw(6, 8)).unwrap();
    let mut b = Ewc::from_bytes(&a.to_bytes().unwrap()).unwrap();
    assert_eq!(a, b);
    for e in [&mut a, &mut b] {
        e.set_params(&draw(6, 3)).unwrap();
        assert!(e.start_new_task(None, None).unwrap());
        assert!(!e.start_new_task(None, None).unwrap());
    }
    assert_eq!(a.to_bytes().unwrap(), b.to_bytes().unwrap());
}

#[test]
fn bad_input_changes_nothing() {
    let mut e = with_tasks(4, 1, 10, 1);
    let before = e.to_bytes().unwrap();
    let nan = [1.0, f32::NAN, 0.0, 0.0];
    assert!(matches!(
        e.update_fisher(&nan),
        Err(Error::NotFinite { index: 1, .. })
    ));
    assert!(matches!(e.update_fisher(&[1.0; 5]), Err(Error::Dimension { .. })));
    assert!(matches!(e.update_fisher(&[1e30; 4]), Err(Error::Value { .. })));
    assert!(matches!(
        e.start_new_task(Some(vec![1.0, -1.0, 0.0, 0.0]), None),
        Err(Error::Value { .. })
    ));
    assert!(matches!(
        e.start_new_task(Some(vec![1.0; 3]), None),
        Err(Error::Dimension { .. })
    ));
    assert!(e.set_lambda(-1.0).is_err());
    assert!(e.set_lambda(f64::NAN).is_err());
    assert_eq!(e.to_bytes().unwrap(), before);
    for config in [
        EwcConfig::new(0),
        EwcConfig {
            initial_lambda: -1.0,
            ..EwcConfig::new(4)
        },
        EwcConfig {
            min_lambda: 3.0,
            max_lambda: 2.0,
            ..EwcConfig::new(4)
        },
        EwcConfig {
            fisher_ema_decay: 1.0,
            ..EwcConfig::new(4)
        },
    ] {
        assert!(matches!(Ewc::new(config), Err(Error::Config { .. })));
    }
}
