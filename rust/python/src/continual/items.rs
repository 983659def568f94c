//! Items, slots and priorities of a replay buffer from Python.

use crate::errors::to_py;
use numpy::{PyArray1, PyArrayMethods};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt, PyString};
use sona_core::Error;
use sona_core::continual::SavedItem;

/// What an item counts towards the byte budget.
pub(super) fn nbytes(item: &Bound<'_, PyAny>) -> PyResult<usize> {
    if let Ok(n) = item.getattr("nbytes").and_then(|n| n.extract::<usize>()) {
        return Ok(n);
    }
    if item.is_instance_of::<PyBytes>() || item.is_instance_of::<PyString>() {
        return item.len();
    }
    item.py()
        .import("sys")?
        .call_method1("getsizeof", (item,))?
        .extract()
}

pub(super) fn slots(indices: &Bound<'_, PyAny>) -> PyResult<Vec<usize>> {
    let wrong = |got: i64| to_py(Error::value("indices", "slots that hold an item", got));
    let checked = |i: i64| usize::try_from(i).map_err(|_| wrong(i));
    if let Ok(a) = indices.cast::<PyArray1<i64>>() {
        return a.to_vec()?.into_iter().map(checked).collect();
    }
    indices.try_iter()?.map(|i| checked(i?.extract()?)).collect()
}

pub(super) fn floats(x: &Bound<'_, PyAny>) -> PyResult<Vec<f64>> {
    if let Ok(a) = x.cast::<PyArray1<f64>>() {
        return Ok(a.to_vec()?);
    }
    x.try_iter()?.map(|v| v?.extract()).collect()
}

/// An item as it is written; of other types only with `dump`.
pub(super) fn saved(item: &Bound<'_, PyAny>, dump: Option<&Bound<'_, PyAny>>) -> PyResult<SavedItem> {
    if let Some(dump) = dump {
        return Ok(SavedItem::Dumped(dump.call1((item,))?.extract()?));
    }
    if item.is_exact_instance_of::<PyInt>() {
        if let Ok(v) = item.extract() {
            return Ok(SavedItem::Int(v));
        }
    } else if item.is_exact_instance_of::<PyString>() {
        return Ok(SavedItem::Text(item.extract()?));
    } else if let Ok(b) = item.cast_exact::<PyBytes>() {
        return Ok(SavedItem::Bytes(b.as_bytes().to_vec()));
    }
    Err(PyTypeError::new_err(format!(
        "items: expected int, str or bytes to be written without dump=, got {}",
        item.get_type().name()?
    )))
}
