//! Binding of one-shot learning.

use crate::arrays::{detached, metrics_dict, to_matrix, vector, whole};
use crate::errors::{IntoPy, to_py};
use numpy::{PyArray1, PyArray2, PyArrayMethods, PyUntypedArrayMethods};
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyType};
use sona_core::Error;
use sona_core::plasticity::{self, BtspLayer, BtspMemory, WeightChange};

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

    /// The whole state, checked and versioned.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = detached(py, || self.inner.lock().to_bytes())?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// Read back what ``to_bytes`` wrote; damaged or foreign bytes raise ``CorruptStateError``.
    #[classmethod]
    fn from_bytes(_cls: &Bound<'_, PyType>, data: &[u8]) -> PyResult<Self> {
        Ok(Self {
            inner: Mutex::new(BtspLayer::from_bytes(data).py()?),
        })
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyBytes>,))> {
        let bytes = slf.get().to_bytes(slf.py())?;
        Ok((slf.get_type().getattr("from_bytes")?, (bytes,)))
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

/// Exactly `(n,)`, as truth values.
fn bits(name: &'static str, x: &Bound<'_, PyAny>) -> PyResult<Vec<bool>> {
    let py = x.py();
    let kwargs = PyDict::new(py);
    kwargs.set_item("dtype", "bool")?;
    let numpy = py.import("numpy")?;
    let a = numpy.call_method1("asarray", (x,))?;
    if a.getattr("dtype")?.getattr("kind")?.extract::<String>()? != "b" {
        let plain = numpy.call_method1("isin", (&a, (0, 1)))?.call_method0("all")?;
        if !plain.extract::<bool>()? {
            return Err(to_py(Error::value(name, "values of 0 and 1", "others")));
        }
    }
    let a = numpy.call_method("ascontiguousarray", (a,), Some(&kwargs))?;
    let a = a
        .cast_into::<PyArray1<bool>>()
        .map_err(|_| to_py(Error::shape(name, "(n,)", "another number of axes")))?;
    if a.ndim() != 1 {
        return Err(to_py(Error::shape(name, "(n,)", format!("{:?}", a.shape()))));
    }
    Ok(a.to_vec()?)
}

/// A content-addressable memory of binary patterns that stores each at once.
///
/// On a store each cell has a plateau with probability ``plateau_prob``; there, each synapse of an active input flips
/// with probability one half. A cue with many of its bits missing still drives the cells of its item most. Safe to share
/// between threads.
///
/// Parameters
/// ----------
/// n_in : int
///     Bits of a pattern.
/// n_cells : int
/// plateau_prob : float, default 0.01
///     In (0, 1]; an item always gets at least one cell.
/// threshold : float, optional
///     Active strong synapses from which a cell answers in :meth:`recall`; default: half-way between the mean over cells
///     and half of the cue's active bits.
/// seed : int, default 0
///
/// Raises
/// ------
/// ConfigError
///
/// Notes
/// -----
/// n_in · n_cells bits, and 4 bytes for each cell of each item. A recall costs O(active bits · n_cells).
///
/// References
/// ----------
/// Wu & Maass (2025), A simple model for BTSP provides content addressable memory with binary synapses and one-shot
/// learning.
///
/// Examples
/// --------
/// >>> from sona.plasticity import BTSPMemory
/// >>> memory = BTSPMemory(8, 500, seed=1)
/// >>> memory.store([1, 1, 1, 1, 0, 0, 0, 0]), memory.store([0, 0, 0, 0, 1, 1, 1, 1])
/// (0, 1)
/// >>> memory.match([0, 0, 0, 0, 0, 1, 1, 0])
/// 1
#[pyclass(name = "BTSPMemory", module = "sona.plasticity", frozen)]
struct PyBtspMemory {
    inner: Mutex<BtspMemory>,
}

#[pymethods]
impl PyBtspMemory {
    #[new]
    #[pyo3(signature = (n_in, n_cells, *, plateau_prob=0.01, threshold=None, seed=0))]
    fn new(
        n_in: i128,
        n_cells: i128,
        plateau_prob: f64,
        threshold: Option<f64>,
        seed: i128,
    ) -> PyResult<Self> {
        let n_in: usize = whole("n_in", n_in)?;
        let n_cells: usize = whole("n_cells", n_cells)?;
        let seed: u64 = whole("seed", seed)?;
        Ok(Self {
            inner: Mutex::new(BtspMemory::new(n_in, n_cells, plateau_prob, threshold, seed).py()?),
        })
    }

    /// Store a pattern at once.
    ///
    /// Parameters
    /// ----------
    /// pattern : (n_in,) bool
    ///
    /// Returns
    /// -------
    /// int
    ///     Number of the item, from 0.
    ///
    /// Raises
    /// ------
    /// DimensionMismatch
    /// ValueError
    ///     A pattern without an active bit, or values other than 0 and 1.
    fn store(&self, pattern: &Bound<'_, PyAny>) -> PyResult<usize> {
        let pattern = bits("pattern", pattern)?;
        self.inner.lock().store(&pattern).py()
    }

    /// Cells that answer to a cue.
    ///
    /// Parameters
    /// ----------
    /// cue : (n_in,) bool
    ///
    /// Returns
    /// -------
    /// (n_cells,) bool
    ///
    /// Raises
    /// ------
    /// DimensionMismatch, ValueError
    fn recall<'py>(&self, py: Python<'py>, cue: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyArray1<bool>>> {
        let cue = bits("cue", cue)?;
        let cells = detached(py, || self.inner.lock().recall(&cue))?;
        Ok(PyArray1::from_vec(py, cells))
    }

    /// The stored item whose cells a cue drives most; O(active bits · n_cells + codes).
    ///
    /// Parameters
    /// ----------
    /// cue : (n_in,) bool
    ///
    /// Returns
    /// -------
    /// int
    ///
    /// Raises
    /// ------
    /// DimensionMismatch
    /// ValueError
    ///     Nothing is stored, or values other than 0 and 1.
    #[pyo3(name = "match")]
    fn matched(&self, py: Python<'_>, cue: &Bound<'_, PyAny>) -> PyResult<usize> {
        let cue = bits("cue", cue)?;
        detached(py, || self.inner.lock().matched(&cue))
    }

    fn __len__(&self) -> usize {
        self.inner.lock().len()
    }

    /// Counters: items, strong synapses, bytes.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        metrics_dict(py, &self.inner.lock().metrics())
    }

    /// The whole state, checked and versioned.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = detached(py, || self.inner.lock().to_bytes())?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// Read back what ``to_bytes`` wrote; damaged or foreign bytes raise ``CorruptStateError``.
    #[classmethod]
    fn from_bytes(_cls: &Bound<'_, PyType>, data: &[u8]) -> PyResult<Self> {
        Ok(Self {
            inner: Mutex::new(BtspMemory::from_bytes(data).py()?),
        })
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyBytes>,))> {
        let bytes = slf.get().to_bytes(slf.py())?;
        Ok((slf.get_type().getattr("from_bytes")?, (bytes,)))
    }

    fn __repr__(&self) -> String {
        let inner = self.inner.lock();
        format!(
            "BTSPMemory({}, {}, seed={}, items={})",
            inner.n_in(),
            inner.n_cells(),
            inner.seed(),
            inner.len()
        )
    }
}

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
    m.add_class::<PyBtspMemory>()?;
    m.add_function(wrap_pyfunction!(btsp_weight_change, m)?)
}
