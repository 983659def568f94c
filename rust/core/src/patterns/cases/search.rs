//! The nearest cases of a request, coarse to fine: 512-bit sketches, byte codes, exact float32 cosines.

use super::memory::CaseMemory;
use super::segment::{SEGMENT, Segment, quantise};
use crate::kernels::{self, Score};
use crate::patterns::sketch::{BITS, sketch, smallest};
use std::sync::Arc;

/// Segments by position; position = 64·segment + slot, ascending with the case ids.
pub(super) type Segments = imbl::Vector<Arc<Segment>>;

/// A position with the exact cosine of its request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hit {
    pub position: u32,
    pub cosine: f32,
}

/// From how many fetched cases on the byte scan pays (benches/rust/cases.rs, `probe`).
const BYTE_SCAN_FROM: usize = 3;
/// From how many fetched cases on the sketches pay.
const SKETCHES_FROM: usize = 24;
/// Bits beyond the distance of the last case fetched that are still looked at: three standard deviations of a sketch. With
/// 10,000 cases of Banking77 or CLINC150 all but .00003 of the nearest 128 are found, at 20 bits all but .0007 and .0023.
pub(super) const SLACK: i16 = 30;
/// Cases whose vectors are asked for ahead of use.
const AHEAD: usize = 6;
/// Rows of byte codes asked for ahead of use.
const CODES_AHEAD: usize = 24;

/// Cases fetched by byte codes for `k` wanted ones. The codes err by about .0007 in cosine.
pub(super) fn over_fetch(k: usize) -> usize {
    k.saturating_add(k / 4 + 16)
}

/// How a memory of a size is searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Exact,
    Codes,
    Sketches,
}

impl Way {
    pub(super) fn of(len: usize, fetch: usize) -> Self {
        if len <= BYTE_SCAN_FROM.saturating_mul(fetch) {
            Self::Exact
        } else if len <= SKETCHES_FROM.saturating_mul(fetch) {
            Self::Codes
        } else {
            Self::Sketches
        }
    }
}

/// The first look of a search by sketches.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    /// Least distance within which there are enough cases.
    pub last: i16,
    /// Cases nearer than that: too few.
    pub below: usize,
    /// Cases within the slack.
    pub near: usize,
}

/// Cases that were fetched: their keys by the last coarse score and by cosine.
pub(super) type Fetched = Vec<(u64, u64)>;

/// Fetches the cases among which the nearest ones of the unit vector `q` are.
pub(super) fn fetch(memory: &CaseMemory, q: &[f32], k: usize) -> (Fetched, Option<Look>) {
    let fetch = over_fetch(k);
    let way = Way::of(memory.len, fetch);
    if way == Way::Exact {
        let keys = exact(&memory.segments, q, k);
        return (keys.into_iter().map(|key| (key, key)).collect(), None);
    }
    let mut codes = Vec::with_capacity(q.len());
    quantise(q, &mut codes);
    let (found, look) = match way {
        Way::Sketches => by_sketches(memory, q, &codes, fetch),
        _ => (by_codes(&memory.segments, &codes, fetch), None),
    };
    let at = |key: u64| {
        let position = unkey(key).position as usize;
        &memory.segments[position / SEGMENT].cases[position % SEGMENT].vectors
    };
    let mut out = Vec::with_capacity(found.len() + 1);
    for (i, coarse) in found.iter().enumerate() {
        if let Some(next) = found.get(i + AHEAD) {
            // Most of these gradients are wanted right after.
            kernels::prefetch(at(*next));
        }
        out.push((*coarse, fine(*coarse, &at(*coarse)[..q.len()], q)));
    }
    (out, look)
}

/// The key by cosine of a case with the request `row`.
pub(super) fn fine(coarse: u64, row: &[f32], q: &[f32]) -> u64 {
    key(kernels::dot(row, q), unkey(coarse).position)
}

/// The nearest `k` of the fetched ones by cosine, best first, ties to the older case.
pub(super) fn nearest(fetched: &Fetched, k: usize) -> Vec<Hit> {
    let mut top = Top::new(k);
    top.keys.extend(fetched.iter().map(|f| f.1));
    top.take().into_iter().map(unkey).collect()
}

fn exact(segments: &Segments, q: &[f32], k: usize) -> Vec<u64> {
    let mut top = Top::new(k);
    let mut scores = [0.0f32; SEGMENT];
    for (s, segment) in segments.iter().enumerate() {
        for (slot, score) in scores[..segment.len()].iter_mut().enumerate() {
            if slot + AHEAD < segment.len() {
                kernels::prefetch(segment.query(slot + AHEAD));
            }
            *score = kernels::dot(segment.query(slot), q);
        }
        top.offer(&scores[..segment.len()], (s * SEGMENT) as u32);
    }
    top.take()
}

fn by_codes(segments: &Segments, codes: &[i8], fetch: usize) -> Vec<u64> {
    let mut top = Top::new(fetch);
    let mut scores = [0.0f32; SEGMENT];
    for (s, segment) in segments.iter().enumerate() {
        segment.approximate(codes, &mut scores);
        top.offer(&scores[..segment.len()], (s * SEGMENT) as u32);
    }
    top.take()
}

fn by_sketches(memory: &CaseMemory, q: &[f32], codes: &[i8], fetch: usize) -> (Vec<u64>, Option<Look>) {
    let segments: Vec<&Segment> = memory.segments.iter().map(|s| &**s).collect();
    let distances = distances(&segments, q);
    let last = smallest(BITS as i16, |limit| {
        kernels::count_within(&distances, limit) >= fetch
    });
    let limit = last.saturating_add(SLACK);
    let near = positions_within(&distances, limit);
    if 2 * near.len() > memory.len {
        // The sketches do not tell these cases apart.
        return (by_codes(&memory.segments, codes, fetch), None);
    }
    let mut ahead = near
        .iter()
        .map(|p| (*p as usize / SEGMENT, *p as usize % SEGMENT));
    let mut prefetch = |rows: usize| {
        for (s, slot) in ahead.by_ref().take(rows) {
            kernels::prefetch(segments[s].codes(slot));
        }
    };
    prefetch(CODES_AHEAD);
    let mut top = Top::new(fetch);
    let mut scores = [0.0f32; SEGMENT];
    let mut slots = Vec::with_capacity(SEGMENT);
    for group in near.chunk_by(|a, b| *a as usize / SEGMENT == *b as usize / SEGMENT) {
        prefetch(group.len());
        slots.clear();
        slots.extend(group.iter().map(|p| *p as usize % SEGMENT));
        segments[group[0] as usize / SEGMENT].approximate_some(&slots, codes, &mut scores);
        for (position, score) in group.iter().zip(&scores) {
            top.push(*score, *position);
        }
    }
    let look = Look {
        last,
        below: kernels::count_within(&distances, last - 1),
        near: near.len(),
    };
    (top.take(), Some(look))
}

/// Bits by which the sketch of each position differs from that of `q`; positions without a case are out of reach.
fn distances(segments: &[&Segment], q: &[f32]) -> Vec<i16> {
    let looked_for = sketch(q);
    let mut distances = vec![i16::MAX; segments.len() * SEGMENT];
    let (rows, _) = distances.as_chunks_mut::<SEGMENT>();
    for (segment, out) in segments.iter().zip(rows) {
        let blocks = segment.sketches.blocks();
        let (eights, _) = out.as_chunks_mut::<8>();
        kernels::hamming_blocks(blocks, &looked_for, &mut eights[..blocks.len()]);
        out[segment.len()..].fill(i16::MAX);
    }
    distances
}

/// Positions whose distance is at most `limit`, ascending.
fn positions_within(distances: &[i16], limit: i16) -> Vec<u32> {
    let mut out = Vec::with_capacity(distances.len() / 4);
    let (rows, _) = distances.as_chunks::<SEGMENT>();
    for (s, row) in rows.iter().enumerate() {
        let mut within = kernels::within(row, limit);
        while within != 0 {
            out.push((s * SEGMENT) as u32 + within.trailing_zeros());
            within &= within - 1;
        }
    }
    out
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

    /// Offers one score; positions ascend.
    fn push(&mut self, score: f32, position: u32) {
        if score > self.floor {
            self.keys.push(key(score, position));
            if self.keys.len() >= 2 * self.k {
                self.cut();
            }
        }
    }

    fn cut(&mut self) {
        if self.keys.len() >= self.k && self.k > 0 {
            self.keys.select_nth_unstable_by(self.k - 1, |a, b| b.cmp(a));
            self.keys.truncate(self.k);
            self.floor = unkey(self.keys[self.k - 1]).cosine;
        }
    }

    fn take(mut self) -> Vec<u64> {
        self.cut();
        self.keys.sort_unstable_by(|a, b| b.cmp(a));
        self.keys
    }
}

/// One integer that orders by score, then by older position.
pub(super) fn key(score: f32, position: u32) -> u64 {
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
    use super::super::found::Found;
    use super::super::params::CaseParams;
    use super::super::segment::{Case, Codes, Meta};
    use super::*;
    use crate::item::ItemId;
    use crate::rng::{normal, stream};
    use proptest::prelude::*;

    fn case(id: u64, vectors: Vec<f32>) -> Case {
        let meta = Meta {
            items: [ItemId::from("a")].into(),
            source: "click".into(),
            user: "".into(),
        };
        Case::new(id, vectors.into(), 1.0, 0.0, meta)
    }

    /// Requests whose variance along axis i falls as 1/i, as that of sentence embeddings does, or (`flat`) does not.
    fn memory(n: usize, flat: bool) -> (CaseMemory, impl FnMut() -> Vec<f32>) {
        const D: usize = 96;
        let mut rng = stream(5, u64::from(flat));
        let mut request = move || {
            let scale = |i: usize| if flat { 1.0 } else { 1.0 / ((i + 1) as f64).sqrt() };
            let mut q: Vec<f32> = (0..D).map(|i| (scale(i) * normal(&mut rng)) as f32).collect();
            kernels::normalize(&mut q);
            q
        };
        let mut memory = CaseMemory::new(D, CaseParams::default(), 0).unwrap();
        for id in 0..n as u64 {
            let case = case(id, request().into_iter().chain(vec![0.0; D]).collect());
            memory.append(case.clone(), &Codes::of(&case));
        }
        (memory, request)
    }

    #[test]
    fn sketches_lose_next_to_none_of_the_nearest() {
        let k = CaseParams::default().neighbors;
        let n = 2 * SKETCHES_FROM * over_fetch(k);
        for (flat, least) in [(false, 0.999), (true, 0.98)] {
            let (memory, mut request) = memory(n, flat);
            let mut found = 0;
            for _ in 0..20 {
                let q = request();
                let search = |m: &CaseMemory| -> Vec<u32> {
                    nearest(&fetch(m, &q, k).0, k)
                        .iter()
                        .map(|h| h.position)
                        .collect()
                };
                let got = search(&memory);
                let want: Vec<u32> = exact(&memory.segments, &q, k)
                    .iter()
                    .map(|key| unkey(*key).position)
                    .collect();
                found += got.iter().filter(|p| want.contains(p)).count();
                let again = search(&memory.clone());
                assert_eq!(got, again);
            }
            let recall = found as f64 / (20 * k) as f64;
            assert!(recall >= least, "{recall}");
        }
    }

    #[test]
    fn a_search_brought_up_to_date_is_a_new_search() {
        let k = CaseParams::default().neighbors;
        let fetch = over_fetch(k);
        for n in [k, 2 * fetch, 10 * fetch, 2 * SKETCHES_FROM * fetch] {
            let (mut memory, mut request) = memory(n, false);
            let mut helped = 0;
            for round in 0..40 {
                let q = request();
                let found = Found::new(&memory, &q).unwrap();
                for i in 0..1 + round * 3 {
                    let mut near = request();
                    if i % 7 == 0 {
                        // Some come among the nearest.
                        kernels::axpy(3.0, &q, &mut near);
                        kernels::normalize(&mut near);
                    }
                    let vectors: Vec<f32> = near.into_iter().chain(vec![0.0; q.len()]).collect();
                    let case = case(1_000_000 + i as u64, vectors);
                    memory.append(case.clone(), &Codes::of(&case));
                }
                let keys =
                    |f: &Found| -> Vec<u64> { f.hits().iter().map(|h| key(h.cosine, h.position)).collect() };
                if let Some(again) = found.brought_up_to(&memory, &q) {
                    assert_eq!(keys(&again), keys(&Found::new(&memory, &q).unwrap()));
                    helped += 1;
                }
            }
            // By sketches less often: many new ones among the nearest shorten the first look.
            assert!(helped >= 10, "{n}: {helped} of 40");
            let q = request();
            let found = Found::new(&memory, &q).unwrap();
            memory.remove(&[0]);
            assert!(found.brought_up_to(&memory, &q).is_none());
        }
    }

    proptest! {
        #[test]
        fn streaming_selection_is_a_sort(values in prop::collection::vec(-3i8..3, 0..400), k in 0usize..40) {
            let scores: Vec<f32> = values.iter().map(|&v| f32::from(v) * 0.25).collect();
            let mut top = Top::new(k);
            for (i, block) in scores.chunks(SEGMENT).enumerate() {
                top.offer(block, (i * SEGMENT) as u32);
            }
            let got: Vec<u32> = top.take().iter().map(|key| unkey(*key).position).collect();
            let mut want: Vec<u32> = (0..scores.len() as u32).collect();
            want.sort_by(|&a, &b| scores[b as usize].total_cmp(&scores[a as usize]).then(a.cmp(&b)));
            want.truncate(k);
            prop_assert_eq!(got, want);
        }
    }
}
