//! Exact search: scan every row, keep the best, rescore them with the one score definition, break ties by id.

use super::params::{Metric, Precision};
use super::rows::{Rows, quantize};
use crate::kernels;
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

/// Rows fetched beyond `k` by a float32 scan, so that rounding in the scan and ties at the edge show up.
const MARGIN: usize = 8;

/// Rows fetched by an int8 scan for `k` results: the float32 rescoring repairs the order among them.
fn overfetch(k: usize) -> usize {
    2 * k + 16
}

/// Best `k` of `values`-producing blocks; a plain array kept sorted, since `k` is small and insertions are rare.
struct Best {
    k: usize,
    kept: Vec<(f32, u32)>,
}

impl Best {
    fn new(k: usize) -> Self {
        Self {
            k,
            kept: Vec::with_capacity(k + 1),
        }
    }

    fn floor(&self) -> f32 {
        if self.kept.len() < self.k {
            f32::NEG_INFINITY
        } else {
            self.kept[self.k - 1].0
        }
    }

    fn offer(&mut self, first: usize, scores: &[f32]) {
        let mut floor = self.floor();
        for (i, &s) in scores.iter().enumerate() {
            // Positions come in rising order: an equal score behind a full list never enters.
            if s > floor || self.kept.len() < self.k {
                let at = self.kept.partition_point(|kept| kept.0 >= s);
                self.kept.insert(at, (s, (first + i) as u32));
                self.kept.truncate(self.k);
                floor = self.floor();
            }
        }
    }
}

/// Rows per block: scores of a block stay in registers and L1.
const BLOCK: usize = 64;

fn scan(rows: &Rows, query: &[f32], k: usize) -> Vec<(f32, u32)> {
    let d = rows.params.dim;
    let mut best = Best::new(k);
    let mut scores = [0.0f32; BLOCK];
    for (b, block) in rows.data.chunks(BLOCK * d).enumerate() {
        let scores = &mut scores[..block.len() / d];
        match rows.params.metric {
            Metric::Cosine | Metric::Dot => kernels::gemv(block, d, query, scores),
            Metric::Euclidean => {
                for (s, row) in scores.iter_mut().zip(block.chunks_exact(d)) {
                    *s = -kernels::squared_l2(query, row);
                }
            }
        }
        best.offer(b * BLOCK, scores);
    }
    best.kept
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

fn scan_bytes(rows: &Rows, query: &ByteQuery, k: usize) -> Option<Vec<(f32, u32)>> {
    let codes = rows.codes.as_ref()?;
    let d = rows.params.dim;
    let mut best = Best::new(k);
    let mut dots = [0i32; BLOCK];
    let mut scores = [0.0f32; BLOCK];
    for (b, block) in codes.bytes.chunks(BLOCK * d).enumerate() {
        let (first, len) = (b * BLOCK, block.len() / d);
        kernels::gemv_i8(block, d, &query.codes, &mut dots[..len]);
        let scale = &codes.scale[first..first + len];
        if rows.params.metric == Metric::Euclidean {
            let squared = &codes.squared_norm[first..first + len];
            for i in 0..len {
                scores[i] = 2.0 * query.scale * scale[i] * dots[i] as f32 - squared[i];
            }
        } else {
            for i in 0..len {
                scores[i] = scale[i] * dots[i] as f32;
            }
        }
        best.offer(first, &scores[..len]);
    }
    Some(best.kept)
}

/// Exact scores of every row, the best `k` in rank order.
fn exhaustive(rows: &Rows, query: &[f32], k: usize) -> Vec<Hit> {
    let mut hits: Vec<Hit> = (0..rows.len())
        .map(|i| Hit {
            id: rows.ids[i],
            score: rows.score(query, i),
        })
        .collect();
    if k < hits.len() && k > 0 {
        hits.select_nth_unstable_by(k - 1, by_rank);
        hits.truncate(k);
    }
    hits.sort_unstable_by(by_rank);
    hits
}

/// Rescores fetched positions; `None` when rows outside could belong among the best `k` (ties at the edge).
fn settle(rows: &Rows, query: &[f32], fetched: &[(f32, u32)], k: usize, exact: bool) -> Option<Vec<Hit>> {
    let mut scored: Vec<(Hit, f32)> = fetched
        .iter()
        .map(|&(approximate, p)| {
            let p = p as usize;
            (
                Hit {
                    id: rows.ids[p],
                    score: rows.score(query, p),
                },
                approximate,
            )
        })
        .collect();
    scored.sort_unstable_by(|a, b| by_rank(&a.0, &b.0));
    let (last, kth) = (fetched.last()?.0, scored.get(k - 1)?);
    let tied = if exact {
        kth.0.score - last <= rows.rounding(query)
    } else {
        // Equal rows have equal codes and equal integer products: only an exact tie can hide another copy.
        kth.1 <= last
    };
    if tied {
        return None;
    }
    scored.truncate(k);
    Some(scored.into_iter().map(|s| s.0).collect())
}

/// The best `k` rows for a prepared query, and whether a tie forced the slow path.
pub(super) fn search(rows: &Rows, query: &[f32], k: usize, precision: Precision) -> (Vec<Hit>, bool) {
    let (fetch, exact) = match precision {
        Precision::Float32 => (k.saturating_add(MARGIN), true),
        Precision::Int8 => (overfetch(k), false),
    };
    if fetch >= rows.len() {
        return (exhaustive(rows, query, k), false);
    }
    let fetched = if exact {
        scan(rows, query, fetch)
    } else {
        scan_bytes(rows, &ByteQuery::new(query), fetch).unwrap_or_default()
    };
    match settle(rows, query, &fetched, k, exact) {
        Some(hits) => (hits, false),
        None => (exhaustive(rows, query, k), true),
    }
}
