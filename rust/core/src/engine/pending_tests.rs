use super::*;

fn record(counter: u64, d: usize) -> Arc<DecisionRecord> {
    let event = DecisionEvent {
        id: DecisionId::new(0, counter),
        scope: "s".into(),
        query: vec![0.0; d],
        items: vec![],
        base: None,
        shown: vec![],
        propensities: vec![],
        version: 0,
        acted: true,
        user: "".into(),
        now: 0.0,
    };
    Arc::new(DecisionRecord::new(event, vec![], false))
}

#[test]
fn oldest_go_first_and_the_newest_stays() {
    let mut p = Pending::new(3, usize::MAX);
    (0..5).for_each(|i| p.insert(record(i, 4)));
    assert_eq!((p.len(), p.evicted(), p.censored(1.0)), (3, 2, 2));
    assert!(p.get(DecisionId::new(0, 1)).is_none() && p.get(DecisionId::new(0, 4)).is_some());
    let mut p = Pending::new(10, 1);
    p.insert(record(0, 1000));
    p.insert(record(1, 1000));
    assert_eq!(p.len(), 1);
    assert_eq!(p.nbytes(), record(1, 1000).nbytes());
    p.retain(|_| false);
    assert_eq!((p.len(), p.nbytes(), p.iter().count()), (0, 0, 0));
}

#[test]
fn a_ranking_is_kept_for_its_own_state_and_while_there_is_room() {
    use super::super::config::EngineConfig;
    use super::super::listing::Listing;
    let state = || Arc::new(Learned::new(&EngineConfig::new(4)).unwrap());
    let (live, other) = (state(), state());
    let warm = |counter| {
        let nothing = Listing::new(&[]);
        let ranking = live.score(&[1.0; 4], &nothing.candidates().unwrap(), None);
        let cold = Arc::into_inner(record(counter, 4)).unwrap();
        Arc::new(cold.with_ranking(&live, ranking.unwrap()))
    };
    assert!(warm(0).known(&other).ranking.is_none());
    let r = warm(0);
    assert!(r.known(&live).ranking.is_some() && r.known(&live).ranking.is_none());
    let mut p = Pending::new(1000, usize::MAX);
    (0..100).for_each(|i| p.insert(warm(i)));
    let kept = |p: &Pending| p.iter().filter(|r| r.ranking_bytes() > 0).count();
    assert_eq!((kept(&p), p.rankings.order.len()), (RANKINGS.0, RANKINGS.0));
    p.retain(|_| true);
    assert_eq!((kept(&p), p.rankings.nbytes, p.len()), (0, 0, 100));
}

#[test]
fn journaling_is_claimed_once() {
    let r = record(0, 1);
    assert!(r.claim_journaling());
    assert!(!r.claim_journaling());
    r.unclaim_journaling();
    assert!(r.claim_journaling());
}
