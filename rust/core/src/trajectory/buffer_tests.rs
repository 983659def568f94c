use super::*;
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

fn buffer(capacity: usize, policy: Policy, max_bytes: Option<usize>) -> TrajectoryBuffer<u64> {
    TrajectoryBuffer::new(capacity, policy, max_bytes, 7).unwrap()
}

#[test]
fn drop_oldest_keeps_the_newest_in_order() {
    let b = buffer(4, Policy::DropOldest, None);
    for i in 0..6 {
        assert!(b.record(i, 1));
    }
    assert_eq!(b.stats().dropped, 2);
    assert!((b.success_rate() - 4.0 / 6.0).abs() < 1e-12);
    assert_eq!(b.peek(Some(2)), [2, 3]);
    // A staged (peeked) record is still the oldest: it is the next to go.
    assert!(b.record(6, 1));
    assert_eq!(b.drain(None), [3, 4, 5, 6]);
    assert!(b.is_empty());
    assert_eq!(b.stats().bytes, 0);
}

#[test]
fn the_byte_budget_holds_and_oversized_records_are_counted() {
    let b = buffer(100, Policy::DropOldest, Some(10));
    for i in 0..7 {
        assert!(b.record(i, 3));
        assert!(b.stats().bytes <= 10);
    }
    assert_eq!(b.peek(None), [4, 5, 6]);
    assert!(!b.record(99, 11));
    assert_eq!(b.stats().oversized, 1);
    let r = buffer(100, Policy::Reject, Some(10));
    assert!(r.record(1, 8) && !r.record(2, 3) && r.record(3, 2));
    assert_eq!(r.drain(None), [1, 3]);
}

#[test]
fn reservoir_is_a_uniform_sample() {
    // 400 streams of 40 into 8 places: every position is kept with probability 0.2 (3.9 sigma bound on the worst).
    let mut hits = [0u32; 40];
    for seed in 0..400 {
        let b = TrajectoryBuffer::new(8, Policy::Reservoir, None, seed).unwrap();
        for i in 0..40usize {
            b.record(i, 1);
        }
        let kept = b.drain(None);
        assert_eq!(kept.len(), 8);
        assert!(kept.is_sorted());
        assert_eq!(b.stats().dropped, 32);
        for k in kept {
            hits[k] += 1;
        }
    }
    let sigma = (400.0f64 * 0.2 * 0.8).sqrt();
    for (i, h) in hits.iter().enumerate() {
        assert!((f64::from(*h) - 80.0).abs() < 3.9 * sigma, "position {i}: {h}");
    }
}

#[test]
fn nothing_is_lost_between_concurrent_producers_and_a_consumer() {
    const PER: u64 = 30_000;
    for (policy, capacity) in [
        (Policy::DropOldest, 64),
        (Policy::Reject, 64),
        (Policy::Reservoir, 64),
        (Policy::DropOldest, 200_000),
    ] {
        let b = Arc::new(TrajectoryBuffer::new(capacity, policy, Some(capacity * 9), 1).unwrap());
        let done = Arc::new(AtomicBool::new(false));
        let mut got = Vec::new();
        std::thread::scope(|s| {
            let producers: Vec<_> = (0..3u64)
                .map(|p| {
                    let b = Arc::clone(&b);
                    s.spawn(move || {
                        for i in 0..PER {
                            b.record(p * PER + i, 8);
                        }
                    })
                })
                .collect();
            let consumer = {
                let (b, done) = (Arc::clone(&b), Arc::clone(&done));
                s.spawn(move || {
                    let mut got = Vec::new();
                    let mut turn = 0u32;
                    while !done.load(Acquire) {
                        turn += 1;
                        if turn.is_multiple_of(3) {
                            assert!(b.peek(Some(5)).len() <= 5);
                        }
                        got.extend(b.drain(Some(50)));
                        assert!(b.len() <= b.capacity());
                    }
                    got
                })
            };
            for p in producers {
                p.join().unwrap();
            }
            done.store(true, Release);
            got = consumer.join().unwrap();
        });
        got.extend(b.drain(None));
        let stats = b.stats();
        assert_eq!(stats.recorded, 3 * PER);
        assert_eq!(stats.stored, 0);
        assert_eq!(stats.bytes, 0);
        assert_eq!(stats.drained as usize, got.len());
        assert_eq!(stats.drained + stats.dropped, 3 * PER, "{policy:?}");
        let n = got.len();
        got.sort_unstable();
        got.dedup();
        assert_eq!(got.len(), n, "a record came out twice");
        if capacity > 100_000 {
            assert_eq!(stats.dropped, 0);
        }
    }
}

proptest! {
    /// Against a plain deque, any sequence of calls.
    #[test]
    fn equals_a_deque(ops in proptest::collection::vec((0u8..4, 1usize..6), 1..120), cap in 1usize..9, reject in any::<bool>()) {
        let policy = if reject { Policy::Reject } else { Policy::DropOldest };
        let b = buffer(cap, policy, Some(12));
        let mut model: VecDeque<(u64, usize)> = VecDeque::new();
        let (mut next, mut dropped) = (0u64, 0u64);
        for (op, n) in ops {
            match op {
                0 | 1 => {
                    let full = |m: &VecDeque<(u64, usize)>| m.len() == cap || m.iter().map(|e| e.1).sum::<usize>() + n > 12;
                    let want = if reject && full(&model) { dropped += 1; false } else {
                        while full(&model) { model.pop_front(); dropped += 1; }
                        model.push_back((next, n));
                        true
                    };
                    prop_assert_eq!(b.record(next, n), want);
                    next += 1;
                }
                2 => {
                    let want: Vec<u64> = model.iter().take(n).map(|e| e.0).collect();
                    prop_assert_eq!(b.peek(Some(n)), want);
                }
                _ => {
                    let want: Vec<u64> = model.drain(..n.min(model.len())).map(|e| e.0).collect();
                    prop_assert_eq!(b.drain(Some(n)), want);
                }
            }
            prop_assert_eq!(b.len(), model.len());
            prop_assert_eq!(b.stats().bytes, model.iter().map(|e| e.1).sum::<usize>());
            prop_assert_eq!(b.stats().dropped, dropped);
        }
    }
}
