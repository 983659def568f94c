//! Binding of `sona_core::patterns`.

mod bank;
mod cases;
mod index;
mod index_arrays;
mod kmeans;
mod qlearning;

pub(crate) use bank::{Emitted, emit};

use pyo3::prelude::*;

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    kmeans::register(m)?;
    index::register(m)?;
    bank::register(m)?;
    qlearning::register(m)?;
    cases::register(m)
}
