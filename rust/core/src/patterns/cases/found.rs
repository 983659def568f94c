//! What a search found, kept so that it need not be done again when only new cases came since.

use super::memory::CaseMemory;
use super::search::{self, Fetched, Hit, Look, SLACK, Way, fetch, fine, key, over_fetch};
use super::segment::{SEGMENT, quantise};
use crate::kernels::Sketch;
use crate::patterns::sketch::sketch;
use std::sync::Arc;

/// The cases that a search fetched, and of which memory. It holds no case but the newest one of that time.
#[derive(Debug, Clone)]
pub struct Found {
    k: usize,
    way: Way,
    fetched: Fetched,
    look: Option<Look>,
    lineage: Arc<()>,
    len: usize,
    /// Position of the newest case, and its vectors, which no other case shares.
    newest: (usize, Arc<[f32]>),
}

impl Found {
    /// Searches for the nearest cases of the unit vector `q`; `None` in an empty memory.
    pub(super) fn new(memory: &CaseMemory, q: &[f32]) -> Option<Self> {
        let tail = memory.segments.last()?;
        let newest = tail.cases.last()?.vectors.clone();
        let k = memory.params.neighbors.min(memory.len);
        let (fetched, look) = fetch(memory, q, k);
        Some(Self {
            k,
            way: Way::of(memory.len, over_fetch(k)),
            fetched,
            look,
            lineage: memory.lineage.clone(),
            len: memory.len,
            newest: ((memory.segments.len() - 1) * SEGMENT + tail.len() - 1, newest),
        })
    }

    /// The nearest cases, best first, ties to the older case.
    pub(super) fn hits(&self) -> Vec<Hit> {
        search::nearest(&self.fetched, self.k)
    }

    /// What a search of `memory` would find, to the bit, if since then cases were only added and the first look still stands.
    pub(super) fn brought_up_to(&self, memory: &CaseMemory, q: &[f32]) -> Option<Self> {
        let k = memory.params.neighbors.min(memory.len);
        let enough = over_fetch(k);
        let (at, newest) = &self.newest;
        let same = memory
            .segments
            .get(at / SEGMENT)
            .and_then(|s| s.cases.get(at % SEGMENT))
            .is_some_and(|c| Arc::ptr_eq(&c.vectors, newest));
        // With more new ones than old ones a new search costs no more.
        let added = memory.len.checked_sub(self.len).filter(|n| *n <= self.len)?;
        if !(same && Arc::ptr_eq(&self.lineage, &memory.lineage) && k == self.k)
            || Way::of(memory.len, enough) != self.way
        {
            return None;
        }
        let mut out = self.clone();
        if added == 0 {
            return Some(out);
        }
        let mut codes = Vec::with_capacity(q.len());
        quantise(q, &mut codes);
        let own = sketch(q);
        let mut scores = [0.0; SEGMENT];
        let mut position = at + 1;
        while position / SEGMENT < memory.segments.len() {
            let segment = &memory.segments[position / SEGMENT];
            let mut slots: Vec<usize> = (position % SEGMENT..segment.len()).collect();
            let first = position - position % SEGMENT;
            position = first + SEGMENT;
            match (self.way, &mut out.look) {
                (Way::Exact, _) => {
                    for slot in slots {
                        let new = key(crate::kernels::dot(segment.query(slot), q), (first + slot) as u32);
                        out.fetched.push((new, new));
                    }
                    continue;
                }
                (Way::Codes, _) => {}
                (Way::Sketches, None) => return None,
                (Way::Sketches, Some(look)) => slots.retain(|&slot| {
                    let d = distance(&own, &segment.sketches.get(slot));
                    look.below += usize::from(d < look.last);
                    let is_near = d <= look.last.saturating_add(SLACK);
                    look.near += usize::from(is_near);
                    is_near
                }),
            }
            segment.approximate_some(&slots, &codes, &mut scores);
            for (slot, score) in slots.iter().zip(&scores) {
                let coarse = key(*score, (first + slot) as u32);
                out.fetched.push((coarse, fine(coarse, segment.query(*slot), q)));
            }
        }
        if out
            .look
            .is_some_and(|l| l.below >= enough || 2 * l.near > memory.len)
        {
            // A search would look less far, or not go by sketches.
            return None;
        }
        out.fetched.sort_unstable_by(|a, b| b.cmp(a));
        out.fetched
            .truncate(if self.way == Way::Exact { k } else { enough });
        let tail = memory.segments.last()?;
        out.newest = (
            (memory.segments.len() - 1) * SEGMENT + tail.len() - 1,
            tail.cases.last()?.vectors.clone(),
        );
        out.len = memory.len;
        Some(out)
    }

    /// Bytes held.
    #[must_use]
    pub fn nbytes(&self) -> usize {
        size_of::<Self>() + 16 * self.fetched.len() + 4 * self.newest.1.len()
    }
}

/// Bits that differ.
fn distance(a: &Sketch, b: &Sketch) -> i16 {
    a.iter().zip(b).map(|(x, y)| (x ^ y).count_ones() as i16).sum()
}
