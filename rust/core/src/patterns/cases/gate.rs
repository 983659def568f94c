//! Items that never got feedback keep their chance.

use super::candidates::{Candidates, Scored};
use super::evidence::{self, Handicap};
use super::memory::CaseMemory;
use super::multiplier;
use super::probe::Probe;
use super::running::{Running, dcg};
use crate::error::{Error, Result};
use crate::item::ItemId;
use crate::metrics::Metrics;
use rustc_hash::FxBuildHasher;
use serde::{Deserialize, Serialize};

/// Which gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum GateMode {
    /// A learned handicap for items without evidence.
    Evidence,
    /// One learned factor for all that was learned.
    Multiplier,
    /// None: scores pass unchanged.
    Off,
}

impl GateMode {
    /// From the public name.
    pub fn parse(name: &str) -> Result<Self> {
        Ok(match name {
            "evidence" => Self::Evidence,
            "multiplier" => Self::Multiplier,
            "off" => Self::Off,
            other => {
                return Err(Error::config(
                    "mode",
                    "evidence, multiplier or off",
                    format!("{other:?}"),
                ));
            }
        })
    }

    /// The public name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Evidence => "evidence",
            Self::Multiplier => "multiplier",
            Self::Off => "off",
        }
    }
}

/// Settings of a gate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct GateParams {
    /// Which gate.
    pub mode: GateMode,
    /// Assumed share ν of traffic that wants items without feedback, 0..=1.
    pub nu: f64,
    /// Standard errors that an arm must win by, ≥ 0 (evidence).
    pub z: f64,
    /// Decay of the running means per feedback, in (0, 1].
    pub decay: f64,
    /// Feedbacks before an arm is chosen.
    pub warmup: u64,
}

impl Default for GateParams {
    fn default() -> Self {
        Self {
            mode: GateMode::Evidence,
            nu: 0.2,
            z: 3.0,
            decay: 0.999,
            warmup: 20,
        }
    }
}

impl GateParams {
    /// Errors at the first field that is out of range.
    pub fn check(&self) -> Result<()> {
        if !(0.0..=1.0).contains(&self.nu) {
            return Err(Error::config("nu", "a number in [0, 1]", self.nu));
        }
        if !(self.z.is_finite() && self.z >= 0.0) {
            return Err(Error::config("z", "a finite number >= 0", self.z));
        }
        if !(self.decay > 0.0 && self.decay <= 1.0) {
            return Err(Error::config("decay", "a number in (0, 1]", self.decay));
        }
        Ok(())
    }
}

/// First feedback whose arms are scored (evidence).
const SCORE_FROM: u64 = 6;
/// E(d) below which an item has no evidence.
const ENOUGH: f32 = 1.0;

pub(super) type EvidenceMap =
    imbl::GenericHashMap<ItemId, f32, FxBuildHasher, imbl::shared_ptr::DefaultSharedPtr>;

/// Learns from each feedback how items without evidence are to be treated. Cloning costs O(arms).
#[derive(Debug, Clone)]
pub struct ItemGate {
    pub(super) params: GateParams,
    pub(super) seed: u64,
    pub(super) count: u64,
    pub(super) as_is: Running,
    pub(super) removed: Running,
    pub(super) evidence: EvidenceMap,
    pub(super) arm: usize,
}

impl ItemGate {
    /// A gate that has seen nothing.
    pub fn new(params: GateParams, seed: u64) -> Result<Self> {
        params.check()?;
        let arms = Self::arms(params.mode);
        let mut gate = Self {
            params,
            seed,
            count: 0,
            as_is: Running::new(arms),
            removed: Running::new(arms),
            evidence: EvidenceMap::default(),
            arm: 0,
        };
        gate.choose();
        Ok(gate)
    }

    pub(super) fn arms(mode: GateMode) -> usize {
        match mode {
            GateMode::Evidence => evidence::ARMS,
            GateMode::Multiplier => multiplier::ARMS,
            GateMode::Off => 0,
        }
    }

    /// The settings.
    #[must_use]
    pub fn params(&self) -> &GateParams {
        &self.params
    }

    /// The seed that it was made with.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Feedbacks seen.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// β in use (0 unless the mode is evidence).
    #[must_use]
    pub fn beta(&self) -> f64 {
        self.evidence_arm().0
    }

    /// λ in use (0 unless the mode is evidence).
    #[must_use]
    pub fn lambda(&self) -> f64 {
        self.evidence_arm().1
    }

    fn evidence_arm(&self) -> (f64, f64) {
        if self.params.mode == GateMode::Evidence {
            evidence::arm(self.arm)
        } else {
            (0.0, 0.0)
        }
    }

    /// True if E(d) ≥ 1: the item was chosen where similar requests had chosen it before.
    #[must_use]
    pub fn has_evidence(&self, item: &ItemId) -> bool {
        self.evidence.get(item).is_some_and(|e| *e >= ENOUGH)
    }

    /// s'(d) of each candidate into `out`; `scored` is from the same probe. Without cases the base itself, bit for bit.
    pub fn apply(&self, probe: &Probe, candidates: &Candidates<'_>, scored: &Scored, out: &mut Vec<f32>) {
        self.apply_where(probe, candidates, scored, |id| !self.has_evidence(id), out);
    }

    /// As [`Self::apply`], as if `item` had no evidence.
    pub fn apply_as_new(
        &self,
        item: &ItemId,
        probe: &Probe,
        candidates: &Candidates<'_>,
        scored: &Scored,
        out: &mut Vec<f32>,
    ) {
        let is_open = |id: &ItemId| id == item || !self.has_evidence(id);
        self.apply_where(probe, candidates, scored, is_open, out);
    }

    fn apply_where(
        &self,
        probe: &Probe,
        candidates: &Candidates<'_>,
        scored: &Scored,
        is_open: impl Fn(&ItemId) -> bool,
        out: &mut Vec<f32>,
    ) {
        out.clear();
        let plain = match self.params.mode {
            GateMode::Off => true,
            GateMode::Evidence => self.arm == 0,
            GateMode::Multiplier => false,
        };
        if plain || probe.is_empty() {
            out.extend_from_slice(&scored.scores);
        } else if self.params.mode == GateMode::Evidence {
            Handicap::new(probe, candidates, scored, is_open).apply(self.evidence_arm(), out);
        } else {
            let f = multiplier::factor(self.arm, probe.nearest().unwrap_or(-1.0));
            out.extend(
                scored
                    .scores
                    .iter()
                    .zip(&scored.base)
                    .map(|(s, s0)| s0 + f * (s - s0)),
            );
        }
    }

    /// Looks at one feedback, before the case is learned: scores the arms as it is and with an item's cases removed.
    /// `scored` holds the un-gated scores of `candidates` for `probe`.
    pub fn observe(
        &mut self,
        memory: &CaseMemory,
        probe: &Probe,
        clicked: &[ItemId],
        candidates: &Candidates<'_>,
        scored: &Scored,
    ) -> Result<()> {
        let wanted = positions(clicked, candidates)?;
        self.count += 1;
        match self.params.mode {
            GateMode::Off => return Ok(()),
            GateMode::Evidence => {
                if self.count >= SCORE_FROM {
                    self.score_handicaps(memory, probe, candidates, scored, &wanted)?;
                }
                let ids: Vec<&ItemId> = wanted.iter().map(|&j| candidates.ids()[j]).collect();
                for (id, r) in ids.iter().zip(memory.recall(probe, &ids)) {
                    let e = self.evidence.get(*id).copied().unwrap_or(0.0);
                    self.evidence.insert((*id).clone(), e + r.max(0.0));
                }
            }
            GateMode::Multiplier => self.score_factors(memory, probe, candidates, scored, &wanted)?,
        }
        self.choose();
        Ok(())
    }

    fn score_handicaps(
        &mut self,
        memory: &CaseMemory,
        probe: &Probe,
        candidates: &Candidates<'_>,
        scored: &Scored,
        wanted: &[usize],
    ) -> Result<()> {
        let plain = Handicap::new(probe, candidates, scored, |id| !self.has_evidence(id));
        self.as_is.add(&plain.gains(wanted), self.params.decay);
        let pick = wanted[(splitmix64(self.seed.wrapping_add(self.count)) % wanted.len() as u64) as usize];
        let item = candidates.ids()[pick];
        let probe = probe.without(&[item]);
        let mut scored = Scored {
            base: scored.base.clone(),
            ..Scored::default()
        };
        let base = std::mem::take(&mut scored.base);
        memory.score(&probe, candidates, Some(&base), &mut scored)?;
        let mut handicap = Handicap::new(&probe, candidates, &scored, |id| {
            id == item || !self.has_evidence(id)
        });
        let mut keep = vec![true; candidates.len()];
        for &j in wanted {
            keep[j] = j == pick;
        }
        handicap.retain(&keep);
        let at = keep[..pick].iter().filter(|k| **k).count();
        self.removed.add(&handicap.gains(&[at]), self.params.decay);
        Ok(())
    }

    fn score_factors(
        &mut self,
        memory: &CaseMemory,
        probe: &Probe,
        candidates: &Candidates<'_>,
        scored: &Scored,
        wanted: &[usize],
    ) -> Result<()> {
        let gains = |probe: &Probe, scored: &Scored| -> Vec<f64> {
            let nearest = probe.nearest().unwrap_or(-1.0);
            (0..multiplier::ARMS)
                .map(|a| {
                    let f = if probe.is_empty() {
                        0.0
                    } else {
                        multiplier::factor(a, nearest)
                    };
                    let score = |i: usize| scored.base[i] + f * (scored.scores[i] - scored.base[i]);
                    dcg(candidates.len(), score, wanted)
                })
                .collect()
        };
        self.as_is.add(&gains(probe, scored), self.params.decay);
        let items: Vec<&ItemId> = wanted.iter().map(|&j| candidates.ids()[j]).collect();
        let reduced = probe.without(&items);
        let mut without = Scored::default();
        memory.score(&reduced, candidates, Some(&scored.base), &mut without)?;
        self.removed.add(&gains(&reduced, &without), self.params.decay);
        Ok(())
    }

    pub(super) fn choose(&mut self) {
        let warm = self.count >= self.params.warmup;
        self.arm = match self.params.mode {
            GateMode::Off => 0,
            GateMode::Evidence if warm => {
                evidence::choose(&self.as_is, &self.removed, self.params.nu, self.params.z)
            }
            GateMode::Evidence => 0,
            GateMode::Multiplier if warm => multiplier::choose(&self.as_is, &self.removed, self.params.nu),
            GateMode::Multiplier => multiplier::FIRST,
        };
    }

    /// An item whose id lives only in this process, if there is one: such a gate cannot be written.
    #[must_use]
    pub fn unwritable_id(&self) -> Option<&ItemId> {
        self.evidence.keys().find(|id| id.is_opaque())
    }

    /// Counters, the arm in use and its merit.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let open = self.evidence.values().filter(|e| **e < ENOUGH).count();
        let (gain, error) = match self.params.mode {
            GateMode::Evidence => evidence::merit(&self.as_is, &self.removed, self.params.nu, self.arm),
            _ => (0.0, 0.0),
        };
        vec![
            ("observed", self.count.into()),
            ("arm", self.arm.into()),
            ("beta", self.beta().into()),
            ("lambda", self.lambda().into()),
            ("gain", gain.into()),
            ("gain_standard_error", error.into()),
            ("items_clicked", self.evidence.len().into()),
            ("items_with_evidence", (self.evidence.len() - open).into()),
        ]
    }
}

/// Positions of the clicked items among the candidates, each once, in the order of the clicks.
fn positions(clicked: &[ItemId], candidates: &Candidates<'_>) -> Result<Vec<usize>> {
    let mut out = Vec::with_capacity(clicked.len());
    for item in clicked {
        let Some(j) = candidates.ids().iter().position(|id| *id == item) else {
            return Err(Error::value(
                "clicked_ids",
                "items among the candidates",
                format!("{item}, which is not there"),
            ));
        };
        if !out.contains(&j) {
            out.push(j);
        }
    }
    if out.is_empty() {
        return Err(Error::value("clicked_ids", "at least one item", "none"));
    }
    Ok(out)
}

/// The coin for "one random clicked item": a pure function of seed and count, so that it needs no state (Steele, Lea &
/// Flood 2014).
fn splitmix64(x: u64) -> u64 {
    let z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
