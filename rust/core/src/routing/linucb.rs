//! Disjoint LinUCB (Li et al. 2010, algorithm 1), and Thompson sampling on the same posterior (Russo et al. 2018).

use crate::codec::{self, Kind};
use crate::error::{Error, Result, check_dim, check_finite, check_number};
use crate::kernels::real::inner as dot;
use crate::metrics::Metrics;
use crate::rng::{self, RngExt};
use serde::{Deserialize, Serialize};

const KIND: Kind = Kind {
    tag: *b"LUCB",
    version: 1,
};
/// Largest state, in numbers.
const MAX_NUMBERS: usize = 1 << 27;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Arm {
    /// (X'X + l2·I)⁻¹, row-major.
    inverse: Vec<f64>,
    /// X'r.
    b: Vec<f64>,
    theta: Vec<f64>,
    count: u64,
}

impl Arm {
    fn new(dim: usize, l2: f64) -> Self {
        let mut inverse = vec![0.0; dim * dim];
        inverse.iter_mut().step_by(dim + 1).for_each(|v| *v = 1.0 / l2);
        Self {
            inverse,
            b: vec![0.0; dim],
            theta: vec![0.0; dim],
            count: 0,
        }
    }
}

/// One ridge regression per arm, with confidence widths.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinUcb {
    dim: usize,
    alpha: f64,
    l2: f64,
    arms: Vec<Arm>,
    seed: u64,
    draws: u64,
}

impl LinUcb {
    /// `alpha` scales the confidence width, `l2` is the ridge penalty.
    pub fn new(n_arms: usize, dim: usize, alpha: f64, l2: f64, seed: u64) -> Result<Self> {
        if n_arms == 0 {
            return Err(Error::config("n_arms", "at least 1", n_arms));
        }
        if dim == 0 {
            return Err(Error::config("dim", "at least 1", dim));
        }
        if n_arms.saturating_mul(dim).saturating_mul(dim) > MAX_NUMBERS {
            return Err(Error::config(
                "n_arms, dim",
                format!("n_arms · dim² up to {MAX_NUMBERS}"),
                format!("{n_arms} arms of dimension {dim}"),
            ));
        }
        if !(alpha >= 0.0 && alpha.is_finite()) {
            return Err(Error::config("alpha", "a finite number, 0 or above", alpha));
        }
        if !(l2 > 0.0 && l2.is_finite()) {
            return Err(Error::config("l2", "a finite number above 0", l2));
        }
        Ok(Self {
            dim,
            alpha,
            l2,
            arms: vec![Arm::new(dim, l2); n_arms],
            seed,
            draws: 0,
        })
    }

    /// (arms, dimension).
    #[must_use]
    pub fn shape(&self) -> (usize, usize) {
        (self.arms.len(), self.dim)
    }

    /// (width factor, ridge penalty).
    #[must_use]
    pub fn settings(&self) -> (f64, f64) {
        (self.alpha, self.l2)
    }

    pub(super) fn add_arm(&mut self) {
        self.arms.push(Arm::new(self.dim, self.l2));
    }

    pub(super) fn clear_arm(&mut self, arm: usize) {
        self.arms[arm] = Arm::new(self.dim, self.l2);
    }

    fn wide(&self, x: &[f32]) -> Result<Vec<f64>> {
        check_dim("x", self.dim, x.len())?;
        check_finite("x", x)?;
        Ok(x.iter().map(|v| f64::from(*v)).collect())
    }

    /// One outcome: a rank-one update of the inverse (Sherman–Morrison). O(dim²).
    pub fn update(&mut self, arm: usize, x: &[f32], reward: f64) -> Result<()> {
        let x = self.wide(x)?;
        check_number("reward", reward)?;
        let (n, d) = (self.arms.len(), self.dim);
        let Some(arm) = self.arms.get_mut(arm) else {
            return Err(Error::value("arm", format!("0 to {}", n - 1), arm));
        };
        let ax: Vec<f64> = arm.inverse.chunks_exact(d).map(|row| dot(row, &x)).collect();
        let scale = 1.0 / (1.0 + dot(&ax, &x));
        for (row, a) in arm.inverse.chunks_exact_mut(d).zip(&ax) {
            for (v, b) in row.iter_mut().zip(&ax) {
                *v -= scale * a * b;
            }
        }
        for (b, x) in arm.b.iter_mut().zip(&x) {
            *b += reward * x;
        }
        arm.theta = arm.inverse.chunks_exact(d).map(|row| dot(row, &arm.b)).collect();
        arm.count = arm.count.saturating_add(1);
        Ok(())
    }

    /// (mean, standard deviation) of each arm at `x`, in noise units.
    pub fn posterior(&self, x: &[f32]) -> Result<Vec<(f64, f64)>> {
        let x = self.wide(x)?;
        Ok(self
            .arms
            .iter()
            .map(|a| {
                let width: f64 = (a.inverse.chunks_exact(self.dim).zip(&x))
                    .map(|(row, xi)| xi * dot(row, &x))
                    .sum();
                (dot(&a.theta, &x), width.max(0.0).sqrt())
            })
            .collect())
    }

    /// θ·x + α √(x'A⁻¹x) of each arm. O(arms · dim²).
    pub fn scores(&self, x: &[f32]) -> Result<Vec<f64>> {
        Ok((self.posterior(x)?.into_iter())
            .map(|(mean, sd)| mean + self.alpha * sd)
            .collect())
    }

    /// Probability of each arm under Thompson sampling: that its posterior draw is the largest. A choice made with these
    /// shares has exactly this propensity.
    pub fn thompson(&self, x: &[f32]) -> Result<Vec<f64>> {
        let mut posterior = self.posterior(x)?;
        posterior.iter_mut().for_each(|(_, sd)| *sd *= self.alpha);
        Ok(super::wins::win_shares(&posterior))
    }

    /// An arm drawn with the probabilities `p`, by a generator that moves with every call.
    pub fn draw(&mut self, p: &[f64]) -> usize {
        let mut rng = rng::stream(self.seed ^ 0x5eed, self.draws);
        self.draws = self.draws.wrapping_add(1);
        super::explore::pick(p, rng.random())
    }

    /// Counts.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let updates: u64 = self.arms.iter().map(|a| a.count).sum();
        let untried = self.arms.iter().filter(|a| a.count == 0).count();
        vec![
            ("arms", self.arms.len().into()),
            ("updates", updates.into()),
            ("arms_untried", untried.into()),
        ]
    }

    /// The whole state.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        codec::encode(KIND, self)
    }

    /// The state that [`LinUcb::to_bytes`] wrote; anything else is refused.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let out: Self = codec::decode(KIND, bytes)?;
        out.check().map_err(|e| Error::corrupt("LinUCB state", e))?;
        Ok(out)
    }

    pub(super) fn check(&self) -> Result<()> {
        let d = self.dim;
        if self.arms.is_empty() || d == 0 || !self.alpha.is_finite() || !self.l2.is_finite() || self.l2 <= 0.0
        {
            return Err(Error::value("state", "valid settings", "others"));
        }
        for a in &self.arms {
            check_dim("inverse", d.saturating_mul(d), a.inverse.len())?;
            check_dim("b", d, a.b.len())?;
            check_dim("theta", d, a.theta.len())?;
            for v in [&a.inverse, &a.b, &a.theta] {
                v.iter().try_for_each(|v| check_number("state", *v))?;
            }
        }
        Ok(())
    }
}
