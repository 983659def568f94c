//! Vector index at 10,000 rows: exact, int8, batched and graph search, insertion and removal.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use sona_bench::clustered_rows;
use sona_core::kernels::{TopK, scalar};
use sona_core::patterns::index::{Kind, Params, Precision, VectorIndex};
use std::hint::black_box;

const N: usize = 10_000;

fn filled(d: usize, kind: Kind, precision: Precision) -> VectorIndex {
    let params = Params {
        kind,
        precision,
        ..Params::new(d)
    };
    let ids: Vec<i64> = (0..N as i64).collect();
    let index = VectorIndex::try_new(params).and_then(|index| {
        index.add(&ids, &clustered_rows(N, d, 100, 0))?;
        Ok(index)
    });
    index.unwrap_or_else(|e| panic!("{e}"))
}

fn search(c: &mut Criterion) {
    for d in [256, 384] {
        let queries = clustered_rows(64, d, 100, 1);
        for kind in [Kind::Flat, Kind::Hnsw] {
            for precision in [Precision::Float32, Precision::Int8] {
                let index = filled(d, kind, precision);
                let name = format!("search/{kind}/{precision}/10000x{d}");
                let mut at = 0;
                c.bench_function(&name, |b| {
                    b.iter(|| {
                        at = (at + 1) % 64;
                        black_box(index.search(&queries[at * d..(at + 1) * d], 5))
                    });
                });
                if kind == Kind::Flat {
                    let mut group = c.benchmark_group("batch 64");
                    group.throughput(Throughput::Elements(64));
                    group.bench_function(&name, |b| {
                        b.iter(|| black_box(index.search_batch(queries.clone(), 5)));
                    });
                    group.finish();
                }
            }
        }
    }
}

/// The exact search in portable Rust: a product per row, then the five best.
fn scalar_search(c: &mut Criterion) {
    for d in [256, 384] {
        let (rows, queries) = (clustered_rows(N, d, 100, 0), clustered_rows(64, d, 100, 1));
        let mut at = 0;
        c.bench_function(&format!("search/flat/scalar/10000x{d}"), |b| {
            b.iter(|| {
                at = (at + 1) % 64;
                let mut top = TopK::new(5);
                for (i, row) in rows.chunks_exact(d).enumerate() {
                    top.push(scalar::dot(row, &queries[at * d..(at + 1) * d]), i);
                }
                black_box(top.into_sorted())
            });
        });
    }
}

fn change(c: &mut Criterion) {
    let d = 256;
    let rows = clustered_rows(64, d, 100, 2);
    for precision in [Precision::Float32, Precision::Int8] {
        let index = filled(d, Kind::Hnsw, precision);
        let mut next = N as i64;
        c.bench_function(&format!("insert and remove/hnsw/{precision}/10000x256"), |b| {
            b.iter_batched(
                || {
                    next += 1;
                    (next, &rows[(next as usize % 64) * d..][..d])
                },
                |(id, row)| {
                    let stored = index.add(&[id], row);
                    black_box((stored, index.remove(&[id])))
                },
                BatchSize::SmallInput,
            );
        });
    }
}

criterion_group!(benches, search, scalar_search, change);
criterion_main!(benches);
