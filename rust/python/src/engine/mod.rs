//! Binding of `sona_core::engine`: the compiled base of `sona.SonaEngine`.

mod args;
mod calls;
mod decision;
mod fork;
mod ids;
mod settings;
mod views;

use crate::arrays::{Rows, detached, metrics_dict, vector};
use crate::errors::{IntoPy, to_py};
use args::seconds;
use decision::PyDecision;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict};
use sona_core::engine::encoder::Encoder;
use sona_core::engine::{Engine, Feedback, Mode, Outcome, TraceEvent};
use sona_core::{Error, store};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Compiled base of `sona.SonaEngine`.
#[pyclass(frozen, subclass, name = "Engine", module = "sona._core")]
struct PyEngine {
    engine: Arc<Engine>,
    embedder: Option<Py<PyAny>>,
}

#[pymethods]
impl PyEngine {
    /// From settings, from the bytes of a saved engine, or, without settings, from the file `store` that holds one.
    #[new]
    #[pyo3(signature = (settings, store=None, embedder=None))]
    fn new(
        py: Python<'_>,
        settings: &Bound<'_, PyAny>,
        store: Option<PathBuf>,
        embedder: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        if let Ok(saved) = settings.cast::<PyBytes>() {
            let saved = PyBackedBytes::from(saved.clone());
            let engine = detached(py, move || Engine::from_bytes(&saved))?;
            return Ok(Self {
                engine: Arc::new(engine),
                embedder,
            });
        }
        if let (true, Some(file)) = (settings.is_none(), &store) {
            let engine = detached(py, move || Engine::load(file))?;
            return Ok(Self {
                engine: Arc::new(engine),
                embedder,
            });
        }
        let (config, fsync) = settings::parse(settings.cast::<PyDict>()?)?;
        let engine = detached(py, move || match store {
            Some(root) => Engine::open(config, &root, fsync),
            None => Engine::in_memory(config),
        })?;
        Ok(Self {
            engine: Arc::new(engine),
            embedder,
        })
    }

    #[pyo3(signature = (x, *, scope="default", out=None))]
    fn adapt<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        scope: &str,
        out: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.adapted(py, x, scope, out)
    }

    #[pyo3(signature = (query, ids, vectors=None, *, scores=None, scope="default", k=10, user="", now=None))]
    #[allow(clippy::too_many_arguments)]
    fn rank(
        &self,
        py: Python<'_>,
        query: &Bound<'_, PyAny>,
        ids: &Bound<'_, PyAny>,
        vectors: Option<&Bound<'_, PyAny>>,
        scores: Option<&Bound<'_, PyAny>>,
        scope: &str,
        k: usize,
        user: &str,
        now: Option<f64>,
    ) -> PyResult<PyDecision> {
        self.ranked(py, query, ids, vectors, scores, scope, k, user, seconds(now))
    }

    #[pyo3(signature = (decision_id, *, chosen=None, rewards=None, quality=None, vectors=None, source="", user="", now=None))]
    #[allow(clippy::too_many_arguments)]
    fn feedback(
        &self,
        py: Python<'_>,
        decision_id: &Bound<'_, PyAny>,
        chosen: Option<&Bound<'_, PyAny>>,
        rewards: Option<&Bound<'_, PyDict>>,
        quality: Option<f32>,
        vectors: Option<&Bound<'_, PyAny>>,
        source: &str,
        user: &str,
        now: Option<f64>,
    ) -> PyResult<bool> {
        let decision = args::decision_id(decision_id)?;
        let (ids, values) = args::judged(chosen, rewards)?;
        let pairs = args::distinct(&ids, &values)?;
        let dim = self.engine.config().dim;
        let vectors = vectors.map(|v| Rows::extract("vectors", v, dim)).transpose()?;
        let f = Feedback {
            decision,
            rewards: &pairs,
            vectors: vectors.as_ref().map(|v| v.data.as_slice()),
            quality,
            source,
            user,
            now: seconds(now),
        };
        let engine = &self.engine;
        let outcome = detached(py, || engine.feedback(&f))?;
        Ok(matches!(outcome, Outcome::Learned | Outcome::Recorded))
    }

    #[pyo3(signature = (x, steps, quality, *, scope, source, user, now))]
    #[allow(clippy::too_many_arguments)]
    fn _trace(
        &self,
        py: Python<'_>,
        x: &Bound<'_, PyAny>,
        steps: Vec<args::Step<'_>>,
        quality: f32,
        scope: &str,
        source: &str,
        user: &str,
        now: Option<f64>,
    ) -> PyResult<bool> {
        let dim = self.engine.config().dim;
        let steps = args::steps(&steps, dim)?;
        let event = TraceEvent {
            scope: scope.into(),
            query: self.query("x", x)?,
            steps,
            quality,
            source: source.into(),
            user: user.into(),
            learn: false,
            now: seconds(now),
        };
        let engine = &self.engine;
        let outcome = detached(py, || engine.trace(event))?;
        Ok(matches!(outcome, Outcome::Learned | Outcome::Recorded))
    }

    #[getter]
    fn mode(&self) -> &'static str {
        self.engine.mode().name()
    }

    #[setter]
    fn set_mode(&self, mode: &str) -> PyResult<()> {
        self.engine.set_mode(Mode::parse(mode).py()?);
        Ok(())
    }

    #[getter]
    fn version(&self) -> u64 {
        self.engine.version()
    }

    #[getter]
    fn scopes(&self) -> Vec<String> {
        self.engine
            .scope_names()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[getter]
    fn closed(&self) -> bool {
        self.engine.is_closed()
    }

    fn _settings<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        settings::emit(py, self.engine.config())
    }

    #[pyo3(signature = (version, *, scope=None))]
    fn rollback(&self, py: Python<'_>, version: &Bound<'_, PyAny>, scope: Option<&str>) -> PyResult<()> {
        let version = args::version(version)?;
        let engine = &self.engine;
        detached(py, || engine.rollback(scope, version))
    }

    #[pyo3(signature = (queries, ids, vectors, relevant, *, scope="default"))]
    #[allow(clippy::too_many_arguments)]
    fn set_anchors(
        &self,
        py: Python<'_>,
        queries: &Bound<'_, PyAny>,
        ids: &Bound<'_, PyAny>,
        vectors: &Bound<'_, PyAny>,
        relevant: &Bound<'_, PyAny>,
        scope: &str,
    ) -> PyResult<()> {
        let anchors = args::anchors(self.engine.config().dim, queries, ids, vectors, relevant)?;
        let engine = &self.engine;
        detached(py, || engine.set_anchors(scope, anchors))
    }

    fn _promote<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        views::promotion(py, &self.engine.promote().py()?)
    }

    #[pyo3(signature = (*, user))]
    fn _forget<'py>(&self, py: Python<'py>, user: &str) -> PyResult<Bound<'py, PyDict>> {
        let engine = &self.engine;
        views::removed(py, &detached(py, || engine.forget(user))?)
    }

    #[pyo3(signature = (*, source))]
    fn _purge<'py>(&self, py: Python<'py>, source: &str) -> PyResult<Bound<'py, PyDict>> {
        let engine = &self.engine;
        views::removed(py, &detached(py, || engine.purge(source))?)
    }

    fn _explain<'py>(
        &self,
        py: Python<'py>,
        decision_id: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let id = args::decision_id(decision_id)?;
        let engine = &self.engine;
        views::explanation(py, &detached(py, || engine.explain(id))?)
    }

    fn _report<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        views::report(py, &self.engine)
    }

    fn _background_learn<'py>(
        &self,
        py: Python<'py>,
        scope: Option<&str>,
        deadline_s: Option<f64>,
        now: Option<f64>,
    ) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let deadline = deadline_s
            .map(|s| {
                Duration::try_from_secs_f64(s)
                    .map_err(|_| to_py(Error::value("deadline_s", "seconds, 0 or more", s)))
            })
            .transpose()?;
        let engine = &self.engine;
        let now = seconds(now);
        if !now.is_finite() {
            return Err(to_py(Error::value("now", "finite seconds", now)));
        }
        let reports = detached(py, || match scope {
            None => engine.background_learn(deadline, now),
            Some(one) => Ok(engine
                .background_learn_in(one, deadline, now)?
                .into_iter()
                .collect()),
        })?;
        reports.iter().map(|r| views::cycle(py, r)).collect()
    }

    #[pyo3(signature = (x, k, *, scope))]
    fn _find_patterns<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        k: usize,
        scope: &str,
    ) -> PyResult<Vec<(Bound<'py, PyDict>, f32)>> {
        let query = self.query("x", x)?;
        let engine = &self.engine;
        let found = detached(py, || engine.find_patterns(scope, &query, k))?;
        found
            .iter()
            .map(|(p, s)| Ok((views::pattern(py, p)?, *s)))
            .collect()
    }

    fn _preferences<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyDict>>> {
        let engine = &self.engine;
        let rows = detached(py, || engine.preferences())?;
        rows.iter().map(|p| views::preference(py, p)).collect()
    }

    /// Judged items of a scope: ids, then rows of queries, item vectors, rewards and times.
    #[allow(clippy::type_complexity, reason = "columns that Python names")]
    fn _clicks<'py>(
        &self,
        py: Python<'py>,
        scope: &str,
    ) -> PyResult<(
        Vec<Py<PyAny>>,
        Bound<'py, PyAny>,
        Bound<'py, PyAny>,
        Vec<f32>,
        Vec<f64>,
    )> {
        let engine = &self.engine;
        let clicks = detached(py, || engine.clicks(scope))?;
        let dim = engine.config().dim;
        let ids: PyResult<_> = clicks.iter().map(|c| ids::to_object(py, &c.item.id)).collect();
        let queries: Vec<f32> = clicks
            .iter()
            .flat_map(|c| c.decision.query.iter().copied())
            .collect();
        let vectors: Vec<f32> = clicks
            .iter()
            .flat_map(|c| c.item.vector.iter().copied())
            .collect();
        Ok((
            ids?,
            Rows::emit(py, queries, dim, true)?,
            Rows::emit(py, vectors, dim, true)?,
            clicks.iter().map(|c| c.reward).collect(),
            clicks.iter().map(|c| c.decision.now).collect(),
        ))
    }

    fn _adapter<'py>(
        &self,
        py: Python<'py>,
        scope: &str,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>, f64)> {
        let f = self.engine.adapter(scope).py()?;
        let dim = self.engine.config().dim;
        let rows = |data, width| Rows::emit(py, data, width, true);
        Ok((rows(f.a, dim)?, rows(f.b, f.rank)?, f.alpha))
    }

    fn _set_encoder(
        &self,
        py: Python<'_>,
        name: String,
        canaries: Vec<(String, Bound<'_, PyAny>)>,
    ) -> PyResult<()> {
        let dim = self.engine.config().dim;
        let canaries = canaries
            .into_iter()
            .map(|(text, v)| Ok((text, vector("canaries", &v, Some(dim))?)))
            .collect::<PyResult<Vec<_>>>()?;
        let engine = &self.engine;
        detached(py, || engine.set_encoder(Encoder { name, canaries }))
    }

    #[getter]
    fn encoder(&self) -> Option<String> {
        self.engine.encoder().map(|e| e.name.clone())
    }

    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        metrics_dict(py, &self.engine.metrics())
    }

    #[pyo3(signature = (scope="default"))]
    fn digest(&self, scope: &str) -> PyResult<String> {
        Ok(self
            .engine
            .digest(scope)
            .py()?
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect())
    }

    fn refresh(&self, py: Python<'_>) -> PyResult<usize> {
        let engine = &self.engine;
        detached(py, || engine.refresh())
    }

    fn checkpoint(&self, py: Python<'_>) -> PyResult<()> {
        let engine = &self.engine;
        detached(py, || engine.checkpoint())
    }

    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let engine = &self.engine;
        Ok(PyBytes::new(py, &detached(py, || engine.to_bytes())?))
    }

    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        let engine = &self.engine;
        detached(py, || {
            let bytes = engine.to_bytes()?;
            store::atomic::replace(&path, |w| {
                w.write_all(&bytes).map_err(|e| Error::store("write", &path, e))
            })
        })
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let engine = &self.engine;
        detached(py, || engine.close())
    }

    fn _before_fork(&self, py: Python<'_>) {
        fork::before(py, &self.engine);
    }

    #[pyo3(signature = (*, child))]
    fn _after_fork(&self, child: bool) -> PyResult<()> {
        fork::after(&self.engine, child)
    }
}

/// Settings of the engine that wrote a state directory.
#[pyfunction]
fn directory_settings(py: Python<'_>, path: PathBuf) -> PyResult<Bound<'_, PyDict>> {
    match sona_core::engine::read_config(&path).py()? {
        Some(config) => settings::emit(py, &config),
        None => Err(to_py(Error::corrupt(
            format!("state directory {}", path.display()),
            "holds no settings",
        ))),
    }
}

/// Errors where settings are not those of an engine.
#[pyfunction]
fn check_settings(settings: &Bound<'_, PyDict>) -> PyResult<()> {
    settings::parse(settings)?.0.check().py()
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(directory_settings, m)?)?;
    m.add_function(wrap_pyfunction!(check_settings, m)?)?;
    m.add_class::<PyDecision>()?;
    m.add_class::<PyEngine>()
}
