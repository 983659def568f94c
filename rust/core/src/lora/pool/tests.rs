use super::*;

fn config(budget: Option<usize>) -> PoolConfig {
    PoolConfig {
        merge_similarity: None,
        dim: 8,
        rank: 2,
        memory_budget: budget,
        similarity: 0.6,
        seed: 0,
    }
}

fn task(i: usize) -> Vec<f32> {
    let mut v = vec![0.05; 8];
    v[i % 8] = 1.0;
    v
}

/// Bytes of one entry with a fresh adapter.
fn one() -> usize {
    let mut p = AdapterPool::new(config(None), None).unwrap();
    p.select(&task(0)).unwrap();
    p.memory_bytes()
}

fn train(a: &SharedMicroLora) {
    a.accumulate_parts(&task(1), &task(2), 1.0).unwrap();
    a.apply(None).unwrap();
}

#[test]
fn near_tasks_share_an_adapter() {
    let mut p = AdapterPool::new(config(None), None).unwrap();
    let ids: Vec<u64> = [0, 1, 0, 1, 2]
        .iter()
        .map(|t| p.select(&task(*t)).unwrap().0)
        .collect();
    assert_eq!(ids, [0, 1, 0, 1, 2]);
    let (_, a) = p.select(&task(0)).unwrap();
    train(&a);
    let again = p.get(0).unwrap().unwrap();
    assert!(Arc::ptr_eq(&a, &again));
    assert!(p.get(9).unwrap().is_none());
    assert!(p.select(&[0.0; 8]).is_err());
    assert!(p.select(&[f32::NAN; 8]).is_err());
    assert!(p.select(&[1.0; 7]).is_err());
    assert_eq!(p.ids(), [0, 1, 2]);
}

#[test]
fn memory_falls_and_the_least_recently_used_goes() {
    let budget = 3 * one() + one() / 2;
    let mut p = AdapterPool::new(config(Some(budget)), None).unwrap();
    for i in 0..3 {
        p.select(&task(i)).unwrap();
    }
    p.get(0).unwrap();
    p.select(&task(3)).unwrap();
    assert!(p.memory_bytes() <= budget);
    assert_eq!(p.ids(), [0, 2, 3]);
    assert_eq!(p.prune_lru().unwrap(), [1]);
    assert!(p.prune_lru().unwrap().is_empty());
    // An evicted task that comes back is a new one.
    assert_eq!(p.select(&task(1)).unwrap().0, 4);
}

#[test]
fn a_grown_adapter_counts() {
    let budget = 2 * one() + 200;
    let mut p = AdapterPool::new(config(Some(budget)), None).unwrap();
    p.select(&task(0)).unwrap();
    let (id, a) = p.select(&task(1)).unwrap();
    for _ in 0..10 {
        a.accumulate_parts(&task(3), &task(2), 1.0).unwrap();
    }
    assert!(p.memory_bytes() > budget, "the trust region's queries count");
    assert_eq!(p.prune_lru().unwrap(), [0]);
    assert_eq!(p.ids(), [id]);
}

#[test]
fn pinned_adapters_stay_and_a_pinned_set_over_budget_is_an_error() {
    let mut p = AdapterPool::new(config(Some(2 * one() + 10)), None).unwrap();
    for i in 0..2 {
        let (id, _) = p.select(&task(i)).unwrap();
        assert!(p.pin(id).unwrap());
    }
    let before = p.ids();
    assert!(matches!(p.select(&task(2)), Err(Error::Capacity { .. })));
    assert_eq!(p.ids(), before, "a refused call changes nothing");
    assert!(p.unpin(0));
    assert_eq!(p.select(&task(2)).unwrap().0, 2);
    assert_eq!(p.ids(), [1, 2]);
    assert!(!p.pin(77).unwrap() && !p.unpin(77));
    let mut tiny = AdapterPool::new(config(Some(10)), None).unwrap();
    assert!(matches!(tiny.select(&task(0)), Err(Error::Capacity { .. })));
}

#[test]
fn spilled_adapters_come_back_as_they_were() {
    let dir = tempfile::tempdir().unwrap();
    let budget = one() + 4 * 200;
    let mut p = AdapterPool::new(config(Some(budget)), Some(dir.path().join("spill"))).unwrap();
    let (id, a) = p.select(&task(0)).unwrap();
    train(&a);
    let state = a.read(MicroLora::to_bytes).unwrap();
    drop(a);
    p.select(&task(1)).unwrap();
    assert!(p.memory_bytes() <= budget);
    assert_eq!(p.ids(), [0, 1]);
    let files = || fs::read_dir(dir.path().join("spill")).unwrap().count();
    assert_eq!(files(), 1);
    // The same task finds its adapter again, bit for bit; the other one takes its place on disk.
    let (again, mut a) = p.select(&task(0)).unwrap();
    assert_eq!(again, id);
    assert_eq!(a.read(MicroLora::to_bytes).unwrap(), state);
    assert_eq!(files(), 1);
    // A handle that is still in use after eviction keeps what it learns, and so does the pool once the handle is gone.
    for held in [true, false] {
        p.select(&task(1)).unwrap();
        train(&a);
        let newer = a.read(MicroLora::to_bytes).unwrap();
        assert!(p.memory_bytes() > budget, "an adapter that learns is in memory");
        if !held {
            drop(std::mem::replace(&mut a, p.get(1).unwrap().unwrap()));
        }
        a = p.get(id).unwrap().unwrap();
        assert_eq!(a.read(MicroLora::to_bytes).unwrap(), newer);
        assert!(p.memory_bytes() <= budget);
        assert_eq!(files(), 1);
    }
    drop(a);
    // Damaged files are an error, and the entry stays.
    p.get(1).unwrap();
    for f in fs::read_dir(dir.path().join("spill")).unwrap() {
        fs::write(f.unwrap().path(), b"rubbish").unwrap();
    }
    assert!(matches!(p.get(id), Err(Error::Corrupt { .. })));
    assert_eq!(p.ids(), [0, 1]);
    drop(p);
    assert_eq!(files(), 0, "a pool cleans up after itself");
}

#[test]
fn save_load_continue_equals_never_stopping() {
    let dir = tempfile::tempdir().unwrap();
    let budget = Some(2 * one() + 3 * 500);
    let spill = |n: &str| Some(dir.path().join(n));
    let mut a = AdapterPool::new(config(budget), spill("a")).unwrap();
    let mut b = AdapterPool::new(config(budget), spill("b")).unwrap();
    for i in 0..12 {
        for p in [&mut a, &mut b] {
            let (_, l) = p.select(&task(i * 5 % 4)).unwrap();
            train(&l);
        }
        if i % 4 == 1 {
            b = AdapterPool::from_bytes(&b.to_bytes().unwrap(), spill("c")).unwrap();
        }
    }
    for id in a.ids() {
        let (x, y) = (a.get(id).unwrap().unwrap(), b.get(id).unwrap().unwrap());
        assert_eq!(
            x.read(MicroLora::to_bytes).unwrap(),
            y.read(MicroLora::to_bytes).unwrap()
        );
    }
    let bytes = a.to_bytes().unwrap();
    assert!(matches!(
        AdapterPool::from_bytes(&bytes, None),
        Err(Error::Capacity { .. })
    ));
    assert!(AdapterPool::from_bytes(&bytes[..bytes.len() - 1], spill("d")).is_err());
}
