//! Robust statistics of a sample.

use crate::error::{Error, Result, check_dim};

/// Normal consistency: the MAD of N(0, 1) times this is 1.
const MAD_SCALE: f64 = 1.482_602_218_505_601_8;

/// Middle of sorted numbers, the mean of two if their count is even. The caller has at least one.
pub(super) fn middle(sorted: &[f64]) -> f64 {
    let n = sorted.len();
    if n % 2 == 1 {
        sorted[n / 2]
    } else {
        sorted[n / 2 - 1].midpoint(sorted[n / 2])
    }
}

fn checked(name: &'static str, x: &[f64]) -> Result<()> {
    if x.is_empty() {
        return Err(Error::value(name, "at least one number", 0));
    }
    x.iter().try_for_each(|v| crate::error::check_number(name, *v))
}

/// Median; O(n log n).
pub fn median(x: &[f64]) -> Result<f64> {
    checked("x", x)?;
    let mut sorted = x.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    Ok(middle(&sorted))
}

/// Median absolute deviation from the median, scaled to the standard deviation of a normal sample (Hampel 1974).
pub fn mad(x: &[f64]) -> Result<f64> {
    let center = median(x)?;
    let mut away: Vec<f64> = x.iter().map(|v| (v - center).abs()).collect();
    away.sort_unstable_by(f64::total_cmp);
    Ok(MAD_SCALE * middle(&away))
}

/// Line through a sample by the median of pairwise slopes (Theil 1950, Sen 1968); O(n²). Pairs of equal `t` have no slope.
pub fn theil_sen(t: &[f64], y: &[f64]) -> Result<(f64, f64)> {
    check_dim("y", t.len(), y.len())?;
    checked("t", t)?;
    checked("y", y)?;
    let mut slopes = Vec::with_capacity(t.len() * (t.len() - 1) / 2);
    for i in 0..t.len() {
        for j in 0..i {
            if t[i] != t[j] {
                slopes.push((y[i] - y[j]) / (t[i] - t[j]));
            }
        }
    }
    if slopes.is_empty() {
        return Err(Error::value("t", "at least two different numbers", t.len()));
    }
    slopes.sort_unstable_by(f64::total_cmp);
    let slope = middle(&slopes);
    Ok((slope, median(y)? - slope * median(t)?))
}
