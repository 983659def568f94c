//! `MinCut`.

use crate::arrays::{detached, metrics_dict, place, whole};
use crate::errors::IntoPy;
use crate::state::{State, state_methods};
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFrozenSet};
use sona_core::Result;
use sona_core::control::mincut::MinCut;

/// Exact global minimum cut of a weighted undirected graph whose edges change.
///
/// Parameters
/// ----------
/// n : int
///     Nodes, 0 … n − 1; no edges at first.
///
/// Raises
/// ------
/// CapacityError
///     Above 2²⁴ nodes.
///
/// Notes
/// -----
/// Kept are the value and one side of a minimum cut. A heavier edge within a side and a lighter edge across cost O(1);
/// a lighter edge within a side costs a maximum flow between its ends, stopped at the present value; a heavier edge across
/// costs a new computation, a few visits of the graph in O(m log n). Safe to share between threads.
///
/// References
/// ----------
/// Stoer & Wagner 1997, A simple min-cut algorithm; Nagamochi & Ibaraki 1992, sparse certificates; Nagamochi, Ono &
/// Ibaraki 1994, contraction by maximum adjacency.
///
/// Examples
/// --------
/// >>> from sona.control import MinCut
/// >>> graph = MinCut(3)
/// >>> graph.set_edge(0, 1, 2.0), graph.set_edge(1, 2, 0.5), graph.set_edge(0, 2, 1.0)
/// (0.0, 0.5, 1.5)
/// >>> sorted(graph.partition)
/// [2]
#[pyclass(name = "MinCut", module = "sona.control", frozen)]
pub(crate) struct PyMinCut {
    inner: Mutex<MinCut>,
}

#[pymethods]
impl PyMinCut {
    #[new]
    fn new(n: i128) -> PyResult<Self> {
        let n: usize = whole("n", n)?;
        Ok(Self {
            inner: Mutex::new(MinCut::new(n).py()?),
        })
    }

    /// Set the weight of an edge; 0 takes it out.
    ///
    /// Parameters
    /// ----------
    /// u, v : int
    ///     Different nodes.
    /// weight : float
    ///     At least 0.
    ///
    /// Returns
    /// -------
    /// float
    ///     The new value of the minimum cut.
    ///
    /// Raises
    /// ------
    /// NotFiniteError
    ///     If the weight is NaN or infinite.
    /// ValueError
    ///     If it is negative, the ends are the same, or a node does not exist.
    fn set_edge(&self, py: Python<'_>, u: i128, v: i128, weight: f64) -> PyResult<f64> {
        let u: usize = place("u", u)?;
        let v: usize = place("v", v)?;
        detached(py, || self.inner.lock().set_edge(u, v, weight))
    }

    /// Weight of an edge; 0 if there is none.
    fn weight(&self, u: i128, v: i128) -> PyResult<f64> {
        let u: usize = place("u", u)?;
        let v: usize = place("v", v)?;
        self.inner.lock().weight(u, v).py()
    }

    /// Weight of the lightest cut: infinite below two nodes, 0 if the graph is in pieces.
    #[getter]
    fn value(&self) -> f64 {
        self.inner.lock().value()
    }

    /// Least weight of all edges of one node; infinite without nodes.
    #[getter]
    fn min_degree(&self) -> f64 {
        self.inner.lock().min_degree()
    }

    /// One side of a minimum cut, the smaller; of a graph in pieces, one piece or all others.
    #[getter]
    fn partition<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyFrozenSet>> {
        let side = self.inner.lock().partition();
        PyFrozenSet::new(py, side)
    }

    /// Weight across the cut over the weight of all edges of the lighter side; 0 where that has none.
    #[getter]
    fn conductance(&self) -> f64 {
        self.inner.lock().conductance()
    }

    /// How many updates cost nothing (``unchanged``), a ``flow``, or a new computation (``recompute``).
    #[getter]
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let stats = self.inner.lock().stats();
        let out = PyDict::new(py);
        out.set_item("unchanged", stats.unchanged)?;
        out.set_item("flow", stats.flow)?;
        out.set_item("recompute", stats.recompute)?;
        Ok(out)
    }

    fn __len__(&self) -> usize {
        self.inner.lock().len()
    }

    /// Sizes, the value and the counters.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let metrics = self.inner.lock().metrics();
        metrics_dict(py, &metrics)
    }

    fn __repr__(&self) -> String {
        let g = self.inner.lock();
        format!(
            "MinCut(n={}, edges={}, value={:?})",
            g.len(),
            g.edge_count(),
            g.value()
        )
    }
}

impl State for PyMinCut {
    fn encode(&self) -> Result<Vec<u8>> {
        self.inner.lock().to_bytes()
    }

    fn decode(data: &[u8]) -> Result<Self> {
        Ok(Self {
            inner: Mutex::new(MinCut::from_bytes(data)?),
        })
    }
}

state_methods!(PyMinCut);

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyMinCut>()
}
