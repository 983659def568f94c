//! Binding of `sona_core::patterns::qlearning`.

use crate::arrays::{detached, metrics_dict};
use crate::errors::IntoPy;
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use sona_core::patterns::qlearning::QLearning;
use std::path::PathBuf;

/// State of `sona.patterns.QLearningPatterns`.
#[pyclass(name = "QTable", module = "sona._core", frozen)]
struct PyQTable {
    table: Mutex<QLearning>,
}

#[pymethods]
impl PyQTable {
    #[new]
    #[pyo3(signature = (*, gamma, alpha_power))]
    fn new(gamma: f64, alpha_power: f64) -> PyResult<Self> {
        Ok(Self {
            table: Mutex::new(QLearning::new(gamma, alpha_power).py()?),
        })
    }

    #[getter]
    fn gamma(&self) -> f64 {
        self.table.lock().gamma()
    }

    #[getter]
    fn alpha_power(&self) -> f64 {
        self.table.lock().alpha_power()
    }

    /// Learns from one transition; returns the pair's new value.
    fn update(
        &self,
        state: &str,
        action: &str,
        reward: f64,
        next_state: Option<&str>,
        now: f64,
    ) -> PyResult<f64> {
        self.table
            .lock()
            .update(state, action, reward, next_state, now)
            .py()
    }

    /// Value of a pair.
    fn q_value(&self, state: &str, action: &str) -> f64 {
        self.table.lock().q_value(state, action)
    }

    /// Updates of a pair.
    fn count(&self, state: &str, action: &str) -> u64 {
        self.table.lock().count(state, action)
    }

    /// The action of highest value.
    fn best_action(&self, state: &str, actions: Option<Vec<String>>) -> Option<String> {
        self.table.lock().best_action(state, actions.as_deref())
    }

    fn __len__(&self) -> usize {
        self.table.lock().len()
    }

    /// Writes `intelligence.json`.
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        let copy = self.table.lock().clone();
        detached(py, || copy.save(&path))
    }

    /// Replaces the pairs by those of an `intelligence.json`; nothing changes if it is refused.
    fn read(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        let (gamma, power) = (self.gamma(), self.alpha_power());
        let table = detached(py, || QLearning::load(&path, gamma, power))?;
        *self.table.lock() = table;
        Ok(())
    }

    /// Counts.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let m = self.table.lock().metrics();
        metrics_dict(py, &m)
    }

    /// The whole state.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let copy = self.table.lock().clone();
        let bytes = detached(py, || copy.to_bytes())?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// The table that `to_bytes` wrote.
    #[staticmethod]
    fn from_bytes(py: Python<'_>, data: &[u8]) -> PyResult<Self> {
        let data = data.to_vec();
        Ok(Self {
            table: Mutex::new(detached(py, || QLearning::from_bytes(&data))?),
        })
    }
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyQTable>()
}
