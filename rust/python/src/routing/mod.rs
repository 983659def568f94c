//! Binding of `sona_core::routing`.

mod cells;
mod pacer;
mod predictors;
mod router;

use pyo3::prelude::*;

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    cells::register(m)?;
    pacer::register(m)?;
    predictors::register(m)?;
    router::register(m)
}
