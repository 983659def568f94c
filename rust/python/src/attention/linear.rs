//! Attention in linear time.

use super::call::{Arrays, DETACH_FROM};
use super::operands::{Float, Operand, flat, run};
use numpy::PyArrayDyn;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use sona_core::attention::linear::{Features, Linear};

/// Linear attention of contiguous arrays `(…, n, d)`, `(…, m, d)`, `(…, m, dv)` of one precision, flat; `maps` as in `attend`. With
/// directions `omega` (f, d) the map is FAVOR+, else elu + 1 or, with `rectify`, max(x, 0) + eps. `scale` multiplies queries and
/// keys.
#[pyfunction]
#[allow(clippy::too_many_arguments, reason = "operands, layout, feature map, order")]
pub(super) fn linear_attend<'py>(
    py: Python<'py>,
    q: &Bound<'py, PyAny>,
    k: &Bound<'py, PyAny>,
    v: &Bound<'py, PyAny>,
    maps: Option<&Bound<'py, PyTuple>>,
    scale: f64,
    omega: Option<&Bound<'py, PyAny>>,
    rectify: bool,
    eps: f64,
    causal: bool,
) -> PyResult<Bound<'py, PyAny>> {
    if q.cast::<PyArrayDyn<f32>>().is_ok() {
        forward::<f32>(py, [q, k, v], maps, scale, omega, rectify, eps, causal)
    } else {
        forward::<f64>(py, [q, k, v], maps, scale, omega, rectify, eps, causal)
    }
}

#[allow(clippy::too_many_arguments, reason = "the arguments of `linear_attend`")]
fn forward<'py, T: Float>(
    py: Python<'py>,
    qkv: [&Bound<'py, PyAny>; 3],
    maps: Option<&Bound<'py, PyTuple>>,
    scale: f64,
    omega: Option<&Bound<'py, PyAny>>,
    rectify: bool,
    eps: f64,
    causal: bool,
) -> PyResult<Bound<'py, PyAny>> {
    let arrays = Arrays::<T>::new(qkv)?;
    let omega = omega.map(Operand::<T>::new).transpose()?;
    let width = omega.as_ref().map_or(arrays.size()[2], |x| x.axis(1));
    let [n, m, d, dv] = arrays.size();
    let detach = (n + m) * width * (d + dv) >= DETACH_FROM;
    let call = arrays.call(maps, scale, detach)?;
    let omega = omega.as_ref().map(|x| x.take(detach)).transpose()?;
    let eps = T::of(eps);
    let out = run(py, detach, || {
        let heads = call.heads();
        let mut out = vec![T::ZERO; heads.len() * n * dv];
        let features = match &omega {
            Some(omega) => Features::Favor { omega, eps },
            None if rectify => Features::Relu { eps },
            None => Features::Elu,
        };
        Linear {
            heads,
            features,
            causal,
        }
        .run(&mut out);
        out
    });
    Ok(flat(py, out))
}
