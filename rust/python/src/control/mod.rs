//! Binding of `sona_core::control`.

mod detect;
mod mincut;

use crate::errors::IntoPy;
use numpy::PyReadonlyArray1;
use pyo3::prelude::*;
use sona_core::control;

/// How close a graph is to falling apart.
///
/// clip(max(1 − λ/δ, 1 − λ/λ̄), 0, 1); a zero divisor counts as no tension.
///
/// Parameters
/// ----------
/// lambda_ : float
///     Weight of the minimum cut, λ.
/// min_degree : float
///     Least weight of all edges of one node, δ: no cut is above it.
/// lambda_ewma : float
///     Running mean of λ.
///
/// Returns
/// -------
/// float
///     In [0, 1].
///
/// Examples
/// --------
/// >>> from sona.control import tension
/// >>> tension(2.0, 4.0, 3.0)
/// 0.5
#[pyfunction]
fn tension(lambda_: f64, min_degree: f64, lambda_ewma: f64) -> PyResult<f64> {
    control::tension(lambda_, min_degree, lambda_ewma).py()
}

/// Float64 values of an array-like of one dimension.
fn doubles(x: &Bound<'_, PyAny>, name: &'static str) -> PyResult<Vec<f64>> {
    let numpy = x.py().import("numpy")?;
    let array = numpy.call_method1("asarray", (x, "float64"))?;
    let shape: Vec<usize> = array.getattr("shape")?.extract()?;
    if shape.len() != 1 {
        return Err(sona_core::Error::shape(
            name,
            "one dimension",
            format!("{shape:?}"),
        ))
        .py();
    }
    let array: PyReadonlyArray1<'_, f64> = array.extract()?;
    Ok(array.as_array().to_vec())
}

/// Median absolute deviation from the median, 1.4826 · median |x − median x|.
///
/// Parameters
/// ----------
/// x : (n,) array_like of float
///
/// Returns
/// -------
/// float
///     For a normal sample, about its standard deviation.
///
/// Raises
/// ------
/// NotFiniteError
/// ValueError
///     If there is no number.
///
/// Notes
/// -----
/// O(n log n). Hampel 1974, The influence curve and its role in robust estimation.
///
/// Examples
/// --------
/// >>> from sona.control import mad
/// >>> round(mad([1.0, 2.0, 3.0, 4.0, 100.0]), 4)
/// 1.4826
#[pyfunction]
fn mad(x: &Bound<'_, PyAny>) -> PyResult<f64> {
    control::detect::mad(&doubles(x, "x")?).py()
}

/// Line through a sample that a third of wild points cannot move.
///
/// Parameters
/// ----------
/// t, y : (n,) array_like of float
///
/// Returns
/// -------
/// slope : float
///     Median of the slopes of all pairs with different `t`.
/// intercept : float
///     median(y) − slope · median(t).
///
/// Raises
/// ------
/// DimensionMismatch
///     If the lengths differ.
/// ValueError
///     If no two `t` differ.
///
/// Notes
/// -----
/// O(n² log n). Theil 1950; Sen 1968.
///
/// Examples
/// --------
/// >>> from sona.control import theil_sen
/// >>> theil_sen([0.0, 1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 5.0, 7.0, 90.0])
/// (2.0, 1.0)
#[pyfunction]
fn theil_sen(t: &Bound<'_, PyAny>, y: &Bound<'_, PyAny>) -> PyResult<(f64, f64)> {
    control::detect::theil_sen(&doubles(t, "t")?, &doubles(y, "y")?).py()
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(tension, m)?)?;
    m.add_function(wrap_pyfunction!(mad, m)?)?;
    m.add_function(wrap_pyfunction!(theil_sen, m)?)?;
    mincut::register(m)?;
    detect::register(m)
}
