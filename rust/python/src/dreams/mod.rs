//! Binding of `sona_core::dreams`.

mod consolidate;
mod dream;
mod edges;
mod engine;
mod phi;

use crate::arrays;
use crate::errors::IntoPy;
use pyo3::intern;
use pyo3::prelude::*;
use sona_core::dreams::Node;

/// A `MemoryNode` of the Python side: what is known of it, and its embedding.
fn extract_node(ob: &Bound<'_, PyAny>) -> PyResult<(Node, Vec<f32>)> {
    let py = ob.py();
    let node = Node {
        id: ob.getattr(intern!(py, "id"))?.extract()?,
        timestamp: ob.getattr(intern!(py, "timestamp"))?.extract()?,
        access_count: ob.getattr(intern!(py, "access_count"))?.extract()?,
        importance: ob.getattr(intern!(py, "importance"))?.extract()?,
    };
    node.check().py()?;
    let embedding = arrays::vector("embedding", &ob.getattr(intern!(py, "embedding"))?, None)?;
    Ok((node, embedding))
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    edges::register(m)?;
    dream::register(m)?;
    engine::register(m)?;
    phi::register(m)?;
    consolidate::register(m)
}
