use super::*;
use crate::engine::event::Event;

fn event(n: i64) -> Event {
    Event::Item {
        scope: "s".into(),
        id: n.into(),
        vector: vec![n as f32],
    }
}

fn ids(history: History) -> Vec<(u32, u64)> {
    history
        .map(|s| s.map(|s| (s.worker, s.stamped.lamport)).unwrap())
        .collect()
}

#[test]
fn two_writers_are_merged_in_logical_order_and_follow_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = Journal::open(dir.path(), Fsync::None).unwrap();
    let mut b = Journal::open(dir.path(), Fsync::None).unwrap();
    assert_ne!(a.worker(), b.worker());
    assert_eq!(a.append(event(1)).unwrap(), 1);
    assert_eq!(b.poll().unwrap().len(), 1);
    assert_eq!(b.append(event(2)).unwrap(), 2);
    assert_eq!(b.append(event(3)).unwrap(), 3);
    assert_eq!(a.poll().unwrap().len(), 2);
    assert_eq!(a.poll().unwrap().len(), 0);
    assert_eq!(a.append(event(4)).unwrap(), 4);
    let merged = ids(a.history(&Positions::new()).unwrap());
    assert_eq!(merged.iter().map(|m| m.1).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let tail = ids(a
        .history(&Positions::from([(a.worker(), 1), (b.worker(), 2)]))
        .unwrap());
    assert_eq!(tail, [(a.worker(), 4)]);
    assert_eq!(a.positions(), Positions::from([(a.worker(), 2), (b.worker(), 2)]));
}

#[test]
fn an_ended_writer_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = Journal::open(dir.path(), Fsync::None).unwrap();
    a.append(event(1)).unwrap();
    a.close().unwrap();
    let b = Journal::open(dir.path(), Fsync::None).unwrap();
    assert_eq!(b.worker(), a.worker());
    assert_eq!(ids(b.history(&Positions::new()).unwrap()).len(), 1);
}

#[test]
fn rewriting_drops_for_good_and_names_living_writers() {
    let dir = tempfile::tempdir().unwrap();
    let mut a = Journal::open(dir.path(), Fsync::None).unwrap();
    let b = Journal::open(dir.path(), Fsync::None).unwrap();
    for n in 0..5 {
        a.append(event(n)).unwrap();
    }
    let (dropped, alive) = a.rewrite(|s| s.stamped.lamport != 3).unwrap();
    assert_eq!((dropped, alive), (1, vec![b.worker()]));
    assert_eq!(
        ids(a.history(&Positions::new()).unwrap())
            .iter()
            .map(|m| m.1)
            .collect::<Vec<_>>(),
        [1, 2, 4, 5]
    );
    a.append(event(9)).unwrap();
    a.close().unwrap();
    let again = Journal::open(dir.path(), Fsync::None).unwrap();
    assert_eq!(ids(again.history(&Positions::new()).unwrap()).len(), 5);
}

#[test]
fn memory_journal_keeps_to_its_budget() {
    let mut j = Journal::memory(200);
    for n in 0..100 {
        j.append(event(n)).unwrap();
    }
    let (bytes, dropped, _) = j.sizes();
    assert!(bytes <= 200 && dropped > 50, "{bytes} {dropped}");
    assert_eq!(j.next_seq(), 100);
    assert_eq!(
        j.history(&Positions::new()).unwrap().count() as u64,
        100 - dropped
    );
}
