//! Binding of `sona_core::patterns::index`.

use super::index_arrays::{Found, count, emit, int_ids, matrix};
use crate::arrays::{asarray, detached, metrics_dict};
use crate::errors::{IntoPy, to_py};
use numpy::{PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use sona_core::Error;
use sona_core::error::check_dim;
use sona_core::patterns::index::{Kind, Metric, Params, Precision, VectorIndex};

/// Rows handed over at once by `add`: signals are looked at in between.
const CHUNK: usize = 256;

/// Products that take about 50 µs: above, a search lets other Python threads run.
const DETACH_ABOVE: usize = 1 << 20;

/// Nearest remembered vectors under 64-bit ids: an exact scan while small, a navigable graph when large.
///
/// Results are always scored in float32 against the stored rows, best first, equal scores by id, so flat, int8, batched
/// and graph searches give equal scores for equal pairs. Safe to share between threads: writers take turns, and a search
/// waits for a writer only while it appends up to 256 rows or writes the links of one (microseconds). An ``add`` of many
/// rows becomes visible row by row. No thread is started; do not fork while another thread is inside ``add`` or ``remove``.
///
/// Parameters
/// ----------
/// dim : int
///     Length of every vector, 1 to 65,536.
/// metric : {"cosine", "dot", "euclidean"}, default "cosine"
///     Score, larger is better. ``"euclidean"`` scores are minus the squared distance. Under cosine a zero vector scores 0.
/// dtype : {"float32", "int8"}, default "float32"
///     What the search reads. ``"int8"`` keeps one byte per coordinate *beside* the float32 rows: a quarter more memory,
///     a quarter of the bytes to read, and fewer under cosine, where 64 bytes of signs tell which rows to read; the best
///     candidates are rescored in float32.
/// kind : {"auto", "flat", "hnsw"}, default "auto"
///     ``"flat"`` reads every row and is exact (float32). ``"hnsw"`` walks a graph: about logarithmic, approximate. How wide
///     it searches is measured on vectors like the stored ones, so that recall stays above .95; where a search that finds
///     enough costs more than reading every row, it does that. ``"auto"`` is flat up to the measured crossover (see the
///     reference page), then builds the graph, four old rows with each new one, so that no single ``add`` pays for all of
///     them; a graph that is not worth searching is dropped.
/// seed : int, default 0
///     Seed of the graph's levels. Same seed and same calls give the same index, bit for bit.
///
/// Raises
/// ------
/// ConfigError
///     A parameter is out of range.
///
/// Notes
/// -----
/// Removal is immediate in every kind: the last row moves into the gap, and in the graph everyone who linked to the row
/// chooses new neighbours. Nothing is left behind and nothing needs rebuilding.
///
/// References
/// ----------
/// Malkov & Yashunin 2018, "Efficient and robust approximate nearest neighbor search using hierarchical navigable small
/// world graphs", Algorithms 1, 2, 4 and 5.
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> from sona.patterns import VectorIndex
/// >>> index = VectorIndex(2)
/// >>> index.add([7, 8, 9], [[1, 0], [0, 1], [1, 1]])
/// >>> ids, scores = index.search([2, 1], k=2)
/// >>> ids, scores.round(3)
/// (array([9, 7]), array([0.949, 0.894], dtype=float32))
#[pyclass(name = "VectorIndex", module = "sona.patterns", frozen)]
pub(crate) struct PyVectorIndex {
    index: VectorIndex,
}

#[pymethods]
impl PyVectorIndex {
    #[new]
    #[pyo3(signature = (dim, *, metric="cosine", dtype="float32", kind="auto", seed=0))]
    fn new(dim: i64, metric: &str, dtype: &str, kind: &str, seed: i128) -> PyResult<Self> {
        let params = Params {
            dim: usize::try_from(dim).map_err(|_| to_py(Error::config("dim", "at least 1", dim)))?,
            metric: Metric::parse(metric).py()?,
            precision: Precision::parse(dtype).py()?,
            kind: Kind::parse(kind).py()?,
            seed: u64::try_from(seed).map_err(|_| to_py(Error::config("seed", "0 to 2**64 - 1", seed)))?,
        };
        Ok(Self {
            index: VectorIndex::try_new(params).py()?,
        })
    }

    /// Store vectors under ids; a known id gets the new vector.
    ///
    /// Parameters
    /// ----------
    /// ids : (n,) integers
    ///     Any int64. Of equal ids in one call the last wins.
    /// vectors : (n, d) float32
    ///     Finite. Under "dot" and "euclidean" the squared norm may not exceed 8.5e37.
    ///
    /// Raises
    /// ------
    /// TypeError
    ///     The ids are not integers.
    /// ShapeError, DimensionMismatch, NotFiniteError, ValueError
    ///     Before anything is stored.
    ///
    /// Notes
    /// -----
    /// O(d) per row when flat. With a graph, each row costs a search for its neighbours (about 100 to 300 µs at d = 256),
    /// and an automatic index that has just passed the crossover adds four old rows for each new one until all are linked.
    /// The GIL is released. Ctrl-C stops between blocks of 256 rows and leaves the rows before it stored.
    #[pyo3(signature = (ids, vectors))]
    fn add(&self, py: Python<'_>, ids: &Bound<'_, PyAny>, vectors: &Bound<'_, PyAny>) -> PyResult<()> {
        let dim = self.index.params().dim;
        let ids = int_ids(ids, false)?;
        let vectors = matrix("vectors", vectors, dim)?;
        self.index.check(&ids, vectors.as_slice()?).py()?;
        for (block, ids) in ids.chunks(CHUNK).enumerate() {
            let first = block * CHUNK * dim;
            let rows = vectors.as_slice()?[first..first + ids.len() * dim].to_vec();
            detached(py, || self.index.add(ids, &rows))?;
            py.check_signals()?;
        }
        Ok(())
    }

    /// Remove ids; unknown ones are counted in ``metrics()`` and otherwise ignored.
    ///
    /// Parameters
    /// ----------
    /// ids : (n,) integers, or one integer
    ///
    /// Returns
    /// -------
    /// int
    ///     How many were stored.
    ///
    /// Notes
    /// -----
    /// O(d) per row when flat; with a graph, the neighbours choose again (about the cost of an insertion).
    #[pyo3(signature = (ids))]
    fn remove(&self, py: Python<'_>, ids: &Bound<'_, PyAny>) -> PyResult<usize> {
        let ids = int_ids(ids, true)?;
        let mut removed = 0;
        for ids in ids.chunks(CHUNK) {
            removed += py.detach(|| self.index.remove(ids));
            py.check_signals()?;
        }
        Ok(removed)
    }

    /// Find the best ``k`` vectors for one query or many.
    ///
    /// Parameters
    /// ----------
    /// q : (d,) or (m, d) float32
    ///     Finite.
    /// k : int
    ///     At least 1. May exceed the number of stored vectors.
    ///
    /// Returns
    /// -------
    /// ids : (k,) or (m, k) int64
    ///     Best first, equal scores by id; −1 where nothing is left.
    /// scores : (k,) or (m, k) float32
    ///     Cosine, inner product or minus the squared distance; −inf where nothing is left.
    ///
    /// Notes
    /// -----
    /// O(n d) per query when flat, about O(log n · d) through the graph. All queries of a call see the same state. A graph
    /// search that asks for a large share of the rows scans instead, and is exact.
    #[pyo3(signature = (q, k))]
    fn search<'py>(&self, py: Python<'py>, q: &Bound<'py, PyAny>, k: i64) -> PyResult<Found<'py>> {
        let (queries, batched) = self.queries("q", q)?;
        let k = count("k", k)?;
        let m = queries.len() / self.index.params().dim;
        let found = if self.index.work(m) > DETACH_ABOVE {
            detached(py, || self.index.search_batch(queries, k))?
        } else {
            self.index.search_batch(queries, k).py()?
        };
        emit(py, &found, k, batched)
    }

    /// Share of the true best ``k`` that ``search`` returns, averaged over queries.
    ///
    /// A returned vector counts if it scores at least as high as the exact ``k``-th.
    ///
    /// Parameters
    /// ----------
    /// k : int
    ///     At least 1.
    /// queries : (d,) or (m, d) float32
    ///
    /// Returns
    /// -------
    /// float
    ///     1.0 without queries or without vectors.
    #[pyo3(signature = (k, queries))]
    fn recall_at(&self, py: Python<'_>, k: i64, queries: &Bound<'_, PyAny>) -> PyResult<f64> {
        let (queries, _) = self.queries("queries", queries)?;
        let k = count("k", k)?;
        detached(py, || self.index.recall_at(k, queries))
    }

    /// Length of every vector.
    #[getter]
    fn dim(&self) -> usize {
        self.index.params().dim
    }

    /// Comparison: "cosine", "dot" or "euclidean".
    #[getter]
    fn metric(&self) -> String {
        self.index.params().metric.to_string()
    }

    /// What the search reads: "float32" or "int8".
    #[getter]
    fn dtype(&self) -> String {
        self.index.params().precision.to_string()
    }

    /// Structure in use: "hnsw" if asked for, or where an automatic index has chosen it; else "flat".
    #[getter]
    fn kind(&self) -> String {
        self.index.kind().to_string()
    }

    /// Bytes held for vectors, codes, ids and links.
    #[getter]
    fn nbytes(&self, py: Python<'_>) -> usize {
        py.detach(|| self.index.nbytes())
    }

    /// Sizes and counters; counters start at zero when an index is made or loaded.
    ///
    /// Returns
    /// -------
    /// dict[str, int | float]
    ///     ``count``, ``nbytes``, ``graph_levels``, ``graph_links``, ``graph_pending`` (rows still to be linked), ``added``,
    ///     ``updated``, ``removed``, ``unknown_removed``, ``queries``, ``tie_rescans`` (searches that read all rows exactly
    ///     because equal scores straddled the ``k``-th place).
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let metrics = py.detach(|| self.index.metrics());
        metrics_dict(py, &metrics)
    }

    /// Serialise the whole index; loading continues bit for bit.
    ///
    /// Returns
    /// -------
    /// bytes
    ///     Versioned, with a checksum.
    fn to_bytes<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let bytes = py.detach(|| self.index.to_bytes());
        PyBytes::new(py, &bytes)
    }

    /// Read back ``to_bytes``; every size, id, value and link is checked.
    ///
    /// Parameters
    /// ----------
    /// data : bytes
    ///
    /// Raises
    /// ------
    /// CorruptStateError
    ///     The bytes are damaged, foreign or of another version.
    #[staticmethod]
    #[pyo3(signature = (b))]
    fn from_bytes(py: Python<'_>, b: &[u8]) -> PyResult<Self> {
        let index = detached(py, || VectorIndex::from_bytes(b))?;
        Ok(Self { index })
    }

    fn __len__(&self) -> usize {
        self.index.len()
    }

    fn __contains__(&self, id: &Bound<'_, PyAny>) -> bool {
        id.extract::<i64>().is_ok_and(|id| self.index.contains(id))
    }

    fn __reduce__<'py>(&self, py: Python<'py>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let load = py.get_type::<Self>().getattr("from_bytes")?;
        Ok((load, PyTuple::new(py, [self.to_bytes(py)])?))
    }

    fn __repr__(&self) -> String {
        let p = self.index.params();
        let default = Params::new(p.dim);
        let mut out = format!("VectorIndex({}", p.dim);
        if p.metric != default.metric {
            out += &format!(", metric='{}'", p.metric);
        }
        if p.precision != default.precision {
            out += &format!(", dtype='{}'", p.precision);
        }
        if p.kind != default.kind {
            out += &format!(", kind='{}'", p.kind);
        }
        if p.seed != default.seed {
            out += &format!(", seed={}", p.seed);
        }
        format!(
            "<{out}) with {} vectors, {}>",
            self.index.len(),
            self.index.kind()
        )
    }
}

impl PyVectorIndex {
    /// `(d,)` or `(m, d)`, copied; values are checked by the core.
    fn queries(&self, name: &'static str, x: &Bound<'_, PyAny>) -> PyResult<(Vec<f32>, bool)> {
        let dim = self.index.params().dim;
        let a = asarray(name, x)?;
        let (d, batched) = match *a.shape() {
            [d] => (d, false),
            [_, d] => (d, true),
            _ => {
                let want = format!("({dim},) or (m, {dim})");
                return Err(to_py(Error::shape(name, want, format!("{:?}", a.shape()))));
            }
        };
        check_dim(name, dim, d).py()?;
        Ok((a.to_vec()?, batched))
    }
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyVectorIndex>()
}
