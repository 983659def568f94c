//! Budgets.

use crate::arrays::metrics_dict;
use crate::errors::{IntoPy, to_py};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use sona_core::Error;
use sona_core::codec::{self, Kind};
use sona_core::routing::{BudgetPacer, SharedPacer, Unit};

const KIND: Kind = Kind {
    tag: *b"PACE",
    version: 1,
};

/// State of `sona.routing.BudgetPacer`.
#[pyclass(name = "Pacer", module = "sona._core", frozen)]
pub(super) struct PyPacer {
    pub(super) pacer: SharedPacer,
}

#[pymethods]
impl PyPacer {
    #[new]
    #[pyo3(signature = (limit, horizon, in_requests, scale))]
    fn new(limit: f64, horizon: f64, in_requests: bool, scale: f64) -> PyResult<Self> {
        let unit = if in_requests {
            Unit::Requests
        } else {
            Unit::Seconds
        };
        let pacer = BudgetPacer::new(limit, horizon, unit, scale).py()?;
        Ok(Self {
            pacer: SharedPacer::new(pacer),
        })
    }

    /// Notes a cost.
    fn spend(&self, cost: f64, now: f64) -> PyResult<()> {
        self.pacer.0.lock().spend(cost, now).py()
    }

    /// (limit, horizon, counted in requests, first price).
    #[getter]
    fn settings(&self) -> (f64, f64, bool, f64) {
        let (limit, horizon, unit, scale) = self.pacer.0.lock().settings();
        (limit, horizon, unit == Unit::Requests, scale)
    }

    #[getter]
    fn remaining(&self) -> f64 {
        self.pacer.0.lock().remaining()
    }

    #[getter]
    fn multiplier(&self) -> f64 {
        self.pacer.0.lock().multiplier()
    }

    /// Counts and gauges.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let m = self.pacer.0.lock().metrics();
        metrics_dict(py, &m)
    }

    /// The whole state.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = codec::encode(KIND, &*self.pacer.0.lock()).py()?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// The pacer that `to_bytes` wrote.
    #[staticmethod]
    fn from_bytes(data: &[u8]) -> PyResult<Self> {
        let pacer: BudgetPacer = codec::decode(KIND, data).py()?;
        pacer
            .check()
            .map_err(|e| to_py(Error::corrupt("BudgetPacer state", e)))?;
        Ok(Self {
            pacer: SharedPacer::new(pacer),
        })
    }
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyPacer>()
}
