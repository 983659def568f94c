//! One request as the learned state sees it: its candidates, its scores, and what was said about it.

use super::items::Item;
use crate::error::Result;
use crate::item::ItemId;
use crate::kernels;
use crate::patterns::cases::{Candidates, Probe, Scored};
use std::sync::Arc;

/// Candidates of one request, borrowed from their items.
pub struct Listing<'a> {
    ids: Vec<&'a ItemId>,
    vectors: Vec<&'a [f32]>,
    inv_norms: Vec<f32>,
}

impl<'a> Listing<'a> {
    /// Over the candidates at hand.
    #[must_use]
    pub fn new(items: &'a [Arc<Item>]) -> Self {
        Self {
            ids: items.iter().map(|i| &i.id).collect(),
            vectors: items.iter().map(|i| &*i.vector).collect(),
            inv_norms: items.iter().map(|i| i.inv_norm).collect(),
        }
    }

    /// Only the given positions.
    #[must_use]
    pub fn subset(&self, positions: &[usize]) -> Self {
        Self {
            ids: positions.iter().map(|&i| self.ids[i]).collect(),
            vectors: positions.iter().map(|&i| self.vectors[i]).collect(),
            inv_norms: positions.iter().map(|&i| self.inv_norms[i]).collect(),
        }
    }

    /// The form that the case memory takes.
    pub fn candidates(&self) -> Result<Candidates<'_>> {
        Candidates::with_norms(&self.ids, &self.vectors, self.inv_norms.clone())
    }
}

/// What a feedback says about the candidates of its decision.
#[derive(Debug, Clone, Copy)]
pub struct Judgement<'a> {
    /// Position and reward in [−1, 1].
    pub rewards: &'a [(usize, f32)],
    /// Quality of the whole answer.
    pub quality: Option<f32>,
    /// Weight of the source, 0..=1.
    pub trust: f32,
    /// Who says so.
    pub source: &'a Arc<str>,
    /// On whose behalf.
    pub user: &'a Arc<str>,
    /// Seconds since the epoch.
    pub now: f64,
}

/// Scores of one request with their origin.
#[derive(Debug)]
pub struct Ranking {
    /// The neighbour search.
    pub probe: Probe,
    /// Base, recall and ungated scores.
    pub scored: Scored,
    /// Scores with the gate.
    pub learned: Vec<f32>,
}

impl Ranking {
    /// Bytes held, without the cases that it shares with the state.
    #[must_use]
    pub fn nbytes(&self) -> usize {
        self.probe.nbytes() + 4 * 6 * self.learned.len()
    }

    /// The places that this ranking would show. Learning goes by them and not by the recorded ones, which hold what a user
    /// who was forgotten since had taught: a replay without that user must end where one who never was here would have led.
    pub(super) fn best(&self, places: usize, acted: bool) -> Vec<usize> {
        kernels::top_k(if acted { &self.learned } else { &self.scored.base }, places)
    }
}

/// Positions that take part in learning, ascending: those shown, those judged and the best `top` by score.
pub(super) fn learning_set(shown: &[usize], scores: &[f32], judged: &[usize], top: usize) -> Vec<usize> {
    let mut out = kernels::top_k(scores, top);
    out.extend_from_slice(shown);
    out.extend_from_slice(judged);
    out.sort_unstable();
    out.dedup();
    out
}
