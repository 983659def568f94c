use super::super::contrastive::in_batch;
use super::*;
use crate::lora::{Batch, MicroConfig, MicroLora, Rule};

fn batch<'a>(queries: &'a [f32], positives: &'a [f32]) -> Batch<'a> {
    Batch {
        queries,
        starts: queries,
        positives,
        negatives: &[],
        temperature: 0.1,
    }
}

fn draw(n: usize, seed: u64) -> Vec<f32> {
    let mut g = rng::stream(seed, 5);
    (0..n).map(|_| g.random::<f32>() - 0.5).collect()
}

fn base(d: usize, r: usize) -> BaseLora {
    BaseLora::new(BaseConfig::new(d, r, 2)).unwrap()
}

#[test]
fn the_training_gradient_equals_finite_differences() {
    let (d, n) = (5, 4);
    let (y, p, neg) = (draw(n * d, 1), draw(n * d, 2), draw(2 * d, 3));
    for neg in [&neg[..], &[]] {
        let (_, grad) = in_batch(&y, &p, neg, d, 0.4);
        for i in 0..n * d {
            let bump = |h: f32| {
                let mut y = y.clone();
                y[i] += h;
                in_batch(&y, &p, neg, d, 0.4).0
            };
            let want = (bump(1e-2) - bump(-1e-2)) / 2e-2;
            assert!((f64::from(grad[i]) - want).abs() < 2e-3, "{} {want}", grad[i]);
        }
    }
}

#[test]
fn training_leaves_the_saddle_and_lowers_the_loss() {
    let (d, n) = (16, 8);
    let mut l = base(d, 4);
    let (q, p) = (draw(n * d, 1), draw(n * d, 2));
    let first = l.train_step(0, &batch(&q, &p), Some(0.01)).unwrap();
    let mut last = first;
    for _ in 0..200 {
        last = l.train_step(0, &batch(&q, &p), Some(0.01)).unwrap();
    }
    assert!(last < 0.5 * first, "{first} -> {last}");
    assert!(
        l.factors(1).unwrap().is_identity(),
        "the other layer is untouched"
    );
}

#[test]
fn sample_gradients_add_up_to_the_step() {
    let (d, n) = (6, 5);
    let mut l = BaseLora::new(BaseConfig {
        rule: Rule::parse("sgd").unwrap(),
        weight_decay: 0.0,
        ..BaseConfig::new(d, 3, 1)
    })
    .unwrap();
    let theta = draw(2 * 3 * d, 9);
    l.set_theta(0, &theta).unwrap();
    let (q, p) = (draw(n * d, 1), draw(n * d, 2));
    let rows = l.sample_gradients(0, &batch(&q, &p)).unwrap();
    l.train_step(0, &batch(&q, &p), Some(1.0)).unwrap();
    for (i, (new, old)) in l.theta(0).unwrap().iter().zip(&theta).enumerate() {
        let mean: f32 = rows.iter().skip(i).step_by(theta.len()).sum::<f32>() / n as f32;
        assert!((old - mean - new).abs() < 1e-5, "{i}: {mean} {old} {new}");
    }
    let alone = l.sample_gradients(0, &batch(&q[..d], &p[..d])).unwrap();
    assert!(alone.iter().all(|g| *g == 0.0));
}

#[test]
fn merging_adds_the_deltas_and_keeps_components_alive() {
    let d = 12;
    let mut l = base(d, 4);
    let mut m = MicroLora::new(MicroConfig::new(d, 2)).unwrap();
    m.set_factors(draw(2 * d, 1), draw(2 * d, 2)).unwrap();
    let x = draw(d, 3);
    let (mut y0, mut y1) = (vec![0.0; d], vec![0.0; d]);
    m.factors().forward_into(&x, &mut y0).unwrap();
    assert!(l.merge_factors(1, m.factors()).unwrap() < 1e-9);
    l.factors(1).unwrap().forward_into(&x, &mut y1).unwrap();
    assert!(y0.iter().zip(&y1).all(|(a, b)| (a - b).abs() < 1e-5));
    let f = l.factors(1).unwrap();
    for r in 0..4 {
        assert!(
            kernels::norm(&f.a()[r * d..(r + 1) * d]) > 1e-3,
            "row {r} is dead"
        );
    }
    let w = l.merge_weights(&draw(d * d, 4), 1).unwrap();
    let delta = l.delta_weight(1).unwrap();
    assert!(
        w.iter()
            .zip(draw(d * d, 4))
            .zip(delta)
            .all(|((w, v), d)| (w - v - d).abs() < 1e-6)
    );
}

#[test]
fn no_contrast_is_a_counted_no_op() {
    let mut l = base(4, 2);
    assert_eq!(l.train_step(0, &batch(&[], &[]), None).unwrap(), 0.0);
    assert_eq!(l.train_step(0, &batch(&[1.0; 4], &[1.0; 4]), None).unwrap(), 0.0);
    assert!(l.metrics().contains(&("skipped_no_contrast", 2u64.into())));
    assert!(l.train_step(2, &batch(&[], &[]), None).is_err());
    assert!(l.train_step(0, &batch(&[1.0; 4], &[1.0; 8]), None).is_err());
    assert!(l.train_step(0, &batch(&[f32::NAN; 8], &[1.0; 8]), None).is_err());
}

#[test]
fn state_round_trips_and_hostile_state_is_refused() {
    let mut a = base(6, 3);
    let mut b = a.clone();
    let (q, p) = (draw(30, 1), draw(30, 2));
    for i in 0..6 {
        a.train_step(i % 2, &batch(&q, &p), Some(0.01)).unwrap();
        b.train_step(i % 2, &batch(&q, &p), Some(0.01)).unwrap();
        b = BaseLora::from_bytes(&b.to_bytes().unwrap()).unwrap();
    }
    assert_eq!(a.to_bytes().unwrap(), b.to_bytes().unwrap());
    for edit in [
        (|l: &mut BaseLora| l.config.num_layers = 3) as fn(&mut BaseLora),
        |l| l.config.rank = 2,
        |l| l.layers[0].factors.b[0] = f32::INFINITY,
        |l| l.alpha = f64::NAN,
        |l| l.config.hidden_dim = usize::MAX / 2,
    ] {
        let mut bad = a.clone();
        edit(&mut bad);
        assert!(matches!(
            BaseLora::from_bytes(&bad.to_bytes().unwrap()),
            Err(Error::Corrupt { .. })
        ));
    }
}

#[test]
fn absorbing_moves_every_input_as_before() {
    let d = 9;
    for rank in [1, 2, 4] {
        let mut slow = base(d, rank);
        slow.set_factors(0, draw(rank * d, 1), draw(rank * d, 2)).unwrap();
        let mut fast = MicroLora::new(MicroConfig::new(d, 2)).unwrap();
        fast.set_factors(draw(2 * d, 3), draw(2 * d, 4)).unwrap();
        assert!(!fast.has_moved());
        let x = draw(d, 5);
        let both = |slow: &BaseLora, fast: &MicroLora| -> Vec<f32> {
            let (mut a, mut b) = (vec![0.0; d], vec![0.0; d]);
            slow.factors(0).unwrap().delta_into(&x, &mut a).unwrap();
            fast.factors().delta_into(&x, &mut b).unwrap();
            a.iter().zip(&b).map(|(a, b)| a + b).collect()
        };
        let before = both(&slow, &fast);
        slow.absorb(0, &mut fast).unwrap();
        for (a, b) in before.iter().zip(both(&slow, &fast)) {
            assert!((a - b).abs() < 1e-6, "rank {rank}: {a} {b}");
        }
        assert!(!fast.has_moved());
        // Whatever has no part in it can still learn.
        let f = slow.factors(0).unwrap();
        assert!(f.a().chunks_exact(d).all(|row| row.iter().any(|v| *v != 0.0)));
    }
    let mut other = MicroLora::new(MicroConfig::new(d + 1, 1)).unwrap();
    assert!(matches!(
        base(d, 2).absorb(0, &mut other),
        Err(Error::Dimension { .. })
    ));
}
