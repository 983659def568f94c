//! The engine: before a query, a vector and a choice; after it, what it took; in the background, the slower learning.

mod config;
mod state;

pub use config::DagConfig;

use super::choice::{self, Budget, Choice, time};
use super::encode::{Encoder, directed};
use super::hyper;
use super::ledger::Ledger;
use super::mechanism::Mechanism;
use super::operators::{self, Operators, ln};
use super::plan::QueryDag;
use super::posterior::Posterior;
use super::settings::Settings;
use crate::error::{Error, Result, check_dim, check_number};
use crate::patterns::bank::{Bank, BankConfig, DEFAULT_SCOPE, Outcome, Pattern};
use crate::rng;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Plans between `pre_query` and `post_query` that are remembered.
const PENDING: usize = 1024;
/// New runs for which the background wakes up.
const LEAST_RUNS: u64 = 8;
/// Patterns that come with a plan's vector.
const PATTERNS: usize = 3;
/// Most settings of one choice.
const MOST_SETTINGS: usize = 64;

/// What `pre_query` says of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct Enhanced {
    /// Unit length.
    pub vector: Vec<f32>,
    /// The most similar patterns, and how similar.
    pub patterns: Vec<(Pattern, f32)>,
    /// What weighed the operators.
    pub mechanism: Mechanism,
    /// Share of the uncertainty about this plan that the evidence has removed, in [0, 1].
    pub confidence: f64,
}

/// How a query went.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Run<'a> {
    /// What it took.
    pub latency_ms: f64,
    /// What the default takes; `None`: as believed.
    pub baseline_ms: Option<f64>,
    /// What it ran with.
    pub setting: Option<&'a str>,
    /// What each operator took.
    pub operator_ms: Option<&'a [f64]>,
    /// `latency_ms` is when the caller stopped it to run the default instead.
    pub stopped: bool,
}

/// What a background cycle did.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Learned {
    /// Runs since the last cycle.
    pub trajectories: u64,
    /// Patterns held.
    pub patterns: usize,
    /// Something changed that decisions read.
    pub updated: bool,
    /// "learned" or "waiting".
    pub status: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
struct Counters {
    pre: u64,
    post: u64,
    unmatched: u64,
    cycles: u64,
}

/// A plan as the engine sees it.
struct Encoded {
    id: u64,
    rows: Vec<f32>,
    /// Operators weighed alike, without adapters: what similarity is measured on.
    plain: Vec<f32>,
    shape: Vec<f32>,
}

/// Learns which setting and which attention made plans like this one faster. Same calls, same bits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DagEngine {
    config: DagConfig,
    settings: Settings,
    default: Option<u32>,
    by_setting: Posterior,
    by_mechanism: Posterior,
    ledger: Ledger,
    operators: Operators,
    bank: Bank,
    pending: BTreeMap<u64, (u8, u64)>,
    turn: u64,
    fresh: u64,
    counters: Counters,
}

impl DagEngine {
    /// An engine that knows nothing.
    pub fn new(config: DagConfig) -> Result<Self> {
        config.validate()?;
        let bank = BankConfig {
            embedding_dim: config.dim,
            max_trajectories: config.capacity,
            seed: config.seed,
            ..BankConfig::default()
        };
        Ok(Self {
            settings: Settings::default(),
            default: None,
            by_setting: Posterior::new(config.dim),
            by_mechanism: Posterior::new(config.dim),
            ledger: Ledger::default(),
            operators: Operators::new(config.dim, config.rank, config.seed)?,
            bank: Bank::new(bank)?,
            pending: BTreeMap::new(),
            turn: 0,
            fresh: 0,
            counters: Counters::default(),
            config,
        })
    }

    /// How it learns.
    #[must_use]
    pub fn config(&self) -> &DagConfig {
        &self.config
    }

    fn encode(&self, plan: &QueryDag) -> Result<Encoded> {
        let d = self.config.dim;
        let rows = operators::rows(d, plan)?;
        let depth = plan.depths()?.into_iter().max().unwrap_or(0);
        let mut shape = vec![0.0; d];
        Encoder::new(d).shape(plan, depth, &mut shape);
        let mut plain = shape.clone();
        let share = 1.0 / plan.len().max(1) as f32;
        for row in rows.chunks_exact(d) {
            crate::kernels::axpy(share, row, &mut plain);
        }
        Ok(Encoded {
            id: plan.fingerprint(),
            rows,
            plain: directed(plain),
            shape,
        })
    }

    fn draw(&mut self) -> rng::ChaCha8Rng {
        self.turn += 1;
        rng::stream(self.config.seed, (1 << 32) + self.turn)
    }

    /// The plan's vector: operators through the adapters of their kinds, weighed by the mechanism that made plans like it
    /// faster. Counts an access of the patterns at second `now`.
    pub fn pre_query(&mut self, plan: &QueryDag, now: i64) -> Result<Enhanced> {
        let seen = self.encode(plan)?;
        let all: Vec<u32> = (0..Mechanism::ALL.len() as u32).collect();
        let belief = self.by_mechanism.believe(&seen.plain, seen.id, &all);
        let rng = self.draw();
        let chosen = choice::choose(&belief, 0, None, rng).index;
        let mechanism = Mechanism::ALL[chosen];
        let scores = mechanism.scores(&plan.graph()?);
        let adapted = self.operators.adapt(plan, &seen.rows)?;
        let mut vector = seen.shape;
        for (row, s) in adapted.chunks_exact(self.config.dim).zip(&scores) {
            crate::kernels::axpy(*s as f32, row, &mut vector);
        }
        self.counters.pre += 1;
        self.pending.insert(seen.id, (chosen as u8, self.turn));
        if self.pending.len() > PENDING {
            let oldest = self.pending.iter().min_by_key(|(_, (_, turn))| *turn);
            if let Some(id) = oldest.map(|(id, _)| *id) {
                self.pending.remove(&id);
            }
        }
        Ok(Enhanced {
            vector: directed(vector),
            patterns: self.bank.find(&seen.plain, PATTERNS, DEFAULT_SCOPE, now)?,
            mechanism,
            confidence: (1.0 - belief.variance(chosen) / belief.prior[chosen]).clamp(0.0, 1.0),
        })
    }

    /// Which of `settings` the plan should run with; the one at `default` is what runs without the engine.
    pub fn choose(&mut self, plan: &QueryDag, settings: &[&str], default: usize) -> Result<Choice> {
        if !(1..=MOST_SETTINGS).contains(&settings.len()) {
            return Err(Error::value(
                "settings",
                format!("1 to {MOST_SETTINGS} names"),
                settings.len(),
            ));
        }
        if default >= settings.len() {
            return Err(Error::value("default", "one of the settings", default));
        }
        if (1..settings.len()).any(|i| settings[..i].contains(&settings[i])) {
            return Err(Error::value(
                "settings",
                "different names",
                format!("{settings:?}"),
            ));
        }
        self.settings.admit(settings)?;
        let seen = self.encode(plan)?;
        let ids: Vec<u32> = settings.iter().map(|s| self.settings.intern(s)).collect();
        self.default = Some(ids[default]);
        let belief = self.by_setting.believe(&seen.plain, seen.id, &ids);
        let rng = self.draw();
        let budget = Budget {
            ledger: &self.ledger,
            share: self.config.regret_budget,
            runs: self.by_setting.runs_of(seen.id),
            tried: (ids.iter())
                .map(|id| self.by_setting.count(seen.id, *id) > 0)
                .collect(),
        };
        Ok(choice::choose(&belief, default, Some(&budget), rng))
    }

    /// Milliseconds that the plan takes under each setting: median and the ends of the 95 % interval of one run.
    pub fn predict(&self, plan: &QueryDag, settings: &[&str]) -> Result<Vec<[f64; 3]>> {
        let seen = self.encode(plan)?;
        // Names never heard of are told apart from each other and from all known ones.
        let unknown = self.settings.len() as u32;
        let ids: Vec<u32> = (settings.iter().enumerate())
            .map(|(i, s)| self.settings.find(s).unwrap_or(unknown + i as u32))
            .collect();
        let belief = self.by_setting.believe(&seen.plain, seen.id, &ids);
        Ok((0..ids.len())
            .map(|i| {
                let (mean, sd) = (belief.mean[i], (belief.variance(i) + belief.noise).sqrt());
                [time(mean), time(mean - 1.96 * sd), time(mean + 1.96 * sd)]
            })
            .collect())
    }

    /// Expected milliseconds of every operator; zeros while no operator was ever timed.
    pub fn predict_operators(&self, plan: &QueryDag) -> Result<Vec<f64>> {
        self.operators
            .predict(plan, &operators::rows(self.config.dim, plan)?)
    }

    /// Learns how a query went; returns its reward (baseline − latency)/max(baseline, latency).
    pub fn post_query(&mut self, plan: &QueryDag, run: Run<'_>) -> Result<f64> {
        self.check(plan, &run)?;
        let seen = self.encode(plan)?;
        let setting = run.setting.map(|name| self.settings.intern(name));
        let default = self.default;
        let believed = |this: &Self| {
            let id = default.or(setting).unwrap_or(0);
            time(this.by_setting.believe(&seen.plain, seen.id, &[id]).mean[0])
        };
        let at_default = setting.is_some() && setting == default;
        let baseline = match run.baseline_ms {
            Some(ms) => ms,
            None if at_default => run.latency_ms,
            None => believed(self),
        };
        let taken = run.latency_ms + if run.stopped { baseline } else { 0.0 };
        if let Some(id) = setting {
            if let Some(usual) = default {
                let reference = if at_default { run.latency_ms } else { baseline };
                self.ledger.add(reference, taken, !at_default);
                let untried = !at_default && self.by_setting.count(seen.id, usual) == 0;
                if let Some(ms) = run.baseline_ms.filter(|_| untried) {
                    self.by_setting.learn(&seen.plain, seen.id, usual, ln(ms));
                }
            }
            let y = match run.stopped {
                true => self.at_least(&seen, id, ln(run.latency_ms)),
                false => ln(run.latency_ms),
            };
            self.by_setting.learn(&seen.plain, seen.id, id, y);
        }
        let mechanism = self.pending.remove(&seen.id).map(|(m, _)| m);
        match mechanism {
            Some(m) => {
                let y = ln(taken) - ln(baseline);
                self.by_mechanism.learn(&seen.plain, seen.id, u32::from(m), y);
            }
            None => self.counters.unmatched += 1,
        }
        if let Some(times) = run.operator_ms {
            self.operators.learn(plan, &seen.rows, times)?;
        }
        let most = baseline.max(taken);
        let reward = if most > 0.0 {
            (baseline - taken) / most
        } else {
            0.0
        };
        self.bank.add(Outcome {
            embedding: &seen.plain,
            quality: f64::midpoint(reward, 1.0).clamp(0.0, 1.0),
            action: run
                .setting
                .or_else(|| mechanism.map(|m| Mechanism::ALL[usize::from(m)].name())),
            scope: DEFAULT_SCOPE,
            verdict: None,
        })?;
        self.counters.post += 1;
        self.fresh += 1;
        Ok(reward)
    }

    /// Expected ln(time) of a run that was stopped at `y`: E\[x | x > y\], with Birnbaum's bound of the hazard
    /// (√(α² + 4) + α)/2 in place of the hazard.
    fn at_least(&self, seen: &Encoded, setting: u32, y: f64) -> f64 {
        let belief = self.by_setting.believe(&seen.plain, seen.id, &[setting]);
        let sd = (belief.variance(0) + belief.noise).sqrt();
        let alpha = (y - belief.mean[0]) / sd;
        (belief.mean[0] + sd * (alpha.hypot(2.0) + alpha) / 2.0).max(y)
    }

    fn check(&self, plan: &QueryDag, run: &Run<'_>) -> Result<()> {
        let times = [
            ("latency_ms", Some(run.latency_ms)),
            ("baseline_ms", run.baseline_ms),
        ];
        for (name, value) in times.into_iter().filter_map(|(n, v)| Some((n, v?))) {
            check_number(name, value)?;
            if value < 0.0 {
                return Err(Error::value(name, "a number of at least 0", value));
            }
        }
        if run.baseline_ms.is_none() && run.setting.is_none() {
            return Err(Error::value(
                "baseline_ms",
                "a time where no setting is named",
                "none",
            ));
        }
        if let Some(name) = run.setting {
            self.settings.admit(&[name])?;
        }
        if let Some(times) = run.operator_ms {
            check_dim("operator_ms", plan.len(), times.len())?;
            for ms in times {
                check_number("operator_ms", *ms)?;
                if *ms < 0.0 {
                    return Err(Error::value("operator_ms", "numbers of at least 0", ms));
                }
            }
        }
        Ok(())
    }

    /// Extracts patterns, fits the variances of the beliefs, and trains head and adapters of the operators. Waits for
    /// eight new runs.
    pub fn background_learn(&mut self, now: i64) -> Result<Learned> {
        let trajectories = self.fresh;
        if trajectories < LEAST_RUNS {
            return Ok(Learned {
                trajectories,
                patterns: self.bank.patterns().len(),
                updated: false,
                status: "waiting",
            });
        }
        let patterns = self.bank.extract(now)?.len();
        let mut updated = patterns > 0;
        updated |= hyper::fit(&mut self.by_setting);
        updated |= hyper::fit(&mut self.by_mechanism);
        updated |= self.operators.cycle(self.config.ewc_lambda)?;
        self.fresh = 0;
        self.counters.cycles += 1;
        Ok(Learned {
            trajectories,
            patterns: self.bank.patterns().len(),
            updated,
            status: "learned",
        })
    }
}
