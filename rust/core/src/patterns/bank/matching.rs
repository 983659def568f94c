//! One-to-one matching of old and new centroids that maximises the total similarity.
//!
//! Pairs below the threshold are no edges, so the problem falls apart into the connected components of what is left, and
//! each is solved exactly by the Hungarian method (Kuhn 1955; shortest augmenting paths, Jonker & Volgenant 1987).

/// Column of each row, or `None`. `edges` are `(row, column, similarity > 0)`; what is not listed cannot be matched.
pub(super) fn best_matching(
    rows: usize,
    columns: usize,
    edges: &[(usize, usize, f64)],
) -> Vec<Option<usize>> {
    let mut matched = vec![None; rows];
    for component in components(rows, columns, edges) {
        let (mut rs, mut cs): (Vec<usize>, Vec<usize>) = component.iter().map(|e| (e.0, e.1)).unzip();
        for ids in [&mut rs, &mut cs] {
            ids.sort_unstable();
            ids.dedup();
        }
        // One column of value zero per row: staying unmatched is always possible.
        let width = cs.len() + rs.len();
        let mut value = vec![0.0; rs.len() * width];
        for (r, c, v) in &component {
            if let (Ok(r), Ok(c)) = (rs.binary_search(r), cs.binary_search(c)) {
                value[r * width + c] = *v;
            }
        }
        for (r, c) in assign(&value, rs.len(), width).into_iter().enumerate() {
            if c < cs.len() && value[r * width + c] > 0.0 {
                matched[rs[r]] = Some(cs[c]);
            }
        }
    }
    matched
}

/// Edges of each connected component, in order of their first edge.
fn components(rows: usize, columns: usize, edges: &[(usize, usize, f64)]) -> Vec<Vec<(usize, usize, f64)>> {
    fn root(parent: &mut [usize], mut i: usize) -> usize {
        while parent[i] != i {
            parent[i] = parent[parent[i]];
            i = parent[i];
        }
        i
    }
    let mut parent: Vec<usize> = (0..rows + columns).collect();
    for (r, c, _) in edges {
        let (a, b) = (root(&mut parent, *r), root(&mut parent, rows + *c));
        parent[a] = b;
    }
    let mut slot = vec![usize::MAX; rows + columns];
    let mut out: Vec<Vec<_>> = Vec::new();
    for e in edges {
        let a = root(&mut parent, e.0);
        if slot[a] == usize::MAX {
            slot[a] = out.len();
            out.push(Vec::new());
        }
        out[slot[a]].push(*e);
    }
    out
}

/// Column of each row so that the sum of `value` (n, m), n <= m, is largest. O(n²m).
fn assign(value: &[f64], n: usize, m: usize) -> Vec<usize> {
    // Potentials and matches are numbered from 1; column 0 holds the row that is being placed.
    let (mut u, mut v) = (vec![0.0; n + 1], vec![0.0; m + 1]);
    let mut owner = vec![0usize; m + 1];
    for row in 1..=n {
        owner[0] = row;
        let mut at = 0;
        let mut slack = vec![f64::INFINITY; m + 1];
        let mut from = vec![0usize; m + 1];
        let mut done = vec![false; m + 1];
        while owner[at] != 0 {
            done[at] = true;
            let r = owner[at];
            let (mut step, mut next) = (f64::INFINITY, 0);
            for c in 1..=m {
                if done[c] {
                    continue;
                }
                let reduced = -value[(r - 1) * m + c - 1] - u[r] - v[c];
                if reduced < slack[c] {
                    slack[c] = reduced;
                    from[c] = at;
                }
                if slack[c] < step {
                    (step, next) = (slack[c], c);
                }
            }
            for c in 0..=m {
                if done[c] {
                    u[owner[c]] += step;
                    v[c] -= step;
                } else {
                    slack[c] -= step;
                }
            }
            at = next;
        }
        while at != 0 {
            owner[at] = owner[from[at]];
            at = from[at];
        }
    }
    let mut column = vec![0; n];
    for c in 1..=m {
        if owner[c] > 0 {
            column[owner[c] - 1] = c - 1;
        }
    }
    column
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn brute(rows: usize, edges: &[(usize, usize, f64)], row: usize, used: u32) -> f64 {
        if row == rows {
            return 0.0;
        }
        let mut best = brute(rows, edges, row + 1, used);
        for (r, c, v) in edges {
            if *r == row && used & (1 << c) == 0 {
                best = best.max(v + brute(rows, edges, row + 1, used | 1 << c));
            }
        }
        best
    }

    proptest! {
        #[test]
        fn total_is_that_of_exhaustive_search(
            rows in 1usize..6,
            columns in 1usize..6,
            cells in prop::collection::vec(prop::option::of(0.9f64..1.0), 36),
        ) {
            let edges: Vec<_> = (0..rows * columns)
                .filter_map(|i| cells[i].map(|v| (i / columns, i % columns, v)))
                .collect();
            let got = best_matching(rows, columns, &edges);
            let mut used: Vec<usize> = got.iter().flatten().copied().collect();
            used.sort_unstable();
            prop_assert!(used.windows(2).all(|w| w[0] < w[1]));
            let total: f64 = got
                .iter()
                .enumerate()
                .filter_map(|(r, c)| c.map(|c| edges.iter().find(|e| (e.0, e.1) == (r, c)).unwrap().2))
                .sum();
            prop_assert!((total - brute(rows, &edges, 0, 0)).abs() < 1e-9);
        }
    }
}
