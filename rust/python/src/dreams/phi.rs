//! Binding of Φ, the proxy and stochastic interaction.

use crate::arrays::{detached, matrix};
use crate::errors::to_py;
use numpy::{PyArray2, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use sona_core::{Error, dreams};

/// A table in double precision: probabilities as they are, not rounded to single.
fn table<'py>(name: &'static str, x: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyArray2<f64>>> {
    let py = x.py();
    let kwargs = PyDict::new(py);
    kwargs.set_item("dtype", "float64")?;
    let a = py
        .import("numpy")?
        .call_method("ascontiguousarray", (x,), Some(&kwargs))?;
    a.cast_into::<PyArray2<f64>>()
        .map_err(|_| to_py(Error::shape(name, "two axes", "another number")))
}

/// Φ and the concepts of a system of binary nodes: ``(phi, [((node, …), phi), …])``.
#[pyfunction]
#[pyo3(signature = (tpm, state, cm, max_nodes))]
#[allow(clippy::type_complexity, reason = "a pair that Python names")]
fn phi_exact<'py>(
    py: Python<'py>,
    tpm: &Bound<'py, PyAny>,
    state: Vec<bool>,
    cm: Option<Vec<bool>>,
    max_nodes: usize,
) -> PyResult<(f64, Vec<(Bound<'py, PyTuple>, f64)>)> {
    let tpm = table("tpm", tpm)?;
    let n = tpm.shape()[1];
    let values = tpm.to_vec()?;
    if n < 64 && n <= max_nodes && tpm.shape()[0] != 1 << n {
        return Err(to_py(Error::shape(
            "tpm",
            format!("({}, {n})", 1u64 << n),
            format!("{:?}", tpm.shape()),
        )));
    }
    let result = detached(py, || dreams::phi(&values, n, &state, cm.as_deref(), max_nodes))?;
    let concept = |(nodes, phi): &(Vec<usize>, f64)| Ok((PyTuple::new(py, nodes)?, *phi));
    let concepts: PyResult<_> = result.concepts.iter().map(concept).collect();
    Ok((result.phi, concepts?))
}

/// Φ̂ of a weighted graph.
#[pyfunction]
#[pyo3(signature = (weights, restart))]
fn graph_integration(py: Python<'_>, weights: &Bound<'_, PyAny>, restart: f64) -> PyResult<f64> {
    let (w, n, m) = matrix("W", weights, None)?;
    detached(py, || dreams::integration(&w, n, m, restart))
}

/// What the parts of a linear process share that none of them has alone, in nats.
///
/// Parameters
/// ----------
/// A : (n, n) array
///     x' = A x + noise; its powers must vanish.
/// Q : (n, n) array
///     Covariance of the noise, positive definite.
/// parts : list of lists of int
///     Each node in exactly one.
///
/// Returns
/// -------
/// float
///     ½ [Σ_k ln det Q_k - ln det Q] with Q_k the covariance of part k given its own past, in the stationary state.
///
/// Raises
/// ------
/// ValueError
///     A process that grows, noise that is not positive definite, parts that are no partition.
///
/// Notes
/// -----
/// O(n³).
///
/// References
/// ----------
/// Ay (2015), Information geometry on complexity and stochastic interaction.
///
/// Examples
/// --------
/// >>> from sona.dreams import stochastic_interaction
/// >>> round(stochastic_interaction([[0.0, 0.5], [0.5, 0.0]], [[1, 0], [0, 1]], [[0], [1]]), 4)
/// 0.2877
#[pyfunction]
#[pyo3(signature = (A, Q, parts))]
#[allow(non_snake_case, reason = "the field's names for the matrices")]
fn stochastic_interaction(
    py: Python<'_>,
    A: &Bound<'_, PyAny>,
    Q: &Bound<'_, PyAny>,
    parts: Vec<Vec<usize>>,
) -> PyResult<f64> {
    let (a, n, m) = matrix("A", A, None)?;
    let (q, k, l) = matrix("Q", Q, None)?;
    for (name, shape) in [("A", (n, m)), ("Q", (k, l))] {
        if shape != (n, n) {
            let wanted = format!("({n}, {n})");
            return Err(to_py(Error::shape(name, wanted, format!("{shape:?}"))));
        }
    }
    detached(py, || dreams::stochastic_interaction(&a, &q, n, &parts))
}

/// Earth mover's distance between two vectors of mass under a cost matrix, exactly.
///
/// Parameters
/// ----------
/// p : sequence of float
///     n masses of at least 0.
/// q : sequence of float
///     m masses with the same sum.
/// cost : (n, m) array
///     Costs of at least 0.
///
/// Returns
/// -------
/// float
///
/// Raises
/// ------
/// ShapeError, ValueError
///
/// Notes
/// -----
/// Successive shortest paths, O((n + m)³); meant for a few dozen points.
///
/// Examples
/// --------
/// >>> from sona.dreams import earth_movers_distance
/// >>> earth_movers_distance([1.0, 0.0], [0.25, 0.75], [[0, 1], [1, 0]])
/// 0.75
#[pyfunction]
#[pyo3(signature = (p, q, cost))]
fn earth_movers_distance(py: Python<'_>, p: Vec<f64>, q: Vec<f64>, cost: &Bound<'_, PyAny>) -> PyResult<f64> {
    let cost = table("cost", cost)?;
    if cost.shape() != [p.len(), q.len()] {
        return Err(to_py(Error::shape(
            "cost",
            format!("({}, {})", p.len(), q.len()),
            format!("{:?}", cost.shape()),
        )));
    }
    let cost = cost.to_vec()?;
    detached(py, || dreams::earth_movers_distance(&p, &q, &cost))
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(phi_exact, m)?)?;
    m.add_function(wrap_pyfunction!(graph_integration, m)?)?;
    m.add_function(wrap_pyfunction!(stochastic_interaction, m)?)?;
    m.add_function(wrap_pyfunction!(earth_movers_distance, m)?)
}
