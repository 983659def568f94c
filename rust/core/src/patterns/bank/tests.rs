use super::*;
use crate::rng::{RngExt, normal, stream};

const D: usize = 8;

fn config(k: usize) -> BankConfig {
    BankConfig {
        k_clusters: k,
        embedding_dim: D,
        ..BankConfig::default()
    }
}

/// A unit direction `axis` with a little noise.
fn near(axis: usize, noise: f64, rng: &mut crate::rng::ChaCha8Rng) -> Vec<f32> {
    (0..D)
        .map(|j| (f64::from(u8::from(j == axis)) + noise * normal(rng)) as f32)
        .collect()
}

fn outcome<'a>(embedding: &'a [f32], quality: f64, scope: &'a str) -> Outcome<'a> {
    Outcome {
        embedding,
        quality,
        action: None,
        scope,
        verdict: None,
    }
}

fn three_regions(config: BankConfig) -> Bank {
    let mut bank = Bank::new(config).unwrap();
    let mut rng = stream(1, 0);
    for i in 0..60 {
        let axis = i % 3;
        let x = near(axis, 0.03, &mut rng);
        let action = ["search", "calculate", "guess"][axis];
        bank.add(Outcome {
            action: Some(action),
            ..outcome(&x, [0.9, 0.5, 0.1][axis], DEFAULT_SCOPE)
        })
        .unwrap();
    }
    bank
}

fn axis(i: usize) -> Vec<f32> {
    (0..D).map(|j| f32::from(u8::from(i == j))).collect()
}

#[test]
fn ids_and_accesses_survive_and_nothing_doubles() {
    let mut bank = three_regions(config(3));
    let first = bank.extract(10).unwrap();
    assert_eq!(first.len(), 3);
    bank.find(&axis(0), 1, DEFAULT_SCOPE, 20).unwrap();
    let mut rng = stream(2, 0);
    for i in 0..30 {
        let x = near(i % 3, 0.03, &mut rng);
        bank.add(outcome(&x, 0.8, DEFAULT_SCOPE)).unwrap();
    }
    let second = bank.extract(30).unwrap();
    let ids = |p: &[Pattern]| p.iter().map(|p| p.id).collect::<Vec<_>>();
    assert_eq!(ids(&first), ids(&second));
    assert_eq!(second.iter().map(|p| p.cluster_size).sum::<u64>(), 90);
    assert_eq!(second.iter().map(|p| p.access_count).sum::<u64>(), 1);
    assert!(second.iter().all(|p| p.created_at == 10));
    assert_eq!(bank.extract(40).unwrap(), second, "nothing came: nothing changes");
}

#[test]
fn verdicts_and_recall_tell_what_to_do_and_what_to_avoid() {
    let mut bank = three_regions(config(3));
    bank.extract(0).unwrap();
    let item = |bank: &mut Bank, i, failures| bank.recall(&axis(i), 1, DEFAULT_SCOPE, failures, 0).unwrap();
    let best = item(&mut bank, 0, true);
    assert_eq!(
        (best[0].verdict, best[0].memo.title.as_str()),
        (Verdict::Success, "Works: search")
    );
    assert!(best[0].similarity > 0.99);
    let worst = item(&mut bank, 2, true);
    assert_eq!(worst[0].verdict, Verdict::Failure);
    assert!(worst[0].memo.content.starts_with("Avoid: guess (quality 0.10"));
    assert_ne!(item(&mut bank, 2, false)[0].verdict, Verdict::Failure);
    let memo = Memo {
        title: "t".into(),
        description: "d".into(),
        content: "c".into(),
    };
    assert!(bank.set_memo(best[0].pattern, memo.clone()));
    assert_eq!(item(&mut bank, 0, true)[0].memo, memo);
}

#[test]
fn scopes_never_mix() {
    let mut bank = Bank::new(config(3)).unwrap();
    let mut rng = stream(3, 0);
    for i in 0..40 {
        let scope = if i % 2 == 0 { "a" } else { "b" };
        let x = near(0, 0.02, &mut rng);
        bank.add(outcome(&x, f64::from(u8::from(i % 2 == 0)), scope))
            .unwrap();
    }
    bank.extract(0).unwrap();
    for (scope, quality) in [("a", 1.0), ("b", 0.0)] {
        let found = bank.find(&axis(0), 10, scope, 0).unwrap();
        assert!(!found.is_empty());
        assert!(
            found
                .iter()
                .all(|(p, _)| &*p.scope == scope && p.avg_quality == quality)
        );
    }
    assert!(bank.find(&axis(0), 10, DEFAULT_SCOPE, 0).unwrap().is_empty());
}

#[test]
fn a_full_ring_takes_from_the_largest_scope() {
    let mut bank = Bank::new(BankConfig {
        max_trajectories: 20,
        ..config(2)
    })
    .unwrap();
    for i in 0..5 {
        bank.add(outcome(&axis(i), 0.5, "small")).unwrap();
    }
    for _ in 0..1000 {
        bank.add(outcome(&axis(0), 0.5, "noisy")).unwrap();
    }
    assert_eq!(bank.case_count(), 20);
    assert_eq!(bank.scopes["small"].cases.len(), 5);
    assert_eq!(bank.counters.evicted, 985);
}

#[test]
fn removal_leaves_what_the_others_alone_would_have_given() {
    let mut bank = three_regions(config(3));
    bank.extract(0).unwrap();
    let gone: Vec<u64> = (0..60).filter(|i| i % 2 == 0).collect();
    assert_eq!(bank.remove(&gone), 30);
    assert_eq!(bank.remove(&gone), 0);
    let subtracted: Vec<Pattern> = bank.patterns().into_iter().cloned().collect();
    let again = bank.extract(0).unwrap();
    assert_eq!(subtracted.len(), 3);
    for (a, b) in subtracted.iter().zip(&again) {
        assert_eq!((a.id, a.cluster_size), (b.id, b.cluster_size));
        assert!((a.avg_quality - b.avg_quality).abs() < 1e-9);
        assert!((a.quality_var - b.quality_var).abs() < 1e-9);
        assert!((a.total_weight - b.total_weight).abs() < 1e-6);
        assert!(
            a.centroid
                .iter()
                .zip(&b.centroid)
                .all(|(x, y)| (x - y).abs() < 1e-5)
        );
    }
    let rest: Vec<u64> = (0..60).collect();
    assert_eq!(bank.remove(&rest), 30);
    assert!(bank.patterns().is_empty() && bank.scopes.is_empty());
}

#[test]
fn what_left_the_ring_is_remembered_within_bounds() {
    let mut bank = Bank::new(BankConfig {
        max_trajectories: 10,
        ..config(2)
    })
    .unwrap();
    for (round, i) in (0..D).enumerate() {
        for _ in 0..10 {
            bank.add(outcome(&axis(i), 0.9, DEFAULT_SCOPE)).unwrap();
        }
        bank.extract(round as i64).unwrap();
    }
    // One of the present, two of the past, the latest ones.
    let ids: Vec<u64> = bank.patterns().iter().map(|p| p.id).collect();
    assert_eq!(ids, [5, 6, 7]);
    assert_eq!(bank.counters.forgotten, 5);
}

#[test]
fn consolidated_patterns_stay_one() {
    let mut bank = Bank::new(config(12)).unwrap();
    let mut rng = stream(4, 0);
    for i in 0..90 {
        let x = near(i % 3, 0.03, &mut rng);
        bank.add(outcome(&x, 0.9, DEFAULT_SCOPE)).unwrap();
    }
    let split = bank.extract(0).unwrap().len();
    assert!(split > 3);
    assert_eq!(bank.merge_similar(None).unwrap(), split - 3);
    let sizes: u64 = bank.patterns().iter().map(|p| p.cluster_size).sum();
    let x = near(0, 0.03, &mut rng);
    bank.add(outcome(&x, 0.9, DEFAULT_SCOPE)).unwrap();
    assert_eq!(bank.extract(0).unwrap().len(), 3);
    assert!(bank.patterns().iter().map(|p| p.cluster_size).sum::<u64>() >= sizes.min(80));
}

#[test]
fn merging_keeps_success_and_failure_apart() {
    let mut bank = Bank::new(config(2)).unwrap();
    let (a, mut b) = (axis(0), axis(0));
    b[1] = 0.2;
    for _ in 0..10 {
        bank.add(outcome(&a, 0.9, DEFAULT_SCOPE)).unwrap();
        bank.add(outcome(&b, 0.1, DEFAULT_SCOPE)).unwrap();
    }
    assert_eq!(bank.extract(0).unwrap().len(), 2);
    assert_eq!(bank.merge_similar(Some(0.5)).unwrap(), 0);
}

#[test]
fn pruning_spares_the_only_pattern_of_a_region() {
    let mut bank = Bank::new(config(3)).unwrap();
    let (a, b, c) = (axis(0), axis(1), {
        let mut c = axis(0);
        c[2] = 0.5;
        c
    });
    for _ in 0..10 {
        for (x, q) in [(&a, 0.4), (&b, 0.2), (&c, 0.3)] {
            bank.add(outcome(x, q, DEFAULT_SCOPE)).unwrap();
        }
    }
    assert_eq!(bank.extract(0).unwrap().len(), 3);
    assert_eq!(bank.prune(0.9, 1), 1);
    let left: Vec<f64> = bank.patterns().iter().map(|p| p.avg_quality).collect();
    assert!(left.iter().all(|q| (q - 0.3).abs() > 0.05), "{left:?}");
}

#[test]
fn state_survives_and_continues_bit_for_bit() {
    let mut bank = three_regions(config(3));
    bank.extract(5).unwrap();
    bank.find(&axis(1), 2, DEFAULT_SCOPE, 6).unwrap();
    bank.decay(0.9, 2.0).unwrap();
    let mut copy = Bank::from_bytes(&bank.to_bytes().unwrap()).unwrap();
    assert_eq!(copy, bank);
    let mut rng = stream(5, 0);
    for i in 0..25 {
        let x = near(i % 4, 0.05, &mut rng);
        for b in [&mut bank, &mut copy] {
            b.add(outcome(&x, 0.7, DEFAULT_SCOPE)).unwrap();
        }
    }
    assert_eq!(bank.extract(7).unwrap(), copy.extract(7).unwrap());
    assert_eq!(bank.to_bytes().unwrap(), copy.to_bytes().unwrap());
}

#[test]
fn impossible_state_is_refused() {
    let good = three_regions(config(3));
    let refuse = |change: &dyn Fn(&mut Bank)| {
        let mut bad = good.clone();
        bad.extract(0).unwrap();
        change(&mut bad);
        let bytes = bad.to_bytes().unwrap();
        assert!(matches!(Bank::from_bytes(&bytes), Err(Error::Corrupt { .. })));
    };
    let name: Arc<str> = DEFAULT_SCOPE.into();
    refuse(&|b| b.config.embedding_dim = 9);
    refuse(&|b| b.config.k_clusters = 0);
    refuse(&|b| b.next_case = 3);
    refuse(&|b| b.next_pattern = 0);
    refuse(&|b| b.config.max_trajectories = 7);
    refuse(&|b| b.scopes.get_mut(&name).unwrap().cases[3].quality = f64::NAN);
    refuse(&|b| b.scopes.get_mut(&name).unwrap().cases[3].embedding = vec![f32::NAN; D].into());
    refuse(&|b| b.scopes.get_mut(&name).unwrap().cases.swap(1, 2));
    refuse(&|b| b.scopes.get_mut(&name).unwrap().patterns[0].cluster_size = 0);
    refuse(&|b| b.scopes.get_mut(&name).unwrap().patterns[0].scope = "other".into());
    refuse(&|b| b.scopes.get_mut(&name).unwrap().patterns[1].centroid[0] = f32::INFINITY);
}

#[test]
fn bad_input_changes_nothing() {
    let mut bank = Bank::new(config(3)).unwrap();
    let x = axis(0);
    let mut nan = axis(0);
    nan[3] = f32::NAN;
    assert!(matches!(
        bank.add(outcome(&x[1..], 0.5, "s")),
        Err(Error::Dimension { .. })
    ));
    assert!(matches!(
        bank.add(outcome(&nan, 0.5, "s")),
        Err(Error::NotFinite { .. })
    ));
    assert!(matches!(
        bank.add(outcome(&[0.0; D], 0.5, "s")),
        Err(Error::Value { .. })
    ));
    assert!(matches!(
        bank.add(outcome(&x, 1.5, "s")),
        Err(Error::Value { .. })
    ));
    assert!(matches!(
        bank.add(outcome(&x, f64::NAN, "s")),
        Err(Error::NotFinite { .. })
    ));
    assert_eq!(bank, Bank::new(config(3)).unwrap());
    assert!(bank.extract(0).unwrap().is_empty());
    bank.add(outcome(&x, 1.0, "s")).unwrap();
    assert!(bank.extract(0).unwrap().is_empty());
    assert_eq!(bank.counters.too_few, 1);
    assert!(bank.find(&[0.0; D], 3, "s", 0).unwrap().is_empty());
    assert!(bank.decay(1.1, 1.0).is_err() && bank.decay(0.5, f64::NAN).is_err());
}

#[test]
fn a_plan_made_before_a_clear_is_dropped() {
    let mut bank = three_regions(config(3));
    let clusters = bank.plan().run().unwrap();
    bank.clear();
    bank.commit(clusters, 0).unwrap();
    assert!(bank.patterns().is_empty());
    assert_eq!(bank.case_count(), 0);
}

#[test]
fn merge_is_associative_and_pools_the_variance() {
    let mut rng = stream(6, 0);
    let mut bank = Bank::new(config(1)).unwrap();
    let mut groups = Vec::new();
    for _ in 0..3 {
        let cases: Vec<(Vec<f32>, f64)> = (0..rng.random_range(5..20))
            .map(|_| (near(0, 0.5, &mut rng), rng.random::<f64>()))
            .collect();
        groups.push(cases);
    }
    let whole: Vec<_> = groups.concat();
    let mut of = |cases: &[(Vec<f32>, f64)]| {
        bank.clear();
        for (x, q) in cases {
            bank.add(outcome(x, *q, DEFAULT_SCOPE)).unwrap();
        }
        bank.extract(0).unwrap().remove(0)
    };
    let [a, b, c] = [of(&groups[0]), of(&groups[1]), of(&groups[2])];
    let want = of(&whole);
    let left = a.merge(&b).unwrap().merge(&c).unwrap();
    let right = a.merge(&b.merge(&c).unwrap()).unwrap();
    for got in [left, right] {
        assert_eq!(got.id, a.id);
        assert_eq!(got.cluster_size, want.cluster_size);
        assert!((got.avg_quality - want.avg_quality).abs() < 1e-12);
        assert!((got.quality_var - want.quality_var).abs() < 1e-12);
        assert!((got.total_weight - want.total_weight).abs() < 1e-9);
        assert!(
            got.centroid
                .iter()
                .zip(&want.centroid)
                .all(|(x, y)| (x - y).abs() < 1e-6)
        );
    }
    let foreign = Pattern {
        scope: "other".into(),
        ..b
    };
    assert!(matches!(a.merge(&foreign), Err(Error::Scope { .. })));
}
