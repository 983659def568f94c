//! The rules of prediction behind one interface: what each says of a request's components, and how it takes an outcome.

use super::features::Features;
use super::linear::SharedLinear;
use super::linucb::LinUcb;
use super::logistic::Logistic;
use super::turns::Conversations;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// Which rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Shared Bayesian linear model plus a kernel residual over the cases.
    Hybrid,
    /// The shared Bayesian linear model alone.
    Linear,
    /// Mean of the k nearest cases.
    Knn,
    /// Online logistic regression.
    Logistic,
    /// Disjoint LinUCB on the components.
    LinUcb,
    /// Thompson sampling on the same posterior.
    Thompson,
    /// A FastGRNN cell over the turns of a conversation.
    FastGrnn,
}

impl Kind {
    /// From its public name.
    pub fn parse(name: &str) -> Result<Self> {
        Ok(match name {
            "hybrid" => Self::Hybrid,
            "linear" => Self::Linear,
            "knn" => Self::Knn,
            "logistic" => Self::Logistic,
            "linucb" => Self::LinUcb,
            "thompson" => Self::Thompson,
            "fastgrnn" => Self::FastGrnn,
            _ => {
                let names =
                    "\"hybrid\", \"linear\", \"knn\", \"logistic\", \"linucb\", \"thompson\" or \"fastgrnn\"";
                return Err(Error::config("predictor", names, format!("{name:?}")));
            }
        })
    }

    /// The public name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hybrid => "hybrid",
            Self::Linear => "linear",
            Self::Knn => "knn",
            Self::Logistic => "logistic",
            Self::LinUcb => "linucb",
            Self::Thompson => "thompson",
            Self::FastGrnn => "fastgrnn",
        }
    }
}

/// Width of LinUCB's and Thompson's confidence, and their ridge penalty.
const WIDTH: f64 = 0.5;
/// Width of the hybrid's posterior: noise of an outcome, damped for what its kernel and its shared part explain.
const HYBRID_WIDTH: f64 = 0.35;
const RIDGE: f64 = 8.0;

/// State of one rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) enum Learner {
    Linear(SharedLinear),
    Logistic(Logistic),
    Bandit(LinUcb),
    Cases,
    Turns(Box<Conversations>),
}

impl Learner {
    /// For requests of `dim` values, or for their components.
    pub(super) fn new(kind: Kind, arms: usize, dim: usize, components: usize) -> Result<Self> {
        Ok(match kind {
            Kind::Hybrid | Kind::Linear => Self::Linear(SharedLinear::new(arms, components)),
            Kind::Logistic => Self::Logistic(Logistic::new(arms, components)),
            Kind::LinUcb | Kind::Thompson => {
                Self::Bandit(LinUcb::new(arms, components + 1, WIDTH, RIDGE, 0)?)
            }
            Kind::Knn => Self::Cases,
            Kind::FastGrnn => Self::Turns(Box::new(Conversations::new(arms, dim)?)),
        })
    }

    /// What the rule looks at, with a leading 1: the components of the last turn, or the cell's state after all turns.
    pub(super) fn read(&self, features: &Features, turns: &[f32]) -> Result<Vec<f64>> {
        match self {
            Self::Turns(m) => m.read(turns),
            _ => Ok(features.of(turns)),
        }
    }

    /// Moves `q`, which holds what is expected without it, to what is expected with it; returns standard deviations.
    pub(super) fn predict(&self, kind: Kind, z: &[f64], q: &mut [f64]) -> Result<Vec<f64>> {
        match self {
            Self::Linear(m) => {
                m.predict_all(z, q);
                if kind == Kind::Hybrid {
                    return Ok((m.deviations(z).into_iter())
                        .map(|sd| HYBRID_WIDTH * sd)
                        .collect());
                }
            }
            Self::Logistic(m) => (q.iter_mut().enumerate()).for_each(|(a, q)| *q = m.predict(a, z, *q)),
            Self::Bandit(m) => {
                let x: Vec<f32> = z.iter().map(|v| *v as f32).collect();
                let posterior = m.posterior(&x)?;
                for (q, (mean, _)) in q.iter_mut().zip(&posterior) {
                    *q += mean;
                }
                return Ok(posterior.into_iter().map(|(_, sd)| WIDTH * sd).collect());
            }
            Self::Turns(m) => m.predict(z, q),
            Self::Cases => {}
        }
        Ok(Vec::new())
    }

    pub(super) fn update(
        &mut self,
        arm: usize,
        turns: &[f32],
        z: &[f64],
        (y, offset): (f64, f64),
        decay: f64,
        now: f64,
    ) -> Result<()> {
        match self {
            Self::Linear(m) => m.update(arm, z, y - offset, decay, now),
            Self::Logistic(m) => m.update(arm, z, y.clamp(0.0, 1.0), offset),
            Self::Bandit(m) => {
                let x: Vec<f32> = z.iter().map(|v| *v as f32).collect();
                m.update(arm, &x, y - offset)?;
            }
            Self::Turns(m) => m.update(arm, turns, z, y, offset)?,
            Self::Cases => {}
        }
        Ok(())
    }

    pub(super) fn add_arm(&mut self) {
        match self {
            Self::Linear(m) => m.add_arm(),
            Self::Logistic(m) => m.add_arm(),
            Self::Bandit(m) => m.add_arm(),
            Self::Turns(m) => m.add_arm(),
            Self::Cases => {}
        }
    }

    pub(super) fn clear_arm(&mut self, arm: usize) {
        match self {
            Self::Linear(m) => m.clear_arm(arm),
            Self::Logistic(m) => m.clear_arm(arm),
            Self::Bandit(m) => m.clear_arm(arm),
            Self::Turns(m) => m.clear_arm(arm),
            Self::Cases => {}
        }
    }

    pub(super) fn check(&self, kind: Kind, arms: usize, dim: usize, components: usize) -> Result<()> {
        match (self, kind) {
            (Self::Linear(m), Kind::Hybrid | Kind::Linear) => m.check(arms, components),
            (Self::Logistic(m), Kind::Logistic) => m.check(arms, components),
            (Self::Bandit(m), Kind::LinUcb | Kind::Thompson) => {
                m.check()?;
                if m.shape() == (arms, components + 1) {
                    return Ok(());
                }
                Err(Error::value("state", "sizes that agree", "others"))
            }
            (Self::Cases, Kind::Knn) => Ok(()),
            (Self::Turns(m), Kind::FastGrnn) => m.check(arms, dim),
            _ => Err(Error::value("state", kind.name(), "another rule")),
        }
    }
}
