//! The instant learning step: what one feedback or trace makes of what a scope has learned.

use super::anchors::Anchors;
use super::config::EngineConfig;
use super::event::TraceEvent;
use super::harm::losses;
use super::learned::Learned;
use super::listing::{Judgement, Listing, Ranking, learning_set};
use super::pending::{DecisionRecord, Known};
use super::stats::dcg;
use crate::error::Result;
use crate::item::ItemId;
use crate::kernels;
use crate::lora::{MicroConfig, MicroLora};
use crate::patterns::cases::{AsNew, Candidates, Looked, NewCase};
use crate::trajectory::{LearningSignal, Trajectory};
use std::borrow::Cow;
use std::sync::Arc;

impl Learned {
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
}
