//! The k largest of each row.

use super::operands::{Operand, flat, run};
use numpy::PyArrayDyn;
use pyo3::prelude::*;
use sona_core::attention::winners::{winners_f32, winners_f64};

/// Values (about 50 µs) from which the GIL is released.
const DETACH_FROM: usize = 50_000;

fn rows<T: numpy::Element + Copy + Sync>(
    py: Python<'_>,
    x: &Operand<'_, T>,
    k: usize,
    of: impl Fn(&[T], usize) -> Option<Vec<usize>> + Sync,
) -> PyResult<Option<Py<PyAny>>> {
    let width = x.axis(0);
    let detach = x.values()?.len() >= DETACH_FROM;
    let values = x.take(detach)?;
    let found = run(py, detach, || {
        let mut out = Vec::with_capacity(values.len() / width.max(1) * k);
        for row in values.chunks_exact(width.max(1)) {
            out.extend(of(row, k)?.into_iter().map(|i| i as i64));
        }
        Some(out)
    });
    Ok(found.map(|out| flat(py, out).unbind()))
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
