//! The k largest of each row.

use super::operands::{Operand, flat};
use numpy::PyArrayDyn;
use pyo3::prelude::*;
use sona_core::attention::winners::{winners_f32, winners_f64};

fn rows<T: numpy::Element>(
    py: Python<'_>,
    x: &Operand<'_, T>,
    k: usize,
    of: impl Fn(&[T], usize) -> Option<Vec<usize>>,
) -> PyResult<Option<Py<PyAny>>> {
    let width = x.axis(0);
    let mut out = Vec::with_capacity(x.values()?.len() / width.max(1) * k);
    for row in x.values()?.chunks_exact(width.max(1)) {
        let Some(found) = of(row, k) else {
            return Ok(None);
        };
        out.extend(found.into_iter().map(|i| i as i64));
    }
    Ok(Some(flat(py, out).unbind()))
}

/// Positions of the k largest of each row of a contiguous array, flat; None if there is NaN.
#[pyfunction]
pub(super) fn winners(py: Python<'_>, x: &Bound<'_, PyAny>, k: usize) -> PyResult<Option<Py<PyAny>>> {
    if x.cast::<PyArrayDyn<f32>>().is_ok() {
        rows::<f32>(py, &Operand::new(x)?, k, winners_f32)
    } else {
        rows::<f64>(py, &Operand::new(x)?, k, winners_f64)
    }
}
