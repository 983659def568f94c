//! Arrays of either precision, borrowed while the GIL is held or copied for work without it.

use numpy::{Element, PyArray1, PyArrayDyn, PyArrayMethods, PyReadonlyArrayDyn, PyUntypedArrayMethods};
use pyo3::prelude::*;
use sona_core::kernels::real::Real;
use std::borrow::Cow;

/// `f32` or `f64` as numpy knows it.
pub(crate) trait Float: Real + Element {}
impl Float for f32 {}
impl Float for f64 {}

/// A C-contiguous array and its shape.
pub(crate) struct Operand<'py, T: Element> {
    array: PyReadonlyArrayDyn<'py, T>,
}

impl<'py, T: Element> Operand<'py, T> {
    pub(crate) fn new(x: &Bound<'py, PyAny>) -> PyResult<Self> {
        Ok(Self {
            array: x.cast::<PyArrayDyn<T>>()?.try_readonly()?,
        })
    }

    /// C-contiguous and aligned: what the calls below need and [`Operand::new`] does not see to.
    pub(crate) fn is_plain(&self) -> bool {
        self.array.is_c_contiguous() && self.array.data().is_aligned()
    }

    pub(crate) fn shape(&self) -> &[usize] {
        self.array.shape()
    }

    /// Length of the last axis but `back`.
    pub(crate) fn axis(&self, back: usize) -> usize {
        let shape = self.shape();
        shape[shape.len() - 1 - back]
    }

    /// The values, borrowed.
    pub(crate) fn values(&self) -> PyResult<&[T]> {
        Ok(self.array.as_slice()?)
    }

    /// The values: copied where `copy` says so, because they will be read without the GIL.
    pub(crate) fn take(&self, copy: bool) -> PyResult<Cow<'_, [T]>>
    where
        T: Copy,
    {
        let values = self.values()?;
        Ok(if copy {
            Cow::Owned(values.to_vec())
        } else {
            Cow::Borrowed(values)
        })
    }
}

/// Index map of one operand: the array that each head reads. `None`: head b reads array b.
pub(crate) fn map(x: Option<&Bound<'_, PyAny>>, heads: usize) -> PyResult<Vec<usize>> {
    match x {
        None => Ok((0..heads).collect()),
        Some(x) => Ok(x
            .cast::<PyArray1<i64>>()?
            .try_readonly()?
            .as_slice()?
            .iter()
            .map(|i| usize::try_from(*i).unwrap_or(0))
            .collect()),
    }
}

/// A flat numpy array that owns `data`; Python gives it its shape.
pub(crate) fn flat<'py, T: Element>(py: Python<'py>, data: Vec<T>) -> Bound<'py, PyAny> {
    PyArray1::from_vec(py, data).into_any()
}

/// Runs `f` without the GIL when `detach` is set.
pub(crate) fn run<R: Send>(py: Python<'_>, detach: bool, f: impl FnOnce() -> R + Send) -> R {
    if detach { py.detach(f) } else { f() }
}
