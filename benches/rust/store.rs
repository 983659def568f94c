//! Durable state: appends by policy and size, replay, snapshots, embedded database.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sona_core::store::{EmbeddedStore, EventLog, Fsync, SnapshotStore};
use std::hint::black_box;
use std::path::PathBuf;

/// A directory under `target`: there it is on a disk, where the system's temporary directory may be memory.
fn directory(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../target/bench-store")
        .join(name);
    let _not_there = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("{e}"));
    dir
}

fn log(name: &str, fsync: Fsync) -> EventLog {
    EventLog::open(directory(name).join("log"), fsync).unwrap_or_else(|e| panic!("{e}"))
}

fn append(c: &mut Criterion) {
    for (policy, fsync) in [
        ("none", Fsync::None),
        ("group", Fsync::default()),
        ("always", Fsync::Always),
    ] {
        for size in [100, 1024, 8192] {
            let log = log("append", fsync);
            let payload = vec![7u8; size];
            let mut group = c.benchmark_group("append");
            group.throughput(Throughput::Bytes(size as u64)).sample_size(20);
            group.bench_function(format!("{policy}/{size} B"), |b| {
                b.iter(|| black_box(log.append(&payload)));
            });
            group.finish();
        }
    }
    let log = log("append", Fsync::None);
    let batch = vec![vec![7u8; 100]; 100];
    c.bench_function("append_many/100 x 100 B", |b| {
        b.iter(|| black_box(log.append_many(&batch)))
    });
}

fn replay(c: &mut Criterion) {
    let log = log("replay", Fsync::None);
    for _ in 0..100 {
        log.append_many(&vec![[7u8; 1024]; 100])
            .unwrap_or_else(|e| panic!("{e}"));
    }
    let mut group = c.benchmark_group("replay");
    group.throughput(Throughput::Bytes(log.nbytes())).sample_size(20);
    group.bench_function("10,000 x 1 KiB", |b| {
        b.iter(|| log.replay(0).map(|r| r.filter(Result::is_ok).count()));
    });
    group.finish();
}

fn snapshot(c: &mut Criterion) {
    let store = SnapshotStore::open(directory("snapshot")).unwrap_or_else(|e| panic!("{e}"));
    let state = vec![7u8; 1 << 20];
    let mut group = c.benchmark_group("snapshot 1 MiB");
    group.throughput(Throughput::Bytes(1 << 20)).sample_size(10);
    group.bench_function("save", |b| b.iter(|| black_box(store.save(&state, 1))));
    group.bench_function("load", |b| b.iter(|| black_box(store.load(1))));
    group.finish();
}

fn embedded(c: &mut Criterion) {
    let path = directory("embedded").join("db");
    let store = EmbeddedStore::open(path).unwrap_or_else(|e| panic!("{e}"));
    let pairs: Vec<_> = (0..1000).map(|i| (format!("key {i:04}"), [7u8; 100])).collect();
    store.put_many("scope", &pairs).unwrap_or_else(|e| panic!("{e}"));
    let mut group = c.benchmark_group("embedded");
    group.sample_size(10);
    group.bench_function("get", |b| b.iter(|| black_box(store.get("scope", "key 0500"))));
    group.bench_function("put", |b| {
        b.iter(|| black_box(store.put("scope", "key 0500", &[8; 100])))
    });
    group.bench_function("scan 1000", |b| b.iter(|| black_box(store.scan("scope"))));
    group.finish();
}

criterion_group!(benches, append, replay, snapshot, embedded);
criterion_main!(benches);
