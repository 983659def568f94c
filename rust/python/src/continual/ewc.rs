//! `EwcPlusPlus`.

use super::DETACH_ABOVE;
use super::config::Settings;
use crate::arrays::{detached, matrix, metrics_dict, vector};
use crate::errors::{IntoPy, to_py};
use crate::state::{State, state_methods};
use crate::view::{Slot, View, map_into, vector_view, view};
use numpy::PyArray1;
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use sona_core::Error;
use sona_core::Result;
use sona_core::continual::{self as core, Constraint, Ewc};

/// EWC++: holds parameters where earlier tasks need them, each as far as that task's Fisher information says.
///
/// Every vector is ``(param_count,)`` float32. The running Fisher information is an exponential mean of squared per-sample
/// gradients with bias correction; a task is remembered as its Fisher information F and its optimum θ*. Beyond
/// ``max_tasks`` the two oldest merge exactly. A pull costs one pass over the parameters, whatever the number of tasks. Safe to
/// share between threads.
///
/// Parameters
/// ----------
/// config : EwcConfig
///
/// Raises
/// ------
/// ConfigError
///     A setting is out of range.
///
/// References
/// ----------
/// Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks", eq. 3; Schwarz et al. 2018 (online EWC);
/// Chaudhry et al. 2018 (exponential mean of F); Huszár 2018 (one pull per task); Chaudhry et al. 2019, eq. 11 (projection).
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> from sona.continual import EwcConfig, EwcPlusPlus
/// >>> ewc = EwcPlusPlus(EwcConfig(param_count=2))
/// >>> ewc.start_new_task(fisher=[2.0, 0.0], params=[1.0, 1.0])
/// >>> theta = np.array([0.0, 5.0], np.float32)
/// >>> ewc.proximal_step(theta, lr=1.0).round(3).tolist()
/// [1.0, 5.0]
#[pyclass(name = "EwcPlusPlus", module = "sona.continual", frozen)]
pub(crate) struct PyEwc {
    inner: Mutex<Ewc>,
    param_count: usize,
}

impl PyEwc {
    fn of(ewc: Ewc) -> Self {
        Self {
            param_count: ewc.config().param_count,
            inner: Mutex::new(ewc),
        }
    }

    /// Runs `f(x, out)` into a new array or the caller's; long ones without the GIL.
    fn map<'py>(
        &self,
        py: Python<'py>,
        x: View<'_>,
        out: Option<&Bound<'py, PyAny>>,
        f: impl Fn(&Ewc, &[f32], &mut [f32]) -> sona_core::Result<()> + Send + Sync,
    ) -> PyResult<Bound<'py, PyAny>> {
        if x.batched {
            return Err(to_py(Error::shape(
                "theta",
                "(param_count,)",
                format!("({}, {})", x.n, x.d),
            )));
        }
        if x.len() <= DETACH_ABOVE {
            return map_into(py, x, out, |x, y| f(&self.inner.lock(), x, y));
        }
        if out.is_some() {
            // Documented: with `out` the caller lends both arrays, so that nothing is copied.
            return map_into(py, x, out, |x, y| py.detach(|| f(&self.inner.lock(), x, y)));
        }
        let x = x.as_slice().to_vec();
        let y = detached(py, || {
            let mut y = vec![0.0; x.len()];
            f(&self.inner.lock(), &x, &mut y)?;
            Ok(y)
        })?;
        Ok(PyArray1::from_vec(py, y).into_any())
    }
}

#[pymethods]
impl PyEwc {
    #[new]
    #[allow(clippy::needless_pass_by_value, reason = "extracted from a Python object")]
    fn new(config: Settings) -> PyResult<Self> {
        Ok(Self::of(Ewc::new(config.core()?).py()?))
    }

    /// Set the tracked parameters θ, which ``penalty``, ``penalty_gradient`` and ``apply_constraints`` use.
    ///
    /// Parameters
    /// ----------
    /// theta : (param_count,) float32
    fn set_params(&self, theta: &Bound<'_, PyAny>) -> PyResult<()> {
        let mut slot = Slot::None;
        let theta = vector_view("theta", theta, &mut slot)?;
        self.inner.lock().set_params(theta).py()
    }

    /// Copy of the tracked parameters; zeros until set.
    #[getter]
    fn params<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f32>> {
        PyArray1::from_slice(py, &self.inner.lock().params())
    }

    /// Take in per-sample gradients: F = decay · F + (1 − decay) · g² for each row in order; O(n · param_count).
    ///
    /// A squared **batch** gradient is no Fisher information: give one row per sample.
    ///
    /// Parameters
    /// ----------
    /// gradients : (param_count,) or (n, param_count) float32
    ///
    /// Raises
    /// ------
    /// DimensionMismatch, NotFiniteError
    /// ValueError
    ///     A row's squared norm is beyond float32.
    fn update_fisher(&self, gradients: &Bound<'_, PyAny>) -> PyResult<()> {
        let mut slot = Slot::None;
        let g = view("gradients", gradients, &mut slot)?;
        sona_core::error::check_dim("gradients", self.param_count, g.d).py()?;
        // Never without the GIL: that would need a copy, which holds it for longer than the update does.
        self.inner.lock().update_fisher(g.as_slice()).py()
    }

    /// Running Fisher information of the current task, F / (1 − decay**samples); zeros before the first sample.
    #[getter]
    fn fisher<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        let fisher = py.detach(|| self.inner.lock().fisher());
        PyArray1::from_vec(py, fisher)
    }

    /// Remember the task that ends, and begin a new one with an empty running Fisher information.
    ///
    /// A task without samples (and without ``fisher``) is ignored and counted. Over ``max_tasks`` the two oldest merge:
    /// F = F₁ + F₂, θ* = (F₁θ₁ + F₂θ₂)/F.
    ///
    /// Parameters
    /// ----------
    /// fisher : (param_count,) float32, optional
    ///     Default: the running one.
    /// params : (param_count,) float32, optional
    ///     The task's optimum; default: the tracked parameters.
    ///
    /// Raises
    /// ------
    /// ValueError
    ///     A negative Fisher information.
    /// DimensionMismatch, NotFiniteError
    #[pyo3(signature = (*, fisher=None, params=None))]
    fn start_new_task(
        &self,
        py: Python<'_>,
        fisher: Option<&Bound<'_, PyAny>>,
        params: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let p = Some(self.param_count);
        let fisher = fisher.map(|f| vector("fisher", f, p)).transpose()?;
        let params = params.map(|t| vector("params", t, p)).transpose()?;
        detached(py, || self.inner.lock().start_new_task(fisher, params))?;
        Ok(())
    }

    /// The quadratic penalty Σ_t λ/2 Σ_i F_ti (θ_i − θ*_ti)²; O(tasks · param_count).
    ///
    /// Parameters
    /// ----------
    /// theta : (param_count,) float32, optional
    ///     Default: the tracked parameters.
    ///
    /// Returns
    /// -------
    /// float
    #[pyo3(signature = (theta=None))]
    fn penalty(&self, py: Python<'_>, theta: Option<&Bound<'_, PyAny>>) -> PyResult<f64> {
        let theta = theta
            .map(|t| vector("theta", t, Some(self.param_count)))
            .transpose()?;
        detached(py, || self.inner.lock().penalty(theta.as_deref()))
    }

    /// Its gradient, λ Σ_t F_t (θ − θ*_t); one pass over the parameters.
    ///
    /// Parameters
    /// ----------
    /// theta : (param_count,) float32, optional
    ///     Default: the tracked parameters.
    /// out : (param_count,) float32, optional
    ///     Where to write. Then nothing is copied: let no other thread write to ``theta`` or ``out`` meanwhile.
    ///
    /// Returns
    /// -------
    /// (param_count,) float32
    #[pyo3(signature = (theta=None, *, out=None))]
    fn penalty_gradient<'py>(
        &self,
        py: Python<'py>,
        theta: Option<&Bound<'py, PyAny>>,
        out: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let tracked;
        let theta = match theta {
            Some(t) => t,
            None => {
                tracked = self.params(py).into_any();
                &tracked
            }
        };
        let mut slot = Slot::None;
        let x = view("theta", theta, &mut slot)?;
        self.map(py, x, out, |e, x, y| e.penalty_gradient(Some(x), y))
    }

    /// A gradient that respects the remembered tasks, at the tracked parameters; O(param_count).
    ///
    /// Parameters
    /// ----------
    /// gradients : (param_count,) float32
    ///     Descent gradient of the current loss.
    /// mode : {"penalty", "project", "precondition"}, default "penalty"
    ///     g + penalty gradient; g without the component along which a step would raise the penalty; g / (1 + λΣF).
    /// out : (param_count,) float32, optional
    ///     As in ``penalty_gradient``.
    ///
    /// Returns
    /// -------
    /// (param_count,) float32
    #[pyo3(signature = (gradients, *, mode="penalty", out=None))]
    fn apply_constraints<'py>(
        &self,
        py: Python<'py>,
        gradients: &Bound<'py, PyAny>,
        mode: &str,
        out: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mode = Constraint::parse(mode).py()?;
        let mut slot = Slot::None;
        let x = view("gradients", gradients, &mut slot)?;
        self.map(py, x, out, |e, x, y| e.apply_constraints(x, mode, y))
    }

    /// Where θ settles between staying and the pull: (θ + lr·λ·ΣF_tθ*_t) / (1 + lr·λ·ΣF_t). Stable for every λ.
    ///
    /// Parameters
    /// ----------
    /// theta : (param_count,) float32
    ///     The parameters after the optimiser's step.
    /// lr : float
    ///     That step's rate.
    /// out : (param_count,) float32, optional
    ///     As in ``penalty_gradient``.
    ///
    /// Returns
    /// -------
    /// (param_count,) float32
    #[pyo3(signature = (theta, lr, *, out=None))]
    fn proximal_step<'py>(
        &self,
        py: Python<'py>,
        theta: &Bound<'py, PyAny>,
        lr: f64,
        out: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut slot = Slot::None;
        let x = view("theta", theta, &mut slot)?;
        self.map(py, x, out, |e, x, y| e.proximal_step(x, lr, y))
    }

    /// Merge all remembered tasks into one: F = ΣF_t, θ* = ΣF_tθ*_t / ΣF_t (the newest θ* where ΣF = 0).
    ///
    /// Gradients and proximal steps stay as they were; the penalty loses a constant.
    fn consolidate_all_tasks(&self, py: Python<'_>) {
        py.detach(|| self.inner.lock().consolidate_all_tasks());
    }

    /// Feed a gradient to the task-boundary detector (see ``BoundaryDetector``); True where a new task seems to begin.
    ///
    /// Parameters
    /// ----------
    /// gradients : (param_count,) float32
    ///
    /// Returns
    /// -------
    /// bool
    fn detect_task_boundary(&self, py: Python<'_>, gradients: &Bound<'_, PyAny>) -> PyResult<bool> {
        let mut slot = Slot::None;
        let g = vector_view("gradients", gradients, &mut slot)?;
        if g.len() <= DETACH_ABOVE {
            return self.inner.lock().detect_task_boundary(g).py();
        }
        let g = g.to_vec();
        detached(py, || self.inner.lock().detect_task_boundary(&g))
    }

    /// Double λ if the loss on replayed old tasks rose by more than 0.02 (a share), halve it below 0.005; returns λ.
    ///
    /// Parameters
    /// ----------
    /// loss_increase : float
    ///
    /// Returns
    /// -------
    /// float
    fn adjust_lambda(&self, loss_increase: f64) -> PyResult<f64> {
        self.inner.lock().adjust_lambda(loss_increase).py()
    }

    /// λ; a value that is set is clamped to [min_lambda, max_lambda], a negative one raises ValueError.
    #[getter]
    fn lambda_(&self) -> f64 {
        self.inner.lock().lambda()
    }

    #[setter]
    fn set_lambda_(&self, value: f64) -> PyResult<()> {
        self.inner.lock().set_lambda(value).py()
    }

    /// Tasks remembered.
    #[getter]
    fn task_count(&self) -> usize {
        self.inner.lock().task_count()
    }

    /// Samples in the running Fisher information, that is of the current task.
    #[getter]
    fn samples_seen(&self) -> u64 {
        self.inner.lock().samples_seen()
    }

    /// Bytes held.
    #[getter]
    fn nbytes(&self) -> usize {
        self.inner.lock().nbytes()
    }

    /// Counters and gauges: tasks, tasks_started, tasks_ignored, merges, samples, samples_total, boundaries, lambda, nbytes.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        metrics_dict(py, &self.inner.lock().metrics())
    }

    fn __repr__(&self) -> String {
        let e = self.inner.lock();
        format!(
            "EwcPlusPlus(param_count={}, tasks={}, samples={}, lambda_={})",
            self.param_count,
            e.task_count(),
            e.samples_seen(),
            e.lambda()
        )
    }
}

impl State for PyEwc {
    fn encode(&self) -> Result<Vec<u8>> {
        self.inner.lock().to_bytes()
    }

    fn decode(data: &[u8]) -> Result<Self> {
        Ok(Self::of(Ewc::from_bytes(data)?))
    }
}

state_methods!(PyEwc);

/// Diagonal of the empirical Fisher information: the mean of the squares of per-sample gradients.
///
/// Parameters
/// ----------
/// per_sample_gradients : (n, p) float32
///     One row per sample; zeros come back for n = 0.
///
/// Returns
/// -------
/// (p,) float64
///
/// References
/// ----------
/// Martens 2020, "New insights and perspectives on the natural gradient method", section 5.
///
/// Examples
/// --------
/// >>> from sona.continual import estimate_fisher
/// >>> estimate_fisher([[1.0, 0.0], [3.0, 2.0]]).tolist()
/// [5.0, 2.0]
#[pyfunction]
fn estimate_fisher<'py>(
    py: Python<'py>,
    per_sample_gradients: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyArray1<f64>>> {
    let (g, _, p) = matrix("per_sample_gradients", per_sample_gradients, None)?;
    let fisher = detached(py, || core::estimate_fisher(&g, p))?;
    Ok(PyArray1::from_vec(py, fisher))
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(estimate_fisher, m)?)?;
    m.add_class::<PyEwc>()
}
