//! A first look at int8 rows by their sketches, a quarter of a row's codes or less: most rows need no second one.
//!
//! The share of differing bits p of two sketches is their angle over π with a standard deviation of √(p(1 − p)/512). So a row that
//! belongs among the best k differs by at most as much as the k-th best found so far, but for a chance that can be chosen.
//! Where that leaves many rows, as among independent coordinates, nothing is gained and all codes are read.

use super::flat::ByteQuery;
use super::rows::Codes;
use crate::kernels::{self, TopK};
use crate::patterns::sketch::{BITS, Sketches, sketch, smallest};

/// Rows from which a first look is worth it.
const FROM: usize = 2048;
/// Rows whose codes tell how good the k-th best is at least.
const FIRST: usize = 48;
/// Standard deviations that a row may look farther than it is: one in 30,000 does.
const DEVIATIONS: f32 = 4.0;
/// What byte codes may err by in cosine.
const CODES: f32 = 0.003;
/// One in so many rows may be left.
const FEW: usize = 3;
/// Rows that tell whether there is any hope.
const SAMPLE: usize = 1024;
/// Of the sample, whose best are farther than those of all rows, so many may be left.
const HOPE: usize = SAMPLE / 8 * 7;
/// Rows of codes that are asked for ahead of use.
const AHEAD: usize = 16;
/// Rows per turn of the scan by codes.
const TURN: usize = 64;

/// The best `fetch` rows by the product of codes, as [`super::flat`] finds them; none where too many rows look near. `k` of them are
/// wanted.
pub(super) fn scan(
    codes: &Codes,
    sketches: &Sketches,
    query: &[f32],
    bytes: &ByteQuery,
    fetch: usize,
    k: usize,
) -> Option<Vec<(f32, usize)>> {
    let n = codes.scale.len();
    let first = fetch.max(FIRST);
    if n < FROM || first > SAMPLE / 2 {
        return None;
    }
    let looked_for = sketch(query);
    let blocks = sketches.blocks();
    let mut distances = vec![i16::MAX; n.next_multiple_of(TURN)];
    let (eights, _) = distances.as_chunks_mut::<8>();
    let (sample, rest) = eights[..blocks.len()].split_at_mut(SAMPLE / 8);
    kernels::hamming_blocks(&blocks[..SAMPLE / 8], &looked_for, sample);
    let sampled = reach(codes, &sample.as_flattened()[..SAMPLE], bytes, k, first);
    if kernels::count_within(sample.as_flattened(), sampled) > HOPE {
        return None;
    }
    kernels::hamming_blocks(&blocks[SAMPLE / 8..], &looked_for, rest);
    distances[n..].fill(i16::MAX);
    // No more than what the sample allows can be within what all rows allow.
    let limit = reach(codes, &distances, bytes, k, first).min(sampled);
    if FEW * kernels::count_within(&distances, limit) > n {
        return None;
    }
    let mut top = TopK::new(fetch);
    scores(codes, &within(&distances, limit), bytes, |score, row| {
        top.push(score, row)
    });
    let found = top.into_sorted();
    (found.len() == fetch).then_some(found)
}

/// The distance within which the best k are, found with the `first` rows that look nearest.
fn reach(codes: &Codes, distances: &[i16], bytes: &ByteQuery, k: usize, first: usize) -> i16 {
    let last = smallest(BITS as i16, |limit| {
        kernels::count_within(distances, limit) >= first
    });
    let mut top = TopK::new(k);
    scores(codes, &within(distances, last), bytes, |score, row| {
        top.push(score, row)
    });
    let found = top.into_sorted();
    let cosine = found.last().map_or(-1.0, |f| f.0 * bytes.scale - CODES);
    let bits = BITS as f32;
    let p = cosine.clamp(-1.0, 1.0).acos() / std::f32::consts::PI;
    let limit = bits * p + DEVIATIONS * (bits * p * (1.0 - p)).sqrt();
    // At least those that were looked at.
    (limit.ceil() as i16).max(last)
}

/// Rows whose distance is at most `limit`, ascending.
fn within(distances: &[i16], limit: i16) -> Vec<usize> {
    let mut out = Vec::with_capacity(distances.len() / FEW);
    let (turns, _) = distances.as_chunks::<TURN>();
    for (t, turn) in turns.iter().enumerate() {
        let mut near = kernels::within(turn, limit);
        while near != 0 {
            out.push(t * TURN + near.trailing_zeros() as usize);
            near &= near - 1;
        }
    }
    out
}

/// Gives `take` the scores of `rows` by codes.
fn scores(codes: &Codes, rows: &[usize], bytes: &ByteQuery, mut take: impl FnMut(f32, usize)) {
    let d = bytes.codes.len();
    let mut ahead = rows.iter();
    let mut fetch = |count: usize| {
        for row in ahead.by_ref().take(count) {
            kernels::prefetch(&codes.bytes[row * d..][..d]);
        }
    };
    fetch(AHEAD);
    let mut dots = [0i32; AHEAD];
    for rows in rows.chunks(AHEAD) {
        fetch(AHEAD);
        kernels::gather_dot_i8(&codes.bytes, d, rows, &bytes.codes, &mut dots[..rows.len()]);
        for (dot, row) in dots.iter().zip(rows) {
            take(codes.scale[*row] * *dot as f32, *row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::params::{Params, Precision};
    use super::super::rows::{Rows, prepare};
    use super::*;
    use crate::rng::{normal, stream};

    const D: usize = 160;

    fn params() -> Params {
        Params {
            precision: Precision::Int8,
            ..Params::new(D)
        }
    }

    /// Unit rows whose variance along axis i falls as 1/i, as that of sentence embeddings does, or (`flat`) does not.
    fn vectors(n: usize, flat: bool, seed: u64) -> Vec<f32> {
        let mut rng = stream(seed, 0);
        let size = |i: usize| if flat { 1.0 } else { 1.0 / ((i + 1) as f64).sqrt() };
        let mut x: Vec<f32> = (0..n * D)
            .map(|v| (normal(&mut rng) * size(v % D)) as f32)
            .collect();
        prepare("x", &params(), &mut x).unwrap();
        x
    }

    fn rows(n: usize, flat: bool) -> Rows {
        let mut rows = Rows::new(params());
        rows.reserve(n).unwrap();
        for (i, row) in vectors(n, flat, 1).chunks_exact(D).enumerate() {
            rows.push(i as i64, row);
        }
        rows
    }

    fn found(rows: &Rows, query: &[f32], fetch: usize, k: usize) -> Option<Vec<(f32, usize)>> {
        let codes = rows.codes.as_ref().unwrap();
        let sketches = codes.sketches.as_ref().unwrap();
        scan(codes, sketches, query, &ByteQuery::new(query), fetch, k)
    }

    #[test]
    fn the_best_are_found_and_scored_as_by_reading_all_codes() {
        let rows = rows(5_000, false);
        let (mut looked, mut missed) = (0, 0);
        for query in vectors(200, false, 2).chunks_exact(D) {
            for (fetch, k) in [(9, 1), (14, 5), (20, 10)] {
                let Some(found) = found(&rows, query, fetch, k) else {
                    continue;
                };
                looked += k;
                let bytes = ByteQuery::new(query);
                let codes = rows.codes.as_ref().unwrap();
                let mut all: Vec<(f32, usize)> = Vec::new();
                scores(codes, &(0..rows.len()).collect::<Vec<_>>(), &bytes, |s, r| {
                    all.push((s, r))
                });
                all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
                missed += all[..k].iter().filter(|best| !found.contains(best)).count();
            }
        }
        assert!(looked > 2_000, "{looked}");
        assert!(missed * 1_000 <= looked, "{missed} of {looked}");
    }

    #[test]
    fn independent_coordinates_are_left_to_the_codes() {
        let rows = rows(3_000, true);
        let queries = vectors(50, true, 2);
        assert!(queries.chunks_exact(D).all(|q| found(&rows, q, 14, 5).is_none()));
        // A row itself is near whatever the others are.
        assert!(found(&rows, rows.row(77), 9, 1).is_some_and(|f| f[0].1 == 77));
    }

    #[test]
    fn sketches_follow_every_change() {
        let mut rows = rows(300, false);
        for (i, row) in vectors(100, true, 3).chunks_exact(D).enumerate() {
            let last = rows.len() - 1;
            match i % 3 {
                0 => rows.overwrite(7 * i % rows.len(), row),
                1 => {
                    let gone = 5 * i % rows.len();
                    let id = rows.ids[gone];
                    rows.position.remove(&id);
                    rows.move_row(last, gone);
                    rows.pop();
                }
                _ => rows.push(1_000 + i as i64, row),
            }
        }
        let sketches = rows.codes.as_ref().unwrap().sketches.as_ref().unwrap();
        assert_eq!(sketches.len(), rows.len());
        assert!((0..rows.len()).all(|p| sketches.get(p) == sketch(rows.row(p))));
        let again = Rows::from_parts(rows.params, rows.ids.clone(), rows.data.clone()).unwrap();
        let reloaded = again.codes.unwrap().sketches.unwrap();
        assert!((0..rows.len()).all(|p| sketches.get(p) == reloaded.get(p)));
    }
}
