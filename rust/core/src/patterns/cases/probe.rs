//! What a memory has to say about one request: one neighbour search that everything else reads.

use super::aging::{left, seconds};
use super::counts::{Counts, Items};
use super::credit::Credit;
use super::found::Found;
use super::memory::CaseMemory;
use super::params::CaseParams;
use super::search::Segments;
use super::segment::{CaseId, SEGMENT, Segment};
use crate::item::ItemId;
use crate::kernels;
use std::sync::{Arc, OnceLock};

/// Kernel width of the mean of similar requests that the evidence term subtracts.
const MEAN_WIDTH: f32 = 0.1;

/// A neighbour with its kernel weights.
#[derive(Debug, Clone, Copy)]
pub(super) struct Neighbor {
    pub position: u32,
    pub cosine: f32,
    /// Items of the case.
    about: Items,
    /// Adapter weight a_k, by age.
    pub a: f32,
    /// Signed recall weight m_k·b_k, by age.
    pub b: f64,
}

/// The nearest cases of a request and what follows from them. It pins the cases that it saw: later changes of the memory
/// do not reach it.
#[derive(Debug, Clone)]
pub struct Probe {
    pub(super) params: CaseParams,
    segments: Segments,
    counts: Counts,
    found: Option<Arc<Found>>,
    pub(super) near: Vec<Neighbor>,
    unit: Vec<f32>,
    /// Σ a_k g_k.
    pull: Vec<f32>,
    adapted: Vec<f32>,
    /// û − q, both of unit length.
    delta: Vec<f32>,
    mean: OnceLock<Mean>,
    credit: OnceLock<Credit>,
}

/// Σ c_k q_k and Σ c_k at [`MEAN_WIDTH`].
#[derive(Debug, Clone)]
struct Mean {
    sum: Vec<f32>,
    mass: f32,
}

impl Probe {
    pub(super) fn new(memory: &CaseMemory, q: &[f32], earlier: Option<&Found>) -> Self {
        let params = memory.params;
        let mut unit = q.to_vec();
        let has_direction = kernels::normalize(&mut unit) > 0.0;
        let found = has_direction.then(|| {
            earlier
                .and_then(|f| f.brought_up_to(memory, &unit))
                .or_else(|| Found::new(memory, &unit))
        });
        let found = found.flatten().map(Arc::new);
        let hits = found.as_ref().map_or_else(Vec::new, |f| f.hits());
        let mut probe = Self {
            params,
            segments: memory.segments.clone(),
            counts: memory.counts.clone(),
            found,
            near: Vec::with_capacity(hits.len()),
            pull: vec![0.0; if hits.is_empty() { 0 } else { q.len() }],
            adapted: q.to_vec(),
            delta: Vec::new(),
            unit,
            mean: OnceLock::new(),
            credit: OnceLock::new(),
        };
        let kernel = |width: f32| {
            let mut k: Vec<f32> = hits.iter().map(|h| (h.cosine - 1.0) / width).collect();
            kernels::exp(&mut k);
            k
        };
        let (a, b) = (kernel(params.adapt_width), kernel(params.recall_width));
        let half_life = params.half_life_days.map(seconds);
        for (i, hit) in hits.iter().enumerate() {
            let (segment, slot) = locate(&probe.segments, hit.position);
            let case = &segment.cases[slot];
            let (mut a, mut b) = (a[i], f64::from(b[i]) * f64::from(case.weight));
            if let Some(half_life) = half_life {
                let left = left(memory.clock - case.at, half_life);
                a *= left as f32;
                b *= left;
            }
            kernels::axpy(a, segment.gradient(slot), &mut probe.pull);
            probe.near.push(Neighbor {
                position: hit.position,
                cosine: hit.cosine,
                about: segment.about(slot),
                a,
                b,
            });
        }
        if !probe.near.is_empty() {
            probe.turn();
        }
        probe
    }

    /// û = (q + η·pull)/|…|, and q itself where that has no direction.
    fn turn(&mut self) {
        let mut u = self.unit.clone();
        kernels::axpy(self.params.eta, &self.pull, &mut u);
        let norm = kernels::normalize(&mut u);
        if !(norm > 0.0 && norm.is_finite()) {
            u.copy_from_slice(&self.unit);
        }
        self.delta = u.iter().zip(&self.unit).map(|(u, q)| u - q).collect();
        self.adapted = u;
    }

    /// The request with unit length (zero for a zero request).
    #[must_use]
    pub fn query(&self) -> &[f32] {
        &self.unit
    }

    /// û; without cases the request as it came, bit for bit.
    #[must_use]
    pub fn adapted(&self) -> &[f32] {
        &self.adapted
    }

    /// û − q, empty without cases.
    #[must_use]
    pub fn delta(&self) -> &[f32] {
        &self.delta
    }

    /// True if no case speaks to the request.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.near.is_empty()
    }

    /// Number of cases that speak to the request.
    #[must_use]
    pub fn len(&self) -> usize {
        self.near.len()
    }

    /// Cosine of the nearest case.
    #[must_use]
    pub fn nearest(&self) -> Option<f32> {
        self.near.first().map(|n| n.cosine)
    }

    /// What the search found; `None` without cases.
    #[must_use]
    pub fn found(&self) -> Option<&Arc<Found>> {
        self.found.as_ref()
    }

    /// Bytes held, without the cases that it shares with the memory.
    #[must_use]
    pub fn nbytes(&self) -> usize {
        // Four vectors, the mean, and the credit at 16 bytes for each of at least two places per item.
        self.near.len() * (size_of::<Neighbor>() + 64) + self.unit.len() * 20 + size_of::<Self>()
    }

    /// Ids and cosines of the neighbours, best first, ties to the older case.
    pub fn neighbors(&self) -> impl Iterator<Item = (CaseId, f32)> + '_ {
        self.near.iter().map(|n| {
            let (segment, slot) = locate(&self.segments, n.position);
            (segment.cases[slot].id, n.cosine)
        })
    }

    /// Number of an item in [`Self::credit`].
    pub(super) fn number(&self, item: &ItemId) -> u32 {
        self.counts.number(item)
    }

    /// r(d) of one item.
    pub(super) fn recall_of(&self, item: &ItemId) -> f32 {
        self.credit()
            .of(self.number(item), f64::from(self.params.shrinkage))
    }

    /// Items of the neighbours with their signed recall weight.
    pub(super) fn credit(&self) -> &Credit {
        self.credit.get_or_init(|| {
            let items = |n: &Neighbor| {
                if n.about.has_more() {
                    self.items(n).len()
                } else {
                    1
                }
            };
            let mut credit = Credit::with_room(self.near.iter().map(items).sum());
            for n in &self.near {
                credit.weigh(n.b);
                if n.about.has_more() {
                    self.items(n).iter().for_each(|i| credit.add(self.number(i), n.b));
                } else {
                    credit.add(n.about.first(), n.b);
                }
            }
            credit
        })
    }

    /// Items of a neighbour.
    fn items(&self, n: &Neighbor) -> &[ItemId] {
        let (segment, slot) = locate(&self.segments, n.position);
        &segment.cases[slot].meta.items
    }

    /// q − q̄ with q̄ the kernel mean of the neighbours' requests; zeros without cases.
    #[must_use]
    pub fn novelty(&self) -> Vec<f32> {
        if self.near.is_empty() {
            return vec![0.0; self.unit.len()];
        }
        let mean = self.mean.get_or_init(|| self.sum_queries());
        self.unit
            .iter()
            .zip(&mean.sum)
            .map(|(q, s)| q - s / mean.mass)
            .collect()
    }

    /// Weights are relative to the nearest case, so that the mass is at least 1.
    fn sum_queries(&self) -> Mean {
        let best = self.nearest().unwrap_or(0.0);
        let mut mean = Mean {
            sum: vec![0.0; self.unit.len()],
            mass: 0.0,
        };
        for n in &self.near {
            let c = ((n.cosine - best) / MEAN_WIDTH).exp();
            let (segment, slot) = locate(&self.segments, n.position);
            kernels::axpy(c, segment.query(slot), &mut mean.sum);
            mean.mass += c;
        }
        mean
    }

    /// The same request as if the cases about any of `items` were not among the neighbours; no others move up.
    #[must_use]
    pub fn without(&self, items: &[&ItemId]) -> Self {
        let numbers: Vec<u32> = items.iter().map(|i| self.number(i)).collect();
        self.without_where(|n| {
            numbers.contains(&n.about.first())
                || n.about.has_more() && self.items(n).iter().any(|i| items.contains(&i))
        })
    }

    /// The same request as if one case had never been.
    #[must_use]
    pub fn without_case(&self, case: CaseId) -> Self {
        self.without_where(|n| {
            let (segment, slot) = locate(&self.segments, n.position);
            segment.cases[slot].id == case
        })
    }

    fn without_where(&self, goes: impl Fn(&Neighbor) -> bool) -> Self {
        let mut out = self.clone();
        out.near.retain(|n| {
            let gone = goes(n);
            if gone {
                let (segment, slot) = locate(&self.segments, n.position);
                kernels::axpy(-n.a, segment.gradient(slot), &mut out.pull);
            }
            !gone
        });
        if out.near.len() == self.near.len() {
            return out;
        }
        out.mean = OnceLock::new();
        out.credit = OnceLock::new();
        if out.near.is_empty() {
            out.adapted.clone_from(&self.unit);
            out.delta.clear();
        } else {
            out.turn();
        }
        out
    }
}

fn locate(segments: &Segments, position: u32) -> (&Segment, usize) {
    // Positions come from a scan of these very segments.
    (
        &segments[position as usize / SEGMENT],
        position as usize % SEGMENT,
    )
}
