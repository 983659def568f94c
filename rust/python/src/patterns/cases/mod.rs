//! Binding of `sona_core::patterns::cases`.

mod arguments;
mod gate;
mod memory;
mod published;

use pyo3::prelude::*;

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<memory::CaseMemory>()?;
    m.add_class::<gate::ItemGate>()
}
