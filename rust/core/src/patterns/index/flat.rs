//! Exact search: scan every row, keep the best, rescore them with the one score definition, break ties by id.

use super::near;
use super::params::Metric;
use super::rows::{Codes, Rows};
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

/// How many of `hits` are among the exact best, counting those that tie with the last of them.
pub(super) fn shared(hits: &[Hit], exact: &[Hit]) -> usize {
    let bar = exact.last().map_or(f32::INFINITY, |h| h.score);
    hits.iter().filter(|h| h.score >= bar).count().min(exact.len())
}

/// Rows fetched by their codes for `k` results: the float32 rescoring repairs the order among them. On clustered, uniform
/// and sentence-vector data of 16 to 384 dimensions this loses less than one result in 10,000.
pub(super) fn overfetch(k: usize) -> usize {
    k + k / 4 + 8
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
        let scale = kernels::quantize_i8(query, &mut codes);
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
    let all: Vec<usize> = (0..rows.len()).collect();
    let mut hits = rows.hits(query, &all);
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
        Some(codes) => {
            let bytes = ByteQuery::new(query);
            let near = codes.sketches.as_ref();
            near.and_then(|sketches| near::scan(codes, sketches, query, &bytes, fetch, k))
                .unwrap_or_else(|| scan_codes(rows, codes, &bytes, fetch))
        }
    };
    // A row that was not fetched can only belong among the best k if it ties with the last that was (equal rows have
    // equal codes): then ids decide, and all must be seen.
    let last = fetched[fetch - 1].0;
    let positions: Vec<usize> = fetched.iter().map(|f| f.1).collect();
    let scanned = fetched.iter().map(|f| f.0);
    let mut hits: Vec<(Hit, f32)> = rows.hits(query, &positions).into_iter().zip(scanned).collect();
    hits.sort_unstable_by(|a, b| by_rank(&a.0, &b.0));
    if hits[k - 1].1 <= last {
        return (exhaustive(rows, query, k), true);
    }
    (hits.into_iter().take(k).map(|h| h.0).collect(), false)
}

/// Rows fetched beyond `k` by a batched scan, whose sums round differently from the final scores.
const MARGIN: usize = 8;

/// Queries from which one pass over the rows for all of them is cheaper than a scan for each, also than one of codes.
const BATCH: usize = 4;

/// [`search`] for many prepared queries: one pass over the float32 rows where the metric is a product.
pub(super) fn search_batch(rows: &Rows, queries: &[f32], k: usize) -> Vec<(Vec<Hit>, bool)> {
    let d = rows.params.dim;
    let fetch = k.saturating_add(MARGIN);
    let product = rows.params.metric != Metric::Euclidean;
    if queries.len() < BATCH * d || fetch >= rows.len() || !product {
        return queries
            .chunks_exact(d)
            .map(|q| search(rows, q, k, rows.codes.as_ref()))
            .collect();
    }
    let found = kernels::scan_top_k_batch(&rows.data, rows.len(), d, queries, fetch);
    let settle = |(q, fetched): (&[f32], Vec<(f32, usize)>)| {
        // Scores are final; what was fetched is right up to rounding.
        let outside = fetched[fetch - 1].0 + rows.rounding(q);
        let mut hits: Vec<Hit> = fetched
            .iter()
            .map(|&(s, p)| Hit {
                id: rows.ids[p],
                score: s + 0.0,
            })
            .collect();
        hits.sort_unstable_by(by_rank);
        hits.truncate(k);
        if hits[k - 1].score <= outside {
            (exhaustive(rows, q, k), true)
        } else {
            (hits, false)
        }
    };
    queries.chunks_exact(d).zip(found).map(settle).collect()
}
