//! `EwcConfig`.

use crate::errors::IntoPy;
use crate::lora::size;
use pyo3::prelude::*;
use sona_core::continual::EwcConfig;

/// Fields of `sona.continual.EwcConfig`.
#[derive(FromPyObject)]
pub(super) struct Settings {
    param_count: i64,
    max_tasks: i64,
    initial_lambda: f64,
    fisher_ema_decay: f64,
    boundary_threshold: f64,
    min_lambda: f64,
    max_lambda: f64,
    normalize_fisher: bool,
}

impl Settings {
    pub(super) fn core(&self) -> PyResult<EwcConfig> {
        Ok(EwcConfig {
            param_count: size("param_count", self.param_count)?,
            max_tasks: size("max_tasks", self.max_tasks)?,
            initial_lambda: self.initial_lambda,
            fisher_ema_decay: self.fisher_ema_decay,
            boundary_threshold: self.boundary_threshold,
            min_lambda: self.min_lambda,
            max_lambda: self.max_lambda,
            normalize_fisher: self.normalize_fisher,
        })
    }
}

/// Checks the fields of a configuration.
#[pyfunction]
#[allow(clippy::needless_pass_by_value, reason = "extracted from a Python object")]
fn check_ewc_config(config: Settings) -> PyResult<()> {
    config.core()?.validate().py()
}

pub(super) fn register(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_function(wrap_pyfunction!(check_ewc_config, m)?)
}
