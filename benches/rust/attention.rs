//! The kernels of attention, each on operands that sit where attention finds them, and one head from end to end.

#![allow(missing_docs, reason = "criterion's macros write public functions")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sona_core::attention::heads::Heads;
use sona_core::attention::rules::{Causal, Dense, Mask};
use sona_core::attention::threads;
use sona_core::attention::tile::Blocks;
use sona_core::kernels::real::{Mat, absorb, matmul, project, selective_scan, transpose};
use sona_core::kernels::split::{DEPTH, Engine, Left, Online, Piece, Products, Right, SIDE};
use sona_core::kernels::{Aligned, hamming_pairs};
use sona_core::rng::{Rng, stream};
use std::hint::black_box;

fn values(len: usize, seed: u32) -> Aligned {
    let mut x = seed | 1;
    let mut out = Aligned::zeros(len);
    for v in out.iter_mut() {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        *v = x as f32 / u32::MAX as f32 - 0.5;
    }
    out
}

fn kernels(c: &mut Criterion) {
    let mut g = c.benchmark_group("attention kernels");
    let (a, b) = (values(48 * 64, 1), values(64 * 64, 2));
    let mut out = values(48 * 256, 3);
    g.throughput(Throughput::Elements(2 * 48 * 64 * 64));
    g.bench_function("matmul, 48 queries × 64 keys, d 64", |bench| {
        bench.iter(|| {
            matmul(
                48,
                64,
                64,
                Mat::new(&a, 64),
                Mat::new(&b, 64),
                black_box(&mut out),
                256,
                false,
            );
        });
    });
    let (w, v) = (values(48 * 256, 4), values(256 * 64, 5));
    let mut sums = values(48 * 64, 6);
    g.throughput(Throughput::Elements(2 * 48 * 256 * 64));
    g.bench_function("matmul, 48 × 256 weights · values, dv 64", |bench| {
        bench.iter(|| {
            matmul(
                48,
                256,
                64,
                Mat::new(&w, 256),
                Mat::new(&v, 64),
                black_box(&mut sums),
                64,
                true,
            );
        });
    });
    let logits = values(48 * 256, 7);
    let mut work = logits.clone();
    g.throughput(Throughput::Elements(48 * 256));
    g.bench_function("online softmax, 48 × 256, with a copy", |bench| {
        let (mut top, mut sum) = (vec![f32::NEG_INFINITY; 48], vec![0.0; 48]);
        bench.iter(|| {
            work.copy_from_slice(&logits);
            absorb(black_box(&mut work), &mut top, &mut sum, &mut sums);
        });
    });
    let keys = values(256 * 64, 8);
    let mut turned = values(256 * 64, 9);
    g.throughput(Throughput::Elements(256 * 64));
    g.bench_function("transpose, 256 × 64", |bench| {
        bench.iter(|| transpose(256, 64, Mat::new(&keys, 64), black_box(&mut turned), 256));
    });
    let keys = values(2048 * 64, 10);
    let mut line = vec![0.0; 2048];
    g.throughput(Throughput::Bytes(4 * 2048 * 64));
    g.bench_function("project, 2,048 keys, d 64", |bench| {
        bench.iter(|| project(&keys, &a[..64], black_box(&mut line)));
    });
    let (steps, d, n) = (512, 128, 16);
    let (u, delta, gain, read) = (
        values(steps * d, 11),
        values(steps * d, 12),
        values(steps * n, 13),
        values(steps * n, 14),
    );
    let decay: Vec<f32> = values(n * d, 15).iter().map(|x| x - 1.0).collect();
    let delta: Vec<f32> = delta.iter().map(|x| x.abs()).collect();
    let (mut state, mut y) = (vec![0.0; n * d], vec![0.0; steps * d]);
    g.throughput(Throughput::Elements((steps * d * n) as u64));
    g.bench_function("selective scan, L 512, d 128, N 16", |bench| {
        bench.iter(|| {
            selective_scan(
                d,
                n,
                &u,
                &delta,
                &decay,
                &gain,
                &read,
                &mut state,
                black_box(&mut y),
            );
        });
    });
    g.finish();
}

/// What 64 queries do with 256 keys by tiles: the products alone, the softmax alone, and both by turns.
fn tiles(c: &mut Criterion) {
    const QUERIES: usize = 64;
    const KEYS: usize = 256;
    let Some(engine) = Engine::start::<f32>() else {
        return;
    };
    let mut g = c.benchmark_group("attention by tiles, 64 queries × 256 keys, d 64");
    let (mut queries, mut weights, mut next) = (Left::default(), Left::default(), Left::default());
    let (k, v) = (values(KEYS * 64, 2), values(KEYS * 64, 3));
    let (Some(keys), Some(of), true) = (
        Right::turned(&k[..], 64),
        Right::upright(&v[..], 64),
        queries.fill(&values(QUERIES * 64, 1), 64),
    ) else {
        return;
    };
    let (mut logits, ready) = (values(QUERIES * KEYS, 4), values(QUERIES * KEYS, 5));
    let mut sums = values(QUERIES * 64, 6);
    let (mut top, mut sum, mut fade) = ([0.0; QUERIES], [0.0; QUERIES], [1.0; QUERIES]);
    macro_rules! step {
        () => {
            Online {
                logits: &ready[..],
                width: KEYS,
                top: &mut top,
                sum: &mut sum,
                fade: &mut fade,
            }
        };
    }
    weights.absorb(step!());
    let piece = |depth, columns, add| Piece {
        of: 0..depth,
        columns: 0..columns,
        groups: 0..depth,
        at: 0,
        add,
    };
    macro_rules! products {
        () => {{
            let mut x = Products::default();
            let (first, second) = (piece(2, KEYS / SIDE, false), piece(KEYS / DEPTH, 4, true));
            x.push(
                keys.view(),
                queries.view(),
                std::iter::once(first),
                &mut logits,
                KEYS,
            );
            x.push(of.view(), weights.view(), std::iter::once(second), &mut sums, 64);
            x
        }};
    }
    g.bench_function("softmax", |bench| {
        bench.iter(|| black_box(&mut next).absorb(step!()));
    });
    g.bench_function("products", |bench| bench.iter(|| products!().run(&engine)));
    g.bench_function("products and softmax", |bench| {
        bench.iter(|| products!().run_beside(&engine, black_box(&mut next), step!()));
    });
    g.finish();
}

/// Differing bits of pairs of rows of 10,000 bits. With `SONA_SIMD=avx512` in registers where tiles are else.
fn pairs(c: &mut Criterion) {
    const WORDS: usize = 160;
    let mut g = c.benchmark_group("differing bits of pairs, 10,000 bits");
    for (n, m) in [(20usize, 32usize), (32, 32), (96, 96), (100, 100)] {
        let words = |n: usize, seed: u64| -> Vec<u64> {
            let mut r = stream(seed, 0);
            (0..n * WORDS).map(|_| r.next_u64()).collect()
        };
        let (a, b, mut out) = (words(n, 1), words(m, 2), vec![0; n * m]);
        g.throughput(Throughput::Elements((n * m) as u64));
        g.bench_function(format!("{n} × {m}"), |bench| {
            bench.iter(|| hamming_pairs(&a, &b, WORDS, black_box(&mut out)));
        });
    }
    g.finish();
}

fn heads(c: &mut Criterion) {
    threads::set(1);
    let mut g = c.benchmark_group("attention, one head, d 64");
    for n in [100usize, 512, 2048] {
        let (q, k, v) = (values(n * 64, 1), values(n * 64, 2), values(n * 64, 3));
        let mut out = vec![0.0f32; n * 64];
        let heads = Heads {
            q: &q[..],
            k: &k[..],
            v: &v[..],
            n,
            m: n,
            d: 64,
            dv: 64,
            scale: 0.125,
            q_of: &[0],
            k_of: &[0],
            v_of: &[0],
        };
        let rule = |_| Dense {
            n,
            m: n,
            causal: Causal::No,
            mask: Mask::None,
        };
        g.throughput(Throughput::Elements((4 * n * n * 64) as u64));
        g.bench_function(format!("n {n}"), |bench| {
            bench.iter(|| {
                heads.attend(
                    rule,
                    Blocks::default(),
                    128,
                    heads.cost(),
                    black_box(&mut out),
                    None,
                )
            });
        });
    }
    g.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(30);
    targets = kernels, tiles, pairs, heads
}
criterion_main!(benches);
