//! Binding of `sona_core::store`.

mod embedded;
mod files;
mod log;
mod snapshot;

use crate::errors::to_py;
use pyo3::exceptions::{PyOverflowError, PyResourceWarning, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyBool;
use sona_core::Error;
use std::ffi::CString;
use std::path::Path;

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<log::PyEventLog>()?;
    m.add_class::<log::PyEventLogReplay>()?;
    m.add_class::<log::PyEventLogReader>()?;
    m.add_class::<snapshot::PySnapshotStore>()?;
    m.add_class::<embedded::PyEmbeddedStore>()?;
    m.add_function(wrap_pyfunction!(embedded::_check_keys, m)?)?;
    m.add_function(wrap_pyfunction!(files::save_safetensors, m)?)?;
    m.add_function(wrap_pyfunction!(files::load_safetensors, m)?)?;
    m.add_function(wrap_pyfunction!(files::export_preferences, m)?)
}

/// An integer that fits 64 bits without sign; a negative or larger one is a `ValueError`, anything else a `TypeError`.
fn unsigned(name: &'static str, value: &Bound<'_, PyAny>) -> PyResult<u64> {
    if value.is_instance_of::<PyBool>() {
        return Err(PyTypeError::new_err(format!("{name}: expected int, got bool")));
    }
    value.extract().map_err(|e: PyErr| {
        if e.is_instance_of::<PyOverflowError>(value.py()) {
            to_py(Error::value(name, "an integer from 0 to 2^64 - 1", value))
        } else {
            e
        }
    })
}

/// What Python's own files do when they are dropped open.
fn warn_unclosed(what: &str, path: &Path) {
    // None while the interpreter shuts down.
    Python::try_attach(|py| {
        // The object may be dropped while an exception is on its way.
        let pending = PyErr::take(py);
        let message = CString::new(format!("unclosed {what} {}", path.display())).unwrap_or_default();
        if let Err(e) = PyErr::warn(py, &py.get_type::<PyResourceWarning>(), &message, 1) {
            e.write_unraisable(py, None);
        }
        if let Some(e) = pending {
            e.restore(py);
        }
    });
}

/// `'path'` as Python writes it.
fn path_repr(py: Python<'_>, path: &Path) -> PyResult<String> {
    Ok(path.display().to_string().into_pyobject(py)?.repr()?.to_string())
}
