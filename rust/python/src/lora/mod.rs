//! Binding of `sona_core::lora`.

mod aware;
mod base;
mod calls;
mod layers;
mod micro;
mod optim;
mod peft;
mod pool;
mod quant;
mod quantized;
mod report;

pub(crate) use micro::PyMicroLora;

use crate::errors::to_py;
use pyo3::prelude::*;
use sona_core::Error;

/// A size from Python: negative ones are a configuration error like any other.
pub(crate) fn size(name: &'static str, value: i64) -> PyResult<usize> {
    usize::try_from(value).map_err(|_| to_py(Error::config(name, "at least 1", value)))
}

/// A seed from Python.
pub(crate) fn seed(value: i128) -> PyResult<u64> {
    u64::try_from(value).map_err(|_| to_py(Error::config("seed", "0 to 2**64 - 1", value)))
}

pub(crate) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    report::register(m)?;
    micro::register(m)?;
    base::register(m)?;
    optim::register(m)?;
    pool::register(m)?;
    quantized::register(m)?;
    aware::register(m)?;
    quant::register(m)?;
    peft::register(m)
}
