//! Attention: arrays in, arrays out. `sona.attention` has checked shapes and types and says how heads are lined up.

mod operands;
mod softmax;

use pyo3::prelude::*;

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(softmax::attend, m)?)?;
    m.add_function(wrap_pyfunction!(softmax::attend_vjp, m)?)?;
    m.add_function(wrap_pyfunction!(softmax::attention_threads, m)?)?;
    m.add_function(wrap_pyfunction!(softmax::set_attention_threads, m)?)
}
