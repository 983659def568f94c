//! Binding of `sona_core::plasticity`.

mod btsp;
mod eprop;
mod memory;

use pyo3::prelude::*;

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    btsp::register(m)?;
    memory::register(m)?;
    eprop::register(m)
}
