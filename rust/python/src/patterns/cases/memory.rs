//! Binding of the case memory.

use super::arguments::{self, Items, count, optional};
use super::published::Published;
use crate::arrays::{detached, metrics_dict, vector};
use crate::errors::IntoPy;
use crate::items::{self, Use, not_serialisable};
use numpy::PyArray1;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyType};
use sona_core::item::ItemId;
use sona_core::patterns::cases as core;
use std::sync::Arc;

/// Remembers what was chosen for which request, and ranks the next request by it.
///
/// Every case holds the request, the items that the feedback is about, and a listwise gradient. For a request q and its
/// nearest cases, all vectors of unit length: a_k = exp((q·q_k − 1)/adapt_width), b_k = exp((q·q_k − 1)/recall_width);
/// u = q + eta·Σ a_k g_k and û = u/|u| (adapt); r(d) = Σ_{k: d in C_k} m_k b_k / (Σ_k |m_k| b_k + shrinkage) (recall);
/// s(d) = base(d) + (û − q)·d + recall_weight·r(d) (scores). Without cases everything is the identity, bit for bit.
///
/// Safe to share between threads: readers see whole snapshots and never wait, writers take turns. ``copy.copy`` is a
/// snapshot in O(1) that shares the cases and changes on its own.
///
/// Parameters
/// ----------
/// dim : int
///     Length of every vector, at least 1.
/// eta : float, default 0.6
///     Step size of the adapter, >= 0.
/// adapt_width, recall_width : float, default 0.2, 0.05
///     Kernel widths in cosine, > 0.
/// temperature : float, default 0.1
///     Temperature of the softmax that the gradient is taken of, > 0.
/// recall_weight : float, default 0.2
///     Weight of recall in the score, >= 0.
/// shrinkage : float, default 0.001
///     Pulls recall to 0 where no case is near, > 0.
/// neighbors : int, default 128
///     Nearest cases that count, at least 1.
/// max_bytes : int or None, default None
///     Byte budget of the cases. Beyond it, of the 256 oldest cases those go that say least, √|g| divided by the number of
///     cases about the same item. The newest case always stays.
/// half_life_days : float or None, default None
///     Days in which what a case counts halves: a_k and b_k are multiplied by 2^(−age/half-life). The age of a case is the
///     latest time of any case (``learn(now=)``) less its own, so that it moves with what is learned and with no clock. None:
///     cases do not age.
/// seed : int, default 0
///     Kept with the state; the rule itself makes no random choice.
///
/// Raises
/// ------
/// ConfigError
///     A parameter is out of range.
///
/// Notes
/// -----
/// A request costs one scan over byte codes of the cases, O(cases·dim), and O(neighbors·dim) in float32. A case takes
/// about 9 bytes per dimension and what its ids take.
///
/// Item ids are any hashables. Equal ids are one item: 1 and 1.0 too. Integers, text, bytes and tuples of those are
/// written by ``to_bytes``; other objects live in this process only.
///
/// References
/// ----------
/// Functional gradient descent on the listwise softmax loss (Cao et al. 2007, "Learning to rank", ListNet) in a kernel
/// space; recall is the estimator of Nadaraya 1964 and Watson 1964 with shrinkage.
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> from sona.patterns import CaseMemory
/// >>> memory = CaseMemory(2)
/// >>> ids, vectors = ["a", "b"], np.eye(2, dtype=np.float32)
/// >>> print(memory.scores([3, 3], ids, vectors).round(2))
/// [0.71 0.71]
/// >>> memory.learn([3, 3], ["b"], ids, vectors)
/// 0
/// >>> print(memory.scores([3, 3], ids, vectors).round(2))
/// [0.37 1.13]
/// >>> memory.remove([0]), len(memory)
/// (1, 0)
#[pyclass(frozen, module = "sona.patterns", name = "CaseMemory")]
pub(super) struct CaseMemory {
    pub(super) state: Published<core::CaseMemory>,
}

impl CaseMemory {
    fn holding(memory: core::CaseMemory) -> Self {
        Self {
            state: Published::new(memory),
        }
    }
}

#[pymethods]
impl CaseMemory {
    #[new]
    #[pyo3(signature = (dim, *, eta=0.6, adapt_width=0.2, temperature=0.1, recall_weight=0.2, recall_width=0.05, shrinkage=0.001, neighbors=128, max_bytes=None, half_life_days=None, seed=0))]
    #[expect(clippy::too_many_arguments, reason = "the public constructor")]
    fn new(
        dim: i64,
        eta: f32,
        adapt_width: f32,
        temperature: f32,
        recall_weight: f32,
        recall_width: f32,
        shrinkage: f32,
        neighbors: i64,
        max_bytes: Option<i64>,
        half_life_days: Option<f64>,
        seed: i128,
    ) -> PyResult<Self> {
        let params = core::CaseParams {
            eta,
            adapt_width,
            temperature,
            recall_weight,
            recall_width,
            shrinkage,
            neighbors: count("neighbors", neighbors)?,
            max_bytes: max_bytes.map(|b| count("max_bytes", b)).transpose()?,
            half_life_days,
        };
        Ok(Self::holding(
            core::CaseMemory::new(count("dim", dim)?, params, arguments::seed(seed)?).py()?,
        ))
    }

    /// Move a request to where similar requests found what they wanted.
    ///
    /// Parameters
    /// ----------
    /// q : (d,) float32
    ///     Of any norm.
    ///
    /// Returns
    /// -------
    /// (d,) float32
    ///     û, of unit length. ``q`` itself, bit for bit, if there is no case (or ``q`` is zero).
    ///
    /// Raises
    /// ------
    /// ShapeError, DimensionMismatch, NotFiniteError
    ///     ``q`` is not a finite vector of length ``dim``.
    #[pyo3(signature = (q))]
    fn adapt<'py>(&self, py: Python<'py>, q: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let memory = self.state.snapshot();
        let q = vector("q", q, Some(memory.dim()))?;
        let out = detached(py, || Ok(memory.probe(&q)?.adapted().to_vec()))?;
        Ok(PyArray1::from_vec(py, out))
    }

    /// How much similar requests chose each item.
    ///
    /// Parameters
    /// ----------
    /// q : (d,) float32
    /// item_ids : sequence of n hashables
    ///
    /// Returns
    /// -------
    /// (n,) float32
    ///     r(d) in [0, 1]; below 0, down to -1, only for items that were rejected more than chosen.
    ///
    /// Raises
    /// ------
    /// ShapeError, DimensionMismatch, NotFiniteError
    ///     ``q`` is not a finite vector of length ``dim``.
    /// TypeError
    ///     An id is not hashable.
    #[pyo3(signature = (q, item_ids))]
    fn recall<'py>(
        &self,
        py: Python<'py>,
        q: &Bound<'py, PyAny>,
        item_ids: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let memory = self.state.snapshot();
        let q = vector("q", q, Some(memory.dim()))?;
        let ids = items::item_ids("item_ids", item_ids, Use::Look)?;
        let out = detached(py, || {
            let refs: Vec<&ItemId> = ids.iter().collect();
            Ok(memory.recall(&memory.probe(&q)?, &refs))
        })?;
        Ok(PyArray1::from_vec(py, out))
    }

    /// Score items for a request: ``base + (û − q)·d + recall_weight·r(d)``.
    ///
    /// Parameters
    /// ----------
    /// q : (d,) float32
    /// item_ids : sequence of n hashables
    /// vectors : (n, d) float32
    ///     Of any norm; they count with unit length, and a zero vector scores 0.
    /// base : (n,) float32 or None, default None
    ///     The application's own scores; None: the cosine.
    ///
    /// Returns
    /// -------
    /// (n,) float32
    ///     Without cases ``base`` itself, bit for bit.
    ///
    /// Raises
    /// ------
    /// ShapeError, DimensionMismatch, NotFiniteError
    ///     An array does not fit the others, or is not finite.
    ///
    /// Notes
    /// -----
    /// One search plus O(n·d).
    #[pyo3(signature = (q, item_ids, vectors, *, base=None))]
    fn scores<'py>(
        &self,
        py: Python<'py>,
        q: &Bound<'py, PyAny>,
        item_ids: &Bound<'py, PyAny>,
        vectors: &Bound<'py, PyAny>,
        base: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let memory = self.state.snapshot();
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

    /// Remember one feedback.
    ///
    /// Parameters
    /// ----------
    /// q : (d,) float32
    ///     The request; not zero.
    /// clicked_ids : sequence of hashables
    ///     What was chosen (or rejected), each once among the candidates.
    /// candidate_ids : sequence of n hashables
    ///     What was ranked: the shown items and strong competitors, say the 50 best.
    /// candidate_vectors : (n, d) float32
    /// scores : (n,) float32 or None, default None
    ///     Scores of the candidates before any gate; None: the memory's own with the cosine as base.
    /// weight : float, default 1.0
    ///     Strength, 0 < abs(weight) <= 100. A negative weight rejects the items: the target of the gradient is the ranking
    ///     without them, and recall counts against them.
    /// source, user : str, default ""
    ///     Where the feedback came from and whose it is, for ``cases_of``.
    /// now : float, default 0.0
    ///     When it came, in seconds; matters only with ``half_life_days``.
    ///
    /// Returns
    /// -------
    /// int
    ///     Id of the case, ascending from 0.
    ///
    /// Raises
    /// ------
    /// ValueError
    ///     A clicked item is not exactly once among the candidates; the weight is out of range; ``q`` is zero; ``now``
    ///     is not finite.
    /// ShapeError, DimensionMismatch, NotFiniteError
    ///     Before anything is remembered.
    ///
    /// Notes
    /// -----
    /// One search plus O(n·d).
    #[pyo3(signature = (q, clicked_ids, candidate_ids, candidate_vectors, *, scores=None, weight=1.0, source="", user="", now=0.0))]
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
        now: f64,
    ) -> PyResult<u64> {
        let dim = self.state.load().dim();
        let q = vector("q", q, Some(dim))?;
        let clicked = items::item_ids("clicked_ids", clicked_ids, Use::Learn)?;
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
                self.state.update(|memory| {
                    let probe = memory.probe(&q)?;
                    let case = core::NewCase {
                        chosen: &clicked,
                        candidates,
                        scores: scores.as_deref(),
                        weight,
                        source,
                        user,
                        at: now,
                    };
                    memory.learn(&probe, &case)
                })
            })
        })
    }

    /// Forget cases: afterwards the memory scores as one that never had them.
    ///
    /// Gradients of later cases, which were learned while the removed ones were there, stay as they are.
    ///
    /// Parameters
    /// ----------
    /// case_ids : iterable of int
    ///     Unknown ids are ignored.
    ///
    /// Returns
    /// -------
    /// int
    ///     How many were there.
    ///
    /// Notes
    /// -----
    /// O(cases).
    #[pyo3(signature = (case_ids))]
    fn remove(&self, py: Python<'_>, case_ids: &Bound<'_, PyAny>) -> PyResult<usize> {
        let ids: PyResult<Vec<i64>> = case_ids.try_iter()?.map(|x| x?.extract::<i64>()).collect();
        let ids: Vec<u64> = ids?.into_iter().filter_map(|x| u64::try_from(x).ok()).collect();
        detached(py, || self.state.update(|memory| Ok(memory.remove(&ids))))
    }

    /// Ids of the cases of a user, of a source, or of both at once.
    ///
    /// Parameters
    /// ----------
    /// user, source : str or None, default None
    ///     None: any.
    ///
    /// Returns
    /// -------
    /// (n,) int64
    ///     Ascending.
    ///
    /// Notes
    /// -----
    /// O(cases).
    #[pyo3(signature = (*, user=None, source=None))]
    fn cases_of<'py>(
        &self,
        py: Python<'py>,
        user: Option<&str>,
        source: Option<&str>,
    ) -> PyResult<Bound<'py, PyArray1<i64>>> {
        let memory = self.state.snapshot();
        let ids = detached(py, || {
            Ok(memory
                .cases_of(user, source)
                .into_iter()
                .map(|i| i as i64)
                .collect())
        })?;
        Ok(PyArray1::from_vec(py, ids))
    }

    /// Length of every vector.
    #[getter]
    fn dim(&self) -> usize {
        self.state.load().dim()
    }

    /// Bytes of all cases.
    #[getter]
    fn nbytes(&self) -> usize {
        self.state.load().nbytes()
    }

    fn __len__(&self) -> usize {
        self.state.load().len()
    }

    /// Counters: cases, learned, removed, evicted, items, segments, nbytes.
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
        let memory = self.state.snapshot();
        if let Some(id) = memory.unwritable_id() {
            return Err(not_serialisable(id));
        }
        Ok(PyBytes::new(py, &detached(py, || memory.to_bytes())?))
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
