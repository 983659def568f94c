//! Dreams and their settings between Rust and Python.

use crate::arrays::whole;
use crate::errors::IntoPy;
use numpy::PyArray1;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use sona_core::dreams::{Dream, DreamConfig, DreamEngine, Node};

pub(super) fn config_of(ob: &Bound<'_, PyAny>) -> PyResult<DreamConfig> {
    let py = ob.py();
    Ok(DreamConfig {
        path_length: whole("path_length", ob.getattr(intern!(py, "path_length"))?.extract()?)?,
        creative_jump_prob: ob.getattr(intern!(py, "creative_jump_prob"))?.extract()?,
        restart_prob: ob.getattr(intern!(py, "restart_prob"))?.extract()?,
        novelty_weight: ob.getattr(intern!(py, "novelty_weight"))?.extract()?,
        coherence_weight: ob.getattr(intern!(py, "coherence_weight"))?.extract()?,
        utility_weight: ob.getattr(intern!(py, "utility_weight"))?.extract()?,
        jump_temperature: ob.getattr(intern!(py, "jump_temperature"))?.extract()?,
        probation: whole("probation", ob.getattr(intern!(py, "probation"))?.extract()?)?,
    })
}

/// What a dream's path holds, copied so that the Python objects are made without the lock.
pub(super) struct Stop {
    pub(super) node: Node,
    pub(super) embedding: Vec<f32>,
}

pub(super) fn told(engine: &DreamEngine, dream: &Dream) -> Vec<Stop> {
    let graph = engine.graph();
    let stop = |at: &usize| Stop {
        node: *graph.node(*at),
        embedding: graph.embedding(*at).to_vec(),
    };
    dream.path.iter().map(stop).collect()
}

pub(super) fn emit_dream<'py>(py: Python<'py>, dream: &Dream, stops: &[Stop]) -> PyResult<Bound<'py, PyAny>> {
    let module = py.import(intern!(py, "sona.dreams"))?;
    let make = module.getattr(intern!(py, "_memory_node"))?;
    // A memory that comes twice is one object.
    let mut path: Vec<Bound<'py, PyAny>> = Vec::with_capacity(stops.len());
    for (i, stop) in stops.iter().enumerate() {
        let seen = dream.path[..i].iter().position(|at| *at == dream.path[i]);
        path.push(match seen {
            Some(at) => path[at].clone(),
            None => make.call1((
                stop.node.id,
                PyArray1::from_slice(py, &stop.embedding),
                stop.node.timestamp,
                stop.node.access_count,
                stop.node.importance,
            ))?,
        });
    }
    let s = dream.score;
    module.getattr(intern!(py, "Dream"))?.call1((
        dream.id,
        PyTuple::new(py, path)?,
        dream.creative_jumps,
        s.novelty,
        s.coherence,
        s.utility,
        s.total,
    ))
}

pub(super) fn path_ids(dream: &Bound<'_, PyAny>) -> PyResult<Vec<i64>> {
    let py = dream.py();
    dream
        .getattr(intern!(py, "path"))?
        .try_iter()?
        .map(|node| node?.getattr(intern!(py, "id"))?.extract())
        .collect()
}

/// Raises for a setting out of range.
#[pyfunction]
fn check_dream_config(config: &Bound<'_, PyAny>) -> PyResult<()> {
    config_of(config)?.check().py()
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(check_dream_config, m)?)
}
