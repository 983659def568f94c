//! Requests recorded from their parts: kept packed, made a `QueryTrajectory` when a consumer asks for one.

use crate::errors::{IntoPy, to_py};
use crate::view::{Slot, vector_view};
use numpy::PyArray1;
use pyo3::exceptions::{PyMemoryError, PyOverflowError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyString, PyTuple, PyType};
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

    /// The `QueryTrajectory`; a packed one unpacks itself when a field is first read.
    pub(super) fn into_trajectory<'py>(self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::Ready(t) => Ok(t.into_bound(py)),
            Self::Packed(request) => {
                let record = blank(class(py)?)?;
                let packed = Bound::new(py, PackedRequest { request })?;
                // SAFETY: all three are live objects. The generic setter stores into the slot, past the `__setattr__`
                // by which a frozen dataclass refuses; that is how the dataclass itself fills its fields.
                let status = unsafe {
                    ffi::PyObject_GenericSetAttr(
                        record.as_ptr(),
                        intern!(py, "_packed").as_ptr(),
                        packed.as_ptr(),
                    )
                };
                if status == 0 {
                    Ok(record)
                } else {
                    Err(PyErr::fetch(py))
                }
            }
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

/// The parts of a trajectory that nobody has looked at yet.
#[pyclass(name = "PackedRequest", module = "sona._core", frozen)]
pub(super) struct PackedRequest {
    request: Request,
}

#[pymethods]
impl PackedRequest {
    /// The fields of ``QueryTrajectory`` in their order, ``nbytes`` last.
    fn fields<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        let r = &self.request;
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
