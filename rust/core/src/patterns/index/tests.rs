//! The index against a model: a map of vectors and float64 arithmetic.

use super::*;
use crate::codec;
use crate::rng::{self, RngExt};
use proptest::prelude::*;
use std::collections::BTreeMap;

fn params(dim: usize, kind: Kind, metric: Metric, precision: Precision) -> Params {
    Params {
        kind,
        metric,
        precision,
        ..Params::new(dim)
    }
}

fn index(p: Params) -> VectorIndex {
    VectorIndex::try_new(p).unwrap()
}

/// `n` points around `n / 20 + 1` centres.
fn clustered(n: usize, d: usize, seed: u64) -> Vec<f32> {
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

/// Every structural promise of the graph, checked the slow way. Returns the share of nodes reached from the entry.
fn check_graph(index: &VectorIndex) -> f64 {
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

/// Share of the exact best `k` that the graph finds, searched with `width`, whatever the index would choose.
fn graph_recall(index: &VectorIndex, mut queries: Vec<f32>, k: usize, width: usize) -> f64 {
    let state = index.state.read();
    let graph = state.graph.as_ref().unwrap();
    rows::normalize(&index.params, &mut queries);
    let (mut right, mut wanted) = (0, 0);
    for q in queries.chunks_exact(index.params.dim) {
        let exact = flat::search(&state.rows, q, k, None).0;
        right += flat::shared(&hnsw::search(graph, &state.rows, q, k, width), &exact);
        wanted += exact.len();
    }
    right as f64 / wanted as f64
}

fn recall(p: Params, n: usize, change: impl FnOnce(&VectorIndex, &[f32])) -> f64 {
    let index = index(p);
    let rows = clustered(n, p.dim, 1);
    change(&index, &rows);
    let reached = check_graph(&index);
    assert!(reached > 0.99, "only {reached} of the nodes can be reached");
    graph_recall(&index, clustered(100, p.dim, 2), 10, 48)
}

fn all_graphs() -> impl Iterator<Item = Params> {
    let metrics = [Metric::Cosine, Metric::Dot, Metric::Euclidean];
    let both = [Precision::Float32, Precision::Int8];
    metrics
        .into_iter()
        .flat_map(move |m| both.map(|p| params(24, Kind::Hnsw, m, p)))
}

#[test]
fn recall_survives_deleting_half_and_inserting_again() {
    let n = 1_000;
    for p in all_graphs() {
        let ids: Vec<i64> = (0..n as i64).collect();
        let fresh = recall(p, n, |index, rows| index.add(&ids, rows).unwrap());
        let churned = recall(p, n, |index, rows| {
            // Twice: store other vectors, then replace all of them, half by removal and half by update.
            for seed in [7, 8] {
                index.add(&ids, &clustered(n, p.dim, seed)).unwrap();
                assert_eq!(index.remove(&ids[..n / 2]), n / 2);
                check_graph(index);
            }
            index.add(&ids, rows).unwrap();
        });
        eprintln!(
            "{} {}: recall@10 fresh {fresh:.4}, after churn {churned:.4}",
            p.metric, p.precision
        );
        assert!(
            fresh > 0.97 && churned > fresh - 0.01,
            "{p:?}: {fresh} then {churned}"
        );
    }
}

#[test]
fn crowds_of_equal_rows_do_not_cut_the_graph() {
    let d = 8;
    for p in all_graphs() {
        let p = Params { dim: d, ..p };
        let index = index(p);
        let distinct = clustered(30, d, 3);
        for copy in 0..150i64 {
            let ids: Vec<i64> = (0..30).map(|i| 1000 * i + copy).collect();
            index.add(&ids, &distinct).unwrap();
        }
        let (reached, found) = (check_graph(&index), graph_recall(&index, distinct, 10, 48));
        eprintln!(
            "{} {}: reached {reached:.4}, recall@10 {found:.4}",
            p.metric, p.precision
        );
        assert!(
            reached > 0.99 && found > 0.95,
            "{p:?}: reached {reached}, found {found}"
        );
    }
}

#[test]
fn emptied_graphs_start_again() {
    let index = index(params(4, Kind::Hnsw, Metric::Cosine, Precision::Int8));
    let rows = clustered(200, 4, 5);
    let ids: Vec<i64> = (0..200).collect();
    for _ in 0..3 {
        index.add(&ids, &rows).unwrap();
        assert_eq!(index.remove(&ids), 200);
        assert!(index.is_empty() && index.search(&rows[..4], 3).unwrap().is_empty());
        check_graph(&index);
    }
}

#[test]
fn a_half_linked_graph_gives_up_rows_of_both_halves() {
    let (n, d) = (120, 6);
    let rows = clustered(n, d, 6);
    let index = index(params(d, Kind::Auto, Metric::Cosine, Precision::Int8));
    index.add(&(0..n as i64).collect::<Vec<i64>>(), &rows).unwrap();
    index.state.write().graph = Some(graph::Graph::default());
    let link = |count: usize| {
        for _ in 0..count {
            let mut state = index.state.write();
            let (level, edits) = state.plan_link().unwrap();
            state.apply_link(level, edits);
        }
    };
    link(70);
    for id in [0i64, 119, 69, 70, 33, 118, 1] {
        let mut state = index.state.write();
        let position = state.rows.position[&id] as usize;
        let edits = state.plan_unlink(position);
        state.remove(position, edits);
        drop(state);
        check_graph(&index);
    }
    assert_eq!(index.state.read().pending(), 120 - 70 - 3);
    link(47);
    assert!(check_graph(&index) > 0.99);
    for (i, row) in rows.chunks_exact(d).enumerate() {
        assert_eq!(
            index.contains(i as i64),
            ![0, 119, 69, 70, 33, 118, 1].contains(&i)
        );
        let held = index.search(row, 1).unwrap()[0].id == i as i64;
        assert_eq!(held, index.contains(i as i64));
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
fn levels_are_geometric() {
    let n = 40_000u64;
    let above = |l: usize| (0..n).filter(|&i| hnsw::draw_level(5, i) >= l).count() as f64;
    for (level, share) in [(1, 1.0 / 16.0), (2, 1.0 / 256.0)] {
        let sd = (share * n as f64).sqrt();
        assert!((above(level) - share * n as f64).abs() < 5.0 * sd);
    }
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

/// Independent normal coordinates: no neighbour is much nearer than any other row.
fn noise(n: usize, d: usize, seed: u64) -> Vec<f32> {
    let mut random = rng::stream(seed, 3);
    (0..n * d).map(|_| rng::normal(&mut random) as f32).collect()
}

#[test]
fn the_graph_is_searched_as_wide_as_the_data_need() {
    let (n, d) = (3_000, 64);
    let ids: Vec<i64> = (0..n as i64).collect();
    let mut widths = Vec::new();
    for (name, rows, queries) in [
        ("clusters", clustered(n, d, 1), clustered(100, d, 2)),
        (
            "8 dimensions",
            spread(&noise(n, 8, 1), 8, d),
            spread(&noise(100, 8, 2), 8, d),
        ),
        ("noise", noise(n, d, 1), noise(100, d, 2)),
    ] {
        let index = index(params(d, Kind::Hnsw, Metric::Euclidean, Precision::Float32));
        index.add(&ids, &rows).unwrap();
        let width = index.state.read().graph_width();
        let found = [1, 10, 40, 100, 300].map(|k| index.recall_at(k, queries.clone()).unwrap());
        eprintln!("{name}: width {width}, recall {found:.4?}");
        assert!(
            found.iter().all(|r| *r > 0.95),
            "{name}, width {width}: {found:?}"
        );
        assert_eq!(index.kind(), Kind::Hnsw);
        widths.push(width);
    }
    assert!(widths[0] > 0 && widths[1] > 0 && widths[2] == 0, "{widths:?}");
}

/// Points of a few dimensions, repeated into many.
fn spread(rows: &[f32], few: usize, many: usize) -> Vec<f32> {
    let row = |r: &[f32]| -> Vec<f32> { r.iter().copied().cycle().take(many).collect() };
    rows.chunks_exact(few).flat_map(row).collect()
}

#[test]
fn an_automatic_index_drops_a_graph_that_does_not_pay() {
    let d = 256;
    let auto = params(d, Kind::Auto, Metric::Cosine, Precision::Float32);
    // Begun early, to keep the test short: at half of the usual size, below which graphs are given up.
    let early = cost::switch(&auto) / 2 + 10;
    let n = early + early / 2;
    let ids: Vec<i64> = (0..n as i64).collect();
    let index = index(auto);
    let fill = |rows: &[f32]| {
        index.add(&ids[..early], &rows[..early * d]).unwrap();
        index.state.write().tuning.switch = early;
        index.add(&ids[early..], &rows[early * d..]).unwrap();
    };
    fill(&noise(n, d, 1));
    assert_eq!(index.kind(), Kind::Flat);
    assert!(index.state.read().graph.is_none());
    assert!(index.state.read().tuning.switch > n);
    // Emptied and filled with vectors that have neighbours, it builds one again.
    assert_eq!(index.remove(&ids), n);
    assert_eq!(index.state.read().tuning.switch, cost::switch(&auto));
    fill(&clustered(n, d, 1));
    assert_eq!(index.kind(), Kind::Hnsw);
    assert!(index.recall_at(10, clustered(100, d, 2)).unwrap() > 0.95);
    // Exchanged for vectors without structure, it notices.
    index.add(&ids, &noise(n, d, 3)).unwrap();
    assert_eq!(index.kind(), Kind::Flat);
}
