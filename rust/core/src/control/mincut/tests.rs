use super::*;
use proptest::prelude::*;

/// The lightest of all bipartitions.
fn brute(n: usize, weight: &[Vec<f64>]) -> f64 {
    (1..(1_u32 << (n - 1)))
        .map(|side| {
            let inside = |v: usize| v < n - 1 && side >> v & 1 == 1;
            let mut sum = 0.0;
            for (u, row) in weight.iter().enumerate() {
                for (_, w) in row
                    .iter()
                    .enumerate()
                    .filter(|(v, _)| *v < u && inside(u) != inside(*v))
                {
                    sum += w;
                }
            }
            sum
        })
        .fold(f64::INFINITY, f64::min)
}

fn side_weighs_value(cut: &mut MinCut) {
    let value = cut.value();
    let side = cut.partition();
    let n = cut.len();
    assert!(!side.is_empty() && side.len() < n);
    let inside: Vec<bool> = (0..n).map(|v| side.contains(&(v as u32))).collect();
    let mut sum = 0.0;
    for u in 0..n {
        for v in 0..u {
            if inside[u] != inside[v] {
                sum += cut.weight(u, v).unwrap();
            }
        }
    }
    assert!((sum - value).abs() < 1e-5, "{sum} {value}");
}

proptest! {
    #[test]
    fn every_update_leaves_the_exact_minimum(
        n in 2_usize..8,
        ops in prop::collection::vec((0_usize..8, 0_usize..8, 0_u32..5), 1..80),
    ) {
        let mut cut = MinCut::new(n).unwrap();
        let mut weight = vec![vec![0.0; n]; n];
        for (at, (u, v, w)) in ops.into_iter().enumerate() {
            let (u, v) = (u % n, v % n);
            if u == v {
                continue;
            }
            let w = f64::from(w) * 0.5;
            weight[u][v] = w;
            weight[v][u] = w;
            let got = cut.set_edge(u, v, w).unwrap();
            prop_assert!((got - brute(n, &weight)).abs() < 1e-12);
            side_weighs_value(&mut cut);
            if at % 7 == 0 {
                // Going on after a save is going on.
                let again = MinCut::from_bytes(&cut.to_bytes().unwrap()).unwrap();
                prop_assert_eq!(again.to_bytes().unwrap(), cut.to_bytes().unwrap());
                cut = again;
            }
        }
    }

    #[test]
    fn the_certificate_keeps_light_cuts(
        n in 2_usize..8,
        edges in prop::collection::vec((0_usize..8, 0_usize..8, 1_u32..6), 1..28),
        k in 1_u32..12,
    ) {
        let mut full = vec![vec![0.0; n]; n];
        for (u, v, w) in edges {
            let (u, v) = (u % n, v % n);
            if u != v {
                full[u][v] = f64::from(w);
                full[v][u] = f64::from(w);
            }
        }
        let graph: Weighted = full
            .iter()
            .map(|row| row.iter().enumerate().filter(|(_, w)| **w > 0.0).map(|(v, w)| (v as u32, *w)).collect())
            .collect();
        let k = f64::from(k);
        let mut thin = vec![vec![0.0; n]; n];
        for (u, row) in certificate(&graph, k).iter().enumerate() {
            for (v, w) in row {
                thin[u][*v as usize] += w;
            }
        }
        let (all, kept) = (brute(n, &full), brute(n, &thin));
        prop_assert!((all.min(k) - kept.min(k)).abs() < 1e-12, "{} {}", all, kept);
        let weight: f64 = thin.iter().flatten().sum::<f64>() / 2.0;
        prop_assert!(weight <= k * (n - 1) as f64 + 1e-9);
        prop_assert!((minimum_cut(graph, None, 0.0).value - all).abs() < 1e-12);
    }
}

#[test]
fn sparse_certificates_are_used_and_exact() {
    // Two heavy cliques and a bridge: most of the weight lies far above the cut.
    let n = 24;
    let mut cut = MinCut::new(n).unwrap();
    for half in [0, 12] {
        for u in half..half + 12 {
            for v in half..u {
                cut.set_edge(u, v, 9.0).unwrap();
            }
        }
    }
    assert_eq!(cut.value(), 0.0);
    assert_eq!(cut.set_edge(3, 20, 0.5).unwrap(), 0.5);
    assert_eq!(cut.set_edge(4, 21, 0.25).unwrap(), 0.75);
    assert_eq!(cut.partition().len(), 12);
    assert_eq!(cut.set_edge(3, 20, 0.0).unwrap(), 0.25);
    assert_eq!(cut.set_edge(4, 21, 0.0).unwrap(), 0.0);
    assert!(cut.stats().unchanged > 0 && cut.stats().recompute > 0);
}

#[test]
fn bad_input_changes_nothing() {
    let mut cut = MinCut::new(3).unwrap();
    cut.set_edge(0, 1, 1.0).unwrap();
    let before = cut.to_bytes().unwrap();
    assert!(cut.set_edge(1, 1, 2.0).is_err());
    assert!(cut.set_edge(0, 3, 2.0).is_err());
    assert!(cut.set_edge(0, 1, -1.0).is_err());
    assert!(cut.set_edge(0, 1, f64::NAN).is_err());
    assert!(cut.set_edge(0, 1, f64::INFINITY).is_err());
    assert_eq!(cut.to_bytes().unwrap(), before);
    for n in [0, 1] {
        let mut none = MinCut::new(n).unwrap();
        assert_eq!(none.value(), f64::INFINITY);
        assert!(none.partition().is_empty());
        assert_eq!(none.conductance(), 0.0);
    }
    assert!(MinCut::new(MAX_NODES + 1).is_err());
}

#[test]
fn damaged_states_are_refused_or_harmless() {
    let mut cut = MinCut::new(5).unwrap();
    for (u, v, w) in [(0, 1, 1.0), (1, 2, 2.0), (2, 3, 1.5), (3, 4, 1.0), (4, 0, 3.0)] {
        cut.set_edge(u, v, w).unwrap();
    }
    let bytes = cut.to_bytes().unwrap();
    let payload = codec::open(KIND, &bytes).unwrap();
    for at in 0..payload.len() {
        let mut hostile = payload.to_vec();
        hostile[at] ^= 0x81;
        if let Ok(mut got) = MinCut::from_bytes(&codec::seal(KIND, &hostile)) {
            if got.len() > 1 {
                side_weighs_value(&mut got);
            }
        }
    }
}
