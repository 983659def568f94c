//! `PriorityReplayBuffer`.

use super::items::{floats, nbytes, saved, slots};
use crate::arrays::{detached, metrics_dict};
use crate::errors::{IntoPy, to_py};
use crate::lora::{seed, size};
use numpy::PyArray1;
use parking_lot::Mutex;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyTuple, PyType};
use sona_core::Error;
use sona_core::continual::{KeepPolicy, PriorityReplay, ReplayConfig, SavedItem};

/// What one draw from a replay buffer gave.
#[pyclass(name = "ReplayBatch", module = "sona.continual", frozen, get_all)]
pub(crate) struct PyReplayBatch {
    /// Slots, (n,) int64.
    indices: Py<PyArray1<i64>>,
    /// The items of those slots.
    items: Py<PyList>,
    /// Importance weights in (0, 1], (n,) float64.
    weights: Py<PyArray1<f64>>,
}

#[pymethods]
impl PyReplayBatch {
    fn __len__(&self, py: Python<'_>) -> usize {
        self.items.bind(py).len()
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        format!("ReplayBatch(n={})", self.items.bind(py).len())
    }
}

struct Held {
    replay: PriorityReplay,
    /// By slot.
    items: Vec<Option<Py<PyAny>>>,
}

/// Prioritised replay of any items: what surprised most is seen most, and weights take the bias out again.
///
/// An item of priority |δ| is drawn with probability ∝ p = (|δ| + eps)**alpha, through a sum tree: O(log n) per draw, add
/// and update. Safe to share between threads.
///
/// Parameters
/// ----------
/// capacity : int
///     Most items.
/// alpha : float, default 0.6
///     0: uniform.
/// beta : float, default 0.4
///     Exponent of the importance weights; raise it to 1 over the training.
/// eps : float, default 1e-6
///     Keeps items of priority 0 alive.
/// seed : int, default 0
///     Seed of draws and of the reservoir.
/// max_bytes : int, optional
///     Byte budget of the items: by their ``nbytes``, else their length (``bytes``, ``str``), else ``sys.getsizeof``. What has
///     to give way goes until a new item fits.
/// policy : {"oldest", "reservoir"}, default "oldest"
///     What gives way when full: the oldest item; or a random one, so that the buffer stays a uniform sample of all items ever
///     added (Vitter 1985).
///
/// Raises
/// ------
/// ConfigError
///     A parameter is out of range.
///
/// References
/// ----------
/// Schaul et al. 2016, "Prioritized Experience Replay", eq. 1 and section 3.4.
///
/// Examples
/// --------
/// >>> from sona.continual import PriorityReplayBuffer
/// >>> buffer = PriorityReplayBuffer(3)
/// >>> [buffer.add(item, priority) for item, priority in [("dull", 0.0), ("good", 1.0), ("great", 8.0)]]
/// [0, 1, 2]
/// >>> batch = buffer.sample(1000)
/// >>> batch.items.count("great") > batch.items.count("good") > 100
/// True
/// >>> buffer.add("newest", 1.0)
/// 0
#[pyclass(name = "PriorityReplayBuffer", module = "sona.continual", frozen)]
pub(crate) struct PyPriorityReplayBuffer {
    held: Mutex<Held>,
}

#[pymethods]
impl PyPriorityReplayBuffer {
    #[new]
    #[pyo3(signature = (capacity, *, alpha=0.6, beta=0.4, eps=1e-6, seed=0, max_bytes=None, policy="oldest"))]
    #[pyo3(
        text_signature = "(capacity, *, alpha=0.6, beta=0.4, eps=1e-06, seed=0, max_bytes=None, policy='oldest')"
    )]
    fn new(
        capacity: i64,
        alpha: f64,
        beta: f64,
        eps: f64,
        seed: i128,
        max_bytes: Option<i64>,
        policy: &str,
    ) -> PyResult<Self> {
        let config = ReplayConfig {
            capacity: size("capacity", capacity)?,
            alpha,
            beta,
            eps,
            max_bytes: max_bytes.map(|n| size("max_bytes", n)).transpose()?,
            policy: KeepPolicy::parse(policy).py()?,
            seed: self::seed(seed)?,
        };
        Ok(Self {
            held: Mutex::new(Held {
                replay: PriorityReplay::new(config).py()?,
                items: Vec::new(),
            }),
        })
    }

    /// Take in an item.
    ///
    /// Parameters
    /// ----------
    /// item : object
    /// priority : float, optional
    ///     |TD error| or any other measure of surprise; default: the largest so far (1.0 at first), so that every item gets
    ///     its turn.
    ///
    /// Returns
    /// -------
    /// int
    ///     Its slot; −1 if the reservoir did not keep it.
    ///
    /// Raises
    /// ------
    /// NotFiniteError
    /// CapacityError
    ///     The item alone is over ``max_bytes``.
    #[pyo3(signature = (item, priority=None))]
    fn add(&self, item: Bound<'_, PyAny>, priority: Option<f64>) -> PyResult<i64> {
        let bytes = nbytes(&item)?;
        // What is let go may run code of its own: not while the lock is held.
        let mut gone = Vec::new();
        let slot = {
            let mut held = self.held.lock();
            let added = held.replay.add(priority, bytes).py()?;
            gone.extend(added.evicted.iter().filter_map(|s| held.items[*s].take()));
            if let Some(slot) = added.slot {
                if slot >= held.items.len() {
                    held.items.resize_with(slot + 1, || None);
                }
                held.items[slot] = Some(item.unbind());
            }
            added.slot
        };
        drop(gone);
        Ok(slot.map_or(-1, |s| s as i64))
    }

    /// Draw items with replacement, in proportion to their p.
    ///
    /// Parameters
    /// ----------
    /// batch_size : int
    /// beta : float, optional
    ///     Instead of the configured one.
    ///
    /// Returns
    /// -------
    /// ReplayBatch
    ///     Always ``batch_size`` long.
    ///
    /// Raises
    /// ------
    /// ValueError
    ///     The buffer is empty.
    #[pyo3(signature = (batch_size, *, beta=None))]
    fn sample(&self, py: Python<'_>, batch_size: i64, beta: Option<f64>) -> PyResult<PyReplayBatch> {
        let n = usize::try_from(batch_size)
            .map_err(|_| to_py(Error::value("batch_size", "0 or more", batch_size)))?;
        let (slots, weights, items) = {
            let mut held = self.held.lock();
            // Checked first: a refused call draws nothing.
            held.replay.weights(&[], beta).py()?;
            let slots = held.replay.sample(n).py()?;
            let weights = held.replay.weights(&slots, beta).py()?;
            let items: Vec<Option<Py<PyAny>>> = slots
                .iter()
                .map(|s| held.items[*s].as_ref().map(|i| i.clone_ref(py)))
                .collect();
            (slots, weights, items)
        };
        Ok(PyReplayBatch {
            indices: PyArray1::from_iter(py, slots.into_iter().map(|s| s as i64)).unbind(),
            items: PyList::new(py, items)?.unbind(),
            weights: PyArray1::from_vec(py, weights).unbind(),
        })
    }

    /// Probability of each slot in one draw; O(n).
    ///
    /// Returns
    /// -------
    /// (n,) float64
    fn probabilities<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<f64>> {
        PyArray1::from_vec(py, self.held.lock().replay.probabilities())
    }

    /// Importance weights (n·P)**−beta of some slots, divided by the largest over the buffer.
    ///
    /// Parameters
    /// ----------
    /// indices : (m,) int
    /// beta : float, optional
    ///
    /// Returns
    /// -------
    /// (m,) float64
    ///
    /// Raises
    /// ------
    /// ValueError
    ///     A slot without an item.
    #[pyo3(signature = (indices, *, beta=None))]
    fn weights<'py>(
        &self,
        py: Python<'py>,
        indices: &Bound<'_, PyAny>,
        beta: Option<f64>,
    ) -> PyResult<Bound<'py, PyArray1<f64>>> {
        let slots = slots(indices)?;
        let weights = self.held.lock().replay.weights(&slots, beta).py()?;
        Ok(PyArray1::from_vec(py, weights))
    }

    /// The smallest slot i with cumsum(p)[i] > u · Σp.
    ///
    /// Parameters
    /// ----------
    /// u : float
    ///     In [0, 1).
    ///
    /// Returns
    /// -------
    /// int
    fn locate(&self, u: f64) -> PyResult<usize> {
        self.held.lock().replay.locate(u).py()
    }

    /// New priorities |td_error| of some slots; O(m log n). Nothing changes if one of them is refused.
    ///
    /// Parameters
    /// ----------
    /// indices : (m,) int
    /// td_errors : (m,) float
    ///
    /// Raises
    /// ------
    /// ValueError
    ///     A slot without an item.
    /// DimensionMismatch, NotFiniteError
    fn update_priorities(&self, indices: &Bound<'_, PyAny>, td_errors: &Bound<'_, PyAny>) -> PyResult<()> {
        let (slots, errors) = (slots(indices)?, floats(td_errors)?);
        self.held.lock().replay.update(&slots, &errors).py()
    }

    fn __len__(&self) -> usize {
        self.held.lock().replay.len()
    }

    /// Most items.
    #[getter]
    fn capacity(&self) -> usize {
        self.held.lock().replay.config().capacity
    }

    /// Bytes of the items and of the tree.
    #[getter]
    fn nbytes(&self) -> usize {
        self.held.lock().replay.nbytes()
    }

    /// Counters and gauges: items, added, evicted, refused, sampled, updated, item_bytes, nbytes.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        metrics_dict(py, &self.held.lock().replay.metrics())
    }

    /// The whole state, checked and versioned.
    ///
    /// Parameters
    /// ----------
    /// dump : callable, optional
    ///     ``dump(item) -> bytes`` for items other than int, str and bytes.
    ///
    /// Returns
    /// -------
    /// bytes
    ///
    /// Raises
    /// ------
    /// TypeError
    ///     Without ``dump``, an item of another type.
    #[pyo3(signature = (dump=None))]
    fn to_bytes<'py>(
        &self,
        py: Python<'py>,
        dump: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let (replay, items) = {
            let held = self.held.lock();
            let items: Vec<_> = held
                .items
                .iter()
                .map(|i| i.as_ref().map(|i| i.clone_ref(py)))
                .collect();
            (held.replay.clone(), items)
        };
        let items = items
            .iter()
            .map(|i| i.as_ref().map(|i| saved(i.bind(py), dump)).transpose())
            .collect::<PyResult<Vec<_>>>()?;
        let bytes = detached(py, || replay.to_bytes(items))?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// Read back what ``to_bytes`` wrote; damaged or foreign bytes raise ``CorruptStateError``.
    ///
    /// Parameters
    /// ----------
    /// data : bytes
    /// load : callable, optional
    ///     ``load(bytes) -> item``, the inverse of ``dump``. Only what it does decides whether foreign bytes are safe.
    #[classmethod]
    #[pyo3(signature = (data, load=None))]
    fn from_bytes(cls: &Bound<'_, PyType>, data: &[u8], load: Option<&Bound<'_, PyAny>>) -> PyResult<Self> {
        let py = cls.py();
        let (replay, items) = PriorityReplay::from_bytes(data).py()?;
        let object = |item: SavedItem| -> PyResult<Py<PyAny>> {
            Ok(match (item, load) {
                (SavedItem::Int(v), _) => v.into_pyobject(py)?.into_any().unbind(),
                (SavedItem::Text(v), _) => v.into_pyobject(py)?.into_any().unbind(),
                (SavedItem::Bytes(v), _) => PyBytes::new(py, &v).into_any().unbind(),
                (SavedItem::Dumped(v), Some(load)) => load.call1((PyBytes::new(py, &v),))?.unbind(),
                (SavedItem::Dumped(_), None) => {
                    return Err(PyTypeError::new_err(
                        "load: expected the inverse of the dump that this state was written with",
                    ));
                }
            })
        };
        let items = items
            .into_iter()
            .map(|i| i.map(object).transpose())
            .collect::<PyResult<_>>()?;
        Ok(Self {
            held: Mutex::new(Held { replay, items }),
        })
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyTuple>)> {
        let (py, pickle) = (slf.py(), slf.py().import("pickle")?);
        let bytes = slf.get().to_bytes(py, Some(&pickle.getattr("dumps")?))?;
        let args = PyTuple::new(py, [bytes.into_any(), pickle.getattr("loads")?])?;
        Ok((slf.get_type().getattr("from_bytes")?, args))
    }

    fn __repr__(&self) -> String {
        let held = self.held.lock();
        let c = held.replay.config();
        format!(
            "PriorityReplayBuffer({}, alpha={}, beta={}, policy='{}', items={})",
            c.capacity,
            c.alpha,
            c.beta,
            c.policy.name(),
            held.replay.len()
        )
    }
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyReplayBatch>()?;
    m.add_class::<PyPriorityReplayBuffer>()
}
