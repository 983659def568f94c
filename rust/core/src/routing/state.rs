//! Settings, models and state of the router: checks, counts, bytes.

use super::cases::Cases;
use super::guard::Guard;
use super::learner::Kind as LearnerKind;
use super::router::{
    CALIBRATION, MAX_MODELS, MAX_PENDING, Model, PRICE_COUNTS, Pending, QUALITY_COUNTS, Router, Settings,
};
use super::turns::MAX_TURNS;
use crate::codec::{self, Kind};
use crate::error::{Error, Result, check_number};
use crate::metrics::Metrics;

const KIND: Kind = Kind {
    tag: *b"ROUT",
    version: 1,
};

/// Errors unless a price is finite and not negative.
pub(super) fn check_price(price: f64) -> Result<()> {
    check_number("cost", price)?;
    if price >= 0.0 {
        Ok(())
    } else {
        Err(Error::config("cost", "a number, 0 or above", price))
    }
}

/// Place of a price between the lowest and the highest, on a logarithmic scale; ½ if they are all the same.
pub(super) fn price_rank(prices: &[f64], at: usize) -> f64 {
    let positive = prices.iter().copied().filter(|p| *p > 0.0);
    let least = positive.fold(f64::INFINITY, f64::min);
    // A free model counts as a tenth of the cheapest that is not.
    let log = |p: f64| if p > 0.0 { p.ln() } else { (least / 10.0).ln() };
    let low = prices.iter().map(|p| log(*p)).fold(f64::INFINITY, f64::min);
    let high = prices.iter().map(|p| log(*p)).fold(f64::NEG_INFINITY, f64::max);
    if high > low {
        (log(prices[at]) - low) / (high - low)
    } else {
        0.5
    }
}

impl Settings {
    pub(super) fn check(&self, models: usize) -> Result<()> {
        let within = |name, v: f64, fine: bool, expected: &str| {
            if fine && v.is_finite() {
                Ok(())
            } else {
                Err(Error::config(name, expected, v))
            }
        };
        if models == 0 || models > MAX_MODELS {
            return Err(Error::config("models", format!("1 to {MAX_MODELS}"), models));
        }
        if self.k == 0 {
            return Err(Error::config("k", "at least 1", self.k));
        }
        let (w, a, e, x) = (self.cost_weight, self.alpha, self.epsilon, self.exploration);
        within("cost_weight", w, w >= 0.0, "a finite number, 0 or above")?;
        within("alpha", a, a > 0.0 && a <= 1.0, "a number in (0, 1]")?;
        within("epsilon", e, (0.0..=1.0).contains(&e), "a number in [0, 1]")?;
        within("exploration", x, (0.0..1.0).contains(&x), "a number in [0, 1)")?;
        let b = self.abstain;
        within("abstain_below", b, (0.0..=1.0).contains(&b), "a number in [0, 1]")?;
        let s = self.breaker.1;
        within(
            "breaker",
            s,
            s >= 0.0 && self.breaker.0 > 0,
            "1 or more errors, 0 or more seconds",
        )?;
        let h = self.half_life;
        within("half_life", h, h > 0.0, "a finite number above 0")?;
        let j = self.judge_error;
        within("judge_error", j, (0.0..0.5).contains(&j), "a number in [0, 0.5)")?;
        match [self.floor, self.fallback]
            .into_iter()
            .flatten()
            .find(|m| *m >= models)
        {
            Some(m) => Err(Error::config("floor, fallback", "a known model", m)),
            None => Ok(()),
        }
    }

    /// Share that what was learned keeps per outcome.
    pub(super) fn decay(&self) -> f64 {
        (-std::f64::consts::LN_2 / self.half_life).exp()
    }

    /// A judged quality without the bias of a judge that flips a share of outcomes.
    pub(super) fn corrected(&self, quality: f64) -> f64 {
        (quality - self.judge_error) / (1.0 - 2.0 * self.judge_error)
    }
}

impl Model {
    pub(super) fn new(price: f64, prior: f64, alpha: f64) -> Self {
        Self {
            price,
            prior,
            cost: (PRICE_COUNTS * price, PRICE_COUNTS),
            quality: (0.0, 0.0),
            outcomes: 0,
            trial: 0,
            errors: 0,
            open_until: f64::NEG_INFINITY,
            latency_ms: (0.0, 0.0),
            guard: Guard::new(alpha),
        }
    }

    pub(super) fn mean_quality(&self) -> f64 {
        (self.quality.0 + QUALITY_COUNTS * self.prior) / (self.quality.1 + QUALITY_COUNTS)
    }

    pub(super) fn mean_cost(&self) -> f64 {
        self.cost.0 / self.cost.1
    }

    pub(super) fn valid(&self, alpha: f64) -> bool {
        let pairs = [self.cost, self.quality, self.latency_ms];
        check_price(self.price).is_ok()
            && self.prior.is_finite()
            && self.cost.1 > 0.0
            && self.quality.1 >= 0.0
            && pairs.iter().all(|(a, b)| a.is_finite() && b.is_finite())
            && !self.open_until.is_nan()
            && self.guard.valid(alpha)
    }
}

impl Router {
    /// Counts and gauges.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let c = &self.counts;
        let open = self
            .models
            .iter()
            .filter(|m| m.open_until > f64::NEG_INFINITY)
            .count();
        let guarded = self
            .models
            .iter()
            .filter(|m| m.guard.threshold() > f64::NEG_INFINITY)
            .count();
        vec![
            ("models", self.models.len().into()),
            ("cases", self.cases.len().into()),
            ("evicted", self.cases.evicted().into()),
            ("components", self.features.len().into()),
            ("history", u64::from(self.history.is_some()).into()),
            ("decisions", c.decisions.into()),
            ("explored", c.explored.into()),
            ("outcomes", c.outcomes.into()),
            ("pending", self.pending().into()),
            ("duplicates", c.duplicates.into()),
            ("dropped_decisions", c.dropped.into()),
            ("errors", c.errors.into()),
            ("open_circuits", open.into()),
            ("abstained", c.abstained.into()),
            ("over_budget", c.over_budget.into()),
            ("held_by_risk", c.by_risk.into()),
            ("models_within_risk", guarded.into()),
            ("refits", c.refits.into()),
        ]
    }

    /// Per model: (price, mean cost, mean quality, outcomes, mean latency in ms or NaN, circuit open at `now`).
    #[must_use]
    pub fn summary(&self, now: f64) -> Vec<(f64, f64, f64, u64, f64, bool)> {
        (self.models.iter())
            .map(|m| {
                let latency = m.latency_ms.0 / m.latency_ms.1;
                (
                    m.price,
                    m.mean_cost(),
                    m.mean_quality(),
                    m.outcomes,
                    latency,
                    m.open_until > now,
                )
            })
            .collect()
    }

    /// The whole state.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        codec::encode(KIND, self)
    }

    /// The router that [`Router::to_bytes`] wrote; anything else is refused.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let mut out: Self = codec::decode(KIND, bytes)?;
        let n = out.models.len();
        let (dim, capacity) = (out.settings.dim, out.settings.capacity);
        if (out.cases.dim(), out.cases.capacity()) != (dim, capacity) {
            return Err(Error::corrupt("router state", "cases of another size"));
        }
        Cases::restore(&mut out.cases, n, "router state")?;
        out.check().map_err(|e| Error::corrupt("router state", e))?;
        out.place_rows();
        Ok(out)
    }

    fn check(&self) -> Result<()> {
        self.settings.check(self.models.len())?;
        let far = |id: &u64| *id < self.next_id;
        let pending = |p: &Pending| {
            self.turns_fit(p.x.len())
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
        self.learner.check(
            self.settings.kind,
            self.models.len(),
            self.settings.dim,
            self.features.len(),
        )
    }

    /// Whether a request may have so many values.
    fn turns_fit(&self, len: usize) -> bool {
        let most = match self.settings.kind {
            LearnerKind::FastGrnn => MAX_TURNS,
            _ => 1,
        };
        len.is_multiple_of(self.settings.dim) && (1..=most).contains(&(len / self.settings.dim))
    }
}
