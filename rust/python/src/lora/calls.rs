//! What the calls of `MicroLoRA` share: a signal's parts, and rows through a snapshot.

use super::PyMicroLora;
use crate::arrays::to_matrix;
use crate::errors::IntoPy;
use crate::view::{Slot, map_into, vector_view, view};
use pyo3::intern;
use pyo3::prelude::*;
use sona_core::error::check_dim;

/// Values up to which a batch runs attached, about 100 µs: copying it so that other threads may run meanwhile would
/// double its cost. Larger batches are copied and run detached.
pub(super) const DETACH_ABOVE: usize = 1 << 20;

/// Runs `f` on the query, the ascent direction and the weight of a `LearningSignal`.
#[inline]
pub(super) fn with_signal<T>(
    signal: &Bound<'_, PyAny>,
    f: impl FnOnce(&[f32], &[f32], f64) -> sona_core::Result<T>,
) -> PyResult<T> {
    let py = signal.py();
    let query = signal.getattr(intern!(py, "query_embedding"))?;
    let gradient = signal.getattr(intern!(py, "gradient_estimate"))?;
    let weight: f64 = signal.getattr(intern!(py, "weight"))?.extract()?;
    let (mut a, mut b) = (Slot::None, Slot::None);
    let query = vector_view("query_embedding", &query, &mut a)?;
    let gradient = vector_view("gradient_estimate", &gradient, &mut b)?;
    f(query, gradient, weight).py()
}

impl PyMicroLora {
    pub(super) fn map<'py>(
        &self,
        py: Python<'py>,
        x: &Bound<'py, PyAny>,
        out: Option<&Bound<'py, PyAny>>,
        delta: bool,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut slot = Slot::None;
        let x = view("x", x, &mut slot)?;
        let factors = self.shared.factors();
        check_dim("x", factors.dim(), x.d).py()?;
        if x.len() <= DETACH_ABOVE {
            return map_into(py, x, out, |x, y| {
                if delta {
                    factors.delta_rows(x, y)
                } else {
                    factors.forward_rows(x, y)
                }
            });
        }
        let (factors, input) = (self.shared.snapshot(), x.as_slice().to_vec());
        let result = py
            .detach(|| {
                let mut y = vec![0.0; input.len()];
                if delta {
                    factors.delta_rows(&input, &mut y)?;
                } else {
                    factors.forward_rows(&input, &mut y)?;
                }
                Ok(y)
            })
            .py()?;
        match out {
            None => Ok(to_matrix(py, result, x.n, x.d)?.into_any()),
            Some(_) => map_into(py, x, out, |_, y| {
                y.copy_from_slice(&result);
                Ok(())
            }),
        }
    }
}
