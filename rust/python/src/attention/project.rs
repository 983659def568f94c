//! Products of rows with rows, where the processor makes them faster than numpy does or most of the numbers are zero.

use super::operands::Operand;
use numpy::{PyArray1, PyArrayMethods};
use pyo3::prelude::*;
use sona_core::kernels::product::RowProducts;

/// Sizes from which cutting the operands up pays: rows of either side, multiply-adds.
const ROWS: usize = 16;
const WORK: usize = 1 << 18;
/// Values of x that are copied at a time, with the interpreter locked; they stay in the second cache.
const SLAB: usize = 1 << 16;

/// x (n, d) times w (m, d) transposed, for contiguous float32 arrays; None where numpy does as well.
///
/// A copy of x as a whole would take as long as the product: slabs of it are copied and multiplied in turns, and others may run
/// Python during the products. Of slabs that are mostly zeros only the rest is copied.
#[pyfunction]
pub(super) fn rows_by_rows<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    w: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
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
    let rows = (SLAB / d).max(4 * ROWS);
    let mut products = RowProducts::new(d);
    let mut out = Vec::new();
    for first in (0..n).step_by(rows) {
        let end = (first + rows).min(n);
        if !products.take(&x.values()?[first * d..end * d]) {
            return Ok(None);
        }
        // Only now: rows that are left to numpy cost no more than a look.
        if out.is_empty() {
            products.weigh(w.values()?);
            out = vec![0.0; n * m];
        }
        let out = &mut out[first * m..end * m];
        if !py.detach(|| products.multiply(out)) {
            return Ok(None);
        }
    }
    Ok(Some(PyArray1::from_vec(py, out).reshape([n, m])?.into_any()))
}
