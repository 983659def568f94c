//! The nearest cases of a request: byte-code scan with over-fetch, then exact float32 cosines.

use super::segment::{SEGMENT, Segment, quantise};
use crate::kernels::{self, Score};
use std::sync::Arc;

/// Segments by position; position = 64·segment + slot, ascending with the case ids.
pub(super) type Segments = imbl::Vector<Arc<Segment>>;

/// A position with the exact cosine of its request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hit {
    pub position: u32,
    pub cosine: f32,
}

/// From how many cases per neighbour on the byte scan pays (benches/rust/cases.rs, `probe`).
const BYTE_SCAN_FROM: usize = 3;

/// Cases fetched by byte codes for `k` wanted ones. The codes err by about .0007 in cosine.
fn over_fetch(k: usize) -> usize {
    k.saturating_add(k / 4 + 16)
}

/// The `k` cases of largest cosine with the unit vector `q`, best first, ties to the older case.
pub(super) fn nearest(segments: &Segments, len: usize, q: &[f32], k: usize) -> Vec<Hit> {
    let mut top = Top::new(k.min(len));
    let mut scores = [0.0f32; SEGMENT];
    if len > BYTE_SCAN_FROM.saturating_mul(over_fetch(k)) {
        let mut codes = Vec::with_capacity(q.len());
        quantise(q, &mut codes);
        let mut wide = Top::new(over_fetch(k));
        for (s, segment) in segments.iter().enumerate() {
            segment.approximate(&codes, &mut scores);
            wide.offer(&scores[..segment.len()], (s * SEGMENT) as u32);
        }
        for hit in wide.take() {
            if let Some(segment) = segments.get(hit.position as usize / SEGMENT) {
                let cosine = kernels::dot(segment.query(hit.position as usize % SEGMENT), q);
                top.keys.push(key(cosine, hit.position));
            }
        }
    } else {
        for (s, segment) in segments.iter().enumerate() {
            for (slot, score) in scores[..segment.len()].iter_mut().enumerate() {
                *score = kernels::dot(segment.query(slot), q);
            }
            top.offer(&scores[..segment.len()], (s * SEGMENT) as u32);
        }
    }
    top.take()
}

/// Streaming selection of the k largest: candidates above the running k-th best are kept, and cut to k when 2k are there.
struct Top {
    k: usize,
    keys: Vec<u64>,
    floor: f32,
}

impl Top {
    fn new(k: usize) -> Self {
        Self {
            k,
            keys: Vec::with_capacity(2 * k + SEGMENT),
            floor: f32::NEG_INFINITY,
        }
    }

    /// Offers scores of consecutive positions.
    fn offer(&mut self, scores: &[f32], first: u32) {
        let best = scores.iter().fold(f32::NEG_INFINITY, |m, &v| m.max(v));
        // Equal scores lose to older positions, which came earlier: once k are known, only a larger score can enter.
        if best <= self.floor || self.k == 0 {
            return;
        }
        for (i, &v) in scores.iter().enumerate() {
            if v > self.floor {
                self.keys.push(key(v, first + i as u32));
            }
        }
        if self.keys.len() >= 2 * self.k {
            self.cut();
        }
    }

    fn cut(&mut self) {
        if self.keys.len() >= self.k && self.k > 0 {
            self.keys.select_nth_unstable_by(self.k - 1, |a, b| b.cmp(a));
            self.keys.truncate(self.k);
            self.floor = unkey(self.keys[self.k - 1]).cosine;
        }
    }

    fn take(mut self) -> Vec<Hit> {
        self.cut();
        self.keys.sort_unstable_by(|a, b| b.cmp(a));
        self.keys.into_iter().map(unkey).collect()
    }
}

/// One integer that orders by score, then by older position.
fn key(score: f32, position: u32) -> u64 {
    u64::from(score.key()) << 32 | u64::from(!position)
}

fn unkey(key: u64) -> Hit {
    Hit {
        position: !(key as u32),
        cosine: f32::of_key((key >> 32) as u32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn streaming_selection_is_a_sort(values in prop::collection::vec(-3i8..3, 0..400), k in 0usize..40) {
            let scores: Vec<f32> = values.iter().map(|&v| f32::from(v) * 0.25).collect();
            let mut top = Top::new(k);
            for (i, block) in scores.chunks(SEGMENT).enumerate() {
                top.offer(block, (i * SEGMENT) as u32);
            }
            let got: Vec<u32> = top.take().iter().map(|h| h.position).collect();
            let mut want: Vec<u32> = (0..scores.len() as u32).collect();
            want.sort_by(|&a, &b| scores[b as usize].total_cmp(&scores[a as usize]).then(a.cmp(&b)));
            want.truncate(k);
            prop_assert_eq!(got, want);
        }
    }
}
