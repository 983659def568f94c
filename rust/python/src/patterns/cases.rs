//! Binding of `sona_core::patterns::cases`.

use crate::arrays::{detached, matrix, metrics_dict, vector};
use crate::errors::{IntoPy, to_py};
use crate::items::{Use, item_id, item_ids, not_serialisable};
use arc_swap::ArcSwap;
use numpy::PyArray1;
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyType};
use sona_core::item::ItemId;
use sona_core::patterns::cases as core;
use sona_core::{Error, Result};
use std::sync::Arc;

/// Ids with their vectors, copied out of Python.
struct Items {
    ids: Vec<ItemId>,
    data: Vec<f32>,
    dim: usize,
}

impl Items {
    fn extract(
        id_name: &'static str,
        ids: &Bound<'_, PyAny>,
        vector_name: &'static str,
        vectors: &Bound<'_, PyAny>,
        dim: usize,
        purpose: Use,
    ) -> PyResult<Self> {
        let ids = item_ids(id_name, ids, purpose)?;
        let (data, n, _) = matrix(vector_name, vectors, Some(dim))?;
        if n != ids.len() {
            return Err(to_py(Error::shape(
                vector_name,
                format!("({}, {dim})", ids.len()),
                format!("({n}, {dim})"),
            )));
        }
        Ok(Self { ids, data, dim })
    }

    fn with<T>(&self, f: impl FnOnce(&core::Candidates<'_>) -> Result<T>) -> Result<T> {
        let ids: Vec<&ItemId> = self.ids.iter().collect();
        let rows: Vec<&[f32]> = self.data.chunks_exact(self.dim).collect();
        f(&core::Candidates::new(&ids, &rows, self.dim)?)
    }
}

fn optional(name: &'static str, x: Option<&Bound<'_, PyAny>>, n: usize) -> PyResult<Option<Vec<f32>>> {
    let Some(x) = x else { return Ok(None) };
    let v = vector(name, x, None)?;
    if v.len() == n {
        Ok(Some(v))
    } else {
        Err(to_py(Error::shape(
            name,
            format!("({n},)"),
            format!("({},)", v.len()),
        )))
    }
}

#[pyclass(frozen, module = "sona.patterns", name = "CaseMemory")]
pub(crate) struct CaseMemory {
    state: ArcSwap<core::CaseMemory>,
    writer: Mutex<()>,
}

impl CaseMemory {
    fn holding(memory: core::CaseMemory) -> Self {
        Self {
            state: ArcSwap::from_pointee(memory),
            writer: Mutex::new(()),
        }
    }

    /// Changes a private copy, then publishes it whole.
    fn update<T>(&self, f: impl FnOnce(&mut core::CaseMemory) -> Result<T>) -> Result<T> {
        let _one_at_a_time = self.writer.lock();
        let mut next = core::CaseMemory::clone(&self.state.load());
        let out = f(&mut next)?;
        self.state.store(Arc::new(next));
        Ok(out)
    }
}

#[pymethods]
impl CaseMemory {
    #[new]
    #[pyo3(signature = (dim, *, eta=0.6, adapt_width=0.2, temperature=0.1, recall_weight=0.2, recall_width=0.05, shrinkage=0.001, neighbors=128, max_bytes=None, seed=0))]
    #[expect(clippy::too_many_arguments, reason = "the public constructor")]
    fn new(
        dim: usize,
        eta: f32,
        adapt_width: f32,
        temperature: f32,
        recall_weight: f32,
        recall_width: f32,
        shrinkage: f32,
        neighbors: usize,
        max_bytes: Option<usize>,
        seed: u64,
    ) -> PyResult<Self> {
        let params = core::CaseParams {
            eta,
            adapt_width,
            temperature,
            recall_weight,
            recall_width,
            shrinkage,
            neighbors,
            max_bytes,
        };
        Ok(Self::holding(core::CaseMemory::new(dim, params, seed).py()?))
    }

    #[pyo3(signature = (q))]
    fn adapt<'py>(&self, py: Python<'py>, q: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let memory = self.state.load_full();
        let q = vector("q", q, Some(memory.dim()))?;
        let out = detached(py, || Ok(memory.probe(&q)?.adapted().to_vec()))?;
        Ok(PyArray1::from_vec(py, out))
    }

    #[pyo3(signature = (q, item_ids))]
    fn recall<'py>(
        &self,
        py: Python<'py>,
        q: &Bound<'py, PyAny>,
        item_ids: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let memory = self.state.load_full();
        let q = vector("q", q, Some(memory.dim()))?;
        let ids = self::item_ids("item_ids", item_ids, Use::Look)?;
        let out = detached(py, || {
            let refs: Vec<&ItemId> = ids.iter().collect();
            Ok(memory.recall(&memory.probe(&q)?, &refs))
        })?;
        Ok(PyArray1::from_vec(py, out))
    }

    #[pyo3(signature = (q, item_ids, vectors, *, base=None))]
    fn scores<'py>(
        &self,
        py: Python<'py>,
        q: &Bound<'py, PyAny>,
        item_ids: &Bound<'py, PyAny>,
        vectors: &Bound<'py, PyAny>,
        base: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let memory = self.state.load_full();
        let q = vector("q", q, Some(memory.dim()))?;
        let items = Items::extract("item_ids", item_ids, "vectors", vectors, memory.dim(), Use::Look)?;
        let base = optional("base", base, items.ids.len())?;
        let out = detached(py, || {
            items.with(|candidates| {
                let mut scored = core::Scored::default();
                memory.score(&memory.probe(&q)?, candidates, base.as_deref(), &mut scored)?;
                Ok(scored.scores)
            })
        })?;
        Ok(PyArray1::from_vec(py, out))
    }

    #[pyo3(signature = (q, clicked_ids, candidate_ids, candidate_vectors, *, scores=None, weight=1.0, source="", user=""))]
    #[expect(clippy::too_many_arguments, reason = "the public call")]
    fn learn(
        &self,
        py: Python<'_>,
        q: &Bound<'_, PyAny>,
        clicked_ids: &Bound<'_, PyAny>,
        candidate_ids: &Bound<'_, PyAny>,
        candidate_vectors: &Bound<'_, PyAny>,
        scores: Option<&Bound<'_, PyAny>>,
        weight: f32,
        source: &str,
        user: &str,
    ) -> PyResult<u64> {
        let dim = self.state.load().dim();
        let q = vector("q", q, Some(dim))?;
        let clicked = item_ids("clicked_ids", clicked_ids, Use::Learn)?;
        let items = Items::extract(
            "candidate_ids",
            candidate_ids,
            "candidate_vectors",
            candidate_vectors,
            dim,
            Use::Learn,
        )?;
        let scores = optional("scores", scores, items.ids.len())?;
        let (source, user) = (Arc::from(source), Arc::from(user));
        detached(py, || {
            items.with(|candidates| {
                self.update(|memory| {
                    let probe = memory.probe(&q)?;
                    let case = core::NewCase {
                        chosen: &clicked,
                        candidates,
                        scores: scores.as_deref(),
                        weight,
                        source,
                        user,
                        at: 0.0,
                    };
                    memory.learn(&probe, &case)
                })
            })
        })
    }

    #[pyo3(signature = (case_ids))]
    fn remove(&self, py: Python<'_>, case_ids: &Bound<'_, PyAny>) -> PyResult<usize> {
        let ids: PyResult<Vec<i64>> = case_ids.try_iter()?.map(|x| x?.extract::<i64>()).collect();
        let ids: Vec<u64> = ids?.into_iter().filter_map(|x| u64::try_from(x).ok()).collect();
        detached(py, || self.update(|memory| Ok(memory.remove(&ids))))
    }

    #[pyo3(signature = (*, user=None, source=None))]
    fn cases_of<'py>(
        &self,
        py: Python<'py>,
        user: Option<&str>,
        source: Option<&str>,
    ) -> PyResult<Bound<'py, PyArray1<i64>>> {
        let memory = self.state.load_full();
        let ids = detached(py, || {
            Ok(memory
                .cases_of(user, source)
                .into_iter()
                .map(|i| i as i64)
                .collect())
        })?;
        Ok(PyArray1::from_vec(py, ids))
    }

    #[getter]
    fn dim(&self) -> usize {
        self.state.load().dim()
    }

    #[getter]
    fn nbytes(&self) -> usize {
        self.state.load().nbytes()
    }

    fn __len__(&self) -> usize {
        self.state.load().len()
    }

    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        metrics_dict(py, &self.state.load().metrics())
    }

    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let memory = self.state.load_full();
        if let Some(id) = memory.unwritable_id() {
            return Err(not_serialisable(id));
        }
        Ok(PyBytes::new(py, &detached(py, || memory.to_bytes())?))
    }

    #[classmethod]
    #[pyo3(signature = (b))]
    fn from_bytes(_cls: &Bound<'_, PyType>, py: Python<'_>, b: Vec<u8>) -> PyResult<Self> {
        Ok(Self::holding(detached(py, || core::CaseMemory::from_bytes(&b))?))
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyBytes>,))> {
        Ok((
            slf.get_type().getattr("from_bytes")?,
            (slf.get().to_bytes(slf.py())?,),
        ))
    }

    fn __copy__(&self) -> Self {
        Self::holding(core::CaseMemory::clone(&self.state.load()))
    }

    #[pyo3(signature = (memo))]
    fn __deepcopy__(&self, memo: &Bound<'_, PyAny>) -> Self {
        let _ = memo;
        self.__copy__()
    }

    fn __repr__(&self) -> String {
        let m = self.state.load();
        let (p, d) = (m.params(), core::CaseParams::default());
        let mut out = format!("CaseMemory({}", m.dim());
        let mut note = |name: &str, v: f32, default: f32| {
            if v != default {
                out.push_str(&format!(", {name}={v}"));
            }
        };
        note("eta", p.eta, d.eta);
        note("adapt_width", p.adapt_width, d.adapt_width);
        note("temperature", p.temperature, d.temperature);
        note("recall_weight", p.recall_weight, d.recall_weight);
        note("recall_width", p.recall_width, d.recall_width);
        note("shrinkage", p.shrinkage, d.shrinkage);
        note("neighbors", p.neighbors as f32, d.neighbors as f32);
        if let Some(b) = p.max_bytes {
            out.push_str(&format!(", max_bytes={b}"));
        }
        if m.seed() != 0 {
            out.push_str(&format!(", seed={}", m.seed()));
        }
        format!("<{out}): {} cases, {} bytes>", m.len(), m.nbytes())
    }
}

#[pyclass(frozen, module = "sona.patterns", name = "ItemGate")]
pub(crate) struct ItemGate {
    state: ArcSwap<core::ItemGate>,
    writer: Mutex<()>,
}

impl ItemGate {
    fn holding(gate: core::ItemGate) -> Self {
        Self {
            state: ArcSwap::from_pointee(gate),
            writer: Mutex::new(()),
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
    #[pyo3(signature = (*, mode="evidence", nu=0.2, z=3.0, decay=0.999, warmup=20, seed=0))]
    fn new(mode: &str, nu: f64, z: f64, decay: f64, warmup: u64, seed: u64) -> PyResult<Self> {
        let mode = core::GateMode::parse(mode).py()?;
        let params = core::GateParams {
            mode,
            nu,
            z,
            decay,
            warmup,
        };
        Ok(Self::holding(core::ItemGate::new(params, seed).py()?))
    }

    #[pyo3(signature = (memory, q, clicked_ids, item_ids, vectors, *, base=None))]
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
    ) -> PyResult<()> {
        let memory = memory.state.load_full();
        let q = vector("q", q, Some(memory.dim()))?;
        let clicked = self::item_ids("clicked_ids", clicked_ids, Use::Learn)?;
        let items = Items::extract("item_ids", item_ids, "vectors", vectors, memory.dim(), Use::Look)?;
        let base = optional("base", base, items.ids.len())?;
        detached(py, || {
            items.with(|candidates| {
                let (probe, scored) = score(&memory, &q, candidates, base.as_deref())?;
                let _one_at_a_time = self.writer.lock();
                let mut next = core::ItemGate::clone(&self.state.load());
                next.observe(&memory, &probe, &clicked, candidates, &scored)?;
                self.state.store(Arc::new(next));
                Ok(())
            })
        })
    }

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
        let memory = memory.state.load_full();
        let gate = self.state.load_full();
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

    #[pyo3(signature = (item_id))]
    fn has_evidence(&self, item_id: &Bound<'_, PyAny>) -> PyResult<bool> {
        Ok(self
            .state
            .load()
            .has_evidence(&self::item_id(item_id, Use::Look)?))
    }

    #[getter]
    fn mode(&self) -> &'static str {
        self.state.load().params().mode.name()
    }

    #[getter]
    fn beta(&self) -> f64 {
        self.state.load().beta()
    }

    #[getter]
    fn lambda_(&self) -> f64 {
        self.state.load().lambda()
    }

    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        metrics_dict(py, &self.state.load().metrics())
    }

    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let gate = self.state.load_full();
        if let Some(id) = gate.unwritable_id() {
            return Err(not_serialisable(id));
        }
        Ok(PyBytes::new(py, &detached(py, || gate.to_bytes())?))
    }

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
        ] {
            if v != default {
                out.push_str(&format!(", {name}={v}"));
            }
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

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<CaseMemory>()?;
    m.add_class::<ItemGate>()
}
