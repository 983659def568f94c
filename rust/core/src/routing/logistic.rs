//! Online logistic regression per model (AdaGrad steps; Duchi 2011): a quality between 0 and 1 from linear scores.

use super::fastgrnn::sigmoid;
use crate::error::{Error, Result, check_number};
use serde::{Deserialize, Serialize};

const RATE: f64 = 0.5;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Arm {
    theta: Vec<f64>,
    squares: Vec<f64>,
}

/// One regression per model on features z̃ = (1, z), started from a prior quality.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Logistic {
    width: usize,
    arms: Vec<Arm>,
}

impl Logistic {
    /// Coefficients 0.
    #[must_use]
    pub fn new(arms: usize, components: usize) -> Self {
        let mut out = Self {
            width: components + 1,
            arms: Vec::new(),
        };
        (0..arms).for_each(|_| out.add_arm());
        out
    }

    /// One more model.
    pub fn add_arm(&mut self) {
        self.arms.push(Arm {
            theta: vec![0.0; self.width],
            squares: vec![0.0; self.width],
        });
    }

    /// Forgets a model.
    pub fn clear_arm(&mut self, arm: usize) {
        self.arms[arm].theta.fill(0.0);
        self.arms[arm].squares.fill(0.0);
    }

    /// Expected quality of a model whose prior quality is `prior`.
    #[must_use]
    pub fn predict(&self, arm: usize, z: &[f64], prior: f64) -> f64 {
        let prior = prior.clamp(0.01, 0.99);
        let score: f64 = self.arms[arm].theta.iter().zip(z).map(|(t, z)| t * z).sum();
        sigmoid((prior / (1.0 - prior)).ln() + score)
    }

    /// One step on the cross-entropy of an outcome.
    pub fn update(&mut self, arm: usize, z: &[f64], quality: f64, prior: f64) {
        let off = quality - self.predict(arm, z, prior);
        let a = &mut self.arms[arm];
        let parts = a.theta.iter_mut().zip(&mut a.squares);
        for ((theta, square), z) in parts.zip(z) {
            let g = off * z;
            *square += g * g;
            if *square > 0.0 {
                *theta += RATE * g / (square.sqrt() + 1e-8);
            }
        }
    }

    /// Checks decoded sizes and values.
    pub fn check(&self, arms: usize, components: usize) -> Result<()> {
        let w = components + 1;
        let sizes = |a: &Arm| a.theta.len() == w && a.squares.len() == w;
        if self.width != w || self.arms.len() != arms || !self.arms.iter().all(sizes) {
            return Err(Error::value("state", "sizes that agree", "others"));
        }
        (self.arms.iter())
            .flat_map(|a| a.theta.iter().chain(&a.squares))
            .try_for_each(|v| check_number("state", *v))
    }
}
