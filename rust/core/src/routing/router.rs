//! The router: which model answers a request, learned from how its answers turned out.

use super::budget::BudgetPacer;
use super::cases::Cases;
use super::features::Features;
use super::guard::Guard;
use super::history::History;
use super::learner::{Kind, Learner};
use super::near::Screen;
use super::state::{check_price, price_rank};
use crate::error::Result;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Most models.
pub const MAX_MODELS: usize = 4096;
/// Most decisions that wait for their outcome; the oldest is given up.
pub const MAX_PENDING: usize = 1 << 16;
/// Outcomes of a model that joined later, during which the risk guard leaves it alone.
pub(super) const TRIAL: u64 = 40;
/// Pseudo-counts of the list price in a model's mean cost.
pub(super) const PRICE_COUNTS: f64 = 2.0;
/// Pseudo-counts of the prior in a model's mean quality.
pub(super) const QUALITY_COUNTS: f64 = 8.0;
/// First number of rows at which components are fitted; then at every fourfold.
pub(super) const FIRST_FIT: usize = 16;
/// Scores that the calibration of confidence looks back.
pub(super) const CALIBRATION: usize = 512;

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

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Pending {
    pub x: Vec<f32>,
    pub model: usize,
    pub propensity: f64,
    pub expected: f64,
    pub reference: f64,
    pub cost: f64,
    pub away: bool,
    pub tenant: Option<String>,
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
    pub(super) pending: BTreeMap<u64, Pending>,
    pub(super) next_id: u64,
    pub(super) time: u64,
    /// (expected, observed) quality of the last outcomes.
    pub(super) scores: Vec<(f64, f64)>,
    pub(super) knots: Vec<(f64, f64)>,
    pub(super) scored: u64,
    pub(super) budget: Option<SharedPacer>,
    pub(super) tenant_budget: Option<BudgetPacer>,
    pub(super) tenants: BTreeMap<String, BudgetPacer>,
    pub(super) counts: Counts,
    /// Components of every case; follows from the cases.
    #[serde(skip)]
    pub(super) z: Vec<f64>,
    /// What of the cases is far from a request; follows from them too.
    #[serde(skip)]
    pub(super) screen: Screen,
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
            learner: Learner::new(settings.kind, prices.len(), settings.dim, 0)?,
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
            screen: Screen::default(),
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
}
