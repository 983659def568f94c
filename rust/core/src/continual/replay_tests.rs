use super::*;

#[test]
fn a_full_ring_overwrites_the_oldest() {
    let mut r = PriorityReplay::new(ReplayConfig::new(3)).unwrap();
    let slots: Vec<_> = (0..7).map(|_| r.add(None, 1).unwrap().slot.unwrap()).collect();
    assert_eq!(slots, [0, 1, 2, 0, 1, 2, 0]);
    assert_eq!(r.add(Some(3.0), 1).unwrap().evicted, [1]);
    assert_eq!(r.len(), 3);
    assert!((r.probabilities().iter().sum::<f64>() - 1.0).abs() < 1e-12);
}

#[test]
fn a_byte_budget_evicts_until_the_item_fits() {
    let config = ReplayConfig {
        max_bytes: Some(10),
        ..ReplayConfig::new(100)
    };
    let mut r = PriorityReplay::new(config).unwrap();
    (0..5).for_each(|_| drop(r.add(None, 2).unwrap()));
    assert_eq!(r.add(None, 5).unwrap().evicted, [0, 1, 2]);
    assert_eq!(r.len(), 3);
    assert!(matches!(r.add(None, 11), Err(Error::Capacity { .. })));
    assert_eq!(r.len(), 3);
    let items: Vec<_> = (0..r.slots())
        .map(|s| r.sizes[s].map(|_| SavedItem::Int(s as i64)))
        .collect();
    let (again, back) = PriorityReplay::from_bytes(&r.to_bytes(items.clone()).unwrap()).unwrap();
    assert_eq!(back, items);
    assert!(PriorityReplay::from_bytes(&r.to_bytes(Vec::new()).unwrap()).is_err());
    assert_eq!(again.probabilities(), r.probabilities());
    assert_eq!(again.metrics(), r.metrics());
}

#[test]
fn a_reservoir_keeps_a_uniform_sample() {
    let mut kept = vec![0u32; 40];
    for seed in 0..2000 {
        let config = ReplayConfig {
            policy: KeepPolicy::Reservoir,
            seed,
            ..ReplayConfig::new(8)
        };
        let mut r = PriorityReplay::new(config).unwrap();
        let mut at = [0usize; 8];
        for i in 0..40 {
            if let Some(slot) = r.add(None, 1).unwrap().slot {
                at[slot] = i;
            }
        }
        at.iter().for_each(|i| kept[*i] += 1);
    }
    // Expected 400 each, binomial: five standard deviations.
    assert!(kept.iter().all(|k| (310..490).contains(k)), "{kept:?}");
}
