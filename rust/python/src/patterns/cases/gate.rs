//! Binding of the gate for items without feedback.

use super::arguments::{self, Items, count, optional};
use super::memory::CaseMemory;
use super::published::Published;
use crate::arrays::{detached, metrics_dict, vector};
use crate::errors::IntoPy;
use crate::items::{self, Use, not_serialisable};
use numpy::PyArray1;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyType};
use sona_core::Result;
use sona_core::patterns::cases as core;

/// Keeps the chance of items that never got feedback, by a handicap that it learns.
///
/// Learning from clicks raises what was clicked; what nobody could click yet sinks. ``"evidence"`` gives items without
/// evidence e(d) = 1 (their summed recall at clicks is below 1) an offset β + λ·(q − q̄)·d, with q̄ the kernel mean of
/// similar requests. (β, λ) is one of 21 arms, scored on each feedback twice: as it is, and with one clicked item's cases
/// removed, a simulated unseen item. The arm in use has the largest D = (1 − nu)·gain as is + nu·gain removed, in DCG over
/// the arm (0, 0), among those with D > z standard errors. ``"multiplier"`` scales all that was learned by one of 30
/// learned factors; ``"off"`` changes nothing.
///
/// Safe to share between threads: readers see whole snapshots and never wait, writers take turns.
///
/// Parameters
/// ----------
/// mode : {"evidence", "multiplier", "off"}, default "evidence"
/// nu : float, default 0.2
///     Assumed share of traffic that wants items without feedback, in [0, 1].
/// z : float, default 3.0
///     Standard errors that an arm must win by, >= 0.
/// decay : float, default 0.999
///     Decay of the running means per feedback, in (0, 1].
/// warmup : int, default 20
///     Feedbacks before an arm is chosen.
/// seed : int, default 0
///     Of the choice which clicked item is removed when there are several.
/// soft : bool, default False
///     e(d) = max(0, 1 − E(d)) in place of a step at E(d) = 1, where E is the summed recall at clicks.
/// start : (float, float), default (0.0, 0.0)
///     The arm (β, λ) in use until another beats it; gains are over it. β is one of 0, .05 … .3, λ one of 0, .5, 1.
/// full_coverage : float, default 0.0
///     The handicap is scaled by min(1, coverage / full_coverage), coverage being the running mean of the share of shown
///     places that items with clicks took; in an open item set hardly anything shown was clicked before, and items without
///     evidence protect each other. 0: always in full.
///
/// Raises
/// ------
/// ConfigError
///     A parameter is out of range.
///
/// Notes
/// -----
/// It lowers the loss of items without feedback, at a price in lift on the others; it does not promise that they never
/// lose, least of all during the first hundreds of feedbacks. Measured figures: ``sona bench retrieval``.
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> from sona.patterns import CaseMemory, ItemGate
/// >>> memory, gate = CaseMemory(2), ItemGate()
/// >>> ids, vectors = ["a", "b"], np.eye(2, dtype=np.float32)
/// >>> for _ in range(3):                                     # the gate looks first, then the case is learned
/// ...     gate.observe(memory, [1, 1], ["b"], ids, vectors)
/// ...     case = memory.learn([1, 1], ["b"], ids, vectors)
/// >>> gate.has_evidence("b"), gate.has_evidence("a"), gate.beta, gate.lambda_
/// (True, False, 0.0, 0.0)
#[pyclass(frozen, module = "sona.patterns", name = "ItemGate")]
pub(super) struct ItemGate {
    state: Published<core::ItemGate>,
}

impl ItemGate {
    fn holding(gate: core::ItemGate) -> Self {
        Self {
            state: Published::new(gate),
        }
    }
}

/// The ungated scores of a request with the probe that they came from.
fn score(
    memory: &core::CaseMemory,
    q: &[f32],
    candidates: &core::Candidates<'_>,
    base: Option<&[f32]>,
) -> Result<(core::Probe, core::Scored)> {
    let probe = memory.probe(q)?;
    let mut scored = core::Scored::default();
    memory.score(&probe, candidates, base, &mut scored)?;
    Ok((probe, scored))
}

#[pymethods]
impl ItemGate {
    #[new]
    #[pyo3(
        signature = (*, mode="evidence", nu=0.2, z=3.0, decay=0.999, warmup=20, seed=0, soft=false, start=[0.0, 0.0], full_coverage=0.0),
        text_signature = "(*, mode='evidence', nu=0.2, z=3.0, decay=0.999, warmup=20, seed=0, soft=False, start=(0.0, 0.0), full_coverage=0.0)"
    )]
    #[expect(clippy::too_many_arguments, reason = "the public call")]
    fn new(
        mode: &str,
        nu: f64,
        z: f64,
        decay: f64,
        warmup: i64,
        seed: i128,
        soft: bool,
        start: [f64; 2],
        full_coverage: f64,
    ) -> PyResult<Self> {
        let mode = core::GateMode::parse(mode).py()?;
        let params = core::GateParams {
            mode,
            nu,
            z,
            decay,
            warmup: count("warmup", warmup)? as u64,
            soft,
            start: start.into(),
            full_coverage,
        };
        Ok(Self::holding(
            core::ItemGate::new(params, arguments::seed(seed)?).py()?,
        ))
    }

    /// Look at one feedback, before the memory learns it.
    ///
    /// Parameters
    /// ----------
    /// memory : CaseMemory
    ///     As it was when the ranking was made.
    /// q : (d,) float32
    ///     The request.
    /// clicked_ids : sequence of hashables
    ///     What was chosen, among the items. Rejections are not for the gate.
    /// item_ids, vectors : n hashables, (n, d) float32
    ///     What was ranked; the more of it, the better the gate knows ranks.
    /// base : (n,) float32 or None, default None
    ///     The application's own scores; None: the cosine.
    /// weight : float, default 1.0
    ///     How much the feedback counts, >= 0.
    /// shown_ids : sequence of hashables or None, default None
    ///     Which of the items were shown, for the coverage; None: all.
    ///
    /// Raises
    /// ------
    /// ValueError
    ///     No clicked item, a clicked or shown one that is not among the items, or a weight below 0.
    /// ShapeError, DimensionMismatch, NotFiniteError
    ///     Before anything is changed.
    ///
    /// Notes
    /// -----
    /// One search plus O(n·(d + arms)).
    #[pyo3(signature = (memory, q, clicked_ids, item_ids, vectors, *, base=None, weight=1.0, shown_ids=None))]
    #[expect(clippy::too_many_arguments, reason = "the public call")]
    fn observe(
        &self,
        py: Python<'_>,
        memory: &CaseMemory,
        q: &Bound<'_, PyAny>,
        clicked_ids: &Bound<'_, PyAny>,
        item_ids: &Bound<'_, PyAny>,
        vectors: &Bound<'_, PyAny>,
        base: Option<&Bound<'_, PyAny>>,
        weight: f64,
        shown_ids: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let memory = memory.state.snapshot();
        let q = vector("q", q, Some(memory.dim()))?;
        let clicked = items::item_ids("clicked_ids", clicked_ids, Use::Learn)?;
        let items = Items::extract("item_ids", item_ids, "vectors", vectors, memory.dim(), Use::Look)?;
        let base = optional("base", base, items.ids.len())?;
        let shown = shown_ids
            .map(|ids| items::item_ids("shown_ids", ids, Use::Look))
            .transpose()?;
        detached(py, || {
            items.with(|candidates| {
                let shown = shown.map(|ids| candidates.find("shown_ids", &ids)).transpose()?;
                let how = core::Looked {
                    weight,
                    shown: shown.as_deref(),
                    ..core::Looked::default()
                };
                let (probe, scored) = score(&memory, &q, candidates, base.as_deref())?;
                self.state
                    .update(|gate| gate.observe(&memory, &probe, &clicked, candidates, &scored, how))
            })
        })
    }

    /// The memory's scores with the gate applied: what to show.
    ///
    /// Parameters
    /// ----------
    /// memory : CaseMemory
    /// q : (d,) float32
    /// item_ids, vectors : n hashables, (n, d) float32
    /// base : (n,) float32 or None, default None
    ///     The application's own scores; None: the cosine.
    ///
    /// Returns
    /// -------
    /// (n,) float32
    ///     Without cases ``base`` itself, bit for bit.
    #[pyo3(signature = (memory, q, item_ids, vectors, *, base=None))]
    fn scores<'py>(
        &self,
        py: Python<'py>,
        memory: &CaseMemory,
        q: &Bound<'py, PyAny>,
        item_ids: &Bound<'py, PyAny>,
        vectors: &Bound<'py, PyAny>,
        base: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let memory = memory.state.snapshot();
        let gate = self.state.snapshot();
        let q = vector("q", q, Some(memory.dim()))?;
        let items = Items::extract("item_ids", item_ids, "vectors", vectors, memory.dim(), Use::Look)?;
        let base = optional("base", base, items.ids.len())?;
        let out = detached(py, || {
            items.with(|candidates| {
                let (probe, scored) = score(&memory, &q, candidates, base.as_deref())?;
                let mut out = Vec::new();
                gate.apply(&probe, candidates, &scored, &mut out);
                Ok(out)
            })
        })?;
        Ok(PyArray1::from_vec(py, out))
    }

    /// True if the item was chosen often enough where similar requests had chosen it before (mode "evidence").
    #[pyo3(signature = (item_id))]
    fn has_evidence(&self, item_id: &Bound<'_, PyAny>) -> PyResult<bool> {
        Ok(self
            .state
            .load()
            .has_evidence(&items::item_id(item_id, Use::Look)?))
    }

    /// Which gate.
    #[getter]
    fn mode(&self) -> &'static str {
        self.state.load().params().mode.name()
    }

    /// β of the arm in use.
    #[getter]
    fn beta(&self) -> f64 {
        self.state.load().beta()
    }

    /// λ of the arm in use.
    #[getter]
    fn lambda_(&self) -> f64 {
        self.state.load().lambda()
    }

    /// Counters, the arm in use, its gain D with standard error, and how many items have evidence.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        metrics_dict(py, &self.state.load().metrics())
    }

    /// The whole state; reading it back and going on equals never having stopped, bit for bit.
    ///
    /// Raises
    /// ------
    /// TypeError
    ///     An item id is not an int, str, bytes or tuple of those.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let gate = self.state.snapshot();
        if let Some(id) = gate.unwritable_id() {
            return Err(not_serialisable(id));
        }
        Ok(PyBytes::new(py, &detached(py, || gate.to_bytes())?))
    }

    /// Read what ``to_bytes`` wrote; every field is checked.
    ///
    /// Raises
    /// ------
    /// CorruptStateError
    ///     The bytes are damaged, foreign or of another version.
    #[classmethod]
    #[pyo3(signature = (b))]
    fn from_bytes(_cls: &Bound<'_, PyType>, py: Python<'_>, b: Vec<u8>) -> PyResult<Self> {
        Ok(Self::holding(detached(py, || core::ItemGate::from_bytes(&b))?))
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyBytes>,))> {
        Ok((
            slf.get_type().getattr("from_bytes")?,
            (slf.get().to_bytes(slf.py())?,),
        ))
    }

    fn __copy__(&self) -> Self {
        Self::holding(core::ItemGate::clone(&self.state.load()))
    }

    #[pyo3(signature = (memo))]
    fn __deepcopy__(&self, memo: &Bound<'_, PyAny>) -> Self {
        let _ = memo;
        self.__copy__()
    }

    fn __repr__(&self) -> String {
        let g = self.state.load();
        let (p, d) = (g.params(), core::GateParams::default());
        let mut out = format!("ItemGate(mode={:?}", p.mode.name());
        for (name, v, default) in [
            ("nu", p.nu, d.nu),
            ("z", p.z, d.z),
            ("decay", p.decay, d.decay),
            ("warmup", p.warmup as f64, d.warmup as f64),
            ("full_coverage", p.full_coverage, d.full_coverage),
        ] {
            if v != default {
                out.push_str(&format!(", {name}={v}"));
            }
        }
        if p.soft {
            out.push_str(", soft=True");
        }
        if p.start != d.start {
            out.push_str(&format!(", start={:?}", p.start));
        }
        if g.seed() != 0 {
            out.push_str(&format!(", seed={}", g.seed()));
        }
        format!(
            "<{}): {} feedbacks, beta {}, lambda {}>",
            out.replace('"', "'"),
            g.count(),
            g.beta(),
            g.lambda()
        )
    }
}
