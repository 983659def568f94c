use super::topological::Side;
use super::*;
use proptest::prelude::*;

/// Edges from lower to higher numbers, with costs and volumes that are small integers.
fn dags() -> impl Strategy<Value = (usize, Vec<[i64; 2]>, Vec<f64>, Vec<f64>)> {
    (1_usize..9).prop_flat_map(|n| {
        let pair = (0..n as i64, 0..n as i64);
        let pairs = prop::collection::vec(pair, 0..20).prop_map(|p| {
            let up = p.into_iter().filter(|(u, v)| u != v);
            up.map(|(u, v)| [u.min(v), u.max(v)]).collect::<Vec<_>>()
        });
        let number = (0_u8..5).prop_map(f64::from);
        (
            pairs,
            prop::collection::vec(number.clone(), n),
            prop::collection::vec(number, 20),
        )
            .prop_map(move |(edges, cost, volume)| {
                let volume = volume[..edges.len()].to_vec();
                (n, edges, cost, volume)
            })
    })
}

fn build((n, edges, cost, volume): &(usize, Vec<[i64; 2]>, Vec<f64>, Vec<f64>)) -> Dag {
    Dag::new(*n, edges, cost.clone(), volume.clone()).unwrap()
}

proptest! {
    #[test]
    fn adjacency_is_distinct_and_sorted(case in dags()) {
        let dag = build(&case);
        for v in 0..dag.len() {
            let mut want: Vec<u32> =
                case.1.iter().filter(|e| e[0] == v as i64).map(|e| e[1] as u32).collect();
            want.sort_unstable();
            want.dedup();
            prop_assert_eq!(dag.successors.of(v), &want[..]);
            for w in want {
                prop_assert!(dag.predecessors.of(w as usize).contains(&(v as u32)));
            }
        }
    }

    #[test]
    fn no_cut_is_smaller(case in dags()) {
        let dag = build(&case);
        let found = cut::minimum(&dag, None, None);
        let begins = |v: usize| dag.predecessors.of(v).is_empty() && !dag.successors.of(v).is_empty();
        let ends = |v: usize| dag.successors.of(v).is_empty() && !dag.predecessors.of(v).is_empty();
        for side in 0..1_usize << dag.len() {
            let on = |v: usize| side >> v & 1 == 1;
            if (0..dag.len()).any(|v| begins(v) && !on(v) || ends(v) && on(v)) {
                continue;
            }
            let crossing = dag.edges.iter().zip(&dag.volume).filter(|(e, _)| on(e[0] as usize) && !on(e[1] as usize));
            let value: f64 = crossing.map(|(_, volume)| volume).sum();
            prop_assert!(value >= found.value);
        }
        prop_assert!((0..dag.len()).all(|v| !begins(v) || found.side[v]));
    }

    #[test]
    fn the_widest_antichain_is_found(case in dags()) {
        let dag = build(&case);
        let reach = closure::descendants(&dag);
        let related = |u: usize, v: usize| reach.row(u)[v / 64] >> (v % 64) & 1 == 1;
        let apart = |set: usize| {
            let of: Vec<usize> = (0..dag.len()).filter(|v| set >> v & 1 == 1).collect();
            of.iter().all(|u| of.iter().all(|v| !related(*u, *v))).then_some(of.len())
        };
        let widest = (0..1_usize << dag.len()).filter_map(apart).max();
        prop_assert_eq!(Some(branches::analyse(&dag).width), widest);
    }

    #[test]
    fn levels_from_both_ends_bound_each_other(case in dags()) {
        let dag = build(&case);
        let (down, up) = (topological::levels(&dag, Side::Sources), topological::levels(&dag, Side::Sinks));
        let depth = down.iter().max().copied().unwrap_or(0);
        prop_assert!(down.iter().zip(&up).all(|(a, b)| a + b <= depth));
        prop_assert_eq!(up.iter().max().copied().unwrap_or(0), depth);
    }
}

#[test]
fn volumes_become_integers_exactly() {
    let scale = super::flow::Scale::of([1e-3, 7.0, 1e12].into_iter());
    let unit = scale.integer(1.0);
    assert_eq!(scale.integer(7.0), 7 * unit);
    assert_eq!(scale.integer(1e12), 1_000_000_000_000 * unit);
    assert_eq!(scale.integer(0.0), 0);
    for extreme in [f64::MAX, f64::MIN_POSITIVE, 5e-324] {
        let x = super::flow::Scale::of(std::iter::once(extreme)).integer(extreme);
        assert!(x > 1 << 88 && x <= 1 << 91, "{extreme}: {x}");
    }
}

#[test]
fn cycles_and_strangers_are_named() {
    let build = |edges: &[[i64; 2]]| Dag::new(3, edges, vec![1.0; 3], vec![1.0; edges.len()]).unwrap_err();
    assert_eq!(build(&[[0, 1], [1, 3]]), Invalid::Node { edge: 1, node: 3 });
    assert_eq!(build(&[[0, 1], [1, 1]]), Invalid::Cycle(vec![1]));
    let Invalid::Cycle(mut cycle) = build(&[[0, 1], [1, 2], [2, 1]]) else {
        panic!("expected a cycle")
    };
    cycle.sort_unstable();
    assert_eq!(cycle, [1, 2]);
}
