//! Thompson sampling without draws: the probability that each of several independent normal variables is the largest.

use std::sync::LazyLock;

/// Points at which the distribution functions are compared.
const POINTS: usize = 128;
/// Beyond so many standard deviations a distribution function counts as 0 or 1.
const REACH: f64 = 4.0;
/// Table points per standard deviation.
const FINE: usize = 128;

/// Φ from −[`REACH`] to [`REACH`], 0 and 1 at its ends.
static CDF: LazyLock<Vec<f64>> = LazyLock::new(|| {
    let h = 1.0 / FINE as f64;
    let density = |z: f64| (-0.5 * z * z).exp();
    let mut sum = 0.0;
    let mut out = vec![0.0];
    for i in 0..2 * REACH as usize * FINE {
        let z = -REACH + i as f64 * h;
        // Simpson's rule.
        sum += h / 6.0 * (density(z) + 4.0 * density(z + 0.5 * h) + density(z + h));
        out.push(sum);
    }
    out.iter_mut().for_each(|v| *v /= sum);
    out
});

/// Φ(z), linear between the points of the table: within 4e-5.
fn cdf(table: &[f64], z: f64) -> f64 {
    let at = ((z + REACH) * FINE as f64).clamp(0.0, (table.len() - 1) as f64);
    let i = (at as usize).min(table.len() - 2);
    table[i] + (at - i as f64) * (table[i + 1] - table[i])
}

/// One of the variables while the points pass.
#[derive(Default)]
struct Row {
    mean: f64,
    /// One over its deviation.
    narrow: f64,
    /// Φ at this point and at the one before.
    below: f64,
    below_before: f64,
    /// Product of Φ over the rows before it.
    product: f64,
    /// Product of all others' Φ at the point before.
    others_before: f64,
    share: f64,
}

/// Probability of each of the normals (mean, standard deviation) to be the largest: ∫ φₐ Π Φ_b over the others b. Deviations
/// below half a step between the points count as that, so that equal means share. O(those within reach · 128).
#[must_use]
pub(super) fn win_shares(normals: &[(f64, f64)]) -> Vec<f64> {
    let mut out = vec![0.0; normals.len()];
    // Whoever reaches less than another surely has cannot win.
    let low = (normals.iter()).fold(f64::NEG_INFINITY, |m, (mean, sd)| m.max(mean - REACH * sd));
    let able: Vec<usize> = (0..normals.len())
        .filter(|i| normals[*i].0 + REACH * normals[*i].1 >= low)
        .collect();
    let high = (able.iter()).fold(low, |m, i| m.max(normals[*i].0 + REACH * normals[*i].1));
    let step = (high - low) / POINTS as f64;
    if able.len() == 1 || step <= 0.0 {
        able.iter().for_each(|i| out[*i] = 1.0 / able.len() as f64);
        return out;
    }
    let mut rows: Vec<Row> = (able.iter())
        .map(|i| Row {
            mean: normals[*i].0,
            narrow: 1.0 / normals[*i].1.max(0.5 * step),
            ..Row::default()
        })
        .collect();
    let table = &CDF[..];
    // The points go as far beyond the ends as the least deviations reach.
    let margin = (REACH / 2.0) as usize + 1;
    for g in 0..=POINTS + 2 * margin {
        let v = low + (g as f64 - margin as f64) * step;
        let mut product = 1.0;
        for row in &mut rows {
            row.below = cdf(table, (v - row.mean) * row.narrow);
            row.product = product;
            product *= row.below;
        }
        let mut product = 1.0;
        for row in rows.iter_mut().rev() {
            let others = row.product * product;
            product *= row.below;
            row.share += (row.below - row.below_before) * 0.5 * (others + row.others_before);
            (row.below_before, row.others_before) = (row.below, others);
        }
    }
    let total: f64 = rows.iter().map(|r| r.share).sum();
    (able.iter().zip(&rows)).for_each(|(i, r)| out[*i] = r.share / total);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng;
    use proptest::prelude::*;

    #[test]
    fn shares_are_those_of_many_draws() {
        let normals = [(0.0, 0.1), (0.05, 0.02), (-0.1, 0.3), (-2.0, 0.1), (0.02, 0.05)];
        let mut rng = rng::stream(1, 0);
        let n = 200_000;
        let mut wins = [0.0; 5];
        for _ in 0..n {
            let draws = normals.map(|(mean, sd)| mean + sd * rng::normal(&mut rng));
            let best = (0..5).max_by(|a, b| draws[*a].total_cmp(&draws[*b])).unwrap();
            wins[best] += 1.0 / f64::from(n);
        }
        for (got, want) in win_shares(&normals).iter().zip(wins) {
            assert!((got - want).abs() < 0.005, "{got} {want}");
        }
    }

    #[test]
    fn sure_values_and_ties() {
        assert_eq!(win_shares(&[(1.0, 0.0), (0.0, 0.0)]), [1.0, 0.0]);
        assert_eq!(win_shares(&[(1.0, 0.0), (1.0, 0.0)]), [0.5, 0.5]);
        assert_eq!(win_shares(&[(0.3, 0.1)]), [1.0]);
        let p = win_shares(&[(0.0, 0.0), (0.0, 1.0)]);
        assert!((p[0] - 0.5).abs() < 0.01, "{p:?}");
        assert!((cdf(&CDF, 1.0) - 0.841_344_7).abs() < 1e-4 && cdf(&CDF, -9.0) == 0.0);
    }

    proptest! {
        #[test]
        fn shares_are_a_distribution(
            normals in prop::collection::vec((-3.0f64..3.0, 0.0f64..1.0), 1..30)
        ) {
            let p = win_shares(&normals);
            prop_assert!((p.iter().sum::<f64>() - 1.0).abs() < 1e-9);
            prop_assert!(p.iter().all(|p| (0.0..=1.0 + 1e-12).contains(p)));
        }
    }
}
