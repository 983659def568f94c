//! The index against a model: a map of vectors and float64 arithmetic.

use super::*;
use crate::codec;
use crate::rng::{self, RngExt};
use proptest::prelude::*;
use std::collections::BTreeMap;

pub(super) fn params(dim: usize, kind: Kind, metric: Metric, precision: Precision) -> Params {
    Params {
        kind,
        metric,
        precision,
        ..Params::new(dim)
    }
}

pub(super) fn index(p: Params) -> VectorIndex {
    VectorIndex::try_new(p).unwrap()
}

/// `n` points around `n / 20 + 1` centres.
pub(super) fn clustered(n: usize, d: usize, seed: u64) -> Vec<f32> {
    let mut centre = rng::stream(99, 0);
    let centres: Vec<f32> = (0..(n / 20 + 1) * d)
        .map(|_| rng::normal(&mut centre) as f32)
        .collect();
    let mut noise = rng::stream(seed, 1);
    (0..n)
        .flat_map(|i| (0..d).map(move |j| (i, j)))
        .map(|(i, j)| centres[i % (n / 20 + 1) * d + j] + 0.4 * rng::normal(&mut noise) as f32)
        .collect()
}

fn true_score(metric: Metric, a: &[f32], b: &[f32]) -> f64 {
    let dot =
        |x: &[f32], y: &[f32]| -> f64 { x.iter().zip(y).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum() };
    match metric {
        Metric::Dot => dot(a, b),
        Metric::Euclidean => -a
            .iter()
            .zip(b)
            .map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2))
            .sum::<f64>(),
        Metric::Cosine => {
            let length = (dot(a, a) * dot(b, b)).sqrt();
            if length > 0.0 { dot(a, b) / length } else { 0.0 }
        }
    }
}

pub(super) fn all_graphs() -> impl Iterator<Item = Params> {
    let metrics = [Metric::Cosine, Metric::Dot, Metric::Euclidean];
    let both = [Precision::Float32, Precision::Int8];
    metrics
        .into_iter()
        .flat_map(move |m| both.map(|p| params(24, Kind::Hnsw, m, p)))
}

/// Every structural promise of the graph, checked the slow way. Returns the share of nodes reached from the entry.
pub(super) fn check_graph(index: &VectorIndex) -> f64 {
    let state = index.state.read();
    let Some(graph) = &state.graph else { return 1.0 };
    let n = graph.len();
    assert_eq!(state.rows.position.len(), state.rows.len());
    for (p, id) in state.rows.ids.iter().enumerate() {
        assert_eq!(state.rows.position[id], p as u32);
    }
    assert_eq!(graph.entry.is_some(), n > 0);
    let Some(entry) = graph.entry else { return 1.0 };
    for level in 0..=graph.level(entry) {
        let mut incoming = vec![Vec::new(); n];
        for u in (0..n as u32).filter(|&u| graph.level(u) >= level) {
            assert!(graph.level(u) <= graph.level(entry));
            let links = graph.links(level, u);
            assert!(links.len() <= graph::capacity(level));
            for &v in links {
                assert!(v != u && graph.level(v) >= level);
                assert!(!incoming[v as usize].contains(&u), "a link occurs twice");
                incoming[v as usize].push(u);
            }
        }
        for v in (0..n as u32).filter(|&v| graph.level(v) >= level) {
            assert_eq!(graph.incoming(level, v), incoming[v as usize]);
            assert_eq!(graph.is_orphan(level, v), incoming[v as usize].is_empty());
        }
    }
    let (mut seen, mut todo) = (vec![false; n], vec![entry]);
    while let Some(u) = todo.pop() {
        if !std::mem::replace(&mut seen[u as usize], true) {
            todo.extend_from_slice(graph.links(0, u));
        }
    }
    seen.iter().filter(|s| **s).count() as f64 / n as f64
}

#[derive(Debug, Clone)]
enum Step {
    Add(Vec<(i64, Vec<i8>)>),
    Remove(Vec<i64>),
    Search(Vec<i8>, usize),
}

fn step() -> impl Strategy<Value = Step> {
    // Few ids and few distinct values: updates, duplicates and exact ties happen all the time.
    let vector = || prop::collection::vec(-2i8..3, 3);
    let id = || prop_oneof![0i64..30, Just(i64::MIN), Just(i64::MAX)];
    prop_oneof![
        prop::collection::vec((id(), vector()), 0..12).prop_map(Step::Add),
        prop::collection::vec(id(), 0..6).prop_map(Step::Remove),
        (vector(), 1usize..9).prop_map(|(q, k)| Step::Search(q, k)),
    ]
}

fn floats(v: &[i8]) -> Vec<f32> {
    v.iter().map(|x| f32::from(*x)).collect()
}

proptest! {
    #[test]
    fn any_history_equals_a_map(
        steps in prop::collection::vec(step(), 1..40),
        metric in prop_oneof![Just(Metric::Cosine), Just(Metric::Dot), Just(Metric::Euclidean)],
        precision in prop_oneof![Just(Precision::Float32), Just(Precision::Int8)],
        kind in prop_oneof![Just(Kind::Auto), Just(Kind::Flat), Just(Kind::Hnsw)],
    ) {
        let index = index(params(3, kind, metric, precision));
        let mut model: BTreeMap<i64, Vec<f32>> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Add(rows) => {
                    let ids: Vec<i64> = rows.iter().map(|r| r.0).collect();
                    let flat: Vec<f32> = rows.iter().flat_map(|r| floats(&r.1)).collect();
                    index.add(&ids, &flat).unwrap();
                    model.extend(rows.iter().map(|(id, v)| (*id, floats(v))));
                }
                Step::Remove(ids) => {
                    let before = model.len();
                    model.retain(|id, _| !ids.contains(id));
                    prop_assert_eq!(index.remove(&ids), before - model.len());
                }
                Step::Search(q, k) => {
                    let q = floats(&q);
                    let hits = index.search(&q, k).unwrap();
                    let scores: BTreeMap<i64, f64> =
                        model.iter().map(|(id, v)| (*id, true_score(metric, &q, v))).collect();
                    prop_assert_eq!(hits.len(), k.min(model.len()));
                    let mut want: Vec<f64> = scores.values().copied().collect();
                    want.sort_by(|a, b| b.total_cmp(a));
                    for (hit, want) in hits.iter().zip(&want) {
                        prop_assert!((f64::from(hit.score) - want).abs() < 1e-5);
                        prop_assert!((scores[&hit.id] - want).abs() < 1e-5);
                    }
                    prop_assert!(hits.windows(2).all(|w| flat::by_rank(&w[0], &w[1]).is_lt()));
                    // Of equal rows the lower ids are returned.
                    for hit in &hits {
                        let twins = model.iter().filter(|(_, v)| **v == model[&hit.id]);
                        let skipped = twins.filter(|(id, _)| **id < hit.id && !hits.iter().any(|h| h.id == **id));
                        prop_assert_eq!(skipped.count(), 0);
                    }
                }
            }
            prop_assert_eq!(index.len(), model.len());
            check_graph(&index);
        }
    }

    #[test]
    fn batches_equal_single_searches(seed in 0u64..1000, kind in prop_oneof![Just(Kind::Flat), Just(Kind::Hnsw)]) {
        let d = 12;
        for metric in [Metric::Cosine, Metric::Dot, Metric::Euclidean] {
            let index = index(params(d, kind, metric, Precision::Float32));
            let mut rows = clustered(150, d, seed);
            let twin = rows[..d].to_vec();
            rows[5 * d..6 * d].copy_from_slice(&twin);
            index.add(&(0..150).rev().collect::<Vec<i64>>(), &rows).unwrap();
            let queries = clustered(20, d, seed + 1);
            let batch = index.search_batch(queries.clone(), 7).unwrap();
            for (q, hits) in queries.chunks_exact(d).zip(&batch) {
                prop_assert_eq!(&index.search(q, 7).unwrap(), hits);
            }
        }
    }
}

#[test]
fn saved_state_continues_bit_for_bit() {
    for p in all_graphs().chain([params(24, Kind::Auto, Metric::Cosine, Precision::Int8)]) {
        let a = index(p);
        let (rows, more) = (clustered(600, p.dim, 1), clustered(300, p.dim, 2));
        let ids: Vec<i64> = (0..600).collect();
        a.add(&ids, &rows).unwrap();
        a.remove(&ids[100..250]);
        let bytes = a.to_bytes();
        let b = VectorIndex::from_bytes(&bytes).unwrap();
        assert_eq!(b.to_bytes(), bytes);
        for index in [&a, &b] {
            index.add(&ids[50..350], &more).unwrap();
            index.remove(&ids[500..]);
        }
        check_graph(&b);
        assert_eq!(a.to_bytes(), b.to_bytes());
        assert_eq!(
            a.search_batch(more.clone(), 5).unwrap(),
            b.search_batch(more, 5).unwrap()
        );
    }
}

#[test]
fn damaged_state_is_refused_or_harmless() {
    let kind = super::saved::KIND;
    let p = params(3, Kind::Hnsw, Metric::Euclidean, Precision::Int8);
    let index = index(p);
    index
        .add(&(0..40).collect::<Vec<i64>>(), &clustered(40, 3, 1))
        .unwrap();
    let bytes = index.to_bytes();
    let payload = codec::open(kind, &bytes).unwrap();
    let mut accepted = 0;
    // Every byte changed, under a checksum that fits: the reader must not rely on the checksum.
    for at in 0..payload.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut hostile = payload.to_vec();
            hostile[at] ^= flip;
            if let Ok(index) = VectorIndex::from_bytes(&codec::seal(kind, &hostile)) {
                accepted += 1;
                check_graph(&index);
                let q = vec![0.5; index.params().dim];
                assert!(index.search(&q, 5).unwrap().iter().all(|h| h.score.is_finite()));
                index.add(&[77], &q).unwrap();
                index.remove(&(0..20).collect::<Vec<i64>>());
                check_graph(&index);
            }
        }
        assert!(VectorIndex::from_bytes(&codec::seal(kind, &payload[..at])).is_err());
    }
    assert!(accepted > 0, "changed coordinates are not detectable");
}

#[test]
fn bad_input_changes_nothing() {
    let index = index(Params::new(2));
    index.add(&[1], &[3.0, 4.0]).unwrap();
    let before = index.to_bytes();
    assert!(matches!(
        index.add(&[2, 3], &[0.0, 1.0, f32::NAN, 0.0]),
        Err(Error::NotFinite { index: 2, .. })
    ));
    assert!(matches!(
        index.add(&[2, 3], &[0.0, 1.0]),
        Err(Error::Dimension { .. })
    ));
    assert!(matches!(index.search(&[1.0], 1), Err(Error::Dimension { .. })));
    assert!(matches!(
        index.search(&[1.0, f32::INFINITY], 1),
        Err(Error::NotFinite { .. })
    ));
    assert!(matches!(index.search(&[1.0, 0.0], 0), Err(Error::Value { .. })));
    assert!(matches!(
        index.search(&[1.0, 0.0], 1 << 40),
        Err(Error::Capacity { .. })
    ));
    assert_eq!(index.to_bytes(), before);
    let hit = index.search(&[4.0, 3.0], 3).unwrap();
    assert_eq!(hit.len(), 1);
    assert!((hit[0].score - 0.96).abs() < 1e-6);
}

#[test]
fn readers_and_writers_share_one_index() {
    let d = 16;
    let index = index(params(d, Kind::Hnsw, Metric::Cosine, Precision::Int8));
    let rows = clustered(800, d, 4);
    let ids: Vec<i64> = (0..800).collect();
    index.add(&ids[..400], &rows[..400 * d]).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| index.add(&ids[400..], &rows[400 * d..]).unwrap());
        scope.spawn(|| assert_eq!(index.remove(&ids[..200]), 200));
        for _ in 0..2 {
            scope.spawn(|| {
                for q in rows.chunks_exact(d) {
                    let hits = index.search(q, 5).unwrap();
                    assert_eq!(hits.len(), 5);
                    assert!(hits.windows(2).all(|w| flat::by_rank(&w[0], &w[1]).is_lt()));
                }
            });
        }
    });
    assert_eq!(index.len(), 600);
    check_graph(&index);
    let mut random = rng::stream(1, 2);
    for _ in 0..50 {
        let i = random.random_range(200..800usize);
        assert_eq!(
            index.search(&rows[i * d..(i + 1) * d], 1).unwrap()[0].id,
            i as i64
        );
    }
}
