//! `SnapshotStore`.

use super::{path_repr, unsigned};
use crate::arrays::{detached, metrics_dict};
use crate::errors::IntoPy;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict};
use sona_core::Error;
use sona_core::store::SnapshotStore;
use std::io;
use std::path::PathBuf;

/// Versions of a state in a directory, each written whole and checked on reading.
///
/// A save writes a temporary file, syncs it, renames it and syncs the directory. Symbolic links in the directory are not
/// followed. Safe to share between threads; one process should write.
///
/// Parameters
/// ----------
/// directory : str or os.PathLike
///     It is created if it is not there.
///
/// Examples
/// --------
/// >>> import tempfile
/// >>> from sona.store import SnapshotStore
/// >>> store = SnapshotStore(tempfile.mkdtemp())
/// >>> store.save(b"state", version=1).name
/// 'snapshot-00000000000000000001.sona'
/// >>> store.load(), store.versions
/// (b'state', [1])
#[pyclass(name = "SnapshotStore", module = "sona.store", frozen)]
pub(crate) struct PySnapshotStore {
    store: SnapshotStore,
}

#[pymethods]
impl PySnapshotStore {
    #[new]
    #[pyo3(signature = (directory), text_signature = "(directory)")]
    fn new(py: Python<'_>, directory: PathBuf) -> PyResult<Self> {
        let store = detached(py, || SnapshotStore::open(directory))?;
        Ok(Self { store })
    }

    /// Save a state durably and return its file; a version that exists is replaced whole.
    ///
    /// Parameters
    /// ----------
    /// state : bytes
    ///     The state.
    /// version : int
    ///     From 0 to 2^64 - 1.
    ///
    /// Returns
    /// -------
    /// pathlib.Path
    ///     The file.
    ///
    /// Raises
    /// ------
    /// StoreError
    ///     If writing fails; what was saved before stays.
    /// ValueError
    ///     If the version is out of range.
    #[pyo3(signature = (state, *, version), text_signature = "(self, state, *, version)")]
    fn save(&self, py: Python<'_>, state: PyBackedBytes, version: &Bound<'_, PyAny>) -> PyResult<PathBuf> {
        let version = unsigned("version", version)?;
        detached(py, || self.store.save(&state, version))
    }

    /// Return the state of a version, or of the newest version that is not damaged.
    ///
    /// Parameters
    /// ----------
    /// version : int, optional
    ///     Default: the newest; damaged ones are skipped and counted in `metrics()["skipped"]`.
    ///
    /// Returns
    /// -------
    /// bytes
    ///     The state.
    ///
    /// Raises
    /// ------
    /// CorruptStateError
    ///     If the version asked for, or every version there is, is damaged.
    /// StoreError
    ///     If the version asked for, or any version, is not there.
    #[pyo3(signature = (version = None), text_signature = "(self, version=None)")]
    fn load<'py>(
        &self,
        py: Python<'py>,
        version: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let version = version.map(|v| unsigned("version", v)).transpose()?;
        let state = detached(py, || match version {
            Some(version) => self.store.load(version),
            None => match self.store.latest()? {
                Some((_, state)) => Ok(state),
                None => {
                    let missing = io::Error::from(io::ErrorKind::NotFound);
                    Err(Error::store(
                        "load any version from",
                        self.store.directory(),
                        missing,
                    ))
                }
            },
        })?;
        Ok(PyBytes::new(py, &state))
    }

    /// The versions that have a file, ascending, damaged ones included.
    #[getter]
    fn versions(&self, py: Python<'_>) -> PyResult<Vec<u64>> {
        detached(py, || self.store.versions())
    }

    /// Remove all but the newest versions that are whole.
    ///
    /// Parameters
    /// ----------
    /// keep : int
    ///     How many to keep, at least 1. Damaged versions do not count, so that a whole one is never given up for them.
    ///
    /// Returns
    /// -------
    /// list of int
    ///     The versions that were removed, ascending.
    ///
    /// Raises
    /// ------
    /// ValueError
    ///     If `keep` is less than 1.
    #[pyo3(signature = (keep), text_signature = "(self, keep)")]
    fn prune(&self, py: Python<'_>, keep: &Bound<'_, PyAny>) -> PyResult<Vec<u64>> {
        let keep = usize::try_from(unsigned("keep", keep)?).unwrap_or(usize::MAX);
        detached(py, || self.store.prune(keep))
    }

    /// Remove one version and return whether it was there.
    #[pyo3(signature = (version), text_signature = "(self, version)")]
    fn remove(&self, py: Python<'_>, version: &Bound<'_, PyAny>) -> PyResult<bool> {
        let version = unsigned("version", version)?;
        detached(py, || self.store.remove(version))
    }

    /// The directory, as an absolute path.
    #[getter]
    fn directory(&self) -> PathBuf {
        self.store.directory().into()
    }

    /// Counters and sizes.
    #[pyo3(signature = (), text_signature = "(self)")]
    fn metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        metrics_dict(py, &self.store.metrics().py()?)
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let directory = path_repr(py, self.store.directory())?;
        Ok(format!("SnapshotStore({directory})"))
    }
}
