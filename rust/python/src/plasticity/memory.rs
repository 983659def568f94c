//! `BTSPMemory`.

use crate::arrays::{detached, metrics_dict, whole};
use crate::errors::{IntoPy, to_py};
use crate::state::{State, state_methods};
use numpy::{PyArray1, PyArrayMethods, PyUntypedArrayMethods};
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use sona_core::Error;
use sona_core::Result;
use sona_core::plasticity::BtspMemory;

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

impl State for PyBtspMemory {
    fn encode(&self) -> Result<Vec<u8>> {
        self.inner.lock().to_bytes()
    }

    fn decode(data: &[u8]) -> Result<Self> {
        Ok(Self {
            inner: Mutex::new(BtspMemory::from_bytes(data)?),
        })
    }
}

state_methods!(PyBtspMemory);

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyBtspMemory>()
}
