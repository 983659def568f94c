//! Binding of `sona_core::trajectory`.

mod buffer;
mod request;
mod signal;

use crate::errors::IntoPy;
use crate::view::{Slot, vector_view};
use numpy::npyffi::{_PyArray_GET_ITEM_DATA, NPY_ARRAY_WRITEABLE};
use numpy::{PyArray1, PyUntypedArrayMethods};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use sona_core::error::check_finite;
use sona_core::trajectory::{Trajectory, TrajectoryStep};

/// A read-only float32 copy of a finite vector.
#[pyfunction]
fn frozen_vector<'py>(
    py: Python<'py>,
    name: &str,
    x: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyArray1<f32>>> {
    // The error type carries static names; these are all that the records have.
    let name = match name {
        "query_embedding" => "query_embedding",
        "gradient_estimate" => "gradient_estimate",
        "activations" => "activations",
        "embedding" => "embedding",
        _ => "attention_weights",
    };
    let mut slot = Slot::None;
    let values = vector_view(name, x, &mut slot)?;
    check_finite(name, values).py()?;
    Ok(freeze(PyArray1::from_slice(py, values)))
}

/// A new array made read-only.
fn freeze(new: Bound<'_, PyArray1<f32>>) -> Bound<'_, PyArray1<f32>> {
    // SAFETY: the caller made the array and nobody else has it; clearing the flag is what `setflags(write=False)` does.
    unsafe { (*_PyArray_GET_ITEM_DATA(new.as_array_ptr())).flags &= !NPY_ARRAY_WRITEABLE };
    new
}

fn floats(
    ob: &Bound<'_, PyAny>,
    name: &'static str,
    attr: &Bound<'_, pyo3::types::PyString>,
) -> PyResult<Vec<f32>> {
    let value = ob.getattr(attr)?;
    let mut slot = Slot::None;
    Ok(vector_view(name, &value, &mut slot)?.to_vec())
}

/// A `QueryTrajectory` of the Python side as the core's record, checked.
pub(crate) fn extract(ob: &Bound<'_, PyAny>) -> PyResult<Trajectory> {
    let py = ob.py();
    let mut steps = Vec::new();
    for step in ob.getattr(intern!(py, "steps"))?.try_iter()? {
        let step = step?;
        steps.push(TrajectoryStep {
            activations: floats(&step, "activations", intern!(py, "activations"))?,
            attention_weights: floats(&step, "attention_weights", intern!(py, "attention_weights"))?,
            reward: step.getattr(intern!(py, "reward"))?.extract()?,
            timestamp: step.getattr(intern!(py, "timestamp"))?.extract()?,
        });
    }
    let out = Trajectory {
        id: ob.getattr(intern!(py, "id"))?.extract()?,
        query_embedding: floats(ob, "query_embedding", intern!(py, "query_embedding"))?,
        steps,
        final_quality: ob.getattr(intern!(py, "final_quality"))?.extract()?,
        latency_us: ob.getattr(intern!(py, "latency_us"))?.extract()?,
        scope: ob.getattr(intern!(py, "scope"))?.extract()?,
        source: ob.getattr(intern!(py, "source"))?.extract()?,
    };
    out.validate().py()?;
    Ok(out)
}

/// The Python side's record of `t`.
pub(crate) fn emit<'py>(py: Python<'py>, t: &Trajectory) -> PyResult<Bound<'py, PyAny>> {
    let module = py.import("sona.trajectory")?;
    let step = module.getattr("TrajectoryStep")?;
    let mut steps = Vec::with_capacity(t.steps.len());
    for s in &t.steps {
        steps.push(step.call1((
            PyArray1::from_slice(py, &s.activations),
            PyArray1::from_slice(py, &s.attention_weights),
            s.reward,
            s.timestamp,
        ))?);
    }
    let kwargs = PyDict::new(py);
    kwargs.set_item("latency_us", t.latency_us)?;
    kwargs.set_item("scope", &t.scope)?;
    kwargs.set_item("source", &t.source)?;
    let query = PyArray1::from_slice(py, &t.query_embedding);
    let args = (t.id, query, PyTuple::new(py, steps)?, t.final_quality);
    module.getattr("QueryTrajectory")?.call(args, Some(&kwargs))
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(frozen_vector, m)?)?;
    buffer::register(m)?;
    m.add_class::<request::PackedRequests>()?;
    signal::register(m)
}
