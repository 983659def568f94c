//! The calls of the hot path: adapt and rank.

use super::PyEngine;
use super::decision::PyDecision;
use super::ids::Ids;
use crate::arrays::{Rows, asarray, detached, matrix, vector};
use crate::errors::{IntoPy, to_py};
use numpy::{PyArrayMethods, PyUntypedArrayMethods};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString};
use sona_core::Error;
use sona_core::engine::Request;

impl PyEngine {
    /// One vector; text goes through the embedder.
    pub(super) fn query(&self, name: &'static str, x: &Bound<'_, PyAny>) -> PyResult<Vec<f32>> {
        let dim = self.engine.config().dim;
        if x.is_instance_of::<PyString>() {
            let py = x.py();
            let Some(embedder) = &self.embedder else {
                return Err(to_py(Error::value(
                    name,
                    "a vector (this engine has no embedder)",
                    "text",
                )));
            };
            let rows = embedder
                .bind(py)
                .call_method1("embed", (PyList::new(py, [x])?,))?;
            let (row, n, _) = matrix("embedding", &rows, Some(dim))?;
            if n != 1 {
                return Err(to_py(Error::shape(
                    "embedding",
                    format!("(1, {dim})"),
                    format!("({n}, {dim})"),
                )));
            }
            return Ok(row);
        }
        vector(name, x, Some(dim))
    }

    pub(super) fn adapted<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        scope: &str,
        out: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let dim = self.engine.config().dim;
        let rows = if x.is_instance_of::<PyString>() {
            Rows {
                data: self.query("x", x)?,
                n: 1,
                batched: false,
            }
        } else {
            Rows::extract("x", x, dim)?
        };
        let mut y = vec![0.0f32; rows.data.len()];
        let known = self
            .engine
            .scope(scope)
            .is_some_and(|s| !s.live.load().is_identity());
        if known {
            let engine = &self.engine;
            detached(py, || engine.adapt(scope, &rows.data, &mut y))?;
        } else {
            self.engine.adapt(scope, &rows.data, &mut y).py()?;
        }
        let Some(out) = out else {
            return Rows::emit(py, y, dim, rows.batched);
        };
        let array = out
            .cast::<numpy::PyArrayDyn<f32>>()
            .map_err(|_| PyTypeError::new_err("out: expected a float32 array"))?;
        let want: &[usize] = if rows.batched { &[rows.n, dim] } else { &[dim] };
        if array.shape() != want || !array.is_c_contiguous() {
            let got = format!("{:?}", array.shape());
            return Err(to_py(Error::shape("out", format!("C-contiguous {want:?}"), got)));
        }
        array.try_readwrite()?.as_slice_mut()?.copy_from_slice(&y);
        Ok(out)
    }

    #[allow(clippy::too_many_arguments, reason = "the public method's")]
    pub(super) fn ranked(
        &self,
        py: Python<'_>,
        query: &Bound<'_, PyAny>,
        ids: &Bound<'_, PyAny>,
        vectors: Option<&Bound<'_, PyAny>>,
        scores: Option<&Bound<'_, PyAny>>,
        scope: &str,
        k: usize,
        user: &str,
        now: f64,
    ) -> PyResult<PyDecision> {
        let query = self.query("query", query)?;
        let ids = Ids::extract(ids)?;
        let refs = ids.refs()?;
        let vectors = match vectors {
            None => None,
            Some(v) => {
                let a = asarray("vectors", v)?;
                let (n, d) = (ids.len(), self.engine.config().dim);
                if a.shape() != [n, d] {
                    return Err(to_py(match *a.shape() {
                        [rows, got] if rows == n => Error::Dimension {
                            name: "vectors",
                            expected: d,
                            got,
                        },
                        _ => Error::shape("vectors", format!("({n}, {d})"), format!("{:?}", a.shape())),
                    }));
                }
                Some(a.to_vec()?)
            }
        };
        let scores = scores.map(|s| vector("scores", s, Some(ids.len()))).transpose()?;
        let request = Request {
            scope,
            query: &query,
            ids: &refs,
            vectors: vectors.as_deref(),
            scores: scores.as_deref(),
            k,
            user,
            now,
        };
        let engine = &self.engine;
        let d = detached(py, || engine.rank(&request))?;
        let shown = d.order.iter().map(|&p| ids.object(p as usize));
        Ok(PyDecision {
            id: d.id.map(|id| id.to_string()),
            ids: PyList::new(py, shown)?.unbind(),
            scores: d.scores,
            base_scores: d.base_scores,
            propensities: d.propensities,
            version: d.version,
            acted: d.acted,
            scope: scope.to_owned(),
        })
    }
}
