//! EWC++: running Fisher information, a memory of tasks, and the pull towards what they need.
//!
//! Kirkpatrick et al. 2017 (penalty), Schwarz et al. 2018 (online EWC), Chaudhry et al. 2018 (exponential average of the
//! Fisher information), Huszár 2018 (each task pulls towards its own optimum), Chaudhry et al. 2019 (A-GEM projection).

mod state;

use super::boundary::{BoundaryConfig, BoundaryDetector};
use super::check_gradient;
use super::config::EwcConfig;
use super::constraint::Constraint;
use super::task::Task;
use crate::error::{Error, Result, check_dim, check_finite, check_number};
use crate::kernels::{self, Aligned, elastic};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::ops::Range;

/// Values that are checked and worked on at a time: they stay in the first-level cache.
const BLOCK: usize = 2048;
/// Loss increases on old tasks above which λ doubles, and below which it halves.
const ACCEPTED_LOSS: (f64, f64) = (0.005, 0.02);

#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Counters {
    samples: u64,
    tasks: u64,
    tasks_ignored: u64,
    merges: u64,
    boundaries: u64,
}

/// Elastic weight consolidation over one parameter vector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ewc {
    config: EwcConfig,
    lambda: f64,
    /// Empty stands for zeros, as long as nothing was set.
    theta: Vec<f32>,
    /// Exponential average of squared gradients without bias correction; empty stands for zeros.
    running: Aligned,
    samples: u64,
    tasks: Vec<Task>,
    boundary: Option<BoundaryDetector>,
    counters: Counters,
    /// All tasks in one, if there are several: what makes a pull independent of their number.
    #[serde(skip)]
    pooled: Option<Task>,
}

impl Ewc {
    /// Without tasks.
    pub fn new(config: EwcConfig) -> Result<Self> {
        config.validate()?;
        Ok(Self {
            lambda: config.initial_lambda,
            config,
            theta: Vec::new(),
            running: Aligned::default(),
            samples: 0,
            tasks: Vec::new(),
            boundary: None,
            counters: Counters::default(),
            pooled: None,
        })
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &EwcConfig {
        &self.config
    }

    /// λ.
    #[must_use]
    pub fn lambda(&self) -> f64 {
        self.lambda
    }

    /// Sets λ, brought into the configured range.
    pub fn set_lambda(&mut self, lambda: f64) -> Result<()> {
        check_number("lambda_", lambda)?;
        if lambda < 0.0 {
            return Err(Error::value("lambda_", "0 or above", lambda));
        }
        self.lambda = lambda.clamp(self.config.min_lambda, self.config.max_lambda);
        Ok(())
    }

    /// Doubles λ if the loss on replayed old tasks rose by more than 2 %, halves it below 0.5 %; returns λ.
    pub fn adjust_lambda(&mut self, loss_increase: f64) -> Result<f64> {
        check_number("loss_increase", loss_increase)?;
        if loss_increase > ACCEPTED_LOSS.1 {
            self.set_lambda(self.lambda * 2.0)?;
        } else if loss_increase < ACCEPTED_LOSS.0 {
            self.set_lambda(self.lambda / 2.0)?;
        }
        Ok(self.lambda)
    }

    fn check(&self, name: &'static str, x: &[f32]) -> Result<()> {
        check_dim(name, self.config.param_count, x.len())
    }

    /// Tracked parameters; zeros until set.
    #[must_use]
    pub fn params(&self) -> Cow<'_, [f32]> {
        self.or_zeros(&self.theta)
    }

    fn or_zeros<'a>(&self, x: &'a [f32]) -> Cow<'a, [f32]> {
        if x.is_empty() {
            vec![0.0; self.config.param_count].into()
        } else {
            x.into()
        }
    }

    /// Sets the tracked parameters.
    pub fn set_params(&mut self, theta: &[f32]) -> Result<()> {
        self.check("theta", theta)?;
        check_finite("theta", theta)?;
        theta.clone_into(&mut self.theta);
        Ok(())
    }

    /// Takes in per-sample gradients `(n, p)`, row by row: F ← decay·F + (1 − decay)·g².
    pub fn update_fisher(&mut self, gradients: &[f32]) -> Result<()> {
        let p = self.config.param_count;
        if !gradients.len().is_multiple_of(p) {
            return Err(Error::Dimension {
                name: "gradients",
                expected: p,
                got: gradients.len(),
            });
        }
        for row in gradients.chunks_exact(p) {
            if !elastic::squares_finite(row) {
                check_finite("gradients", row)?;
                let wanted = "values whose squares are below 3.4e38";
                return Err(Error::value("gradients", wanted, "larger ones"));
            }
        }
        if self.running.is_empty() {
            self.running.grow(p);
        }
        let keep = self.config.fisher_ema_decay;
        // Block by block through all rows: the average comes from memory once, however many samples there are. Backwards, because
        // the end of what was just checked is still in the caches.
        for (block, running) in self.running.chunks_mut(BLOCK).enumerate().rev() {
            let at = block * BLOCK..block * BLOCK + running.len();
            for row in gradients.chunks_exact(p) {
                elastic::average_squares(keep as f32, (1.0 - keep) as f32, &row[at.clone()], running);
            }
        }
        let n = (gradients.len() / p) as u64;
        self.samples += n;
        self.counters.samples += n;
        Ok(())
    }

    /// Samples in the running Fisher information.
    #[must_use]
    pub fn samples_seen(&self) -> u64 {
        self.samples
    }

    /// What the running average is divided by (Kingma & Ba 2015, section 3).
    fn correction(&self) -> f64 {
        1.0 - self
            .config
            .fisher_ema_decay
            .powi(i32::try_from(self.samples).unwrap_or(i32::MAX))
    }

    /// Running Fisher information, bias-corrected; zeros before the first sample.
    #[must_use]
    pub fn fisher(&self) -> Vec<f64> {
        if self.samples == 0 {
            return vec![0.0; self.config.param_count];
        }
        let by = 1.0 / self.correction();
        self.running.iter().map(|f| f64::from(*f) * by).collect()
    }

    /// Remembers a task (by default the running Fisher information around the tracked parameters) and begins a new one.
    /// Returns false, and counts it, where there is neither a sample nor a Fisher information given.
    pub fn start_new_task(&mut self, fisher: Option<Vec<f32>>, params: Option<Vec<f32>>) -> Result<bool> {
        if fisher.is_none() && self.samples == 0 {
            if let Some(p) = &params {
                self.check("params", p)?;
                check_finite("params", p)?;
            }
            self.counters.tasks_ignored += 1;
            return Ok(false);
        }
        let fisher = match fisher {
            Some(f) => f,
            None => self.fisher().iter().map(|f| *f as f32).collect(),
        };
        let params = params.unwrap_or_else(|| self.params().into_owned());
        self.check("fisher", &fisher)?;
        self.check("params", &params)?;
        self.tasks
            .push(Task::new(fisher, params, self.config.normalize_fisher)?);
        while self.tasks.len() > self.config.max_tasks.max(1) {
            if let Some(both) = Task::merged(&self.tasks[..2]) {
                self.tasks.splice(..2, [both]);
                self.counters.merges += 1;
            }
        }
        self.pool();
        self.running = Aligned::default();
        self.samples = 0;
        self.counters.tasks += 1;
        Ok(true)
    }

    /// Merges all tasks into one. Gradients and proximal steps stay as they were; the penalty loses a constant.
    pub fn consolidate_all_tasks(&mut self) {
        if self.tasks.len() > 1 {
            if let Some(one) = Task::merged(&self.tasks) {
                self.counters.merges += self.tasks.len() as u64 - 1;
                self.tasks = vec![one];
            }
            self.pool();
        }
    }

    fn pool(&mut self) {
        self.pooled = if self.tasks.len() > 1 {
            Task::merged(&self.tasks)
        } else {
            None
        };
    }

    /// ΣF and its centre; `None` without tasks.
    fn all(&self) -> Option<&Task> {
        self.pooled.as_ref().or_else(|| self.tasks.first())
    }

    /// Tasks remembered.
    #[must_use]
    pub fn task_count(&self) -> usize {
        self.tasks.len()
    }

    fn theta_or<'a>(&'a self, theta: Option<&'a [f32]>) -> Result<Cow<'a, [f32]>> {
        match theta {
            Some(t) => {
                self.check("theta", t)?;
                check_finite("theta", t)?;
                Ok(t.into())
            }
            None => Ok(self.params()),
        }
    }

    /// Σ_t λ/2 Σ_i F_ti (θ_i − θ*_ti)², at the tracked parameters by default.
    pub fn penalty(&self, theta: Option<&[f32]>) -> Result<f64> {
        let theta = self.theta_or(theta)?;
        Ok(self.lambda / 2.0 * self.tasks.iter().map(|t| t.distance(&theta)).sum::<f64>())
    }

    /// λ Σ_t F_t(θ − θ*_t), at the tracked parameters by default. One pass, whatever the number of tasks.
    pub fn penalty_gradient(&self, theta: Option<&[f32]>, out: &mut [f32]) -> Result<()> {
        self.check("out", out)?;
        let tracked;
        let theta = match theta {
            Some(given) => given,
            None => {
                tracked = self.params();
                &tracked
            }
        };
        self.check("theta", theta)?;
        by_blocks("theta", theta, |at| match self.all() {
            Some(t) => {
                let (f, star) = (&t.fisher[at.clone()], &t.star[at.clone()]);
                elastic::pull(self.lambda as f32, f, &theta[at.clone()], star, &mut out[at]);
            }
            None => out[at].fill(0.0),
        })
    }

    /// A gradient that respects the remembered tasks, at the tracked parameters.
    pub fn apply_constraints(&self, gradients: &[f32], mode: Constraint, out: &mut [f32]) -> Result<()> {
        self.check("gradients", gradients)?;
        self.check("out", out)?;
        check_gradient("gradients", gradients)?;
        let Some(t) = self.all() else {
            out.copy_from_slice(gradients);
            return Ok(());
        };
        let lambda = self.lambda as f32;
        match mode {
            Constraint::Precondition => elastic::damped(gradients, lambda, &t.fisher, out),
            Constraint::Penalty => {
                elastic::pulled(gradients, lambda, &t.fisher, &self.params(), &t.star, out);
            }
            Constraint::Project => {
                // Without λ: a direction has no scale, and this one cannot overflow by it.
                elastic::pull(1.0, &t.fisher, &self.params(), &t.star, out);
                let (mut along, mut square) = (0.0f64, 0.0f64);
                for (p, g) in out.iter().zip(gradients) {
                    along += f64::from(*p) * f64::from(*g);
                    square += f64::from(*p) * f64::from(*p);
                }
                // Descent along −g raises the penalty where g and its gradient point apart (Chaudhry et al. 2019, eq. 11).
                let by = if along < 0.0 { along / square } else { 0.0 };
                for (o, g) in out.iter_mut().zip(gradients) {
                    *o = (f64::from(*g) - by * f64::from(*o)) as f32;
                }
            }
        }
        Ok(())
    }

    /// The minimiser of penalty + |· − θ|²/(2·lr): (θ + lr·λ·ΣF_tθ*_t)/(1 + lr·λ·ΣF_t). Stable for every λ.
    pub fn proximal_step(&self, theta: &[f32], lr: f64, out: &mut [f32]) -> Result<()> {
        self.check("theta", theta)?;
        self.check("out", out)?;
        check_number("lr", lr)?;
        if lr < 0.0 {
            return Err(Error::value("lr", "0 or above", lr));
        }
        let rate = (lr * self.lambda).min(f64::from(f32::MAX)) as f32;
        by_blocks("theta", theta, |at| match self.all() {
            Some(t) => {
                let (f, star) = (&t.fisher[at.clone()], &t.star[at.clone()]);
                elastic::proximal(rate, f, &theta[at.clone()], star, &mut out[at]);
            }
            None => out[at.clone()].copy_from_slice(&theta[at]),
        })
    }

    /// Feeds the boundary detector; true where a new task seems to have begun.
    pub fn detect_task_boundary(&mut self, gradients: &[f32]) -> Result<bool> {
        self.check("gradients", gradients)?;
        check_gradient("gradients", gradients)?;
        let detector = match &mut self.boundary {
            Some(d) => d,
            none => none.insert(BoundaryDetector::new(BoundaryConfig {
                threshold: self.config.boundary_threshold,
                ..BoundaryConfig::new(self.config.param_count)
            })?),
        };
        let fired = detector.update(gradients)?;
        self.counters.boundaries += u64::from(fired);
        Ok(fired)
    }
}

/// Checks and works block by block, so that each value comes from memory once; errors at the first that is not finite.
fn by_blocks(name: &'static str, x: &[f32], mut work: impl FnMut(Range<usize>)) -> Result<()> {
    for start in (0..x.len()).step_by(BLOCK) {
        let at = start..x.len().min(start + BLOCK);
        if !kernels::all_finite(&x[at.clone()]) {
            return check_finite(name, x);
        }
        work(at);
    }
    Ok(())
}

#[cfg(test)]
#[path = "ewc_tests.rs"]
mod tests;
