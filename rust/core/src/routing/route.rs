//! A decision from the request to the note that waits for its outcome.

use super::budget::BudgetPacer;
use super::explore;
use super::plan::{Choice, Reason, View};
use super::router::{MAX_PENDING, Model, Pending, Router};
use crate::error::{Error, Result, check_number};

impl Router {
    /// Decisions that wait for their outcome.
    pub(super) fn pending(&self) -> usize {
        self.pending.len()
    }

    fn dearest(&self, among: &[usize]) -> usize {
        let dearer = |a: &usize, b: &usize| self.models[*a].price.total_cmp(&self.models[*b].price);
        among
            .iter()
            .copied()
            .max_by(|a, b| dearer(a, b).then(b.cmp(a)))
            .unwrap_or(0)
    }

    pub(super) fn fallback(&self, among: &[usize]) -> usize {
        match self.settings.fallback {
            Some(m) if among.contains(&m) => m,
            _ => self.dearest(among),
        }
    }

    /// Places (not models) of the candidates that may answer at all now.
    pub(super) fn available(&self, candidates: &[usize], now: f64) -> Vec<usize> {
        let least = self
            .settings
            .floor
            .map_or(f64::NEG_INFINITY, |m| self.models[m].price);
        let fine = |m: usize| self.models[m].price >= least && self.models[m].open_until <= now;
        (0..candidates.len()).filter(|i| fine(candidates[*i])).collect()
    }

    /// (shadow price, what may be spent) for a tenant.
    fn purse(&mut self, tenant: Option<&str>, now: f64) -> (f64, f64) {
        if self.budget.is_none() && self.tenant_budget.is_none() {
            return (0.0, f64::INFINITY);
        }
        let scale = self.first_price();
        let mut out = (0.0f64, f64::INFINITY);
        let mut take = |p: &mut BudgetPacer| {
            p.rescale(scale);
            p.roll(now);
            out = (out.0.max(p.multiplier()), out.1.min(p.remaining()));
        };
        if let Some(shared) = &self.budget {
            take(&mut shared.0.lock());
        }
        if let (Some(tenant), Some(fresh)) = (tenant, &self.tenant_budget) {
            take(
                self.tenants
                    .entry(tenant.to_owned())
                    .or_insert_with(|| fresh.clone()),
            );
        }
        out
    }

    /// λ₀ = (q_best − q_cheap) / (c_best − c_cheap) of what is expected on the whole.
    fn first_price(&self) -> f64 {
        let mean = |m: &Model| m.mean_quality();
        let best = self.models.iter().max_by(|a, b| mean(a).total_cmp(&mean(b)));
        let cheap = self
            .models
            .iter()
            .min_by(|a, b| a.mean_cost().total_cmp(&b.mean_cost()));
        match (best, cheap) {
            (Some(b), Some(c)) if b.mean_cost() > c.mean_cost() && mean(b) > mean(c) => {
                (mean(b) - mean(c)) / (b.mean_cost() - c.mean_cost())
            }
            (Some(b), _) if b.mean_cost() > 0.0 => 0.1 / b.mean_cost(),
            _ => 1.0,
        }
    }

    fn spend(&mut self, tenant: Option<&str>, cost: f64, now: f64) -> Result<()> {
        if let Some(shared) = &self.budget {
            shared.0.lock().spend(cost, now)?;
        }
        if let Some(pacer) = tenant.and_then(|t| self.tenants.get_mut(t)) {
            pacer.spend(cost, now)?;
        }
        Ok(())
    }

    /// Chooses one of `candidates` (all models if none) for the request `x` at second `now`.
    ///
    /// O(cases · dim + models) for rules that look at cases, O(components · (dim + models)) for the others.
    pub fn route(
        &mut self,
        x: &[f32],
        candidates: Option<&[usize]>,
        cost_weight: Option<f64>,
        tenant: Option<&str>,
        now: f64,
    ) -> Result<Choice> {
        self.decide(x, candidates, cost_weight, tenant, now, None)
    }

    /// Takes note of decision `id` of a log, made for `model` with this probability, as if [`Router::route`] had made it now.
    /// Decisions come in the order of their numbers.
    pub fn follow(
        &mut self,
        x: &[f32],
        candidates: &[usize],
        tenant: Option<&str>,
        now: f64,
        (id, model, propensity): (u64, usize, f64),
    ) -> Result<()> {
        if id < self.next_id || id == u64::MAX {
            return Err(Error::value("decision", format!("{} or above", self.next_id), id));
        }
        if !candidates.contains(&model) {
            return Err(Error::value("model", "one of the candidates", model));
        }
        if !(propensity > 0.0 && propensity <= 1.0 + 1e-9) {
            return Err(Error::value("propensity", "a number in (0, 1]", propensity));
        }
        let forced = Some((id, model, propensity));
        self.decide(x, candidates.into(), None, tenant, now, forced)
            .map(drop)
    }

    /// Number of the next decision.
    #[must_use]
    pub fn next_id(&self) -> u64 {
        self.next_id
    }

    /// From now on numbers of decisions are `id` and above.
    pub fn skip_to(&mut self, id: u64) {
        self.next_id = self.next_id.max(id);
    }

    /// Takes over from `other`, which this one was rebuilt to replace, what was spent and the number of the next decision.
    pub fn succeed(&mut self, other: &Self) {
        self.budget.clone_from(&other.budget);
        self.tenant_budget.clone_from(&other.tenant_budget);
        self.tenants.clone_from(&other.tenants);
        self.skip_to(other.next_id);
    }

    fn decide(
        &mut self,
        x: &[f32],
        candidates: Option<&[usize]>,
        cost_weight: Option<f64>,
        tenant: Option<&str>,
        now: f64,
        forced: Option<(u64, usize, f64)>,
    ) -> Result<Choice> {
        let x = self.request(x)?;
        check_number("now", now)?;
        let all: Vec<usize>;
        let candidates = match candidates {
            Some(c) => c,
            None => {
                all = (0..self.models.len()).collect();
                &all
            }
        };
        if candidates.is_empty() {
            return Err(Error::value("candidates", "at least one model", "none"));
        }
        if let Some(m) = candidates.iter().find(|m| **m >= self.models.len()) {
            return Err(Error::value("candidates", "known models", m));
        }
        let weight = cost_weight.unwrap_or(self.settings.cost_weight);
        check_number("cost_weight", weight)?;
        let (price, purse) = self.purse(tenant, now);
        let seen = self.estimate_unit(&x)?;
        let of = |v: &[f64]| -> Vec<f64> { candidates.iter().map(|m| v[*m]).collect() };
        let (quality, cost) = (of(&seen.quality), of(&seen.cost));
        let sd = if seen.sd.is_empty() {
            Vec::new()
        } else {
            of(&seen.sd)
        };
        let view = View {
            candidates,
            quality: &quality,
            cost: &cost,
            sd: &sd,
            weight: weight + price,
        };
        let id = forced.map_or(self.next_id, |f| f.0);
        let plan = self.plan(&view, purse, now);
        let mut draw = crate::rng::stream(self.settings.seed, id.wrapping_add(1));
        let place = match forced {
            Some((_, model, _)) => candidates.iter().position(|m| *m == model).unwrap_or(0),
            None => explore::pick(&plan.shares, rand::RngExt::random(&mut draw)),
        };
        let explored = place != plan.best;
        let choice = Choice {
            id,
            model: candidates[place],
            candidates: candidates.to_vec(),
            lower: (candidates.iter().zip(&quality))
                .map(|(m, q)| q - self.models[*m].guard.quantile())
                .collect(),
            propensity: forced.map_or(plan.shares[place], |f| f.2),
            cost: cost[place],
            confidence: self.confidence(quality[place]),
            explored,
            reason: if explored { Reason::Explored } else { plan.reason },
            propensities: plan.shares,
            quality,
        };
        self.spend(tenant, choice.cost, now)?;
        self.note(x, &choice, plan.reference, tenant);
        Ok(choice)
    }

    fn note(&mut self, x: Vec<f32>, choice: &Choice, reference: usize, tenant: Option<&str>) {
        self.counts.decisions += 1;
        self.counts.explored += u64::from(choice.explored);
        self.counts.abstained += u64::from(choice.reason == Reason::Abstained);
        self.counts.over_budget += u64::from(choice.reason == Reason::Budget);
        self.counts.by_risk += u64::from(choice.reason == Reason::Risk);
        self.next_id = choice.id.saturating_add(1);
        if self.pending.len() >= MAX_PENDING {
            self.pending.pop_first();
            self.counts.dropped += 1;
        }
        let place = choice
            .candidates
            .iter()
            .position(|m| *m == choice.model)
            .unwrap_or(0);
        self.pending.insert(
            choice.id,
            Pending {
                x,
                model: choice.model,
                propensity: choice.propensity,
                expected: choice.quality[place],
                reference: choice.quality[reference],
                cost: choice.cost,
                away: place != reference,
                tenant: tenant.map(str::to_owned),
            },
        );
    }
}
