//! Attention by whole rows: differential, and in the Poincaré ball. Rules are those of `attend`, dense ones only.

use super::call::{Arrays, DETACH_FROM, RuleArrays, parse};
use super::operands::{Float, Operand, flat, run};
use numpy::PyArrayDyn;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use sona_core::attention::ball::Ball;
use sona_core::attention::whole::differential;

/// The difference of two softmax maps of contiguous arrays of one precision, flat; `maps` as in `attend`, for both; `lam` has one
/// weight per head.
#[pyfunction]
#[allow(clippy::too_many_arguments, reason = "operands of two maps, layout, rule")]
pub(super) fn differential_attend<'py>(
    py: Python<'py>,
    first: [Bound<'py, PyAny>; 2],
    second: [Bound<'py, PyAny>; 2],
    v: &Bound<'py, PyAny>,
    maps: Option<&Bound<'py, PyTuple>>,
    scale: f64,
    lam: &Bound<'py, PyAny>,
    rule: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    if v.cast::<PyArrayDyn<f32>>().is_ok() {
        difference::<f32>(py, [&first, &second], v, maps, scale, lam, rule)
    } else {
        difference::<f64>(py, [&first, &second], v, maps, scale, lam, rule)
    }
}

fn difference<'py, T: Float>(
    py: Python<'py>,
    [first, second]: [&[Bound<'py, PyAny>; 2]; 2],
    v: &Bound<'py, PyAny>,
    maps: Option<&Bound<'py, PyTuple>>,
    scale: f64,
    lam: &Bound<'py, PyAny>,
    rule: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    let a = Arrays::<T>::new([&first[0], &first[1], v])?;
    let b = Arrays::<T>::new([&second[0], &second[1], v])?;
    let lam = Operand::<T>::new(lam)?.values()?.to_vec();
    let [n, m, d, dv] = a.size();
    let detach = lam.len() * n * m * (d + dv) >= DETACH_FROM;
    let (a, b) = (a.call(maps, scale, detach)?, b.call(maps, scale, detach)?);
    let arrays = RuleArrays::new(rule)?;
    let data = parse(rule, &arrays, n, detach)?;
    let out = run(py, detach, || {
        let (first, second) = (a.heads(), b.heads());
        let mut out = vec![T::ZERO; first.len() * n * dv];
        differential(&first, &second, &lam, |b| data.dense(b, n, m), &mut out);
        out
    });
    Ok(flat(py, out))
}

/// Attention in the Poincaré ball of curvature −c with logits −beta·distance; arguments as in `attend`. `limit`: largest norm;
/// `near`: part of the squared norms below which a squared distance is computed from the difference.
#[pyfunction]
#[allow(clippy::too_many_arguments, reason = "operands, layout, geometry, rule")]
pub(super) fn ball_attend<'py>(
    py: Python<'py>,
    q: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    v: &Bound<'py, PyAny>,
    maps: Option<&Bound<'py, PyTuple>>,
    c: f64,
    beta: f64,
    limit: f64,
    near: f64,
    rule: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    if q.cast::<PyArrayDyn<f32>>().is_ok() {
        ball::<f32>(py, [q, k, v], maps, [c, beta, limit, near], rule)
    } else {
        ball::<f64>(py, [q, k, v], maps, [c, beta, limit, near], rule)
    }
}

fn ball<'py, T: Float>(
    py: Python<'py>,
    qkv: [&Bound<'py, PyAny>; 3],
    maps: Option<&Bound<'py, PyTuple>>,
    geometry: [f64; 4],
    rule: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    let arrays = Arrays::<T>::new(qkv)?;
    let [n, m, d, dv] = arrays.size();
    let detach = n * m * (d + dv) >= DETACH_FROM;
    let call = arrays.call(maps, 1.0, detach)?;
    let arrays = RuleArrays::new(rule)?;
    let data = parse(rule, &arrays, n, detach)?;
    let [c, beta, limit, near] = geometry.map(T::of);
    let out = run(py, detach, || {
        let heads = call.heads();
        let mut out = vec![T::ZERO; heads.len() * n * dv];
        let ball = Ball { c, beta, limit, near };
        ball.attend(&heads, |b| data.dense(b, n, m), &mut out);
        out
    });
    Ok(flat(py, out))
}
