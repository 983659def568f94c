//! Products of rows with rows, where the processor makes them faster than numpy does.

use super::operands::Operand;
use numpy::{PyArray1, PyArrayMethods};
use pyo3::prelude::*;
use sona_core::kernels::split;

/// Sizes from which cutting the operands up pays: rows of either side, multiply-adds.
const ROWS: usize = 16;
const WORK: usize = 1 << 18;

/// x (n, d) times w (m, d) transposed, for contiguous float32 arrays; None where numpy does as well. The interpreter stays locked:
/// a copy of x would take as long as the product.
#[pyfunction]
pub(super) fn rows_by_rows<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    w: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    if !split::available::<f32>() {
        return Ok(None);
    }
    let (Ok(x), Ok(w)) = (Operand::<f32>::new(x), Operand::<f32>::new(w)) else {
        return Ok(None);
    };
    let (&[n, d], &[m, depth]) = (x.shape(), w.shape()) else {
        return Ok(None);
    };
    let pays = n >= ROWS && m >= ROWS && n * m * d >= WORK;
    if !(pays && d == depth && x.is_plain() && w.is_plain()) {
        return Ok(None);
    }
    let mut out = vec![0.0; n * m];
    if !split::rows_by_rows(x.values()?, w.values()?, d, &mut out) {
        return Ok(None);
    }
    Ok(Some(PyArray1::from_vec(py, out).reshape([n, m])?.into_any()))
}
