//! What is believed of the time of every (plan, setting): a Gaussian process over ln(time).
//!
//! The time of a plan under a setting is the plan's own level plus the setting's effect; each is shared by similar plans
//! and has a part of its own:
//! k = base·s + plan·\[same plan\] + \[same setting\]·c·(setting + effect·s + own·\[same plan\]), s = e^−(1−cos)/width, with
//! a c for each setting: some hardly matter, and some are harmless for most plans and a disaster for a few.
//! One cell per pair that was ever run, so a repetition costs nothing but a smaller variance (Rasmussen & Williams 2006,
//! chapter 2; the additive kernel is that of Krause & Ong 2011).

use super::kernel::Hyper;
use super::triangle::Triangle;
use crate::error::{Error, Result, check_dim, check_finite};
use crate::kernels;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most cells; beyond it the least recently used eighth is forgotten.
pub(super) const CELLS: usize = 1024;
/// A cell's mean forgets what is older than about this many runs.
const MEMORY: u32 = 64;
/// Runs that the first guess of the noise counts for.
const NOISE_PRIOR: f64 = 8.0;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Cell {
    plan: u64,
    setting: u32,
    mean: f64,
    count: u32,
    used: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Known {
    vector: Vec<f32>,
    cells: u32,
}

/// Means and covariances of ln(time) of one plan under several settings.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Belief {
    pub mean: Vec<f64>,
    pub covariance: Vec<f64>,
    /// Variances before any evidence.
    pub prior: Vec<f64>,
    /// Variance of one run around its mean.
    pub noise: f64,
}

impl Belief {
    pub(super) fn variance(&self, i: usize) -> f64 {
        self.covariance[i * (self.mean.len() + 1)].max(0.0)
    }

    /// Mean and standard deviation of how much slower `i` is than `j`, in ln(time).
    pub(super) fn difference(&self, i: usize, j: usize) -> (f64, f64) {
        let n = self.mean.len();
        let v = self.variance(i) + self.variance(j) - 2.0 * self.covariance[i * n + j];
        (self.mean[i] - self.mean[j], v.max(0.0).sqrt())
    }
}

/// The process and its evidence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Posterior {
    dim: usize,
    pub(super) hyper: Hyper,
    /// Factors of the settings' effects; 1 beyond the end.
    pub(super) scales: Vec<f64>,
    cells: Vec<Cell>,
    plans: BTreeMap<u64, Known>,
    factor: Triangle,
    /// Noise with which the factor was built.
    noise: f64,
    /// Squares and number of deviations from a cell's mean.
    residual: (f64, f64),
    level: f64,
    runs: u64,
    turn: u64,
    forgotten: u64,
}

impl Posterior {
    pub(super) fn new(dim: usize) -> Self {
        Self {
            dim,
            hyper: Hyper::default(),
            scales: Vec::new(),
            cells: Vec::new(),
            plans: BTreeMap::new(),
            factor: Triangle::default(),
            noise: 0.05,
            residual: (0.05 * NOISE_PRIOR, NOISE_PRIOR),
            level: 0.0,
            runs: 0,
            turn: 0,
            forgotten: 0,
        }
    }

    pub(super) fn runs(&self) -> u64 {
        self.runs
    }

    pub(super) fn cell_count(&self) -> usize {
        self.cells.len()
    }

    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// How often this plan was run under any setting.
    pub(super) fn runs_of(&self, plan: u64) -> u32 {
        let own = self.cells.iter().filter(|c| c.plan == plan);
        own.map(|c| c.count).sum()
    }

    /// How often `setting` was run on this plan.
    pub(super) fn count(&self, plan: u64, setting: u32) -> u32 {
        self.cells
            .iter()
            .find(|c| c.plan == plan && c.setting == setting)
            .map_or(0, |c| c.count)
    }

    /// Cosines of `vector` and every plan.
    fn cosines(&self, vector: &[f32]) -> BTreeMap<u64, f64> {
        let cos = |k: &Known| f64::from(kernels::dot(&k.vector, vector)).min(1.0);
        self.plans.iter().map(|(id, k)| (*id, cos(k))).collect()
    }

    /// Covariances of (plan, setting) and every cell.
    fn against(&self, cosines: &BTreeMap<u64, f64>, plan: u64, setting: u32) -> Vec<f64> {
        let scale = self.scale(setting);
        self.cells
            .iter()
            .map(|c| {
                let cos = cosines.get(&c.plan).copied().unwrap_or(0.0);
                let same = (c.setting == setting).then_some(scale);
                self.hyper.covariance(cos, c.plan == plan, same)
            })
            .collect()
    }

    fn scale(&self, setting: u32) -> f64 {
        self.scales.get(setting as usize).copied().unwrap_or(1.0)
    }

    /// Variance of a pair before any evidence.
    fn prior(&self, setting: u32) -> f64 {
        self.hyper.covariance(1.0, true, Some(self.scale(setting)))
    }

    /// Cells of each setting among these.
    pub(super) fn settings_of(&self, cells: &[usize]) -> BTreeMap<u32, usize> {
        let mut count = BTreeMap::new();
        for i in cells {
            *count.entry(self.cells[*i].setting).or_default() += 1;
        }
        count
    }

    /// Learns that `plan` took e^`y` under `setting`.
    pub(super) fn learn(&mut self, vector: &[f32], plan: u64, setting: u32, y: f64) {
        self.turn += 1;
        self.runs += 1;
        self.level += (y - self.level) / (self.runs.min(1000) as f64);
        let found = self
            .cells
            .iter()
            .position(|c| c.plan == plan && c.setting == setting);
        match found {
            Some(i) => {
                let c = &mut self.cells[i];
                // Unbiased for the variance of one run: E(y − mean of n)² = σ²(1 + 1/n).
                self.residual.0 += (y - c.mean).powi(2) / (1.0 + 1.0 / f64::from(c.count));
                self.residual.1 += 1.0;
                let before = c.count;
                c.count = (c.count + 1).min(MEMORY);
                c.mean += (y - c.mean) / f64::from(c.count);
                c.used = self.turn;
                let delta = self.noise / f64::from(before) - self.noise / f64::from(c.count);
                self.factor.lower_diagonal(i, delta);
            }
            None => {
                if self.cells.len() >= CELLS {
                    self.forget();
                }
                let k = self.against(&self.cosines(vector), plan, setting);
                self.factor.push(&k, self.prior(setting) + self.noise);
                self.cells.push(Cell {
                    plan,
                    setting,
                    mean: y,
                    count: 1,
                    used: self.turn,
                });
                let known = self.plans.entry(plan).or_insert_with(|| Known {
                    vector: vector.to_vec(),
                    cells: 0,
                });
                known.cells += 1;
            }
        }
    }

    fn forget(&mut self) {
        let mut used: Vec<u64> = self.cells.iter().map(|c| c.used).collect();
        used.sort_unstable();
        let until = used[self.cells.len() / 8];
        let (mut kept, plans) = (Vec::new(), &mut self.plans);
        for c in self.cells.drain(..) {
            if c.used > until {
                kept.push(c);
                continue;
            }
            self.forgotten += 1;
            if let Some(k) = plans.get_mut(&c.plan) {
                k.cells -= 1;
                if k.cells == 0 {
                    plans.remove(&c.plan);
                }
            }
        }
        self.cells = kept;
        self.refactor();
    }

    /// Takes over what was learned of the noise and builds the factor anew; O(cells³).
    pub(super) fn refactor(&mut self) {
        self.noise = (self.residual.0 / self.residual.1).max(1e-4);
        let all: Vec<usize> = (0..self.cells.len()).collect();
        self.factor = self.factor_of(&self.similarities(&all), &all, self.hyper, &self.scales);
    }

    /// Lower triangle of cosines of the plans of these cells, by rows.
    pub(super) fn similarities(&self, cells: &[usize]) -> Vec<f64> {
        let mut seen: BTreeMap<(u64, u64), f64> = BTreeMap::new();
        let mut out = Vec::with_capacity(cells.len() * (cells.len() + 1) / 2);
        for (i, a) in cells.iter().enumerate() {
            for b in &cells[..i] {
                let (p, q) = (self.cells[*a].plan, self.cells[*b].plan);
                let cos = seen.entry((p.min(q), p.max(q))).or_insert_with(|| {
                    match (self.plans.get(&p), self.plans.get(&q)) {
                        (Some(a), Some(b)) => f64::from(kernels::dot(&a.vector, &b.vector)).min(1.0),
                        _ => 0.0,
                    }
                });
                out.push(*cos);
            }
            out.push(1.0);
        }
        out
    }

    /// The factor that these variances would give.
    pub(super) fn factor_of(
        &self,
        cosines: &[f64],
        cells: &[usize],
        hyper: Hyper,
        scales: &[f64],
    ) -> Triangle {
        let mut factor = Triangle::default();
        let mut k = Vec::with_capacity(cells.len());
        for (i, a) in cells.iter().enumerate() {
            let c = &self.cells[*a];
            let scale = scales.get(c.setting as usize).copied().unwrap_or(1.0);
            k.clear();
            k.extend(cells[..i].iter().enumerate().map(|(j, b)| {
                let o = &self.cells[*b];
                hyper.covariance(
                    cosines[i * (i + 1) / 2 + j],
                    c.plan == o.plan,
                    (c.setting == o.setting).then_some(scale),
                )
            }));
            let diagonal = hyper.covariance(1.0, true, Some(scale)) + self.noise / f64::from(c.count);
            factor.push(&k, diagonal);
        }
        factor
    }

    /// Deviations of these cells from the common level.
    pub(super) fn deviations(&self, cells: &[usize]) -> Vec<f64> {
        cells.iter().map(|i| self.cells[*i].mean - self.level).collect()
    }

    /// The most recently used cells, at most `n`, in their order.
    pub(super) fn recent(&self, n: usize) -> Vec<usize> {
        let mut ids: Vec<usize> = (0..self.cells.len()).collect();
        ids.sort_unstable_by_key(|i| std::cmp::Reverse(self.cells[*i].used));
        ids.truncate(n);
        ids.sort_unstable();
        ids
    }

    /// What is believed of `plan` under each of `settings`; O(settings · cells²).
    pub(super) fn believe(&self, vector: &[f32], plan: u64, settings: &[u32]) -> Belief {
        let all: Vec<usize> = (0..self.cells.len()).collect();
        let y = self.factor.solve(&self.deviations(&all));
        let cosines = self.cosines(vector);
        let columns: Vec<Vec<f64>> = settings
            .iter()
            .map(|s| self.factor.solve(&self.against(&cosines, plan, *s)))
            .collect();
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let n = settings.len();
        let mut covariance = vec![0.0; n * n];
        for i in 0..n {
            for j in 0..n {
                let same = (settings[i] == settings[j]).then_some(self.scale(settings[i]));
                let prior = self.hyper.covariance(1.0, true, same);
                covariance[i * n + j] = prior - dot(&columns[i], &columns[j]);
            }
        }
        Belief {
            mean: columns.iter().map(|c| self.level + dot(c, &y)).collect(),
            covariance,
            prior: settings.iter().map(|s| self.prior(*s)).collect(),
            noise: self.noise,
        }
    }

    /// Checks decoded state.
    pub(super) fn validate(&self, dim: usize, settings: usize) -> Result<()> {
        let fail = |reason: &str| Err(Error::corrupt("plan posterior", reason));
        if self.dim != dim || self.cells.len() > CELLS || self.factor.len() != self.cells.len() {
            return fail("sizes");
        }
        let scales = self.scales.iter().all(|v| v.is_finite() && *v > 0.0);
        if !self.hyper.is_sound() || !scales || self.scales.len() > settings || !self.factor.is_sound() {
            return fail("not a covariance");
        }
        let (sum, runs) = self.residual;
        let positive = [self.noise, sum, runs];
        if !positive.iter().all(|v| v.is_finite() && *v > 0.0) || !self.level.is_finite() {
            return fail("noise");
        }
        let mut held: BTreeMap<u64, u32> = BTreeMap::new();
        for c in &self.cells {
            *held.entry(c.plan).or_default() += 1;
            let known = (c.setting as usize) < settings && (1..=MEMORY).contains(&c.count);
            if !(known && c.mean.is_finite() && c.used <= self.turn) {
                return fail("a cell");
            }
        }
        if held.len() != self.plans.len() {
            return fail("plans");
        }
        for (id, known) in &self.plans {
            if held.get(id) != Some(&known.cells) {
                return fail("plans");
            }
            check_dim("plan vector", dim, known.vector.len())?;
            check_finite("plan vector", &known.vector)?;
        }
        Ok(())
    }
}
