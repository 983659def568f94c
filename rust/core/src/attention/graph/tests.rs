use super::sample::{neighbourhood, thinned};
use super::*;
use proptest::prelude::*;

fn edges() -> impl Strategy<Value = (usize, Vec<i64>, Vec<i64>)> {
    (1_usize..20).prop_flat_map(|n| {
        let node = 0..n as i64;
        prop::collection::vec((node.clone(), node), 0..60).prop_map(move |pairs| {
            (
                n,
                pairs.iter().map(|e| e.0).collect(),
                pairs.iter().map(|e| e.1).collect(),
            )
        })
    })
}

proptest! {
    #[test]
    fn edges_are_grouped_both_ways((n, from, to) in edges()) {
        let graph = Graph::new(n, &from, &to, false).unwrap();
        prop_assert_eq!(graph.list(), (from.clone(), to.clone()));
        for v in 0..n {
            let own: Vec<usize> = graph.incoming(v).map(|p| graph.numbers()[p] as usize).collect();
            let want: Vec<usize> = (0..to.len()).filter(|e| to[*e] == v as i64).collect();
            prop_assert_eq!(own, want);
            let mut own: Vec<usize> =
                graph.outgoing(v).iter().map(|p| graph.numbers()[*p as usize] as usize).collect();
            own.sort_unstable();
            let want: Vec<usize> = (0..from.len()).filter(|e| from[*e] == v as i64).collect();
            prop_assert_eq!(own, want);
        }
    }

    #[test]
    fn loops_are_replaced((n, from, to) in edges()) {
        let (source, target) = Graph::new(n, &from, &to, true).unwrap().list();
        let mut want: Vec<(i64, i64)> =
            from.into_iter().zip(to).filter(|(s, t)| s != t).collect();
        want.extend((0..n as i64).map(|v| (v, v)));
        prop_assert_eq!(source.into_iter().zip(target).collect::<Vec<_>>(), want);
    }

    #[test]
    fn samples_are_subsets_of_the_right_size((n, from, to) in edges(), fanout in 0_usize..5, seed: u64) {
        let graph = Graph::new(n, &from, &to, false).unwrap();
        let thin = thinned(&graph, fanout, seed);
        for v in 0..n {
            let all = &graph.source[graph.incoming(v)];
            let mut left = all.to_vec();
            for u in &thin.source[thin.incoming(v)] {
                let at = left.iter().position(|x| x == u);
                prop_assert!(at.is_some());
                left.swap_remove(at.unwrap());
            }
            prop_assert_eq!(thin.incoming(v).len(), all.len().min(fanout));
        }
        // The first hop from all nodes draws what `thinned` keeps.
        let every: Vec<usize> = (0..n).collect();
        let found = neighbourhood(&graph, &every, &[fanout], seed);
        prop_assert_eq!((found.source, found.target), thin.list());
    }
}

#[test]
fn nodes_out_of_range_are_named() {
    for bad in [-1, 3, i64::MAX, i64::MIN] {
        let wrong = Graph::new(3, &[0, bad], &[1, 2], false).unwrap_err();
        assert_eq!(wrong, Invalid { edge: 1, node: bad });
    }
}
