//! The k largest of each row.

use super::operands::{Operand, run};
use numpy::{PyArray1, PyArrayMethods};
use pyo3::prelude::*;
use sona_core::attention::winners::{winners_f32, winners_f64};

/// Values (about 50 µs) from which the GIL is released.
const DETACH_FROM: usize = 50_000;

fn rows<'py, T: numpy::Element + Copy + Sync>(
    py: Python<'py>,
    x: &Operand<'_, T>,
    k: usize,
    of: impl Fn(&[T], usize) -> Option<Vec<usize>> + Sync,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    let Some((width, lead)) = x.shape().split_last() else {
        return Ok(None);
    };
    if k > *width || !x.is_plain() {
        return Ok(None);
    }
    let n: usize = lead.iter().product();
    let detach = n * width >= DETACH_FROM;
    let values = x.take(detach)?;
    let found = run(py, detach, || {
        let mut out = Vec::with_capacity(n * k);
        for row in values.chunks_exact((*width).max(1)) {
            out.extend(of(row, k)?.into_iter().map(|i| i as i64));
        }
        Some(out)
    });
    let Some(found) = found else { return Ok(None) };
    let found = PyArray1::from_vec(py, found);
    if lead.is_empty() {
        return Ok(Some(found.into_any()));
    }
    let shape: Vec<usize> = lead.iter().copied().chain([k]).collect();
    Ok(Some(found.reshape(shape)?.into_any()))
}

/// Positions (…, k) of the k largest of each row of x (…, n). None where x is no contiguous array of floats with rows of at least k,
/// or holds NaN.
#[pyfunction]
pub(super) fn winners<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    k: usize,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    if let Ok(x) = Operand::<f32>::new(x) {
        return rows(py, &x, k, winners_f32);
    }
    match Operand::<f64>::new(x) {
        Ok(x) => rows(py, &x, k, winners_f64),
        Err(_) => Ok(None),
    }
}
