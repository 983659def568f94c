//! Adapters that fire together become one: fewer bytes, and what one learned serves the other's task.
//!
//! Two adapters fire together when a task lies within the threshold of both. A pair is merged if that is a large enough
//! share of the rarer one's selections and both the centroids and the weight changes point the same way. The merged adapter
//! is the mean of the two weight changes by use, in the pool's rank (Eckart & Young 1936), under the older id.

use super::AdapterPool;
use super::entry::Home;
use crate::error::{Error, Result};
use crate::kernels;
use crate::lora::factors::Factors;
use crate::lora::svd::merge_products;
use std::sync::Arc;

/// Share of the rarer one's selections from which two adapters count as firing together.
pub(super) const TOGETHER: f64 = 0.1;
/// Selections between two looks for pairs to merge.
pub(super) const EVERY: u64 = 64;

/// A pair that became one adapter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Merge {
    /// The id that stays.
    pub kept: u64,
    /// The id that now leads to it.
    pub gone: u64,
    /// The smaller of the two cosines, of centroids and of weight changes.
    pub similarity: f64,
    /// Share of the rarer one's selections at which both fired.
    pub together: f64,
    /// ‖mean − merged‖/‖mean‖ of the weight changes: what the rank could not hold.
    pub relative_error: f64,
}

/// ⟨B₁A₁, B₂A₂⟩ = Σ (B₁ᵀB₂) ∘ (A₁A₂ᵀ), with the scales.
fn inner(f: &Factors, g: &Factors) -> f64 {
    let (d, r, q) = (f.dim(), f.rank(), g.rank());
    let mut sum = 0.0;
    for i in 0..r {
        for j in 0..q {
            let bb: f64 = (0..d)
                .map(|k| f64::from(f.b()[k * r + i]) * f64::from(g.b()[k * q + j]))
                .sum();
            let aa = kernels::dot(&f.a()[i * d..(i + 1) * d], &g.a()[j * d..(j + 1) * d]);
            sum += bb * f64::from(aa);
        }
    }
    sum * f64::from(f.scale()) * f64::from(g.scale())
}

/// Cosine of two weight changes; 1 if neither changes anything, 0 if one does.
fn alike(f: &Factors, g: &Factors) -> f64 {
    let (ff, gg) = (inner(f, f), inner(g, g));
    match (ff > 0.0, gg > 0.0) {
        (true, true) => inner(f, g) / (ff * gg).sqrt(),
        (false, false) => 1.0,
        _ => 0.0,
    }
}

impl AdapterPool {
    /// The adapter that an id leads to.
    pub(super) fn resolve(&self, id: u64) -> u64 {
        self.redirects.get(&id).copied().unwrap_or(id)
    }

    /// Counts that two adapters were both near enough to a task.
    pub(super) fn fired(&mut self, one: u64, other: u64) {
        *self.together.entry((one.min(other), one.max(other))).or_default() += 1;
    }

    /// Forgets the counts of an adapter that left the pool.
    pub(super) fn unpair(&mut self, id: u64) {
        self.together.retain(|(a, b), _| *a != id && *b != id);
    }

    fn held(&self, id: u64) -> Option<Arc<Factors>> {
        match &self.entries.get(&id)?.home {
            Home::Memory(a) => Some(a.snapshot()),
            Home::Disk(..) => None,
        }
    }

    /// Similarity and share of a pair in memory.
    fn affinity(&self, one: u64, other: u64) -> Option<(f64, f64)> {
        let (a, b) = (self.entries.get(&one)?, self.entries.get(&other)?);
        let norms = f64::from(kernels::norm(&a.centroid)) * f64::from(kernels::norm(&b.centroid));
        let cos = f64::from(kernels::dot(&a.centroid, &b.centroid)) / norms;
        let similarity = cos.min(alike(&*self.held(one)?, &*self.held(other)?));
        let count = self.together.get(&(one, other)).copied().unwrap_or(0);
        let share = (count as f64 / a.seen.min(b.seen).max(1) as f64).min(1.0);
        similarity.is_finite().then_some((similarity, share))
    }

    /// Merges pairs of `similarity` and share `together` at least, the most similar first. Pairs of which one is spilled
    /// wait until both are in memory. O(pairs · rank² · d).
    pub fn merge(&mut self, similarity: f64, together: f64) -> Result<Vec<Merge>> {
        for (name, value) in [("similarity", similarity), ("together", together)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::value(name, "a number in [0, 1]", value));
            }
        }
        self.take_back()?;
        let mut done = Vec::new();
        loop {
            let pairs = self.together.keys().filter_map(|(one, other)| {
                let (s, t) = self.affinity(*one, *other)?;
                (s >= similarity && t >= together).then_some((s, t, *one, *other))
            });
            let Some((s, t, kept, gone)) = pairs.max_by(|a, b| a.0.total_cmp(&b.0)) else {
                break;
            };
            let relative_error = self.join(kept, gone)?;
            done.push(Merge {
                kept,
                gone,
                similarity: s,
                together: t,
                relative_error,
            });
        }
        Ok(done)
    }

    fn join(&mut self, kept: u64, gone: u64) -> Result<f64> {
        let missing = || Error::value("id", "an adapter in memory", kept);
        let (f, g) = (
            self.held(kept).ok_or_else(missing)?,
            self.held(gone).ok_or_else(missing)?,
        );
        let (one, other) = (&self.entries[&kept], &self.entries[&gone]);
        let share = one.seen as f64 / (one.seen + other.seen).max(1) as f64;
        let merged = merge_products(&[(share, &*f), (1.0 - share, &*g)], self.config.rank)?;
        let Home::Memory(adapter) = &one.home else {
            return Err(missing());
        };
        adapter.write(|lora| {
            // The product carries the scale already.
            let scale = if f.scale() == 0.0 { 1.0 } else { f.scale() };
            lora.set_scale(scale)?;
            lora.set_factors(merged.a, merged.b.iter().map(|v| v / scale).collect())
        })?;
        let Some(other) = self.entries.remove(&gone) else {
            return Err(missing());
        };
        self.order.remove(&other.used);
        if let Some(e) = self.entries.get_mut(&kept) {
            for (c, x) in e.centroid.iter_mut().zip(&other.centroid) {
                *c = (share * f64::from(*c) + (1.0 - share) * f64::from(*x)) as f32;
            }
            e.seen += other.seen;
            e.pinned |= other.pinned;
        }
        // Whoever fired with the one that goes fires with the one that stays.
        let pairs: Vec<_> = self
            .together
            .iter()
            .filter(|((a, b), _)| *a == gone || *b == gone)
            .map(|((a, b), n)| (if *a == gone { *b } else { *a }, *n))
            .collect();
        self.unpair(gone);
        for (partner, n) in pairs.into_iter().filter(|(p, _)| *p != kept) {
            *self
                .together
                .entry((kept.min(partner), kept.max(partner)))
                .or_default() += n;
        }
        for to in self.redirects.values_mut().filter(|to| **to == gone) {
            *to = kept;
        }
        self.redirects.insert(gone, kept);
        self.counters.merged += 1;
        Ok(merged.relative_error)
    }
}
