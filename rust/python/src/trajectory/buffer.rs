//! `TrajectoryBuffer` over Python records.

use super::emit;
use super::request::{Held, Request, trajectories};
use crate::arrays::metrics_dict;
use crate::errors::{IntoPy, to_py};
use parking_lot::Mutex;
use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyType};
use sona_core::trajectory::{BufferState, Policy, TrajectoryBuffer};
use sona_core::{Error, kernels};

/// Bounded buffer between the threads that serve and the loop that learns.
///
/// Recording goes through atomic counters and a lock-free queue: producers never wait for a consumer. Every record is
/// stored, drained or counted as dropped. Safe to share between threads.
///
/// Parameters
/// ----------
/// capacity : int, default 10_000
///     Most records held.
/// policy : {"drop_oldest", "reject", "reservoir"}, default "drop_oldest"
///     When full: the oldest goes; the new one is refused; the buffer stays a uniform sample of everything recorded
///     since it was last drained.
/// max_bytes : int, optional
///     Most bytes held, by the records' ``nbytes``. A larger single record is refused under every policy.
/// seed : int, default 0
///     Seed of the reservoir.
///
/// Raises
/// ------
/// ConfigError
///     ``capacity`` < 1, ``max_bytes`` < 1 or an unknown policy.
///
/// References
/// ----------
/// Vitter 1985, "Random sampling with a reservoir", algorithm R.
///
/// Examples
/// --------
/// >>> from sona.trajectory import QueryTrajectory, TrajectoryBuffer
/// >>> buffer = TrajectoryBuffer(2)
/// >>> [buffer.record(QueryTrajectory(i, [1.0, 0.0], (), 0.5)) for i in range(3)]
/// [True, True, True]
/// >>> buffer.dropped_count, [t.id for t in buffer.drain()]
/// (1, [1, 2])
#[pyclass(name = "TrajectoryBuffer", module = "sona.trajectory", frozen)]
pub(crate) struct PyTrajectoryBuffer {
    inner: TrajectoryBuffer<Held>,
    /// The vector of the request that went last to make room, for the next one.
    spare: Mutex<Option<Box<[f32]>>>,
}

/// How many records a call means: all, or a count that is not negative.
fn count(n: Option<i64>) -> PyResult<Option<usize>> {
    n.map(|n| usize::try_from(n).map_err(|_| to_py(Error::value("n", "0 or more", n))))
        .transpose()
}

fn nbytes(trajectory: &Bound<'_, PyAny>) -> PyResult<usize> {
    let py = trajectory.py();
    match trajectory
        .getattr(intern!(py, "nbytes"))
        .and_then(|n| n.extract())
    {
        Ok(n) => Ok(n),
        Err(_) => Err(PyTypeError::new_err(format!(
            "trajectory: expected a QueryTrajectory, got {}",
            trajectory.get_type().name()?
        ))),
    }
}

#[pymethods]
impl PyTrajectoryBuffer {
    #[new]
    #[pyo3(signature = (capacity=10_000, *, policy="drop_oldest", max_bytes=None, seed=0))]
    fn new(capacity: i64, policy: &str, max_bytes: Option<i64>, seed: i128) -> PyResult<Self> {
        let capacity = usize::try_from(capacity)
            .map_err(|_| to_py(Error::config("capacity", "at least 1", capacity)))?;
        let max_bytes = max_bytes
            .map(|n| usize::try_from(n).map_err(|_| to_py(Error::config("max_bytes", "at least 1", n))))
            .transpose()?;
        let seed = u64::try_from(seed).map_err(|_| to_py(Error::config("seed", "0 to 2**64 - 1", seed)))?;
        Ok(Self {
            inner: TrajectoryBuffer::new(capacity, Policy::parse(policy).py()?, max_bytes, seed).py()?,
            spare: Mutex::new(None),
        })
    }

    /// Offer one record; O(1).
    ///
    /// Parameters
    /// ----------
    /// trajectory : QueryTrajectory
    ///
    /// Returns
    /// -------
    /// bool
    ///     True if it was stored. "drop_oldest": always, unless the record alone exceeds ``max_bytes``; "reject": False
    ///     when full; "reservoir": False if the sample does not take it.
    fn record(&self, trajectory: &Bound<'_, PyAny>) -> PyResult<bool> {
        let bytes = nbytes(trajectory)?;
        Ok(self.inner.record(Held::Ready(trajectory.clone().unbind()), bytes))
    }

    /// Record a request without steps from its parts, without building a ``QueryTrajectory`` first; O(d).
    ///
    /// The query is copied. ``drain`` and ``peek`` return a ``QueryTrajectory`` for it, whose fields are made when one
    /// of them is first read.
    ///
    /// Parameters
    /// ----------
    /// id : int
    ///     The caller's number for it.
    /// query_embedding : (d,) float32
    ///     The query.
    /// final_quality : float
    ///     Outcome in [0, 1].
    /// latency_us : int, default 0
    ///     Duration in microseconds, 0 or more.
    /// scope : str, default "default"
    ///     Whose it is.
    /// source : str, default ""
    ///     Who reported the outcome.
    ///
    /// Returns
    /// -------
    /// bool
    ///     As ``record``.
    ///
    /// Raises
    /// ------
    /// ValueError, TypeError, NotFiniteError, ShapeError
    ///     As ``QueryTrajectory``.
    ///
    /// Examples
    /// --------
    /// >>> from sona.trajectory import TrajectoryBuffer
    /// >>> buffer = TrajectoryBuffer()
    /// >>> buffer.record_request(7, [0.6, 0.8], 0.9)
    /// True
    /// >>> buffer.drain()[0].final_quality
    /// 0.9
    #[pyo3(signature = (id, query_embedding, final_quality, *, latency_us=None, scope=None, source=None),
           text_signature = "($self, id, query_embedding, final_quality, *, latency_us=0, scope='default', source='')")]
    #[allow(clippy::too_many_arguments, reason = "the fields of a record")]
    fn record_request(
        &self,
        py: Python<'_>,
        id: &Bound<'_, PyAny>,
        query_embedding: &Bound<'_, PyAny>,
        final_quality: f64,
        latency_us: Option<&Bound<'_, PyAny>>,
        scope: Option<&Bound<'_, PyString>>,
        source: Option<&Bound<'_, PyString>>,
    ) -> PyResult<bool> {
        // Held to the end: one lock instead of two. Whoever comes meanwhile allocates.
        let mut spare = self.spare.try_lock();
        let place = spare.as_mut().and_then(|s| s.take());
        let request = Request::new(
            id,
            query_embedding,
            final_quality,
            latency_us,
            scope,
            source,
            place,
        )?;
        let bytes = request.nbytes(py)?;
        let mut gone = None;
        let stored = self.inner.record_with(Held::Packed(request), bytes, |t| {
            if let Held::Packed(request) = t {
                gone = Some(request.into_query());
            }
        });
        if let (Some(query), Some(mut spare)) = (gone, spare) {
            // It was written a whole buffer ago, so it is in no near cache: it comes while nobody waits.
            kernels::prefetch(&query);
            *spare = Some(query);
        }
        Ok(stored)
    }

    /// Remove and return the oldest ``n`` records (default: all), oldest first.
    ///
    /// Parameters
    /// ----------
    /// n : int, optional
    ///
    /// Returns
    /// -------
    /// list of QueryTrajectory
    #[pyo3(signature = (n=None))]
    fn drain<'py>(&self, py: Python<'py>, n: Option<i64>) -> PyResult<Bound<'py, PyList>> {
        trajectories(py, self.inner.drain(count(n)?))
    }

    /// Return the oldest ``n`` records (default: all), oldest first, and keep them.
    ///
    /// Parameters
    /// ----------
    /// n : int, optional
    ///
    /// Returns
    /// -------
    /// list of QueryTrajectory
    #[pyo3(signature = (n=None))]
    fn peek<'py>(&self, py: Python<'py>, n: Option<i64>) -> PyResult<Bound<'py, PyList>> {
        trajectories(py, self.inner.peek_with(count(n)?, |t| t.clone_ref(py)))
    }

    /// Records lost, whatever the reason.
    #[getter]
    fn dropped_count(&self) -> u64 {
        self.inner.stats().dropped
    }

    /// Most records held.
    #[getter]
    fn capacity(&self) -> usize {
        self.inner.capacity()
    }

    /// What happens when the buffer is full.
    #[getter]
    fn policy(&self) -> &'static str {
        self.inner.policy().name()
    }

    /// True if nothing is held.
    #[getter]
    fn is_empty(&self) -> bool {
        self.inner.is_empty()
    }

    /// Bytes of the records held.
    #[getter]
    fn nbytes(&self) -> usize {
        self.inner.stats().bytes
    }

    /// Stored without loss / recorded; 1.0 when nothing was recorded.
    #[getter]
    fn success_rate(&self) -> f64 {
        self.inner.success_rate()
    }

    fn __len__(&self) -> usize {
        self.inner.len()
    }

    /// Counters: recorded = stored + drained + dropped whenever no call is under way.
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let s = self.inner.stats();
        metrics_dict(
            py,
            &vec![
                ("recorded", s.recorded.into()),
                ("stored", s.stored.into()),
                ("drained", s.drained.into()),
                ("dropped", s.dropped.into()),
                ("oversized", s.oversized.into()),
                ("nbytes", s.bytes.into()),
                ("success_rate", self.inner.success_rate().into()),
            ],
        )
    }

    /// Settings, counters and records, checked and versioned.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let items = self
            .inner
            .peek_with(None, |t| t.clone_ref(py))
            .iter()
            .map(|t| t.extract(py))
            .collect::<PyResult<Vec<_>>>()?;
        let state = BufferState::of(&self.inner, items);
        let bytes = py.detach(|| state.to_bytes()).py()?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// Read back what ``to_bytes`` wrote; damaged or foreign bytes raise ``CorruptStateError``.
    #[classmethod]
    fn from_bytes(cls: &Bound<'_, PyType>, data: &[u8]) -> PyResult<Self> {
        let py = cls.py();
        let state = BufferState::from_bytes(data).py()?;
        let mut items = Vec::with_capacity(state.items.len());
        for t in &state.items {
            let ob = emit(py, t)?;
            let bytes = nbytes(&ob)?;
            items.push((Held::Ready(ob.unbind()), bytes));
        }
        Ok(Self {
            inner: state.restore(items).py()?,
            spare: Mutex::new(None),
        })
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyBytes>,))> {
        let bytes = slf.get().to_bytes(slf.py())?;
        Ok((slf.get_type().getattr("from_bytes")?, (bytes,)))
    }

    fn __repr__(&self) -> String {
        let s = self.inner.stats();
        format!(
            "TrajectoryBuffer(capacity={}, policy='{}', stored={}, dropped={})",
            self.inner.capacity(),
            self.inner.policy().name(),
            s.stored,
            s.dropped
        )
    }
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<PyTrajectoryBuffer>()
}
