//! Arrays in and out: anything `np.asarray(x, dtype=float32)` takes comes in, C-contiguous float32 goes out.
//!
//! A borrowed slice is never read while the GIL is released: long calls copy first (`to_vec`).

use crate::errors::IntoPy;
use numpy::{PyArray1, PyArray2, PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use sona_core::error::{check_dim, check_finite};
use sona_core::kernels::{Team, copied};
use sona_core::metrics::{Metric, Metrics};
use sona_core::{Error, Result};

/// A C-contiguous, aligned float32 array (the caller's own where it already is one, else a converted copy).
pub(crate) fn asarray<'py>(
    name: &'static str,
    x: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyArrayDyn<f32>>> {
    if let Ok(a) = x.cast::<PyArrayDyn<f32>>() {
        if a.is_c_contiguous() && aligned(a) {
            return Ok(a.clone());
        }
    }
    let py = x.py();
    let kwargs = PyDict::new(py);
    kwargs.set_item("dtype", "float32")?;
    let out = py
        .import("numpy")?
        .call_method("ascontiguousarray", (x,), Some(&kwargs))
        .map_err(|e| {
            let got = x
                .get_type()
                .name()
                .map_or_else(|_| "an object".to_owned(), |n| n.to_string());
            let err = crate::errors::to_py(Error::shape(name, "an array of numbers", format!("{got} ({e})")));
            err.set_cause(py, Some(e));
            err
        })?;
    // ascontiguousarray turns a scalar into shape (1,): a scalar is not a vector.
    if x.getattr("ndim").ok().and_then(|n| n.extract::<usize>().ok()) == Some(0)
        || x.is_instance_of::<pyo3::types::PyFloat>()
    {
        return Err(crate::errors::to_py(Error::shape(
            name,
            "at least one axis",
            "a scalar",
        )));
    }
    let out = out.cast_into::<PyArrayDyn<f32>>()?;
    if aligned(&out) {
        Ok(out)
    } else {
        // A view at an odd offset of other memory: contiguous for numpy, but no slice of float32.
        Ok(out.call_method0("copy")?.cast_into::<PyArrayDyn<f32>>()?)
    }
}

/// A setting that counts something: 0 or above, as a `ConfigError` and not an overflow.
pub(crate) fn whole<T: TryFrom<i128>>(name: &'static str, value: i128) -> PyResult<T> {
    T::try_from(value)
        .map_err(|_| crate::errors::to_py(Error::config(name, "a whole number of at least 0", value)))
}

/// An argument that counts or numbers something: 0 or above, as a `ValueError` and not an overflow.
pub(crate) fn place<T: TryFrom<i128>>(name: &'static str, value: i128) -> PyResult<T> {
    T::try_from(value)
        .map_err(|_| crate::errors::to_py(Error::value(name, "a whole number of at least 0", value)))
}

fn aligned(a: &Bound<'_, PyArrayDyn<f32>>) -> bool {
    a.data().is_aligned()
}

/// One vector or a batch of vectors, checked: right dimension, all finite, copied out of numpy.
pub(crate) struct Rows {
    /// Row-major values, `n * d`.
    pub data: Vec<f32>,
    /// Number of rows.
    pub n: usize,
    /// True if the caller passed `(n, d)`, false for `(d,)`.
    pub batched: bool,
}

impl Rows {
    /// `(d,)` or `(n, d)`; `d` is `dim`.
    pub(crate) fn extract(name: &'static str, x: &Bound<'_, PyAny>, dim: usize) -> PyResult<Self> {
        let a = asarray(name, x)?;
        let shape = a.shape();
        let (n, d, batched) = match *shape {
            [d] => (1, d, false),
            [n, d] => (n, d, true),
            _ => {
                return Err(crate::errors::to_py(Error::shape(
                    name,
                    format!("({dim},) or (n, {dim})"),
                    format!("{shape:?}"),
                )));
            }
        };
        check_dim(name, dim, d).py()?;
        let data = a.to_vec()?;
        check_finite(name, &data).py()?;
        Ok(Self { data, n, batched })
    }

    /// The result array of the caller's shape.
    pub(crate) fn emit<'py>(
        py: Python<'py>,
        data: Vec<f32>,
        d: usize,
        batched: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let flat = PyArray1::from_vec(py, data);
        if batched {
            let n = flat.len().checked_div(d).unwrap_or(0);
            Ok(flat.reshape([n, d])?.into_any())
        } else {
            Ok(flat.into_any())
        }
    }
}

/// Exactly `(d,)`, finite.
pub(crate) fn vector(name: &'static str, x: &Bound<'_, PyAny>, dim: Option<usize>) -> PyResult<Vec<f32>> {
    let a = asarray(name, x)?;
    if a.ndim() != 1 {
        let want = dim.map_or_else(|| "(d,)".to_owned(), |d| format!("({d},)"));
        return Err(crate::errors::to_py(Error::shape(
            name,
            want,
            format!("{:?}", a.shape()),
        )));
    }
    let v = a.to_vec()?;
    if let Some(d) = dim {
        check_dim(name, d, v.len()).py()?;
    }
    check_finite(name, &v).py()?;
    Ok(v)
}

/// Exactly `(n, d)`, finite. Returns values and `(n, d)`.
pub(crate) fn matrix(
    name: &'static str,
    x: &Bound<'_, PyAny>,
    dim: Option<usize>,
) -> PyResult<(Vec<f32>, usize, usize)> {
    let a = asarray(name, x)?;
    let [n, d] = *a.shape() else {
        let want = dim.map_or_else(|| "(n, d)".to_owned(), |d| format!("(n, {d})"));
        return Err(crate::errors::to_py(Error::shape(
            name,
            want,
            format!("{:?}", a.shape()),
        )));
    };
    if let Some(dim) = dim {
        check_dim(name, dim, d).py()?;
    }
    let v = a.to_vec()?;
    check_finite(name, &v).py()?;
    Ok((v, n, d))
}

/// Exactly `(n, d)`, copied by all threads of the team and not checked. Returns values and d.
pub(crate) fn copied_matrix(
    name: &'static str,
    x: &Bound<'_, PyAny>,
    team: &Team,
) -> PyResult<(Vec<f32>, usize)> {
    let a = asarray(name, x)?;
    let [_, d] = *a.shape() else {
        return Err(crate::errors::to_py(Error::shape(
            name,
            "(n, d)",
            format!("{:?}", a.shape()),
        )));
    };
    // The GIL is held while the team reads.
    let view = a.try_readonly()?;
    Ok((copied(view.as_slice()?, team), d))
}

/// `(rows, cols)` array from row-major values.
pub(crate) fn to_matrix(
    py: Python<'_>,
    data: Vec<f32>,
    rows: usize,
    cols: usize,
) -> PyResult<Bound<'_, PyArray2<f32>>> {
    PyArray1::from_vec(py, data).reshape([rows, cols])
}

/// `metrics()` as a dict.
pub(crate) fn metrics_dict<'py>(py: Python<'py>, metrics: &Metrics) -> PyResult<Bound<'py, PyDict>> {
    let out = PyDict::new(py);
    for (name, value) in metrics {
        match value {
            Metric::Int(v) => out.set_item(name, v)?,
            Metric::Float(v) => out.set_item(name, v)?,
        }
    }
    Ok(out)
}

/// Runs a long computation without the GIL. Everything it touches is owned or shared, never a numpy slice.
pub(crate) fn detached<T: Send>(py: Python<'_>, f: impl FnOnce() -> Result<T> + Send) -> PyResult<T> {
    py.detach(f).py()
}
