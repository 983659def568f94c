//! Training of the slow adapter on remembered clicks.

use super::super::config::EngineConfig;
use super::super::stats::{Running, dcg};
use super::input::{CycleInput, Pair};
use crate::continual::{Ewc, EwcConfig, estimate_fisher};
use crate::error::Result;
use crate::item::ItemId;
use crate::kernels;
use crate::lora::{BaseConfig, BaseLora, Batch};
use crate::rng::{RngExt, stream};
use std::time::Instant;

const BATCH: usize = 64;
const MAX_EPOCHS: usize = 20;
const TEMPERATURE: f64 = 0.05;
/// The configured rate is per entry and step of a long run; a cycle has few steps.
const RATE_FACTOR: f64 = 50.0;

/// How far a cycle may train: by the clock where it runs, by its count where it is replayed.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Limit {
    /// To its end.
    None,
    /// No step is begun after this time.
    Until(Instant),
    /// So many steps.
    Steps(u64),
}

impl Limit {
    fn reached(self, steps: u64) -> bool {
        match self {
            Self::None => false,
            Self::Until(end) => Instant::now() >= end,
            Self::Steps(n) => steps >= n,
        }
    }
}

/// The best adapter that training found, and after how many steps it was cut short, if it was.
pub(super) struct Trained {
    pub base: BaseLora,
    pub cut: Option<u64>,
}

/// Rows of a minibatch.
#[derive(Default)]
struct Rows {
    queries: Vec<f32>,
    starts: Vec<f32>,
    positives: Vec<f32>,
}

impl Rows {
    /// Two clicks on one item would be each other's negatives: one per item and batch.
    fn of<'a>(pairs: impl Iterator<Item = &'a Pair<'a>>) -> Self {
        let mut seen: Vec<&ItemId> = Vec::new();
        let mut out = Self::default();
        for pair in pairs {
            if !seen.contains(&pair.item) {
                seen.push(pair.item);
                out.queries.extend_from_slice(pair.query);
                out.starts.extend_from_slice(&pair.start);
                out.positives.extend_from_slice(&pair.vector);
            }
        }
        out
    }

    fn batch(&self) -> Batch<'_> {
        Batch {
            queries: &self.queries,
            starts: &self.starts,
            positives: &self.positives,
            negatives: &[],
            temperature: TEMPERATURE,
        }
    }
}

impl CycleInput {
    /// In-batch InfoNCE (van den Oord 2018) on the clicks, stopped when the held-out loss no longer falls: without that a
    /// slow adapter trained on clicks overfits badly.
    ///
    /// Training begins at the live adapter, which also holds what traces taught. With EWC++ it is held there.
    pub(super) fn train(
        &self,
        train: &[Pair<'_>],
        stop: &[Pair<'_>],
        config: &EngineConfig,
        limit: Limit,
    ) -> Result<Trained> {
        let rate = rate(config);
        let hold = self.hold(train, config)?;
        let mut current = match self.learned.base.as_deref() {
            Some(live) => live.clone(),
            None => untrained(config)?,
        };
        let mut best = current.clone();
        let mut best_rank = held_out_dcg(&current, stop)?;
        let mut rng = stream(config.seed, 0x6379_636c);
        let mut order: Vec<usize> = (0..train.len()).collect();
        let (mut without_gain, mut steps, mut cut) = (0, 0, None);
        for _ in 0..MAX_EPOCHS {
            for i in (1..order.len()).rev() {
                order.swap(i, rng.random_range(0..=i));
            }
            for batch in order.chunks(BATCH) {
                if limit.reached(steps) {
                    cut = Some(steps);
                    break;
                }
                let rows = Rows::of(batch.iter().map(|&i| &train[i]));
                current.train_step(0, &rows.batch(), Some(rate))?;
                if let Some(ewc) = &hold {
                    let theta = current.theta(0)?;
                    let mut pulled = vec![0.0; theta.len()];
                    ewc.proximal_step(&theta, rate, &mut pulled)?;
                    current.set_theta(0, &pulled)?;
                }
                steps += 1;
            }
            let rank = held_out_dcg(&current, stop)?;
            if rank > best_rank {
                (best_rank, without_gain) = (rank, 0);
                best = current.clone();
            } else {
                without_gain += 1;
            }
            if without_gain == 2 || cut.is_some() {
                break;
            }
        }
        Ok(Trained { base: best, cut })
    }

    /// What holds the live adapter where the clicks of earlier cycles need it: their Fisher information there. `None` where
    /// this is switched off, or there is nothing to hold.
    fn hold(&self, train: &[Pair<'_>], config: &EngineConfig) -> Result<Option<Ewc>> {
        let Some(live) = self.learned.base.as_deref().filter(|_| config.ewc) else {
            return Ok(None);
        };
        let mut old = train.iter().filter(|p| p.case < self.learned.banked).peekable();
        if config.ewc_lambda <= 0.0 || old.peek().is_none() {
            return Ok(None);
        }
        let theta = live.theta(0)?;
        let rows = Rows::of(old.take(BATCH));
        let fisher = estimate_fisher(&live.sample_gradients(0, &rows.batch())?, theta.len())?;
        let mut ewc = Ewc::new(EwcConfig {
            initial_lambda: config.ewc_lambda,
            ..EwcConfig::new(theta.len())
        })?;
        ewc.start_new_task(Some(fisher.iter().map(|f| *f as f32).collect()), Some(theta))?;
        Ok(Some(ewc))
    }
}

fn rate(config: &EngineConfig) -> f64 {
    f64::from(config.base_lr) * RATE_FACTOR
}

/// A slow adapter that knows nothing.
pub(super) fn untrained(config: &EngineConfig) -> Result<BaseLora> {
    BaseLora::new(BaseConfig {
        learning_rate: rate(config),
        seed: config.seed,
        ..BaseConfig::new(config.dim, config.base_rank, 1)
    })
}

/// Mean DCG of held-out clicks among each other's items.
fn held_out_dcg(base: &BaseLora, pairs: &[Pair<'_>]) -> Result<f64> {
    let mut mean = Running::default();
    let mut out = vec![0.0; pairs.first().map_or(0, |p| p.query.len())];
    let mut scores = Vec::with_capacity(pairs.len());
    for (i, pair) in pairs.iter().enumerate() {
        base.factors(0)?.delta_into(pair.query, &mut out)?;
        kernels::axpy(1.0, &pair.start, &mut out);
        scores.clear();
        scores.extend(pairs.iter().enumerate().map(|(j, p)| {
            if j != i && p.item == pair.item {
                f32::NEG_INFINITY
            } else {
                kernels::dot(&out, &p.vector)
            }
        }));
        mean.push(dcg(&scores, &[i]));
    }
    Ok(mean.mean)
}
