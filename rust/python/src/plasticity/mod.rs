//! Binding of `sona_core::plasticity`.

mod btsp;
mod eprop;

use pyo3::prelude::*;

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    btsp::register(m)?;
    eprop::register(m)
}
