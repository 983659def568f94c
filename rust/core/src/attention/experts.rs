//! Mixtures of experts: which rows go to which expert, and products of rows with the matrix of their expert.

use crate::kernels::projection::Projection;
use crate::kernels::real::{Real, exp_minus};

/// The experts of some tokens.
#[derive(Clone, Debug)]
pub struct Routing<T> {
    /// (tokens, k): by decreasing logit, ties lower index first.
    pub chosen: Vec<usize>,
    /// (tokens, k): weights of the chosen experts.
    pub gate: Vec<T>,
    /// (experts, tokens): softmax of the logits.
    pub probabilities: Vec<T>,
    /// E·Σ (share of the choices times k)·(mean probability).
    pub balance: f64,
    /// Mean squared log-sum-exp.
    pub size: f64,
}

/// Sends every token to its `k` best experts, 1 ≤ k ≤ experts; `logits` (tokens, experts). Gates are the probabilities of the
/// chosen experts, divided by their sum where `selected` says so.
#[must_use]
pub fn route<T: Real>(logits: &[T], experts: usize, k: usize, selected: bool) -> Routing<T> {
    let tokens = logits.len() / experts;
    let mut chosen = Vec::with_capacity(tokens * k);
    let mut probabilities = vec![T::ZERO; logits.len()];
    let mut tops = Vec::with_capacity(tokens);
    let mut best: Vec<(T, usize)> = Vec::with_capacity(k + 1);
    for (t, row) in logits.chunks_exact(experts).enumerate() {
        best.clear();
        for (e, x) in row.iter().enumerate() {
            // NaN is behind all numbers, as numpy sorts it.
            let behind = |y: T| y < *x || (y.is_nan() && !x.is_nan());
            if best.len() == k && !best.last().is_some_and(|y| behind(y.0)) {
                continue;
            }
            let at = best.partition_point(|y| !behind(y.0));
            best.insert(at, (*x, e));
            best.truncate(k);
        }
        chosen.extend(best.iter().map(|x| x.1));
        let top = best[0].0;
        tops.push(top);
        for (e, x) in row.iter().enumerate() {
            probabilities[e * tokens + t] = *x - top;
        }
    }
    exp_minus(&mut probabilities, T::ZERO);
    let mut totals = vec![T::ZERO; tokens];
    for line in probabilities.chunks_exact(tokens.max(1)) {
        for (total, p) in totals.iter_mut().zip(line) {
            *total += *p;
        }
    }
    let wide = |x: T| -> f64 { x.into() };
    let count = tokens.max(1) as f64;
    let size = tops.iter().zip(&totals);
    let size = size
        .map(|(top, total)| wide(*top + total.ln()).powi(2))
        .sum::<f64>()
        / count;
    let mut means = vec![0.0; experts];
    for (line, mean) in probabilities.chunks_exact_mut(tokens.max(1)).zip(&mut means) {
        for (p, total) in line.iter_mut().zip(&totals) {
            *p /= *total;
            *mean += wide(*p);
        }
    }
    let mut gate = Vec::with_capacity(chosen.len());
    let mut loads = vec![0usize; experts];
    for (t, of) in chosen.chunks_exact(k).enumerate() {
        let part = |e: &usize| probabilities[e * tokens + t];
        let sum = if selected {
            of.iter().map(part).sum()
        } else {
            T::ONE
        };
        gate.extend(of.iter().map(|e| part(e) / sum));
        of.iter().for_each(|e| loads[*e] += 1);
    }
    let loads = loads.iter().zip(&means);
    let balance = loads
        .map(|(load, mean)| *load as f64 / count * (mean / count))
        .sum::<f64>();
    Routing {
        chosen,
        gate,
        probabilities,
        balance: experts as f64 * balance,
        size,
    }
}

/// All choices of `chosen` (tokens, k), numbered by place and then token, sorted by expert; and where each expert's end.
#[must_use]
pub fn grouped(chosen: &[usize], k: usize, experts: usize) -> (Vec<usize>, Vec<usize>) {
    let tokens = chosen.len() / k;
    let mut next = vec![0; experts + 1];
    for e in chosen {
        next[e + 1] += 1;
    }
    for e in 0..experts {
        next[e + 1] += next[e];
    }
    let mut order = vec![0; chosen.len()];
    for place in 0..k {
        for token in 0..tokens {
            let e = chosen[token * k + place];
            order[next[e]] = place * tokens + token;
            next[e] += 1;
        }
    }
    next.pop();
    (order, next)
}

/// Row `order[i]` of out (`order.len()`, m) ← `rows` (`order.len()`, d), row i, times the transposed matrix of its expert; `w`
/// (experts, m, d), those of expert e end before `ends[e]`. False, and `out` not specified, where the processor or the numbers do
/// not allow it.
#[must_use]
pub fn multiply(rows: &[f32], d: usize, w: &[f32], order: &[usize], ends: &[usize], out: &mut [f32]) -> bool {
    let (size, m) = (w.len() / ends.len(), w.len() / ends.len() / d);
    assert!(
        rows.len() == order.len() * d && out.len() == order.len() * m,
        "multiply: expected rows (n, d) and out (n, m)"
    );
    let mut first = 0;
    let mut products = Vec::new();
    for (w, &end) in w.chunks_exact(size).zip(ends) {
        let order = &order[first..end];
        products.resize(order.len() * m, 0.0);
        let Some(projection) = Projection::new(w, d) else {
            return false;
        };
        if !projection.multiply(&rows[first * d..end * d], &mut products) {
            return false;
        }
        for (product, to) in products.chunks_exact(m).zip(order) {
            out[to * m..(to + 1) * m].copy_from_slice(product);
        }
        first = end;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::split;

    #[test]
    fn the_best_come_first_and_ties_by_index() {
        let nan = f64::NAN;
        let logits = [1.0, 3.0, 3.0, 2.0, nan, -1.0, nan, 0.0];
        let r = route(&logits, 4, 3, true);
        assert_eq!(r.chosen, [1, 2, 3, 3, 1, 0]);
        let e = [(-2f64).exp(), 1.0, 1.0, (-1f64).exp()];
        let total = e[1] + e[2] + e[3];
        for (got, want) in r.gate.iter().zip([1.0, 1.0, e[3]]) {
            assert!((got - want / total).abs() < 1e-12);
        }
        assert!(r.gate[3].is_nan() && r.size.is_nan());
        let one = route(&logits[..4], 4, 1, false);
        assert!((one.gate[0] - 1.0 / e.iter().sum::<f64>()).abs() < 1e-12);
        let lse = 3.0 + e.iter().sum::<f64>().ln();
        assert!((one.size - lse * lse).abs() < 1e-9);
        assert!((one.balance - 4.0 / e.iter().sum::<f64>()).abs() < 1e-12);
    }

    #[test]
    fn choices_are_sorted_by_expert() {
        let (order, ends) = grouped(&[2, 0, 0, 2, 2, 1], 2, 4);
        assert_eq!((order, ends), (vec![1, 3, 5, 0, 2, 4], vec![2, 3, 6, 6]));
        assert_eq!(grouped(&[], 2, 3), (vec![], vec![0, 0, 0]));
    }

    #[test]
    fn rows_meet_the_matrix_of_their_expert() {
        let (d, m) = (5, 3);
        let rows: Vec<f32> = (0..4 * d).map(|i| (i % 7) as f32 - 3.0).collect();
        let w: Vec<f32> = (0..3 * m * d).map(|i| (i % 11) as f32 - 5.0).collect();
        let (order, ends) = ([2, 0, 3, 1], [1, 1, 4]);
        let mut out = vec![0.0; 4 * m];
        assert_eq!(
            multiply(&rows, d, &w, &order, &ends, &mut out),
            split::available::<f32>()
        );
        if !split::available::<f32>() {
            return;
        }
        for (i, to) in order.iter().enumerate() {
            let w = &w[usize::from(i > 0) * 2 * m * d..];
            for j in 0..m {
                let want: f32 = (0..d).map(|k| rows[i * d + k] * w[j * d + k]).sum();
                assert_eq!(out[to * m + j], want);
            }
        }
    }
}
