//! Mixtures of experts.

use super::operands::{Float, Operand, flat, run};
use numpy::PyArrayDyn;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use sona_core::attention::experts;
use sona_core::kernels::split;

/// Logits from which the GIL is released (about 50 µs).
const DETACH_FROM: usize = 8192;
/// Multiply-adds from which cutting the operands up pays, and least sides of a matrix.
const WORK: usize = 1 << 18;
const SIDE: usize = 16;

/// The `k` best experts of the rows of contiguous logits (tokens, experts), flat: indices and gates (tokens, k), probabilities
/// (experts, tokens), both losses; then all choices, by place and then token, sorted by expert, and where each expert's end.
#[pyfunction]
pub(super) fn route_experts<'py>(
    py: Python<'py>,
    logits: &Bound<'py, PyAny>,
    k: usize,
    selected: bool,
) -> PyResult<Bound<'py, PyTuple>> {
    if logits.cast::<PyArrayDyn<f32>>().is_ok() {
        route_of::<f32>(py, logits, k, selected)
    } else {
        route_of::<f64>(py, logits, k, selected)
    }
}

fn route_of<'py, T: Float>(
    py: Python<'py>,
    logits: &Bound<'py, PyAny>,
    k: usize,
    selected: bool,
) -> PyResult<Bound<'py, PyTuple>> {
    let x = Operand::<T>::new(logits)?;
    let (all, count) = (x.values()?.len(), x.axis(0));
    let detach = all >= DETACH_FROM;
    let values = x.take(detach)?;
    let (r, order, ends) = run(py, detach, || {
        let r = experts::route(&values, count, k, selected);
        let (order, ends) = experts::grouped(&r.chosen, k, count);
        (r, order, ends)
    });
    let numbers = |x: Vec<usize>| flat(py, x.into_iter().map(|i| i as i64).collect());
    (
        numbers(r.chosen),
        flat(py, r.gate),
        flat(py, r.probabilities),
        r.balance,
        r.size,
        numbers(order),
        ends,
    )
        .into_pyobject(py)
}

/// Row `order[i]` of the result, flat: row `order[i]`, counted around, of x (n, d) times the transposed matrix of its expert,
/// for contiguous float32 arrays; w (experts, m, d). None where numpy does as well.
#[pyfunction]
pub(super) fn rows_by_expert<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    w: &Bound<'py, PyAny>,
    order: &Bound<'py, PyAny>,
    ends: Vec<usize>,
) -> PyResult<Option<Bound<'py, PyAny>>> {
    if !split::available::<f32>() {
        return Ok(None);
    }
    let (Ok(x), Ok(w)) = (Operand::<f32>::new(x), Operand::<f32>::new(w)) else {
        return Ok(None);
    };
    let order = Operand::<i64>::new(order)?;
    let (&[n, d], &[_, m, depth]) = (x.shape(), w.shape()) else {
        return Ok(None);
    };
    let order: Vec<usize> = order.values()?.iter().map(|i| *i as usize).collect();
    let pays = d >= SIDE && m >= SIDE && order.len() * m * d >= WORK;
    if !(pays && n > 0 && d == depth && x.is_plain() && w.is_plain()) {
        return Ok(None);
    }
    let (values, weights) = (x.values()?, w.values()?.to_vec());
    // The copy that lets the lock go is the one that sorts them.
    let mut rows = Vec::with_capacity(order.len() * d);
    for i in &order {
        rows.extend_from_slice(&values[i % n * d..(i % n + 1) * d]);
    }
    let done = py.detach(|| {
        let mut out = vec![0.0; order.len() * m];
        experts::multiply(&rows, d, &weights, &order, &ends, &mut out).then_some(out)
    });
    Ok(done.map(|out| flat(py, out)))
}
