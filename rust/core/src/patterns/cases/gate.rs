//! Items that never got feedback keep their chance.

use super::as_new::AsNew;
use super::candidates::{Candidates, Scored};
use super::coverage::Coverage;
use super::evidence::{self, Handicap};
use super::gate_params::{GateMode, GateParams};
use super::memory::CaseMemory;
use super::multiplier;
use super::probe::Probe;
use super::running::{Running, dcg};
use crate::error::{Error, Result};
use crate::item::ItemId;
use crate::metrics::Metrics;
use rustc_hash::FxBuildHasher;

/// First feedback whose arms are scored (evidence).
const SCORE_FROM: u64 = 6;
/// E(d) below which an item has no evidence.
const ENOUGH: f32 = 1.0;

pub(super) type EvidenceMap =
    imbl::GenericHashMap<ItemId, f32, FxBuildHasher, imbl::shared_ptr::DefaultSharedPtr>;

/// What a gate looks at besides the ranking itself.
#[derive(Debug, Clone, Copy)]
pub struct Looked<'a> {
    /// How much the feedback counts, ≥ 0.
    pub weight: f64,
    /// Positions of the candidates that were shown; `None`: all.
    pub shown: Option<&'a [usize]>,
    /// The request as if one of the clicked items were new, if that was looked at before.
    pub as_new: Option<&'a AsNew>,
}

impl Default for Looked<'_> {
    fn default() -> Self {
        Self {
            weight: 1.0,
            shown: None,
            as_new: None,
        }
    }
}

/// Learns from each feedback how items without evidence are to be treated. Cloning costs O(arms).
#[derive(Debug, Clone)]
pub struct ItemGate {
    pub(super) params: GateParams,
    pub(super) seed: u64,
    pub(super) count: u64,
    pub(super) as_is: Running,
    pub(super) removed: Running,
    pub(super) evidence: EvidenceMap,
    pub(super) coverage: Coverage,
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
            coverage: Coverage::default(),
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

    /// e(d): 1 without evidence, times the share of the handicap that the coverage allows.
    fn openness(&self, id: &ItemId) -> f32 {
        let e = self.evidence.get(id).copied().unwrap_or(0.0);
        let unproven = if self.params.soft {
            (ENOUGH - e).max(0.0)
        } else {
            f32::from(u8::from(e < ENOUGH))
        };
        self.fullness() * unproven
    }

    fn fullness(&self) -> f32 {
        if self.params.full_coverage > 0.0 {
            (self.coverage.mean() / self.params.full_coverage).min(1.0) as f32
        } else {
            1.0
        }
    }

    fn cover(&mut self, shown: Option<&[usize]>, candidates: &Candidates<'_>) {
        let places = shown.map_or(candidates.len(), <[usize]>::len);
        if self.params.full_coverage == 0.0 || places == 0 {
            return;
        }
        let is_known = |j: usize| self.evidence.contains_key(candidates.ids()[j]);
        let known = match shown {
            Some(shown) => shown.iter().filter(|&&j| is_known(j)).count(),
            None => (0..places).filter(|&j| is_known(j)).count(),
        };
        self.coverage.add(known as f64 / places as f64, self.params.decay);
    }

    /// s'(d) of each candidate into `out`; `scored` is from the same probe. Without cases the base itself, bit for bit.
    pub fn apply(&self, probe: &Probe, candidates: &Candidates<'_>, scored: &Scored, out: &mut Vec<f32>) {
        self.apply_where(probe, candidates, scored, |id| self.openness(id), out);
    }

    /// As [`Self::apply`], as if the item of `as_new` had no evidence. `scored` is of its probe.
    pub fn apply_as_new(
        &self,
        as_new: &AsNew,
        candidates: &Candidates<'_>,
        scored: &Scored,
        out: &mut Vec<f32>,
    ) {
        let open = self.openness_as_new(candidates.ids()[as_new.pick]);
        self.apply_where(&as_new.probe, candidates, scored, open, out);
    }

    /// e(d) as if `item` had no evidence.
    fn openness_as_new(&self, item: &ItemId) -> impl Fn(&ItemId) -> f32 {
        let full = self.fullness();
        move |id| if id == item { full } else { self.openness(id) }
    }

    fn apply_where(
        &self,
        probe: &Probe,
        candidates: &Candidates<'_>,
        scored: &Scored,
        open: impl Fn(&ItemId) -> f32,
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
            Handicap::new(probe, candidates, scored, open).apply(self.evidence_arm(), out);
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
        how: Looked<'_>,
    ) -> Result<()> {
        if !(how.weight.is_finite() && how.weight >= 0.0) {
            return Err(Error::value("weight", "a finite number >= 0", how.weight));
        }
        let wanted = candidates.find("clicked_ids", clicked)?;
        if wanted.is_empty() {
            return Err(Error::value("clicked_ids", "at least one item", "none"));
        }
        self.count += 1;
        match self.params.mode {
            GateMode::Off => return Ok(()),
            GateMode::Evidence => {
                self.cover(how.shown, candidates);
                if self.count >= SCORE_FROM {
                    self.score_handicaps(memory, probe, candidates, scored, &wanted, how);
                }
                let ids: Vec<&ItemId> = wanted.iter().map(|&j| candidates.ids()[j]).collect();
                for (id, r) in ids.iter().zip(memory.recall(probe, &ids)) {
                    let e = self.evidence.get(*id).copied().unwrap_or(0.0);
                    self.evidence
                        .insert((*id).clone(), e + how.weight as f32 * r.max(0.0));
                }
            }
            GateMode::Multiplier => {
                self.score_factors(memory, probe, candidates, scored, &wanted, how.weight)
            }
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
        how: Looked<'_>,
    ) {
        let start = self.start();
        let plain = Handicap::new(probe, candidates, scored, |id| self.openness(id));
        self.as_is
            .add(&plain.gains(wanted, start), how.weight, self.params.decay);
        let pick = wanted[(splitmix64(self.seed.wrapping_add(self.count)) % wanted.len() as u64) as usize];
        let own;
        let as_new = match how.as_new {
            Some(known) if known.pick == pick => known,
            _ => {
                own = AsNew::new(memory, probe, candidates, scored, pick);
                &own
            }
        };
        let open = self.openness_as_new(candidates.ids()[pick]);
        let mut handicap = Handicap::new(&as_new.probe, candidates, &as_new.scored, open);
        let mut keep = vec![true; candidates.len()];
        for &j in wanted {
            keep[j] = j == pick;
        }
        handicap.retain(&keep);
        let at = keep[..pick].iter().filter(|k| **k).count();
        let gains = handicap.gains(&[at], start);
        self.removed.add(&gains, how.weight, self.params.decay);
    }

    fn score_factors(
        &mut self,
        memory: &CaseMemory,
        probe: &Probe,
        candidates: &Candidates<'_>,
        scored: &Scored,
        wanted: &[usize],
        weight: f64,
    ) {
        let gains = |probe: &Probe, scored: &Scored| -> Vec<f64> {
            let nearest = probe.nearest().unwrap_or(-1.0);
            (0..multiplier::ARMS)
                .map(|a| {
                    let f = if probe.is_empty() {
                        0.0
                    } else {
                        multiplier::factor(a, nearest)
                    };
                    let parts = scored.scores.iter().zip(&scored.base);
                    let scores: Vec<f32> = parts.map(|(s, s0)| s0 + f * (s - s0)).collect();
                    dcg(&scores, wanted)
                })
                .collect()
        };
        self.as_is.add(&gains(probe, scored), weight, self.params.decay);
        let items: Vec<&ItemId> = wanted.iter().map(|&j| candidates.ids()[j]).collect();
        let reduced = probe.without(&items);
        let without = memory.score_reduced(probe, &reduced, candidates, scored);
        self.removed
            .add(&gains(&reduced, &without), weight, self.params.decay);
    }

    fn start(&self) -> usize {
        let (beta, lambda) = self.params.start;
        evidence::index(beta, lambda).unwrap_or(0)
    }

    pub(super) fn choose(&mut self) {
        let warm = self.count >= self.params.warmup;
        self.arm = match self.params.mode {
            GateMode::Off => 0,
            GateMode::Evidence if warm => {
                let GateParams { nu, z, .. } = self.params;
                evidence::choose(&self.as_is, &self.removed, nu, z, self.start())
            }
            GateMode::Evidence => self.start(),
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
            ("coverage", self.coverage.mean().into()),
            ("items_clicked", self.evidence.len().into()),
            ("items_with_evidence", (self.evidence.len() - open).into()),
        ]
    }
}

/// The coin for "one random clicked item": a pure function of seed and count, so that it needs no state (Steele, Lea &
/// Flood 2014).
fn splitmix64(x: u64) -> u64 {
    let z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
