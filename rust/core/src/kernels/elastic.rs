//! Passes over all parameters that elastic weight consolidation makes. Memory-bound: the arithmetic is plain Rust, the same
//! bits on every tier.

use super::stamp::tiers;

tiers!(
    /// out = rate·f·(x − centre).
    pull = pull_body(rate: f32, f: &[f32], x: &[f32], centre: &[f32], out: &mut [f32]) -> ()
);

tiers!(
    /// out = g + rate·f·(x − centre).
    pulled = pulled_body(g: &[f32], rate: f32, f: &[f32], x: &[f32], centre: &[f32], out: &mut [f32]) -> ()
);

tiers!(
    /// out = (x + rate·f·centre) / (1 + rate·f), for rate·f ≥ 0, also where it overflows.
    proximal = proximal_body(rate: f32, f: &[f32], x: &[f32], centre: &[f32], out: &mut [f32]) -> ()
);

tiers!(
    /// out = g / (1 + rate·f).
    damped = damped_body(g: &[f32], rate: f32, f: &[f32], out: &mut [f32]) -> ()
);

tiers!(
    /// f ← keep·f + share·g².
    average_squares = average_squares_body(keep: f32, share: f32, g: &[f32], f: &mut [f32]) -> ()
);

tiers!(
    /// Whether all squares are finite: neither NaN nor infinity nor a value whose square leaves single precision.
    squares_finite = squares_finite_body(g: &[f32]) -> bool
);

/// Slices of one length, so that the loops need no further checks.
#[inline(always)]
fn same(n: usize, others: [&[f32]; 3]) {
    assert!(others.iter().all(|o| o.len() == n), "elastic: lengths differ");
}

#[inline(always)]
fn pull_body(rate: f32, f: &[f32], x: &[f32], centre: &[f32], out: &mut [f32]) {
    same(out.len(), [f, x, centre]);
    for (((o, f), x), c) in out.iter_mut().zip(f).zip(x).zip(centre) {
        *o = rate * f * (x - c);
    }
}

#[inline(always)]
fn pulled_body(g: &[f32], rate: f32, f: &[f32], x: &[f32], centre: &[f32], out: &mut [f32]) {
    same(out.len(), [f, x, centre]);
    assert_eq!(g.len(), out.len(), "elastic: lengths differ");
    for ((((o, g), f), x), c) in out.iter_mut().zip(g).zip(f).zip(x).zip(centre) {
        *o = g + rate * f * (x - c);
    }
}

#[inline(always)]
fn proximal_body(rate: f32, f: &[f32], x: &[f32], centre: &[f32], out: &mut [f32]) {
    same(out.len(), [f, x, centre]);
    for (((o, f), x), c) in out.iter_mut().zip(f).zip(x).zip(centre) {
        // a/(1 + a) as 1 − 1/(1 + a): 1 where a is infinite.
        let share = 1.0 - 1.0 / (1.0 + rate * f);
        *o = x + share * (c - x);
    }
}

#[inline(always)]
fn damped_body(g: &[f32], rate: f32, f: &[f32], out: &mut [f32]) {
    same(out.len(), [g, f, f]);
    for ((o, g), f) in out.iter_mut().zip(g).zip(f) {
        *o = g / (1.0 + rate * f);
    }
}

#[inline(always)]
fn average_squares_body(keep: f32, share: f32, g: &[f32], f: &mut [f32]) {
    same(f.len(), [g, g, g]);
    for (f, g) in f.iter_mut().zip(g) {
        *f = keep * *f + share * (g * g);
    }
}

#[inline(always)]
fn squares_finite_body(g: &[f32]) -> bool {
    // As bits, magnitudes are in order, with infinity and NaN above all numbers.
    let magnitude = |g: &f32| g.to_bits() & !(1 << 31);
    let most = f32::from_bits(g.iter().map(magnitude).fold(0, u32::max));
    (most * most).is_finite()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_that_are_not_finite_are_seen_everywhere() {
        for n in [0, 1, 63, 64, 65, 200] {
            let mut g = data(n, 0.3);
            assert!(squares_finite(&g));
            for i in 0..n {
                for bad in [f32::NAN, f32::INFINITY, -1.9e19] {
                    let kept = std::mem::replace(&mut g[i], bad);
                    assert!(!squares_finite(&g), "{bad} at {i} of {n}");
                    g[i] = kept;
                }
            }
            if n > 0 {
                g[n / 2] = 1.8e19;
                assert!(squares_finite(&g));
            }
        }
    }

    fn data(n: usize, k: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * k).sin()).collect()
    }

    #[test]
    fn every_length_and_tier_follows_the_formulas() {
        for n in (0..70).chain([1000]) {
            let (g, x, c) = (data(n, 0.3), data(n, 0.7), data(n, 0.9));
            let f: Vec<f32> = data(n, 1.1).iter().map(|v| v.abs()).collect();
            let mut out = vec![0.0; n];
            let mut check = |want: &dyn Fn(usize) -> f32, run: &dyn Fn(&mut [f32])| {
                run(&mut out);
                for (i, o) in out.iter().enumerate() {
                    assert_eq!(o.to_bits(), want(i).to_bits(), "{n} {i}");
                }
            };
            check(&|i| 3.0 * f[i] * (x[i] - c[i]), &|o| pull(3.0, &f, &x, &c, o));
            check(&|i| g[i] + 3.0 * f[i] * (x[i] - c[i]), &|o| {
                pulled(&g, 3.0, &f, &x, &c, o);
            });
            check(&|i| g[i] / (1.0 + 3.0 * f[i]), &|o| damped(&g, 3.0, &f, o));
            proximal(3.0, &f, &x, &c, &mut out);
            for i in 0..n {
                let (f, x, c) = (f64::from(f[i]), f64::from(x[i]), f64::from(c[i]));
                let want = (x + 3.0 * f * c) / (1.0 + 3.0 * f);
                assert!((f64::from(out[i]) - want).abs() < 1e-6, "{n} {i}");
            }
            let mut running = f.clone();
            average_squares(0.9, 0.1, &g, &mut running);
            for i in 0..n {
                assert_eq!(running[i].to_bits(), (0.9 * f[i] + 0.1 * (g[i] * g[i])).to_bits());
            }
        }
    }

    #[test]
    fn an_infinite_pull_lands_on_the_centre() {
        let mut out = [0.0; 2];
        proximal(f32::MAX, &[f32::MAX, 0.0], &[5.0, 5.0], &[2.0, 2.0], &mut out);
        assert_eq!(out, [2.0, 5.0]);
    }
}
