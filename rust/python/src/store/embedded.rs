//! `EmbeddedStore`, and the rule for keys that the other databases share.

use super::{path_repr, warn_unclosed};
use crate::arrays::{detached, metrics_dict};
use crate::errors::IntoPy;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict};
use sona_core::store::EmbeddedStore;
use sona_core::store::embedded::check_key;
use std::path::PathBuf;

/// Raise unless scope and keys are text of 1 to 1024 bytes without NUL.
#[pyfunction]
#[pyo3(signature = (scope, keys), text_signature = "(scope, keys)")]
pub(crate) fn _check_keys(scope: &str, keys: Vec<String>) -> PyResult<()> {
    check_key(scope, None).py()?;
    keys.iter().try_for_each(|key| check_key(scope, Some(key)).py())
}

/// Embedded database (scope, key) → value in one file: transactional, durable when a call returns.
///
/// One process at a time has it open; after a fork the child opens one of its own. Safe to share between threads: reads run
/// side by side, writes one after the other. After a crash it opens in the last committed state.
///
/// Parameters
/// ----------
/// path : str or os.PathLike
///     The file; it is created if it is not there.
///
/// Raises
/// ------
/// StoreError
///     If another process has it open, or the file cannot be opened.
/// CorruptStateError
///     If the file is damaged, or a database of something else.
///
/// Examples
/// --------
/// >>> import tempfile, os
/// >>> from sona.store import EmbeddedStore
/// >>> with EmbeddedStore(os.path.join(tempfile.mkdtemp(), "db")) as store:
/// ...     store.put("acme", "greeting", b"hello")
/// ...     store.get("acme", "greeting"), store.get("other", "greeting")
/// (b'hello', None)
#[pyclass(name = "EmbeddedStore", module = "sona.store", frozen)]
pub(crate) struct PyEmbeddedStore {
    store: EmbeddedStore,
}

#[pymethods]
impl PyEmbeddedStore {
    #[new]
    #[pyo3(signature = (path), text_signature = "(path)")]
    fn new(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let store = detached(py, || EmbeddedStore::open(path))?;
        Ok(Self { store })
    }

    /// Store a value; what was there is replaced.
    ///
    /// Parameters
    /// ----------
    /// scope, key : str
    ///     Not empty, at most 1024 bytes of UTF-8 each, without NUL.
    /// value : bytes
    ///     At most 256 MiB.
    ///
    /// Raises
    /// ------
    /// ValueError, CapacityError
    ///     If scope, key or value is not acceptable, or the store is closed.
    /// StoreError
    ///     If writing fails; nothing is changed then.
    #[pyo3(signature = (scope, key, value), text_signature = "(self, scope, key, value)")]
    fn put(&self, py: Python<'_>, scope: &str, key: &str, value: PyBackedBytes) -> PyResult<()> {
        detached(py, || self.store.put(scope, key, &value))
    }

    /// Store all pairs or none of them, in one transaction.
    ///
    /// Parameters
    /// ----------
    /// scope : str
    ///     As in `put`.
    /// pairs : sequence of (str, bytes)
    ///     Keys and values.
    #[pyo3(signature = (scope, pairs), text_signature = "(self, scope, pairs)")]
    fn put_many(&self, py: Python<'_>, scope: &str, pairs: Vec<(String, PyBackedBytes)>) -> PyResult<()> {
        detached(py, || self.store.put_many(scope, &pairs))
    }

    /// Return the value, or None if the key is not there.
    ///
    /// Raises
    /// ------
    /// CorruptStateError
    ///     If the stored value is damaged.
    #[pyo3(signature = (scope, key), text_signature = "(self, scope, key)")]
    fn get<'py>(&self, py: Python<'py>, scope: &str, key: &str) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let value = detached(py, || self.store.get(scope, key))?;
        Ok(value.map(|v| PyBytes::new(py, &v)))
    }

    /// Remove a key and return whether it was there.
    #[pyo3(signature = (scope, key), text_signature = "(self, scope, key)")]
    fn delete(&self, py: Python<'_>, scope: &str, key: &str) -> PyResult<bool> {
        detached(py, || self.store.delete(scope, key))
    }

    /// Return all pairs of a scope, ascending by the bytes of the key: one consistent view.
    ///
    /// Returns
    /// -------
    /// list of (str, bytes)
    ///     Keys and values.
    #[pyo3(signature = (scope), text_signature = "(self, scope)")]
    fn scan<'py>(&self, py: Python<'py>, scope: &str) -> PyResult<Vec<(String, Bound<'py, PyBytes>)>> {
        let pairs = detached(py, || self.store.scan(scope))?;
        Ok(pairs
            .into_iter()
            .map(|(key, value)| (key, PyBytes::new(py, &value)))
            .collect())
    }

    /// Close the file and give up its lock; a second call does nothing.
    #[pyo3(signature = (), text_signature = "(self)")]
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.store.close());
    }

    /// Whether the store was closed.
    #[getter]
    fn closed(&self) -> bool {
        self.store.is_closed()
    }

    /// Number of pairs and size of the file.
    #[pyo3(signature = (), text_signature = "(self)")]
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let metrics = detached(py, || self.store.metrics())?;
        metrics_dict(py, &metrics)
    }

    fn __enter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    #[pyo3(signature = (*_exc), text_signature = "(self, *_exc)")]
    fn __exit__(&self, py: Python<'_>, _exc: &Bound<'_, PyAny>) {
        self.close(py);
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let path = path_repr(py, self.store.path())?;
        let state = if self.store.is_closed() { ": closed" } else { "" };
        Ok(format!("<EmbeddedStore({path}){state}>"))
    }
}

impl Drop for PyEmbeddedStore {
    fn drop(&mut self) {
        if !self.store.is_inherited() && !self.store.is_closed() {
            warn_unclosed("embedded store", self.store.path());
        }
    }
}
