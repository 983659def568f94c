//! Who may answer, who is best, and with which probability each is chosen.

use super::explore;
use super::learner::Kind;
use super::router::Router;

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

/// What a decision looks at, per candidate.
pub(super) struct View<'a> {
    pub candidates: &'a [usize],
    pub quality: &'a [f64],
    pub cost: &'a [f64],
    pub sd: &'a [f64],
    pub weight: f64,
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
pub(super) struct Plan {
    pub shares: Vec<f64>,
    pub best: usize,
    pub reference: usize,
    pub reason: Reason,
}

impl Router {
    pub(super) fn plan(&self, v: &View<'_>, purse: f64, now: f64) -> Plan {
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
        } else if usable.len() < available.len()
            && available
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
        let shares = self.shares(&utility, best, v, &usable);
        spread(shares, best, reference, reason)
    }

    fn shares(&self, utility: &[f64], best: usize, v: &View<'_>, usable: &[usize]) -> Vec<f64> {
        let (n, floor) = (utility.len(), self.settings.exploration);
        match self.settings.kind {
            _ if floor == 0.0 => explore::greedy(n, best, 0.0),
            Kind::Thompson | Kind::Hybrid => {
                // A model that the guard holds back may promise more than the best: its gap counts in either direction.
                let rows: Vec<(f64, f64)> = (utility.iter().zip(usable))
                    .map(|(u, i)| (-(utility[best] - u).abs(), v.deviation(*i)))
                    .collect();
                let wins = super::wins::win_shares(&rows);
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
    pub(super) fn reference(&self, names: &[usize]) -> usize {
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
    pub(super) fn confidence(&self, quality: f64) -> f64 {
        if self.knots.is_empty() {
            quality.clamp(0.0, 1.0)
        } else {
            super::calibration::interpolate(&self.knots, quality).clamp(0.0, 1.0)
        }
    }
}
