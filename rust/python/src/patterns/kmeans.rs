//! Binding of `sona_core::patterns::kmeans`.

use crate::arrays::{copied_matrix, detached, matrix, to_matrix, vector, whole};
use crate::errors::to_py;
use numpy::PyArray1;
use pyo3::prelude::*;
use sona_core::Error;
use sona_core::kernels::Team;
use sona_core::patterns::kmeans::{self as core, Algorithm, Init, Metric, Params};

/// Centroids, labels, inertia, iterations, converged.
type Clustering<'py> = (
    Bound<'py, numpy::PyArray2<f32>>,
    Bound<'py, PyArray1<i64>>,
    f64,
    usize,
    bool,
);

fn count(name: &'static str, value: i64) -> PyResult<usize> {
    usize::try_from(value).map_err(|_| to_py(Error::value(name, "a number >= 0", value)))
}

fn weights_of(weights: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Vec<f32>>> {
    weights.map(|w| vector("weights", w, None)).transpose()
}

/// k-means of the rows of `x`; `sona.patterns.kmeans` documents it.
#[pyfunction]
#[pyo3(signature = (x, k, *, init, weights, max_iterations, tol, metric, algorithm, seed, n_threads))]
#[allow(
    clippy::too_many_arguments,
    reason = "one argument per keyword of the public function"
)]
fn kmeans<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    k: i64,
    init: &Bound<'py, PyAny>,
    weights: Option<&Bound<'py, PyAny>>,
    max_iterations: i64,
    tol: f64,
    metric: &str,
    algorithm: &str,
    seed: i128,
    n_threads: i64,
) -> PyResult<Clustering<'py>> {
    let seed: u64 = whole("seed", seed)?;
    let n_threads = count("n_threads", n_threads)?;
    let team = Team::new(n_threads);
    let (rows, d) = copied_matrix("X", x, &team)?;
    let weights = weights_of(weights)?;
    let start = match init.extract::<String>() {
        Ok(name) if name == "k-means++" => None,
        Ok(name) => {
            return Err(to_py(Error::value(
                "init",
                "\"k-means++\" or an array (k, d)",
                format!("{name:?}"),
            )));
        }
        Err(_) => Some(matrix("init", init, Some(d))?.0),
    };
    let metric = match metric {
        "euclidean" => Metric::Euclidean,
        "cosine" => Metric::Cosine,
        other => {
            return Err(to_py(Error::value(
                "metric",
                "\"euclidean\" or \"cosine\"",
                other,
            )));
        }
    };
    let algorithm = match algorithm {
        "auto" => Algorithm::Auto,
        "lloyd" => Algorithm::Lloyd,
        "hamerly" => Algorithm::Hamerly,
        "minibatch" => Algorithm::Minibatch,
        other => {
            let known = "\"auto\", \"lloyd\", \"hamerly\" or \"minibatch\"";
            return Err(to_py(Error::value("algorithm", known, other)));
        }
    };
    let k = count("k", k)?;
    let max_iterations = count("max_iterations", max_iterations)?;
    let got = detached(py, || {
        let params = Params {
            k,
            init: start.as_deref().map_or(Init::PlusPlus, Init::Given),
            weights: weights.as_deref(),
            max_iterations,
            tol: tol as f32,
            metric,
            algorithm,
            seed,
            n_threads,
        };
        core::kmeans_by(&team, &rows, d, &params)
    })?;
    let labels: Vec<i64> = got.labels.iter().map(|l| i64::from(*l)).collect();
    let found = got.centroids.len() / d;
    Ok((
        to_matrix(py, got.centroids, found, d)?,
        PyArray1::from_vec(py, labels),
        got.inertia,
        got.iterations,
        got.converged,
    ))
}

/// Indices drawn by D² seeding; `sona.patterns.kmeans_plus_plus` documents it.
#[pyfunction]
#[pyo3(signature = (x, k, *, weights, seed))]
fn kmeans_plus_plus<'py>(
    py: Python<'py>,
    x: &Bound<'py, PyAny>,
    k: i64,
    weights: Option<&Bound<'py, PyAny>>,
    seed: i128,
) -> PyResult<Bound<'py, PyArray1<i64>>> {
    let seed: u64 = whole("seed", seed)?;
    let (rows, _, d) = matrix("X", x, None)?;
    let weights = weights_of(weights)?;
    let k = count("k", k)?;
    let picked = detached(py, || {
        core::kmeans_plus_plus(&rows, d, k, weights.as_deref(), seed)
    })?;
    Ok(PyArray1::from_vec(
        py,
        picked.into_iter().map(|i| i as i64).collect(),
    ))
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(kmeans, m)?)?;
    m.add_function(wrap_pyfunction!(kmeans_plus_plus, m)?)
}
