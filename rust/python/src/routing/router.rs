//! The router.

use super::pacer::PyPacer;
use crate::arrays::{Rows, asarray, detached, matrix, metrics_dict, vector, whole};
use crate::errors::IntoPy;
use numpy::{PyArray1, PyArray2, PyArrayMethods, PyUntypedArrayMethods};
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use sona_core::routing::{History, Kind, Router, Settings};

/// State of `sona.routing.TinyDancerRouter`, models by number.
#[pyclass(name = "RouterCore", module = "sona._core", frozen)]
struct PyRouter {
    router: Mutex<Router>,
}

impl PyRouter {
    /// One vector, or (T, dim) turns where the rule reads turns.
    fn request(&self, x: &Bound<'_, PyAny>) -> PyResult<Vec<f32>> {
        let (kind, dim) = {
            let router = self.router.lock();
            (router.settings().kind, router.settings().dim)
        };
        if kind == Kind::FastGrnn && asarray("embedding", x)?.ndim() == 2 {
            return Ok(matrix("embedding", x, Some(dim))?.0);
        }
        vector("embedding", x, Some(dim))
    }

    fn expected<'py>(&self, py: Python<'py>, requests: Vec<&[f32]>) -> PyResult<Two<'py>> {
        let (quality, cost) = detached(py, || {
            let router = self.router.lock();
            let (mut quality, mut cost) = (Vec::new(), Vec::new());
            for x in &requests {
                let e = router.estimate(x)?;
                quality.extend(e.quality);
                cost.extend(e.cost);
            }
            Ok((quality, cost))
        })?;
        let models = self.router.lock().models();
        let shape = |v: Vec<f64>| PyArray1::from_vec(py, v).reshape([requests.len(), models]);
        Ok((shape(quality)?, shape(cost)?))
    }
}

type Two<'py> = (Bound<'py, PyArray2<f64>>, Bound<'py, PyArray2<f64>>);

#[pymethods]
impl PyRouter {
    #[new]
    #[pyo3(signature = (prices, *, dim, k, cost_weight, alpha, epsilon, exploration, predictor, floor, fallback,
        abstain_below, breaker, half_life, judge_error, capacity, seed, budget, tenant_budget))]
    #[allow(clippy::too_many_arguments, reason = "keywords of the Python constructor")]
    fn new(
        prices: Vec<f64>,
        dim: i128,
        k: i128,
        cost_weight: f64,
        alpha: f64,
        epsilon: f64,
        exploration: f64,
        predictor: &str,
        floor: Option<usize>,
        fallback: Option<usize>,
        abstain_below: f64,
        breaker: (u32, f64),
        half_life: f64,
        judge_error: f64,
        capacity: i128,
        seed: i128,
        budget: Option<&PyPacer>,
        tenant_budget: Option<&PyPacer>,
    ) -> PyResult<Self> {
        let dim: usize = whole("dim", dim)?;
        let k: usize = whole("k", k)?;
        let capacity: usize = whole("capacity", capacity)?;
        let seed: u64 = whole("seed", seed)?;
        let settings = Settings {
            dim,
            k,
            cost_weight,
            alpha,
            epsilon,
            exploration,
            kind: Kind::parse(predictor).py()?,
            floor,
            fallback,
            abstain: abstain_below,
            breaker,
            half_life,
            judge_error,
            capacity,
            seed,
        };
        let shared = budget.map(|b| b.pacer.clone());
        let fresh = tenant_budget.map(|b| b.pacer.0.lock().clone());
        Ok(Self {
            router: Mutex::new(Router::new(&prices, settings, shared, fresh).py()?),
        })
    }

    /// Settings by name.
    fn settings<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let s = self.router.lock().settings().clone();
        let out = PyDict::new(py);
        out.set_item("dim", s.dim)?;
        out.set_item("k", s.k)?;
        out.set_item("cost_weight", s.cost_weight)?;
        out.set_item("alpha", s.alpha)?;
        out.set_item("epsilon", s.epsilon)?;
        out.set_item("exploration", s.exploration)?;
        out.set_item("predictor", s.kind.name())?;
        out.set_item("capacity", s.capacity)?;
        out.set_item("seed", s.seed)?;
        Ok(out)
    }

    /// The budget, shared with this router.
    #[getter]
    fn budget(&self) -> Option<PyPacer> {
        let pacer = self.router.lock().budget().cloned();
        pacer.map(|pacer| PyPacer { pacer })
    }

    /// Price per call of a model.
    fn price(&self, model: usize) -> f64 {
        self.router.lock().price(model)
    }

    /// Chooses a model.
    #[allow(clippy::too_many_arguments, reason = "keywords of the Python method")]
    fn route<'py>(
        &self,
        py: Python<'py>,
        embedding: &Bound<'py, PyAny>,
        candidates: Option<Vec<usize>>,
        cost_weight: Option<f64>,
        tenant: Option<String>,
        now: f64,
    ) -> PyResult<Bound<'py, PyDict>> {
        let x = self.request(embedding)?;
        let c = detached(py, || {
            self.router
                .lock()
                .route(&x, candidates.as_deref(), cost_weight, tenant.as_deref(), now)
        })?;
        let out = PyDict::new(py);
        out.set_item("id", c.id)?;
        out.set_item("model", c.model)?;
        out.set_item("quality", c.quality)?;
        out.set_item("lower", c.lower)?;
        out.set_item("propensity", c.propensity)?;
        out.set_item("propensities", c.propensities)?;
        out.set_item("cost", c.cost)?;
        out.set_item("confidence", c.confidence)?;
        out.set_item("explored", c.explored)?;
        out.set_item("reason", c.reason.as_str())?;
        Ok(out)
    }

    /// Takes note of a decision of a log.
    #[allow(clippy::too_many_arguments, reason = "fields of the record")]
    fn follow(
        &self,
        py: Python<'_>,
        id: u64,
        embedding: &Bound<'_, PyAny>,
        candidates: Vec<usize>,
        model: usize,
        propensity: f64,
        tenant: Option<String>,
        now: f64,
    ) -> PyResult<()> {
        let x = self.request(embedding)?;
        detached(py, || {
            let tenant = tenant.as_deref();
            self.router
                .lock()
                .follow(&x, &candidates, tenant, now, (id, model, propensity))
        })
    }

    /// Number of the next decision.
    #[getter]
    fn next_id(&self) -> u64 {
        self.router.lock().next_id()
    }

    /// From now on numbers of decisions are `id` and above.
    fn skip_to(&self, id: u64) {
        self.router.lock().skip_to(id);
    }

    /// Takes over what `other` spent, and the number of its next decision.
    fn succeed(&self, other: &Self) {
        if !std::ptr::eq(self, other) {
            let other = other.router.lock().clone();
            self.router.lock().succeed(&other);
        }
    }

    /// The outcome of a decision; true if it was learned.
    #[allow(clippy::too_many_arguments, reason = "keywords of the Python method")]
    fn feedback(
        &self,
        py: Python<'_>,
        id: u64,
        quality: f64,
        cost: Option<f64>,
        latency_ms: Option<f64>,
        error: bool,
        now: f64,
    ) -> PyResult<bool> {
        detached(py, || {
            self.router
                .lock()
                .feedback(id, quality, cost, latency_ms, error, now)
        })
    }

    /// An outcome without a decision.
    fn learn(
        &self,
        py: Python<'_>,
        embedding: &Bound<'_, PyAny>,
        model: usize,
        quality: f64,
        cost: Option<f64>,
    ) -> PyResult<()> {
        let x = self.request(embedding)?;
        detached(py, || self.router.lock().learn(&x, model, quality, cost))
    }

    /// Expected quality and cost of every model: two (n, models) arrays.
    fn estimate<'py>(&self, py: Python<'py>, embeddings: &Bound<'py, PyAny>) -> PyResult<Two<'py>> {
        let dim = self.router.lock().settings().dim;
        let rows = Rows::extract("embeddings", embeddings, dim)?;
        self.expected(py, rows.data.chunks_exact(dim).collect())
    }

    /// Expected quality and cost of every model after each conversation: two (n, models) arrays.
    fn estimate_turns<'py>(
        &self,
        py: Python<'py>,
        conversations: Vec<Bound<'py, PyAny>>,
    ) -> PyResult<Two<'py>> {
        let turns = (conversations.iter().map(|c| self.request(c))).collect::<PyResult<Vec<_>>>()?;
        self.expected(py, turns.iter().map(|t| &t[..]).collect())
    }

    /// Trains the rule that reads turns on conversations with every model's quality, and (mean quality, mean cost) per model.
    fn fit_turns(
        &self,
        py: Python<'_>,
        conversations: Vec<Bound<'_, PyAny>>,
        quality: &Bound<'_, PyAny>,
        means: Vec<(f64, f64)>,
    ) -> PyResult<()> {
        let turns = (conversations.iter().map(|c| self.request(c))).collect::<PyResult<Vec<_>>>()?;
        let models = self.router.lock().models();
        let (quality, _, _) = matrix("quality", quality, Some(models))?;
        detached(py, || self.router.lock().fit_turns(&turns, &quality, &means))
    }

    /// Components from embeddings without outcomes.
    fn fit_features(&self, py: Python<'_>, embeddings: &Bound<'_, PyAny>) -> PyResult<()> {
        let dim = self.router.lock().settings().dim;
        let (x, _, _) = matrix("embeddings", embeddings, Some(dim))?;
        detached(py, || self.router.lock().fit_features(&x))
    }

    /// A fitted history, with (mean quality, mean cost, rows) per model.
    fn set_history(
        &self,
        py: Python<'_>,
        parts: &Bound<'_, PyDict>,
        cost_neighbours: usize,
        means: Vec<(f64, f64, f64)>,
    ) -> PyResult<()> {
        let part = |name: &'static str| -> PyResult<Vec<f32>> {
            match parts.get_item(name)? {
                Some(v) => {
                    let flat = v.call_method0("ravel")?;
                    vector(name, &flat, None)
                }
                None => Ok(Vec::new()),
            }
        };
        let history = History {
            rows: part("rows")?,
            residuals: part("residuals")?,
            costs: part("costs")?,
            ridge: part("ridge")?,
            intercept: part("intercept")?,
            landmarks: part("landmarks")?,
            process: part("process")?,
            mean: part("mean")?,
            cost_neighbours,
        };
        detached(py, || self.router.lock().set_history(history, &means))
    }

    /// Calibrates a model's guard: rows (gap, loss, predicted minus observed).
    fn calibrate(&self, model: usize, rows: Vec<(f64, f64, f64)>) -> PyResult<()> {
        self.router.lock().calibrate(model, &rows).py()
    }

    /// One more model.
    fn add_model(&self, price: f64) -> PyResult<()> {
        self.router.lock().add_model(price).py()
    }

    /// Forgets a model's outcomes.
    fn reset_model(&self, model: usize) -> PyResult<()> {
        self.router.lock().reset_model(model).py()
    }

    /// Per model: (price, mean cost, mean quality, outcomes, mean latency, circuit open).
    fn summary(&self, now: f64) -> Vec<(f64, f64, f64, u64, f64, bool)> {
        self.router.lock().summary(now)
    }

    /// Counts and gauges.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let m = self.router.lock().metrics();
        metrics_dict(py, &m)
    }

    /// The whole state.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = detached(py, || self.router.lock().to_bytes())?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// The router that `to_bytes` wrote.
    #[staticmethod]
    fn from_bytes(py: Python<'_>, data: &[u8]) -> PyResult<Self> {
        let data = data.to_vec();
        Ok(Self {
            router: Mutex::new(detached(py, || Router::from_bytes(&data))?),
        })
    }
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyRouter>()
}
