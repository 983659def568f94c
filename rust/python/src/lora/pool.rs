//! `AdapterPool`.

use super::calls::DETACH_ABOVE;
use super::{PyMicroLora, seed, size};
use crate::arrays::{Rows, detached, metrics_dict, vector};

use crate::errors::IntoPy;
use crate::view::{Slot, map_into, view};
use numpy::PyReadonlyArray1;
use parking_lot::Mutex;
use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyType};
use sona_core::Result;
use sona_core::error::{check_dim, check_finite};
use sona_core::lora::{AdapterPool, PoolConfig};
use std::path::PathBuf;

/// One small adapter per task, inside a byte budget.
///
/// A task is known by its embedding: the nearest centroid (the running mean of the embeddings that chose it) if its
/// cosine reaches ``similarity``, else a new adapter. Beyond the budget the least recently used adapters leave memory: to
/// files in ``spill_dir``, from where they come back as they were, or for good if there is none. Train an adapter through
/// the object that ``select`` or ``get`` returned: what it learns after it was spilled is kept too. Without ``spill_dir``
/// an object that is still held goes on as an adapter of its own. Safe to share between threads.
///
/// Parameters
/// ----------
/// dim : int
///     Length of task embeddings and of the adapters' vectors.
/// rank : int, default 2
///     1 or 2.
/// memory_budget : int, optional
///     Most bytes in memory: adapters with optimisers and trust-region queries, and centroids.
/// similarity : float, default 0.6
///     Cosine from which a task counts as known, in [-1, 1].
/// spill_dir : path-like, optional
///     Directory for evicted adapters; created if missing. The pool removes its files when it goes.
/// merge_similarity : float, optional
///     Merge adapters that fire together by themselves, every 64 selections: ``merge(similarity=…)``. None: only when asked.
/// seed : int, default 0
///     Seed of the adapters.
///
/// Raises
/// ------
/// ConfigError
///     A parameter is out of range.
///
/// References
/// ----------
/// Sleator & Tarjan 1985, "Amortized efficiency of list update and paging rules" (LRU).
///
/// Examples
/// --------
/// >>> from sona.lora import AdapterPool
/// >>> pool = AdapterPool(3)
/// >>> [pool.select(task)[0] for task in ([1, 0, 0], [0, 1, 0], [0.9, 0.1, 0])]
/// [0, 1, 0]
#[pyclass(name = "AdapterPool", module = "sona.lora", frozen)]
pub(crate) struct PyAdapterPool {
    inner: Mutex<AdapterPool>,
}

impl PyAdapterPool {
    /// Runs `f` on the pool without holding up other Python threads: it may wait for another caller or for a file.
    fn with<T: Send>(
        &self,
        py: Python<'_>,
        f: impl FnOnce(&mut AdapterPool) -> Result<T> + Send,
    ) -> PyResult<T> {
        detached(py, || f(&mut self.inner.lock()))
    }
}

/// kept, gone, similarity, together, relative error.
type Merged = (u64, u64, f64, f64, f64);

fn unknown(id: i64) -> PyErr {
    PyKeyError::new_err(format!("no adapter {id} in this pool"))
}

/// No adapter has a negative id.
fn known(id: i64) -> PyResult<u64> {
    u64::try_from(id).map_err(|_| unknown(id))
}

#[pymethods]
impl PyAdapterPool {
    #[new]
    #[pyo3(signature = (dim, *, rank=2, memory_budget=None, similarity=0.6, spill_dir=None, merge_similarity=None, seed=0))]
    fn new(
        dim: i64,
        rank: i64,
        memory_budget: Option<i64>,
        similarity: f64,
        spill_dir: Option<PathBuf>,
        merge_similarity: Option<f64>,
        seed: i128,
    ) -> PyResult<Self> {
        let memory_budget = memory_budget.map(|b| size("memory_budget", b)).transpose()?;
        let config = PoolConfig {
            dim: size("dim", dim)?,
            rank: size("rank", rank)?,
            memory_budget,
            similarity,
            merge_similarity,
            seed: self::seed(seed)?,
        };
        Ok(Self {
            inner: Mutex::new(AdapterPool::new(config, spill_dir).py()?),
        })
    }

    /// The adapter of the nearest known task, or a new one; O(tasks · d).
    ///
    /// Parameters
    /// ----------
    /// task_embedding : (d,) float32
    ///     Not zero.
    ///
    /// Returns
    /// -------
    /// adapter_id : int
    ///     Counts up from 0.
    /// adapter : MicroLoRA
    ///
    /// Raises
    /// ------
    /// CapacityError
    ///     Pinned adapters leave no room; nothing has changed then.
    /// ValueError, NotFiniteError, DimensionMismatch, StoreError
    fn select(&self, py: Python<'_>, task_embedding: &Bound<'_, PyAny>) -> PyResult<(u64, PyMicroLora)> {
        let task = vector("task_embedding", task_embedding, None)?;
        let (id, shared) = self.with(py, |p| p.select(&task))?;
        Ok((id, PyMicroLora { shared }))
    }

    /// The adapter of an id; brought back from disk if it was spilled.
    ///
    /// Parameters
    /// ----------
    /// id : int
    ///
    /// Returns
    /// -------
    /// MicroLoRA
    ///
    /// Raises
    /// ------
    /// KeyError
    ///     The pool does not have it (any more).
    fn get(&self, py: Python<'_>, id: i64) -> PyResult<PyMicroLora> {
        let key = known(id)?;
        match self.with(py, |p| p.get(key))? {
            Some(shared) => Ok(PyMicroLora { shared }),
            None => Err(unknown(id)),
        }
    }

    /// Many adapters at once: row i of ``x`` through adapter ``ids[i]``. Rows are grouped by adapter; O(rows · rank · d).
    ///
    /// Parameters
    /// ----------
    /// ids : (n,) int64
    /// x : (n, d) float32
    ///
    /// Returns
    /// -------
    /// (n, d) float32
    ///
    /// Raises
    /// ------
    /// KeyError
    ///     The pool does not have one of them (any more).
    /// DimensionMismatch, NotFiniteError
    fn forward_many<'py>(
        &self,
        py: Python<'py>,
        ids: PyReadonlyArray1<'_, i64>,
        x: &Bound<'_, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut slot = Slot::None;
        let x = view("x", x, &mut slot)?;
        check_finite("x", x.as_slice()).py()?;
        let ids: Vec<u64> = ids
            .as_array()
            .iter()
            .map(|id| known(*id))
            .collect::<PyResult<_>>()?;
        check_dim("ids", x.n, ids.len()).py()?;
        let (dim, lost) = self.with(py, |p| {
            let lost = ids.iter().find(|id| !p.contains(**id)).copied();
            Ok((p.config().dim, lost))
        })?;
        check_dim("x", dim, x.d).py()?;
        if let Some(id) = lost {
            return Err(PyKeyError::new_err(format!("no adapter {id} in this pool")));
        }
        // The pool is free again before the rows are computed.
        let groups = self.with(py, |p| p.group(&ids))?;
        if x.len() <= DETACH_ABOVE {
            return map_into(py, x, None, |x, y| groups.forward(x, y));
        }
        let input = x.as_slice().to_vec();
        let y = detached(py, || {
            let mut y = vec![0.0; input.len()];
            groups.forward(&input, &mut y)?;
            Ok(y)
        })?;
        Rows::emit(py, y, dim, true)
    }

    /// Merge adapters that fire together; O(pairs · rank² · d).
    ///
    /// Two adapters fire together when a task lies within ``similarity`` of the pool of both. The merged adapter is the mean
    /// of both weight changes by use, in the pool's rank; the older id stays, the other one leads to it from now on. An
    /// object of the other one that is still held goes on by itself.
    ///
    /// Parameters
    /// ----------
    /// similarity : float, default 0.9
    ///     Least cosine of the centroids, and of the weight changes.
    /// together : float, default 0.1
    ///     Least share of the rarer one's selections at which both fired.
    ///
    /// Returns
    /// -------
    /// list of (kept, gone, similarity, together, relative_error)
    ///     The last is the part of the mean that the rank could not hold.
    ///
    /// Raises
    /// ------
    /// ValueError
    ///     A threshold outside [0, 1].
    #[pyo3(signature = (*, similarity=0.9, together=0.1))]
    fn merge(&self, py: Python<'_>, similarity: f64, together: f64) -> PyResult<Vec<Merged>> {
        let done = self.with(py, |p| p.merge(similarity, together))?;
        Ok(done
            .into_iter()
            .map(|m| (m.kept, m.gone, m.similarity, m.together, m.relative_error))
            .collect())
    }

    /// Keep an adapter in memory.
    ///
    /// Parameters
    /// ----------
    /// id : int
    ///
    /// Raises
    /// ------
    /// CapacityError
    ///     The pinned adapters alone would exceed the budget.
    /// KeyError
    fn pin(&self, py: Python<'_>, id: i64) -> PyResult<()> {
        let key = known(id)?;
        match self.with(py, |p| p.pin(key))? {
            true => Ok(()),
            false => Err(unknown(id)),
        }
    }

    /// Let an adapter be evicted again.
    ///
    /// Parameters
    /// ----------
    /// id : int
    ///
    /// Raises
    /// ------
    /// KeyError
    fn unpin(&self, py: Python<'_>, id: i64) -> PyResult<()> {
        let key = known(id)?;
        match self.with(py, |p| Ok(p.unpin(key)))? {
            true => Ok(()),
            false => Err(unknown(id)),
        }
    }

    /// Evict the least recently used adapters until the budget holds (they grow as they learn).
    ///
    /// Returns
    /// -------
    /// list of int
    ///     Ids that left memory since the last call, those evicted by ``select`` included; oldest first.
    fn prune_lru(&self, py: Python<'_>) -> PyResult<Vec<u64>> {
        self.with(py, AdapterPool::prune_lru)
    }

    /// Ids of all adapters, spilled ones included, ascending.
    #[getter]
    fn ids(&self, py: Python<'_>) -> PyResult<Vec<u64>> {
        self.with(py, |p| Ok(p.ids()))
    }

    /// Bytes that the pool keeps in memory.
    #[getter]
    fn memory_bytes(&self, py: Python<'_>) -> PyResult<usize> {
        self.with(py, |p| Ok(p.memory_bytes()))
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        self.with(py, |p| Ok(p.len()))
    }

    /// Counters: adapters, how many are in memory, created, reused, evicted, spilled, reloaded, merged.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        metrics_dict(py, &self.with(py, |p| Ok(p.metrics()))?)
    }

    /// Everything, the spilled adapters included; checked and versioned. The directory's name is not part of it.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = self.with(py, |p| p.to_bytes())?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// Read back what ``to_bytes`` wrote; damaged or foreign bytes raise ``CorruptStateError``.
    ///
    /// Parameters
    /// ----------
    /// data : bytes
    /// spill_dir : path-like, optional
    ///     Needed if the saved adapters exceed the budget, otherwise ``CapacityError``: nothing is lost silently.
    #[classmethod]
    #[pyo3(signature = (data, *, spill_dir=None))]
    fn from_bytes(_cls: &Bound<'_, PyType>, data: &[u8], spill_dir: Option<PathBuf>) -> PyResult<Self> {
        Ok(Self {
            inner: Mutex::new(AdapterPool::from_bytes(data, spill_dir).py()?),
        })
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyBytes>,))> {
        let bytes = slf.get().to_bytes(slf.py())?;
        Ok((slf.get_type().getattr("from_bytes")?, (bytes,)))
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        self.with(py, |p| {
            let budget = p
                .config()
                .memory_budget
                .map_or_else(|| "None".to_owned(), |b| b.to_string());
            Ok(format!(
                "AdapterPool(dim={}, rank={}, adapters={}, memory_bytes={}, memory_budget={budget})",
                p.config().dim,
                p.config().rank,
                p.len(),
                p.memory_bytes()
            ))
        })
    }
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyAdapterPool>()
}
