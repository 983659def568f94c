//! What is ranked: ids with vectors, and the scores that come back.

use crate::error::{Error, Result, check_dim, check_finite};
use crate::item::ItemId;
use crate::kernels;
use std::sync::OnceLock;

/// Items to rank: ids and vectors side by side. Vectors of any norm; they count with unit length, a zero vector scores 0.
#[derive(Debug, Clone)]
pub struct Candidates<'a> {
    ids: &'a [&'a ItemId],
    vectors: &'a [&'a [f32]],
    inv_norms: Vec<f32>,
}

impl<'a> Candidates<'a> {
    /// Checks lengths and finiteness and measures the norms. O(n·d).
    pub fn new(ids: &'a [&'a ItemId], vectors: &'a [&'a [f32]], dim: usize) -> Result<Self> {
        for v in vectors {
            check_dim("vectors", dim, v.len())?;
            check_finite("vectors", v)?;
        }
        let inv_norms = vectors.iter().map(|v| inverse(kernels::norm(v))).collect();
        Self::with_norms(ids, vectors, inv_norms)
    }

    /// Candidates whose vectors were checked before; `inv_norms` holds 1/‖d‖, 0 for a zero vector.
    pub fn with_norms(ids: &'a [&'a ItemId], vectors: &'a [&'a [f32]], inv_norms: Vec<f32>) -> Result<Self> {
        if ids.len() != vectors.len() || ids.len() != inv_norms.len() {
            return Err(Error::shape(
                "vectors",
                format!("one vector for each of {} ids", ids.len()),
                format!("{} vectors", vectors.len()),
            ));
        }
        Ok(Self {
            ids,
            vectors,
            inv_norms,
        })
    }

    /// Number of candidates.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// True without candidates.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The ids, in the caller's order.
    #[must_use]
    pub fn ids(&self) -> &'a [&'a ItemId] {
        self.ids
    }

    /// Positions of the given items, each once, in their order; errors at one that is not there.
    pub fn find(&self, name: &'static str, items: &[ItemId]) -> Result<Vec<usize>> {
        let mut out = Vec::with_capacity(items.len());
        for item in items {
            let Some(j) = self.ids.iter().position(|id| *id == item) else {
                return Err(Error::value(
                    name,
                    "items among the candidates",
                    format!("{item}, which is not there"),
                ));
            };
            if !out.contains(&j) {
                out.push(j);
            }
        }
        Ok(out)
    }

    /// Vector of candidate `i` as it came.
    #[must_use]
    pub fn vector(&self, i: usize) -> &'a [f32] {
        self.vectors[i]
    }

    /// 1/‖d‖ of candidate `i`.
    #[must_use]
    pub fn inv_norm(&self, i: usize) -> f32 {
        self.inv_norms[i]
    }

    /// out\[i\] += x·d̂ᵢ.
    pub(super) fn add_dots(&self, x: &[f32], out: &mut [f32]) {
        for ((o, v), inv) in out.iter_mut().zip(self.vectors).zip(&self.inv_norms) {
            *o += kernels::dot(x, v) * inv;
        }
    }
}

/// 1/x, 0 for 0.
pub(super) fn inverse(x: f32) -> f32 {
    if x > 0.0 && x.is_finite() { 1.0 / x } else { 0.0 }
}

/// Scores of one ranking with their parts; reuse it to save allocations.
#[derive(Debug, Clone, Default)]
pub struct Scored {
    /// The frozen score: the caller's, or the cosine.
    pub base: Vec<f32>,
    /// r(d): in 0..=1, below 0 only for rejected items.
    pub recall: Vec<f32>,
    /// s(d) = base + (û − q)·d + w·r(d); the base itself, bit for bit, without cases.
    pub scores: Vec<f32>,
    /// The probe's number of each candidate; empty if nobody asked.
    pub(super) numbers: Vec<u32>,
    /// (q − q̄)·d̂ of each candidate, once somebody asked.
    pub(super) novelty: OnceLock<Vec<f32>>,
    /// Something was taken out that the rule had put in.
    pub(super) withheld: bool,
}

impl Scored {
    /// Takes the recall of candidate `i`, which counted `weight` times, out of its score.
    pub fn withhold_recall(&mut self, i: usize, weight: f32) {
        self.scores[i] -= weight * self.recall[i];
        self.recall[i] = 0.0;
        self.withheld = true;
    }
}

impl PartialEq for Scored {
    fn eq(&self, other: &Self) -> bool {
        self.base == other.base && self.recall == other.recall && self.scores == other.scores
    }
}
