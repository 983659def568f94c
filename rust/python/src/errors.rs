//! The one funnel from `sona_core::Error` to Python exceptions (defined in `sona.exceptions`).

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;
use sona_core::Error;

fn class(py: Python<'_>, cell: &'static PyOnceLock<Py<PyType>>, name: &str) -> PyResult<Py<PyType>> {
    let ty = cell.get_or_try_init(py, || -> PyResult<Py<PyType>> {
        Ok(py
            .import("sona.exceptions")?
            .getattr(name)?
            .cast_into::<PyType>()?
            .unbind())
    })?;
    Ok(ty.clone_ref(py))
}

/// A Python exception for a core error.
pub(crate) fn to_py(err: Error) -> PyErr {
    Python::attach(|py| {
        macro_rules! exc {
            ($name:literal, $args:expr) => {{
                static CELL: PyOnceLock<Py<PyType>> = PyOnceLock::new();
                match class(py, &CELL, $name) {
                    Ok(ty) => PyErr::from_type(ty.into_bound(py), $args),
                    Err(e) => e,
                }
            }};
        }
        let msg = err.to_string();
        match err {
            Error::Config { .. } => exc!("ConfigError", (msg,)),
            Error::Value { .. } => pyo3::exceptions::PyValueError::new_err(msg),
            Error::Shape { .. } => exc!("ShapeError", (msg,)),
            Error::Dimension { .. } => exc!("DimensionMismatch", (msg,)),
            Error::NotFinite { .. } => exc!("NotFiniteError", (msg,)),
            Error::Capacity { .. } => exc!("CapacityError", (msg,)),
            Error::Store { source, .. } => match source.raw_os_error() {
                Some(errno) => exc!("StoreError", (errno, msg)),
                None => exc!("StoreError", (msg,)),
            },
            Error::Corrupt { .. } => exc!("CorruptStateError", (msg,)),
            Error::Scope { .. } => exc!("ScopeError", (msg,)),
            Error::Learning(_) => exc!("LearningError", (msg,)),
        }
    })
}

/// `?`-friendly conversion of core results.
pub(crate) trait IntoPy<T> {
    /// Maps the error through [`to_py`].
    fn py(self) -> PyResult<T>;
}

impl<T> IntoPy<T> for sona_core::Result<T> {
    fn py(self) -> PyResult<T> {
        self.map_err(to_py)
    }
}
