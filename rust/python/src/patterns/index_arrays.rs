//! Arrays that go into an index and come out of it.

use crate::arrays::asarray;
use crate::errors::{IntoPy, to_py};
use numpy::{
    PyArray1, PyArrayDescrMethods, PyArrayDyn, PyArrayMethods, PyReadonlyArrayDyn, PyUntypedArray,
    PyUntypedArrayMethods,
};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use sona_core::Error;
use sona_core::error::check_dim;
use sona_core::patterns::index::Hit;

/// Ids and scores.
pub(super) type Found<'py> = (Bound<'py, PyAny>, Bound<'py, PyAny>);

/// One-dimensional int64 ids from anything that holds integers.
pub(super) fn int_ids(x: &Bound<'_, PyAny>, scalar: bool) -> PyResult<Vec<i64>> {
    let py = x.py();
    let np = py.import("numpy")?;
    let a = np.call_method1("asarray", (x,))?.cast_into::<PyUntypedArray>()?;
    let kind = a.dtype().kind();
    if !matches!(kind, b'i' | b'u') && a.len() > 0 {
        return Err(PyTypeError::new_err(format!(
            "ids: expected integers, got dtype {}",
            a.dtype()
        )));
    }
    if a.ndim() != 1 && !(scalar && a.ndim() == 0) {
        return Err(to_py(Error::shape("ids", "(n,)", format!("{:?}", a.shape()))));
    }
    if kind == b'u' && a.dtype().itemsize() == 8 && a.len() > 0 {
        let largest = a.call_method0("max")?.extract::<u64>()?;
        if i64::try_from(largest).is_err() {
            return Err(to_py(Error::value("ids", "64-bit signed integers", largest)));
        }
    }
    let kwargs = PyDict::new(py);
    kwargs.set_item("dtype", "int64")?;
    let a = np.call_method("ascontiguousarray", (a,), Some(&kwargs))?;
    Ok(a.cast_into::<PyArrayDyn<i64>>()?.to_vec()?)
}

/// `(n, dim)` float32, checked for its shape only.
pub(super) fn matrix<'py>(
    name: &'static str,
    x: &Bound<'py, PyAny>,
    dim: usize,
) -> PyResult<PyReadonlyArrayDyn<'py, f32>> {
    let a = asarray(name, x)?;
    let [_, d] = *a.shape() else {
        return Err(to_py(Error::shape(
            name,
            format!("(n, {dim})"),
            format!("{:?}", a.shape()),
        )));
    };
    check_dim(name, dim, d).py()?;
    Ok(a.try_readonly()?)
}

/// A count that must not be negative; zero is for the core to judge.
pub(super) fn count(name: &'static str, value: i64) -> PyResult<usize> {
    usize::try_from(value).map_err(|_| to_py(Error::value(name, "at least 1", value)))
}

/// Ids and scores as arrays of `k` columns, padded with −1 and −inf.
pub(super) fn emit<'py>(
    py: Python<'py>,
    found: &[Vec<Hit>],
    k: usize,
    batched: bool,
) -> PyResult<Found<'py>> {
    let mut ids = vec![-1i64; found.len() * k];
    let mut scores = vec![f32::NEG_INFINITY; found.len() * k];
    for (row, hits) in found.iter().enumerate() {
        for (at, hit) in (row * k..).zip(hits) {
            ids[at] = hit.id;
            scores[at] = hit.score;
        }
    }
    let (ids, scores) = (PyArray1::from_vec(py, ids), PyArray1::from_vec(py, scores));
    if batched {
        let shape = [found.len(), k];
        return Ok((ids.reshape(shape)?.into_any(), scores.reshape(shape)?.into_any()));
    }
    Ok((ids.into_any(), scores.into_any()))
}
