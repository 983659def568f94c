//! Up to 64 cases in the order of their ids, shared between snapshots until one of them changes.

use super::counts::Items;
use crate::item::ItemId;
use crate::kernels::{self, Sketch};
use crate::patterns::sketch::{Sketches, sketch};
use std::mem::size_of;
use std::sync::Arc;

/// Identifier of a case: ascending, never used twice by one memory.
pub type CaseId = u64;

/// Cases per segment: the unit of copy-on-write.
pub(super) const SEGMENT: usize = 64;

/// What is known of a case besides its vectors.
#[derive(Debug)]
pub(super) struct Meta {
    /// Items that the feedback is about, each once.
    pub items: Box<[ItemId]>,
    /// Where the feedback came from.
    pub source: Arc<str>,
    /// Whose feedback it is.
    pub user: Arc<str>,
}

/// One case. Cloning shares its vectors.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub id: CaseId,
    /// The request (unit length), then the gradient: 2d floats.
    pub vectors: Arc<[f32]>,
    /// |g|: how much the case has to say.
    pub pull: f32,
    /// Signed weight m: negative for a rejection.
    pub weight: f32,
    /// Seconds since the epoch. Here, beside the weight, because a request reads it of every neighbour.
    pub at: f64,
    pub meta: Arc<Meta>,
}

impl Case {
    /// From the request and its gradient, side by side.
    pub(super) fn new(id: CaseId, vectors: Arc<[f32]>, weight: f32, at: f64, meta: Meta) -> Self {
        let pull = kernels::norm(&vectors[vectors.len() / 2..]);
        Self {
            id,
            vectors,
            pull,
            weight,
            at,
            meta: Arc::new(meta),
        }
    }

    /// Bytes this case holds, with its sketch, its byte codes and its share of the segment.
    pub(super) fn nbytes(&self) -> usize {
        let fixed = size_of::<Self>() + size_of::<Sketch>() + size_of::<Meta>() + 3 * 16 + size_of::<f32>();
        let items: usize = self.meta.items.iter().map(id_bytes).sum();
        fixed
            + self.vectors.len() * 4
            + self.vectors.len() / 2
            + items
            + self.meta.source.len()
            + self.meta.user.len()
    }
}

fn id_bytes(id: &ItemId) -> usize {
    size_of::<ItemId>()
        + match id {
            ItemId::Int(_) | ItemId::Opaque(_) => 0,
            ItemId::Str(s) => s.len() + 16,
            ItemId::Bytes(b) => b.len() + 16,
            ItemId::Tuple(t) => t.iter().map(id_bytes).sum::<usize>() + 16,
        }
}

/// What the scan reads of a request instead of its floats.
#[derive(Debug)]
pub(super) struct Codes {
    sketch: Sketch,
    bytes: Vec<i8>,
    scale: f32,
}

impl Codes {
    pub(super) fn of(case: &Case) -> Self {
        let q = &case.vectors[..case.vectors.len() / 2];
        let mut bytes = Vec::with_capacity(q.len());
        let scale = quantise(q, &mut bytes);
        Self {
            sketch: sketch(q),
            bytes,
            scale,
        }
    }
}

/// A run of cases. Sketches and byte codes lie side by side for the scan; vectors are shared one by one, so that copying a
/// segment to append to it moves its codes and no floats.
#[derive(Debug, Default)]
pub(super) struct Segment {
    pub cases: Vec<Case>,
    pub sketches: Sketches,
    codes: Vec<i8>,
    scales: Vec<f32>,
    /// What each case is about, here so that recall need not visit the cases. Four bytes that the budget does not count.
    about: Vec<Items>,
}

impl Clone for Segment {
    /// With room to append: a segment is cloned to be written.
    fn clone(&self) -> Self {
        let room = (self.len() + 1).next_power_of_two().min(SEGMENT);
        let dim = self.codes.len().checked_div(self.len()).unwrap_or(0);
        let mut out = Self {
            cases: Vec::with_capacity(room),
            sketches: self.sketches.with_room(room),
            codes: Vec::with_capacity(room * dim),
            scales: Vec::with_capacity(room),
            about: Vec::with_capacity(room),
        };
        out.cases.extend_from_slice(&self.cases);
        out.codes.extend_from_slice(&self.codes);
        out.scales.extend_from_slice(&self.scales);
        out.about.extend_from_slice(&self.about);
        out
    }
}

impl Segment {
    pub(super) fn len(&self) -> usize {
        self.cases.len()
    }

    /// Appends a case about the items of `about`.
    pub(super) fn push(&mut self, case: Case, codes: &Codes, about: Items) {
        self.sketches.push(&codes.sketch);
        self.codes.extend_from_slice(&codes.bytes);
        self.scales.push(codes.scale);
        self.cases.push(case);
        self.about.push(about);
    }

    /// Appends the case in `slot` of another segment with its codes.
    fn adopt(&mut self, from: &Self, slot: usize) {
        self.codes.extend_from_slice(from.codes(slot));
        self.sketches.push(&from.sketches.get(slot));
        self.scales.push(from.scales[slot]);
        self.cases.push(from.cases[slot].clone());
        self.about.push(from.about[slot]);
    }

    /// The cases for which `keep` holds.
    pub(super) fn filtered(&self, keep: impl Fn(usize) -> bool) -> Self {
        let mut out = Self::default();
        for slot in (0..self.len()).filter(|&s| keep(s)) {
            out.adopt(self, slot);
        }
        out
    }

    /// Both in order.
    pub(super) fn joined(&self, next: &Self) -> Self {
        let mut out = self.clone();
        for slot in 0..next.len() {
            out.adopt(next, slot);
        }
        out
    }

    /// The request of the case in `slot`.
    pub(super) fn query(&self, slot: usize) -> &[f32] {
        let v = &self.cases[slot].vectors;
        &v[..v.len() / 2]
    }

    /// The gradient of the case in `slot`.
    pub(super) fn gradient(&self, slot: usize) -> &[f32] {
        let v = &self.cases[slot].vectors;
        &v[v.len() / 2..]
    }

    /// What the case in `slot` is about.
    pub(super) fn about(&self, slot: usize) -> Items {
        self.about[slot]
    }

    /// Approximate cosines of all cases with a request given in byte codes, up to the request's own scale.
    pub(super) fn approximate(&self, codes: &[i8], out: &mut [f32; SEGMENT]) {
        let mut sums = [0i32; SEGMENT];
        let n = self.len();
        kernels::gemv_i8(&self.codes, codes.len(), codes, &mut sums[..n]);
        for ((o, s), scale) in out.iter_mut().zip(&sums[..n]).zip(&self.scales) {
            *o = *s as f32 * scale;
        }
    }

    /// The same for the cases in `slots`.
    pub(super) fn approximate_some(&self, slots: &[usize], codes: &[i8], out: &mut [f32; SEGMENT]) {
        let mut sums = [0i32; SEGMENT];
        kernels::gather_dot_i8(&self.codes, codes.len(), slots, codes, &mut sums[..slots.len()]);
        for ((o, s), slot) in out.iter_mut().zip(&sums).zip(slots) {
            *o = *s as f32 * self.scales[*slot];
        }
    }

    /// The byte codes of the case in `slot`.
    pub(super) fn codes(&self, slot: usize) -> &[i8] {
        let d = self.codes.len() / self.len();
        &self.codes[slot * d..(slot + 1) * d]
    }
}

/// Appends symmetric byte codes of `x` and returns their step.
pub(super) fn quantise(x: &[f32], codes: &mut Vec<i8>) -> f32 {
    let start = codes.len();
    codes.resize(start + x.len(), 0);
    kernels::quantize_i8(x, &mut codes[start..])
}
