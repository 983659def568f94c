//! Item ids between Python and the core.

use crate::errors::to_py;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt, PyString, PyTuple};
use sona_core::Error;
use sona_core::engine::IdRef;
use sona_core::item::ItemId;

/// Ids held so that borrowed forms can be handed to the core.
pub(super) struct Ids<'py> {
    objects: Vec<Bound<'py, PyAny>>,
    kinds: Vec<Kind>,
}

enum Kind {
    Int(i64),
    Str,
    Other(ItemId),
}

/// An owned id of any supported kind.
pub(super) fn item_id(x: &Bound<'_, PyAny>) -> PyResult<ItemId> {
    if let Ok(s) = x.cast::<PyString>() {
        return Ok(ItemId::Str(s.to_str()?.into()));
    }
    if let Ok(b) = x.cast::<PyBytes>() {
        return Ok(ItemId::Bytes(b.as_bytes().into()));
    }
    if let Ok(t) = x.cast::<PyTuple>() {
        let parts = t.iter().map(|p| item_id(&p)).collect::<PyResult<Vec<_>>>()?;
        return Ok(ItemId::Tuple(parts.into()));
    }
    if x.is_instance_of::<PyInt>() || x.hasattr("__index__")? {
        return match x.extract::<i64>() {
            Ok(v) => Ok(ItemId::Int(v)),
            Err(_) => Err(to_py(Error::value(
                "ids",
                "integers of at most 64 bits",
                x.str()?.to_string(),
            ))),
        };
    }
    Err(PyTypeError::new_err(format!(
        "ids: expected str, int, bytes or a tuple of them, got {}",
        x.get_type().name()?
    )))
}

impl<'py> Ids<'py> {
    /// From any iterable of ids.
    pub(super) fn extract(x: &Bound<'py, PyAny>) -> PyResult<Self> {
        if x.is_instance_of::<PyString>() || x.is_instance_of::<PyBytes>() {
            return Err(PyTypeError::new_err(
                "ids: expected a sequence of ids, got a single one",
            ));
        }
        // A hint only: an iterator has no length, and a length may be a lie.
        let mut objects = Vec::with_capacity(x.len().unwrap_or(0).min(1024));
        for id in x.try_iter()? {
            objects.push(id?);
        }
        Self::of(objects)
    }

    /// From objects at hand.
    pub(super) fn of(objects: Vec<Bound<'py, PyAny>>) -> PyResult<Self> {
        let mut kinds = Vec::with_capacity(objects.len());
        for o in &objects {
            kinds.push(if o.is_instance_of::<PyString>() {
                Kind::Str
            } else {
                match item_id(o)? {
                    ItemId::Int(v) => Kind::Int(v),
                    other => Kind::Other(other),
                }
            });
        }
        Ok(Self { objects, kinds })
    }

    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }

    pub(super) fn object(&self, i: usize) -> &Bound<'py, PyAny> {
        &self.objects[i]
    }

    /// Borrowed forms, in order.
    pub(super) fn refs(&self) -> PyResult<Vec<IdRef<'_>>> {
        let mut out = Vec::with_capacity(self.objects.len());
        for (o, k) in self.objects.iter().zip(&self.kinds) {
            out.push(match k {
                Kind::Int(v) => IdRef::Int(*v),
                Kind::Str => IdRef::Str(o.cast::<PyString>()?.to_str()?),
                Kind::Other(id) => IdRef::Other(id),
            });
        }
        Ok(out)
    }
}

/// The Python form of an id.
pub(super) fn to_object(py: Python<'_>, id: &ItemId) -> PyResult<Py<PyAny>> {
    Ok(match id {
        ItemId::Int(v) => v.into_pyobject(py)?.into_any().unbind(),
        ItemId::Str(v) => PyString::new(py, v).into_any().unbind(),
        ItemId::Bytes(v) => PyBytes::new(py, v).into_any().unbind(),
        ItemId::Tuple(v) => {
            let parts = v.iter().map(|p| to_object(py, p)).collect::<PyResult<Vec<_>>>()?;
            PyTuple::new(py, parts)?.into_any().unbind()
        }
        other => PyString::new(py, &other.to_string()).into_any().unbind(),
    })
}
