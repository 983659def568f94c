//! Binding of `sona_core::dreams::DreamEngine` and of the walk.

use super::consolidate::PyConsolidator;
use super::dream::{Stop, config_of, emit_dream, path_ids, told};
use super::extract_node;
use crate::arrays::{detached, matrix, metrics_dict, place, whole};
use crate::errors::{IntoPy, to_py};
use crate::state::{State, state_methods};
use numpy::PyArray1;
use parking_lot::Mutex;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use sona_core::Error;
use sona_core::Result;
use sona_core::dreams::{self, DreamConfig, DreamEngine};

/// Most dreams of one call.
const MAX_DREAMS: usize = 1_000_000;

/// A memory graph and the dreams over it: walks that jump, now and then, to something similar and not yet linked.
///
/// A step returns to the start with probability ``restart_prob``; otherwise it jumps with probability
/// ``creative_jump_prob`` to a memory drawn with chance proportional to exp(cos / ``jump_temperature``) among all that
/// are no neighbours; otherwise it follows an edge drawn by weight (from a memory without edges: home). Safe to share
/// between threads.
///
/// Parameters
/// ----------
/// config : DreamConfig, optional
/// seed : int, default 0
///
/// Notes
/// -----
/// Jumps follow their law exactly and do not score all memories: proposals are drawn uniformly and accepted with
/// probability exp((cos - 1) / T), at most exp((1 - mean cosine) / T) of them in the mean, however many memories there
/// are.
///
/// References
/// ----------
/// Tong, Faloutsos & Pan (2006), Fast random walk with restart and its applications.
///
/// Examples
/// --------
/// >>> from sona.dreams import DreamEngine, MemoryNode
/// >>> engine = DreamEngine(seed=1)
/// >>> for i, x in enumerate([[1.0, 0.0], [0.9, 0.3], [0.6, 0.8], [0.0, 1.0]]):
/// ...     engine.add_memory_node(MemoryNode(i, x))
/// >>> for a, b in [(0, 1), (1, 2), (2, 3)]:
/// ...     engine.add_edge(a, b)
/// >>> dream = engine.generate_dream(start=0)
/// >>> len(dream.path), dream.path[0].id
/// (15, 0)
/// >>> added = engine.integrate_dream(dream)
/// >>> engine.edge_count == 3 + added
/// True
#[pyclass(name = "DreamEngine", module = "sona.dreams", frozen)]
pub(super) struct PyDreamEngine {
    inner: Mutex<DreamEngine>,
}

impl PyDreamEngine {
    fn wrap(inner: DreamEngine) -> Self {
        Self {
            inner: Mutex::new(inner),
        }
    }
}

#[pymethods]
impl PyDreamEngine {
    #[new]
    #[pyo3(signature = (config=None, *, seed=0), text_signature = "(config=None, *, seed=0)")]
    fn new(config: Option<&Bound<'_, PyAny>>, seed: i128) -> PyResult<Self> {
        let seed: u64 = whole("seed", seed)?;
        let config = config.map_or_else(|| Ok(DreamConfig::default()), config_of)?;
        Ok(Self::wrap(DreamEngine::new(config, seed).py()?))
    }

    /// The settings, a :class:`DreamConfig`.
    #[getter]
    fn config<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let c = *self.inner.lock().config();
        let kwargs = PyDict::new(py);
        kwargs.set_item("path_length", c.path_length)?;
        kwargs.set_item("creative_jump_prob", c.creative_jump_prob)?;
        kwargs.set_item("restart_prob", c.restart_prob)?;
        kwargs.set_item("novelty_weight", c.novelty_weight)?;
        kwargs.set_item("coherence_weight", c.coherence_weight)?;
        kwargs.set_item("utility_weight", c.utility_weight)?;
        kwargs.set_item("jump_temperature", c.jump_temperature)?;
        kwargs.set_item("probation", c.probation)?;
        py.import("sona.dreams")?
            .getattr("DreamConfig")?
            .call((), Some(&kwargs))
    }

    /// Add a memory, or replace what is known of one with the same id; its edges stay.
    ///
    /// Parameters
    /// ----------
    /// node : MemoryNode
    ///     All embeddings of an engine have one length.
    ///
    /// Raises
    /// ------
    /// DimensionMismatch, NotFiniteError
    fn add_memory_node(&self, node: &Bound<'_, PyAny>) -> PyResult<()> {
        let (node, embedding) = extract_node(node)?;
        self.inner.lock().add_memory_node(node, &embedding).py()
    }

    /// Set the weight of the undirected edge between two memories; O(degree).
    ///
    /// Parameters
    /// ----------
    /// a, b : int
    ///     Ids of different memories.
    /// weight : float, default 1.0
    ///     More than 0. An edge on probation becomes an ordinary one.
    ///
    /// Raises
    /// ------
    /// ValueError
    ///     An unknown id, a loop, a weight of 0 or less.
    #[pyo3(signature = (a, b, weight=1.0))]
    fn add_edge(&self, a: i64, b: i64, weight: f64) -> PyResult<()> {
        self.inner.lock().add_edge(a, b, weight).py()
    }

    /// Number of memories.
    #[getter]
    fn node_count(&self) -> usize {
        self.inner.lock().graph().len()
    }

    /// Number of edges, those on probation included.
    #[getter]
    fn edge_count(&self) -> usize {
        self.inner.lock().graph().edge_count()
    }

    /// Weight of the edge between two memories; 0.0 where there is none.
    fn weight(&self, a: i64, b: i64) -> PyResult<f64> {
        self.inner.lock().weight(a, b).py()
    }

    /// Walk once over the graph.
    ///
    /// Parameters
    /// ----------
    /// start : int, optional
    ///     Id of a memory; default: a linked one, drawn uniformly.
    ///
    /// Returns
    /// -------
    /// Dream
    ///     With an empty path if there are fewer than two memories or the start has no edge.
    ///
    /// Raises
    /// ------
    /// ValueError
    ///     An unknown id.
    #[pyo3(signature = (*, start=None))]
    fn generate_dream<'py>(&self, py: Python<'py>, start: Option<i64>) -> PyResult<Bound<'py, PyAny>> {
        let (dream, stops) = detached(py, || {
            let mut engine = self.inner.lock();
            let dream = engine.generate_dream(start)?;
            let stops = told(&engine, &dream);
            Ok((dream, stops))
        })?;
        emit_dream(py, &dream, &stops)
    }

    /// Walk ``count`` times, each from a linked memory drawn uniformly.
    ///
    /// Returns
    /// -------
    /// list of Dream
    ///
    /// Raises
    /// ------
    /// CapacityError
    ///     More than a million at once.
    fn generate_dreams<'py>(&self, py: Python<'py>, count: i128) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let count: usize = place("count", count)?;
        if count > MAX_DREAMS {
            return Err(to_py(Error::Capacity {
                name: "count",
                limit: format!("at most {MAX_DREAMS} dreams at once"),
                got: count.to_string(),
            }));
        }
        (0..count).map(|_| self.generate_dream(py, None)).collect()
    }

    /// Score a path of ids; O(l²·d) for l distinct ones.
    ///
    /// Parameters
    /// ----------
    /// ids : sequence of int
    ///
    /// Returns
    /// -------
    /// DreamScore
    ///     ``novelty``: share of the pairs of distinct memories without an edge and with a cosine in (0.3, 0.8);
    ///     ``coherence``: mean cosine of consecutive memories; ``utility``: mean importance; ``total``: weighted sum.
    ///
    /// Raises
    /// ------
    /// ValueError
    ///     An unknown id.
    fn score_path<'py>(&self, py: Python<'py>, ids: Vec<i64>) -> PyResult<Bound<'py, PyAny>> {
        let s = detached(py, || self.inner.lock().score_path(&ids))?;
        py.import(intern!(py, "sona.dreams"))?
            .getattr(intern!(py, "DreamScore"))?
            .call1((s.novelty, s.coherence, s.utility, s.total))
    }

    /// Suggest edges of weight 0.1 · score between the novel pairs of a dream, on probation.
    ///
    /// Returns
    /// -------
    /// int
    ///     New edges. 0 for a score of 0 or less.
    ///
    /// Raises
    /// ------
    /// ValueError
    ///     A memory on the path is not in this graph.
    fn integrate_dream(&self, dream: &Bound<'_, PyAny>) -> PyResult<usize> {
        let ids = path_ids(dream)?;
        let score = dream.getattr(intern!(dream.py(), "score"))?.extract()?;
        self.inner.lock().integrate(&ids, score).py()
    }

    /// Keep a suggested edge for good, because a request used it with success.
    ///
    /// Returns
    /// -------
    /// bool
    ///     True if the edge was on probation.
    fn confirm(&self, a: i64, b: i64) -> PyResult<bool> {
        self.inner.lock().confirm(a, b).py()
    }

    /// Let ``n`` ticks (usually requests) pass; suggested edges older than ``probation`` vanish.
    ///
    /// Returns
    /// -------
    /// int
    ///     Edges that vanished.
    #[pyo3(signature = (n=1))]
    fn tick(&self, n: i128) -> PyResult<usize> {
        let n: u64 = place("n", n)?;
        Ok(self.inner.lock().tick(n))
    }

    /// Merge, strengthen and drop memories in place, as :meth:`MemoryConsolidator.consolidate` does.
    ///
    /// Edges follow merged memories, the stronger where two meet; those of dropped memories go.
    ///
    /// Parameters
    /// ----------
    /// consolidator : MemoryConsolidator
    /// threshold : float, default 0.7
    /// now : float, optional
    ///     Seconds; default ``time.time()``.
    ///
    /// Returns
    /// -------
    /// tuple of int
    ///     Memories strengthened, pruned and merged; bytes before and after.
    ///
    /// Raises
    /// ------
    /// NotFiniteError, ValueError
    #[pyo3(signature = (consolidator, *, threshold=0.7, now=None))]
    fn consolidate(
        &self,
        py: Python<'_>,
        consolidator: &Bound<'_, PyConsolidator>,
        threshold: f64,
        now: Option<f64>,
    ) -> PyResult<(usize, usize, usize, usize, usize)> {
        let now = match now {
            Some(now) => now,
            None => py.import("time")?.call_method0("time")?.extract()?,
        };
        let by = consolidator.get().inner;
        let out = detached(py, || self.inner.lock().consolidate(&by, threshold, now))?;
        Ok((
            out.strengthened,
            out.pruned,
            out.merged,
            out.bytes_before,
            out.bytes_after,
        ))
    }

    /// Edges as ``(a, b, weight, on probation)``, each once.
    fn edges(&self) -> Vec<(i64, i64, f64, bool)> {
        self.inner.lock().graph().edges()
    }

    /// Sub-graph that a dream's path induces, as `(n, n)` weights.
    fn _induced(&self, dream: &Bound<'_, PyAny>) -> PyResult<(Vec<f32>, usize)> {
        let ids = path_ids(dream)?;
        self.inner.lock().induced(&ids).py()
    }

    /// All memories, in the order in which they came.
    fn memories<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let make = py.import("sona.dreams")?.getattr("_memory_node")?;
        let stops: Vec<Stop> = {
            let engine = self.inner.lock();
            let graph = engine.graph();
            (0..graph.len())
                .map(|at| Stop {
                    node: *graph.node(at),
                    embedding: graph.embedding(at).to_vec(),
                })
                .collect()
        };
        let node = |s: &Stop| {
            make.call1((
                s.node.id,
                PyArray1::from_slice(py, &s.embedding),
                s.node.timestamp,
                s.node.access_count,
                s.node.importance,
            ))
        };
        stops.iter().map(node).collect()
    }

    /// Counters: memories, edges, dreams, jumps; suggested, confirmed and vanished edges.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        metrics_dict(py, &self.inner.lock().metrics())
    }

    fn __repr__(&self) -> String {
        let engine = self.inner.lock();
        format!(
            "DreamEngine(seed={}, memories={}, edges={})",
            engine.seed(),
            engine.graph().len(),
            engine.graph().edge_count()
        )
    }
}

impl State for PyDreamEngine {
    fn encode(&self) -> Result<Vec<u8>> {
        self.inner.lock().to_bytes()
    }

    fn decode(data: &[u8]) -> Result<Self> {
        Ok(Self::wrap(DreamEngine::from_bytes(data)?))
    }
}

state_methods!(PyDreamEngine);

/// Where a random walk that keeps returning to ``start`` spends its time.
///
/// Parameters
/// ----------
/// W : (n, n) array
///     Weights of at least 0; each row is made to sum to 1, a row of zeros leads back to ``start``.
/// start : int
///     Row of the start.
/// restart : float, default 0.1
///     Chance of a return at each step, in [1e-4, 1].
///
/// Returns
/// -------
/// (n,) float64
///     Sums to 1.
///
/// Raises
/// ------
/// ShapeError, NotFiniteError, ValueError
///
/// Notes
/// -----
/// O(edges) per round, log(1e-15) / log(1 - restart) rounds.
///
/// References
/// ----------
/// Tong, Faloutsos & Pan (2006), Fast random walk with restart and its applications, equation 4.
///
/// Examples
/// --------
/// >>> from sona.dreams import random_walk_with_restart
/// >>> random_walk_with_restart([[0, 1, 0], [1, 0, 1], [0, 1, 0]], 0).round(3).tolist()
/// [0.313, 0.474, 0.213]
#[pyfunction]
#[pyo3(signature = (W, start, *, restart=0.1))]
#[allow(non_snake_case, reason = "the field's name for the matrix")]
fn random_walk_with_restart<'py>(
    py: Python<'py>,
    W: &Bound<'py, PyAny>,
    start: i128,
    restart: f64,
) -> PyResult<Bound<'py, PyArray1<f64>>> {
    let start: usize = place("start", start)?;
    let (w, n, m) = matrix("W", W, None)?;
    let r = detached(py, || dreams::random_walk_with_restart(&w, n, m, start, restart))?;
    Ok(PyArray1::from_vec(py, r))
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(random_walk_with_restart, m)?)?;
    m.add_class::<PyDreamEngine>()
}
