//! What one scope has learned: the immutable snapshot that a decision reads, and the step that makes the next one.

use super::anchors::Anchors;
use super::choosers::Choosers;
use super::config::EngineConfig;
use super::event::TraceEvent;
use super::harm::{Harm, losses, temper};
use super::listing::{Judgement, Listing, Ranking, learning_set};
use super::pending::{DecisionRecord, Known};
use super::stats::{Baseline, Progress, dcg};
use crate::error::Result;
use crate::item::ItemId;
use crate::kernels;
use crate::lora::{BaseLora, Factors, MicroConfig, MicroLora};
use crate::patterns::bank::Bank;
use crate::patterns::cases::{
    AsNew, Candidates, CaseMemory, CaseParams, Found, GateMode, GateParams, ItemGate, Looked, NewCase, Probe,
    Scored, StrayClicks,
};
use crate::trajectory::{LearningSignal, Trajectory};
use std::borrow::Cow;
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

    fn add_adapters(&self, probe: &Probe, candidates: &Candidates<'_>, scores: &mut [f32]) -> Result<()> {
        if let Some(delta) = self.adapter_delta(probe.query())? {
            for (i, score) in scores.iter_mut().enumerate() {
                *score += kernels::dot(&delta, candidates.vector(i)) * candidates.inv_norm(i);
            }
        }
        Ok(())
    }

    /// Ranks one of the `wanted` as if it had never had feedback, and takes the loss, as far as the choice is `credible`.
    fn watch(
        &mut self,
        ranking: &Ranking,
        candidates: &Candidates<'_>,
        wanted: &[usize],
        credible: f32,
    ) -> Result<AsNew> {
        let pick = wanted[(self.harm.count() % wanted.len() as u64) as usize];
        let as_new = AsNew::new(&self.cases, &ranking.probe, candidates, &ranking.scored, pick);
        let mut scored = Cow::Borrowed(&as_new.scored);
        if self.choosers.matter() {
            let weight = self.cases.params().recall_weight;
            self.choosers.withhold(candidates, weight, scored.to_mut());
        }
        let mut learned = Vec::new();
        self.gate.apply_as_new(&as_new, candidates, &scored, &mut learned);
        self.add_adapters(&as_new.probe, candidates, &mut learned)?;
        let keep = |i: usize| i == pick || !wanted.contains(&i);
        let lost = losses(&ranking.scored.base, &learned, &[pick], keep);
        self.harm.push(&lost, f64::from(credible));
        Ok(as_new)
    }

    /// Measures the anchors that are due and chooses how much may act.
    pub(super) fn guard(&mut self, anchors: Option<&Anchors>, config: &EngineConfig) -> Result<()> {
        // With nothing held back: every multiplier is measured, whichever acts.
        let mut harm = std::mem::take(&mut self.harm);
        harm.measure(anchors, |set, i| {
            let listing = Listing::new(set.items());
            let ranking = self.score(set.query(i), &listing.candidates()?, None)?;
            Ok(losses(
                &ranking.scored.base,
                &ranking.learned,
                &set.relevant(i),
                |_| true,
            ))
        })?;
        harm.choose(config.harm_budget, config.gate_nu);
        self.harm = harm;
        Ok(())
    }

    /// One instant step from a trace: the fast adapter moves along what was better than usual.
    pub fn learn_trace(
        &mut self,
        t: &TraceEvent,
        trust: f32,
        config: &EngineConfig,
        anchors: Option<&Anchors>,
        version: u64,
    ) -> Result<()> {
        let trajectory = Trajectory {
            query_embedding: t.query.clone(),
            steps: t.steps.clone(),
            final_quality: f64::from(t.quality),
            id: 0,
            latency_us: 0,
            scope: String::new(),
            source: String::new(),
        };
        let mut signal = LearningSignal::from_trajectory(&trajectory, self.quality.read())?;
        self.quality.update(f64::from(t.quality));
        signal.weight *= f64::from(trust);
        if self.micro.is_none() {
            let rates = MicroConfig {
                learning_rate: f64::from(config.micro_lr),
                seed: config.seed,
                ..MicroConfig::new(config.dim, config.micro_rank)
            };
            self.micro = Some(Arc::new(MicroLora::new(rates)?));
        }
        if let Some(micro) = self.micro.as_mut().map(Arc::make_mut) {
            if micro.accumulate(&signal)? {
                micro.apply(None)?;
            }
        }
        self.guard(anchors, config)?;
        self.version = version;
        Ok(())
    }

    /// ρ of a choice. An item that was not shown cannot be a stray click: somebody named it. Scores of the application have a
    /// scale of their own, which says nothing about clicks; cosines take their place.
    fn credibility(
        &mut self,
        shown: &[usize],
        chosen: &[usize],
        candidates: &Candidates<'_>,
        ranking: &Ranking,
        own_base: bool,
    ) -> f32 {
        let mut places = Vec::with_capacity(chosen.len());
        for c in chosen {
            match shown.iter().position(|s| s == c) {
                Some(place) if places.contains(&place) => {}
                Some(place) => places.push(place),
                None => return 1.0,
            }
        }
        let score = |&p: &usize| {
            let (s, base) = (ranking.scored.scores[p], ranking.scored.base[p]);
            if own_base {
                return s;
            }
            let cosine = kernels::dot(ranking.probe.query(), candidates.vector(p)) * candidates.inv_norm(p);
            s - base + cosine
        };
        let scores: Vec<f32> = shown.iter().map(score).collect();
        self.strays
            .observe(&scores, &places, self.cases.params().temperature)
    }

    /// One instant learning step; `version` is the logical time of the event. `known` is what is left of the
    /// decision's own ranking; the step is the same without.
    pub fn learn(
        &mut self,
        record: &DecisionRecord,
        known: Known,
        what: &Judgement<'_>,
        config: &EngineConfig,
        anchors: Option<&Anchors>,
        version: u64,
    ) -> Result<()> {
        let listing = Listing::new(&record.items);
        let all = listing.candidates()?;
        let ranking = match known.ranking {
            Some(ranking) => ranking,
            None => self.score_again(record, &all, known.found.as_deref())?,
        };
        let split = |positive: bool| -> Vec<(usize, f32)> {
            what.rewards
                .iter()
                .copied()
                .filter(|(_, r)| if positive { *r > 0.0 } else { *r < 0.0 })
                .collect()
        };
        let mut parts = vec![split(true), split(false)];
        if let Some(quality) = what.quality {
            // One number for the whole answer: everything shown shares the credit, compared with what is usual.
            let advantage = (f64::from(quality) - self.quality.read()) as f32;
            self.quality.update(f64::from(quality));
            if what.rewards.is_empty() && advantage != 0.0 {
                parts = vec![record.shown.iter().map(|&p| (p as usize, advantage)).collect()];
            } else {
                parts.iter_mut().flatten().for_each(|(_, r)| *r *= quality);
            }
        }
        let shown = ranking.best(record.shown.len(), record.acted);
        let mut credible = 1.0;
        if let Some(clicked) = parts.iter().find(|p| p.first().is_some_and(|(_, r)| *r > 0.0)) {
            let positions: Vec<usize> = clicked.iter().map(|(p, _)| *p).collect();
            let ids: Vec<ItemId> = positions.iter().map(|&p| record.items[p].id.clone()).collect();
            let seen = ids
                .iter()
                .any(|id| self.cases.recall_of(&ranking.probe, id) > 0.0);
            self.progress.push(
                dcg(&ranking.scored.base, &positions),
                dcg(&ranking.learned, &positions),
                seen,
            );
            if what.quality.is_none() {
                credible = self.credibility(&shown, &positions, &all, &ranking, record.base.is_none());
            }
            let as_new = self.watch(&ranking, &all, &positions, credible)?;
            self.choosers.add(&ids, what.user);
            if what.quality.is_none() {
                let how = Looked {
                    weight: f64::from(credible),
                    shown: Some(&shown),
                    as_new: Some(&as_new),
                };
                self.gate
                    .observe(&self.cases, &ranking.probe, &ids, &all, &ranking.scored, how)?;
            }
        }
        for part in &parts {
            let mut strength =
                part.iter().map(|(_, r)| *r).sum::<f32>() / part.len().max(1) as f32 * what.trust;
            if strength > 0.0 {
                strength *= credible;
            }
            if part.is_empty() || strength == 0.0 || !strength.is_finite() {
                continue;
            }
            let judged: Vec<usize> = part.iter().map(|(p, _)| *p).collect();
            let taking_part = learning_set(&shown, &ranking.scored.scores, &judged, config.learn_candidates);
            let subset = listing.subset(&taking_part);
            let candidates = subset.candidates()?;
            let scores: Vec<f32> = taking_part.iter().map(|&p| ranking.scored.scores[p]).collect();
            let chosen: Vec<ItemId> = judged.iter().map(|&p| record.items[p].id.clone()).collect();
            let case = NewCase {
                chosen: &chosen,
                candidates: &candidates,
                scores: Some(&scores),
                weight: strength,
                source: what.source.clone(),
                user: what.user.clone(),
                at: what.now,
            };
            if kernels::norm(ranking.probe.query()) > 0.0 {
                self.cases.learn(&ranking.probe, &case)?;
            }
        }
        self.guard(anchors, config)?;
        self.version = version;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::{DecisionEvent, DecisionId};
    use super::super::items::Item;
    use super::*;

    fn record(d: usize, n: usize, seed: u64) -> DecisionRecord {
        use crate::rng::{RngExt, stream};
        let mut rng = stream(seed, 0);
        let mut vector = || -> Vec<f32> { (0..d).map(|_| rng.random::<f32>() - 0.5).collect() };
        let query = vector();
        let items: Vec<Arc<Item>> = (0..n)
            .map(|i| Arc::new(Item::new((i as i64).into(), &vector())))
            .collect();
        let event = DecisionEvent {
            id: DecisionId::new(0, seed),
            scope: "s".into(),
            query,
            items: items.iter().map(|i| i.hash).collect(),
            base: None,
            shown: vec![0, 1, 2],
            propensities: vec![1.0; 3],
            version: 0,
            acted: true,
            user: "".into(),
            now: 0.0,
        };
        DecisionRecord::new(event, items, true)
    }

    fn score_of(l: &Learned, r: &DecisionRecord, item: usize) -> f32 {
        let listing = Listing::new(&r.items);
        l.score(&r.query, &listing.candidates().unwrap(), None)
            .unwrap()
            .learned[item]
    }

    #[test]
    fn one_feedback_moves_the_next_score_in_its_direction() {
        let config = EngineConfig::new(16);
        for seed in 0..20 {
            for reward in [1.0f32, 0.3, -0.3, -1.0] {
                let r = record(16, 8, seed);
                let mut l = Learned::new(&config).unwrap();
                let before = score_of(&l, &r, 2);
                let (source, user): (Arc<str>, Arc<str>) = ("click".into(), "".into());
                let what = Judgement {
                    rewards: &[(2, reward)],
                    quality: None,
                    trust: 1.0,
                    source: &source,
                    user: &user,
                    now: 0.0,
                };
                l.learn(&r, Known::default(), &what, &config, None, 1).unwrap();
                let after = score_of(&l, &r, 2);
                assert!(
                    (after - before) * reward > 0.0,
                    "seed {seed} reward {reward}: {before} -> {after}"
                );
                assert_eq!(l.version, 1);
            }
        }
    }

    #[test]
    fn quality_is_compared_with_what_is_usual() {
        let config = EngineConfig::new(8);
        let r = record(8, 6, 1);
        let (source, user): (Arc<str>, Arc<str>) = ("judge".into(), "".into());
        for (quality, sign) in [(0.9f32, 1.0f32), (0.1, -1.0)] {
            let mut l = Learned::new(&config).unwrap();
            let before: f32 = (0..3).map(|i| score_of(&l, &r, i)).sum();
            let what = Judgement {
                rewards: &[],
                quality: Some(quality),
                trust: 1.0,
                source: &source,
                user: &user,
                now: 0.0,
            };
            l.learn(&r, Known::default(), &what, &config, None, 1).unwrap();
            let after: f32 = (0..3).map(|i| score_of(&l, &r, i)).sum();
            assert!((after - before) * sign > 0.0, "{quality}: {before} -> {after}");
        }
    }

    #[test]
    fn untrained_is_the_identity() {
        let l = Learned::new(&EngineConfig::new(8)).unwrap();
        let x = [0.1f32, -0.0, 3.5, 1e-30, -7.0, 0.0, 2.0, 1.0];
        let mut y = [9.0f32; 8];
        l.adapt(&x, &mut y).unwrap();
        assert_eq!(x.map(f32::to_bits), y.map(f32::to_bits));
    }
}
