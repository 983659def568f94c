//! Products of rows with rows, where the processor makes them faster than numpy does.

use super::operands::Operand;
use numpy::{PyArray1, PyArrayMethods};
use pyo3::prelude::*;
use sona_core::kernels::projection::Projection;
use sona_core::kernels::split;

/// Sizes from which cutting the operands up pays: rows of either side, multiply-adds.
const ROWS: usize = 16;
const WORK: usize = 1 << 18;
/// Values of x that are copied at a time, with the interpreter locked; they stay in the second cache.
const SLAB: usize = 1 << 16;

/// x (n, d) times w (m, d) transposed, for contiguous float32 arrays; None where numpy does as well.
///
/// A copy of x as a whole would take as long as the product: slabs of it are copied and multiplied in turns, and others may run
/// Python during the products.
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
    let weights = w.values()?.to_vec();
    let Some(projection) = py.detach(|| Projection::new(&weights, d)) else {
        return Ok(None);
    };
    let mut out = vec![0.0; n * m];
    let rows = (SLAB / d).max(4 * ROWS);
    let mut slab = Vec::with_capacity(rows.min(n) * d);
    for (at, out) in out.chunks_mut(rows * m).enumerate() {
        slab.clear();
        let end = ((at + 1) * rows).min(n);
        slab.extend_from_slice(&x.values()?[at * rows * d..end * d]);
        if !py.detach(|| projection.multiply(&slab, out)) {
            return Ok(None);
        }
    }
    Ok(Some(PyArray1::from_vec(py, out).reshape([n, m])?.into_any()))
}
