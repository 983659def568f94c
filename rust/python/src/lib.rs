//! `sona._core`: conversions, errors and GIL handling around `sona-core`. No logic lives here.

mod arrays;
mod attention;
mod continual;
mod control;
mod dag;
mod dreams;
mod engine;
mod errors;
mod items;
mod kernels;
mod lora;
mod patterns;
mod plasticity;
mod routing;
mod state;
mod store;
mod trajectory;
mod view;

use pyo3::prelude::*;

#[pymodule(gil_used = false)]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    kernels::register(m)?;
    attention::register(m)?;
    trajectory::register(m)?;
    lora::register(m)?;
    patterns::register(m)?;
    continual::register(m)?;
    dreams::register(m)?;
    control::register(m)?;
    plasticity::register(m)?;
    dag::register(m)?;
    routing::register(m)?;
    store::register(m)?;
    engine::register(m)
}
