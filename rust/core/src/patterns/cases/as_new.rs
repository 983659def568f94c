//! One request as if one of its items had never had feedback.

use super::candidates::{Candidates, Scored};
use super::memory::CaseMemory;
use super::probe::Probe;

/// The request without the cases about one candidate, and what the others score then.
#[derive(Debug, Clone)]
pub struct AsNew {
    /// Position of the candidate.
    pub pick: usize,
    /// The neighbours that are left.
    pub probe: Probe,
    /// Un-gated scores.
    pub scored: Scored,
}

impl AsNew {
    /// `scored` holds the un-gated scores of `candidates` for `probe`.
    #[must_use]
    pub fn new(
        memory: &CaseMemory,
        probe: &Probe,
        candidates: &Candidates<'_>,
        scored: &Scored,
        pick: usize,
    ) -> Self {
        let reduced = probe.without(&[candidates.ids()[pick]]);
        let scored = memory.score_reduced(probe, &reduced, candidates, scored);
        Self {
            pick,
            probe: reduced,
            scored,
        }
    }
}
