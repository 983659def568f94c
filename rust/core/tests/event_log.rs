//! The event log against a list: truncations, flips, threads, checkpoints, tailing.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use sona_core::Error;
use sona_core::store::{EventLog, EventLogReader, Fsync};
use std::fs;
use std::path::Path;
use std::time::Duration;

const HEADER: usize = 28;

fn records(log: &EventLog, from: u64) -> Vec<(u64, Vec<u8>)> {
    log.replay(from).unwrap().map(Result::unwrap).collect()
}

fn sample() -> Vec<Vec<u8>> {
    vec![
        b"first".to_vec(),
        vec![],
        vec![0; 40],
        b"x".to_vec(),
        (0..=255).collect(),
        vec![],
    ]
}

fn write(path: &Path, payloads: &[Vec<u8>]) {
    let log = EventLog::open(path, Fsync::None).unwrap();
    for p in payloads {
        log.append(p).unwrap();
    }
}

/// Ends of the header and of each record.
fn ends(payloads: &[Vec<u8>]) -> Vec<usize> {
    let mut at = HEADER;
    let mut out = vec![at];
    for p in payloads {
        at += 16 + p.len();
        out.push(at);
    }
    out
}

#[test]
fn every_truncation_recovers_the_longest_prefix() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let payloads = sample();
    write(&path, &payloads);
    let bytes = fs::read(&path).unwrap();
    let ends = ends(&payloads);
    assert_eq!(*ends.last().unwrap(), bytes.len());
    for cut in 0..=bytes.len() {
        fs::write(&path, &bytes[..cut]).unwrap();
        let log = EventLog::open(&path, Fsync::None).unwrap();
        let whole = ends.iter().filter(|e| **e <= cut).count();
        let (kept, valid) = if whole == 0 {
            (0, 0)
        } else {
            (whole - 1, ends[whole - 1])
        };
        let got: Vec<_> = records(&log, 0).into_iter().map(|r| r.1).collect();
        assert_eq!(got, payloads[..kept], "cut at {cut}");
        assert_eq!(log.truncated_bytes() as usize, cut - valid);
        assert_eq!(log.append(b"more").unwrap(), kept as u64);
        drop(log);
        let log = EventLog::open(&path, Fsync::None).unwrap();
        assert_eq!(log.truncated_bytes(), 0);
        assert_eq!(records(&log, kept as u64), [(kept as u64, b"more".to_vec())]);
    }
}

#[test]
fn every_bit_flip_recovers_the_records_before_it_or_refuses_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let payloads = sample();
    write(&path, &payloads);
    let bytes = fs::read(&path).unwrap();
    let ends = ends(&payloads);
    for bit in 0..bytes.len() * 8 {
        let mut b = bytes.clone();
        b[bit / 8] ^= 1 << (bit % 8);
        fs::write(&path, &b).unwrap();
        let opened = EventLog::open(&path, Fsync::None);
        if bit / 8 < HEADER {
            assert!(matches!(opened, Err(Error::Corrupt { .. })), "bit {bit}");
            assert_eq!(fs::read(&path).unwrap(), b, "a refused file was touched");
            continue;
        }
        let kept = ends.iter().filter(|e| **e <= bit / 8).count() - 1;
        let got: Vec<_> = records(&opened.unwrap(), 0).into_iter().map(|r| r.1).collect();
        assert_eq!(got, payloads[..kept], "bit {bit}");
    }
}

#[test]
fn foreign_newer_and_lying_files_are_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    write(&path, &sample());
    let good = fs::read(&path).unwrap();
    let sealed = |mut h: Vec<u8>| {
        let sum = crc32fast::hash(&h[..24]);
        h[24..28].copy_from_slice(&sum.to_le_bytes());
        h
    };
    let mut newer = good.clone();
    newer[8] = 2;
    let mut huge = good.clone();
    huge[16..24].copy_from_slice(&u64::MAX.to_le_bytes());
    for bytes in [
        b"SQLite format 3\0 and so on".to_vec(),
        b"short".to_vec(),
        sealed(newer),
        sealed(huge),
    ] {
        fs::write(&path, &bytes).unwrap();
        assert!(matches!(
            EventLog::open(&path, Fsync::None),
            Err(Error::Corrupt { .. })
        ));
        assert!(EventLogReader::open(&path, 0).is_err());
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
    // A length beyond the file, and beyond any sense, allocates nothing and ends the log.
    for len in [u32::MAX, 1 << 28, 300] {
        let mut b = good[..HEADER].to_vec();
        b.extend_from_slice(&len.to_le_bytes());
        b.extend_from_slice(&[0; 40]);
        fs::write(&path, &b).unwrap();
        let log = EventLog::open(&path, Fsync::None).unwrap();
        assert_eq!((log.next_seq(), log.truncated_bytes()), (0, 44));
    }
    assert!(EventLog::open(dir.path(), Fsync::None).is_err());
    assert!(EventLog::open(dir.path().join("no/such"), Fsync::None).is_err());
}

#[test]
fn checkpoint_drops_the_old_and_numbers_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = EventLog::open(&path, Fsync::default()).unwrap();
    let mut reader = EventLogReader::open(&path, 0).unwrap();
    let mut late = EventLogReader::open(&path, 2).unwrap();
    for i in 0..10u8 {
        log.append(&[i]).unwrap();
    }
    assert_eq!(reader.poll(usize::MAX).unwrap().len(), 10);
    assert!(matches!(log.checkpoint(11), Err(Error::Value { .. })));
    log.checkpoint(6).unwrap();
    assert_eq!(log.nbytes(), fs::metadata(&path).unwrap().len());
    assert_eq!(log.append(b"ten").unwrap(), 10);
    assert_eq!(records(&log, 0).first().unwrap(), &(6, vec![6]));
    assert_eq!(reader.poll(usize::MAX).unwrap(), [(10, b"ten".to_vec())]);
    assert_eq!(late.poll(usize::MAX).unwrap().len(), 5);
    assert_eq!((reader.missed(), late.missed()), (0, 4));
    log.checkpoint(11).unwrap();
    assert_eq!(records(&log, 0), []);
    log.close().unwrap();
    assert!(matches!(log.append(b""), Err(Error::Value { .. })));
    let log = EventLog::open(&path, Fsync::Always).unwrap();
    assert_eq!((log.first_seq(), log.append(b"a").unwrap()), (11, 11));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "log and lock");
}

#[test]
fn a_second_writer_is_refused_until_the_first_closes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = EventLog::open(&path, Fsync::default()).unwrap();
    let roundabout = dir
        .path()
        .join("..")
        .join(dir.path().file_name().unwrap())
        .join("log");
    assert!(matches!(
        EventLog::open(roundabout, Fsync::default()),
        Err(Error::Store { .. })
    ));
    log.append(b"kept").unwrap();
    log.close().unwrap();
    assert_eq!(
        records(&EventLog::open(&path, Fsync::default()).unwrap(), 0).len(),
        1
    );
}

#[test]
fn threads_append_while_a_reader_follows() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let log = EventLog::open(&path, Fsync::Group(Duration::from_millis(5))).unwrap();
    let (writers, each) = (8u32, 300u32);
    let seen = std::thread::scope(|s| {
        let appended: Vec<_> = (0..writers)
            .map(|w| {
                let log = &log;
                s.spawn(move || {
                    (0..each)
                        .map(|i| {
                            let payload = [w.to_le_bytes(), i.to_le_bytes()].concat();
                            (log.append(&payload).unwrap(), payload)
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let follower = s.spawn(|| {
            let mut reader = EventLogReader::open(&path, 0).unwrap();
            let mut seen = Vec::new();
            while seen.len() < (writers * each) as usize {
                seen.extend(reader.poll(1000).unwrap());
            }
            seen
        });
        let mut all: Vec<_> = appended.into_iter().flat_map(|t| t.join().unwrap()).collect();
        all.sort();
        assert_eq!(all, records(&log, 0));
        (all, follower.join().unwrap())
    });
    assert_eq!(seen.0, seen.1);
    assert!(seen.0.iter().enumerate().all(|(i, r)| r.0 == i as u64));
}

#[test]
fn the_flusher_syncs_an_idle_log() {
    let dir = tempfile::tempdir().unwrap();
    let log = EventLog::open(dir.path().join("log"), Fsync::Group(Duration::from_millis(1))).unwrap();
    let syncs = || log.metrics().into_iter().find(|m| m.0 == "syncs").unwrap().1;
    for round in 1..4u64 {
        log.append(b"x").unwrap();
        while syncs() != round.into() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[derive(Debug, Clone)]
enum Op {
    Append(Vec<u8>),
    Batch(Vec<Vec<u8>>),
    Checkpoint(prop::sample::Index),
    Empty(u8),
    Reopen(Fsync),
    Flush,
}

fn op() -> impl Strategy<Value = Op> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..60);
    prop_oneof![
        4 => bytes().prop_map(Op::Append),
        2 => prop::collection::vec(bytes(), 0..5).prop_map(Op::Batch),
        1 => any::<prop::sample::Index>().prop_map(Op::Checkpoint),
        1 => (2..5u8).prop_map(Op::Empty),
        1 => prop_oneof![Just(Fsync::None), Just(Fsync::Always), Just(Fsync::default())].prop_map(Op::Reopen),
        1 => Just(Op::Flush),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn behaves_as_a_list(ops in prop::collection::vec(op(), 1..40)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = EventLog::open(&path, Fsync::None).unwrap();
        let mut reader = EventLogReader::open(&path, 0).unwrap();
        let mut model: Vec<Vec<u8>> = Vec::new();
        let (mut first, mut read) = (0u64, 0u64);
        for op in ops {
            match op {
                Op::Append(p) => {
                    prop_assert_eq!(log.append(&p).unwrap(), model.len() as u64);
                    model.push(p);
                }
                Op::Batch(ps) => {
                    let seqs = log.append_many(&ps).unwrap();
                    prop_assert_eq!(seqs, model.len() as u64..(model.len() + ps.len()) as u64);
                    model.extend(ps);
                }
                Op::Checkpoint(i) => {
                    let seq = i.index(model.len() + 1) as u64;
                    log.checkpoint(seq).unwrap();
                    first = first.max(seq);
                }
                Op::Empty(every) => {
                    let refused = |seq: u64| seq.is_multiple_of(u64::from(every));
                    let mut asked = Vec::new();
                    let emptied = log.rewrite(|seq, payload| {
                        asked.push((seq, payload.to_vec()));
                        Ok(!refused(seq))
                    });
                    let full = |(_, p): &(u64, &mut Vec<u8>)| !p.is_empty();
                    let mut expected = Vec::new();
                    for (seq, p) in (0..).zip(&mut model).skip(first as usize).filter(full) {
                        expected.push((seq, p.clone()));
                        if refused(seq) {
                            p.clear();
                        }
                    }
                    prop_assert_eq!(emptied.unwrap() as usize, expected.iter().filter(|e| refused(e.0)).count());
                    prop_assert_eq!(asked, expected);
                }
                Op::Reopen(fsync) => {
                    drop(log);
                    log = EventLog::open(&path, fsync).unwrap();
                    prop_assert_eq!(log.truncated_bytes(), 0);
                }
                Op::Flush => log.flush().unwrap(),
            }
            let expected: Vec<_> =
                (first..).zip(model[first as usize..].iter().cloned()).collect();
            prop_assert_eq!(records(&log, 0), expected.clone());
            read = read.max(first);
            prop_assert_eq!(reader.poll(usize::MAX).unwrap(), &expected[(read - first) as usize..]);
            read = model.len() as u64;
            prop_assert_eq!((log.first_seq(), log.next_seq()), (first, model.len() as u64));
        }
    }
}
