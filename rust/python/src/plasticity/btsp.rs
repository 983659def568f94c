//! Binding of one-shot learning.

use crate::arrays::{detached, metrics_dict, to_matrix, vector, whole};
use crate::errors::IntoPy;
use crate::state::{State, state_methods};
use numpy::{PyArray1, PyArray2};
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use sona_core::Result;
use sona_core::plasticity::{self, BtspLayer, WeightChange};

/// A linear layer that learns an association from one example.
///
/// The step is the smallest that makes the pattern give its target exactly; patterns at right angles to it keep their
/// outputs. Weights start at 0 and are not clamped. Safe to share between threads.
///
/// Parameters
/// ----------
/// n_in : int
/// n_out : int, default 1
/// window_ms : float, default 2000.0
///     Longest time between a pattern and its target; beyond it nothing is learned.
/// seed : int, default 0
///     Part of the interface of every learner; nothing here is drawn at random.
///
/// Raises
/// ------
/// ConfigError
///
/// Notes
/// -----
/// O(n_in · n_out) for each call; 4 bytes per weight. Where patterns overlap, the last one stored is exact and the
/// earlier ones drift: this is the normalised LMS rule with step 1 (Kaczmarz 1937).
///
/// References
/// ----------
/// Bittner et al. (2017), Behavioral time scale synaptic plasticity underlies CA1 place fields.
///
/// Examples
/// --------
/// >>> from sona.plasticity import BTSPLayer
/// >>> layer = BTSPLayer(3)
/// >>> layer.one_shot_associate([1.0, 0.0, 1.0], 5.0)
/// >>> layer.forward([1.0, 0.0, 1.0]).tolist()
/// [5.0]
#[pyclass(name = "BTSPLayer", module = "sona.plasticity", frozen)]
struct PyBtspLayer {
    inner: Mutex<BtspLayer>,
}

#[pymethods]
impl PyBtspLayer {
    #[new]
    #[pyo3(signature = (n_in, n_out=1, *, window_ms=2000.0, seed=0))]
    fn new(n_in: i128, n_out: i128, window_ms: f64, seed: i128) -> PyResult<Self> {
        let n_in: usize = whole("n_in", n_in)?;
        let n_out: usize = whole("n_out", n_out)?;
        let seed: u64 = whole("seed", seed)?;
        Ok(Self {
            inner: Mutex::new(BtspLayer::new(n_in, n_out, window_ms, seed).py()?),
        })
    }

    /// Inputs.
    #[getter]
    fn n_in(&self) -> usize {
        self.inner.lock().n_in()
    }

    /// Outputs.
    #[getter]
    fn n_out(&self) -> usize {
        self.inner.lock().n_out()
    }

    /// Longest time between a pattern and its target.
    #[getter]
    fn window_ms(&self) -> f64 {
        self.inner.lock().window_ms()
    }

    /// A copy of the weights, (n_out, n_in) float32.
    #[getter]
    fn weights<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let inner = self.inner.lock();
        let (w, rows, cols) = (inner.weights().to_vec(), inner.n_out(), inner.n_in());
        drop(inner);
        to_matrix(py, w, rows, cols)
    }

    /// Make ``forward(pattern)`` equal ``target``, by the smallest change of weights.
    ///
    /// Parameters
    /// ----------
    /// pattern : (n_in,) array
    ///     Not all 0.
    /// target : float or (n_out,) array
    ///     A number stands for all outputs.
    /// lag_ms : float, default 0.0
    ///     Time from pattern to target; beyond ``window_ms`` nothing is learned, and it is counted.
    ///
    /// Raises
    /// ------
    /// DimensionMismatch, NotFiniteError
    /// ValueError
    ///     A pattern of zeros.
    #[pyo3(signature = (pattern, target, *, lag_ms=0.0))]
    fn one_shot_associate(
        &self,
        pattern: &Bound<'_, PyAny>,
        target: &Bound<'_, PyAny>,
        lag_ms: f64,
    ) -> PyResult<()> {
        let n_out = self.inner.lock().n_out();
        let pattern = vector("pattern", pattern, None)?;
        let target = match target.extract::<f32>() {
            Ok(t) => vec![t; n_out],
            Err(_) => vector("target", target, Some(n_out))?,
        };
        self.inner
            .lock()
            .one_shot_associate(&pattern, &target, lag_ms)
            .py()?;
        Ok(())
    }

    /// W x.
    ///
    /// Parameters
    /// ----------
    /// pattern : (n_in,) array
    ///
    /// Returns
    /// -------
    /// (n_out,) float32
    ///
    /// Raises
    /// ------
    /// DimensionMismatch, NotFiniteError
    fn forward<'py>(
        &self,
        py: Python<'py>,
        pattern: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let pattern = vector("pattern", pattern, None)?;
        let y = self.inner.lock().forward(&pattern).py()?;
        Ok(PyArray1::from_vec(py, y))
    }

    /// Counters: associations stored, those outside the window, bytes of weights.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        metrics_dict(py, &self.inner.lock().metrics())
    }

    fn __repr__(&self) -> String {
        let inner = self.inner.lock();
        format!(
            "BTSPLayer({}, {}, window_ms={})",
            inner.n_in(),
            inner.n_out(),
            inner.window_ms()
        )
    }
}

impl State for PyBtspLayer {
    fn encode(&self) -> Result<Vec<u8>> {
        self.inner.lock().to_bytes()
    }

    fn decode(data: &[u8]) -> Result<Self> {
        Ok(Self {
            inner: Mutex::new(BtspLayer::from_bytes(data)?),
        })
    }
}

state_methods!(PyBtspLayer);

/// How one plateau potential changes a synapse: weak ones grow, strong ones shrink.
///
/// Parameters
/// ----------
/// w0 : float
///     Weight before, in [0, w_max].
/// lag_ms : float
///     Time of the input relative to the start of the plateau; negative: before.
/// tau_et_ms, tau_is_ms : float, default 1000.0, 500.0
///     Decay of the eligibility trace and of the instructive signal.
/// k_plus, k_minus : float, default 1.7, 0.2
///     Rates of strengthening and weakening.
/// w_max : float, default 3.0
/// a_plus, b_plus, a_minus, b_minus : float, default 0.5, 4.0, 0.05, 44.0
///     Midpoints and slopes of the two sigmoids.
///
/// Returns
/// -------
/// float
///     Change of the weight.
///
/// Raises
/// ------
/// NotFiniteError
/// ValueError
///     A time of 0 or less, or a weight outside [0, w_max].
///
/// Notes
/// -----
/// 8,000 Euler steps of 1 ms. The constants are illustrative: they are not fitted to recordings.
///
/// References
/// ----------
/// Milstein et al. (2021), Bidirectional synaptic plasticity rapidly modifies hippocampal representations.
///
/// Examples
/// --------
/// >>> from sona.plasticity import btsp_weight_change
/// >>> btsp_weight_change(0.2, -300.0) > 0 > btsp_weight_change(2.8, -1500.0)
/// True
#[pyfunction]
#[pyo3(signature = (w0, lag_ms, *, tau_et_ms=1000.0, tau_is_ms=500.0, k_plus=1.7, k_minus=0.2, w_max=3.0,
                    a_plus=0.5, b_plus=4.0, a_minus=0.05, b_minus=44.0))]
#[allow(clippy::too_many_arguments, reason = "the rule's constants, by name")]
fn btsp_weight_change(
    py: Python<'_>,
    w0: f64,
    lag_ms: f64,
    tau_et_ms: f64,
    tau_is_ms: f64,
    k_plus: f64,
    k_minus: f64,
    w_max: f64,
    a_plus: f64,
    b_plus: f64,
    a_minus: f64,
    b_minus: f64,
) -> PyResult<f64> {
    let rule = WeightChange {
        tau_et_ms,
        tau_is_ms,
        k_plus,
        k_minus,
        w_max,
        a_plus,
        b_plus,
        a_minus,
        b_minus,
    };
    detached(py, || plasticity::btsp_weight_change(w0, lag_ms, &rule))
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyBtspLayer>()?;
    m.add_function(wrap_pyfunction!(btsp_weight_change, m)?)
}
