//! Requests recorded from their parts: kept packed, made a `QueryTrajectory` when a consumer asks for one.

use crate::errors::{IntoPy, to_py};
use crate::view::{Slot, vector_view};
use numpy::PyArray1;
use pyo3::exceptions::{PyAttributeError, PyIndexError, PyMemoryError, PyOverflowError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyList, PyString, PyTuple, PyType};
use pyo3::{ffi, intern};
use sona_core::Error;
use sona_core::error::{check_finite, check_number};
use sona_core::trajectory::Trajectory;

/// A finished request without steps. Small, because the queue holds it in place: with the queue's own words it is one
/// cache line.
pub(super) struct Request {
    query: Box<[f32]>,
    id: i64,
    quality: f64,
    /// `None`: the defaults.
    rest: Option<Box<Rest>>,
}

/// What few requests have.
struct Rest {
    latency_us: i64,
    scope: Option<Py<PyString>>,
    source: Option<Py<PyString>>,
}

/// An integer of 64 bits from `low` on, with the errors of the dataclass.
fn integer(name: &'static str, value: &Bound<'_, PyAny>, low: i64) -> PyResult<i64> {
    match value.extract::<i64>() {
        Ok(n) if n >= low => Ok(n),
        Err(e) if !e.is_instance_of::<PyOverflowError>(value.py()) => Err(e),
        _ => Err(to_py(Error::value(
            name,
            format!("{low} to {}", i64::MAX),
            value.str()?,
        ))),
    }
}

impl Request {
    /// Checks every part and copies the query, into `spare` if that has its length.
    #[inline]
    pub(super) fn new(
        id: &Bound<'_, PyAny>,
        query_embedding: &Bound<'_, PyAny>,
        final_quality: f64,
        latency_us: Option<&Bound<'_, PyAny>>,
        scope: Option<&Bound<'_, PyString>>,
        source: Option<&Bound<'_, PyString>>,
        spare: Option<Box<[f32]>>,
    ) -> PyResult<Self> {
        let mut slot = Slot::None;
        let query = vector_view("query_embedding", query_embedding, &mut slot)?;
        check_finite("query_embedding", query).py()?;
        check_number("final_quality", final_quality).py()?;
        if !(0.0..=1.0).contains(&final_quality) {
            return Err(to_py(Error::value(
                "final_quality",
                "a number in [0, 1]",
                final_quality,
            )));
        }
        let rest = if latency_us.is_none() && scope.is_none() && source.is_none() {
            None
        } else {
            Some(Box::new(Rest {
                latency_us: latency_us.map_or(Ok(0), |v| integer("latency_us", v, 0))?,
                scope: scope.map(|s| s.clone().unbind()),
                source: source.map(|s| s.clone().unbind()),
            }))
        };
        Ok(Self {
            id: integer("id", id, i64::MIN)?,
            query: match spare {
                Some(mut place) if place.len() == query.len() => {
                    place.copy_from_slice(query);
                    place
                }
                _ => Box::from(query),
            },
            quality: final_quality,
            rest,
        })
    }

    fn clone_ref(&self, py: Python<'_>) -> Self {
        let rest = |r: &Rest| Rest {
            latency_us: r.latency_us,
            scope: r.scope.as_ref().map(|s| s.clone_ref(py)),
            source: r.source.as_ref().map(|s| s.clone_ref(py)),
        };
        Self {
            query: self.query.clone(),
            id: self.id,
            quality: self.quality,
            rest: self.rest.as_ref().map(|r| Box::new(rest(r))),
        }
    }

    pub(super) fn into_query(self) -> Box<[f32]> {
        self.query
    }

    fn latency_us(&self) -> i64 {
        self.rest.as_ref().map_or(0, |r| r.latency_us)
    }

    fn scope<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        let given = self.rest.as_ref().and_then(|r| r.scope.as_ref());
        given.map_or_else(|| intern!(py, "default").clone(), |s| s.bind(py).clone())
    }

    fn source<'py>(&self, py: Python<'py>) -> Bound<'py, PyString> {
        let given = self.rest.as_ref().and_then(|r| r.source.as_ref());
        given.map_or_else(|| intern!(py, "").clone(), |s| s.bind(py).clone())
    }

    /// The `nbytes` of the trajectory that this will be.
    #[inline]
    pub(super) fn nbytes(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(record_size(py)? + size_of_val(&*self.query))
    }
}

/// What the buffer holds of one record.
pub(super) enum Held {
    /// A `QueryTrajectory`, as it was given.
    Ready(Py<PyAny>),
    /// Its parts.
    Packed(Request),
}

impl Held {
    pub(super) fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Ready(t) => Self::Ready(t.clone_ref(py)),
            Self::Packed(r) => Self::Packed(r.clone_ref(py)),
        }
    }

    /// The core's record.
    pub(super) fn extract(&self, py: Python<'_>) -> PyResult<Trajectory> {
        match self {
            Self::Ready(t) => super::extract(t.bind(py)),
            Self::Packed(r) => Ok(Trajectory {
                id: r.id,
                query_embedding: r.query.to_vec(),
                steps: Vec::new(),
                final_quality: r.quality,
                latency_us: r.latency_us().unsigned_abs(),
                scope: r.scope(py).extract()?,
                source: r.source(py).extract()?,
            }),
        }
    }
}

/// Packed requests that share one object: for most of them none has to be made. A record that is kept unread keeps so many vectors
/// at most.
const RUN: usize = 32;

/// The `QueryTrajectory` of each record; packed ones unpack themselves when a field is first read.
pub(super) fn trajectories(py: Python<'_>, held: Vec<Held>) -> PyResult<Bound<'_, PyList>> {
    let class = class(py)?;
    let (packed, place) = (Place::of(class, "_packed")?, Place::of(class, "_place")?);
    let mut out = Vec::with_capacity(held.len());
    let (mut run, mut first) = (Vec::new(), 0);
    let close = |run: Vec<Request>, records: &[Bound<'_, PyAny>]| {
        if run.is_empty() {
            return Ok(());
        }
        let requests = Bound::new(py, PackedRequests { requests: run })?;
        records.iter().try_for_each(|r| packed.set(r, requests.as_any()))
    };
    for t in held {
        match t {
            Held::Ready(t) => {
                close(std::mem::take(&mut run), &out[first..])?;
                out.push(t.into_bound(py));
                first = out.len();
            }
            Held::Packed(request) => {
                let record = blank(class)?;
                // SAFETY: the object is new and nobody else has it. What it will refer to refers to nothing that could refer
                // to it, so the collector of cycles has nothing to look for here.
                unsafe { ffi::PyObject_GC_UnTrack(record.as_ptr().cast()) };
                place.set(&record, run.len().into_pyobject(py)?.as_any())?;
                out.push(record);
                run.push(request);
                if run.len() == RUN {
                    close(std::mem::take(&mut run), &out[first..])?;
                    first = out.len();
                }
            }
        }
    }
    close(run, &out[first..])?;
    PyList::new(py, out)
}

/// A slot of a class, found once. It is written past the `__setattr__` by which a frozen dataclass refuses.
struct Place<'py> {
    descriptor: Bound<'py, PyAny>,
    set: ffi::descrsetfunc,
}

impl<'py> Place<'py> {
    fn of(class: &Bound<'py, PyType>, name: &str) -> PyResult<Self> {
        let descriptor = class.getattr(name)?;
        // SAFETY: the slot of a type is null or a function of the type that its number stands for.
        let set = unsafe {
            let slot = ffi::PyType_GetSlot(descriptor.get_type().as_type_ptr(), ffi::Py_tp_descr_set);
            std::mem::transmute::<*mut std::ffi::c_void, Option<ffi::descrsetfunc>>(slot)
        };
        match set {
            Some(set) => Ok(Self { descriptor, set }),
            None => Err(PyAttributeError::new_err(name.to_owned())),
        }
    }

    #[inline]
    fn set(&self, record: &Bound<'py, PyAny>, value: &Bound<'_, PyAny>) -> PyResult<()> {
        // SAFETY: all three are live objects; the descriptor checks that the record is of its class.
        let status = unsafe { (self.set)(self.descriptor.as_ptr(), record.as_ptr(), value.as_ptr()) };
        if status == 0 {
            Ok(())
        } else {
            Err(PyErr::fetch(record.py()))
        }
    }
}

fn class<'py>(py: Python<'py>) -> PyResult<&'py Bound<'py, PyType>> {
    static CLASS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    CLASS.import(py, "sona.trajectory", "QueryTrajectory")
}

/// An instance without any field.
fn blank<'py>(class: &Bound<'py, PyType>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the class is a plain Python class of slots; allocating an instance is all that `object.__new__` does for
    // it. The pointer is null on failure, else a new reference.
    unsafe {
        let new = ffi::PyType_GenericAlloc(class.as_type_ptr(), 0);
        Bound::from_owned_ptr_or_opt(class.py(), new)
    }
    .ok_or_else(|| PyMemoryError::new_err("QueryTrajectory"))
}

/// Bytes of a `QueryTrajectory` without its arrays.
#[inline]
fn record_size(py: Python<'_>) -> PyResult<usize> {
    static SIZE: PyOnceLock<usize> = PyOnceLock::new();
    SIZE.get_or_try_init(py, || {
        py.import("sys")?
            .call_method1("getsizeof", (blank(class(py)?)?,))?
            .extract()
    })
    .copied()
}

/// The parts of trajectories that nobody has looked at yet.
#[pyclass(name = "PackedRequests", module = "sona._core", frozen)]
pub(super) struct PackedRequests {
    requests: Vec<Request>,
}

#[pymethods]
impl PackedRequests {
    /// The fields of one ``QueryTrajectory`` in their order, ``nbytes`` last.
    fn fields<'py>(&self, py: Python<'py>, place: usize) -> PyResult<Bound<'py, PyTuple>> {
        let Some(r) = self.requests.get(place) else {
            return Err(PyIndexError::new_err(place));
        };
        let query = super::freeze(PyArray1::from_slice(py, &r.query));
        (
            r.id,
            query,
            PyTuple::empty(py),
            r.quality,
            r.latency_us(),
            r.scope(py),
            r.source(py),
            r.nbytes(py)?,
        )
            .into_pyobject(py)
    }
}
