//! The embedded database against a map, and against damaged files.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use sona_core::Error;
use sona_core::store::EmbeddedStore;
use std::collections::BTreeMap;
use std::fs;

#[derive(Debug, Clone)]
enum Op {
    Put(String, String, Vec<u8>),
    Delete(String, String),
    Reopen,
}

fn op() -> impl Strategy<Value = Op> {
    let scope = || "[ab]{1,2}|ü";
    let key = || "[a-c]{1,2}|\u{1F642}";
    prop_oneof![
        4 => (scope(), key(), prop::collection::vec(any::<u8>(), 0..40)).prop_map(|(s, k, v)| Op::Put(s, k, v)),
        2 => (scope(), key()).prop_map(|(s, k)| Op::Delete(s, k)),
        1 => Just(Op::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn behaves_as_a_map(ops in prop::collection::vec(op(), 1..30)) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let mut store = EmbeddedStore::open(&path).unwrap();
        let mut model = BTreeMap::new();
        for op in ops {
            match op {
                Op::Put(s, k, v) => {
                    store.put(&s, &k, &v).unwrap();
                    model.insert((s, k), v);
                }
                Op::Delete(s, k) => {
                    let there = store.delete(&s, &k).unwrap();
                    prop_assert_eq!(there, model.remove(&(s, k)).is_some());
                }
                Op::Reopen => {
                    drop(store);
                    store = EmbeddedStore::open(&path).unwrap();
                }
            }
        }
        for scope in ["a", "b", "aa", "ab", "ba", "bb", "ü", "zz"] {
            let expected: Vec<_> = model
                .iter()
                .filter(|((s, _), _)| s == scope)
                .map(|((_, k), v)| (k.clone(), v.clone()))
                .collect();
            prop_assert_eq!(store.scan(scope).unwrap(), expected.clone());
            for (k, v) in expected {
                prop_assert_eq!(store.get(scope, &k).unwrap(), Some(v));
            }
            prop_assert_eq!(store.get(scope, "none").unwrap(), None);
        }
    }
}

#[test]
fn keys_are_checked_and_a_closed_store_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let store = EmbeddedStore::open(&path).unwrap();
    assert!(matches!(store.put("", "k", b""), Err(Error::Value { .. })));
    assert!(matches!(store.get("s", "a\0b"), Err(Error::Value { .. })));
    let long = "x".repeat(1025);
    assert!(matches!(store.scan(&long), Err(Error::Capacity { .. })));
    store.put_many("s", &[("a", "1"), ("b", "2")]).unwrap();
    assert!(store.put_many("s", &[("c", "3"), ("", "4")]).is_err());
    assert_eq!(store.scan("s").unwrap().len(), 2, "all or nothing");
    assert!(matches!(EmbeddedStore::open(&path), Err(Error::Store { .. })));
    store.close();
    assert!(store.is_closed());
    assert!(matches!(store.get("s", "a"), Err(Error::Value { .. })));
    assert_eq!(
        EmbeddedStore::open(&path).unwrap().get("s", "a").unwrap(),
        Some(b"1".to_vec())
    );
}

#[test]
fn files_of_somebody_else_are_refused_untouched() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let text = b"SQLite format 3\0".repeat(2000);
    fs::write(&path, &text).unwrap();
    assert!(matches!(EmbeddedStore::open(&path), Err(Error::Corrupt { .. })));
    assert_eq!(fs::read(&path).unwrap(), text);
    let table: redb::TableDefinition<'_, u64, u64> = redb::TableDefinition::new("theirs");
    let other = dir.path().join("other");
    {
        let db = redb::Database::create(&other).unwrap();
        let tx = db.begin_write().unwrap();
        tx.open_table(table).unwrap().insert(1, 2).unwrap();
        tx.commit().unwrap();
    }
    assert!(matches!(EmbeddedStore::open(&other), Err(Error::Corrupt { .. })));
    assert!(EmbeddedStore::open(dir.path()).is_err());
}

#[test]
fn a_damaged_file_never_panics_or_makes_up_a_pair() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let store = EmbeddedStore::open(&path).unwrap();
    for i in 0..50u8 {
        store.put("scope", &format!("key {i}"), &[i; 100]).unwrap();
    }
    let whole = store.scan("scope").unwrap();
    drop(store);
    let good = fs::read(&path).unwrap();
    let used = good.iter().rposition(|b| *b != 0).unwrap();
    let mut read_whole = 0;
    for i in 0..600 {
        let mut b = good.clone();
        match i % 3 {
            0 => b.truncate(i * good.len() / 600),
            1 => b[i * 320 / 600] ^= 1 << (i % 8),
            _ => b[(i * 7919) % used] ^= 1 << (i % 8),
        }
        fs::write(&path, &b).unwrap();
        // A flip outside the live pages changes nothing; one inside never makes up a pair.
        if let Ok(pairs) = EmbeddedStore::open(&path).and_then(|s| s.scan("scope")) {
            assert!(pairs.iter().all(|p| whole.contains(p)), "{i}");
            read_whole += usize::from(pairs == whole);
        }
    }
    assert!(read_whole > 0);
}
