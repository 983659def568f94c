//! `QuantAwareMicroLoRA`.

use super::PyMicroLora;
use super::calls::with_signal;
use super::quantized::PyQuantizedMicroLora;
use super::report::PyApplyReport;
use crate::arrays::{Rows, detached, metrics_dict, to_matrix};
use crate::errors::{IntoPy, to_py};
use crate::state::{State, state_methods};
use numpy::PyArray2;
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use sona_core::Error;
use sona_core::Result;
use sona_core::lora::{MicroLora, QuantAware};

/// Train an adapter through its quantised form: the codes answer, the full-precision factors learn.
///
/// Gradients are taken at what the codes stand for and applied to the full-precision factors (straight-through
/// estimator), after which the codes are made anew. Safe to share between threads; writers are serialised.
///
/// Parameters
/// ----------
/// lora : MicroLoRA
///     Where to start; its rule, rate, decay and clipping are taken over, its trust region is not.
/// bits : int, default 4
///     4 or 8.
/// scheme : {"symmetric", "nf4"}, default "symmetric"
/// block : int, default 64
///     Values per block of "nf4".
///
/// Raises
/// ------
/// ConfigError
///     A parameter is out of range.
///
/// Notes
/// -----
/// O(rank · d) for each signal and each step.
///
/// References
/// ----------
/// Bengio et al. 2013, "Estimating or propagating gradients through stochastic neurons"; Jacob et al. 2018.
///
/// Examples
/// --------
/// >>> from sona.lora import MicroLoRA, QuantAwareMicroLoRA
/// >>> from sona.trajectory import LearningSignal
/// >>> adapter = QuantAwareMicroLoRA(MicroLoRA(4, learning_rate=0.1), bits=4)
/// >>> signal = LearningSignal.with_gradient([1, 0, 0, 0], [0, 1, 0, 0], 1.0, baseline=0.0)
/// >>> adapter.accumulate_gradient(signal), adapter.apply_accumulated().applied
/// (True, True)
/// >>> adapter.quantized().bits
/// 4
#[pyclass(name = "QuantAwareMicroLoRA", module = "sona.lora", frozen)]
pub(crate) struct PyQuantAware {
    inner: Mutex<QuantAware>,
}

#[pymethods]
impl PyQuantAware {
    #[new]
    #[pyo3(signature = (lora, *, bits=4, scheme="symmetric", block=64))]
    fn new(lora: &Bound<'_, PyMicroLora>, bits: i64, scheme: &str, block: i64) -> PyResult<Self> {
        let bits = u8::try_from(bits).map_err(|_| to_py(Error::config("bits", "4 or 8", bits)))?;
        let block = super::size("block", block)?;
        let lora: MicroLora = lora.get().shared.read(Clone::clone);
        Ok(Self {
            inner: Mutex::new(QuantAware::new(&lora, bits, scheme, block).py()?),
        })
    }

    /// The vector(s) that the quantised adapter makes; O(rank · d) each.
    ///
    /// Parameters
    /// ----------
    /// x : (d,) or (n, d) float32
    ///
    /// Returns
    /// -------
    /// (d,) or (n, d) float32
    fn forward<'py>(&self, py: Python<'py>, x: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let factors = detached(py, || Ok(self.inner.lock().decoded().clone()))?;
        let x = Rows::extract("x", x, factors.dim())?;
        let y = detached(py, || {
            let mut y = vec![0.0; x.data.len()];
            factors.forward_rows(&x.data, &mut y)?;
            Ok(y)
        })?;
        Rows::emit(py, y, factors.dim(), x.batched)
    }

    /// Add the descent gradient -weight · gradient_estimate of a signal, taken at the quantised adapter.
    ///
    /// Parameters
    /// ----------
    /// signal : LearningSignal
    ///     Of this adapter's dimension.
    ///
    /// Returns
    /// -------
    /// bool
    ///     False if the signal has no effect; it is counted in ``metrics()``.
    fn accumulate_gradient(&self, signal: &Bound<'_, PyAny>) -> PyResult<bool> {
        with_signal(signal, |x, g, weight| {
            self.inner.lock().accumulate_parts(x, g, weight)
        })
    }

    /// One step of the full-precision factors with the mean of what is pending; then the codes are made anew.
    ///
    /// Parameters
    /// ----------
    /// learning_rate : float, optional
    ///     Instead of the configured one.
    ///
    /// Returns
    /// -------
    /// ApplyReport
    #[pyo3(signature = (learning_rate=None))]
    fn apply_accumulated(&self, py: Python<'_>, learning_rate: Option<f64>) -> PyResult<PyApplyReport> {
        Ok(detached(py, || self.inner.lock().apply(learning_rate))?.into())
    }

    /// The quantised adapter as it is now.
    fn quantized(&self, py: Python<'_>) -> PyResult<PyQuantizedMicroLora> {
        let inner = detached(py, || Ok(self.inner.lock().quantized().clone()))?;
        Ok(PyQuantizedMicroLora { inner })
    }

    /// The full-precision factors (A, B).
    #[allow(clippy::type_complexity, reason = "two arrays")]
    fn factors<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, PyArray2<f32>>, Bound<'py, PyArray2<f32>>)> {
        let f = detached(py, || Ok(self.inner.lock().master().clone()))?;
        Ok((
            to_matrix(py, f.a().to_vec(), f.rank(), f.dim())?,
            to_matrix(py, f.b().to_vec(), f.dim(), f.rank())?,
        ))
    }

    /// Signals that wait for ``apply_accumulated``.
    #[getter]
    fn pending(&self) -> usize {
        self.inner.lock().pending()
    }

    /// Counters and gauges.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        metrics_dict(py, &self.inner.lock().metrics())
    }

    fn __repr__(&self) -> String {
        let q = self.inner.lock();
        format!(
            "QuantAwareMicroLoRA(hidden_dim={}, rank={}, bits={}, scheme='{}', pending={})",
            q.master().dim(),
            q.master().rank(),
            q.quantized().bits(),
            q.quantized().scheme(),
            q.pending()
        )
    }
}

impl State for PyQuantAware {
    fn encode(&self) -> Result<Vec<u8>> {
        self.inner.lock().to_bytes()
    }

    fn decode(data: &[u8]) -> Result<Self> {
        Ok(Self {
            inner: Mutex::new(QuantAware::from_bytes(data)?),
        })
    }
}

state_methods!(PyQuantAware);

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyQuantAware>()
}
