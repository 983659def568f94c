//! Losses on scores. Each returns its value and ∂L/∂score in float64; what a score is (here: a cosine) is the caller's
//! business, so every loss can be checked alone.

use crate::error::{Error, Result, check_number};

/// Loss over positives and negatives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RankingLoss {
    /// Mean over positives of the cross-entropy of [positive; all negatives] (van den Oord et al. 2018, eq. 4).
    InfoNce {
        /// Softmax temperature τ.
        temperature: f64,
    },
    /// Mean over all pairs of max(0, margin − s₊ + s₋) (Schroff et al. 2015, eq. 2, on scores).
    Triplet {
        /// Required distance between a positive and a negative score.
        margin: f64,
    },
    /// Sum over pairs of log(1 + exp(−σ(s₊ − s₋))) (Burges et al. 2005).
    RankNet {
        /// Slope σ.
        sigma: f64,
    },
}

/// Loss over graded relevance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelevanceLoss {
    /// RankNet over all pairs with unequal grades.
    RankNet,
    /// RankNet with each pair weighted by |ΔNDCG| (Burges 2010).
    LambdaRank,
}

/// What is known about one choice among shown candidates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChoiceFeedback {
    /// Position of the chosen candidate.
    pub chosen: usize,
    /// Its reward.
    pub reward: f64,
    /// What the reward is judged against.
    pub baseline: f64,
    /// Probability with which the logging policy showed or chose it.
    pub propensity: Option<f64>,
    /// Softmax temperature of the policy.
    pub temperature: f64,
    /// Bounds of the importance weight.
    pub ips_clip: (f64, f64),
}

fn positive(name: &'static str, value: f64) -> Result<()> {
    check_number(name, value)?;
    if value > 0.0 {
        Ok(())
    } else {
        Err(Error::value(name, "a finite number above 0", value))
    }
}

/// ln Σ exp(xᵢ) and the softmax of x.
pub(crate) fn log_softmax_parts(x: &[f64]) -> (f64, Vec<f64>) {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut p: Vec<f64> = x.iter().map(|v| (v - max).exp()).collect();
    let sum: f64 = p.iter().sum();
    for v in &mut p {
        *v /= sum;
    }
    (max + sum.ln(), p)
}

/// ln(1 + exp(−z)) and its derivative, without overflow.
fn logistic(z: f64) -> (f64, f64) {
    let e = (-z.abs()).exp();
    let loss = if z > 0.0 { e.ln_1p() } else { e.ln_1p() - z };
    let sigmoid_minus = if z > 0.0 { e / (1.0 + e) } else { 1.0 / (1.0 + e) };
    (loss, -sigmoid_minus)
}

impl RankingLoss {
    /// Reads the public name together with the parameters.
    pub fn parse(name: &str, temperature: f64, margin: f64, sigma: f64) -> Result<Self> {
        for (name, v) in [("temperature", temperature), ("margin", margin), ("sigma", sigma)] {
            check_number(name, v)?;
        }
        match name {
            "infonce" => {
                positive("temperature", temperature)?;
                Ok(Self::InfoNce { temperature })
            }
            "triplet" => Ok(Self::Triplet { margin }),
            "ranknet" => {
                positive("sigma", sigma)?;
                Ok(Self::RankNet { sigma })
            }
            _ => Err(Error::value(
                "loss",
                "\"infonce\", \"triplet\" or \"ranknet\"",
                format!("{name:?}"),
            )),
        }
    }

    /// The public name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::InfoNce { .. } => "infonce",
            Self::Triplet { .. } => "triplet",
            Self::RankNet { .. } => "ranknet",
        }
    }

    /// Loss, ∂L/∂positive scores, ∂L/∂negative scores.
    #[must_use]
    pub fn evaluate(&self, pos: &[f64], neg: &[f64]) -> (f64, Vec<f64>, Vec<f64>) {
        let (mut loss, mut dp, mut dn) = (0.0, vec![0.0; pos.len()], vec![0.0; neg.len()]);
        match *self {
            Self::InfoNce { temperature } => {
                let n = pos.len() as f64;
                let mut logits: Vec<f64> = std::iter::once(0.0)
                    .chain(neg.iter().map(|s| s / temperature))
                    .collect();
                for (s, d) in pos.iter().zip(&mut dp) {
                    logits[0] = s / temperature;
                    let (lse, p) = log_softmax_parts(&logits);
                    loss += (lse - logits[0]) / n;
                    *d = (p[0] - 1.0) / (temperature * n);
                    for (g, p) in dn.iter_mut().zip(&p[1..]) {
                        *g += p / (temperature * n);
                    }
                }
            }
            Self::Triplet { margin } => {
                let pairs = (pos.len() * neg.len()) as f64;
                for (sp, gp) in pos.iter().zip(&mut dp) {
                    for (sn, gn) in neg.iter().zip(&mut dn) {
                        let v = margin - sp + sn;
                        if v > 0.0 {
                            loss += v / pairs;
                            *gp -= 1.0 / pairs;
                            *gn += 1.0 / pairs;
                        }
                    }
                }
            }
            Self::RankNet { sigma } => {
                for (sp, gp) in pos.iter().zip(&mut dp) {
                    for (sn, gn) in neg.iter().zip(&mut dn) {
                        let (l, d) = logistic(sigma * (sp - sn));
                        loss += l;
                        *gp += sigma * d;
                        *gn -= sigma * d;
                    }
                }
            }
        }
        (loss, dp, dn)
    }
}

impl RelevanceLoss {
    /// Reads the public name.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "ranknet" => Ok(Self::RankNet),
            "lambdarank" => Ok(Self::LambdaRank),
            _ => Err(Error::value(
                "loss",
                "\"ranknet\" or \"lambdarank\"",
                format!("{name:?}"),
            )),
        }
    }

    /// The public name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::RankNet => "ranknet",
            Self::LambdaRank => "lambdarank",
        }
    }

    /// Loss and ∂L/∂scores for grades `relevance`.
    pub fn evaluate(&self, scores: &[f64], relevance: &[f64], sigma: f64) -> Result<(f64, Vec<f64>)> {
        positive("sigma", sigma)?;
        let n = scores.len();
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&i, &j| scores[j].total_cmp(&scores[i]).then(i.cmp(&j)));
        let discount = |rank: usize| 1.0 / (rank as f64 + 2.0).log2();
        let mut at = vec![0.0; n];
        for (rank, &i) in order.iter().enumerate() {
            at[i] = discount(rank);
        }
        let gain = |r: f64| r.exp2() - 1.0;
        let mut best = relevance.to_vec();
        best.sort_by(|a, b| b.total_cmp(a));
        let ideal: f64 = best.iter().enumerate().map(|(k, &r)| gain(r) * discount(k)).sum();
        let (mut loss, mut ds) = (0.0, vec![0.0; n]);
        for i in 0..n {
            for j in 0..n {
                if relevance[i] <= relevance[j] {
                    continue;
                }
                let weight = match self {
                    Self::RankNet => 1.0,
                    // An ideal of 0 needs grades of at most 0: no swap changes such an NDCG.
                    Self::LambdaRank if ideal > 0.0 => {
                        ((gain(relevance[i]) - gain(relevance[j])) * (at[i] - at[j])).abs() / ideal
                    }
                    Self::LambdaRank => 0.0,
                };
                let (l, d) = logistic(sigma * (scores[i] - scores[j]));
                loss += weight * l;
                ds[i] += weight * sigma * d;
                ds[j] -= weight * sigma * d;
            }
        }
        Ok((loss, ds))
    }
}

impl ChoiceFeedback {
    /// Checks every field against `n` candidates.
    pub fn validate(&self, n: usize) -> Result<()> {
        positive("temperature", self.temperature)?;
        if self.chosen >= n {
            return Err(Error::value(
                "chosen",
                format!("a position below {n}"),
                self.chosen,
            ));
        }
        for (name, v) in [("reward", self.reward), ("baseline", self.baseline)] {
            if !v.is_finite() {
                return Err(Error::NotFinite {
                    name,
                    index: 0,
                    value: v as f32,
                });
            }
        }
        if let Some(p) = self.propensity.filter(|p| !(*p > 0.0 && *p <= 1.0)) {
            return Err(Error::value("propensity", "a probability in (0, 1]", p));
        }
        let (lo, hi) = self.ips_clip;
        if lo >= 0.0 && lo <= hi && hi.is_finite() {
            Ok(())
        } else {
            Err(Error::value(
                "ips_clip",
                "0 <= low <= high",
                format!("({lo}, {hi})"),
            ))
        }
    }

    /// L = −w(R − b) log π(chosen) and ∂L/∂scores, with π = softmax(scores/τ) and w held fixed.
    #[must_use]
    pub fn evaluate(&self, scores: &[f64]) -> (f64, Vec<f64>) {
        let logits: Vec<f64> = scores.iter().map(|s| s / self.temperature).collect();
        let (lse, pi) = log_softmax_parts(&logits);
        let weight = match self.propensity {
            Some(mu) => (pi[self.chosen] / mu).clamp(self.ips_clip.0, self.ips_clip.1),
            None => 1.0,
        };
        let advantage = weight * (self.reward - self.baseline);
        let ds = pi
            .iter()
            .enumerate()
            .map(|(j, p)| advantage * (p - f64::from(u8::from(j == self.chosen))) / self.temperature)
            .collect();
        (-advantage * (logits[self.chosen] - lse), ds)
    }
}
