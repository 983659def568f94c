//! Everything that shapes what an engine learns. Checked once, here.

use crate::codec::Kind;
use crate::error::{Error, Result, check_dim};
use crate::patterns::cases::check_half_life;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How much of what was learned is allowed to act.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Mode {
    /// Identity; nothing is recorded.
    Off,
    /// Identity; decisions and feedback are recorded, nothing is learned.
    Observe,
    /// Identity; learns, and scores itself on every feedback.
    Shadow,
    /// Acts on a share of the decisions, learns from all.
    Canary,
    /// Acts and learns.
    On,
}

impl Mode {
    /// From the public name.
    pub fn parse(name: &str) -> Result<Self> {
        Ok(match name {
            "off" => Self::Off,
            "observe" => Self::Observe,
            "shadow" => Self::Shadow,
            "canary" => Self::Canary,
            "on" => Self::On,
            other => {
                return Err(Error::config(
                    "mode",
                    "off, observe, shadow, canary or on",
                    format!("{other:?}"),
                ));
            }
        })
    }

    /// The public name.
    #[must_use]
    pub fn name(self) -> &'static str {
        ["off", "observe", "shadow", "canary", "on"][self as usize]
    }

    /// From the stored number; anything unknown is `Off`, which is always safe.
    #[must_use]
    pub fn from_u8(v: u8) -> Self {
        [Self::Off, Self::Observe, Self::Shadow, Self::Canary, Self::On]
            .get(usize::from(v))
            .copied()
            .unwrap_or(Self::Off)
    }

    /// True if feedback changes what the engine knows.
    #[must_use]
    pub fn learns(self) -> bool {
        matches!(self, Self::Shadow | Self::Canary | Self::On)
    }
}

/// How candidates that are nearly as good get a chance. Propensities are logged whatever the choice.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum Exploration {
    /// Always the ranking itself; every propensity is 1.
    None,
    /// With probability ε a uniformly drawn candidate takes the first place.
    Epsilon(f32),
    /// The shown list is a Plackett–Luce draw from the scores at this temperature (near-ties swap, clear winners stay).
    Softmax(f32),
}

/// Settings of an engine. Two engines with equal settings and equal logs hold equal bits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EngineConfig {
    /// Length of every query and item vector.
    pub dim: usize,
    /// Seed of every random choice.
    pub seed: u64,
    /// Mode at start.
    pub mode: Mode,
    /// Share of decisions that act in canary mode, 0..=1.
    pub canary_share: f32,
    /// Exploration of shown lists.
    pub exploration: Exploration,
    /// Step size η of the kernel adapter.
    pub eta: f32,
    /// Weight w of normalised recall.
    pub recall_weight: f32,
    /// Nearest cases that count.
    pub neighbors: usize,
    /// Item gate: "evidence", "multiplier" or "off".
    pub gate: String,
    /// Assumed share ν of traffic that wants items without feedback.
    pub gate_nu: f64,
    /// Rank of the per-request adapter, 1 or 2.
    pub micro_rank: usize,
    /// Learning rate of the per-request adapter.
    pub micro_lr: f32,
    /// Rank of the background adapter.
    pub base_rank: usize,
    /// Learning rate of the background adapter.
    pub base_lr: f32,
    /// Hold the slow adapter where earlier cycles left it, by EWC++, instead of training it anew on everything remembered.
    pub ewc: bool,
    /// Strength λ of EWC++.
    pub ewc_lambda: f64,
    /// Number of clusters in pattern extraction.
    pub pattern_clusters: usize,
    /// Trajectories kept for the background loop, and decisions that wait for feedback in memory.
    pub capacity: usize,
    /// Bytes of remembered cases per scope; `None` is unbounded.
    pub case_bytes: Option<usize>,
    /// Days in which what a remembered case counts halves; `None`: cases do not age. Written beside the other settings, by
    /// `codec::encode_with`: their layout is older.
    #[serde(skip)]
    pub case_half_life_days: Option<f64>,
    /// Bytes of item vectors kept per scope.
    pub item_bytes: usize,
    /// Bytes of the journal of an engine without a store.
    pub journal_bytes: usize,
    /// Scopes at most.
    pub max_scopes: usize,
    /// Feedback per user and minute that is learned from; more is recorded and counted. 0 means no cap.
    pub user_cap_per_minute: u32,
    /// Feedback per source and minute that is learned from, for the sources named here.
    pub source_caps: BTreeMap<String, u32>,
    /// Weight of each source's feedback, 0..=1; sources not named have 1.
    pub source_trust: BTreeMap<String, f32>,
    /// Candidates of a decision that take part in learning besides those shown.
    pub learn_candidates: usize,
    /// Greatest loss in DCG, on items without feedback and on the anchors, that what was learned may bring.
    pub harm_budget: f64,
    /// Seconds after a decision in which its feedback is learned from; later feedback is recorded and counted.
    pub decision_ttl_s: f64,
    /// Distinct users that must have chosen an item before its recall counts.
    pub min_users: usize,
    /// Trajectories below this quality do not enter the bank.
    pub quality_threshold: f32,
    /// Name and version of the embedding model; state of another one is refused.
    pub fingerprint: String,
}

impl EngineConfig {
    /// The defaults for vectors of length `dim`.
    #[must_use]
    pub fn new(dim: usize) -> Self {
        Self {
            dim,
            seed: 0,
            mode: Mode::On,
            canary_share: 0.1,
            exploration: Exploration::None,
            eta: 0.8,
            recall_weight: 0.2,
            neighbors: 128,
            gate: "evidence".into(),
            gate_nu: 0.3,
            micro_rank: 2,
            micro_lr: 0.002,
            base_rank: 8,
            base_lr: 1e-4,
            ewc: false,
            ewc_lambda: 2000.0,
            pattern_clusters: 100,
            capacity: 10_000,
            case_bytes: Some(256 << 20),
            case_half_life_days: None,
            item_bytes: 512 << 20,
            journal_bytes: 256 << 20,
            max_scopes: 100_000,
            user_cap_per_minute: 600,
            source_caps: BTreeMap::new(),
            source_trust: BTreeMap::new(),
            learn_candidates: 50,
            harm_budget: 0.05,
            decision_ttl_s: 7.0 * 86_400.0,
            min_users: 1,
            quality_threshold: 0.3,
            fingerprint: String::new(),
        }
    }

    /// Errors on the first field that is out of range.
    pub fn check(&self) -> Result<()> {
        fn range(name: &'static str, ok: bool, expected: &str, got: impl ToString) -> Result<()> {
            if ok {
                Ok(())
            } else {
                Err(Error::config(name, expected, got))
            }
        }
        range(
            "hidden_dim",
            (1..=65_536).contains(&self.dim),
            "1 to 65536",
            self.dim,
        )?;
        range(
            "canary_share",
            (0.0..=1.0).contains(&self.canary_share),
            "0 to 1",
            self.canary_share,
        )?;
        match self.exploration {
            Exploration::None => {}
            Exploration::Epsilon(e) => range("epsilon", (0.0..=1.0).contains(&e), "0 to 1", e)?,
            Exploration::Softmax(t) => {
                range("exploration temperature", t.is_finite() && t > 0.0, "above 0", t)?
            }
        }
        range(
            "eta",
            self.eta.is_finite() && self.eta >= 0.0,
            "0 or more",
            self.eta,
        )?;
        range(
            "recall_weight",
            self.recall_weight.is_finite() && self.recall_weight >= 0.0,
            "0 or more",
            self.recall_weight,
        )?;
        range("neighbors", self.neighbors >= 1, "at least 1", self.neighbors)?;
        range(
            "gate_nu",
            (0.0..=1.0).contains(&self.gate_nu),
            "0 to 1",
            self.gate_nu,
        )?;
        range(
            "micro_lora_rank",
            (1..=2).contains(&self.micro_rank),
            "1 or 2",
            self.micro_rank,
        )?;
        range(
            "base_lora_rank",
            (1..=256).contains(&self.base_rank),
            "1 to 256",
            self.base_rank,
        )?;
        range(
            "micro_lora_lr",
            self.micro_lr.is_finite() && self.micro_lr >= 0.0,
            "0 or more",
            self.micro_lr,
        )?;
        range(
            "base_lora_lr",
            self.base_lr.is_finite() && self.base_lr >= 0.0,
            "0 or more",
            self.base_lr,
        )?;
        range(
            "ewc_lambda",
            self.ewc_lambda.is_finite() && self.ewc_lambda >= 0.0,
            "0 or more",
            self.ewc_lambda,
        )?;
        range(
            "pattern_clusters",
            self.pattern_clusters >= 1,
            "at least 1",
            self.pattern_clusters,
        )?;
        range(
            "trajectory_capacity",
            self.capacity >= 1,
            "at least 1",
            self.capacity,
        )?;
        if let Some(days) = self.case_half_life_days {
            check_half_life("case_half_life_days", days)?;
        }
        range("max_scopes", self.max_scopes >= 1, "at least 1", self.max_scopes)?;
        range(
            "learn_candidates",
            self.learn_candidates >= 2,
            "at least 2",
            self.learn_candidates,
        )?;
        range(
            "harm_budget",
            self.harm_budget >= 0.0,
            "0 or more",
            self.harm_budget,
        )?;
        range(
            "decision_ttl_s",
            self.decision_ttl_s > 0.0,
            "above 0",
            self.decision_ttl_s,
        )?;
        range(
            "min_users",
            (1..=1000).contains(&self.min_users),
            "1 to 1000",
            self.min_users,
        )?;
        range(
            "quality_threshold",
            (0.0..=1.0).contains(&self.quality_threshold),
            "0 to 1",
            self.quality_threshold,
        )?;
        for (source, trust) in &self.source_trust {
            range(
                "source_trust",
                (0.0..=1.0).contains(trust),
                "0 to 1",
                format!("{trust} for {source:?}"),
            )?;
        }
        Ok(())
    }

    /// Errors if state written under `self` cannot serve an engine configured as `other`.
    pub fn check_compatible(&self, other: &Self) -> Result<()> {
        check_dim("hidden_dim of the stored state", self.dim, other.dim)?;
        if self.fingerprint != other.fingerprint {
            return Err(Error::config(
                "embedder",
                format!("the embedder that wrote this state ({:?})", self.fingerprint),
                format!("{:?}", other.fingerprint),
            ));
        }
        Ok(())
    }
}

/// Envelope of a serialised engine.
pub const ENGINE_KIND: Kind = Kind {
    tag: *b"ENGN",
    version: 5,
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mode_names_round_trip() {
        for name in ["off", "observe", "shadow", "canary", "on"] {
            let mode = Mode::parse(name).unwrap();
            assert_eq!(mode.name(), name);
            assert_eq!(Mode::from_u8(mode as u8), mode);
        }
        assert!(Mode::parse("ON").is_err());
        assert_eq!(Mode::from_u8(77), Mode::Off);
    }

    #[test]
    fn check_names_the_field() {
        let mut c = EngineConfig::new(4);
        assert!(c.check().is_ok());
        c.micro_rank = 3;
        assert!(c.check().unwrap_err().to_string().starts_with("micro_lora_rank"));
        let mut c = EngineConfig::new(0);
        c.dim = 0;
        assert!(c.check().unwrap_err().to_string().starts_with("hidden_dim"));
    }

    #[test]
    fn foreign_encoder_is_refused() {
        let a = EngineConfig {
            fingerprint: "minilm".into(),
            ..EngineConfig::new(4)
        };
        let b = EngineConfig {
            fingerprint: "tfidf".into(),
            ..EngineConfig::new(4)
        };
        assert!(a.check_compatible(&b).is_err());
        assert!(a.check_compatible(&EngineConfig { dim: 5, ..a.clone() }).is_err());
        assert!(a.check_compatible(&a.clone()).is_ok());
    }
}
