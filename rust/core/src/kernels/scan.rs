//! Exact search: products of a query with many rows, and the k best of them, in one pass over the rows.

use super::select::{Score, TopK};
use super::{gemv, gemv_i8};

/// Rows per block: their scores stay in the first cache level.
const BLOCK: usize = 256;

fn scan<T: Score + Default, R>(
    rows: &[R],
    d: usize,
    q: &[R],
    first: usize,
    top: &mut TopK<T>,
    product: fn(&[R], usize, &[R], &mut [T]),
) {
    assert!(d > 0 && rows.len().is_multiple_of(d), "rows must be (n, d)");
    let mut scores = [T::default(); BLOCK];
    for (b, block) in rows.chunks(BLOCK * d).enumerate() {
        let out = &mut scores[..block.len() / d];
        product(block, d, q, out);
        top.extend(first + b * BLOCK, out);
    }
}

/// Offers the product of `q` with each of `rows` (n, d) to `top`, under positions `first..first + n`.
pub fn scan_into(rows: &[f32], d: usize, q: &[f32], first: usize, top: &mut TopK<f32>) {
    scan(rows, d, q, first, top, gemv);
}

/// [`scan_into`] for signed bytes.
pub fn scan_into_i8(rows: &[i8], d: usize, q: &[i8], first: usize, top: &mut TopK<i32>) {
    scan(rows, d, q, first, top, gemv_i8);
}

/// The `k` rows of `rows` (n, d) with the largest product with `q`: `(score, row)`, best first, ties by the lower row.
#[must_use]
pub fn scan_top_k(rows: &[f32], n: usize, d: usize, q: &[f32], k: usize) -> Vec<(f32, usize)> {
    assert_eq!(rows.len(), n * d, "rows must be (n, d)");
    let mut top = TopK::new(k.min(n));
    if n > 0 && k > 0 {
        scan_into(rows, d, q, 0, &mut top);
    }
    top.into_sorted()
}

/// [`scan_top_k`] for signed bytes in −127..=127.
#[must_use]
pub fn scan_top_k_i8(rows: &[i8], n: usize, d: usize, q: &[i8], k: usize) -> Vec<(i32, usize)> {
    assert_eq!(rows.len(), n * d, "rows must be (n, d)");
    let mut top = TopK::new(k.min(n));
    if n > 0 && k > 0 {
        scan_into_i8(rows, d, q, 0, &mut top);
    }
    top.into_sorted()
}
