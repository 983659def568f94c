//! Binding of `sona_core::dag`. `sona.dag` documents the calls.

use crate::arrays::{detached, metrics_dict, vector};
use crate::attention::graph_error;
use crate::errors::{IntoPy, to_py};
use crate::patterns::{Emitted, emit};
use numpy::{PyArray1, PyArray2, PyArrayMethods};
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use sona_core::dag::{DagConfig, DagEngine, OPERATORS, QueryDag, Run};
use sona_core::{Error, Result};

/// State of `sona.dag.QueryDag`.
#[pyclass(name = "PlanGraph", module = "sona._core", frozen)]
pub(crate) struct PyPlan {
    plan: Mutex<QueryDag>,
}

/// op, cost, rows, features.
type Node<'py> = (&'static str, f64, f64, Bound<'py, PyArray1<f32>>);

#[pymethods]
impl PyPlan {
    #[new]
    fn new() -> Self {
        Self {
            plan: Mutex::new(QueryDag::new()),
        }
    }

    /// Adds an operator by the name of its kind.
    fn add_node(
        &self,
        op: &str,
        cost: f64,
        rows: f64,
        features: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<usize> {
        let features = features.map_or(Ok(Vec::new()), |f| vector("features", f, None))?;
        let kind = OPERATORS
            .iter()
            .position(|o| *o == op)
            .ok_or_else(|| to_py(Error::value("op", "a kind of operator", format!("{op:?}"))))?;
        self.plan.lock().add_node(kind, cost, rows, features).py()
    }

    /// Adds an edge; a cycle raises.
    fn add_edge(&self, py: Python<'_>, parent: i64, child: i64) -> PyResult<()> {
        // The lock is gone before Python runs.
        let (added, n) = {
            let mut plan = self.plan.lock();
            (plan.add_edge(parent, child), plan.len())
        };
        added.or_else(|e| Err(graph_error(py, &e, n)?))
    }

    /// Every node after its parents.
    fn topological_order(&self, py: Python<'_>) -> PyResult<Vec<usize>> {
        let plan = self.plan.lock().clone();
        detached(py, || plan.topological_order())
    }

    /// The path of largest cost, and its cost.
    fn critical_path(&self, py: Python<'_>) -> PyResult<(Vec<usize>, f64)> {
        let plan = self.plan.lock().clone();
        detached(py, || plan.critical_path())
    }

    /// Depth of every node.
    fn depths(&self, py: Python<'_>) -> PyResult<Vec<u32>> {
        let plan = self.plan.lock().clone();
        detached(py, || plan.depths())
    }

    /// Edges in the order in which they were added.
    fn edges(&self) -> Vec<(u32, u32)> {
        self.plan.lock().edges().iter().map(|e| (e[0], e[1])).collect()
    }

    /// One operator.
    fn node<'py>(&self, py: Python<'py>, node: usize) -> Option<Node<'py>> {
        let n = self.plan.lock().nodes().get(node).cloned()?;
        let features = PyArray1::from_vec(py, n.features);
        Some((OPERATORS[usize::from(n.op)], n.cost, n.rows, features))
    }

    fn __len__(&self) -> usize {
        self.plan.lock().len()
    }

    /// The whole plan, checked and versioned.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(PyBytes::new(py, &self.plan.lock().to_bytes().py()?))
    }

    /// Reads back what `to_bytes` wrote.
    #[staticmethod]
    fn from_bytes(data: &[u8]) -> PyResult<Self> {
        Ok(Self {
            plan: Mutex::new(QueryDag::from_bytes(data).py()?),
        })
    }
}

/// vector, patterns with their similarity, mechanism, confidence.
type Enhanced<'py> = (
    Bound<'py, PyArray1<f32>>,
    Vec<(Emitted<'py>, f32)>,
    &'static str,
    f64,
);
/// index, propensity, predicted and default milliseconds, interval, timeout, admitted.
type Chosen = (usize, f64, f64, f64, (f64, f64), Option<f64>, Vec<usize>);

/// State of `sona.dag.DagEngine`.
#[pyclass(name = "PlanLearner", module = "sona._core", frozen)]
pub(crate) struct PyPlanLearner {
    engine: Mutex<DagEngine>,
}

impl PyPlanLearner {
    /// Runs `f` on the engine and a copy of the plan, without the GIL.
    fn with<T: Send>(
        &self,
        plan: &Bound<'_, PyPlan>,
        f: impl FnOnce(&mut DagEngine, &QueryDag) -> Result<T> + Send,
    ) -> PyResult<T> {
        let copy = plan.get().plan.lock().clone();
        detached(plan.py(), || f(&mut self.engine.lock(), &copy))
    }
}

fn whole(name: &'static str, value: i64) -> PyResult<usize> {
    usize::try_from(value).map_err(|_| to_py(Error::config(name, "at least 1", value)))
}

fn names(settings: &[String]) -> Vec<&str> {
    settings.iter().map(String::as_str).collect()
}

#[pymethods]
impl PyPlanLearner {
    #[new]
    #[pyo3(signature = (*, dim, rank, capacity, ewc_lambda, regret_budget, seed))]
    fn new(
        dim: i64,
        rank: i64,
        capacity: i64,
        ewc_lambda: f64,
        regret_budget: f64,
        seed: i128,
    ) -> PyResult<Self> {
        let config = DagConfig {
            dim: whole("dim", dim)?,
            rank: whole("rank", rank)?,
            capacity: whole("capacity", capacity)?,
            ewc_lambda,
            regret_budget,
            seed: u64::try_from(seed).map_err(|_| to_py(Error::config("seed", "0 to 2**64 - 1", seed)))?,
        };
        Ok(Self {
            engine: Mutex::new(DagEngine::new(config).py()?),
        })
    }

    /// What it was built from.
    fn config<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let c = detached(py, || Ok(self.engine.lock().config().clone()))?;
        let out = PyDict::new(py);
        out.set_item("dim", c.dim)?;
        out.set_item("rank", c.rank)?;
        out.set_item("capacity", c.capacity)?;
        out.set_item("ewc_lambda", c.ewc_lambda)?;
        out.set_item("regret_budget", c.regret_budget)?;
        out.set_item("seed", c.seed)?;
        Ok(out)
    }

    /// Vector, patterns, mechanism and confidence.
    fn pre_query<'py>(&self, plan: &Bound<'py, PyPlan>, now: i64) -> PyResult<Enhanced<'py>> {
        let py = plan.py();
        let got = self.with(plan, |e, p| e.pre_query(p, now))?;
        let patterns = got.patterns.into_iter().map(|(p, s)| (emit(py, p), s)).collect();
        Ok((
            PyArray1::from_vec(py, got.vector),
            patterns,
            got.mechanism.name(),
            got.confidence,
        ))
    }

    /// Which setting to run with.
    fn choose(&self, plan: &Bound<'_, PyPlan>, settings: Vec<String>, default: usize) -> PyResult<Chosen> {
        let c = self.with(plan, |e, p| e.choose(p, &names(&settings), default))?;
        Ok((
            c.index,
            c.propensity,
            c.predicted_ms,
            c.default_ms,
            c.interval_ms,
            c.timeout_ms,
            c.admitted,
        ))
    }

    /// (settings, 3): median and interval of the time.
    fn predict<'py>(
        &self,
        plan: &Bound<'py, PyPlan>,
        settings: Vec<String>,
    ) -> PyResult<Bound<'py, PyArray2<f64>>> {
        let times = self.with(plan, |e, p| e.predict(p, &names(&settings)))?;
        PyArray1::from_vec(plan.py(), times.concat()).reshape([settings.len(), 3])
    }

    /// Milliseconds of every operator.
    fn predict_operators<'py>(&self, plan: &Bound<'py, PyPlan>) -> PyResult<Bound<'py, PyArray1<f64>>> {
        let times = self.with(plan, |e, p| e.predict_operators(p))?;
        Ok(PyArray1::from_vec(plan.py(), times))
    }

    /// Learns how a query went; returns the reward.
    fn post_query(
        &self,
        plan: &Bound<'_, PyPlan>,
        latency_ms: f64,
        baseline_ms: Option<f64>,
        setting: Option<String>,
        operator_ms: Option<Vec<f64>>,
        stopped: bool,
    ) -> PyResult<f64> {
        self.with(plan, |e, p| {
            let run = Run {
                latency_ms,
                baseline_ms,
                setting: setting.as_deref(),
                operator_ms: operator_ms.as_deref(),
                stopped,
            };
            e.post_query(p, run)
        })
    }

    /// trajectories, patterns, updated, status.
    fn background_learn(&self, py: Python<'_>, now: i64) -> PyResult<(u64, usize, bool, &'static str)> {
        let l = detached(py, || self.engine.lock().background_learn(now))?;
        Ok((l.trajectories, l.patterns, l.updated, l.status))
    }

    /// Counters and gauges.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        metrics_dict(py, &detached(py, || Ok(self.engine.lock().metrics()))?)
    }

    /// The whole state, checked and versioned.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = detached(py, || self.engine.lock().to_bytes())?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// Reads back what `to_bytes` wrote.
    #[staticmethod]
    fn from_bytes(py: Python<'_>, data: Vec<u8>) -> PyResult<Self> {
        Ok(Self {
            engine: Mutex::new(detached(py, || DagEngine::from_bytes(&data))?),
        })
    }
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyPlan>()?;
    m.add_class::<PyPlanLearner>()
}
