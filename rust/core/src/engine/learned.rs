//! What one scope has learned: the immutable snapshot that a decision reads.

use super::choosers::Choosers;
use super::config::EngineConfig;
use super::harm::{Harm, temper};
use super::listing::Ranking;
use super::pending::DecisionRecord;
use super::stats::{Baseline, Progress};
use crate::error::Result;
use crate::kernels;
use crate::lora::{BaseLora, Factors, MicroLora};
use crate::patterns::bank::Bank;
use crate::patterns::cases::{
    Candidates, CaseMemory, CaseParams, Found, GateMode, GateParams, ItemGate, Probe, Scored, StrayClicks,
};
use std::sync::Arc;

/// Everything that a decision reads. Cloning shares the cases; nothing in it changes after it was published.
#[derive(Debug, Clone)]
pub struct Learned {
    /// Logical time of the last event that it learned from; 0 is the untrained state.
    pub version: u64,
    /// Remembered cases.
    pub cases: CaseMemory,
    /// Chance of items without feedback.
    pub gate: ItemGate,
    /// How much of what was learned may act.
    pub harm: Harm,
    /// Who chose what, where that matters.
    pub choosers: Choosers,
    /// How believable clicks are.
    pub strays: StrayClicks,
    /// Test-then-learn figures.
    pub progress: Progress,
    /// Running mean of whole-answer qualities, the baseline of the next one.
    pub quality: Baseline,
    /// The fast adapter, from the first trace on.
    pub micro: Option<Arc<MicroLora>>,
    /// The slow adapter, from the first background cycle that passed the gate on.
    pub base: Option<Arc<BaseLora>>,
    /// Patterns of the last background cycle.
    pub bank: Option<Arc<Bank>>,
    /// Cases with smaller ids are in the bank.
    pub banked: u64,
}

impl Learned {
    /// The untrained state: the identity.
    pub fn new(config: &EngineConfig) -> Result<Self> {
        let params = CaseParams {
            eta: config.eta,
            recall_weight: config.recall_weight,
            neighbors: config.neighbors,
            max_bytes: config.case_bytes,
            half_life_days: config.case_half_life_days,
            ..CaseParams::default()
        };
        let gate = GateParams {
            mode: GateMode::parse(&config.gate)?,
            nu: config.gate_nu,
            // Protection from the first feedback on where the item set is closed; docs/explanation/retrieval-experiments.md.
            soft: true,
            start: (0.1, 0.5),
            z: 2.0,
            full_coverage: 0.5,
            ..GateParams::default()
        };
        Ok(Self {
            version: 0,
            cases: CaseMemory::new(config.dim, params, config.seed)?,
            gate: ItemGate::new(gate, config.seed)?,
            harm: Harm::default(),
            choosers: Choosers::new(config.min_users),
            strays: StrayClicks::default(),
            progress: Progress::default(),
            quality: Baseline::default(),
            micro: None,
            base: None,
            bank: None,
            banked: 0,
        })
    }

    /// True while nothing was learned: every answer is then the input, bit for bit.
    #[must_use]
    pub fn is_identity(&self) -> bool {
        self.cases.is_empty() && self.adapter_is_identity()
    }

    fn adapter_is_identity(&self) -> bool {
        self.adapters().next().is_none()
    }

    /// Factors of the adapters that move anything.
    fn adapters(&self) -> impl Iterator<Item = &Factors> {
        let micro = self.micro.as_deref().map(MicroLora::factors);
        let base = self.base.as_deref().and_then(|b| b.factors(0).ok());
        micro.into_iter().chain(base).filter(|f| !f.is_identity())
    }

    /// What the adapters add to the unit query; `None` while they are the identity.
    fn adapter_delta(&self, unit: &[f32]) -> Result<Option<Vec<f32>>> {
        let mut sum: Option<Vec<f32>> = None;
        for factors in self.adapters() {
            let mut delta = vec![0.0; unit.len()];
            factors.delta_into(unit, &mut delta)?;
            match &mut sum {
                Some(sum) => kernels::axpy(1.0, &delta, sum),
                None => sum = Some(delta),
            }
        }
        Ok(sum)
    }

    /// Adds the fast adapter's part of a unit query to `out`.
    pub(super) fn add_fast(&self, unit: &[f32], out: &mut [f32]) -> Result<()> {
        if let Some(micro) = self.micro.as_deref().map(MicroLora::factors) {
            if !micro.is_identity() {
                let mut delta = vec![0.0; unit.len()];
                micro.delta_into(unit, &mut delta)?;
                kernels::axpy(1.0, &delta, out);
            }
        }
        Ok(())
    }

    /// Moves a query: û plus what the adapters add, of unit length; the query itself bit for bit while nothing is known.
    pub fn adapt(&self, query: &[f32], out: &mut [f32]) -> Result<()> {
        let m = self.harm.multiplier();
        if self.is_identity() || m <= 0.0 {
            out.copy_from_slice(query);
            return Ok(());
        }
        let probe = self.cases.probe(query)?;
        match self.adapter_delta(probe.query())? {
            None => out.copy_from_slice(probe.adapted()),
            Some(delta) => {
                let start = if probe.is_empty() {
                    probe.query()
                } else {
                    probe.adapted()
                };
                for ((o, s), d) in out.iter_mut().zip(start).zip(&delta) {
                    *o = s + d;
                }
                kernels::normalize(out);
            }
        }
        if m < 1.0 && kernels::norm(probe.query()) > 0.0 {
            temper(probe.query(), out, m);
            kernels::normalize(out);
        }
        Ok(())
    }

    /// Scores of all candidates: the application's (or cosines), and the learned ones.
    pub fn score(&self, query: &[f32], candidates: &Candidates<'_>, base: Option<&[f32]>) -> Result<Ranking> {
        self.score_with(self.cases.probe(query)?, candidates, base)
    }

    fn score_with(&self, probe: Probe, candidates: &Candidates<'_>, base: Option<&[f32]>) -> Result<Ranking> {
        let mut scored = Scored::default();
        self.cases.score(&probe, candidates, base, &mut scored)?;
        self.choosers
            .withhold(candidates, self.cases.params().recall_weight, &mut scored);
        let mut learned = Vec::new();
        self.gate.apply(&probe, candidates, &scored, &mut learned);
        self.add_adapters(&probe, candidates, &mut learned)?;
        temper(&scored.base, &mut learned, self.harm.multiplier());
        Ok(Ranking {
            probe,
            scored,
            learned,
        })
    }

    /// Scores of the candidates of a decision, with what its search found.
    pub(super) fn score_again(
        &self,
        record: &DecisionRecord,
        candidates: &Candidates<'_>,
        found: Option<&Found>,
    ) -> Result<Ranking> {
        let probe = self.cases.probe_again(&record.query, found)?;
        self.score_with(probe, candidates, record.base.as_deref())
    }

    pub(super) fn add_adapters(
        &self,
        probe: &Probe,
        candidates: &Candidates<'_>,
        scores: &mut [f32],
    ) -> Result<()> {
        if let Some(delta) = self.adapter_delta(probe.query())? {
            for (i, score) in scores.iter_mut().enumerate() {
                *score += kernels::dot(&delta, candidates.vector(i)) * candidates.inv_norm(i);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untrained_is_the_identity() {
        let l = Learned::new(&EngineConfig::new(8)).unwrap();
        let x = [0.1f32, -0.0, 3.5, 1e-30, -7.0, 0.0, 2.0, 1.0];
        let mut y = [9.0f32; 8];
        l.adapt(&x, &mut y).unwrap();
        assert_eq!(x.map(f32::to_bits), y.map(f32::to_bits));
    }
}
