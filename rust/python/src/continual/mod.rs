//! Binding of `sona_core::continual`.

mod boundary;
mod config;
mod ewc;
mod items;
mod replay;

use pyo3::prelude::*;

/// Vectors longer than this are copied and worked on without the GIL (about 50 µs of work).
const DETACH_ABOVE: usize = 1 << 18;

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    config::register(m)?;
    ewc::register(m)?;
    boundary::register(m)?;
    replay::register(m)
}
