//! Binding of `sona_core::dreams::EdgeWeights`.

use crate::arrays::metrics_dict;
use crate::errors::IntoPy;
use crate::items::{Use, item_id, item_ids};
use crate::state::{State, state_methods};
use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use sona_core::Result;
use sona_core::dreams::EdgeWeights;

/// Undirected edges between item ids that were retrieved together, strengthened by good outcomes, weakened by bad ones.
///
/// Changes wait until :meth:`commit`. Safe to share between threads.
///
/// Examples
/// --------
/// >>> from sona.dreams import EdgeWeights
/// >>> edges = EdgeWeights()
/// >>> edges.update_from_signal(["doc-1", "doc-2", "doc-3"], quality=1.0)
/// >>> edges.commit(), edges.get("doc-2", "doc-1")
/// (3, 0.01)
#[pyclass(name = "EdgeWeights", module = "sona.dreams", frozen)]
pub(crate) struct PyEdgeWeights {
    inner: Mutex<EdgeWeights>,
}

#[pymethods]
impl PyEdgeWeights {
    #[new]
    fn new() -> Self {
        Self {
            inner: Mutex::new(EdgeWeights::new()),
        }
    }

    /// Let (quality - 0.5) · 2 · scale wait for each unordered pair of distinct items; O(n²).
    ///
    /// Parameters
    /// ----------
    /// item_ids : sequence of hashable
    /// quality : float
    ///     Outcome in [0, 1].
    /// scale : float, default 0.01
    ///     Change of an edge at quality 1.
    ///
    /// Raises
    /// ------
    /// NotFiniteError
    #[pyo3(signature = (item_ids, quality, scale=0.01))]
    fn update_from_signal(&self, item_ids: &Bound<'_, PyAny>, quality: f64, scale: f64) -> PyResult<()> {
        let ids = self::item_ids("item_ids", item_ids, Use::Learn)?;
        self.inner.lock().update_from_signal(&ids, quality, scale).py()
    }

    /// Add what waits to the weights.
    ///
    /// Returns
    /// -------
    /// int
    ///     Edges touched.
    fn commit(&self) -> usize {
        self.inner.lock().commit()
    }

    /// Committed weight of an edge; 0.0 where there is none.
    ///
    /// Parameters
    /// ----------
    /// a, b : hashable
    ///     In either order.
    ///
    /// Returns
    /// -------
    /// float
    fn get(&self, a: &Bound<'_, PyAny>, b: &Bound<'_, PyAny>) -> PyResult<f64> {
        let (a, b) = (item_id(a, Use::Look)?, item_id(b, Use::Look)?);
        Ok(self.inner.lock().get(&a, &b))
    }

    fn __len__(&self) -> usize {
        self.inner.lock().len()
    }

    /// Counters: edges, pending changes, commits.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        metrics_dict(py, &self.inner.lock().metrics())
    }

    fn __repr__(&self) -> String {
        format!("EdgeWeights(edges={})", self.inner.lock().len())
    }
}

impl State for PyEdgeWeights {
    fn encode(&self) -> Result<Vec<u8>> {
        self.inner.lock().to_bytes()
    }

    fn decode(data: &[u8]) -> Result<Self> {
        Ok(Self {
            inner: Mutex::new(EdgeWeights::from_bytes(data)?),
        })
    }
}

state_methods!(PyEdgeWeights);

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyEdgeWeights>()
}
