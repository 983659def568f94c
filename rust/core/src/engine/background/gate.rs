//! Whether what a cycle trained may act: held-out clicks, and the anchors.

use super::super::config::EngineConfig;
use super::super::learned::Learned;
use super::super::listing::Listing;
use super::super::stats::{Running, dcg};
use super::input::{CycleInput, Pair};
use crate::error::Result;
use crate::item::ItemId;
use crate::kernels;
use crate::lora::BaseLora;
use std::sync::Arc;

/// Competitors that a held-out click is ranked against.
const POOL: usize = 256;

impl CycleInput {
    /// What the anchors would lose in DCG against the live state; `None` without anchors.
    pub(super) fn anchor_loss(&self, candidate: &BaseLora) -> Result<Option<f64>> {
        let Some(anchors) = &self.anchors else {
            return Ok(None);
        };
        let mut next = (*self.learned).clone();
        next.base = Some(Arc::new(candidate.clone()));
        let mut loss = Running::default();
        for i in 0..anchors.len() {
            let listing = Listing::new(anchors.items());
            let candidates = listing.candidates()?;
            let score = |state: &Learned| -> Result<f64> {
                let ranking = state.score(anchors.query(i), &candidates, None)?;
                Ok(dcg(&ranking.learned, &anchors.relevant(i)))
            };
            loss.push(score(&self.learned)? - score(&next)?);
        }
        Ok(Some(loss.mean))
    }

    /// DCG of the held-out clicks among the known items, with the candidate's adapter and with the live one. The click's own
    /// case is taken out, so that the rest of the engine does not simply remember the answer; all others act, recall too, as
    /// they do when it serves.
    pub(super) fn compare(
        &self,
        candidate: &BaseLora,
        gate: &[Pair<'_>],
        config: &EngineConfig,
    ) -> Result<(f64, (f64, f64))> {
        let mut pool: Vec<(&ItemId, Vec<f32>)> = Vec::new();
        let mut known: Vec<_> = self.items.iter().collect();
        known.sort_by_key(|(id, _)| (*id).clone());
        let step = known.len().div_ceil(POOL).max(1);
        for (id, item) in known.into_iter().step_by(step) {
            pool.push((id, item.vector.iter().map(|v| v * item.inv_norm).collect()));
        }
        let mut gain = Running::default();
        // Made once: a request that allocates meanwhile would wait for the allocator at every list that grows here.
        let mut delta = vec![0.0; config.dim];
        let (mut moved, mut others, mut scores) =
            (Vec::new(), Vec::new(), Vec::with_capacity(pool.len() + 1));
        for pair in gate {
            let probe = self.learned.cases.probe(pair.query)?.without_case(pair.case);
            let w = self.learned.cases.params().recall_weight;
            let recall = |id: &ItemId| w * self.learned.cases.recall_of(&probe, id);
            let remembered = recall(pair.item);
            others.clear();
            others.extend(pool.iter().map(|(id, _)| recall(id)));
            let mut score = |base: Option<&BaseLora>| -> Result<f64> {
                moved.clone_from(&pair.start);
                if let Some(base) = base {
                    base.factors(0)?.delta_into(pair.query, &mut delta)?;
                    kernels::axpy(1.0, &delta, &mut moved);
                }
                scores.clear();
                scores.push(kernels::dot(&moved, &pair.vector) + remembered);
                scores.extend(
                    pool.iter()
                        .zip(&others)
                        .filter(|((id, _), _)| *id != pair.item)
                        .map(|((_, v), r)| kernels::dot(&moved, v) + r),
                );
                Ok(dcg(&scores, &[0]))
            };
            gain.push(score(Some(candidate))? - score(self.learned.base.as_deref())?);
        }
        Ok((gain.mean, gain.interval()))
    }
}
