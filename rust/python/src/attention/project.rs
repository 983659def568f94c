//! Products of rows with rows, where the processor makes them faster than numpy does or most of the numbers are zero.

use super::operands::Operand;
use numpy::{PyArray1, PyArrayMethods};
use pyo3::prelude::*;
use sona_core::kernels::nonzero::{Nonzero, turned};
use sona_core::kernels::projection::Projection;
use sona_core::kernels::split;

/// Sizes from which cutting the operands up pays: rows of either side, multiply-adds.
const ROWS: usize = 16;
const WORK: usize = 1 << 18;
/// Values of x that are copied at a time, with the interpreter locked; they stay in the second cache.
const SLAB: usize = 1 << 16;

/// What a slab of x is multiplied with: made once it is needed.
#[derive(Default)]
struct Weights {
    values: Vec<f32>,
    parted: Option<Projection<f32>>,
    turned: Option<Vec<f32>>,
}

/// A slab of x without the interpreter's lock.
#[derive(Default)]
struct Slab {
    all: Vec<f32>,
    nonzero: Nonzero<f32>,
}

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
    let (mut weights, mut slab) = (Weights::default(), Slab::default());
    let mut sparse = true;
    let mut out = Vec::new();
    for first in (0..n).step_by(rows) {
        let end = (first + rows).min(n);
        let some = &x.values()?[first * d..end * d];
        sparse = sparse && slab.nonzero.gather(some, d);
        if !sparse {
            if !split::available::<f32>() {
                return Ok(None);
            }
            slab.all.clear();
            slab.all.extend_from_slice(some);
        }
        if out.is_empty() {
            weights.values = w.values()?.to_vec();
            out = vec![0.0; n * m];
        }
        let out = &mut out[first * m..end * m];
        if !py.detach(|| weights.multiply(&slab, sparse, d, out)) {
            return Ok(None);
        }
    }
    Ok(Some(PyArray1::from_vec(py, out).reshape([n, m])?.into_any()))
}

impl Weights {
    /// False where it cannot be done.
    fn multiply(&mut self, slab: &Slab, sparse: bool, d: usize, out: &mut [f32]) -> bool {
        if sparse {
            self.turned = self.turned.take().or_else(|| turned(&self.values, d));
            let Some(turned) = &self.turned else { return false };
            slab.nonzero.multiply(turned, turned.len() / d, out);
            return true;
        }
        self.parted = self.parted.take().or_else(|| Projection::new(&self.values, d));
        self.parted.as_ref().is_some_and(|x| x.multiply(&slab.all, out))
    }
}
