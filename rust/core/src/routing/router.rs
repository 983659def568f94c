//! The router: which model answers a request, learned from how its answers turned out.

use super::budget::BudgetPacer;
use super::cases::{Cases, unit};
use super::explore;
use super::features::{Features, MAX_ROWS};
use super::guard::Guard;
use super::history::History;
use super::knn::check_quality;
use super::learner::{Kind, Learner};
use super::state::{check_price, price_rank};
use crate::error::{Error, Result, check_number};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most models.
pub const MAX_MODELS: usize = 4096;
/// Most decisions that wait for their outcome; the oldest is given up.
pub const MAX_PENDING: usize = 1 << 16;
/// Outcomes of a model that joined later, during which the risk guard leaves it alone.
const TRIAL: u64 = 40;
/// Pseudo-counts of the list price in a model's mean cost.
pub(super) const PRICE_COUNTS: f64 = 2.0;
/// Pseudo-counts of the prior in a model's mean quality.
pub(super) const QUALITY_COUNTS: f64 = 8.0;
/// First number of rows at which components are fitted; then at every fourfold.
const FIRST_FIT: usize = 16;
/// Scores that the calibration of confidence looks back.
const CALIBRATION: usize = 512;

/// Settings of a [`Router`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Length of an embedding.
    pub dim: usize,
    /// Neighbours of the kNN predictor.
    pub k: usize,
    /// λ: utility of one unit of cost.
    pub cost_weight: f64,
    /// Level of the guards; 1 switches the risk guard off.
    pub alpha: f64,
    /// Loss of quality against the reference that counts.
    pub epsilon: f64,
    /// Uniform share of exploration; 0 never explores.
    pub exploration: f64,
    /// Rule of prediction.
    pub kind: Kind,
    /// Models cheaper than this one are not used.
    pub floor: Option<usize>,
    /// Used when nothing is known, nothing is allowed, or the router abstains; the dearest if none.
    pub fallback: Option<usize>,
    /// Abstain below this confidence.
    pub abstain: f64,
    /// Consecutive errors that open a model's circuit, and for how many seconds.
    pub breaker: (u32, f64),
    /// Outcomes after which an old one counts half.
    pub half_life: f64,
    /// Known error rate of the judge.
    pub judge_error: f64,
    /// Most cases.
    pub capacity: usize,
    /// Seed of the choices.
    pub seed: u64,
}

/// Why a model was chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Greatest utility.
    Best,
    /// No outcome is known.
    Unknown,
    /// Drawn for exploration.
    Explored,
    /// A better one is not affordable.
    Budget,
    /// A better one does not meet the bound of risk.
    Risk,
    /// Confidence was too low: the fallback.
    Abstained,
    /// Every circuit is open: the fallback.
    Unavailable,
}

impl Reason {
    /// In words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Best => "best",
            Self::Unknown => "nothing known",
            Self::Explored => "explored",
            Self::Budget => "budget",
            Self::Risk => "risk",
            Self::Abstained => "abstained",
            Self::Unavailable => "unavailable",
        }
    }
}

/// The answer to one request.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Number of the decision.
    pub id: u64,
    /// Chosen model.
    pub model: usize,
    /// Candidates, in their order, with expected quality, lower bound and expected cost of each.
    pub candidates: Vec<usize>,
    /// See `candidates`.
    pub quality: Vec<f64>,
    /// See `candidates`.
    pub lower: Vec<f64>,
    /// Probability with which the model was chosen.
    pub propensity: f64,
    /// Probability of each candidate.
    pub propensities: Vec<f64>,
    /// Expected cost of the chosen model.
    pub cost: f64,
    /// Calibrated quality of the chosen model.
    pub confidence: f64,
    /// Whether another than the best was drawn.
    pub explored: bool,
    /// Why.
    pub reason: Reason,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Pending {
    x: Vec<f32>,
    model: usize,
    propensity: f64,
    expected: f64,
    reference: f64,
    cost: f64,
    away: bool,
    tenant: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Counts {
    pub decisions: u64,
    pub explored: u64,
    pub outcomes: u64,
    pub duplicates: u64,
    pub dropped: u64,
    pub errors: u64,
    pub abstained: u64,
    pub over_budget: u64,
    pub by_risk: u64,
    pub refits: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Model {
    pub price: f64,
    pub prior: f64,
    pub cost: (f64, f64),
    pub quality: (f64, f64),
    pub outcomes: u64,
    pub trial: u64,
    pub errors: u32,
    pub open_until: f64,
    pub latency_ms: (f64, f64),
    pub guard: Guard,
}

/// A pacer that several holders spend from.
#[derive(Debug, Clone)]
pub struct SharedPacer(pub Arc<Mutex<BudgetPacer>>);

impl SharedPacer {
    /// A holder of its own.
    #[must_use]
    pub fn new(pacer: BudgetPacer) -> Self {
        Self(Arc::new(Mutex::new(pacer)))
    }
}

impl Serialize for SharedPacer {
    fn serialize<S: serde::Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        self.0.lock().serialize(s)
    }
}

impl<'de> Deserialize<'de> for SharedPacer {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        BudgetPacer::deserialize(d).map(Self::new)
    }
}

/// See the module.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Router {
    pub(super) settings: Settings,
    pub(super) models: Vec<Model>,
    pub(super) cases: Cases,
    pub(super) learner: Learner,
    pub(super) features: Features,
    /// Components were given, not to be fitted again.
    pub(super) fixed_features: bool,
    pub(super) history: Option<History>,
    pending: BTreeMap<u64, Pending>,
    next_id: u64,
    pub(super) time: u64,
    /// (expected, observed) quality of the last outcomes.
    pub(super) scores: Vec<(f64, f64)>,
    knots: Vec<(f64, f64)>,
    scored: u64,
    pub(super) budget: Option<SharedPacer>,
    tenant_budget: Option<BudgetPacer>,
    tenants: BTreeMap<String, BudgetPacer>,
    pub(super) counts: Counts,
    /// Components of every case; follows from the cases.
    #[serde(skip)]
    pub(super) z: Vec<f64>,
}

/// What a decision looks at, per candidate.
struct View<'a> {
    candidates: &'a [usize],
    quality: &'a [f64],
    cost: &'a [f64],
    sd: &'a [f64],
    weight: f64,
}

impl View<'_> {
    fn utility(&self, place: usize) -> f64 {
        self.quality[place] - self.weight * self.cost[place]
    }

    /// Standard deviation of the estimate; 0 for rules without one.
    fn deviation(&self, place: usize) -> f64 {
        self.sd.get(place).copied().unwrap_or(0.0)
    }
}

/// Probability of each candidate; places of the best and of the reference.
struct Plan {
    shares: Vec<f64>,
    best: usize,
    reference: usize,
    reason: Reason,
}

impl Router {
    /// A router over models with these prices per call.
    pub fn new(
        prices: &[f64],
        settings: Settings,
        budget: Option<SharedPacer>,
        tenant_budget: Option<BudgetPacer>,
    ) -> Result<Self> {
        settings.check(prices.len())?;
        for p in prices {
            check_price(*p)?;
        }
        let cases = Cases::new(prices.len(), settings.dim, settings.capacity)?;
        let models = (prices.iter().enumerate())
            .map(|(a, p)| Model::new(*p, 0.40 + 0.35 * price_rank(prices, a), settings.alpha))
            .collect();
        Ok(Self {
            models,
            cases,
            learner: Learner::new(settings.kind, prices.len(), 0)?,
            features: Features::none(settings.dim),
            fixed_features: false,
            history: None,
            pending: BTreeMap::new(),
            next_id: 0,
            time: 0,
            scores: Vec::new(),
            knots: Vec::new(),
            scored: 0,
            budget,
            tenant_budget,
            tenants: BTreeMap::new(),
            counts: Counts::default(),
            z: Vec::new(),
            settings,
        })
    }

    /// Settings.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Number of models.
    #[must_use]
    pub fn models(&self) -> usize {
        self.models.len()
    }

    /// Price per call that a model was declared with.
    #[must_use]
    pub fn price(&self, model: usize) -> f64 {
        self.models[model].price
    }

    /// The budget, shared with its other holders.
    #[must_use]
    pub fn budget(&self) -> Option<&SharedPacer> {
        self.budget.as_ref()
    }

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

    fn fallback(&self, among: &[usize]) -> usize {
        match self.settings.fallback {
            Some(m) if among.contains(&m) => m,
            _ => self.dearest(among),
        }
    }

    /// Places (not models) of the candidates that may answer at all now.
    fn available(&self, candidates: &[usize], now: f64) -> Vec<usize> {
        let least = self
            .settings
            .floor
            .map_or(f64::NEG_INFINITY, |m| self.models[m].price);
        let fine = |m: usize| self.models[m].price >= least && self.models[m].open_until <= now;
        (0..candidates.len()).filter(|i| fine(candidates[*i])).collect()
    }

    /// (shadow price, what may be spent) for a tenant.
    fn purse(&mut self, tenant: Option<&str>, now: f64) -> (f64, f64) {
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
        let x = unit("embedding", self.settings.dim, x)?;
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
        let id = self.next_id;
        let plan = self.plan(&view, purse, id, now);
        let mut draw = crate::rng::stream(self.settings.seed, id.wrapping_add(1));
        let place = explore::pick(&plan.shares, rand::RngExt::random(&mut draw));
        let explored = place != plan.best;
        let choice = Choice {
            id,
            model: candidates[place],
            candidates: candidates.to_vec(),
            lower: (candidates.iter().zip(&quality))
                .map(|(m, q)| q - self.models[*m].guard.quantile())
                .collect(),
            propensity: plan.shares[place],
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
        self.next_id += 1;
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

    fn plan(&self, v: &View<'_>, purse: f64, id: u64, now: f64) -> Plan {
        let n = v.candidates.len();
        let certain = |place: usize, reason| Plan {
            shares: explore::greedy(n, place, 0.0),
            best: place,
            reference: place,
            reason,
        };
        let place_of = |m: usize| v.candidates.iter().position(|c| *c == m).unwrap_or(0);
        let available = self.available(v.candidates, now);
        if available.is_empty() {
            return certain(place_of(self.fallback(v.candidates)), Reason::Unavailable);
        }
        let usable: Vec<usize> = available
            .iter()
            .copied()
            .filter(|i| v.cost[*i] <= purse)
            .collect();
        if usable.is_empty() {
            let cheapest = available
                .iter()
                .copied()
                .min_by(|a, b| v.cost[*a].total_cmp(&v.cost[*b]));
            return certain(cheapest.unwrap_or(0), Reason::Budget);
        }
        let spread = |shares: Vec<f64>, best: usize, reference: usize, reason| {
            let mut whole = vec![0.0; n];
            usable.iter().zip(shares).for_each(|(i, p)| whole[*i] = p);
            Plan {
                shares: whole,
                best: usable[best],
                reference,
                reason,
            }
        };
        let names: Vec<usize> = usable.iter().map(|i| v.candidates[*i]).collect();
        let floor = self.settings.exploration;
        let known = self.history.is_some() || names.iter().any(|m| self.models[*m].outcomes > 0);
        if !known {
            let best = place_of(self.fallback(&names));
            let at = usable.iter().position(|i| *i == best).unwrap_or(0);
            return spread(
                explore::greedy(usable.len(), at, floor),
                at,
                best,
                Reason::Unknown,
            );
        }
        let utility: Vec<f64> = usable.iter().map(|i| v.utility(*i)).collect();
        let reference = usable[self.reference(&names)];
        let allowed: Vec<usize> = (0..usable.len())
            .filter(|i| {
                usable[*i] == reference
                    || self.permits(names[*i], v.quality[reference] - v.quality[usable[*i]])
            })
            .collect();
        let cheaper = |a: usize, b: usize| v.cost[usable[b]].total_cmp(&v.cost[usable[a]]);
        // LinUCB takes the upper end of what it believes; the others draw from it, or explore beside it.
        let bonus = |i: usize| match self.settings.kind {
            Kind::LinUcb => v.deviation(usable[i]),
            _ => 0.0,
        };
        let better = |a: &usize, b: &usize| {
            let (ua, ub) = (utility[*a] + bonus(*a), utility[*b] + bonus(*b));
            ua.total_cmp(&ub).then(cheaper(*a, *b)).then(b.cmp(a))
        };
        let best = allowed.iter().copied().max_by(better).unwrap_or(0);
        let free = (0..usable.len()).max_by(better).unwrap_or(0);
        let top = utility[free];
        let reason = if best != free {
            Reason::Risk
        } else if available
            .iter()
            .any(|i| !usable.contains(i) && v.utility(*i) > top)
        {
            Reason::Budget
        } else {
            Reason::Best
        };
        if self.confidence(v.quality[usable[best]]) < self.settings.abstain {
            let mut plan = certain(place_of(self.fallback(&names)), Reason::Abstained);
            plan.reference = reference;
            return plan;
        }
        let shares = self.shares(&utility, best, v, &usable, id);
        spread(shares, best, reference, reason)
    }

    fn shares(&self, utility: &[f64], best: usize, v: &View<'_>, usable: &[usize], id: u64) -> Vec<f64> {
        let (n, floor) = (utility.len(), self.settings.exploration);
        match self.settings.kind {
            _ if floor == 0.0 => explore::greedy(n, best, 0.0),
            Kind::Thompson | Kind::Hybrid => {
                // A model that the guard holds back may promise more than the best: its gap counts in either direction.
                let rows: Vec<(f64, f64)> = (utility.iter().zip(usable))
                    .map(|(u, i)| (-(utility[best] - u).abs(), v.deviation(*i)))
                    .collect();
                let mut rng = crate::rng::stream(self.settings.seed ^ 0x7503, id);
                let wins = super::linucb::win_shares(&rows, 1.0, &mut rng);
                wins.iter()
                    .map(|p| (1.0 - floor) * p + floor / n as f64)
                    .collect()
            }
            Kind::LinUcb => explore::greedy(n, best, floor),
            _ => {
                let gaps: Vec<f64> = utility.iter().map(|u| -(utility[best] - u).abs()).collect();
                explore::inverse_gap(&gaps, best, self.time, floor)
            }
        }
    }

    /// Place of the model that is best on the whole; ties go to the dearer.
    fn reference(&self, names: &[usize]) -> usize {
        let by = |a: &usize, b: &usize| {
            let (a, b) = (&self.models[names[*a]], &self.models[names[*b]]);
            (a.mean_quality().total_cmp(&b.mean_quality())).then(a.price.total_cmp(&b.price))
        };
        (0..names.len()).max_by(by).unwrap_or(0)
    }

    fn permits(&self, model: usize, gap: f64) -> bool {
        let m = &self.models[model];
        self.settings.alpha >= 1.0 || gap <= m.guard.threshold() || m.outcomes < m.trial
    }

    /// Calibrated quality for an estimate.
    fn confidence(&self, quality: f64) -> f64 {
        if self.knots.is_empty() {
            quality.clamp(0.0, 1.0)
        } else {
            super::calibration::interpolate(&self.knots, quality).clamp(0.0, 1.0)
        }
    }

    /// The outcome of decision `id`: true if it was learned, false if it was known or given up. `error`: the call failed,
    /// which counts against the model's circuit and is not learned.
    pub fn feedback(
        &mut self,
        id: u64,
        quality: f64,
        cost: Option<f64>,
        latency_ms: Option<f64>,
        error: bool,
        now: f64,
    ) -> Result<bool> {
        check_quality(quality)?;
        check_number("now", now)?;
        for (name, v) in [("cost", cost), ("latency_ms", latency_ms)] {
            let v = v.unwrap_or(0.0);
            check_number(name, v)?;
            if v < 0.0 {
                return Err(Error::value(name, "0 or above", v));
            }
        }
        if id >= self.next_id {
            return Err(Error::Scope {
                scope: format!("r-{id}"),
                reason: "no such decision".into(),
            });
        }
        let Some(p) = self.pending.remove(&id) else {
            self.counts.duplicates += 1;
            return Ok(false);
        };
        let paid = cost.unwrap_or(p.cost);
        if let Some(shared) = &self.budget {
            shared.0.lock().correct(paid - p.cost);
        }
        if let Some(pacer) = p.tenant.as_ref().and_then(|t| self.tenants.get_mut(t)) {
            pacer.correct(paid - p.cost);
        }
        let m = &mut self.models[p.model];
        if let Some(ms) = latency_ms {
            m.latency_ms = (m.latency_ms.0 + ms, m.latency_ms.1 + 1.0);
        }
        if error {
            m.errors = m.errors.saturating_add(1);
            if m.errors >= self.settings.breaker.0 {
                m.open_until = now + self.settings.breaker.1;
            }
            self.counts.errors += 1;
            return Ok(false);
        }
        m.errors = 0;
        m.open_until = f64::NEG_INFINITY;
        let y = self.settings.corrected(quality);
        let lost = (p.reference - y).clamp(0.0, 1.0);
        let loss = if p.away && lost > self.settings.epsilon {
            lost
        } else {
            0.0
        };
        m.guard.add(
            p.reference - p.expected,
            loss,
            (1.0 / p.propensity).min(20.0),
            p.expected - y,
        );
        self.score(p.expected, y);
        self.absorb(&p.x, p.model, y, cost)?;
        Ok(true)
    }

    fn score(&mut self, expected: f64, observed: f64) {
        if self.scores.len() == CALIBRATION {
            self.scores.remove(0);
        }
        self.scores.push((expected, observed));
        self.scored += 1;
        if self.scores.len() >= 30 && self.scored.is_multiple_of(1 + self.scores.len() as u64 / 50) {
            let rows: Vec<_> = self.scores.iter().map(|(e, y)| (*e, *y, 1.0)).collect();
            self.knots = super::calibration::isotonic(&rows);
        }
    }

    /// An outcome that no decision stands behind: a log, a test set, another system.
    pub fn learn(&mut self, x: &[f32], model: usize, quality: f64, cost: Option<f64>) -> Result<()> {
        let x = unit("embedding", self.settings.dim, x)?;
        check_quality(quality)?;
        check_price(cost.unwrap_or(0.0))?;
        if model >= self.models.len() {
            return Err(Error::value("model", "a known model", model));
        }
        let y = self.settings.corrected(quality);
        let all: Vec<usize> = (0..self.models.len()).collect();
        let reference = self.reference(&all);
        let expected = self.estimate_unit(&x)?.quality;
        // The reference's own outcome on the same request, if it is known.
        let known = self.cases.outcome(&x, reference).map(f64::from);
        let lost = (known.unwrap_or(expected[reference]) - y).clamp(0.0, 1.0);
        let loss = match known {
            _ if model == reference || lost <= self.settings.epsilon => 0.0,
            Some(_) => 1.0,
            None => lost,
        };
        let guard = &mut self.models[model].guard;
        guard.add(
            expected[reference] - expected[model],
            loss,
            1.0,
            expected[model] - y,
        );
        self.absorb(&x, model, y, cost)
    }

    fn absorb(&mut self, x: &[f32], model: usize, y: f64, cost: Option<f64>) -> Result<()> {
        let offset = self.base(x).0[model];
        let (row, new) = self.cases.learn(x, model, y as f32);
        self.cases.set_offset(row, model, offset as f32);
        let m = &mut self.models[model];
        m.outcomes = m.outcomes.saturating_add(1);
        m.quality = (m.quality.0 + y, m.quality.1 + 1.0);
        if let Some(c) = cost {
            m.cost = (m.cost.0 + c, m.cost.1 + 1.0);
        }
        self.time = self.time.saturating_add(1);
        self.counts.outcomes += 1;
        let n = self.cases.len();
        let due = new && !self.fixed_features && n >= FIRST_FIT && (n / FIRST_FIT).is_power_of_two();
        let due = due && n.is_multiple_of(FIRST_FIT) && (n / FIRST_FIT).ilog2().is_multiple_of(2);
        if due && self.cases.evicted() == 0 {
            return self.refit_features();
        }
        self.place_row(row, x);
        let z = self.features.of(x);
        let (decay, now) = (self.settings.decay(), self.time as f64);
        self.learner
            .update(model, &z, y, f64::from(offset as f32), decay, now)
    }

    fn refit_features(&mut self) -> Result<()> {
        let n = self.cases.len().min(MAX_ROWS);
        let rows = &self.cases.rows()[(self.cases.len() - n) * self.settings.dim..];
        let features = Features::fit(rows, self.settings.dim);
        self.counts.refits += 1;
        self.replay(features)
    }

    /// Components of requests, from embeddings without outcomes (n · dim); what was learned is learned again on them.
    pub fn fit_features(&mut self, rows: &[f32]) -> Result<()> {
        let d = self.settings.dim;
        let unit: Vec<f32> = (rows.chunks_exact(d))
            .map(|x| unit("embeddings", d, x))
            .collect::<Result<Vec<_>>>()?
            .concat();
        let last = unit.len().saturating_sub(MAX_ROWS * d);
        self.fixed_features = true;
        self.replay(Features::fit(&unit[last..], d))
    }

    /// Starts the rule again on `features` and shows it every case.
    pub(super) fn replay(&mut self, features: Features) -> Result<()> {
        let mut learner = Learner::new(self.settings.kind, self.models.len(), features.len())?;
        self.features = features;
        let mut now = 0.0;
        for row in self.cases.in_order() {
            let z = self.features.of(self.cases.row(row));
            for m in 0..self.models.len() {
                let (y, offset) = (self.cases.quality(m)[row], self.cases.offset(m)[row]);
                if !y.is_nan() {
                    now += 1.0;
                    learner.update(m, &z, f64::from(y), f64::from(offset), self.settings.decay(), now)?;
                }
            }
        }
        self.time = self.time.max(now as u64);
        self.learner = learner;
        self.place_rows();
        Ok(())
    }

    /// What a full history says becomes what is expected before anything is learned; the cases stay.
    pub fn set_history(&mut self, history: History, means: &[(f64, f64, f64)]) -> Result<()> {
        history.check(self.settings.dim, self.models.len())?;
        crate::error::check_dim("means", self.models.len(), means.len())?;
        for (m, (quality, cost, n)) in self.models.iter_mut().zip(means) {
            m.quality = (quality * n, *n);
            if cost.is_finite() {
                m.cost = (cost * n, *n);
            }
            m.prior = *quality;
        }
        self.history = Some(history);
        for row in 0..self.cases.len() {
            let offset = self.base(&self.cases.row(row).to_vec()).0;
            for (m, offset) in offset.iter().enumerate() {
                if !self.cases.quality(m)[row].is_nan() {
                    self.cases.set_offset(row, m, *offset as f32);
                }
            }
        }
        let features = self.features.clone();
        self.replay(features)
    }

    /// Calibrates a model's guard with predictions and outcomes that it was not fitted on: rows (gap to the reference,
    /// loss, predicted − observed).
    pub fn calibrate(&mut self, model: usize, rows: &[(f64, f64, f64)]) -> Result<()> {
        for (gap, loss, residual) in rows {
            for v in [gap, loss, residual] {
                check_number("calibration", *v)?;
            }
            self.models[model]
                .guard
                .add(*gap, loss.clamp(0.0, 1.0), 1.0, *residual);
        }
        Ok(())
    }

    /// One more model. It starts above its price's prior and beside the best, and is tried without the guard 40 times.
    pub fn add_model(&mut self, price: f64) -> Result<()> {
        check_price(price)?;
        if self.models.len() >= MAX_MODELS {
            return Err(Error::value(
                "models",
                format!("at most {MAX_MODELS}"),
                self.models.len() + 1,
            ));
        }
        let best = self.models.iter().map(Model::mean_quality).fold(0.0, f64::max);
        let mut prices: Vec<f64> = self.models.iter().map(|m| m.price).collect();
        prices.push(price);
        let rank = price_rank(&prices, prices.len() - 1);
        let mut model = Model::new(price, best.max(0.55 + 0.35 * rank), self.settings.alpha);
        model.trial = TRIAL;
        if let Some(h) = &mut self.history {
            h.add_model(model.prior, price);
        }
        self.models.push(model);
        self.cases.add_model();
        self.learner.add_arm();
        Ok(())
    }

    /// Forgets all outcomes of a model, for instance because its provider changed it; it is tried anew.
    pub fn reset_model(&mut self, model: usize) -> Result<()> {
        if model >= self.models.len() {
            return Err(Error::value("model", "a known model", model));
        }
        let old = &self.models[model];
        let mut fresh = Model::new(old.price, old.prior, self.settings.alpha);
        fresh.trial = TRIAL;
        self.models[model] = fresh;
        self.cases.clear_model(model);
        self.learner.clear_arm(model);
        Ok(())
    }

    pub(super) fn check(&self) -> Result<()> {
        self.settings.check(self.models.len())?;
        let far = |id: &u64| *id < self.next_id;
        let pending = |p: &Pending| {
            p.x.len() == self.settings.dim
                && p.model < self.models.len()
                && crate::kernels::all_finite(&p.x)
                && [p.expected, p.reference, p.cost].iter().all(|v| v.is_finite())
                && p.propensity > 0.0
                && p.propensity <= 1.0 + 1e-9
        };
        let scores = self.scores.iter().chain(&self.knots);
        let fine = self.pending.len() <= MAX_PENDING
            && self.pending.keys().all(far)
            && self.pending.values().all(pending)
            && self.scores.len() <= CALIBRATION
            && scores.into_iter().all(|(a, b)| a.is_finite() && b.is_finite())
            && self.models.iter().all(|m| m.valid(self.settings.alpha))
            && self.features.valid(self.settings.dim);
        if !fine {
            return Err(Error::value("state", "values that agree", "others"));
        }
        for p in self.tenants.values().chain(&self.tenant_budget) {
            p.check()?;
        }
        if let Some(shared) = &self.budget {
            shared.0.lock().check()?;
        }
        if let Some(h) = &self.history {
            h.check(self.settings.dim, self.models.len())?;
        }
        self.learner
            .check(self.settings.kind, self.models.len(), self.features.len())
    }
}
