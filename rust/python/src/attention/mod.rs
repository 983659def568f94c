//! Attention: arrays in, arrays out. `sona.attention` has checked shapes and types and says how heads are lined up.

mod call;
mod dag;
mod experts;
mod graph;
mod hypervector;
mod linear;
mod operands;
mod project;
mod scan;
mod softmax;
mod whole;
mod winners;

pub(crate) use dag::graph_error;

use pyo3::prelude::*;

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<dag::DagGraph>()?;
    m.add_class::<graph::GraphEdges>()?;
    m.add_function(wrap_pyfunction!(softmax::attend, m)?)?;
    m.add_function(wrap_pyfunction!(softmax::attend_plain, m)?)?;
    m.add_function(wrap_pyfunction!(softmax::attend_vjp, m)?)?;
    m.add_function(wrap_pyfunction!(softmax::attention_threads, m)?)?;
    m.add_function(wrap_pyfunction!(softmax::set_attention_threads, m)?)?;
    m.add_function(wrap_pyfunction!(linear::linear_attend, m)?)?;
    m.add_function(wrap_pyfunction!(scan::selective_scan, m)?)?;
    m.add_function(wrap_pyfunction!(scan::selective_scan_vjp, m)?)?;
    m.add_function(wrap_pyfunction!(scan::ssd, m)?)?;
    m.add_function(wrap_pyfunction!(scan::ssd_vjp, m)?)?;
    m.add_function(wrap_pyfunction!(whole::differential_attend, m)?)?;
    m.add_function(wrap_pyfunction!(whole::ball_attend, m)?)?;
    m.add_function(wrap_pyfunction!(project::rows_by_rows, m)?)?;
    m.add_function(wrap_pyfunction!(experts::route_experts, m)?)?;
    m.add_function(wrap_pyfunction!(experts::rows_by_expert, m)?)?;
    m.add_function(wrap_pyfunction!(winners::winners, m)?)?;
    m.add_function(wrap_pyfunction!(hypervector::hdc_pack, m)?)?;
    m.add_function(wrap_pyfunction!(hypervector::hdc_unpack, m)?)?;
    m.add_function(wrap_pyfunction!(hypervector::hdc_permute, m)?)?;
    m.add_function(wrap_pyfunction!(hypervector::hdc_bundle, m)?)?;
    m.add_function(wrap_pyfunction!(hypervector::hdc_similarity, m)?)
}
