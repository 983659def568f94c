//! kNN and LinUCB, isotonic regression, the risk threshold.

use crate::arrays::{Rows, detached, metrics_dict, place, vector, whole};
use crate::errors::{IntoPy, to_py};
use numpy::{PyArray1, PyArray2, PyArrayMethods};
use parking_lot::{Mutex, RwLock};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use sona_core::Error;
use sona_core::error::check_dim;
use sona_core::routing::{KnnRouter, LinUcb, interpolate, isotonic, risk_threshold};

/// State of `sona.routing.KnnRouter`.
#[pyclass(name = "KnnTable", module = "sona._core", frozen)]
struct PyKnn {
    table: RwLock<KnnRouter>,
}

#[pymethods]
impl PyKnn {
    #[new]
    #[pyo3(signature = (models, dim, k, capacity))]
    fn new(models: usize, dim: i128, k: i128, capacity: i128) -> PyResult<Self> {
        let dim: usize = whole("dim", dim)?;
        let k: usize = whole("k", k)?;
        let capacity: usize = whole("capacity", capacity)?;
        Ok(Self {
            table: RwLock::new(KnnRouter::new(models, dim, k, capacity).py()?),
        })
    }

    /// (models, dimension, k, capacity).
    #[getter]
    fn shape(&self) -> (usize, usize, usize, usize) {
        self.table.read().shape()
    }

    /// Remembers an outcome.
    fn learn(&self, embedding: &Bound<'_, PyAny>, model: usize, quality: f64) -> PyResult<()> {
        let x = vector("embedding", embedding, None)?;
        self.table.write().learn(&x, model, quality).py()
    }

    /// Mean quality of each model's nearest cases; NaN without any.
    fn predict(&self, py: Python<'_>, embedding: &Bound<'_, PyAny>) -> PyResult<Vec<f64>> {
        let x = vector("embedding", embedding, None)?;
        detached(py, || self.table.read().predict(&x))
    }

    /// Counts.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let m = self.table.read().metrics();
        metrics_dict(py, &m)
    }

    /// The whole state.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = detached(py, || self.table.read().to_bytes())?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// The table that `to_bytes` wrote.
    #[staticmethod]
    fn from_bytes(data: &[u8]) -> PyResult<Self> {
        Ok(Self {
            table: RwLock::new(KnnRouter::from_bytes(data).py()?),
        })
    }
}

/// State of `sona.routing.LinUCB`.
#[pyclass(name = "LinearBandit", module = "sona._core", frozen)]
struct PyBandit {
    bandit: Mutex<LinUcb>,
}

#[pymethods]
impl PyBandit {
    #[new]
    #[pyo3(signature = (n_arms, dim, alpha, l2, seed))]
    fn new(n_arms: i128, dim: i128, alpha: f64, l2: f64, seed: i128) -> PyResult<Self> {
        let n_arms: usize = whole("n_arms", n_arms)?;
        let dim: usize = whole("dim", dim)?;
        let seed: u64 = whole("seed", seed)?;
        Ok(Self {
            bandit: Mutex::new(LinUcb::new(n_arms, dim, alpha, l2, seed).py()?),
        })
    }

    /// (arms, dimension, alpha, l2).
    #[getter]
    fn shape(&self) -> (usize, usize, f64, f64) {
        let b = self.bandit.lock();
        let ((n, d), (alpha, l2)) = (b.shape(), b.settings());
        (n, d, alpha, l2)
    }

    /// One outcome.
    fn update(&self, arm: i128, x: &Bound<'_, PyAny>, reward: f64) -> PyResult<()> {
        let arm: usize = place("arm", arm)?;
        let x = vector("x", x, Some(self.bandit.lock().shape().1))?;
        self.bandit.lock().update(arm, &x, reward).py()
    }

    /// Upper confidence bound of each arm, for one vector or each row.
    fn scores<'py>(&self, py: Python<'py>, x: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let (arms, dim) = self.bandit.lock().shape();
        let rows = Rows::extract("x", x, dim)?;
        let bandit = self.bandit.lock();
        let scores = (rows.data.chunks_exact(dim).map(|x| bandit.scores(x)))
            .collect::<sona_core::Result<Vec<_>>>()
            .py()?;
        let flat = PyArray1::from_vec(py, scores.concat());
        Ok(if rows.batched {
            flat.reshape([rows.n, arms])?.into_any()
        } else {
            flat.into_any()
        })
    }

    /// A Thompson choice: (arm, probability of each arm).
    fn thompson<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
    ) -> PyResult<(usize, Bound<'py, PyArray1<f64>>)> {
        let x = vector("x", x, Some(self.bandit.lock().shape().1))?;
        let mut bandit = self.bandit.lock();
        let p = bandit.thompson(&x).py()?;
        let arm = bandit.draw(&p);
        Ok((arm, PyArray1::from_vec(py, p)))
    }

    /// Counts.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let m = self.bandit.lock().metrics();
        metrics_dict(py, &m)
    }

    /// The whole state.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = self.bandit.lock().to_bytes().py()?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// The state that `to_bytes` wrote.
    #[staticmethod]
    fn from_bytes(data: &[u8]) -> PyResult<Self> {
        Ok(Self {
            bandit: Mutex::new(LinUcb::from_bytes(data).py()?),
        })
    }
}

fn rows(a: &[f64], b: &[f64], c: &[f64]) -> PyResult<Vec<(f64, f64, f64)>> {
    check_dim("outcomes", a.len(), b.len()).py()?;
    check_dim("weights", a.len(), c.len()).py()?;
    for v in a.iter().chain(b).chain(c) {
        if !v.is_finite() {
            return Err(to_py(Error::NotFinite {
                name: "scores",
                index: 0,
                value: *v as f32,
            }));
        }
    }
    Ok(a.iter().zip(b).zip(c).map(|((a, b), c)| (*a, *b, *c)).collect())
}

/// Knots (n, 2) of the non-decreasing least-squares fit.
#[pyfunction]
fn isotonic_knots<'py>(
    py: Python<'py>,
    scores: Vec<f64>,
    outcomes: Vec<f64>,
    weights: Vec<f64>,
) -> PyResult<Bound<'py, PyArray2<f64>>> {
    let knots = isotonic(&rows(&scores, &outcomes, &weights)?);
    let flat: Vec<f64> = knots.iter().flat_map(|(x, y)| [*x, *y]).collect();
    PyArray1::from_vec(py, flat).reshape([knots.len(), 2])
}

/// Values of the knots' line at `x`.
#[pyfunction]
fn isotonic_values<'py>(py: Python<'py>, knots: Vec<(f64, f64)>, x: Vec<f64>) -> Bound<'py, PyArray1<f64>> {
    PyArray1::from_vec(py, x.iter().map(|x| interpolate(&knots, *x)).collect())
}

/// Largest gap at which the joint risk stays at or under alpha.
#[pyfunction]
fn joint_risk_threshold(gaps: Vec<f64>, losses: Vec<f64>, weights: Vec<f64>, alpha: f64) -> PyResult<f64> {
    Ok(risk_threshold(&rows(&gaps, &losses, &weights)?, alpha))
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyKnn>()?;
    m.add_class::<PyBandit>()?;
    m.add_function(wrap_pyfunction!(isotonic_knots, m)?)?;
    m.add_function(wrap_pyfunction!(isotonic_values, m)?)?;
    m.add_function(wrap_pyfunction!(joint_risk_threshold, m)?)
}
