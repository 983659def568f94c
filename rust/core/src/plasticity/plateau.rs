//! How a synapse changes around one plateau potential (Milstein et al. 2021): strengthened if weak, weakened if strong.

use crate::error::{Error, Result, check_number};

/// Constants of the rule; times in milliseconds. Illustrative, not fitted to data.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WeightChange {
    /// Decay of the eligibility trace.
    pub tau_et_ms: f64,
    /// Decay of the instructive signal.
    pub tau_is_ms: f64,
    /// Rate of strengthening.
    pub k_plus: f64,
    /// Rate of weakening.
    pub k_minus: f64,
    /// Largest weight.
    pub w_max: f64,
    /// Midpoint of the sigmoid for strengthening.
    pub a_plus: f64,
    /// Its slope.
    pub b_plus: f64,
    /// Midpoint of the sigmoid for weakening.
    pub a_minus: f64,
    /// Its slope.
    pub b_minus: f64,
}

impl Default for WeightChange {
    fn default() -> Self {
        Self {
            tau_et_ms: 1000.0,
            tau_is_ms: 500.0,
            k_plus: 1.7,
            k_minus: 0.2,
            w_max: 3.0,
            a_plus: 0.5,
            b_plus: 4.0,
            a_minus: 0.05,
            b_minus: 44.0,
        }
    }
}

/// Change of a weight `w0` by an input at `lag_ms` relative to the start of a plateau (negative: before it).
///
/// Euler steps of 1 ms from 3 s before to 5 s after the start; the input lasts 50 ms either way, the plateau 300 ms.
pub fn btsp_weight_change(w0: f64, lag_ms: f64, rule: &WeightChange) -> Result<f64> {
    let r = rule;
    for (name, v) in [
        ("w0", w0),
        ("lag_ms", lag_ms),
        ("k_plus", r.k_plus),
        ("k_minus", r.k_minus),
        ("a_plus", r.a_plus),
        ("b_plus", r.b_plus),
        ("a_minus", r.a_minus),
        ("b_minus", r.b_minus),
        ("w_max", r.w_max),
        ("tau_et_ms", r.tau_et_ms),
        ("tau_is_ms", r.tau_is_ms),
    ] {
        check_number(name, v)?;
    }
    for (name, v) in [("tau_et_ms", r.tau_et_ms), ("tau_is_ms", r.tau_is_ms)] {
        if v <= 0.0 {
            return Err(Error::value(name, "a time above 0", v));
        }
    }
    for (name, v) in [("k_plus", r.k_plus), ("k_minus", r.k_minus)] {
        if v < 0.0 {
            return Err(Error::value(name, "a rate of at least 0", v));
        }
    }
    for (name, v) in [("b_plus", r.b_plus), ("b_minus", r.b_minus)] {
        if v == 0.0 {
            return Err(Error::value(name, "a slope other than 0", v));
        }
    }
    if !(0.0..=r.w_max).contains(&w0) {
        return Err(Error::value("w0", format!("a weight in [0, {}]", r.w_max), w0));
    }
    let gate = |x: f64, a: f64, b: f64| {
        let s = |x: f64| 1.0 / (1.0 + (-b * (x - a)).exp());
        (s(x) - s(0.0)) / (s(1.0) - s(0.0))
    };
    let (keep_et, keep_is) = ((-1.0 / r.tau_et_ms).exp(), (-1.0 / r.tau_is_ms).exp());
    let (mut et, mut is, mut w) = (0.0f64, 0.0f64, w0);
    for s in -3000..5000 {
        let input = (f64::from(s) - lag_ms).abs() < 50.0;
        et = (et * keep_et + 0.05 * f64::from(input)).min(1.0);
        is = (is * keep_is + 0.05 * f64::from((0..300).contains(&s))).min(1.0);
        let overlap = et * is;
        let up = (r.w_max - w) * r.k_plus * gate(overlap, r.a_plus, r.b_plus);
        let down = w * r.k_minus * gate(overlap, r.a_minus, r.b_minus);
        w += 1e-3 * (up - down);
    }
    Ok(w - w0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Signs of the published picture: near the plateau weak synapses grow and strong ones shrink; far away none changes.
    #[test]
    fn signs_depend_on_weight_and_time() {
        let rule = WeightChange::default();
        let change = |w, lag| btsp_weight_change(w, lag, &rule).unwrap();
        assert!(change(0.1, 0.0) > 0.2);
        assert!(change(2.9, -1500.0) < -0.01);
        assert!(change(0.1, 4800.0).abs() < 0.01);
        assert!(change(0.1, -500.0) > change(0.1, -2500.0));
        for w in [0.0, 0.5, 1.5, 3.0] {
            for lag in [-4000.0, -1000.0, 0.0, 1000.0, 4000.0] {
                let after = w + change(w, lag);
                assert!((0.0..=3.0).contains(&after), "{w} {lag} {after}");
            }
        }
    }

    #[test]
    fn bad_input_is_refused() {
        let rule = WeightChange::default();
        assert!(btsp_weight_change(-0.1, 0.0, &rule).is_err());
        assert!(btsp_weight_change(3.1, 0.0, &rule).is_err());
        assert!(btsp_weight_change(f64::NAN, 0.0, &rule).is_err());
        for bad in [
            WeightChange {
                tau_et_ms: 0.0,
                ..rule
            },
            WeightChange {
                tau_is_ms: -1.0,
                ..rule
            },
            WeightChange { k_plus: -1.0, ..rule },
            WeightChange { b_minus: 0.0, ..rule },
        ] {
            assert!(btsp_weight_change(1.0, 0.0, &bad).is_err());
        }
    }
}
