use super::*;
use crate::rng::{self, RngExt};

fn data(n: usize, d: usize) -> (Vec<Node>, Vec<f32>) {
    let mut rng = rng::stream(5, 0);
    let nodes = (0..n as i64)
        .map(|id| Node {
            id,
            timestamp: rng.random::<f64>() * 1e6,
            access_count: rng.random_range(0..50),
            importance: rng.random(),
        })
        .collect();
    let mut x: Vec<f32> = (0..n * d).map(|_| rng::normal(&mut rng) as f32).collect();
    // Every third memory is a near copy of the one before.
    for i in (2..n).step_by(3) {
        for j in 0..d {
            x[i * d + j] = x[(i - 1) * d + j] * 1.5 + 0.01;
        }
    }
    (nodes, x)
}

#[test]
fn order_of_the_input_does_not_matter() {
    let (n, d) = (200, 16);
    let (nodes, x) = data(n, d);
    let c = Consolidator {
        max_bytes: Some(80 * (RECORD + 4 * d)),
        coverage: Some(20),
        ..Consolidator::default()
    };
    let a = c.consolidate(&nodes, &x, d, 0.7, 1e6).unwrap();
    let back: Vec<usize> = (0..n).rev().collect();
    let nodes2: Vec<Node> = back.iter().map(|i| nodes[*i]).collect();
    let x2: Vec<f32> = back.iter().flat_map(|i| x[i * d..(i + 1) * d].to_vec()).collect();
    let b = c.consolidate(&nodes2, &x2, d, 0.7, 1e6).unwrap();
    assert_eq!(a.kept.len(), 80);
    assert!(a.merged >= 60, "{}", a.merged);
    assert_eq!(a.pruned, n - a.merged - 80);
    assert_eq!(a.bytes_after, 80 * (RECORD + 4 * d));
    let by_id = |c: &Consolidation| {
        let mut v: Vec<(Node, Option<Vec<f32>>)> =
            c.kept.iter().map(|k| (k.node, k.embedding.clone())).collect();
        v.sort_by_key(|k| k.0.id);
        v
    };
    assert_eq!(by_id(&a), by_id(&b));
}

#[test]
fn merging_adds_weights() {
    let node = |id, access_count, importance| Node {
        id,
        timestamp: id as f64,
        access_count,
        importance,
    };
    let nodes = [node(1, 3, 1.0), node(2, 1, 0.5), node(3, 0, 0.5)];
    let x = [1.0, 0.0, 0.999, 0.01, 0.0, 1.0];
    let out = Consolidator::default()
        .consolidate(&nodes, &x, 2, 2.0, 3.0)
        .unwrap();
    assert_eq!((out.merged, out.pruned, out.kept.len()), (1, 0, 2));
    let first = &out.kept[0];
    assert_eq!((first.node.id, first.node.access_count), (1, 4));
    assert!((first.node.importance - (4.0 + 2.0 * 0.5) / 6.0).abs() < 1e-12);
    assert_eq!(first.node.timestamp, 2.0);
    assert!((first.embedding.as_ref().unwrap()[1] - 0.02 / 6.0).abs() < 1e-6);
    assert_eq!(out.kept[1].embedding, None);
}

/// A far region of worthless memories keeps a member.
#[test]
fn no_region_vanishes() {
    let mut nodes = Vec::new();
    let mut x = Vec::new();
    for i in 0..100i64 {
        let far = i >= 95;
        nodes.push(Node {
            id: i,
            timestamp: 0.0,
            access_count: if far { 0 } else { 10 },
            importance: 0.5,
        });
        let t = 0.3 * (i % 50) as f32;
        x.extend(if far {
            [0.02 * t, 0.01, -1.0]
        } else {
            [t.cos(), t.sin(), 0.0]
        });
    }
    let c = Consolidator {
        max_bytes: Some(10 * (RECORD + 12)),
        coverage: Some(6),
        merge_similarity: 1.0,
        ..Consolidator::default()
    };
    let out = c.consolidate(&nodes, &x, 3, 0.7, 0.0).unwrap();
    assert_eq!(out.kept.len(), 10);
    assert!(out.kept.iter().any(|k| k.node.id >= 95));
}

#[test]
fn bad_input_is_refused() {
    let (nodes, x) = data(4, 2);
    let c = Consolidator::default();
    assert!(c.consolidate(&nodes, &x[1..], 2, 0.7, 0.0).is_err());
    assert!(c.consolidate(&nodes, &x, 2, f64::NAN, 0.0).is_err());
    assert!(
        c.consolidate(&[nodes[0], nodes[0]], &x[..4], 2, 0.7, 0.0)
            .is_err()
    );
    let tight = Consolidator {
        max_bytes: Some(8),
        ..c
    };
    assert!(tight.consolidate(&nodes, &x, 2, 0.7, 0.0).is_err());
    let bad = Consolidator {
        half_life_s: 0.0,
        ..c
    };
    assert!(bad.check().is_err());
    assert_eq!(
        c.consolidate(&[], &[], 0, 0.7, 0.0).unwrap(),
        Consolidation::default()
    );
}
