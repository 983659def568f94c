//! Selective scans: S6 and SSD.

use super::operands::{Float, Operand, flat, run};
use numpy::PyArrayDyn;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use sona_core::attention::scan::{Dual, Selective};
use std::borrow::Cow;

type Given<'py> = Vec<Option<Bound<'py, PyAny>>>;

/// Multiply-adds (about 50 µs) from which the GIL is released.
const DETACH_FROM: usize = 200_000;

struct Arrays<'py, T: numpy::Element>(Vec<Option<Operand<'py, T>>>);

impl<'py, T: Float> Arrays<'py, T> {
    fn new(given: &Given<'py>) -> PyResult<Self> {
        given
            .iter()
            .map(|x| x.as_ref().map(Operand::new).transpose())
            .collect::<PyResult<_>>()
            .map(Self)
    }

    fn values(&self, copy: bool) -> PyResult<Vec<Option<Cow<'_, [T]>>>> {
        self.0
            .iter()
            .map(|x| x.as_ref().map(|x| x.take(copy)).transpose())
            .collect()
    }

    fn axis(&self, i: usize, back: usize) -> usize {
        self.0[i].as_ref().map_or(0, |x| x.axis(back))
    }
}

fn get<'a, T: Clone>(values: &'a [Option<Cow<'_, [T]>>], i: usize) -> &'a [T] {
    values[i].as_deref().unwrap_or(&[])
}

fn selective<'a, T: Float>(
    values: &'a [Option<Cow<'_, [T]>>],
    size: [usize; 4],
    softplus: bool,
) -> Selective<'a, T> {
    let [batch, steps, d, n] = size;
    Selective {
        batch,
        steps,
        d,
        n,
        u: get(values, 0),
        delta: get(values, 1),
        a: get(values, 2),
        b: get(values, 3),
        c: get(values, 4),
        skip: values[5].as_deref(),
        z: values[6].as_deref(),
        bias: values[7].as_deref(),
        start: values[8].as_deref(),
        softplus,
    }
}

fn dual<'a, T: Float>(values: &'a [Option<Cow<'_, [T]>>], size: [usize; 6], chunk: usize) -> Dual<'a, T> {
    let [batch, steps, heads, p, groups, n] = size;
    Dual {
        batch,
        steps,
        heads,
        p,
        groups,
        n,
        chunk,
        x: get(values, 0),
        dt: get(values, 1),
        a: get(values, 2),
        b: get(values, 3),
        c: get(values, 4),
        skip: values[5].as_deref(),
        start: values[6].as_deref(),
    }
}

fn is_single(given: &Given<'_>) -> bool {
    given[0]
        .as_ref()
        .is_some_and(|x| x.cast::<PyArrayDyn<f32>>().is_ok())
}

/// S6 over contiguous arrays (batch, steps, …) of one precision, in the order u, delta, A, B, C, D, z, delta_bias, h0 (None where
/// not given). Returns flat (y, state).
#[pyfunction]
pub(super) fn selective_scan<'py>(
    py: Python<'py>,
    given: Given<'py>,
    softplus: bool,
) -> PyResult<Bound<'py, PyTuple>> {
    if is_single(&given) {
        selective_forward::<f32>(py, &given, softplus)
    } else {
        selective_forward::<f64>(py, &given, softplus)
    }
}

fn selective_size<T: Float>(a: &Arrays<'_, T>) -> [usize; 4] {
    let batch = a.0[0].as_ref().map_or(0, |x| x.shape()[0]);
    [batch, a.axis(0, 1), a.axis(0, 0), a.axis(2, 0)]
}

fn selective_forward<'py, T: Float>(
    py: Python<'py>,
    given: &Given<'py>,
    softplus: bool,
) -> PyResult<Bound<'py, PyTuple>> {
    let arrays = Arrays::<T>::new(given)?;
    let size = selective_size(&arrays);
    let detach = size.iter().product::<usize>() >= DETACH_FROM;
    let values = arrays.values(detach)?;
    let (y, state) = run(py, detach, || {
        let s = selective(&values, size, softplus);
        let mut y = vec![T::ZERO; s.u.len()];
        let mut state = vec![T::ZERO; size[0] * size[2] * size[3]];
        s.run(&mut y, &mut state);
        (y, state)
    });
    PyTuple::new(py, [flat(py, y), flat(py, state)])
}

/// Gradients of u, delta, A, B, C, D, z, delta_bias and h0, flat.
#[pyfunction]
pub(super) fn selective_scan_vjp<'py>(
    py: Python<'py>,
    given: Given<'py>,
    softplus: bool,
    dy: &Bound<'py, PyAny>,
    dstate: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyTuple>> {
    if is_single(&given) {
        selective_backward::<f32>(py, &given, softplus, dy, dstate)
    } else {
        selective_backward::<f64>(py, &given, softplus, dy, dstate)
    }
}

fn selective_backward<'py, T: Float>(
    py: Python<'py>,
    given: &Given<'py>,
    softplus: bool,
    dy: &Bound<'py, PyAny>,
    dstate: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyTuple>> {
    let arrays = Arrays::<T>::new(given)?;
    let size = selective_size(&arrays);
    let values = arrays.values(true)?;
    let (dy, dstate) = (Operand::<T>::new(dy)?, Operand::<T>::new(dstate)?);
    let (dy, dstate) = (dy.take(true)?, dstate.take(true)?);
    let g = py.detach(|| selective(&values, size, softplus).vjp(&dy, &dstate));
    PyTuple::new(
        py,
        [g.u, g.delta, g.a, g.b, g.c, g.skip, g.z, g.bias, g.start].map(|x| flat(py, x)),
    )
}

/// SSD over contiguous arrays (batch, steps, …) of one precision, in the order x, dt, A, B, C, D, h0. Returns flat (y, state).
#[pyfunction]
pub(super) fn ssd<'py>(py: Python<'py>, given: Given<'py>, chunk: usize) -> PyResult<Bound<'py, PyTuple>> {
    if is_single(&given) {
        dual_forward::<f32>(py, &given, chunk)
    } else {
        dual_forward::<f64>(py, &given, chunk)
    }
}

fn dual_size<T: Float>(a: &Arrays<'_, T>) -> [usize; 6] {
    let batch = a.0[0].as_ref().map_or(0, |x| x.shape()[0]);
    [
        batch,
        a.axis(0, 2),
        a.axis(0, 1),
        a.axis(0, 0),
        a.axis(3, 1),
        a.axis(3, 0),
    ]
}

fn dual_forward<'py, T: Float>(
    py: Python<'py>,
    given: &Given<'py>,
    chunk: usize,
) -> PyResult<Bound<'py, PyTuple>> {
    let arrays = Arrays::<T>::new(given)?;
    let size = dual_size(&arrays);
    let [batch, steps, heads, p, _, n] = size;
    let detach = batch * steps * heads * p * n >= DETACH_FROM;
    let values = arrays.values(detach)?;
    let (y, state) = run(py, detach, || {
        let s = dual(&values, size, chunk);
        let mut y = vec![T::ZERO; s.x.len()];
        let mut state = vec![T::ZERO; batch * heads * p * n];
        s.run(&mut y, &mut state);
        (y, state)
    });
    PyTuple::new(py, [flat(py, y), flat(py, state)])
}

/// Gradients of x, dt, A, B, C, D and h0, flat.
#[pyfunction]
pub(super) fn ssd_vjp<'py>(
    py: Python<'py>,
    given: Given<'py>,
    chunk: usize,
    dy: &Bound<'py, PyAny>,
    dstate: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyTuple>> {
    if is_single(&given) {
        dual_backward::<f32>(py, &given, chunk, dy, dstate)
    } else {
        dual_backward::<f64>(py, &given, chunk, dy, dstate)
    }
}

fn dual_backward<'py, T: Float>(
    py: Python<'py>,
    given: &Given<'py>,
    chunk: usize,
    dy: &Bound<'py, PyAny>,
    dstate: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyTuple>> {
    let arrays = Arrays::<T>::new(given)?;
    let size = dual_size(&arrays);
    let values = arrays.values(true)?;
    let (dy, dstate) = (Operand::<T>::new(dy)?, Operand::<T>::new(dstate)?);
    let (dy, dstate) = (dy.take(true)?, dstate.take(true)?);
    let g = py.detach(|| dual(&values, size, chunk).vjp(&dy, &dstate));
    PyTuple::new(
        py,
        [g.x, g.dt, g.a, g.b, g.c, g.skip, g.start].map(|x| flat(py, x)),
    )
}
