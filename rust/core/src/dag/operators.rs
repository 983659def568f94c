//! How long each operator takes: ln(ms) = level of its kind + u·h, h = x + its kind's adapter.
//!
//! The head u is shared by all kinds and fitted by ridge regression in the background; the adapter of a kind
//! ([`MicroLora`]) turns it towards what is different about that kind, at every run.

use super::anchor::Anchor;
use super::encode::Encoder;
use super::plan::{OPERATORS, QueryDag};
use super::triangle::Triangle;
use crate::error::{Error, Result, check_dim, check_finite};
use crate::kernels;
use crate::lora::{MicroConfig, MicroLora};
use crate::rng::{self, RngExt};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Operators kept for the background.
const SAMPLES: usize = 8192;
/// Ridge penalty.
const RIDGE: f64 = 1.0;
/// Passes of the adapters over the samples of a cycle.
const EPOCHS: usize = 4;
/// Operators per step.
const BATCH: usize = 32;
const RATE: f64 = 0.003;
/// Shortest time that is told from none, in milliseconds.
const SHORTEST: f64 = 1e-3;
/// ln(ms) of a prediction is kept below this.
const LONGEST: f32 = 60.0;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Sample {
    op: u8,
    /// The operator's vector: its places that are not zero.
    at: Vec<u32>,
    x: Vec<f32>,
    y: f32,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
struct Level {
    mean: f64,
    count: u64,
}

/// Adapters, head and samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Operators {
    dim: usize,
    head: Vec<f32>,
    levels: Vec<Level>,
    adapters: Vec<MicroLora>,
    anchors: Vec<Anchor>,
    samples: VecDeque<Sample>,
    seen: u64,
    cycles: u64,
}

/// ln of a time in milliseconds.
pub(super) fn ln(ms: f64) -> f64 {
    ms.max(SHORTEST).ln()
}

impl Operators {
    pub(super) fn new(dim: usize, rank: usize, seed: u64) -> Result<Self> {
        let adapter = |op: u64| {
            let mut config = MicroConfig::new(dim, rank);
            config.learning_rate = RATE;
            config.trust_region = None;
            config.seed = rng::stream(seed, op).random();
            MicroLora::new(config)
        };
        Ok(Self {
            dim,
            head: vec![0.0; dim],
            levels: vec![Level::default(); OPERATORS.len()],
            adapters: (0..OPERATORS.len() as u64).map(adapter).collect::<Result<_>>()?,
            anchors: vec![Anchor::default(); OPERATORS.len()],
            samples: VecDeque::new(),
            seen: 0,
            cycles: 0,
        })
    }

    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    pub(super) fn sample_count(&self) -> usize {
        self.samples.len()
    }

    /// The operators' vectors, each through the adapter of its kind.
    pub(super) fn adapt(&self, plan: &QueryDag, rows: &[f32]) -> Result<Vec<f32>> {
        let mut out = vec![0.0; rows.len()];
        let pairs = rows.chunks_exact(self.dim).zip(out.chunks_exact_mut(self.dim));
        for (node, (x, y)) in plan.nodes().iter().zip(pairs) {
            self.adapters[usize::from(node.op)].factors().forward_into(x, y)?;
        }
        Ok(out)
    }

    /// Level of a kind; that of all kinds until it was seen.
    fn level(&self, op: usize) -> f64 {
        let seen = &self.levels[op];
        if seen.count > 0 {
            return seen.mean;
        }
        let total: u64 = self.levels.iter().map(|l| l.count).sum();
        let sum: f64 = self.levels.iter().map(|l| l.mean * l.count as f64).sum();
        if total > 0 { sum / total as f64 } else { 0.0 }
    }

    fn predicted(&self, op: usize, h: &[f32]) -> f32 {
        self.level(op) as f32 + kernels::dot(&self.head, h)
    }

    /// Expected milliseconds of every operator; zeros before the first run.
    pub(super) fn predict(&self, plan: &QueryDag, rows: &[f32]) -> Result<Vec<f64>> {
        if self.seen == 0 {
            return Ok(vec![0.0; plan.len()]);
        }
        let adapted = self.adapt(plan, rows)?;
        let nodes = plan.nodes().iter().zip(adapted.chunks_exact(self.dim));
        Ok(nodes
            .map(|(n, h)| f64::from(self.predicted(usize::from(n.op), h).min(LONGEST)).exp())
            .collect())
    }

    /// Learns from one run: the level of each kind, and one step of its adapter.
    pub(super) fn learn(&mut self, plan: &QueryDag, rows: &[f32], times: &[f64]) -> Result<()> {
        let mut touched = [false; OPERATORS.len()];
        for ((node, x), ms) in plan.nodes().iter().zip(rows.chunks_exact(self.dim)).zip(times) {
            let op = usize::from(node.op);
            let y = ln(*ms);
            touched[op] |= self.step(op, x, y as f32)?;
            let level = &mut self.levels[op];
            level.count += 1;
            level.mean += (y - level.mean) / level.count as f64;
            let at: Vec<u32> = (0..x.len() as u32).filter(|i| x[*i as usize] != 0.0).collect();
            self.samples.push_back(Sample {
                op: node.op,
                x: at.iter().map(|i| x[*i as usize]).collect(),
                at,
                y: y as f32,
            });
            if self.samples.len() > SAMPLES {
                self.samples.pop_front();
            }
            self.seen += 1;
        }
        for (adapter, touched) in self.adapters.iter_mut().zip(touched) {
            if touched {
                adapter.apply(None)?;
            }
        }
        Ok(())
    }

    /// Adds the gradient of ½(y − ŷ)² to what is pending.
    fn step(&mut self, op: usize, x: &[f32], y: f32) -> Result<bool> {
        let mut h = vec![0.0; self.dim];
        self.adapters[op].factors().forward_into(x, &mut h)?;
        let error = y - self.predicted(op, &h);
        self.adapters[op].accumulate_parts(x, &self.head, f64::from(error))
    }

    /// Fits the head anew, then trains the adapters on what it leaves over, held by what they were (`lambda`).
    pub(super) fn cycle(&mut self, lambda: f64) -> Result<bool> {
        if self.samples.is_empty() {
            return Ok(false);
        }
        self.fit_head();
        let mut steps = [0usize; OPERATORS.len()];
        let mut x = vec![0.0; self.dim];
        for _ in 0..EPOCHS {
            for i in 0..self.samples.len() {
                let (op, y) = self.unpack(i, &mut x);
                self.step(op, &x, y)?;
                if self.adapters[op].pending() >= BATCH {
                    self.adapters[op].apply(None)?;
                    steps[op] += 1;
                }
            }
            for adapter in &mut self.adapters {
                adapter.apply(None)?;
            }
        }
        self.consolidate(lambda, &steps)?;
        self.cycles += 1;
        Ok(true)
    }

    fn unpack(&self, i: usize, x: &mut [f32]) -> (usize, f32) {
        let s = &self.samples[i];
        x.fill(0.0);
        for (at, v) in s.at.iter().zip(&s.x) {
            x[*at as usize] = *v;
        }
        (usize::from(s.op), s.y)
    }

    /// Pulls the adapters back to what they were and measures what matters now.
    fn consolidate(&mut self, lambda: f64, steps: &[usize]) -> Result<()> {
        let len = 2 * self.dim * self.adapters[0].factors().rank();
        let mut squares = vec![Vec::new(); OPERATORS.len()];
        let mut counts = [0usize; OPERATORS.len()];
        let (mut x, mut h) = (vec![0.0; self.dim], vec![0.0; self.dim]);
        for i in 0..self.samples.len() {
            let (op, y) = self.unpack(i, &mut x);
            let factors = self.adapters[op].factors();
            factors.forward_into(&x, &mut h)?;
            let error = y - self.predicted(op, &h);
            let g: Vec<f32> = self.head.iter().map(|u| -error * u).collect();
            let (da, db, _) = factors.gradients(&x, &g)?;
            let square = &mut squares[op];
            square.resize(len, 0.0);
            for (s, d) in square.iter_mut().zip(da.iter().chain(&db)) {
                *s += f64::from(*d).powi(2);
            }
            counts[op] += 1;
        }
        for (op, square) in squares.iter().enumerate().filter(|(_, s)| !s.is_empty()) {
            let rho = RATE * steps[op] as f64 * lambda;
            if let Some((a, b)) = self.anchors[op].pull(self.adapters[op].factors(), rho) {
                self.adapters[op].set_factors(a, b)?;
            }
            self.anchors[op].hold(self.adapters[op].factors(), square, counts[op]);
        }
        Ok(())
    }

    /// Ridge regression on the places that ever were not zero.
    fn fit_head(&mut self) {
        let mut place = vec![usize::MAX; self.dim];
        let mut used = Vec::new();
        for s in &self.samples {
            for at in &s.at {
                if place[*at as usize] == usize::MAX {
                    place[*at as usize] = used.len();
                    used.push(*at as usize);
                }
            }
        }
        let n = used.len();
        let (mut gram, mut right) = (vec![0.0f64; n * n], vec![0.0f64; n]);
        for s in &self.samples {
            let y = f64::from(s.y) - self.level(usize::from(s.op));
            for (i, a) in s.at.iter().zip(&s.x) {
                let (i, a) = (place[*i as usize], f64::from(*a));
                right[i] += a * y;
                for (j, b) in s.at.iter().zip(&s.x) {
                    gram[i * n + place[*j as usize]] += a * f64::from(*b);
                }
            }
        }
        let mut factor = Triangle::default();
        for i in 0..n {
            factor.push(&gram[i * n..i * n + i], gram[i * n + i] + RIDGE);
        }
        let w = factor.solve_all(&right);
        self.head.fill(0.0);
        for (at, w) in used.into_iter().zip(w) {
            self.head[at] = w as f32;
        }
    }

    pub(super) fn validate(&self, dim: usize, rank: usize) -> Result<()> {
        check_dim("head", dim, self.head.len())?;
        check_finite("head", &self.head)?;
        let kinds = [self.levels.len(), self.adapters.len(), self.anchors.len()];
        if kinds != [OPERATORS.len(); 3] || self.dim != dim || self.samples.len() > SAMPLES {
            return Err(Error::corrupt("operators", "sizes"));
        }
        for a in &self.adapters {
            a.validate()?;
            check_dim("adapter", dim, a.factors().dim())?;
            check_dim("adapter's rank", rank, a.factors().rank())?;
        }
        for a in &self.anchors {
            a.validate(2 * dim * rank)?;
        }
        if !self.levels.iter().all(|l| l.mean.is_finite()) {
            return Err(Error::corrupt("operators", "levels"));
        }
        for s in &self.samples {
            check_dim("sample", s.at.len(), s.x.len())?;
            check_finite("sample", &s.x)?;
            check_finite("sample", &[s.y])?;
            if usize::from(s.op) >= OPERATORS.len() || s.at.iter().any(|i| *i as usize >= dim) {
                return Err(Error::corrupt("operators", "a sample"));
            }
        }
        Ok(())
    }
}

/// One row per operator of `plan`.
pub(super) fn rows(dim: usize, plan: &QueryDag) -> Result<Vec<f32>> {
    Encoder::new(dim).operators(plan)
}
