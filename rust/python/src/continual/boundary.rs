//! `BoundaryDetector`.

use super::DETACH_ABOVE;
use crate::arrays::{detached, metrics_dict};
use crate::errors::{IntoPy, to_py};
use crate::lora::size;
use crate::state::{State, state_methods};
use crate::view::{Slot, vector_view};
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use sona_core::Error;
use sona_core::Result;
use sona_core::continual::{BoundaryConfig, BoundaryDetector};

/// Tells when the task changed, from the direction of the gradients.
///
/// The cosine distance of each gradient to the exponential mean of those before it goes into a Page–Hinkley test for a rise
/// (forgetting factor 0.9999). The detector fires once per change and then starts anew. Safe to share between threads.
///
/// Parameters
/// ----------
/// dim : int
///     Length of the gradients.
/// ema : float, default 0.95
///     Share of the mean gradient that each step keeps.
/// burn_in : int, default 60
///     Steps that only build the mean.
/// delta : float, default 0.01
///     Rise of the distance that is tolerated.
/// threshold : float, default 2.0
///     Sum of rises beyond ``delta`` that raises the alarm.
/// min_run : int, default 50
///     Steps after the burn-in before there can be an alarm.
///
/// Raises
/// ------
/// ConfigError
///     A parameter is out of range.
///
/// References
/// ----------
/// Page 1954, "Continuous inspection schemes"; the test equals river's ``PageHinkley(mode="up")``.
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> from sona.continual import BoundaryDetector
/// >>> rng = np.random.default_rng(0)
/// >>> detector = BoundaryDetector(64)
/// >>> old, new = rng.normal(size=(2, 64))
/// >>> stream = [task + rng.normal(size=64) for task in [old] * 300 + [new] * 100]
/// >>> alarms = [i for i, g in enumerate(stream) if detector.update(g)]
/// >>> len(alarms), 300 <= alarms[0] < 330
/// (1, True)
#[pyclass(name = "BoundaryDetector", module = "sona.continual", frozen)]
pub(crate) struct PyBoundaryDetector {
    inner: Mutex<BoundaryDetector>,
}

fn steps(name: &'static str, value: i64) -> PyResult<u64> {
    u64::try_from(value).map_err(|_| to_py(Error::config(name, "0 or more", value)))
}

#[pymethods]
impl PyBoundaryDetector {
    #[new]
    #[pyo3(signature = (dim, *, ema=0.95, burn_in=60, delta=0.01, threshold=2.0, min_run=50))]
    fn new(dim: i64, ema: f64, burn_in: i64, delta: f64, threshold: f64, min_run: i64) -> PyResult<Self> {
        let config = BoundaryConfig {
            dim: size("dim", dim)?,
            ema,
            burn_in: steps("burn_in", burn_in)?,
            delta,
            threshold,
            min_run: steps("min_run", min_run)?,
        };
        Ok(Self {
            inner: Mutex::new(BoundaryDetector::new(config).py()?),
        })
    }

    /// Take in the gradient of one step; O(dim).
    ///
    /// Parameters
    /// ----------
    /// gradient : (dim,) float32
    ///
    /// Returns
    /// -------
    /// bool
    ///     True where the task seems to have changed.
    ///
    /// Raises
    /// ------
    /// DimensionMismatch, NotFiniteError
    fn update(&self, py: Python<'_>, gradient: &Bound<'_, PyAny>) -> PyResult<bool> {
        let mut slot = Slot::None;
        let g = vector_view("gradient", gradient, &mut slot)?;
        if g.len() <= DETACH_ABOVE {
            return self.inner.lock().update(g).py();
        }
        let g = g.to_vec();
        detached(py, || self.inner.lock().update(&g))
    }

    /// Length of the gradients.
    #[getter]
    fn dim(&self) -> usize {
        self.inner.lock().config().dim
    }

    /// Counters: steps, alarms, the last cosine distance, bytes held.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        metrics_dict(py, &self.inner.lock().metrics())
    }

    fn __repr__(&self) -> String {
        let inner = self.inner.lock();
        let c = inner.config();
        format!(
            "BoundaryDetector({}, ema={}, burn_in={}, delta={}, threshold={}, min_run={})",
            c.dim, c.ema, c.burn_in, c.delta, c.threshold, c.min_run
        )
    }
}

impl State for PyBoundaryDetector {
    fn encode(&self) -> Result<Vec<u8>> {
        self.inner.lock().to_bytes()
    }

    fn decode(data: &[u8]) -> Result<Self> {
        Ok(Self {
            inner: Mutex::new(BoundaryDetector::from_bytes(data)?),
        })
    }
}

state_methods!(PyBoundaryDetector);

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyBoundaryDetector>()
}
