//! Exact search: scan every row, keep the best, rescore them with the one score definition, break ties by id.

use super::params::Metric;
use super::rows::{Codes, Rows, quantize};
use crate::kernels::{self, TopK};
use std::cmp::Ordering;

/// One result: the stored id and its score, larger is better.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hit {
    /// Stored id.
    pub id: i64,
    /// Cosine, inner product or minus the squared distance.
    pub score: f32,
}

/// Best first, equal scores by id.
pub(super) fn by_rank(a: &Hit, b: &Hit) -> Ordering {
    b.score.total_cmp(&a.score).then(a.id.cmp(&b.id))
}

/// Rows fetched by an int8 scan for `k` results: the float32 rescoring repairs the order among them.
pub(super) fn overfetch(k: usize) -> usize {
    2 * k + 16
}

/// Rows per block: their scores stay in the first cache level.
const BLOCK: usize = 256;

/// Best rows by float32 score. The kernels promise equal bits for equal rows wherever they lie, and the bits of
/// [`Rows::score`].
fn scan(rows: &Rows, query: &[f32], k: usize) -> Vec<(f32, usize)> {
    let d = rows.params.dim;
    let mut top = TopK::new(k);
    if rows.params.metric == Metric::Euclidean {
        for (i, row) in rows.data.chunks_exact(d).enumerate() {
            top.push(-kernels::squared_l2(query, row), i);
        }
    } else {
        kernels::scan_into(&rows.data, d, query, 0, &mut top);
    }
    top.into_sorted()
}

/// An int8 query: its codes and scale.
#[derive(Debug, Clone)]
pub(super) struct ByteQuery {
    pub codes: Vec<i8>,
    pub scale: f32,
}

impl ByteQuery {
    pub fn new(query: &[f32]) -> Self {
        let mut codes = vec![0i8; query.len()];
        let scale = quantize(query, &mut codes);
        Self { codes, scale }
    }
}

/// Best rows by the product of codes.
fn scan_codes(rows: &Rows, codes: &Codes, query: &ByteQuery, k: usize) -> Vec<(f32, usize)> {
    let d = rows.params.dim;
    let mut top = TopK::new(k);
    let mut dots = [0i32; BLOCK];
    let mut scores = [0.0f32; BLOCK];
    for (b, block) in codes.bytes.chunks(BLOCK * d).enumerate() {
        let (first, len) = (b * BLOCK, block.len() / d);
        kernels::gemv_i8(block, d, &query.codes, &mut dots[..len]);
        for ((s, dot), scale) in scores.iter_mut().zip(&dots[..len]).zip(&codes.scale[first..]) {
            *s = scale * *dot as f32;
        }
        if rows.params.metric == Metric::Euclidean {
            for (s, squared) in scores[..len].iter_mut().zip(&codes.squared_norm[first..]) {
                *s = 2.0 * query.scale * *s - squared;
            }
        }
        top.extend(first, &scores[..len]);
    }
    top.into_sorted()
}

/// Exact scores of every row, the best `k` in rank order.
fn exhaustive(rows: &Rows, query: &[f32], k: usize) -> Vec<Hit> {
    let mut hits: Vec<Hit> = (0..rows.len()).map(|p| rows.hit(query, p)).collect();
    if k < hits.len() {
        hits.select_nth_unstable_by(k - 1, by_rank);
        hits.truncate(k);
    }
    hits.sort_unstable_by(by_rank);
    hits
}

/// The best `k` rows for a prepared query, and whether a tie at the edge made it look at every row.
pub(super) fn search(rows: &Rows, query: &[f32], k: usize, codes: Option<&Codes>) -> (Vec<Hit>, bool) {
    let fetch = if codes.is_some() {
        overfetch(k)
    } else {
        k.saturating_add(1)
    };
    if fetch >= rows.len() {
        return (exhaustive(rows, query, k), false);
    }
    let fetched = match codes {
        None => scan(rows, query, fetch),
        Some(codes) => scan_codes(rows, codes, &ByteQuery::new(query), fetch),
    };
    // A row that was not fetched can only belong among the best k if it ties with the last that was (equal rows have
    // equal codes): then ids decide, and all must be seen.
    let last = fetched[fetch - 1].0;
    let mut hits: Vec<(Hit, f32)> = fetched.iter().map(|&(s, p)| (rows.hit(query, p), s)).collect();
    hits.sort_unstable_by(|a, b| by_rank(&a.0, &b.0));
    if hits[k - 1].1 <= last {
        return (exhaustive(rows, query, k), true);
    }
    (hits.into_iter().take(k).map(|h| h.0).collect(), false)
}
