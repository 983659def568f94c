//! The k largest of a row (k-winner-take-all: Majani et al. 1989, Maass 2000).

use crate::kernels;

/// Positions of the `k` largest of `x`, largest first, equal values (−0 and +0 among them) by position. `None` if a value is NaN.
#[must_use]
pub fn winners_f32(x: &[f32], k: usize) -> Option<Vec<usize>> {
    kernels::winners(x, k)
}

/// [`winners_f32`] in double precision.
#[must_use]
pub fn winners_f64(x: &[f64], k: usize) -> Option<Vec<usize>> {
    // Without an early exit within a block: that is what vectorises.
    let has_nan = |part: &[f64]| part.iter().fold(false, |found, v| found | v.is_nan());
    if x.chunks(1024).any(has_nan) {
        return None;
    }
    let mut order: Vec<usize> = (0..x.len()).collect();
    // Adding 0 turns −0 into +0.
    let before = |a: &usize, b: &usize| (x[*b] + 0.0).total_cmp(&(x[*a] + 0.0)).then(a.cmp(b));
    if k > 0 && k < order.len() {
        order.select_nth_unstable_by(k - 1, before);
    }
    order.truncate(k);
    order.sort_unstable_by(before);
    Some(order)
}
