//! The listwise gradient that a case remembers.

use super::candidates::Candidates;
use crate::error::{Error, Result};
use crate::item::ItemId;
use crate::kernels;
use rustc_hash::FxHashSet;

/// g = |weight| · Σ_j (y_j − p_j) d̂_j with p = softmax(scores/τ): what the ranking should have been, less what it was.
///
/// After a choice (weight > 0) y is uniform over the chosen items. After a rejection (weight < 0) y is p without the rejected
/// items, normalised: the gradient of ln(1 − Σ p_rejected). Flipping the sign of the first gradient instead would push
/// with 1 − p: hardest against an item that is already last, for ever, and not at all against one that is surely first
/// (Banking77, thumbs-down only: hit@1 .61 → .37; this rule with recall: .61 → .68; benches/research/rejections.py).
pub(super) fn listwise(
    chosen: &[ItemId],
    candidates: &Candidates<'_>,
    scores: &[f32],
    temperature: f32,
    weight: f32,
    out: &mut [f32],
) -> Result<()> {
    let is_chosen = mark(chosen, candidates)?;
    let mut p = scores.to_vec();
    kernels::softmax(&mut p, temperature);
    let target = if weight > 0.0 {
        let y = 1.0 / is_chosen.iter().filter(|c| **c).count() as f32;
        is_chosen.iter().map(|&c| if c { y } else { 0.0 }).collect()
    } else {
        softmax_without(&is_chosen, scores, temperature)
    };
    for (j, (p, y)) in p.iter().zip(&target).enumerate() {
        let c = weight.abs() * (y - p) * candidates.inv_norm(j);
        kernels::axpy(c, candidates.vector(j), out);
    }
    Ok(())
}

/// Which candidates the feedback is about; errors unless each of those items is there exactly once.
fn mark(chosen: &[ItemId], candidates: &Candidates<'_>) -> Result<Vec<bool>> {
    let set: FxHashSet<&ItemId> = chosen.iter().collect();
    let marks: Vec<bool> = candidates.ids().iter().map(|id| set.contains(*id)).collect();
    if !set.is_empty() && marks.iter().filter(|c| **c).count() == set.len() {
        return Ok(marks);
    }
    let missing = chosen.iter().find(|c| !candidates.ids().contains(c));
    Err(Error::value(
        "clicked_ids",
        "at least one item, each of them once among the candidates",
        match missing {
            Some(item) => format!("{item}, which is not there"),
            None if set.is_empty() => "none".to_owned(),
            None => "an item that is there twice".to_owned(),
        },
    ))
}

/// The softmax over the candidates that are not marked, 0 for the marked ones. From the scores, not from p: p may have
/// rounded to 0 beside a rejected item.
fn softmax_without(marked: &[bool], scores: &[f32], temperature: f32) -> Vec<f32> {
    let mut rest: Vec<f32> = scores
        .iter()
        .zip(marked)
        .filter(|(_, m)| !**m)
        .map(|(s, _)| *s)
        .collect();
    kernels::softmax(&mut rest, temperature);
    let mut rest = rest.into_iter();
    marked
        .iter()
        .map(|&m| if m { 0.0 } else { rest.next().unwrap_or(0.0) })
        .collect()
}
