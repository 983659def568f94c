//! Item ids: any hashable Python object as a `sona_core::item::ItemId`.

use numpy::{PyArray1, PyArrayMethods};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyFloat, PyInt, PyString, PyTuple};
use sona_core::item::ItemId;

/// Tuples nested deeper than this are opaque.
const MAX_DEPTH: usize = 16;
/// Handle of an object that no learning call has seen: equal to no learned id.
const UNKNOWN: u64 = 0;

/// What an id that Rust cannot hold is good for.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Use {
    /// It will be remembered: give it a handle for the life of the process.
    Learn,
    /// It is only looked up.
    Look,
}

/// One id. Integers, integral floats, text, bytes and tuples of those become values; any other hashable object a handle.
pub(crate) fn item_id(x: &Bound<'_, PyAny>, purpose: Use) -> PyResult<ItemId> {
    convert(x, purpose, 0)
}

fn convert(x: &Bound<'_, PyAny>, purpose: Use, depth: usize) -> PyResult<ItemId> {
    if let Ok(s) = x.cast::<PyString>() {
        if let Ok(text) = s.to_str() {
            return Ok(ItemId::Str(text.into()));
        }
    } else if x.is_instance_of::<PyInt>() {
        if let Ok(v) = x.extract::<i64>() {
            return Ok(ItemId::Int(v));
        }
    } else if let Ok(b) = x.cast::<PyBytes>() {
        return Ok(ItemId::Bytes(b.as_bytes().into()));
    } else if let Ok(f) = x.cast::<PyFloat>() {
        // Python holds 1 == 1.0 and hashes them alike.
        let v = f.value();
        if v.fract() == 0.0 && v.abs() < 9.0e18 {
            return Ok(ItemId::Int(v as i64));
        }
    } else if let Ok(t) = x.cast::<PyTuple>() {
        if depth < MAX_DEPTH {
            let parts: PyResult<Vec<ItemId>> = t.iter().map(|e| convert(&e, purpose, depth + 1)).collect();
            return Ok(ItemId::Tuple(parts?.into()));
        }
    } else if let Ok(v) = x.extract::<i64>() {
        // numpy integers
        return Ok(ItemId::Int(v));
    }
    handle(x, purpose).map(ItemId::Opaque)
}

/// The handle of an object: the same for equal objects, in every memory and engine of the process.
fn handle(x: &Bound<'_, PyAny>, purpose: Use) -> PyResult<u64> {
    static HANDLES: PyOnceLock<Py<PyDict>> = PyOnceLock::new();
    let py = x.py();
    let handles = HANDLES.get_or_init(py, || PyDict::new(py).unbind()).bind(py);
    if purpose == Use::Look {
        return handles.get_item(x)?.map_or(Ok(UNKNOWN), |h| h.extract());
    }
    // One atomic step, also without the GIL: the first handle that is there stays.
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(UNKNOWN + 1);
    if let Some(h) = handles.get_item(x)? {
        return h.extract();
    }
    let fresh = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    handles.call_method1("setdefault", (x, fresh))?.extract()
}

/// A sequence of ids; a numpy array of integers takes the short way.
pub(crate) fn item_ids(name: &str, x: &Bound<'_, PyAny>, purpose: Use) -> PyResult<Vec<ItemId>> {
    if let Ok(a) = x.cast::<PyArray1<i64>>() {
        return Ok(a.to_vec()?.into_iter().map(ItemId::Int).collect());
    }
    if x.is_instance_of::<PyString>() || x.is_instance_of::<PyBytes>() {
        let got = x.get_type().name()?;
        return Err(PyTypeError::new_err(format!(
            "{name}: expected a sequence of item ids, got {got}"
        )));
    }
    x.try_iter()?.map(|e| item_id(&e?, purpose)).collect()
}

/// The error of writing state with ids that live only in this process.
pub(crate) fn not_serialisable(id: &ItemId) -> PyErr {
    PyTypeError::new_err(format!(
        "item ids must be int, str, bytes or tuples of those to be written, got {id}"
    ))
}
