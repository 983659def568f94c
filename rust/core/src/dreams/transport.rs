//! The earth mover's distance between small distributions: exact transport by successive shortest paths.

use crate::error::{Error, Result};

/// The least Σ flow·cost that moves `supply` onto `demand`, which have the same sum; `cost(i, j)` ≥ 0.
///
/// Dijkstra with potentials, dense: O((n + m)²) for each of at most about n + m augmentations. Mass below 1e-13 of the
/// whole is left where it is.
pub(super) fn transport(supply: &[f64], demand: &[f64], cost: impl Fn(usize, usize) -> f64) -> f64 {
    let (n, m) = (supply.len(), demand.len());
    let (mut left, mut wanted) = (supply.to_vec(), demand.to_vec());
    let tiny = 1e-13 * supply.iter().sum::<f64>();
    let mut flow = vec![0.0f64; n * m];
    // Potentials and distances: suppliers first, then customers.
    let mut potential = vec![0.0f64; n + m];
    let mut total = 0.0;
    loop {
        let mut distance = vec![f64::INFINITY; n + m];
        let mut from = vec![usize::MAX; n + m];
        let mut done = vec![false; n + m];
        for i in (0..n).filter(|i| left[*i] > tiny) {
            distance[i] = 0.0;
        }
        loop {
            let open = (0..n + m).filter(|v| !done[*v] && distance[*v].is_finite());
            let Some(v) = open.min_by(|a, b| distance[*a].total_cmp(&distance[*b])) else {
                break;
            };
            done[v] = true;
            let mut relax = |to: usize, length: f64| {
                let through = distance[v] + (length + potential[v] - potential[to]).max(0.0);
                if !done[to] && through < distance[to] {
                    distance[to] = through;
                    from[to] = v;
                }
            };
            if v < n {
                for j in 0..m {
                    relax(n + j, cost(v, j));
                }
            } else {
                for i in (0..n).filter(|i| flow[i * m + v - n] > tiny) {
                    relax(i, -cost(i, v - n));
                }
            }
        }
        let reachable = (0..m).filter(|j| wanted[*j] > tiny && distance[n + *j].is_finite());
        let Some(end) = reachable.min_by(|a, b| distance[n + a].total_cmp(&distance[n + b])) else {
            return total;
        };
        for v in 0..n + m {
            potential[v] += distance[v].min(distance[n + end]);
        }
        let (mut amount, mut v) = (wanted[end], n + end);
        while from[v] != usize::MAX {
            let u = from[v];
            if u >= n {
                amount = amount.min(flow[v * m + u - n]);
            }
            v = u;
        }
        amount = amount.min(left[v]);
        left[v] -= amount;
        wanted[end] -= amount;
        let mut v = n + end;
        while from[v] != usize::MAX {
            let u = from[v];
            if u < n {
                flow[u * m + v - n] += amount;
                total += amount * cost(u, v - n);
            } else {
                flow[v * m + u - n] -= amount;
                total -= amount * cost(v, u - n);
            }
            v = u;
        }
    }
}

/// [`transport`] between two distributions over the same points under a metric: what they share stays where it is.
pub(super) fn between(p: &[f64], q: &[f64], metric: impl Fn(usize, usize) -> f64) -> f64 {
    let pick = |a: &[f64], b: &[f64]| -> (Vec<usize>, Vec<f64>) {
        (0..a.len())
            .filter(|i| a[*i] > b[*i])
            .map(|i| (i, a[i] - b[i]))
            .unzip()
    };
    let ((from, supply), (to, demand)) = (pick(p, q), pick(q, p));
    transport(&supply, &demand, |i, j| metric(from[i], to[j]))
}

/// Earth mover's distance between distributions over the states of a few binary nodes, Hamming ground distance.
pub(super) fn hamming_distance(p: &[f64], q: &[f64]) -> f64 {
    between(p, q, |i, j| f64::from((i ^ j).count_ones()))
}

/// Earth mover's distance of `p` (n,) and `q` (m,) under `cost` (n, m): checked, exact.
pub fn earth_movers_distance(p: &[f64], q: &[f64], cost: &[f64]) -> Result<f64> {
    if cost.len() != p.len() * q.len() {
        return Err(Error::shape(
            "cost",
            format!("({}, {})", p.len(), q.len()),
            format!("{} values", cost.len()),
        ));
    }
    for (name, x) in [("p", p), ("q", q), ("cost", cost)] {
        if let Some(v) = x.iter().find(|v| !(v.is_finite() && **v >= 0.0)) {
            return Err(Error::value(name, "finite numbers of at least 0", v));
        }
    }
    let (a, b) = (p.iter().sum::<f64>(), q.iter().sum::<f64>());
    if (a - b).abs() > 1e-9 * (1.0 + a.max(b)) {
        return Err(Error::value("q", format!("the sum of p, {a}"), b));
    }
    Ok(transport(p, q, |i, j| cost[i * q.len() + j]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{self, RngExt};

    #[test]
    fn product_distributions_have_the_distance_of_their_marginals() {
        let mut rng = rng::stream(1, 0);
        for _ in 0..50 {
            let (a, b): ([f64; 3], [f64; 3]) = (rng.random(), rng.random());
            let product = |m: &[f64; 3]| -> Vec<f64> {
                (0..8usize)
                    .map(|s| {
                        (0..3)
                            .map(|i| if s >> i & 1 == 1 { m[i] } else { 1.0 - m[i] })
                            .product()
                    })
                    .collect()
            };
            let want: f64 = a.iter().zip(&b).map(|(x, y)| (x - y).abs()).sum();
            let got = hamming_distance(&product(&a), &product(&b));
            assert!((got - want).abs() < 1e-9, "{got} {want}");
        }
    }

    /// With equal masses the optimum is an assignment: all of them are tried.
    #[test]
    fn transport_finds_the_best_assignment() {
        let mut rng = rng::stream(2, 0);
        for _ in 0..50 {
            let cost: Vec<f64> = (0..16).map(|_| rng.random::<f64>()).collect();
            let mut best = f64::INFINITY;
            for code in 0..256usize {
                let to = [code & 3, code >> 2 & 3, code >> 4 & 3, code >> 6];
                if (0..4).all(|j| to.contains(&j)) {
                    best = best.min((0..4).map(|i| cost[i * 4 + to[i]]).sum());
                }
            }
            let got = earth_movers_distance(&[1.0; 4], &[1.0; 4], &cost).unwrap();
            assert!((got - best).abs() < 1e-9, "{got} {best}");
        }
    }

    #[test]
    fn bad_input_is_refused() {
        assert!(earth_movers_distance(&[1.0], &[0.5], &[0.0]).is_err());
        assert!(earth_movers_distance(&[1.0], &[1.0], &[0.0, 1.0]).is_err());
        assert!(earth_movers_distance(&[1.0], &[1.0], &[f64::NAN]).is_err());
        assert_eq!(earth_movers_distance(&[], &[], &[]).unwrap(), 0.0);
    }
}
