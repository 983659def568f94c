//! Isotonic regression by pool-adjacent-violators (Barlow et al. 1972): scores to probabilities.

/// Knots (score, value) of the non-decreasing least-squares fit. Equal scores are pooled first.
#[must_use]
pub fn isotonic(rows: &[(f64, f64, f64)]) -> Vec<(f64, f64)> {
    let mut rows: Vec<_> = rows.iter().filter(|r| r.2 > 0.0).copied().collect();
    rows.sort_by(|a, b| a.0.total_cmp(&b.0));
    // A block: first score, last score, mean, weight.
    let mut blocks: Vec<(f64, f64, f64, f64)> = Vec::new();
    for (i, &(score, value, weight)) in rows.iter().enumerate() {
        match blocks.last_mut() {
            Some(b) if i > 0 && rows[i - 1].0 == score && b.0 == score => {
                b.2 = (b.2 * b.3 + value * weight) / (b.3 + weight);
                b.3 += weight;
            }
            _ => blocks.push((score, score, value, weight)),
        }
    }
    let mut pooled: Vec<(f64, f64, f64, f64)> = Vec::new();
    for mut b in blocks {
        while let Some(last) = pooled.last().copied().filter(|last| last.2 >= b.2) {
            pooled.pop();
            let weight = last.3 + b.3;
            b = (last.0, b.1, (last.2 * last.3 + b.2 * b.3) / weight, weight);
        }
        pooled.push(b);
    }
    let ends = pooled.iter().flat_map(|b| [(b.0, b.2), (b.1, b.2)]);
    let mut knots: Vec<(f64, f64)> = ends.collect();
    knots.dedup();
    knots
}

/// Value at `x`: linear between knots, flat outside; NaN without knots.
#[must_use]
pub fn interpolate(knots: &[(f64, f64)], x: f64) -> f64 {
    let at = knots.partition_point(|k| k.0 < x);
    match (at.checked_sub(1).and_then(|i| knots.get(i)), knots.get(at)) {
        (Some(a), Some(b)) => a.1 + (b.1 - a.1) * (x - a.0) / (b.0 - a.0),
        (Some(k), None) | (None, Some(k)) => k.1,
        (None, None) => f64::NAN,
    }
}
