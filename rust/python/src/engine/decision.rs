//! `sona.Decision`.

use numpy::PyArray1;
use pyo3::prelude::*;
use pyo3::types::PyList;

/// A ranking that was returned.
#[pyclass(frozen, name = "Decision", module = "sona._core")]
pub(super) struct PyDecision {
    pub id: Option<String>,
    pub ids: Py<PyList>,
    pub scores: Vec<f32>,
    pub base_scores: Vec<f32>,
    pub propensities: Vec<f32>,
    pub version: u64,
    pub acted: bool,
    pub scope: String,
}

#[pymethods]
impl PyDecision {
    #[getter]
    fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    #[getter]
    fn ids(&self, py: Python<'_>) -> Py<PyList> {
        self.ids.clone_ref(py)
    }

    #[getter]
    fn scores<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f32>> {
        PyArray1::from_slice(py, &self.scores)
    }

    #[getter]
    fn base_scores<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f32>> {
        PyArray1::from_slice(py, &self.base_scores)
    }

    #[getter]
    fn propensities<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f32>> {
        PyArray1::from_slice(py, &self.propensities)
    }

    #[getter]
    fn version(&self) -> u64 {
        self.version
    }

    #[getter]
    fn acted(&self) -> bool {
        self.acted
    }

    #[getter]
    fn scope(&self) -> &str {
        &self.scope
    }

    fn __len__(&self) -> usize {
        self.scores.len()
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let ids = self.ids.bind(py).repr()?;
        let id = self
            .id
            .as_ref()
            .map_or_else(|| "None".to_owned(), |i| format!("'{i}'"));
        Ok(format!(
            "Decision(id={id}, ids={ids}, version={}, scope={:?})",
            self.version, self.scope
        ))
    }
}
