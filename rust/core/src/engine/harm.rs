//! The harm budget on live learning: how much of what was learned may act, given what it does to items without feedback.
//!
//! Each feedback is also ranked as if the chosen item had never had any: its cases are taken out and the item gate treats it
//! as new. The loss against the application's own ranking is kept for every multiplier m of the learned part, acting or not,
//! so that the choice needs no experiment on users. It counts with the assumed share ν of requests that want such items. The
//! largest m whose loss is not surely above the budget acts; m = 0 is the application's ranking itself.

use super::anchors::{AnchorLosses, Anchors};
use super::stats::dcg;
use crate::error::Result;
use crate::metrics::Metrics;
use serde::{Deserialize, Serialize};

/// Multipliers of the learned part, from all of it to nothing.
pub const ARMS: [f32; 5] = [1.0, 0.75, 0.5, 0.25, 0.0];
/// Decay of the running losses per feedback: what was lost long ago says little about the state of today.
const DECAY: f64 = 0.995;
/// Feedbacks before anything is held back.
const WARM_UP: u64 = 20;
/// One-sided 95 %.
const Z: f64 = 1.644_854;

/// Loss per arm on one ranking.
pub type Losses = [f64; ARMS.len()];

/// Decayed mean and variance of the losses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Decayed {
    weight: f64,
    /// Sum of the squared weights: how many equally weighted values these are worth.
    squared_weight: f64,
    sum: Losses,
    squares: Losses,
}

impl Decayed {
    fn push(&mut self, x: &Losses, w: f64) {
        self.weight = DECAY * self.weight + w;
        self.squared_weight = DECAY * DECAY * self.squared_weight + w * w;
        for ((s, q), x) in self.sum.iter_mut().zip(&mut self.squares).zip(x) {
            *s = DECAY * *s + w * x;
            *q = DECAY * *q + w * x * x;
        }
    }

    fn mean(&self, arm: usize) -> f64 {
        if self.weight > 0.0 {
            self.sum[arm] / self.weight
        } else {
            0.0
        }
    }

    /// The mean is above this with 95 % confidence.
    fn lower(&self, arm: usize) -> f64 {
        let n = self.weight * self.weight / self.squared_weight.max(f64::MIN_POSITIVE);
        if n <= 1.0 {
            return f64::NEG_INFINITY;
        }
        let mean = self.mean(arm);
        let variance = (self.squares[arm] / self.weight - mean * mean).max(0.0) * n / (n - 1.0);
        mean - Z * (variance / n).sqrt()
    }
}

/// How much of what was learned may act in one scope.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Harm {
    count: u64,
    as_new: Decayed,
    anchors: AnchorLosses,
    arm: usize,
    held_back: u64,
    /// Anchors that were measured one at a time.
    turn: u64,
}

impl Harm {
    /// m: the share of the learned part that acts.
    #[must_use]
    pub fn multiplier(&self) -> f32 {
        ARMS[self.arm]
    }

    /// Feedbacks that were looked at.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The multiplier, feedbacks looked at and held back, mean losses with what acts now and with everything.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let anchor_loss = |arm| self.anchors.mean(arm).unwrap_or(0.0);
        vec![
            ("multiplier", f64::from(self.multiplier()).into()),
            ("observed", self.count.into()),
            ("held_back", self.held_back.into()),
            ("loss", self.as_new.mean(self.arm).into()),
            ("loss_unlimited", self.as_new.mean(0).into()),
            ("anchors", self.anchors.len().into()),
            ("anchor_loss", anchor_loss(self.arm).into()),
            ("anchor_loss_unlimited", anchor_loss(0).into()),
        ]
    }

    /// Mean loss on the anchors with what acts now, and their number; `None` without anchors.
    #[must_use]
    pub fn anchor_loss(&self) -> Option<(f64, usize)> {
        Some((self.anchors.mean(self.arm)?, self.anchors.len()))
    }

    /// Takes the losses of one feedback, which is genuine with probability `weight`: that a stray click's item ranks low is
    /// no loss.
    pub fn push(&mut self, losses: &Losses, weight: f64) {
        self.count += 1;
        self.as_new.push(losses, weight);
    }

    /// Measures the anchors: all of them if the set is new, else the one whose turn it is. `losses(i)` is about anchor i,
    /// with nothing held back.
    pub fn measure(
        &mut self,
        anchors: Option<&Anchors>,
        mut losses: impl FnMut(&Anchors, usize) -> Result<Losses>,
    ) -> Result<()> {
        match anchors {
            None => self.anchors = AnchorLosses::default(),
            Some(set) if self.anchors.are_of(set) => {
                let due = (self.turn % set.len() as u64) as usize;
                self.turn += 1;
                self.anchors.set(due, losses(set, due)?);
            }
            Some(set) => {
                let all = (0..set.len())
                    .map(|i| losses(set, i))
                    .collect::<Result<Vec<_>>>()?;
                self.anchors = AnchorLosses::new(set, all);
            }
        }
        Ok(())
    }

    /// Chooses the multiplier: the largest with which neither the share `nu` of the traffic that wants new items nor the
    /// anchors surely cost more than `budget` per request.
    pub fn choose(&mut self, budget: f64, nu: f64) {
        let warm = self.count >= WARM_UP;
        let within = |a: &usize| {
            let as_new = !warm || nu == 0.0 || nu * self.as_new.lower(*a) <= budget;
            as_new && self.anchors.lower(*a, Z) <= budget
        };
        self.arm = (0..ARMS.len()).find(within).unwrap_or(ARMS.len() - 1);
        self.held_back += u64::from(self.arm > 0);
    }

    /// True if decoded bytes can be what this type writes.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        let d = &self.as_new;
        self.arm < ARMS.len()
            && self.anchors.is_valid()
            && [d.weight, d.squared_weight]
                .iter()
                .all(|v| v.is_finite() && *v >= 0.0)
            && d.sum.iter().chain(&d.squares).all(|v| v.is_finite())
    }
}

/// s0 + m·(s − s0) into `out`; s itself, bit for bit, for m = 1 and s0 for m = 0.
pub fn temper(base: &[f32], learned: &mut [f32], m: f32) {
    if m >= 1.0 {
        return;
    }
    if m <= 0.0 {
        learned.copy_from_slice(base);
        return;
    }
    for (s, s0) in learned.iter_mut().zip(base) {
        *s = s0 + m * (*s - s0);
    }
}

/// DCG lost by `wanted` under each multiplier, among the candidates where `keep` holds.
#[must_use]
pub fn losses(base: &[f32], learned: &[f32], wanted: &[usize], keep: impl Fn(usize) -> bool) -> Losses {
    let kept: Vec<usize> = (0..base.len()).filter(|&i| keep(i)).collect();
    let take = |from: &[f32]| kept.iter().map(|&i| from[i]).collect::<Vec<f32>>();
    let at: Vec<usize> = wanted.iter().filter_map(|w| kept.binary_search(w).ok()).collect();
    let (base, learned) = (take(base), take(learned));
    let frozen = dcg(&base, &at);
    std::array::from_fn(|a| {
        let mut scores = learned.clone();
        temper(&base, &mut scores, ARMS[a]);
        frozen - dcg(&scores, &at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{RngExt, stream};

    #[test]
    fn a_sure_loss_lowers_the_multiplier_until_it_fits_and_its_end_restores_it() {
        let mut h = Harm::default();
        for _ in 0..200 {
            h.push(&[0.3, 0.2, 0.1, 0.01, 0.0], 1.0);
            h.choose(0.05, 1.0);
        }
        assert_eq!(h.multiplier(), 0.25);
        assert!(h.as_new.mean(h.arm) < 0.05 && h.as_new.mean(0) > 0.29 && h.held_back == 181);
        for _ in 0..3000 {
            h.push(&[-0.1; 5], 1.0);
            h.choose(0.05, 1.0);
        }
        assert_eq!(h.multiplier(), 1.0);
    }

    #[test]
    fn noise_without_loss_holds_nothing_back() {
        let mut rng = stream(3, 0);
        let mut h = Harm::default();
        let mut held = 0;
        for _ in 0..2000 {
            let x = rng.random::<f64>() - 0.5;
            h.push(&[x, 0.75 * x, 0.5 * x, 0.25 * x, 0.0], 1.0);
            h.choose(0.02, 1.0);
            held += u32::from(h.multiplier() < 1.0);
        }
        assert!(held < 200, "{held} of 2000");
    }

    #[test]
    fn losses_are_measured_against_the_base_and_nothing_is_lost_by_nothing() {
        let base = [0.9, 0.5, 0.1];
        let learned = [0.0, 0.5, 1.0];
        let l = losses(&base, &learned, &[0], |_| true);
        assert!(l[0] > 0.0 && l[3] == 0.0 && l[4] == 0.0);
        assert!((l[0] - 0.5).abs() < 1e-12, "from rank 1 to rank 3");
        assert_eq!(losses(&base, &learned, &[0], |i| i == 0), [0.0; 5]);
        let mut s = learned;
        temper(&base, &mut s, 1.0);
        assert_eq!(s, learned);
        temper(&base, &mut s, 0.0);
        assert_eq!(s, base);
    }
}
