//! Quality of each model from the turns of a conversation: a FastGRNN cell that is trained again while outcomes accumulate,
//! and a logistic correction on its state in between.

use super::fastgrnn::FastGrnn;
use super::fastgrnn_train::FitOptions;
use super::logistic::Logistic;
use crate::error::{Error, Result, check_dim, check_finite};
use crate::kernels;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Most turns of a conversation that are read: the last ones.
pub const MAX_TURNS: usize = 64;
/// Hidden units of the cell, and the rank of what it multiplies long inputs with.
const HIDDEN: usize = 16;
const RANK: usize = 8;
/// Outcomes that a training looks back.
const WINDOW: usize = 1024;
/// Number of outcomes at the first training; then at every doubling.
const FIRST: u64 = 64;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Outcome {
    turns: Vec<f32>,
    arm: usize,
    quality: f32,
    /// What was expected before anything was learned.
    prior: f32,
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Conversations {
    cell: FastGrnn,
    /// Corrects what the cell says since it was trained.
    heads: Logistic,
    /// Models that the cell was trained on; of the others the prior stands.
    known: Vec<bool>,
    window: VecDeque<Outcome>,
    outcomes: u64,
}

impl Conversations {
    /// An untrained cell over turns of `dim` values.
    pub fn new(arms: usize, dim: usize) -> Result<Self> {
        let rank = (dim > 2 * RANK).then_some(RANK);
        Ok(Self {
            cell: FastGrnn::new(dim, HIDDEN, rank, None, (1.0, -4.0), 0)?,
            heads: Logistic::new(arms, HIDDEN),
            known: vec![false; arms],
            window: VecDeque::new(),
            outcomes: 0,
        })
    }

    /// The state after the turns (T · dim), with a leading 1.
    pub fn read(&self, turns: &[f32]) -> Result<Vec<f64>> {
        let states = self.cell.run(turns, None)?;
        let last = &states[states.len().saturating_sub(HIDDEN)..];
        Ok(std::iter::once(1.0)
            .chain(last.iter().map(|v| f64::from(*v)))
            .collect())
    }

    /// What the cell says of each model in the state z; the prior where it was not trained.
    fn said(&self, z: &[f64], q: &mut [f64]) {
        if self.known.contains(&true) {
            let h: Vec<f32> = z[1..].iter().map(|v| *v as f32).collect();
            let said = self.cell.read_out(&h);
            for ((q, said), known) in q.iter_mut().zip(said).zip(&self.known) {
                *q = if *known { said } else { *q };
            }
        }
    }

    /// Moves `q`, the prior of each model, to what is expected in the state z.
    pub fn predict(&self, z: &[f64], q: &mut [f64]) {
        self.said(z, q);
        for (a, q) in q.iter_mut().enumerate() {
            *q = self.heads.predict(a, z, *q);
        }
    }

    fn correct(&mut self, arm: usize, z: &[f64], quality: f64, prior: f64) {
        let mut q = vec![prior; self.known.len()];
        self.said(z, &mut q);
        self.heads.update(arm, z, quality, q[arm]);
    }

    /// One outcome after the turns, which left the state z. O(turns · dim), and a training at every doubling of outcomes.
    pub fn update(&mut self, arm: usize, turns: &[f32], z: &[f64], quality: f64, prior: f64) -> Result<()> {
        let quality = quality.clamp(0.0, 1.0);
        self.correct(arm, z, quality, prior);
        if self.window.len() == WINDOW {
            self.window.pop_front();
        }
        self.window.push_back(Outcome {
            turns: turns.to_vec(),
            arm,
            quality: quality as f32,
            prior: prior as f32,
        });
        self.outcomes = self.outcomes.saturating_add(1);
        if self.outcomes >= FIRST && self.outcomes.is_power_of_two() {
            let (turns, targets): (Vec<_>, Vec<_>) = self.window.iter().map(|o| self.example(o)).unzip();
            return self.train(&turns, &targets, 12);
        }
        Ok(())
    }

    /// The outcome of one model; nothing of the others.
    fn example(&self, o: &Outcome) -> (Vec<f32>, Vec<f32>) {
        let mut target = vec![f32::NAN; self.known.len()];
        target[o.arm] = o.quality;
        (o.turns.clone(), target)
    }

    /// Trains on conversations of which some or all models' qualities are known (NaN: not known).
    pub fn train(&mut self, turns: &[Vec<f32>], targets: &[Vec<f32>], epochs: usize) -> Result<()> {
        let options = FitOptions {
            epochs,
            batch_size: 16,
            learning_rate: 0.01,
            weight_decay: 1e-4,
            clip_norm: 5.0,
            logistic: true,
            seed: self.outcomes,
        };
        self.cell.fit_known(turns, targets, options)?;
        for target in targets {
            for (known, t) in self.known.iter_mut().zip(target) {
                *known |= !t.is_nan();
            }
        }
        self.heads = Logistic::new(self.known.len(), HIDDEN);
        Ok(())
    }

    /// One more model.
    pub fn add_arm(&mut self) {
        self.known.push(false);
        self.heads.add_arm();
    }

    /// Forgets a model.
    pub fn clear_arm(&mut self, arm: usize) {
        self.known[arm] = false;
        self.heads.clear_arm(arm);
        self.window.retain(|o| o.arm != arm);
    }

    /// Checks decoded sizes and values.
    pub fn check(&self, arms: usize, dim: usize) -> Result<()> {
        self.cell.check()?;
        self.heads.check(arms, HIDDEN)?;
        check_dim("known", arms, self.known.len())?;
        let outputs = self.cell.outputs();
        let trained = self.known.iter().rposition(|k| *k).is_none_or(|a| a < outputs);
        if self.cell.shape() != (dim, HIDDEN) || !trained || self.window.len() > WINDOW {
            return Err(Error::value("state", "sizes that agree", "others"));
        }
        for o in &self.window {
            let turns = o.turns.len() / dim;
            let fine = (1..=MAX_TURNS).contains(&turns) && o.turns.len() == turns * dim && o.arm < arms;
            if !fine || !(0.0..=1.0).contains(&o.quality) || !o.prior.is_finite() {
                return Err(Error::value("state", "outcomes that agree", "others"));
            }
            check_finite("turns", &o.turns)?;
        }
        Ok(())
    }
}

/// The last [`MAX_TURNS`] of the turns (T · dim), each of length one; a zero turn stays zero.
pub(super) fn unit_turns(dim: usize, x: &[f32]) -> Result<Vec<f32>> {
    if x.is_empty() || !x.len().is_multiple_of(dim) {
        return Err(Error::Dimension {
            name: "embedding",
            expected: dim,
            got: x.len(),
        });
    }
    check_finite("embedding", x)?;
    let from = x.len().saturating_sub(MAX_TURNS * dim);
    let mut out = x[from..].to_vec();
    for turn in out.chunks_exact_mut(dim) {
        // Scaled first, so that no square overflows.
        let top = turn.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        if top > 0.0 {
            turn.iter_mut().for_each(|v| *v /= top);
            kernels::normalize(turn);
        }
    }
    Ok(out)
}
