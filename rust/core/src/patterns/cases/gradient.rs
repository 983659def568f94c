//! The listwise gradient that a case remembers.

use super::candidates::Candidates;
use crate::error::{Error, Result};
use crate::item::ItemId;
use crate::kernels;
use rustc_hash::FxHashSet;

/// g = weight · Σ_j (y_j − p_j) d̂_j with p = softmax(scores/τ) and y uniform over the items that the feedback is about.
pub(super) fn listwise(
    chosen: &[ItemId],
    candidates: &Candidates<'_>,
    scores: &[f32],
    temperature: f32,
    weight: f32,
    out: &mut [f32],
) -> Result<()> {
    let set: FxHashSet<&ItemId> = chosen.iter().collect();
    let is_chosen: Vec<bool> = candidates.ids().iter().map(|id| set.contains(*id)).collect();
    if set.is_empty() || is_chosen.iter().filter(|c| **c).count() != set.len() {
        let missing = chosen.iter().find(|c| !candidates.ids().contains(c));
        return Err(Error::value(
            "clicked_ids",
            "at least one item, each of them once among the candidates",
            missing.map_or_else(
                || "none, or one that is there twice".to_owned(),
                |m| format!("{m} is not there"),
            ),
        ));
    }
    let mut p = scores.to_vec();
    kernels::softmax(&mut p, temperature);
    let y = 1.0 / set.len() as f32;
    for (j, (p, chosen)) in p.iter().zip(is_chosen).enumerate() {
        let c = weight * (if chosen { y } else { 0.0 } - p) * candidates.inv_norm(j);
        kernels::axpy(c, candidates.vector(j), out);
    }
    Ok(())
}
