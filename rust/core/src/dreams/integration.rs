//! How much a graph is more than its parts: stochastic interaction of a linear process on it, minimised over cuts.
//!
//! Stochastic interaction: Ay 2001, 2015. Search of the cut above twelve nodes: Queyranne 1998, as Kitazono 2018 uses it,
//! beside a sweep along the Fiedler vector (Toker & Sommer 2019).

use super::small::{cholesky, forward, log_det, product, stationary, transposed};
use super::walk::check_weights;
use crate::error::{Error, Result, check_finite};
use std::collections::BTreeSet;

/// Most nodes whose cuts are all tried.
const EXACT: usize = 12;
/// Most nodes for which Queyranne's search runs; above, the sweep alone.
const QUEYRANNE: usize = 32;
/// Most nodes at all.
const LIMIT: usize = 256;

/// A stationary process x′ = Ax + noise, ready for the conditional covariances of its parts.
struct Process {
    n: usize,
    /// Σ.
    sigma: Vec<f64>,
    /// AΣ, the covariance of next and present.
    cross: Vec<f64>,
    /// ln |Q| of the whole.
    whole: f64,
}

impl Process {
    /// `None` if A is not stable or Q not positive definite.
    fn new(a: &[f64], q: &[f64], n: usize) -> Option<Self> {
        let whole = log_det(&cholesky(q, n)?, n);
        let sigma = stationary(a, q, n)?;
        Some(Self {
            n,
            cross: product(a, &sigma, n),
            sigma,
            whole,
        })
    }

    /// ln |Q_k|, the covariance of a part's next state given its own present one.
    fn part(&self, nodes: &[usize]) -> Option<f64> {
        let (n, k) = (self.n, nodes.len());
        let block = |m: &[f64]| -> Vec<f64> {
            nodes
                .iter()
                .flat_map(|i| nodes.iter().map(move |j| m[i * n + j]))
                .collect()
        };
        let sigma = block(&self.sigma);
        let l = cholesky(&sigma, k)?;
        // Rows of the cross-covariance, solved against the factor: their products are what the past explains.
        let mut rows = block(&self.cross);
        for row in rows.chunks_exact_mut(k) {
            forward(&l, k, row);
        }
        let mut rest = sigma;
        for i in 0..k {
            for j in 0..k {
                let (a, b) = (&rows[i * k..(i + 1) * k], &rows[j * k..(j + 1) * k]);
                rest[i * k + j] -= a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
            }
        }
        Some(log_det(&cholesky(&rest, k)?, k))
    }

    fn interaction(&self, parts: &[Vec<usize>]) -> Option<f64> {
        let mut sum = 0.0;
        for part in parts.iter().filter(|p| !p.is_empty()) {
            sum += self.part(part)?;
        }
        Some(0.5 * (sum - self.whole))
    }

    /// Interaction across the cut between the nodes that are `inside` and the others; infinite where rounding spoils it.
    fn cut(&self, inside: &[bool]) -> f64 {
        let side = |s: bool| (0..self.n).filter(|i| inside[*i] == s).collect();
        self.interaction(&[side(true), side(false)])
            .unwrap_or(f64::INFINITY)
    }
}

/// ½[Σ_k ln |Q_k| − ln |Q|] in nats for x′ = Ax + N(0, Q) in its stationary state; A, Q (n, n), `parts` a partition of 0…n.
pub fn stochastic_interaction(a: &[f32], q: &[f32], n: usize, parts: &[Vec<usize>]) -> Result<f64> {
    for (name, m) in [("A", a), ("Q", q)] {
        if m.len() != n * n {
            return Err(Error::shape(
                name,
                format!("({n}, {n})"),
                format!("{} values", m.len()),
            ));
        }
        check_finite(name, m)?;
    }
    check_size("A", n)?;
    let mut seen = BTreeSet::new();
    let all = parts.iter().flatten();
    if !all.clone().all(|i| *i < n && seen.insert(*i)) || seen.len() != n {
        let wanted = format!("lists that hold each of 0 to {} once", n.saturating_sub(1));
        return Err(Error::value("parts", wanted, format!("{parts:?}")));
    }
    if (0..n * n).any(|k| (q[k] - q[k % n * n + k / n]).abs() > 1e-6 * q[k].abs().max(1.0)) {
        return Err(Error::value("Q", "a symmetric matrix", "another"));
    }
    let wide = |m: &[f32]| -> Vec<f64> { m.iter().map(|v| f64::from(*v)).collect() };
    Process::new(&wide(a), &wide(q), n)
        .and_then(|p| p.interaction(parts))
        .ok_or_else(|| {
            Error::value(
                "A",
                "a stable process with positive definite noise Q",
                "a singular or growing one",
            )
        })
}

fn check_size(name: &'static str, n: usize) -> Result<()> {
    if n <= LIMIT {
        return Ok(());
    }
    Err(Error::Capacity {
        name,
        limit: format!("at most {LIMIT} nodes"),
        got: n.to_string(),
    })
}

/// Φ̂ in [0, 1]: the least interaction across a cut of the walk on W (n, n) with this restart, over that of the clique.
///
/// 0 for a graph in two pieces or with fewer than two nodes. Exact up to 12 nodes; above, the best cut of a search.
pub fn integration(w: &[f32], rows: usize, cols: usize, restart: f64) -> Result<f64> {
    let n = check_weights(w, rows, cols)?;
    check_size("W", n)?;
    if !(restart > 0.0 && restart <= 1.0) {
        return Err(Error::value("restart", "a number in (0, 1]", restart));
    }
    if n < 2 || restart == 1.0 || !connected(w, n) {
        return Ok(0.0);
    }
    let noise: Vec<f64> = (0..n * n).map(|k| f64::from(k / n == k % n)).collect();
    let process = |w: &[f32]| {
        Process::new(&dynamics(w, n, restart), &noise, n)
            .ok_or_else(|| Error::value("W", "weights whose sums are finite", "others"))
    };
    let clique: Vec<f32> = (0..n * n).map(|k| f32::from(k / n != k % n)).collect();
    let full = process(&clique)?;
    // Every node of a clique is like every other: a cut is its size.
    let best = (1..=n / 2)
        .map(|k| full.cut(&(0..n).map(|i| i < k).collect::<Vec<_>>()))
        .fold(f64::INFINITY, f64::min);
    let this = process(w)?;
    let least = if n <= EXACT {
        exhaustive(&this)
    } else {
        search(&this, w)
    };
    Ok((least / best).clamp(0.0, 1.0))
}

/// A = (1 − restart)·Pᵀ with the rows of P summing to 1, or 0 where there is no edge.
fn dynamics(w: &[f32], n: usize, restart: f64) -> Vec<f64> {
    let mut a: Vec<f64> = Vec::with_capacity(n * n);
    for row in w.chunks_exact(n) {
        let total: f64 = row.iter().map(|v| f64::from(*v)).sum();
        let share = if total > 0.0 { (1.0 - restart) / total } else { 0.0 };
        a.extend(row.iter().map(|v| f64::from(*v) * share));
    }
    transposed(&a, n)
}

fn connected(w: &[f32], n: usize) -> bool {
    let mut seen = vec![false; n];
    let mut open = vec![0];
    seen[0] = true;
    while let Some(i) = open.pop() {
        for j in 0..n {
            if !seen[j] && (w[i * n + j] > 0.0 || w[j * n + i] > 0.0) {
                seen[j] = true;
                open.push(j);
            }
        }
    }
    seen.iter().all(|s| *s)
}

fn exhaustive(p: &Process) -> f64 {
    // The last node stays outside: each cut once.
    (1u32..1 << (p.n - 1))
        .map(|mask| p.cut(&(0..p.n).map(|i| mask >> i & 1 == 1).collect::<Vec<_>>()))
        .fold(f64::INFINITY, f64::min)
}

/// The best cut of a sweep along the Fiedler vector and of Queyranne's search, each improved by moving single nodes.
fn search(p: &Process, w: &[f32]) -> f64 {
    let order = fiedler_order(w, p.n);
    let mut inside = vec![false; p.n];
    let mut sweep = (f64::INFINITY, inside.clone());
    for i in &order[..p.n - 1] {
        inside[*i] = true;
        let value = p.cut(&inside);
        if value < sweep.0 {
            sweep = (value, inside.clone());
        }
    }
    let swept = descend(p, sweep);
    if p.n > QUEYRANNE {
        return swept;
    }
    swept.min(descend(p, queyranne(p)))
}

/// Moves single nodes across the cut as long as that lowers it.
fn descend(p: &Process, (mut least, mut inside): (f64, Vec<bool>)) -> f64 {
    loop {
        let before = least;
        for i in 0..p.n {
            inside[i] = !inside[i];
            let proper = inside.iter().any(|s| *s != inside[0]);
            let value = if proper { p.cut(&inside) } else { f64::INFINITY };
            if value < least {
                least = value;
            } else {
                inside[i] = !inside[i];
            }
        }
        // Infinite values never improve; equal ones end the descent.
        if least >= before {
            return least;
        }
    }
}

/// Nodes sorted along the second eigenvector of the Laplacian, found by power iteration on cI − L without the constant.
fn fiedler_order(w: &[f32], n: usize) -> Vec<usize> {
    let sym = |i: usize, j: usize| f64::from(w[i * n + j]) + f64::from(w[j * n + i]);
    let degree: Vec<f64> = (0..n)
        .map(|i| (0..n).filter(|j| *j != i).map(|j| sym(i, j)).sum())
        .collect();
    let c = 2.0 * degree.iter().fold(0.0f64, |m, d| m.max(*d));
    let mut x: Vec<f64> = (0..n).map(|i| (i as f64 + 1.0).sin()).collect();
    for _ in 0..300 {
        let mut y: Vec<f64> = (0..n)
            .map(|i| {
                let flow: f64 = (0..n).filter(|j| *j != i).map(|j| sym(i, j) * x[j]).sum();
                (c - degree[i]) * x[i] + flow
            })
            .collect();
        let mean = y.iter().sum::<f64>() / n as f64;
        y.iter_mut().for_each(|v| *v -= mean);
        let size = y.iter().map(|v| v * v).sum::<f64>().sqrt();
        if size == 0.0 {
            break;
        }
        y.iter_mut().for_each(|v| *v /= size);
        x = y;
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|a, b| x[*a].total_cmp(&x[*b]));
    order
}

/// The least cut by pendant pairs: exact for symmetric submodular functions, a search for this one.
fn queyranne(p: &Process) -> (f64, Vec<bool>) {
    let mut groups: Vec<Vec<usize>> = (0..p.n).map(|i| vec![i]).collect();
    let side = |chosen: &[&[usize]]| {
        let mut inside = vec![false; p.n];
        for i in chosen.iter().flat_map(|g| g.iter()) {
            inside[*i] = true;
        }
        inside
    };
    let value = |chosen: &[&[usize]]| p.cut(&side(chosen));
    let mut least = (f64::INFINITY, vec![false; p.n]);
    while groups.len() > 1 {
        let single: Vec<f64> = groups.iter().map(|g| value(&[g])).collect();
        let mut order = vec![0usize];
        let mut left: Vec<usize> = (1..groups.len()).collect();
        while left.len() > 1 {
            let taken: Vec<&[usize]> = order.iter().map(|g| groups[*g].as_slice()).collect();
            let keys: Vec<f64> = left
                .iter()
                .map(|u| {
                    let mut with = taken.clone();
                    with.push(&groups[*u]);
                    value(&with) - single[*u]
                })
                .collect();
            let mut at = 0;
            for i in 1..keys.len() {
                if keys[i] < keys[at] {
                    at = i;
                }
            }
            order.push(left.remove(at));
        }
        let (before, last) = (order[order.len() - 1], left[0]);
        if single[last] < least.0 {
            least = (single[last], side(&[&groups[last]]));
        }
        let merged = std::mem::take(&mut groups[last]);
        groups[before].extend(merged);
        groups.remove(last);
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{self, RngExt};

    fn random_graph(n: usize, seed: u64) -> Vec<f32> {
        let mut rng = rng::stream(seed, 0);
        let mut w = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..i {
                if j + 1 == i || rng.random::<f64>() < 0.3 {
                    let v = rng.random::<f32>();
                    w[i * n + j] = v;
                    w[j * n + i] = v;
                }
            }
        }
        w
    }

    /// On graphs that can still be enumerated the search finds the least cut, or one at most 5 % above it.
    #[test]
    fn the_search_comes_near_enumeration() {
        for seed in 0..30 {
            let n = 9;
            let w = random_graph(n, seed);
            let noise: Vec<f64> = (0..n * n).map(|k| f64::from(k / n == k % n)).collect();
            let p = Process::new(&dynamics(&w, n, 0.1), &noise, n).unwrap();
            let (exact, found) = (exhaustive(&p), search(&p, &w));
            assert!(
                found >= exact - 1e-9 && found <= exact * 1.05 + 1e-9,
                "{seed}: {exact} {found}"
            );
        }
    }

    #[test]
    fn extremes() {
        let n = 14;
        let clique: Vec<f32> = (0..n * n).map(|k| f32::from(k / n != k % n)).collect();
        assert!((integration(&clique, n, n, 0.1).unwrap() - 1.0).abs() < 1e-6);
        assert_eq!(integration(&vec![0.0; n * n], n, n, 0.1).unwrap(), 0.0);
        assert_eq!(integration(&[], 0, 0, 0.1).unwrap(), 0.0);
        assert!(matches!(
            integration(&vec![1.0; 300 * 300], 300, 300, 0.1),
            Err(Error::Capacity { .. })
        ));
    }

    #[test]
    fn unstable_or_wrong_processes_are_refused() {
        let parts = [vec![0], vec![1]];
        let eye = [1.0, 0.0, 0.0, 1.0];
        assert!(stochastic_interaction(&[2.0, 0.0, 0.0, 0.1], &eye, 2, &parts).is_err());
        assert!(stochastic_interaction(&[0.1; 4], &[0.0; 4], 2, &parts).is_err());
        assert!(stochastic_interaction(&[0.1; 4], &eye, 2, &[vec![0]]).is_err());
        assert!(stochastic_interaction(&[0.1; 4], &eye, 2, &[vec![0, 0], vec![1]]).is_err());
        assert_eq!(
            stochastic_interaction(&[0.5, 0.0, 0.0, 0.5], &eye, 2, &parts)
                .unwrap()
                .abs()
                .max(1e-12),
            1e-12
        );
    }
}
