//! The graph's recall and structure through changes, and when it is used at all.

use super::tests::{all_graphs, check_graph, clustered, index, params};
use super::*;
use crate::rng;

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
fn levels_are_geometric() {
    let n = 40_000u64;
    let above = |l: usize| (0..n).filter(|&i| hnsw::draw_level(5, i) >= l).count() as f64;
    for (level, share) in [(1, 1.0 / 16.0), (2, 1.0 / 256.0)] {
        let sd = (share * n as f64).sqrt();
        assert!((above(level) - share * n as f64).abs() < 5.0 * sd);
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
